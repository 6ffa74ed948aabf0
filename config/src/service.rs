//! A Service as its author declared it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::names::{ClusterName, ServiceName};
use crate::net::{IpFamily, Protocol};
use crate::port_limits::PortLimits;
use crate::port_options::PortOptions;
use crate::time::Timestamp;

/// A v1 Service: what is asked for. What was granted is in [`crate::exchange::Held`].
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// `metadata.uid`.
    pub uid: Option<Arc<str>>,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.loadBalancerClass`.
    pub class: Option<Arc<str>>,
    /// `spec.clusterIPs`; empty for a headless Service and where none is given.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.clusterIP: None`.
    pub headless: bool,
    /// `spec.externalName`, for ExternalName only.
    pub external_name: Option<Arc<str>>,
    /// `spec.selector` is there and not empty.
    pub has_selector: bool,
    /// `spec.ports`, in order; each (protocol, port) stands once.
    pub ports: Vec<ServicePort>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: ExternalTrafficPolicy,
    /// `spec.trafficDistribution`.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// `spec.sessionAffinity: ClientIP` and how long a client is kept.
    pub client_ip_affinity: Option<Duration>,
    /// `spec.loadBalancerSourceRanges`; empty lets everyone in.
    pub source_ranges: Vec<IpNet>,
    /// `spec.ipFamilies`; empty where the author left it open.
    pub ip_families: Vec<IpFamily>,
    /// `spec.ipFamilyPolicy`.
    pub ip_family_policy: IpFamilyPolicy,
    /// `spec.allocateLoadBalancerNodePorts`; true where not said.
    pub allocate_node_ports: bool,
    /// `spec.healthCheckNodePort`, where asked for.
    pub health_check_node_port: Option<u16>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready_addresses: bool,
    /// `spec.externalIPs`: never honoured (CVE-2020-8554), kept to say so.
    pub external_ips: Vec<String>,
    /// The addresses in `status.loadBalancer.ingress`: what the author's copy says it holds.
    pub status_addresses: Vec<IpAddr>,
    /// What the annotations (and `spec.loadBalancerIP`) ask for.
    pub asks: Asks,
    /// What is well-formed and wrong; each ends in a condition.
    pub notices: Vec<Notice>,
}

impl Service {
    /// A Service of this type with a selector that says nothing else: it has what an API server fills
    /// in (pkg/apis/core/v1/defaults.go).
    pub fn new(name: ServiceName, kind: ServiceType, ports: Vec<ServicePort>) -> Self {
        Self {
            name,
            uid: None,
            created: None,
            deleting: false,
            labels: BTreeMap::new(),
            kind,
            class: None,
            cluster_ips: Vec::new(),
            headless: false,
            external_name: None,
            has_selector: true,
            ports,
            external_traffic_policy: ExternalTrafficPolicy::Cluster,
            traffic_distribution: None,
            client_ip_affinity: None,
            source_ranges: Vec::new(),
            ip_families: Vec::new(),
            ip_family_policy: IpFamilyPolicy::SingleStack,
            allocate_node_ports: true,
            health_check_node_port: None,
            publish_not_ready_addresses: false,
            external_ips: Vec::new(),
            status_addresses: Vec::new(),
            asks: Asks::default(),
            notices: Vec::new(),
        }
    }

    /// What it says that only gateways do, and kube-proxy does not: it has no effect at an address of a pool with
    /// `forwarding: Node`.
    pub fn gateway_features(&self) -> Vec<&'static str> {
        let asks = &self.asks;
        let is_http = self
            .ports
            .iter()
            .any(|port| port.app != AppProtocol::Opaque);
        let says = |what: fn(&PortOptions) -> bool| self.ports.iter().any(|it| what(&it.options));
        let is_checked = says(|it| it.health_check.is_some());
        [
            (is_http, "appProtocol (balancing by request)"),
            (
                !asks.deny_source_ranges.is_empty() || says(|it| !it.deny_source_ranges.is_empty()),
                crate::annotations::DENY_SOURCE_RANGES,
            ),
            (asks.forward_to.is_some(), crate::annotations::FORWARD_TO),
            (is_checked, crate::annotations::HEALTH_CHECK),
            (
                self.ports.iter().any(|port| port.options.balance.is_some()),
                crate::annotations::BALANCE,
            ),
            (
                asks.external_name.is_some(),
                crate::annotations::EXTERNAL_NAME,
            ),
            (
                says(|it| it.proxy_protocol.is_some()),
                crate::annotations::PROXY_PROTOCOL,
            ),
            (
                says(|it| !it.accept_proxy_protocol.is_empty()),
                crate::annotations::ACCEPT_PROXY_PROTOCOL,
            ),
            (
                says(|it| it.limits != PortLimits::default()),
                "limits (fairway.dev/connections-per-client and others)",
            ),
        ]
        .into_iter()
        .filter_map(|(is_said, name)| is_said.then_some(name))
        .collect()
    }

    /// The node ports that its ports name.
    pub fn node_ports(&self) -> BTreeMap<PortKey, u16> {
        let ports = self.ports.iter();
        ports
            .filter_map(|port| Some((port.key(), port.node_port?)))
            .collect()
    }

    /// Whether gateways do the same for both forms of a Service: they differ at most in labels, in
    /// what is said to people, and in what only the controller looks at.
    pub fn is_served_alike(&self, other: &Self) -> bool {
        let essence = |service: &Self| Self {
            labels: BTreeMap::new(),
            status_addresses: Vec::new(),
            external_ips: Vec::new(),
            notices: Vec::new(),
            ..service.clone()
        };
        std::ptr::eq(self, other) || self == other || essence(self) == essence(other)
    }
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reached inside a cluster only; the default.
    ClusterIP,
    /// Also on a port of every node.
    NodePort,
    /// Also on an external address.
    LoadBalancer,
    /// A DNS name; carries no traffic.
    ExternalName,
}

impl ServiceType {
    /// Kubernetes' spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        }
    }
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// `name`; may be missing where there is one port.
    pub name: Option<Arc<str>>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`, 1–65535.
    pub port: u16,
    /// `targetPort`; `port` where not given.
    pub target: TargetPort,
    /// `nodePort`, where asked for. Not checked against the range: that is the controller's.
    pub node_port: Option<u16>,
    /// `appProtocol`, as far as it changes anything.
    pub app: AppProtocol,
    /// What the Service's annotations say of it.
    pub options: PortOptions,
}

impl ServicePort {
    /// A port without a name that leads to the same port of its endpoints.
    pub fn new(protocol: Protocol, port: u16) -> Self {
        Self {
            name: None,
            protocol,
            port,
            target: TargetPort::Number(port),
            node_port: None,
            app: AppProtocol::Opaque,
            options: PortOptions::default(),
        }
    }

    /// What tells this port from the others of its Service.
    pub fn key(&self) -> PortKey {
        PortKey {
            protocol: self.protocol,
            port: self.port,
        }
    }
}

/// What tells the ports of a Service apart, as Kubernetes does: (protocol, port).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortKey {
    /// The protocol.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
}

impl std::fmt::Display for PortKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// `targetPort`: a number, or the name of a port of the endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A port number.
    Number(u16),
    /// A name that EndpointSlices resolve.
    Name(Arc<str>),
}

/// The protocol above the transport, from `appProtocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AppProtocol {
    /// Not said, or nothing that Fairway treats apart: bytes are never looked at.
    Opaque,
    /// `http`, and `kubernetes.io/ws`: HTTP/1.1 to the endpoint, upgrades included.
    Http,
    /// `kubernetes.io/h2c` and `grpc`: HTTP/2 with prior knowledge to the endpoint.
    H2c,
}

/// `spec.externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ExternalTrafficPolicy {
    /// Every endpoint.
    Cluster,
    /// Endpoints of the node that took the traffic.
    Local,
}

/// `spec.trafficDistribution` (KEP-4444, KEP-3015): which endpoints are preferred while there are any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficDistribution {
    /// Those in the zone of whoever sends: `PreferSameZone`, and `PreferClose`, which is its older name.
    PreferSameZone,
    /// Those on its node, else those in its zone.
    PreferSameNode,
}

/// `spec.ipFamilyPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamilyPolicy {
    /// One family; the default.
    SingleStack,
    /// Two where two can be had.
    PreferDualStack,
    /// Two, or none.
    RequireDualStack,
}

/// Where a gateway sends a Service's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardTo {
    /// Straight to the endpoints.
    Endpoints,
    /// To the node ports on the nodes' InternalIPs.
    NodePorts,
}

/// What a Service asks for beyond its spec, all dialects merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// Requested addresses, at most one of a family.
    pub addresses: Vec<IpAddr>,
    /// Requested pool.
    pub pool: Option<ClusterName>,
    /// Sharing key: Services with the same key may share an address on disjoint ports.
    pub sharing_key: Option<Arc<str>>,
    /// Namespaces whose Services may share; the own one always may.
    pub sharing_namespaces: SharingNamespaces,
    /// `fairway.dev/forward-to`.
    pub forward_to: Option<ForwardTo>,
    /// `fairway.dev/external-name`: a DNS name that stands in for endpoints.
    pub external_name: Option<Arc<str>>,
    /// `kube-vip.io/loadbalancerHostname`: a hostname for the status.
    pub hostname: Option<Arc<str>>,
    /// `kube-vip.io/ignore`: this Service is not to be touched.
    pub ignore: bool,
    /// The class of another controller that has taken this Service. The store sets it; see
    /// [`annotations::CONTROLLER`](crate::annotations::CONTROLLER).
    pub other_controller: Option<Arc<str>>,
    /// `fairway.dev/deny-source-ranges`, and source ranges under Cilium's policy `deny`.
    pub deny_source_ranges: Vec<IpNet>,
    /// Requests that can't be read. Nothing else is given in their place.
    pub unreadable: Vec<UnreadableRequest>,
}

impl Asks {
    /// Why the Service gets no new address of `family`: a request of it can't be read. An address
    /// that is asked for and can be read does not wait for the one of the other family.
    pub fn unreadable_address(&self, family: IpFamily) -> Option<&UnreadableRequest> {
        let is_asked = self.addresses.iter().any(|it| IpFamily::of(*it) == family);
        self.unreadable.iter().find(|request| match request.what {
            RequestKind::Addresses => !is_asked,
            RequestKind::Other => true,
            RequestKind::NodePort(_) | RequestKind::HealthCheckNodePort => false,
        })
    }

    /// Whether the node port of this port can't be read.
    pub fn is_node_port_unreadable(&self, key: PortKey) -> bool {
        let what = RequestKind::NodePort(key);
        self.unreadable.iter().any(|request| request.what == what)
    }

    /// Whether `healthCheckNodePort` can't be read.
    pub fn is_health_check_unreadable(&self) -> bool {
        let what = RequestKind::HealthCheckNodePort;
        self.unreadable.iter().any(|request| request.what == what)
    }
}

/// Something that a Service asks for and that can't be read, or does not exist: the Service waits
/// for it and gets nothing else instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableRequest {
    /// What is asked for.
    pub what: RequestKind,
    /// What is wrong, in a sentence without a full stop.
    pub message: String,
}

/// What an [`UnreadableRequest`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Addresses.
    Addresses,
    /// What decides about all addresses: the pool, the class, or whether Fairway is to look after
    /// the Service at all.
    Other,
    /// The node port of a port.
    NodePort(PortKey),
    /// The port of the health check.
    HealthCheckNodePort,
}

/// With which other namespaces a Service agrees to share an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SharingNamespaces {
    /// With none.
    #[default]
    Own,
    /// With these.
    Listed(Vec<Arc<str>>),
    /// With any (Cilium's `*`).
    All,
}

/// Something well-formed and wrong; the Service works on without it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Notice {
    /// One CamelCase word, for conditions and events.
    pub reason: Arc<str>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Notice {
    /// A notice.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: Arc::from(reason),
            message: message.into(),
        }
    }

    /// Whether what is asked for is done all the same, or was never more than a hint.
    pub fn is_warning(&self) -> bool {
        matches!(
            &*self.reason,
            "AggregateBeyondPool"
                | "ConflictingAnnotations"
                | "DuplicateEntry"
                | "ExternalIPsIgnored"
                | "HostBitsSet"
                | "LinkLocalAddresses"
                | "NotYetInForce"
                | "OverlappingAddresses"
                | "SourceRangesOfOneFamily"
                | "TrafficDistributionIgnored"
                | "UnknownAnnotation"
        )
    }
}
