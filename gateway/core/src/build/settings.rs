//! The settings that routes depend on.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_config::names::ClusterName;
use fairway_config::net::Protocol;
use fairway_config::port_limits::LimitsInForce;
use fairway_config::service::{ForwardTo, ServicePort};

/// The settings that routes depend on. They do not change while the gateway runs.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// The gateway's name, in notices.
    pub gateway: ClusterName,
    /// The Node it runs on, if it runs on one.
    pub node_name: Option<ClusterName>,
    /// The zone it is in, where its Node does not say so.
    pub zone: Option<Arc<str>>,
    /// Where traffic is sent, unless a Service says otherwise.
    pub forward_to: ForwardTo,
    /// Whether every EndpointSlice that there is is among the objects, as in a cluster: a Service
    /// without one has no endpoints. In a directory of manifests they may have been left out.
    pub slices_are_known: bool,
    /// Lets loopback and the host's own addresses be dialled, the gateway's own listeners excepted.
    pub allow_loopback: bool,
    /// The one TCP port at which endpoints may be on the host itself: that of the API server, on a control-plane node.
    pub host_endpoint_port: Option<u16>,
    /// What the process listens on for itself (admin, metrics): never dialled. The unspecified
    /// address stands for all of the host's.
    pub admin: Vec<SocketAddr>,
    /// Whether node ports are served, and health check ports with them.
    pub serve_node_ports: ServeNodePorts,
    /// Where node ports are served. None: on every address of the host but
    /// - those of pools and those that a Service holds: they may belong to another Service;
    /// - IPv6 link-local ones, which mean nothing without an interface, and multicast;
    /// - loopback ones other than `127.0.0.1` and `::1`. These two are served, as kube-proxy's
    ///   iptables mode does: `curl localhost:30080` is what people try first.
    ///
    /// The first rule holds for listed ones as well.
    pub node_addresses: Option<Vec<IpAddr>>,
    /// What holds for each TCP port whose Service does not say otherwise.
    pub tcp_limits: LimitsInForce,
    /// The same for each UDP port.
    pub udp_limits: LimitsInForce,
}

impl RouteSettings {
    /// Whether anything of the host itself may be dialled.
    pub(super) fn may_dial_host(&self) -> bool {
        self.allow_loopback || self.host_endpoint_port.is_some()
    }

    /// The defaults for a gateway of that name, which runs on no Node.
    pub fn new(gateway: ClusterName) -> Self {
        Self {
            gateway,
            node_name: None,
            zone: None,
            forward_to: ForwardTo::Endpoints,
            slices_are_known: false,
            allow_loopback: false,
            host_endpoint_port: None,
            admin: Vec::new(),
            serve_node_ports: ServeNodePorts::Always,
            node_addresses: None,
            tcp_limits: LimitsInForce::default(),
            udp_limits: LimitsInForce::default(),
        }
    }

    /// The limits that hold for a port. The idle time of connections and that of flows have nothing in common, and a
    /// rate is one of connections alone.
    pub(super) fn limits(&self, port: &ServicePort) -> LimitsInForce {
        let default = match port.protocol {
            Protocol::Udp => &self.udp_limits,
            Protocol::Tcp | Protocol::Sctp => &self.tcp_limits,
        };
        let said = &port.options.limits;
        LimitsInForce {
            per_client: said.per_client.or(default.per_client),
            rate: said.rate.or(default.rate),
            flows: said.flows.or(default.flows),
            idle: said.idle.or(default.idle),
        }
    }
}

/// Whether a gateway serves node ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServeNodePorts {
    /// It does.
    Always,
    /// Unless it runs on a Node: there the nodes' own proxy (kube-proxy or what stands in for it)
    /// captures them before a socket sees anything.
    UnlessNode,
    /// It does not.
    Never,
}
