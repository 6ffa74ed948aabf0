//! What the data plane needs to know of one Service, as plain values.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::endpoints::EndpointHost;
use fairway_config::exchange::{ClaimKind, ListenerReport, RefusedEndpoint};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::{EndpointAddr, ListenAddr, Protocol};
use fairway_config::port_limits::LimitsInForce;
use fairway_config::port_options::PortOptions;
use fairway_config::service::{AppProtocol, Notice, PortKey};
use fairway_config::time::Timestamp;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::balance::maglev::MaglevTable;

/// The route of one Service, as the data plane uses it. Built by [`crate::build`], and replaced as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Whose it is.
    pub service: ServiceName,
    /// Its ports that carry traffic.
    pub ports: Vec<Arc<RoutePort>>,
    /// The health check port it serves, if any.
    pub health_check: Option<HealthCheck>,
    /// Notices for the report.
    pub notices: Vec<Notice>,
    /// Endpoints that must not be dialled.
    pub refused: Vec<RefusedEndpoint>,
    /// Listeners of its external addresses that it lacks because another Service has them.
    pub lost: Vec<ListenerReport>,
    /// Places at external addresses for which the Node's own proxy forwards (`forwarding: Node`).
    pub forwarded: Vec<ForwardedPlace>,
    /// The Nodes with an endpoint that gets traffic there, where `externalTrafficPolicy: Local` leaves a gateway the
    /// endpoints of its own Node; none: it is served by any of them.
    pub local_nodes: Option<Arc<BTreeSet<ClusterName>>>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutePort {
    /// Whose it is.
    pub service: ServiceName,
    /// Which port.
    pub key: PortKey,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
    /// The application protocol.
    pub app: AppProtocol,
    /// What the Service's annotations say of it.
    pub options: PortOptions,
    /// The limits that hold for it: what its annotations say, else the gateway's defaults.
    pub limits: LimitsInForce,
    /// Where the gateway listens for it.
    pub claims: Vec<Claim>,
    /// Who may connect to its VIPs (not its node ports).
    pub sources: SourceRanges,
    /// How long a client stays with its endpoint (`sessionAffinity`); none: it has no affinity.
    pub affinity: Option<Duration>,
    /// The endpoints.
    pub endpoints: Arc<EndpointSet>,
    /// The table of all eligible endpoints, where clients are spread by one.
    pub table: Option<Arc<MaglevTable>>,
    /// Eligible endpoints that are not checked, as the address that would be asked is never dialled; ordered.
    pub never_checked: Vec<EndpointAddr>,
    /// Peers that must not connect to its node ports: the nodes that this port forwards to, which
    /// would close a loop.
    pub loop_guard: Vec<IpAddr>,
}

impl RoutePort {
    /// A port of opaque traffic for everybody, without affinity and without a listener.
    pub fn new(service: ServiceName, key: PortKey, endpoints: EndpointSet) -> Self {
        Self {
            service,
            key,
            name: None,
            app: AppProtocol::Opaque,
            options: PortOptions::default(),
            limits: LimitsInForce::default(),
            claims: Vec::new(),
            sources: SourceRanges::default(),
            affinity: None,
            endpoints: Arc::new(endpoints),
            table: None,
            never_checked: Vec::new(),
            loop_guard: Vec::new(),
        }
    }
}

/// An external address and port where nothing listens: the Node's own proxy forwards what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardedPlace {
    /// Where.
    pub listen: ListenAddr,
    /// Which protocol; SCTP, too.
    pub protocol: Protocol,
    /// How many endpoints that proxy forwards to.
    pub endpoints: usize,
}

/// A listen address for one port of one Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Where.
    pub listen: ListenAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What for.
    pub kind: ClaimKind,
}

/// A health check port (`healthCheckNodePort`) and what it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Where it is served.
    pub listen: Vec<ListenAddr>,
    /// How many endpoints count as local.
    pub local_endpoints: usize,
}

/// `loadBalancerSourceRanges` and the ranges that are denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRanges {
    /// Empty lets everyone in.
    pub allow: Vec<IpNet>,
    /// Kept out, whatever `allow` says.
    pub deny: Vec<IpNet>,
}

impl SourceRanges {
    /// Whether a client with this address is kept out. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn denies(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.deny.iter().any(|net| net.contains(&client))
    }

    /// Whether a client with this address may connect, where it is not denied.
    pub fn allows(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.allow.is_empty() || self.allow.iter().any(|net| net.contains(&client))
    }

    /// Whether a client with this address may connect.
    pub fn admit(&self, client: IpAddr) -> bool {
        !self.denies(client) && self.allows(client)
    }
}

/// The endpoints of one port: those that get traffic, and the others with the reason.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSet {
    /// Those that get new traffic, ordered by address.
    pub eligible: Vec<Endpoint>,
    /// Those that don't, and why, ordered by address.
    pub excluded: Vec<Excluded>,
}

impl EndpointSet {
    /// A set of these, each ordered by address.
    pub fn new(eligible: Vec<Endpoint>, excluded: Vec<Excluded>) -> Self {
        Self { eligible, excluded }
    }

    /// The table by which clients are spread over the eligible ones.
    pub fn table(&self) -> MaglevTable {
        let eligible = self.eligible.iter();
        MaglevTable::of(eligible.map(|endpoint| (endpoint.addr, endpoint.weight)))
    }

    /// Whether the endpoint is listed at all: its established connections may stay.
    pub fn lists(&self, addr: EndpointAddr) -> bool {
        let eligible = self
            .eligible
            .binary_search_by_key(&addr, |endpoint| endpoint.addr);
        let excluded = self
            .excluded
            .binary_search_by_key(&addr, |excluded| excluded.addr);
        eligible.is_ok() || excluded.is_ok()
    }

    /// Whether a UDP flow to the endpoint may go on: the endpoint gets new traffic, or it is serving while other
    /// endpoints get new traffic. (kube-proxy, too, ends the flows of an endpoint that is no longer serving.)
    pub fn serves(&self, addr: EndpointAddr) -> bool {
        let eligible = self
            .eligible
            .binary_search_by_key(&addr, |endpoint| endpoint.addr);
        eligible.is_ok() || {
            let excluded = self
                .excluded
                .binary_search_by_key(&addr, |excluded| excluded.addr);
            let excluded = excluded.ok().and_then(|at| self.excluded.get(at));
            excluded.is_some_and(|excluded| match excluded.why {
                Exclusion::Terminating
                | Exclusion::Hinted
                | Exclusion::OtherFamily
                | Exclusion::Draining(_) => true,
                Exclusion::NotReady
                | Exclusion::NotLocal
                | Exclusion::WeightZero
                | Exclusion::Refused(_)
                | Exclusion::NodeExcluded(_) => false,
            })
        }
    }
}

/// An endpoint that gets traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is dialled.
    pub addr: EndpointAddr,
    /// Its share relative to the others, at least 1.
    pub weight: u16,
    /// The node it is on.
    pub node: Option<ClusterName>,
    /// Its name for people.
    pub target: Option<Arc<str>>,
}

impl Endpoint {
    /// An endpoint of weight 1 of which nothing else is known.
    pub fn new(addr: EndpointAddr) -> Self {
        Self {
            addr,
            weight: 1,
            node: None,
            target: None,
        }
    }
}

impl AsRef<Endpoint> for Endpoint {
    fn as_ref(&self) -> &Endpoint {
        self
    }
}

/// An endpoint that gets no traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excluded {
    /// Where it would be dialled.
    pub addr: EndpointAddr,
    /// The node it is on.
    pub node: Option<ClusterName>,
    /// Why it gets none.
    pub why: Exclusion,
}

/// Why an endpoint gets no traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Not ready, and not serving either.
    NotReady,
    /// Serving and terminating while others are ready (KEP-1669).
    Terminating,
    /// `externalTrafficPolicy: Local` and on another node.
    NotLocal,
    /// Hinted for other zones or nodes (KEP-4444, KEP-3015).
    Hinted,
    /// Its slice has weight 0: maintenance.
    WeightZero,
    /// An operator keeps new connections away from it since then, and another one is ready.
    Draining(Timestamp),
    /// Never dialled; the words say why: `is a loopback address`.
    Refused(String),
    /// The node is left out of load balancing (forwarding to node ports); the words say why.
    NodeExcluded(String),
    /// The same backend once more in the Service's other family; its first family is used.
    OtherFamily,
}

impl Exclusion {
    /// One word, as `get endpoints` shows it.
    pub fn state(&self) -> &'static str {
        match self {
            Self::NotReady => "not-ready",
            Self::Terminating => "terminating",
            Self::NotLocal => "not-local",
            Self::Hinted => "hinted-elsewhere",
            Self::WeightZero => "weight-zero",
            Self::Draining(_) => "draining",
            Self::Refused(_) => "refused",
            Self::NodeExcluded(_) => "node-excluded",
            Self::OtherFamily => "other-family",
        }
    }
}

impl std::fmt::Display for Exclusion {
    /// The end of a sentence that begins with the endpoint's address.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotReady => f.write_str("is not ready"),
            Self::Terminating => f.write_str(
                "is not ready or is terminating, and gets traffic only while no other endpoint is ready",
            ),
            Self::NotLocal => f.write_str(
                "is not on this gateway's node, and the Service has externalTrafficPolicy: Local",
            ),
            Self::Hinted => f.write_str("is hinted for other nodes or zones than this gateway's"),
            Self::WeightZero => {
                f.write_str("is in maintenance: its EndpointSlice has fairway.dev/weight: \"0\"")
            }
            Self::Draining(since) => write!(
                f,
                "is drained since {since} (fairway drain), and gets no new connections"
            ),
            Self::Refused(why) => write!(f, "is never dialled: it {why}"),
            Self::NodeExcluded(why) => write!(f, "is on a node that takes no traffic: {why}"),
            Self::OtherFamily => {
                f.write_str("is the second address family of a backend that is reached by the first")
            }
        }
    }
}

/// Milliseconds on a monotonic clock whose start does not matter.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Tick(pub u64);

/// The present addresses of DNS names: an argument of [`crate::build`].
pub type Resolved<'a> = &'a dyn Fn(&EndpointHost) -> Vec<IpAddr>;
