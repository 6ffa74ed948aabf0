//! From stored objects to [`Route`]s. The cost is that of the change, not that of all Services.
//!
//! [`Builder::apply`] takes objects in and marks the Services whose routes may change; [`Builder::build`] makes
//! these routes anew and returns those that differ from before. Changes that concern all Services (pools, the
//! host's addresses, the gateway's own Node, what an operator drains) are rare and mark all.
//!
//! Reading order: `services`, what is known of each Service; `cluster_state`, what is known besides; `apply`;
//! `claim_requests` and `claims`, who gets which listen address; `candidates`, `forwarded` and `compose`, one route;
//! `endpoint_index` and `reverse_index`, which Services depend on an address or a name.
//!
//! Invariants:
//! - Nothing is built before every object that there was at the start has been delivered.
//! - The routes follow from the objects alone, whatever the order in which they came.
//! - No two routes claim the same address, port and protocol. When a claim passes from one Service to
//!   another, both routes come out of the same [`Builder::build`].
//! - The change of one Service costs the same among 20,000 as alone (`benches/change.rs`).

mod apply;
mod candidates;
mod claim_requests;
mod claims;
mod cluster_state;
mod compose;
mod endpoint_index;
mod forwarded;
mod reverse_index;
mod services;
mod settings;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_config::cluster::Node;
use fairway_config::drained::DrainedEndpoints;
use fairway_config::exchange::StoredService;
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::AddressRange;
use fairway_config::pool::AddressPool;

use self::claims::{Claims, Moved};
use self::cluster_state::ClusterState;
use self::compose::Composed;
use self::endpoint_index::EndpointIndex;
use self::reverse_index::reindex;
use self::services::{Id, ServiceEntry, ServiceIndex, SliceKey, held_addresses, mark};
pub use self::settings::{RouteSettings, ServeNodePorts};
use crate::route::{Resolved, Route};

/// Indexes of the objects, and the routes that were built of them.
#[derive(Debug)]
pub struct Builder {
    cluster: ClusterState,
    services: ServiceIndex,
    /// The Service that each EndpointSlice (and v1 Endpoints: `true`) was last seen to name.
    slice_owners: HashMap<SliceKey, Id>,
    /// The addresses outside every pool that LoadBalancer Services hold, each with the number of these
    /// Services; none: the pools have changed, so they have to be collected anew.
    outside: Option<BTreeMap<IpAddr, usize>>,
    claims: Claims,
    /// The Services that depend on each DNS name.
    names: HashMap<Arc<str>, BTreeSet<Id>>,
    /// DNS names that got their first Service, or lost their last one, since this was last asked.
    changed_names: BTreeSet<Arc<str>>,
    /// Services whose routes depend on the Nodes: [`ServiceEntry::on_nodes`] is set.
    on_nodes: HashSet<Id>,
    /// Services that have an endpoint on the host itself. It must not be a listener of this gateway.
    on_host: HashMap<SocketAddr, BTreeSet<Id>>,
    /// The Services that have an endpoint at an address.
    by_endpoint: EndpointIndex,
    /// Services whose routes the next build makes anew, each once: [`ServiceEntry::dirty`] is set.
    dirty: Vec<Id>,
    /// All Services are dirty: pools, host addresses or the own Node have changed.
    all_dirty: bool,
    /// Services that have changed since [`Self::take_reapplied`], whether their route has or not.
    reapplied: BTreeSet<ServiceName>,
    synced: bool,
}

impl Builder {
    /// A builder without any object.
    pub fn new(settings: RouteSettings) -> Self {
        Self {
            cluster: ClusterState::new(settings),
            services: ServiceIndex::default(),
            slice_owners: HashMap::new(),
            outside: None,
            claims: Claims::default(),
            names: HashMap::new(),
            changed_names: BTreeSet::new(),
            on_nodes: HashSet::new(),
            on_host: HashMap::new(),
            by_endpoint: EndpointIndex::default(),
            dirty: Vec::new(),
            all_dirty: true,
            reapplied: BTreeSet::new(),
            synced: false,
        }
    }

    /// Sets the host's addresses.
    pub fn set_host_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        if self.cluster.host != addresses {
            self.cluster.host = addresses;
            self.all_dirty |= self.settle();
            mark(&mut self.services, &mut self.dirty, &self.on_nodes);
        }
    }

    /// Sets what an operator drains.
    pub fn set_drained(&mut self, drained: Arc<DrainedEndpoints>) {
        if self.cluster.drained != drained {
            self.cluster.drained = drained;
            // That is typed by hand: rarely enough for a look at every Service.
            self.all_dirty = true;
        }
    }

    /// The addresses of the host that belong to no pool and to no Service, with a version number that changes
    /// whenever they do.
    pub fn own_addresses(&self) -> (u64, &BTreeSet<IpAddr>) {
        self.cluster.guard.host()
    }

    /// All pools.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<AddressPool>> {
        self.cluster.pools.values()
    }

    /// The addresses of all pools, each with the pool that it belongs to where several overlap, by first address.
    pub fn pool_ranges(&self) -> impl Iterator<Item = (AddressRange, &ClusterName)> {
        self.cluster.guard.pool_ranges()
    }

    /// All Nodes.
    pub fn nodes(&self) -> &BTreeMap<ClusterName, Arc<Node>> {
        &self.cluster.nodes
    }

    /// The Node that the gateway runs on, if it runs on one of the cluster's.
    pub fn own_node(&self) -> Option<&Node> {
        self.cluster.own_node()
    }

    /// Changes whenever a pool or a Node does.
    pub fn cluster_version(&self) -> u64 {
        self.cluster.version
    }

    /// The DNS names that routes need since the last call (true), or no longer need.
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

    /// Marks the Services that depend on a DNS name, whose addresses have changed.
    pub fn name_changed(&mut self, name: &str) {
        if let Some(services) = self.names.get(name) {
            mark(&mut self.services, &mut self.dirty, services);
        }
    }

    /// Makes the routes of the marked Services, and returns those that have changed, ordered by name; none in
    /// place of a route: the Service carries no traffic here any more. Empty until every object that there was
    /// at the start has been delivered.
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

    /// The Services that have changed since the last call. Their routes may be the same; a report has to say
    /// that the new version is applied.
    pub fn take_reapplied(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.reapplied)
    }

    /// A Service as the store has it.
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

    fn entry(&self, service: &ServiceName) -> Option<&ServiceEntry> {
        self.services.get(self.services.id(service)?)
    }

    /// Brings [`ClusterState`] up to date. Returns whether anything in it has changed.
    fn settle(&mut self) -> bool {
        let outside = self.outside.get_or_insert_with(|| {
            let mut outside = BTreeMap::new();
            for (_, entry) in self.services.iter() {
                let held = held_addresses(entry.stored.as_deref()).iter();
                for address in held.filter(|address| !self.cluster.guard.is_pool(**address)) {
                    *outside.entry(*address).or_default() += 1;
                }
            }
            outside
        });
        self.cluster.settle(outside)
    }

    /// Brings the claims of the dirty Services up to date. Marks the Services that get or lose a claim by
    /// that, and those that have an endpoint where this gateway listens now, or no longer does.
    fn settle_claims(&mut self) {
        let mut moved = Moved::default();
        for id in &self.dirty {
            let entry = self.services.get(*id);
            let stored = entry.and_then(|entry| entry.stored.as_deref());
            let requests = stored
                .map(|stored| claim_requests::claim_requests(stored, &self.cluster))
                .unwrap_or_default();
            let age = stored.map(claim_requests::age).unwrap_or_default();
            self.claims
                .set(&mut self.services, *id, age, requests, &mut moved);
        }
        mark(&mut self.services, &mut self.dirty, &moved.rivals);
        if !self.on_host.is_empty() {
            for (listen, _) in &moved.keys {
                let dialling = self.on_host.get(&listen.0).into_iter().flatten();
                mark(&mut self.services, &mut self.dirty, dialling);
            }
        }
    }

    /// Makes one route anew. Returns it if it has changed.
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
                    cluster: &self.cluster,
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
            self.by_endpoint.replace(id, routes);
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

#[cfg(test)]
mod tests;
