//! What a gateway may announce: the external addresses of Services whose pool announces, and whether each can be
//! served now. The control task keeps it up to date, and all who announce (`fleet`, BGP) read it.
//!
//! Under `externalTrafficPolicy: Local` a gateway serves the endpoints of its own Node, so it can serve an address where
//! it has one. Several Services may share an address. It goes where one of those of policy `Local` has an endpoint, for
//! the others are served from anywhere; while none of them has an endpoint on a gateway's Node, the others decide alone.
//!
//! A change of one Service costs the look at its own addresses. Pools, Nodes and gateways change rarely, and all
//! addresses are looked at then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::announce::Announcement;
use fairway_config::exchange::{
    Change, ClaimKind, FleetKey, FleetMember, ListenerReport, ListenerState,
};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::AddressRange;
use fairway_config::pool::Forwarding;
use fairway_gateway_core::build::Builder;
use fairway_gateway_core::fleet::EndpointReach;
use fairway_gateway_core::segments::candidates;
use tokio::sync::watch;

use crate::address_changes::AddressChanges;

/// What may be announced.
#[derive(Clone, Debug, Default)]
pub struct Announceable {
    /// The external addresses of Services whose pool announces.
    pub addresses: BTreeMap<IpAddr, AnnouncedAddress>,
    /// The pools that announce.
    pub pools: Arc<BTreeMap<ClusterName, Arc<AnnouncedPool>>>,
    /// The other gateways.
    pub members: BTreeMap<ClusterName, Arc<FleetMember>>,
    /// The addresses that the controller asks for before it gives them out.
    pub probing: Arc<BTreeMap<IpAddr, ProbedAddress>>,
    /// What the gateways' messages are authenticated with; none: it is not known yet.
    pub key: Option<Arc<FleetKey>>,
    /// Why this gateway is to own no address that another one can own; the end of a sentence. None: it may.
    pub draining: Option<Arc<str>>,
    /// Which addresses have changed lately.
    pub changes: AddressChanges,
}

/// An address that may be announced.
#[derive(Clone, Debug, PartialEq)]
pub struct AnnouncedAddress {
    /// The pool that it belongs to.
    pub pool: ClusterName,
    /// How that pool is announced.
    pub announcement: Arc<Announcement>,
    /// Whether a listener of this gateway takes traffic at it.
    pub is_able: bool,
    /// It does not, because each Service there has `externalTrafficPolicy: Local` and no endpoint on this Node.
    pub lacks_local_endpoint: bool,
    /// The Nodes that have an endpoint of a Service there with `externalTrafficPolicy: Local`: the gateways on them are
    /// preferred, for they alone serve all that is there. This one is among them if it takes traffic of such a Service.
    pub local_nodes: Arc<BTreeSet<ClusterName>>,
    /// Whether this one is among them.
    pub is_local: bool,
    /// What the checks of this gateway say of the endpoints there. Where they fail it serves them as well as it can, and
    /// another one may reach them.
    pub reach: EndpointReach,
}

impl Announceable {
    /// Whether connections to an address end in this process, and not behind the Node's own proxy.
    pub(crate) fn ends_connections(&self, address: IpAddr) -> bool {
        let announced = self.addresses.get(&address);
        let pool = announced.and_then(|it| self.pools.get(&it.pool));
        pool.is_none_or(|pool| pool.forwarding == Forwarding::Proxy)
    }
}

impl AnnouncedAddress {
    /// Why this gateway does not announce it, where others `can` have it; none: it does.
    pub(crate) fn not_announced(&self, can: impl Fn(&ClusterName) -> bool) -> Option<NotAnnounced> {
        if self.lacks_local_endpoint {
            Some(NotAnnounced::LacksLocalEndpoint)
        } else if !self.is_able {
            Some(NotAnnounced::NotServed)
        } else {
            let is_left = self.is_better_at(can);
            is_left.then_some(NotAnnounced::LeftToOthers)
        }
    }

    /// Whether one of those gateways that `can` have it is preferred to this one.
    pub(crate) fn is_better_at(&self, can: impl Fn(&ClusterName) -> bool) -> bool {
        !self.is_local && self.local_nodes.iter().any(can)
    }
}

/// Why this gateway does not announce an address now: on layer 2, or as a route of its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAnnounced {
    /// See [`AnnouncedAddress::lacks_local_endpoint`].
    LacksLocalEndpoint,
    /// No listener takes traffic at it.
    NotServed,
    /// See [`AnnouncedAddress::local_nodes`].
    LeftToOthers,
}

impl NotAnnounced {
    /// The end of a sentence.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::LacksLocalEndpoint => {
                "no Service at it has a ready endpoint on this node, as externalTrafficPolicy: Local asks"
            }
            Self::NotServed => "no Service takes traffic at it here",
            Self::LeftToOthers => {
                "another gateway has an endpoint on its node of a Service at it that has externalTrafficPolicy: Local"
            }
        }
    }
}

/// A Service at an address.
#[derive(Clone, Debug, Default)]
struct ServiceThere {
    /// A listener takes traffic.
    takes_traffic: bool,
    /// Every listener refuses, for want of endpoints.
    refuses: bool,
    /// See [`AnnouncedAddress::reach`].
    reach: EndpointReach,
    /// See [`Route::local_nodes`](fairway_gateway_core::route::Route::local_nodes).
    local_nodes: Option<Arc<BTreeSet<ClusterName>>>,
}

/// A Service as [`Announcing`] takes it in.
#[derive(Debug, Default)]
pub(crate) struct AnnouncedService {
    pub(crate) listeners: Vec<ListenerReport>,
    /// See [`Route::local_nodes`](fairway_gateway_core::route::Route::local_nodes).
    pub(crate) local_nodes: Option<Arc<BTreeSet<ClusterName>>>,
    /// What checks say of its endpoints.
    pub(crate) reach: EndpointReach,
}

/// An address that nobody has yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbedAddress {
    /// The pool that it is to be given out of.
    pub pool: ClusterName,
    /// The number of the controller's probe.
    pub number: u64,
}

impl Announceable {
    /// Whether addresses of any pool are to be routes in the kernel.
    pub fn wants_kernel_routes(&self) -> bool {
        let mut pools = self.pools.values();
        pools.any(|pool| pool.announcement.kernel_routes)
    }

    /// The addresses of pools that want routes in the kernel: whether there is to be one now, or why not. Routes stay
    /// while the gateway drains: it can't know whether routers have another way.
    pub(crate) fn kernel_routes(&self) -> impl Iterator<Item = (IpAddr, Result<(), NotAnnounced>)> {
        let addresses = self.addresses.iter();
        let asked = addresses.filter(|(_, it)| it.announcement.kernel_routes);
        asked.map(|(address, it)| {
            let reason = it.not_announced(|name| self.members.contains_key(name));
            (*address, reason.map_or(Ok(()), Err))
        })
    }
}

/// A pool that announces.
#[derive(Debug, PartialEq)]
pub struct AnnouncedPool {
    /// Who carries its traffic.
    pub forwarding: Forwarding,
    /// How.
    pub announcement: Arc<Announcement>,
    /// Its addresses, without those that belong to another pool.
    pub ranges: Vec<AddressRange>,
    /// The gateways that may own an address of it on layer 2, this one among them.
    pub owners: Arc<BTreeSet<ClusterName>>,
    /// The gateways that tell routers of its addresses, this one among them.
    pub tellers: BTreeSet<ClusterName>,
}

/// Keeps [`Announceable`] up to date.
#[derive(Debug)]
pub(crate) struct Announcing {
    own: ClusterName,
    sender: watch::Sender<Arc<Announceable>>,
    /// The version of pools and Nodes that this is made from ([`Builder::cluster_version`]).
    version: Option<u64>,
    /// Pools, other gateways or the key have changed.
    is_outdated: bool,
    /// The ranges of all pools that announce, by first address; none overlap.
    ranges: Vec<(AddressRange, ClusterName)>,
    members: BTreeMap<ClusterName, Arc<FleetMember>>,
    key: Option<Arc<FleetKey>>,
    /// `fairway drain` has asked this process to drain.
    is_asked_to_drain: bool,
    /// The addresses of each Service that are in one of `ranges`.
    services: BTreeMap<ServiceName, Box<[IpAddr]>>,
    /// The Services at each of these addresses.
    addresses: BTreeMap<IpAddr, BTreeMap<ServiceName, ServiceThere>>,
}

impl Announcing {
    /// Nothing yet. These other gateways are known from the start.
    pub(crate) fn new(
        own: ClusterName,
        members: impl IntoIterator<Item = FleetMember>,
        key: Option<Arc<FleetKey>>,
    ) -> Self {
        let members = members.into_iter().filter(|it| it.name != own);
        Self {
            own: own.clone(),
            sender: watch::Sender::default(),
            version: None,
            is_outdated: true,
            ranges: Vec::new(),
            members: members.map(|it| (it.name.clone(), Arc::new(it))).collect(),
            key,
            is_asked_to_drain: false,
            services: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// What may be announced, now and from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Announceable>> {
        self.sender.subscribe()
    }

    /// Why this gateway drains.
    pub(crate) fn draining(&self) -> Option<Arc<str>> {
        self.sender.borrow().draining.clone()
    }

    /// The addresses of pools that announce on layer 2.
    pub(crate) fn layer2_ranges(&self) -> Vec<AddressRange> {
        let published = self.sender.borrow();
        let pools = published.pools.values();
        let pools = pools.filter(|pool| pool.announcement.layer2.is_some());
        pools.flat_map(|pool| pool.ranges.iter().copied()).collect()
    }

    /// Takes in what concerns other gateways.
    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Member(name, member) if *name != self.own => {
                    match member {
                        Some(member) => self.members.insert(name.clone(), member.clone()),
                        None => self.members.remove(name),
                    };
                    self.is_outdated = true;
                }
                Change::FleetKey(key) => {
                    self.key.clone_from(key);
                    self.is_outdated = true;
                }
                Change::Probing(pool, probing) => self.set_probing(pool, probing),
                Change::Pool(pool, None) => self.set_probing(pool, &BTreeMap::new()),
                _ => {}
            }
        }
    }

    /// Somebody has asked this process to drain, or to end that.
    pub(crate) fn set_asked_to_drain(&mut self, is_asked: bool) {
        self.is_outdated |= self.is_asked_to_drain != is_asked;
        self.is_asked_to_drain = is_asked;
    }

    /// These are the addresses of a pool that the controller asks for.
    fn set_probing(&self, pool: &ClusterName, probing: &BTreeMap<IpAddr, u64>) {
        self.sender.send_if_modified(|now| {
            let before = now.probing.iter().filter(|(_, it)| it.pool == *pool);
            let before = before.map(|(address, it)| (address, &it.number));
            if before.eq(probing) {
                return false;
            }
            let now = Arc::make_mut(&mut Arc::make_mut(now).probing);
            now.retain(|_, it| it.pool != *pool);
            let probed = probing.iter().map(|(address, number)| {
                let (pool, number) = (pool.clone(), *number);
                (*address, ProbedAddress { pool, number })
            });
            now.extend(probed);
            true
        });
    }

    /// Takes in pools, Nodes and other gateways, where they have changed. Returns whether other addresses are
    /// announced now: then [`Self::set_services`] has to follow.
    pub(crate) fn settle(&mut self, builder: &Builder) -> bool {
        let version = builder.cluster_version();
        if self.version == Some(version) && !self.is_outdated {
            return false;
        }
        self.version = Some(version);
        self.is_outdated = false;
        let gateways: Vec<&ClusterName> = self.members.keys().chain([&self.own]).collect();
        let mut pools = BTreeMap::new();
        for pool in builder.pools().filter(|pool| !pool.announce.is_nothing()) {
            let announcement = pool.announce.clone();
            let select = |selector| candidates(selector, builder.nodes(), gateways.iter().copied());
            let owners = announcement.layer2.as_ref();
            let tellers = announcement.bgp.as_ref();
            let announced = AnnouncedPool {
                forwarding: pool.forwarding,
                owners: Arc::new(owners.map_or_else(BTreeSet::new, |it| select(&it.node_selector))),
                tellers: tellers.map_or_else(BTreeSet::new, |it| select(&it.node_selector)),
                announcement,
                ranges: Vec::new(),
            };
            pools.insert(pool.name.clone(), announced);
        }
        let mut ranges = Vec::new();
        for (range, name) in builder.pool_ranges() {
            if let Some(pool) = pools.get_mut(name) {
                pool.ranges.push(range);
                ranges.push((range, name.clone()));
            }
        }
        let has_moved = self.ranges != ranges;
        self.ranges = ranges;
        let pools = pools.into_iter().map(|(k, it)| (k, Arc::new(it)));
        let pools = Arc::new(pools.collect());
        let (members, key) = (self.members.clone(), self.key.clone());
        let of_node = builder.nodes().get(&self.own);
        let of_node = of_node.and_then(|node| node.draining);
        let draining = drain_reason(self.is_asked_to_drain, of_node).map(Arc::from);
        self.sender.send_modify(|now| {
            let now = Arc::make_mut(now);
            (now.pools, now.members, now.key) = (pools, members, key);
            now.draining = draining;
            now.changes.note_all();
        });
        if !has_moved {
            self.publish(None);
        }
        has_moved
    }

    /// These are all Services, with their listeners. What was announced goes on being so while they are taken in.
    pub(crate) fn set_services<'a>(
        &mut self,
        all: impl IntoIterator<Item = (&'a ServiceName, AnnouncedService)>,
    ) {
        self.services.clear();
        self.addresses.clear();
        for (service, it) in all {
            self.index(service, &it);
        }
        self.publish(None);
    }

    /// A Service is like this now; without listeners it carries no traffic.
    pub(crate) fn set_service(&mut self, service: &ServiceName, it: &AnnouncedService) {
        let touched = self.index(service, it);
        if !touched.is_empty() {
            self.publish(Some(touched));
        }
    }

    /// Notes the listeners of a Service. Returns the addresses that it has or had.
    fn index(&mut self, service: &ServiceName, it: &AnnouncedService) -> BTreeSet<IpAddr> {
        let mut now: BTreeMap<IpAddr, ServiceThere> = BTreeMap::new();
        let listeners = it.listeners.iter();
        for listener in listeners.filter(|it| it.kind == ClaimKind::Vip) {
            let address = listener.listen.0.ip();
            if self.pool_of(address).is_some() {
                let there = now.entry(address).or_insert_with(|| ServiceThere {
                    takes_traffic: false,
                    refuses: true,
                    reach: it.reach,
                    local_nodes: it.local_nodes.clone(),
                });
                there.takes_traffic |= takes_traffic(&listener.state);
                there.refuses &= listener.state == ListenerState::Refusing;
            }
        }
        let before = self.services.remove(service).unwrap_or_default();
        if !now.is_empty() {
            let addresses = now.keys().copied().collect();
            self.services.insert(service.clone(), addresses);
        }
        let touched: BTreeSet<IpAddr> = before.iter().copied().chain(now.keys().copied()).collect();
        for address in &touched {
            let services = self.addresses.entry(*address).or_default();
            match now.remove(address) {
                Some(there) => services.insert(service.clone(), there),
                None => services.remove(service),
            };
            if services.is_empty() {
                self.addresses.remove(address);
            }
        }
        touched
    }

    /// The pool that announces an address.
    fn pool_of(&self, address: IpAddr) -> Option<&ClusterName> {
        let after = self
            .ranges
            .partition_point(|(range, _)| range.first() <= address);
        let (range, pool) = self.ranges.get(after.checked_sub(1)?)?;
        range.contains(address).then_some(pool)
    }

    /// Publishes what these addresses are now; none: all.
    fn publish(&self, touched: Option<BTreeSet<IpAddr>>) {
        self.sender.send_if_modified(|published| {
            let touched = touched.unwrap_or_else(|| {
                let known = published.addresses.keys().chain(self.addresses.keys());
                known.copied().collect()
            });
            let mut changed = Vec::new();
            for address in touched {
                let now = self.announced(address, &published.pools);
                if published.addresses.get(&address) != now.as_ref() {
                    changed.push((address, now));
                }
            }
            if changed.is_empty() {
                return false;
            }
            let published = Arc::make_mut(published);
            for (address, now) in changed {
                published.changes.note(address);
                match now {
                    Some(now) => published.addresses.insert(address, now),
                    None => published.addresses.remove(&address),
                };
            }
            true
        });
    }

    fn announced(
        &self,
        address: IpAddr,
        pools: &BTreeMap<ClusterName, Arc<AnnouncedPool>>,
    ) -> Option<AnnouncedAddress> {
        let services = self.addresses.get(&address)?;
        let pool = self.pool_of(address)?;
        let is_able = services.values().any(|it| it.takes_traffic);
        let local = || services.values().filter(|it| it.local_nodes.is_some());
        let nodes = local().filter_map(|it| it.local_nodes.as_deref());
        let elsewhere = nodes.flatten().filter(|name| **name != self.own);
        let is_here = local().any(|it| it.takes_traffic);
        let here = is_here.then_some(&self.own);
        let local_nodes: BTreeSet<_> = elsewhere.chain(here).cloned().collect();
        Some(AnnouncedAddress {
            pool: pool.clone(),
            announcement: pools.get(pool)?.announcement.clone(),
            is_able,
            lacks_local_endpoint: !is_able
                && services
                    .values()
                    .all(|it| it.refuses && it.local_nodes.is_some()),
            local_nodes: Arc::new(local_nodes),
            is_local: is_here,
            reach: services
                .values()
                .map(|it| it.reach)
                .max()
                .unwrap_or_default(),
        })
    }
}

/// Whether a gateway drains, and why: the end of a sentence. `of_node` is what its Node says.
fn drain_reason(is_asked: bool, of_node: Option<&str>) -> Option<String> {
    match (is_asked, of_node) {
        (true, _) => Some("fairway drain has asked it to".to_owned()),
        (false, Some(why)) => Some(format!("of its Node: {why}")),
        (false, None) => None,
    }
}

/// Whether a listener takes traffic. It does, too, where its endpoints can't be reached: that may be so for every
/// gateway, and is known of none that gets no traffic, so the address would wander.
fn takes_traffic(state: &ListenerState) -> bool {
    match state {
        ListenerState::Listening | ListenerState::Forwarded | ListenerState::Unreachable { .. } => {
            true
        }
        ListenerState::Refusing | ListenerState::Failed { .. } => false,
    }
}

#[cfg(test)]
mod tests;
