//! From stored objects to [`Route`]s, at the cost of what changed.
//!
//! [`Builder::apply`] takes objects in and marks the Services they touch; [`Builder::build`] makes
//! the routes of those anew and hands out the ones that came out different. What touches everything
//! (pools, the host's addresses, the gateway's own Node) is rare and marks everything.
//!
//! Invariants:
//! - Nothing is built before every object that there was at the start has been delivered.
//! - The routes follow from the objects alone, whatever the order they came in.
//! - No two routes claim the same address, port and protocol. When a claim changes hands, the one
//!   that lets go and the one that takes it come out of the same [`Builder::build`].
//! - One Service's change costs the same among 20,000 as alone (`benches/change.rs`).

mod candidates;
mod claims;
mod compose;
mod surroundings;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_config::endpoints::EndpointSlice;
use fairway_config::exchange::{Batch, Change, StoredService};
use fairway_config::names::{ClusterName, NamespacedName, ServiceName};
use fairway_config::service::{ForwardTo, ServiceType};
use fairway_config::view::EndpointRow;

use self::claims::Claims;
use self::compose::Composed;
use self::surroundings::Surroundings;
use crate::route::{Resolved, Route};

/// What a gateway is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's name, in notices.
    pub gateway: ClusterName,
    /// The Node it runs on, if it runs on one.
    pub node_name: Option<ClusterName>,
    /// The zone it is in, where its Node does not say so.
    pub zone: Option<Arc<str>>,
    /// Where traffic is sent, unless a Service says otherwise.
    pub forward_to: ForwardTo,
    /// The `loadBalancerClass` of the Services that are ours.
    pub class: Arc<str>,
    /// Whether LoadBalancer Services without a class are ours, too.
    pub default_class: bool,
    /// Lets loopback and the host's own addresses be dialled, the gateway's own listeners excepted.
    pub allow_loopback: bool,
    /// What the process listens on for itself (admin, metrics): never dialled. The unspecified
    /// address stands for all of the host's.
    pub admin: Vec<SocketAddr>,
    /// Whether node ports are served, and health check ports with them.
    pub serve_node_ports: bool,
    /// Where node ports are served. None: on every address of the host but
    /// - those of pools and those that a Service holds: they may belong to another Service;
    /// - IPv6 link-local ones, which mean nothing without an interface, and multicast;
    /// - loopback ones other than `127.0.0.1` and `::1`. These two are served, as kube-proxy's
    ///   iptables mode does: `curl localhost:30080` is what people try first.
    ///
    /// The first rule holds for listed ones as well.
    pub node_addresses: Option<Vec<IpAddr>>,
}

/// Keeps an index of the objects and the routes made of them.
#[derive(Debug)]
pub struct Builder {
    around: Surroundings,
    services: HashMap<ServiceName, Entry>,
    /// The Service that each EndpointSlice (and v1 Endpoints: `true`) was last seen to name.
    slice_owners: HashMap<SliceKey, ServiceName>,
    /// How many LoadBalancer Services hold each address.
    held: HashMap<IpAddr, usize>,
    claims: Claims,
    /// Who depends on each DNS name.
    names: HashMap<Arc<str>, BTreeSet<ServiceName>>,
    /// DNS names that somebody has come to depend on, or nobody does any more.
    changed_names: BTreeSet<Arc<str>>,
    /// Services whose routes depend on the Nodes.
    on_nodes: HashSet<ServiceName>,
    /// Services with an endpoint on the host itself: one's own listeners must not be among them.
    on_host: HashMap<SocketAddr, BTreeSet<ServiceName>>,
    dirty: BTreeSet<ServiceName>,
    /// What surrounds all Services has changed.
    all_dirty: bool,
    synced: bool,
}

/// A v1 Endpoints (`true`) and an EndpointSlice may have the same name. Slices come first.
type SliceKey = (bool, NamespacedName);

/// One Service and what belongs to it.
#[derive(Debug, Default)]
struct Entry {
    stored: Option<Arc<StoredService>>,
    /// In the order of their keys. Nearly always one: a map would take the room of eleven.
    slices: Vec<(SliceKey, Arc<EndpointSlice>)>,
    route: Option<Arc<Route>>,
    /// The DNS names that its route depends on, in order.
    names: Box<[Arc<str>]>,
    /// Its endpoints on the host itself, in order.
    on_host: Box<[SocketAddr]>,
}

impl Entry {
    /// Takes a slice in. Returns the one that had its key.
    fn put_slice(
        &mut self,
        key: SliceKey,
        slice: Arc<EndpointSlice>,
    ) -> Option<Arc<EndpointSlice>> {
        let at = self.slices.partition_point(|(other, _)| *other < key);
        match self.slices.get_mut(at) {
            Some((other, before)) if *other == key => Some(std::mem::replace(before, slice)),
            _ => {
                self.slices.reserve_exact(1);
                self.slices.insert(at, (key, slice));
                None
            }
        }
    }
}

impl Builder {
    /// A builder that knows of nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            around: Surroundings::new(settings),
            services: HashMap::new(),
            slice_owners: HashMap::new(),
            held: HashMap::new(),
            claims: Claims::default(),
            names: HashMap::new(),
            changed_names: BTreeSet::new(),
            on_nodes: HashSet::new(),
            on_host: HashMap::new(),
            dirty: BTreeSet::new(),
            all_dirty: true,
            synced: false,
        }
    }

    /// Takes changes in and marks what they touch.
    pub fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                Change::Service(name, stored) => self.apply_service(name, stored.as_ref()),
                Change::EndpointSlice(name, from_endpoints, slice) => {
                    self.apply_slice((*from_endpoints, name.clone()), slice.as_ref());
                }
                Change::Node(name, node) => {
                    let own = self.around.settings.node_name.as_ref() == Some(name);
                    if self.around.set_node(name, node.as_ref()) {
                        self.dirty.extend(self.on_nodes.iter().cloned());
                        self.all_dirty |= own;
                    }
                }
                Change::Pool(name, pool) => {
                    self.all_dirty |= self.around.set_pool(name, pool.as_ref());
                }
                Change::Namespace(..) | Change::Secret(..) | Change::Report(..) => {}
            }
        }
        self.synced |= batch.synced;
    }

    /// The host's addresses are now these.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        if self.around.host != addresses {
            self.around.host = addresses;
            self.all_dirty |= self.around.settle(&self.held);
            self.dirty.extend(self.on_nodes.iter().cloned());
        }
    }

    /// The DNS names that routes have come to need the addresses of (true), or need no more, since
    /// this was last asked.
    pub fn take_changed_names(&mut self) -> BTreeMap<Arc<str>, bool> {
        let changed = std::mem::take(&mut self.changed_names);
        let needed = |name: Arc<str>| {
            let is_needed = self.names.contains_key(&name);
            (name, is_needed)
        };
        changed.into_iter().map(needed).collect()
    }

    /// The DNS names that a Service's route depends on.
    pub fn names_of(&self, service: &ServiceName) -> impl Iterator<Item = &Arc<str>> {
        self.services
            .get(service)
            .into_iter()
            .flat_map(|entry| &entry.names)
    }

    /// The Services whose routes depend on a DNS name.
    pub fn services_of(&self, name: &str) -> impl Iterator<Item = &ServiceName> {
        self.names.get(name).into_iter().flatten()
    }

    /// A name now stands for other addresses.
    pub fn name_changed(&mut self, name: &str) {
        if let Some(services) = self.names.get(name) {
            self.dirty.extend(services.iter().cloned());
        }
    }

    /// Makes the routes of what was touched since the last call, and returns those that came out
    /// different, ordered by name; nothing in place of a route: the Service carries no traffic here
    /// any more. Empty until every object has been delivered.
    pub fn build(&mut self, resolved: Resolved<'_>) -> Vec<(ServiceName, Option<Arc<Route>>)> {
        if !self.synced {
            return Vec::new();
        }
        if std::mem::take(&mut self.all_dirty) {
            self.around.settle(&self.held);
            self.dirty.extend(self.services.keys().cloned());
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        self.settle_claims(&mut dirty);
        let mut changed = Vec::new();
        for name in dirty {
            if let Some(route) = self.rebuild(&name, resolved) {
                changed.push((name, route));
            }
        }
        changed
    }

    /// The route of a Service, as of the last [`Self::build`].
    pub fn route(&self, service: &ServiceName) -> Option<&Arc<Route>> {
        self.services.get(service)?.route.as_ref()
    }

    /// All routes ordered by name, as of the last [`Self::build`].
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let mut routes: Vec<_> = self
            .services
            .values()
            .filter_map(|entry| entry.route.as_ref())
            .collect();
        routes.sort_by(|a, b| a.service.cmp(&b.service));
        routes.into_iter()
    }

    /// Every endpoint of a Service and how it is, by port and address. `active` is 0: connections
    /// are counted elsewhere.
    pub fn explain_endpoints(&self, service: &ServiceName) -> Vec<EndpointRow> {
        self.route(service)
            .map(|route| compose::explain(route))
            .unwrap_or_default()
    }

    fn apply_service(&mut self, name: &ServiceName, stored: Option<&Arc<StoredService>>) {
        let entry = self.services.entry(name.clone()).or_default();
        if entry.stored.as_ref() == stored {
            return;
        }
        let before = std::mem::replace(&mut entry.stored, stored.cloned());
        self.dirty.insert(name.clone());
        for address in held(before.as_deref()) {
            if let Some(count) = self.held.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    self.held.remove(address);
                    self.all_dirty |= !self.around.guard.is_pool(*address);
                }
            }
        }
        for address in held(stored.map(Arc::as_ref)) {
            let count = self.held.entry(*address).or_default();
            *count += 1;
            self.all_dirty |= *count == 1 && !self.around.guard.is_pool(*address);
        }
    }

    fn apply_slice(&mut self, key: SliceKey, slice: Option<&Arc<EndpointSlice>>) {
        let owner = slice.and_then(|slice| slice.service.clone());
        let before = match &owner {
            Some(owner) => self.slice_owners.insert(key.clone(), owner.clone()),
            None => self.slice_owners.remove(&key),
        };
        if let Some(before) = before.filter(|before| owner.as_ref() != Some(before))
            && let Some(entry) = self.services.get_mut(&before)
        {
            entry.slices.retain(|(other, _)| *other != key);
            self.dirty.insert(before);
        }
        if let (Some(owner), Some(slice)) = (owner, slice) {
            let entry = self.services.entry(owner.clone()).or_default();
            let before = entry.put_slice(key, slice.clone());
            if entry.stored.is_some() && before.as_ref() != Some(slice) {
                self.dirty.insert(owner);
            }
        }
    }

    /// Brings the claims of the dirty Services up to date, and marks those who win or lose one by
    /// it, and those who dial a place that has become a listener of ours or is one no more.
    fn settle_claims(&mut self, dirty: &mut BTreeSet<ServiceName>) {
        let mut touched = Vec::new();
        for name in dirty.iter() {
            let stored = self
                .services
                .get(name)
                .and_then(|entry| entry.stored.as_deref());
            let wants = stored
                .map(|stored| claims::wants(stored, &self.around))
                .unwrap_or_default();
            let age = stored.map(claims::age).unwrap_or_default();
            self.claims.set(name, age, wants, &mut touched);
        }
        for moved in touched {
            dirty.extend(moved.others);
            if let Some(services) = self.on_host.get(&moved.place.0.0) {
                dirty.extend(services.iter().cloned());
            }
        }
    }

    /// Makes one route anew; the outcome, if it is another one than before.
    fn rebuild(
        &mut self,
        name: &ServiceName,
        resolved: Resolved<'_>,
    ) -> Option<Option<Arc<Route>>> {
        let entry = self.services.get_mut(name)?;
        let composed = match &entry.stored {
            Some(stored) => {
                let parts = compose::Parts {
                    stored,
                    slices: &entry.slices,
                    before: entry.route.as_deref(),
                    around: &self.around,
                    claims: &self.claims,
                    resolved,
                };
                compose::compose(&parts)
            }
            None => Composed::default(),
        };
        if composed.on_nodes {
            self.on_nodes.insert(name.clone());
        } else {
            self.on_nodes.remove(name);
        }
        let changed = reindex(&mut self.names, &mut entry.names, composed.names, name);
        self.changed_names.extend(changed);
        reindex(
            &mut self.on_host,
            &mut entry.on_host,
            composed.on_host,
            name,
        );
        let same = entry.route.as_deref() == composed.route.as_ref();
        if !same {
            entry.route = composed.route.map(Arc::new);
        }
        let route = entry.route.clone();
        if entry.stored.is_none() && entry.slices.is_empty() {
            self.services.remove(name);
        }
        (!same).then_some(route)
    }
}

/// The addresses that a Service holds as far as they count: a Service that is a LoadBalancer no
/// more is about to let go of them.
fn held(stored: Option<&StoredService>) -> &[IpAddr] {
    match stored {
        Some(stored) if stored.service.kind == ServiceType::LoadBalancer => &stored.held.addresses,
        _ => &[],
    }
}

/// A Service depends on the keys `now`, no longer on those in `before`. Returns the keys that it is
/// the first one to depend on, or was the last one to.
fn reindex<K: Clone + Ord + Hash>(
    index: &mut HashMap<K, BTreeSet<ServiceName>>,
    before: &mut Box<[K]>,
    now: BTreeSet<K>,
    service: &ServiceName,
) -> Vec<K> {
    let mut changed = Vec::new();
    if before.iter().eq(&now) {
        return changed;
    }
    for key in before.iter().filter(|key| !now.contains(*key)) {
        if let Some(services) = index.get_mut(key) {
            services.remove(service);
            if services.is_empty() {
                index.remove(key);
                changed.push(key.clone());
            }
        }
    }
    for key in now.iter().filter(|key| before.binary_search(key).is_err()) {
        let services = index.entry(key.clone()).or_default();
        if services.is_empty() {
            changed.push(key.clone());
        }
        services.insert(service.clone());
    }
    *before = now.into_iter().collect();
    changed
}

#[cfg(test)]
mod tests;
