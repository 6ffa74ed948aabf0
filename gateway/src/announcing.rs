//! What a gateway may announce: the external addresses of Services whose pool announces, and whether each can be
//! served now. The control task keeps it up to date, and all who announce (`fleet`, BGP) read it.
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
use fairway_gateway_core::build::Builder;
use fairway_gateway_core::segments::candidates;
use tokio::sync::watch;

/// What may be announced.
#[derive(Clone, Debug, Default)]
pub struct Announceable {
    /// The external addresses of Services whose pool announces.
    pub addresses: BTreeMap<IpAddr, AnnouncedAddress>,
    /// The pools that announce.
    pub pools: BTreeMap<ClusterName, Arc<AnnouncedPool>>,
    /// The other gateways.
    pub members: BTreeMap<ClusterName, Arc<FleetMember>>,
    /// What the gateways' messages are authenticated with; none: it is not known yet.
    pub key: Option<Arc<FleetKey>>,
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
}

/// A pool that announces.
#[derive(Debug, PartialEq)]
pub struct AnnouncedPool {
    /// How.
    pub announcement: Arc<Announcement>,
    /// Its addresses, without those that belong to another pool.
    pub ranges: Vec<AddressRange>,
    /// The gateways that may own an address of it on layer 2, this one among them.
    pub owners: BTreeSet<ClusterName>,
    /// Whether this gateway's Node is among those that the pool has tell routers.
    pub is_bgp_here: bool,
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
    /// The addresses of each Service that are in one of `ranges`.
    services: BTreeMap<ServiceName, Box<[IpAddr]>>,
    /// The Services at each of these addresses, and whether a listener of it takes traffic there.
    addresses: BTreeMap<IpAddr, BTreeMap<ServiceName, bool>>,
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
            services: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// What may be announced, now and from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Announceable>> {
        self.sender.subscribe()
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
                _ => {}
            }
        }
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
                owners: owners.map_or_else(BTreeSet::new, |it| select(&it.node_selector)),
                is_bgp_here: tellers
                    .is_some_and(|it| select(&it.node_selector).contains(&self.own)),
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
        let pools: BTreeMap<_, _> = pools.into_iter().map(|(k, it)| (k, Arc::new(it))).collect();
        let (members, key) = (self.members.clone(), self.key.clone());
        self.sender.send_modify(|now| {
            let now = Arc::make_mut(now);
            (now.pools, now.members, now.key) = (pools, members, key);
        });
        if !has_moved {
            self.publish(None);
        }
        has_moved
    }

    /// These are all Services, with their listeners. What was announced goes on being so while they are taken in.
    pub(crate) fn set_services<'a>(
        &mut self,
        all: impl IntoIterator<Item = (&'a ServiceName, Vec<ListenerReport>)>,
    ) {
        self.services.clear();
        self.addresses.clear();
        for (service, listeners) in all {
            self.index(service, &listeners);
        }
        self.publish(None);
    }

    /// A Service has these listeners now; none: it carries no traffic.
    pub(crate) fn set_service(&mut self, service: &ServiceName, listeners: &[ListenerReport]) {
        let touched = self.index(service, listeners);
        if !touched.is_empty() {
            self.publish(Some(touched));
        }
    }

    /// Notes the listeners of a Service. Returns the addresses that it has or had.
    fn index(&mut self, service: &ServiceName, listeners: &[ListenerReport]) -> BTreeSet<IpAddr> {
        let mut now: BTreeMap<IpAddr, bool> = BTreeMap::new();
        for listener in listeners.iter().filter(|it| it.kind == ClaimKind::Vip) {
            let address = listener.listen.0.ip();
            if self.pool_of(address).is_some() {
                *now.entry(address).or_default() |= takes_traffic(&listener.state);
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
            match now.get(address) {
                Some(takes) => services.insert(service.clone(), *takes),
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
        Some(AnnouncedAddress {
            pool: pool.clone(),
            announcement: pools.get(pool)?.announcement.clone(),
            is_able: services.values().any(|takes| *takes),
        })
    }
}

/// Whether a listener takes traffic. It does, too, where its endpoints can't be reached: that may be so for every
/// gateway, and is known of none that gets no traffic, so the address would wander.
fn takes_traffic(state: &ListenerState) -> bool {
    match state {
        ListenerState::Listening | ListenerState::Unreachable { .. } => true,
        ListenerState::Refusing | ListenerState::Failed { .. } => false,
    }
}

#[cfg(test)]
mod tests;
