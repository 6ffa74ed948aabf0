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
mod dialled;
mod services;
mod settings;
mod surroundings;
mod wants;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_config::endpoints::EndpointSlice;
use fairway_config::exchange::{Batch, Change, StoredService};
use fairway_config::names::{NamespacedName, ServiceName};
use fairway_config::service::ServiceType;
use fairway_config::view::EndpointRow;

use self::claims::{Claims, Moved};
use self::compose::Composed;
use self::dialled::Dialled;
use self::services::{Id, ServiceEntry, Services, SliceKey};
pub use self::settings::{ServeNodePorts, Settings};
use self::surroundings::Surroundings;
use crate::route::{Resolved, Route};

/// Keeps an index of the objects and the routes made of them.
#[derive(Debug)]
pub struct Builder {
    around: Surroundings,
    services: Services,
    /// The Service that each EndpointSlice (and v1 Endpoints: `true`) was last seen to name.
    slice_owners: HashMap<SliceKey, Id>,
    /// The addresses outside every pool that LoadBalancer Services hold, each with their number;
    /// none: they are to be gathered anew, because the pools have changed.
    outside: Option<BTreeMap<IpAddr, usize>>,
    claims: Claims,
    /// Who depends on each DNS name.
    names: HashMap<Arc<str>, BTreeSet<Id>>,
    /// DNS names that somebody has come to depend on, or nobody does any more.
    changed_names: BTreeSet<Arc<str>>,
    /// Services whose routes depend on the Nodes: [`ServiceEntry::on_nodes`] is set.
    on_nodes: HashSet<Id>,
    /// Services with an endpoint on the host itself: one's own listeners must not be among them.
    on_host: HashMap<SocketAddr, BTreeSet<Id>>,
    /// Who names which address as an endpoint's.
    dialled: Dialled,
    /// Services whose routes are to be made anew, each once: [`ServiceEntry::dirty`] is set.
    dirty: Vec<Id>,
    /// What surrounds all Services has changed.
    all_dirty: bool,
    /// Services that have come in another form, whether their route is another one or not.
    reapplied: BTreeSet<ServiceName>,
    synced: bool,
}

impl Builder {
    /// A builder that knows of nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            around: Surroundings::new(settings),
            services: Services::default(),
            slice_owners: HashMap::new(),
            outside: None,
            claims: Claims::default(),
            names: HashMap::new(),
            changed_names: BTreeSet::new(),
            on_nodes: HashSet::new(),
            on_host: HashMap::new(),
            dialled: Dialled::default(),
            dirty: Vec::new(),
            all_dirty: true,
            reapplied: BTreeSet::new(),
            synced: false,
        }
    }

    /// Takes changes in and marks what they touch.
    pub fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                Change::Service(name, stored) => self.apply_service(name, stored.as_ref()),
                Change::EndpointSlice(name, from_endpoints, slice) => {
                    self.apply_slice(name, *from_endpoints, slice.as_ref());
                }
                Change::Node(name, node) => {
                    let own = self.around.settings.node_name.as_ref() == Some(name);
                    if self.around.set_node(name, node.as_ref()) {
                        mark(&mut self.services, &mut self.dirty, &self.on_nodes);
                        self.all_dirty |= own;
                    }
                }
                Change::Pool(name, pool) => {
                    if self.around.set_pool(name, pool.as_ref()) {
                        self.outside = None;
                        self.all_dirty = true;
                    }
                }
                Change::Namespace(..)
                | Change::Secret(..)
                | Change::PoolStatus(..)
                | Change::Report(..)
                | Change::Gateway(..) => {}
            }
        }
        self.synced |= batch.synced;
    }

    /// The host's addresses are now these.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        if self.around.host != addresses {
            self.around.host = addresses;
            self.all_dirty |= self.settle();
            mark(&mut self.services, &mut self.dirty, &self.on_nodes);
        }
    }

    /// The addresses of the host that are nobody else's: no pool's and no Service's. With a number that
    /// is another one whenever they have changed.
    pub fn own_addresses(&self) -> (u64, &BTreeSet<IpAddr>) {
        self.around.guard.host()
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
        self.entry(service)
            .into_iter()
            .flat_map(|entry| &entry.names)
    }

    /// The Services whose routes depend on a DNS name, in no order.
    pub fn services_of(&self, name: &str) -> impl Iterator<Item = &ServiceName> {
        let ids = self.names.get(name).into_iter().flatten();
        ids.filter_map(|id| Some(&self.services.get(*id)?.name))
    }

    /// A name now stands for other addresses.
    pub fn name_changed(&mut self, name: &str) {
        if let Some(services) = self.names.get(name) {
            mark(&mut self.services, &mut self.dirty, services);
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
            self.settle();
            let all: Vec<_> = self.services.iter().map(|(id, _)| id).collect();
            mark(&mut self.services, &mut self.dirty, &all);
        }
        self.settle_claims();
        let mut changed = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            changed.extend(self.rebuild(id, resolved));
        }
        changed.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        changed
    }

    /// The Services that have come in another form since this was last asked: their routes may be the
    /// same, and people are to be told that they are of this form now.
    pub fn take_reapplied(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.reapplied)
    }

    /// A Service as it is known.
    pub fn stored(&self, service: &ServiceName) -> Option<&Arc<StoredService>> {
        self.entry(service)?.stored.as_ref()
    }

    /// The route of a Service, as of the last [`Self::build`].
    pub fn route(&self, service: &ServiceName) -> Option<&Arc<Route>> {
        self.entry(service)?.route.as_ref()
    }

    /// All routes ordered by name, as of the last [`Self::build`].
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let entries = self.services.iter();
        let mut routes: Vec<_> = entries
            .filter_map(|(_, entry)| entry.route.as_ref())
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

    fn entry(&self, service: &ServiceName) -> Option<&ServiceEntry> {
        self.services.get(self.services.id(service)?)
    }

    fn apply_service(&mut self, name: &ServiceName, stored: Option<&Arc<StoredService>>) {
        let id = match stored {
            Some(_) => Some(self.services.id_or_new(name)),
            None => self.services.id(name),
        };
        let Some(entry) = id.and_then(|id| self.services.get_mut(id)) else {
            return;
        };
        let old = std::mem::replace(&mut entry.stored, stored.cloned());
        if is_alike(old.as_deref(), stored.map(Arc::as_ref)) {
            return;
        }
        self.reapplied.insert(name.clone());
        mark(&mut self.services, &mut self.dirty, &id);
        let (before, now) = (held(old.as_deref()), held(stored.map(Arc::as_ref)));
        if before != now {
            self.hold(before, now);
        }
        let (before, now) = (
            cluster_ips(old.as_deref()),
            cluster_ips(stored.map(Arc::as_ref)),
        );
        if before != now {
            self.have_cluster_ips(name, before, now);
        }
    }

    /// A Service has the cluster IPs `now`, in place of those in `before`: whoever names one of them
    /// as an endpoint's, or did, is looked at again.
    fn have_cluster_ips(&mut self, name: &ServiceName, before: &[IpAddr], now: &[IpAddr]) {
        for (addresses, has) in [(before, false), (now, true)] {
            for address in addresses {
                self.around.guard.set_cluster_ip(*address, name, has);
                let dialling: Vec<_> = self.dialled.by(*address).collect();
                mark(&mut self.services, &mut self.dirty, &dialling);
            }
        }
    }

    /// Somebody holds the addresses `now`, in place of those in `before`.
    fn hold(&mut self, before: &[IpAddr], now: &[IpAddr]) {
        let Some(outside) = &mut self.outside else {
            return;
        };
        let guard = &self.around.guard;
        for address in before.iter().filter(|address| !guard.is_pool(**address)) {
            if let Some(count) = outside.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    outside.remove(address);
                    self.all_dirty = true;
                }
            }
        }
        for address in now.iter().filter(|address| !guard.is_pool(**address)) {
            let count = outside.entry(*address).or_default();
            *count += 1;
            self.all_dirty |= *count == 1;
        }
    }

    /// Works out what surrounds all Services; whether it is something else than before.
    fn settle(&mut self) -> bool {
        let outside = self.outside.get_or_insert_with(|| {
            let mut outside = BTreeMap::new();
            for (_, entry) in self.services.iter() {
                let held = held(entry.stored.as_deref()).iter();
                for address in held.filter(|address| !self.around.guard.is_pool(**address)) {
                    *outside.entry(*address).or_default() += 1;
                }
            }
            outside
        });
        self.around.settle(outside)
    }

    fn apply_slice(
        &mut self,
        name: &NamespacedName,
        from_endpoints: bool,
        slice: Option<&Arc<EndpointSlice>>,
    ) {
        let owner = slice.and_then(|slice| slice.service.as_ref());
        let owner = owner.map(|owner| self.services.id_or_new(owner));
        // Nearly always it is there already, and its owner's.
        if let Some(entry) = owner.and_then(|owner| self.services.get_mut(owner))
            && let Ok(at) = entry.slice(from_endpoints, name)
            && let (Some(place), Some(slice)) = (entry.slices.get_mut(at), slice)
        {
            let before = std::mem::replace(place, slice.clone());
            if entry.stored.is_some() && before != *slice {
                mark(&mut self.services, &mut self.dirty, &owner);
            }
            return;
        }
        let key = (from_endpoints, name.clone());
        let before = match owner {
            Some(owner) => self.slice_owners.insert(key, owner),
            None => self.slice_owners.remove(&key),
        };
        if let Some(entry) = before.and_then(|before| self.services.get_mut(before))
            && let Ok(at) = entry.slice(from_endpoints, name)
        {
            entry.slices.remove(at);
            mark(&mut self.services, &mut self.dirty, &before);
        }
        if let Some(entry) = owner.and_then(|owner| self.services.get_mut(owner))
            && let (Err(at), Some(slice)) = (entry.slice(from_endpoints, name), slice)
        {
            entry.slices.reserve_exact(1);
            entry.slices.insert(at, slice.clone());
            if entry.stored.is_some() {
                mark(&mut self.services, &mut self.dirty, &owner);
            }
        }
    }

    /// Brings the claims of the dirty Services up to date, and marks those who win or lose one by
    /// it, and those who dial a place that has become a listener of ours or is one no more.
    fn settle_claims(&mut self) {
        let mut moved = Moved::default();
        for id in &self.dirty {
            let entry = self.services.get(*id);
            let stored = entry.and_then(|entry| entry.stored.as_deref());
            let wants = stored
                .map(|stored| wants::wants(stored, &self.around))
                .unwrap_or_default();
            let age = stored.map(wants::age).unwrap_or_default();
            self.claims
                .set(&mut self.services, *id, age, wants, &mut moved);
        }
        mark(&mut self.services, &mut self.dirty, &moved.rivals);
        if !self.on_host.is_empty() {
            for (listen, _) in &moved.places {
                let dialling = self.on_host.get(&listen.0).into_iter().flatten();
                mark(&mut self.services, &mut self.dirty, dialling);
            }
        }
    }

    /// Makes one route anew; the outcome, if it is another one than before.
    fn rebuild(
        &mut self,
        id: Id,
        resolved: Resolved<'_>,
    ) -> Option<(ServiceName, Option<Arc<Route>>)> {
        let entry = self.services.get(id)?;
        let composed = match &entry.stored {
            Some(stored) => {
                let parts = compose::Parts {
                    id,
                    entry,
                    stored,
                    services: &self.services,
                    around: &self.around,
                    claims: &self.claims,
                    resolved,
                };
                compose::compose(&parts)
            }
            None => Composed::default(),
        };
        let entry = self.services.get_mut(id)?;
        entry.dirty = false;
        if entry.on_nodes != composed.on_nodes {
            entry.on_nodes = composed.on_nodes;
            if composed.on_nodes {
                self.on_nodes.insert(id);
            } else {
                self.on_nodes.remove(&id);
            }
        }
        let changed = reindex(&mut self.names, &mut entry.names, composed.names, id);
        self.changed_names.extend(changed);
        reindex(&mut self.on_host, &mut entry.on_host, composed.on_host, id);
        let same = entry.route.as_deref() == composed.route.as_ref();
        if !same {
            let routes = (entry.route.as_deref(), composed.route.as_ref());
            self.dialled.replace(id, routes);
        }
        let outcome = (!same).then(|| {
            entry.route = composed.route.map(Arc::new);
            (entry.name.clone(), entry.route.clone())
        });
        if entry.is_empty() {
            self.services.remove(id);
        }
        outcome
    }
}

/// Has the routes of these made anew.
fn mark<'a>(services: &mut Services, dirty: &mut Vec<Id>, ids: impl IntoIterator<Item = &'a Id>) {
    for id in ids {
        if let Some(entry) = services.get_mut(*id)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            dirty.push(*id);
        }
    }
}

/// Whether two forms of a Service come to the same route: its status changes with every word of a
/// gateway, this gateway's included, and is nothing to go by.
fn is_alike(a: Option<&StoredService>, b: Option<&StoredService>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            a.held == b.held
                && a.first_seen == b.first_seen
                && (Arc::ptr_eq(&a.service, &b.service) || a.service == b.service)
        }
        (None, None) => true,
        _ => false,
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

fn cluster_ips(stored: Option<&StoredService>) -> &[IpAddr] {
    stored.map_or(&[], |stored| &stored.service.cluster_ips)
}

/// A Service depends on the keys `now`, no longer on those in `before`, both in order. Returns the
/// keys that it is the first one to depend on, or was the last one to.
fn reindex<K: Clone + Ord + Hash>(
    index: &mut HashMap<K, BTreeSet<Id>>,
    before: &mut Box<[K]>,
    now: Box<[K]>,
    service: Id,
) -> Vec<K> {
    let mut changed = Vec::new();
    if *before == now {
        return changed;
    }
    for key in before.iter().filter(|key| now.binary_search(key).is_err()) {
        if let Some(services) = index.get_mut(key) {
            services.remove(&service);
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
        services.insert(service);
    }
    *before = now;
    changed
}

#[cfg(test)]
mod tests;
