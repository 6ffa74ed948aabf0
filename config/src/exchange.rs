//! What passes through a store between controller and gateway.
//!
//! A store hands out [`Batch`]es of [`Change`]s: first every object, then what changes. The
//! controller answers with [`Write`]s, the gateway with [`Report`]s; both come back to subscribers
//! as changes. A change has the whole new object, so a store may drop an earlier change of the same
//! object.

mod bgp_sessions;
mod gateway;
mod ownership;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

pub use self::bgp_sessions::BgpPeerRow;
pub use self::gateway::{EndpointCounts, GatewayProgress, GatewayRow, GatewayStatus};
pub use self::ownership::{
    AddressConflict, AddressReport, AddressState, FleetKey, FleetMember, Successor,
};
use crate::bgp_peer::{BgpPeer, PasswordProblem, PeerPassword};
use crate::cluster::{Namespace, Node, TlsSecret};
use crate::endpoints::EndpointSlice;
use crate::names::{ClusterName, NamespacedName, ServiceName};
use crate::net::{EndpointAddr, IpFamily, ListenAddr, Protocol};
use crate::pool::AddressPool;
use crate::service::{Notice, PortKey, Service};
use crate::time::Timestamp;

/// Changes that a store delivers together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The changes, at most one for an object.
    pub changes: Vec<Change>,
    /// Whether every object that was there at the start has been delivered, with this batch or
    /// before it. Before that nothing may be released or decided.
    pub synced: bool,
    /// The number of this batch: a subscriber that has worked it in knows everything up to it. When
    /// all subscribers have worked in the latest number, everything is settled.
    pub sequence: u64,
    /// When the oldest change in it was made by its author, as far as the store can tell. For a
    /// decision of the controller it is the time of the change that was decided on. Nothing where
    /// no author changed anything: at the start, or for a report of a gateway.
    pub since: Option<Instant>,
    /// Every change of a Service up to this revision of the store has been delivered, with this batch
    /// or before it; 0 where the store has no revisions.
    pub revision: u64,
}

impl Batch {
    /// Changes after which everything is known, of a store without revisions.
    pub fn synced(changes: Vec<Change>) -> Self {
        Self {
            changes,
            synced: true,
            ..Self::default()
        }
    }
}

/// The new form of one object, or that it is gone.
#[derive(Clone, Debug)]
pub enum Change {
    /// A Service with what it holds.
    Service(ServiceName, Option<Arc<StoredService>>),
    /// An EndpointSlice, or a v1 Endpoints in its shape (`true`): the two have names of their own.
    EndpointSlice(NamespacedName, bool, Option<Arc<EndpointSlice>>),
    /// A Node.
    Node(ClusterName, Option<Arc<Node>>),
    /// A Namespace.
    Namespace(ClusterName, Option<Arc<Namespace>>),
    /// An AddressPool.
    Pool(ClusterName, Option<Arc<AddressPool>>),
    /// The status of an AddressPool as an earlier controller wrote it. It is delivered once, before
    /// the pool.
    PoolStatus(ClusterName, Arc<PoolStatus>),
    /// The addresses of a pool that gateways are to ask for: [`PoolStatus::probing`].
    Probing(ClusterName, Arc<BTreeMap<IpAddr, u64>>),
    /// The status of a BGPPeer as an earlier controller wrote it. It is delivered once, before the BGPPeer.
    BgpPeerStatus(ClusterName, Arc<BgpPeerStatus>),
    /// A BGPPeer.
    BgpPeer(ClusterName, Option<Arc<BgpPeer>>),
    /// The password in a Secret that BGPPeers name, or what is to be said of the field that names it; nothing: none
    /// names it any more.
    PeerPassword(
        NamespacedName,
        Option<Result<PeerPassword, PasswordProblem>>,
    ),
    /// A TLS secret.
    Secret(NamespacedName, Option<Arc<TlsSecret>>),
    /// The report of a gateway on a Service; nothing: there is none any more.
    Report(ServiceName, ClusterName, Option<Arc<Report>>),
    /// The state of a gateway that is a process of its own; nothing: it is gone. Such a gateway
    /// reports only the Services that are not served completely: see [`GatewayProgress`].
    Gateway(ClusterName, Option<Arc<GatewayStatus>>),
    /// The report of a gateway on an external address; nothing: there is none any more.
    Address(IpAddr, ClusterName, Option<Arc<AddressReport>>),
    /// Another gateway of this gateway's fleet; nothing: it is none any more. A store over an API server
    /// tells all members before it tells the key: before that a gateway does not know whether it is alone.
    Member(ClusterName, Option<Arc<FleetMember>>),
    /// The key of this gateway's fleet; nothing: there is none any more.
    FleetKey(Option<Arc<FleetKey>>),
}

/// A Service and everything the store knows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredService {
    /// What is asked for.
    pub service: Arc<Service>,
    /// What was granted and written.
    pub held: Held,
    /// What was written to `status`, as far as it is Fairway's.
    pub status: Status,
    /// The revision of the store at which it last changed for gateways: a number that grows with
    /// every change (`metadata.resourceVersion`, KEP-5504). 0 in a store of this process, whose
    /// gateway says with [`Report::applied`] what it has programmed.
    pub revision: u64,
    /// Counts the writes of this object; a [`Write`] names the one it was made from.
    pub version: u64,
    /// When the store first saw it: used where there is no creation time.
    pub first_seen: Timestamp,
    /// Where it comes from, for people: a file and document, or nothing for an API server.
    pub source: Option<Arc<str>>,
    /// Why the source can't be read now: this is then its last good form.
    pub source_problem: Option<String>,
}

impl StoredService {
    /// A Service in its first version, to which nothing was granted.
    pub fn new(service: Arc<Service>) -> Self {
        Self {
            service,
            held: Held::default(),
            status: Status::default(),
            revision: 0,
            version: 1,
            first_seen: Timestamp::default(),
            source: None,
            source_problem: None,
        }
    }
}

/// What a Service holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Its external addresses.
    pub addresses: Vec<IpAddr>,
    /// The node port of each of its ports.
    pub node_ports: BTreeMap<PortKey, u16>,
    /// Its health check port.
    pub health_check_node_port: Option<u16>,
}

/// The part of a Service's `status` that Fairway writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<Ingress>,
    /// `status.conditions`, by type.
    pub conditions: ConditionMap,
    /// Whether the list in the store also has entries that can't be Fairway's. It is false in a
    /// status that is to be written, so a status with such entries is written again.
    pub has_foreign_ingress: bool,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// `ip`.
    pub ip: IpAddr,
    /// `hostname`.
    pub hostname: Option<Arc<str>>,
    /// `ipMode` (KEP-1860).
    pub ip_mode: IpMode,
    /// `ports`: port, protocol and what is wrong with it (a CamelCase word).
    pub ports: Vec<IngressPort>,
}

/// `ipMode`: who is to capture traffic to the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpMode {
    /// The nodes' own proxy.
    #[serde(rename = "VIP")]
    Vip,
    /// The load balancer alone.
    Proxy,
}

/// One entry of `status.loadBalancer.ingress[].ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressPort {
    /// Which port.
    pub key: PortKey,
    /// `error`.
    pub error: Option<Arc<str>>,
}

/// One entry of `status.conditions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `status`: True or False.
    pub status: bool,
    /// `reason`: one CamelCase word.
    pub reason: Arc<str>,
    /// `message`: sentences.
    pub message: String,
    /// `lastTransitionTime`: when `status` last changed.
    pub since: Timestamp,
}

/// Conditions by type. An object has a few, and there are thousands of objects, so this is a sorted
/// list of the exact size: a `BTreeMap` would allocate room for eleven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConditionMap(Vec<(Arc<str>, Condition)>);

impl ConditionMap {
    /// The condition of this type.
    pub fn get(&self, kind: &str) -> Option<&Condition> {
        Some(self.get_key_value(kind)?.1)
    }

    /// The same, with its type.
    pub fn get_key_value(&self, kind: &str) -> Option<(&Arc<str>, &Condition)> {
        let (kind, condition) = self.0.get(self.place(kind).ok()?)?;
        Some((kind, condition))
    }

    /// Whether there is one of this type.
    pub fn contains_key(&self, kind: &str) -> bool {
        self.place(kind).is_ok()
    }

    /// Sets the condition of this type.
    pub fn insert(&mut self, kind: Arc<str>, condition: Condition) {
        match self.place(&kind) {
            Ok(at) => {
                if let Some((_, before)) = self.0.get_mut(at) {
                    *before = condition;
                }
            }
            Err(at) => self.0.insert(at, (kind, condition)),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, ordered by type.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Condition)> {
        self.0.iter().map(|(kind, condition)| (kind, condition))
    }

    /// Frees memory that is not used.
    pub fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    fn place(&self, kind: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(other, _)| (**other).cmp(kind))
    }
}

impl FromIterator<(Arc<str>, Condition)> for ConditionMap {
    fn from_iter<T: IntoIterator<Item = (Arc<str>, Condition)>>(all: T) -> Self {
        let mut map = Self::default();
        for (kind, condition) in all {
            map.insert(kind, condition);
        }
        map.shrink();
        map
    }
}

/// A decision of the controller on an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// What a Service holds, and its status: written in one step.
    Service {
        /// Which.
        name: ServiceName,
        /// The version of the stored object that the decision was made from; another one there
        /// refuses the write, and it is planned again.
        version: u64,
        /// What it holds now.
        held: Held,
        /// Its status now.
        status: Status,
    },
    /// A request to the API server for node ports of a Service that allocates none by itself. The
    /// result is in the Service's spec.
    NodePorts {
        /// Which.
        name: ServiceName,
        /// See [`Write::Service`].
        version: u64,
        /// The number that each of these ports would have.
        numbers: BTreeMap<PortKey, u16>,
    },
    /// The status of a pool.
    Pool {
        /// Which.
        name: ClusterName,
        /// Its status now.
        status: PoolStatus,
    },
    /// The status of a BGPPeer.
    BgpPeer {
        /// Which.
        name: ClusterName,
        /// Its status now.
        status: BgpPeerStatus,
    },
}

/// `status` of an AddressPool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// Conditions by type: `Ready`, `Overlaps`.
    pub conditions: ConditionMap,
    /// Counts of each family that the pool has addresses of.
    pub counts: BTreeMap<IpFamily, PoolCount>,
    /// Addresses that are to be given out, and of which gateways are asked before whether another host uses them;
    /// each with the number of the probe. An answer is an [`AddressReport`] with that number.
    pub probing: BTreeMap<IpAddr, u64>,
}

/// `status` of a BGPPeer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpPeerStatus {
    /// Conditions by type: `Ready`.
    pub conditions: ConditionMap,
    /// `observedGeneration` of these: the form of the BGPPeer that they are about.
    pub generation: i64,
}

/// How many addresses of one family a pool has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolCount {
    /// In the pool (without those that `avoidEnds` leaves alone).
    pub total: u128,
    /// Held by a Service.
    pub used: u128,
    /// Neither.
    pub available: u128,
}

/// Reports of a gateway that belong together.
#[derive(Clone, Debug, Default)]
pub struct ReportBatch {
    /// New reports by Service; nothing: there is no report any more.
    pub reports: Vec<(ServiceName, Option<Arc<Report>>)>,
    /// New reports by external address; nothing: there is no report any more.
    pub addresses: Vec<(IpAddr, Option<Arc<AddressReport>>)>,
    /// Up to which revision of the store ([`Batch::revision`]) everything is programmed, and
    /// everything that fails has been reported, with this batch or before it. 0: this batch is of
    /// addresses alone, and says nothing of Services.
    pub revision: u64,
}

/// The form of a Service that a gateway has programmed.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedService {
    /// What was asked for.
    pub service: Arc<Service>,
    /// What it held.
    pub held: Held,
}

/// The report of a gateway on one Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The gateway that reports.
    pub gateway: ClusterName,
    /// The form of the Service that was programmed. Nothing where the report comes from another
    /// process: then it lists only what fails, and [`GatewayProgress`] says up to which revision it
    /// is.
    pub applied: Option<AppliedService>,
    /// Each listener that it should have for the Service, and its state.
    pub listeners: Vec<ListenerReport>,
    /// Endpoints that it must not dial, and why.
    pub refused_endpoints: Vec<RefusedEndpoint>,
    /// How many endpoints it can send traffic to, over all ports.
    pub eligible_endpoints: usize,
    /// Other notices: Local on a gateway that is no node, a name that does not resolve.
    pub notices: Vec<Notice>,
    /// What is not listed, for want of room.
    pub unlisted: Unlisted,
}

impl Report {
    /// A report that says nothing.
    pub fn new(gateway: ClusterName) -> Self {
        Self {
            gateway,
            applied: None,
            listeners: Vec::new(),
            refused_endpoints: Vec::new(),
            eligible_endpoints: 0,
            notices: Vec::new(),
            unlisted: Unlisted::default(),
        }
    }
}

/// How much more a [`Report`] would list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Unlisted {
    /// Listeners that can't take traffic.
    pub failing_listeners: usize,
    /// Endpoints that must not be dialled.
    pub refused_endpoints: usize,
    /// Notices.
    pub notices: usize,
}

/// One listener of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ListenerReport {
    /// Where.
    pub listen: ListenAddr,
    /// Which protocol.
    pub protocol: Protocol,
    /// Which port of the Service it stands for; its own number for a health check.
    pub port: u16,
    /// What for.
    pub kind: ClaimKind,
    /// How it is.
    pub state: ListenerState,
}

/// What a listener is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimKind {
    /// A Service's external address and port.
    Vip,
    /// A node port on an address of the host.
    NodePort,
    /// A `healthCheckNodePort`.
    HealthCheck,
}

/// The state of a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ListenerState {
    /// It takes traffic.
    Listening,
    /// Nothing listens: the pool says `forwarding: Node`, so the Node's own proxy forwards what comes, to an endpoint
    /// that it has.
    Forwarded,
    /// There is no endpoint to send traffic to, so nothing listens and the kernel refuses (TCP
    /// reset, ICMP port unreachable), as a node's own proxy does. It listens again with the first
    /// endpoint.
    Refusing,
    /// It takes connections, and no endpoint of its port can be reached: the last dials to each of
    /// them have failed.
    Unreachable {
        /// Which endpoints, since when, and why; the end of a sentence.
        message: String,
    },
    /// It can't take traffic; the gateway tries again until it can.
    Failed {
        /// One CamelCase word: `AddressNotLocal`, `PortInUse`, `PermissionDenied`, …
        reason: String,
        /// What is wrong and what to do.
        message: String,
    },
}

impl ListenerState {
    /// Whether clients get what they want there.
    pub fn is_well(&self) -> bool {
        matches!(self, Self::Listening | Self::Forwarded)
    }

    /// `listening`, `forwarded`, `refusing`, `unreachable` or `failed`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Forwarded => "forwarded",
            Self::Refusing => "refusing",
            Self::Unreachable { .. } => "unreachable",
            Self::Failed { .. } => "failed",
        }
    }
}

/// An endpoint that a gateway must not dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RefusedEndpoint {
    /// Which.
    pub endpoint: EndpointAddr,
    /// Why: `is a loopback address`, …
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_ordered_by_type_and_each_stands_once() {
        let condition = |message: &str| Condition {
            status: true,
            reason: "Because".into(),
            message: message.to_owned(),
            since: Timestamp(1),
        };
        let all = [("b", "1"), ("c", "2"), ("a", "3"), ("b", "4")];
        let map: ConditionMap = all
            .into_iter()
            .map(|(kind, message)| (Arc::from(kind), condition(message)))
            .collect();
        let shown: Vec<_> = map
            .iter()
            .map(|(kind, it)| (&**kind, &*it.message))
            .collect();
        assert_eq!(shown, [("a", "3"), ("b", "4"), ("c", "2")]);
        assert_eq!(map.get("c"), Some(&condition("2")));
        assert!(map.contains_key("a") && !map.contains_key("d") && !map.is_empty());
        assert_eq!(map.get_key_value("").map(|(kind, _)| kind), None);
    }
}
