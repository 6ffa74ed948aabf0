//! The settings of a gateway.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::drained::DrainedEndpoints;
use fairway_config::names::ClusterName;

use crate::fleet::FleetSettings;
use crate::icmp::IcmpSockets;
use crate::layer2::Layer2;
use crate::transparent::DEFAULT_RELAY_PORT;

/// The settings of a gateway. They do not change while it runs.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Its name: that of the node it runs on.
    pub name: ClusterName,
    /// Worker threads; at least one is started.
    pub workers: usize,
    /// Whether each worker stays on one processor.
    pub pin_workers: bool,
    /// The settings that routes depend on.
    pub core: fairway_gateway_core::build::RouteSettings,
    /// How long connections may go on once their endpoint or their Service is removed, or the process stops.
    pub drain_timeout: Duration,
    /// What an operator drains at the start.
    pub drained: Arc<DrainedEndpoints>,
    /// How long a client may take no byte once its endpoint has ended; then it is reset.
    pub stall_timeout: Duration,
    /// How long a client or an endpoint may take none of the bytes that wait for it; then the connection is reset.
    /// None: for any time.
    pub reader_timeout: Option<Duration>,
    /// How long the last endpoint that is left to try may take to accept a connection.
    pub connect_timeout: Duration,
    /// Whether VIPs that are on no interface of the host are made local by routes, where the process may
    /// (CAP_NET_ADMIN).
    pub make_local: bool,
    /// The name server to ask; none: those of `/etc/resolv.conf`.
    pub name_server: Option<SocketAddr>,
    /// How many UDP flows there may be at once, of all Services and on all workers. None: as many as the
    /// process may have sockets, and no more than three quarters of the ports in
    /// `net.ipv4.ip_local_port_range`. Each takes a file descriptor, one of those ports, and 3.5 KB of
    /// memory, 2.8 of them the kernel's.
    pub max_flows: Option<usize>,
    /// The sockets by which a UDP client is told that no endpoint takes its datagrams.
    pub icmp_sockets: IcmpSockets,
    /// What answers ARP and Neighbor Discovery for addresses that this gateway owns.
    pub layer2: Layer2,
    /// Whether connections to external addresses are steered by the kernel, where the process may
    /// (CAP_BPF and CAP_NET_ADMIN).
    pub steering: bool,
    /// Whether datagrams of one flow pass the kernel as segments of one message (UDP GSO and GRO).
    pub udp_offload: bool,
    /// The bit of a packet's mark that brings packets to clients' addresses in, where endpoints are dialled from
    /// these. None: they are not, and nothing is changed on this host.
    pub transparent_mark: Option<u32>,
    /// The TCP port at which gateways ask each other to dial endpoints of their nodes; all of them have the same.
    pub relay_port: u16,
    /// The other gateways that addresses are announced together with.
    pub fleet: FleetSettings,
    /// Whether small messages of several connections pass the kernel in one system call (io_uring), where the
    /// process may use it.
    pub io_uring: bool,
}

impl GatewaySettings {
    /// The defaults for a gateway of that name.
    pub fn new(name: ClusterName, core: fairway_gateway_core::build::RouteSettings) -> Self {
        Self {
            name,
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            pin_workers: false,
            core,
            drain_timeout: Duration::from_secs(30),
            drained: Arc::default(),
            // As long as the kernel waits for the end of a peer that it has told its own
            // (net.ipv4.tcp_fin_timeout).
            stall_timeout: Duration::from_secs(60),
            // Somebody may look at a page of `less` for a while: nginx's 60 s (`send_timeout`) would cut that off.
            reader_timeout: Some(Duration::from_mins(5)),
            connect_timeout: Duration::from_secs(5),
            make_local: true,
            name_server: None,
            max_flows: None,
            icmp_sockets: IcmpSockets::none(),
            steering: true,
            udp_offload: true,
            transparent_mark: None,
            relay_port: DEFAULT_RELAY_PORT,
            fleet: FleetSettings::default(),
            layer2: Layer2::none(),
            io_uring: true,
        }
    }
}
