//! The state of a controller: takes in changes, and answers with what has to be written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::cluster::Node;
use fairway_config::exchange::{Batch, Change, PoolStatus, Report, StoredService, Write};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::pool::AddressPool;
use fairway_config::time::Timestamp;
use fairway_config::view::Section;

use crate::allocations::Allocations;
use crate::assign::{blocked, release, waits_after_removal};
use crate::count_labels::ProgrammedCount;
use crate::counts::{
    AddressOwner, Counts, NodePortCounts, PoolView, ServiceCounts, ServiceTraffic,
};
use crate::events::Event;
use crate::explain;
use crate::gateways::GatewayTable;
use crate::index::{Index, IndexedService, Standing};
use crate::layer2;
use crate::node_port_requester::{self, NodePortRequester};
use crate::peers::PeerTable;
use crate::pools::Pools;
use crate::queue::{QueueKey, ServiceSlot, WaitsFor};
use crate::settings::Settings;
use crate::status;
use crate::wants;

/// The state of a controller. [`State::apply`] takes in changes, [`State::settle`] decides.
#[derive(Debug)]
pub struct State {
    pub(crate) allocations: Allocations,
    pub(crate) index: Index,
    pools: BTreeMap<ClusterName, Arc<AddressPool>>,
    /// What was last made of each pool, by this controller or by an earlier one.
    pool_statuses: BTreeMap<ClusterName, PoolStatus>,
    /// Those whose status was not taken.
    unwritten_pools: BTreeSet<ClusterName>,
    pools_changed: bool,
    pub(crate) gateways: GatewayTable,
    pub(crate) peers: PeerTable,
    /// Services that have to be assigned again.
    pub(crate) changed: BTreeSet<ServiceSlot>,
    /// Services whose status has to be made again.
    pub(crate) restated: BTreeSet<ServiceSlot>,
    /// Services for which the API server has to be asked for node ports.
    node_port_requester: NodePortRequester,
    /// Events that no status tells.
    pub(crate) events: Vec<(ServiceName, Event)>,
    /// The waits that may be over because Services were removed.
    pub(crate) wakes: Vec<WaitsFor>,
    services: ServiceCounts,
    programmed: BTreeMap<ProgrammedCount, usize>,
    synced: bool,
}

/// How many statuses are made again in one call of `settle` where no address and no port has
/// changed.
const RESTATED_AT_ONCE: usize = 128;

impl State {
    /// An empty state. It decides nothing before a batch says `synced`.
    pub fn new(settings: Settings) -> Self {
        Self {
            gateways: GatewayTable::new(settings.gateways_tell),
            allocations: Allocations::new(settings),
            index: Index::default(),
            pools: BTreeMap::new(),
            pool_statuses: BTreeMap::new(),
            unwritten_pools: BTreeSet::new(),
            pools_changed: false,
            peers: PeerTable::default(),
            changed: BTreeSet::new(),
            restated: BTreeSet::new(),
            node_port_requester: NodePortRequester::default(),
            events: Vec::new(),
            wakes: Vec::new(),
            services: ServiceCounts::default(),
            programmed: ProgrammedCount::ALL.map(|it| (it, 0)).into(),
            synced: false,
        }
    }

    /// Takes in changes and decides nothing. Its cost does not depend on the number of Services.
    pub fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                Change::Service(name, Some(stored)) => self.put_service(name, stored),
                Change::Service(name, None) => self.remove_service(name),
                Change::Namespace(name, namespace) => {
                    match namespace {
                        Some(namespace) => {
                            let namespaces = &mut self.allocations.namespaces;
                            namespaces.insert(Arc::clone(name), Arc::clone(namespace));
                        }
                        None => {
                            self.allocations.namespaces.remove(name);
                        }
                    }
                    self.changed.extend(self.index.in_namespace(name));
                }
                Change::Pool(name, pool) => {
                    match pool {
                        Some(pool) => {
                            let pool = self.allocations.settings.judged(pool);
                            self.pools.insert(Arc::clone(name), pool);
                        }
                        None => {
                            self.pools.remove(name);
                            self.pool_statuses.remove(name);
                            self.unwritten_pools.remove(name);
                        }
                    }
                    self.pools_changed = true;
                }
                Change::PoolStatus(name, status) => {
                    let statuses = &mut self.pool_statuses;
                    let said = || PoolStatus::clone(status);
                    statuses.entry(Arc::clone(name)).or_insert_with(said);
                }
                Change::Report(name, gateway, report) => {
                    self.put_report(name, gateway, report.as_ref());
                }
                Change::Gateway(name, status) => {
                    self.peers.touch(self.gateways.get(name), status.as_deref());
                    let concerned = self.gateways.put(name, status.as_ref());
                    if concerned.all {
                        self.restated.extend(self.index.slots());
                    }
                    let revisions = concerned.revisions.into_iter();
                    let changed = revisions.flat_map(|range| self.gateways.changed(range));
                    self.restated.extend(changed);
                    for namespace in &concerned.namespaces {
                        self.restated.extend(self.index.in_namespace(namespace));
                    }
                }
                Change::Node(name, node) => {
                    self.peers.put_node(name, node.is_some());
                    self.put_node(name, node.as_deref());
                }
                Change::BgpPeer(name, peer) => self.peers.put(name, peer.as_ref()),
                Change::BgpPeerStatus(name, status) => self.peers.put_status(name, status),
                Change::Address(address, gateway, report) => {
                    if let Some(report) = report {
                        let probes = &mut self.allocations.probes;
                        probes.hear(*address, gateway, report);
                    }
                    let gateways = &mut self.gateways;
                    if gateways.put_address(*address, gateway, report.as_ref()) {
                        self.restate_holders(*address);
                    }
                }
                Change::EndpointSlice(..)
                | Change::Secret(..)
                | Change::PeerPassword(..)
                | Change::Probing(..)
                | Change::Member(..)
                | Change::FleetKey(..) => {}
            }
        }
        self.synced |= batch.synced;
    }

    /// Assigns what can be assigned, and answers with what has to be written: nothing before the
    /// first lists are complete, and nothing where everything is as it should be.
    ///
    /// `now` becomes the transition time of conditions that change.
    pub fn settle(&mut self, now: Timestamp) -> Vec<Write> {
        if !self.synced {
            return Vec::new();
        }
        if std::mem::take(&mut self.pools_changed) {
            self.rebuild_pools();
        }
        for address in self.gateways.review_addresses(now) {
            self.restate_holders(address);
        }
        self.take_back_aside(now);
        self.conclude_probes(now);
        let given = self.assign_changed(now);
        for slot in &given {
            self.restated.remove(slot);
        }
        // A report of a gateway may concern all Services at once. A Service that needs an address
        // meanwhile waits for a few of these statuses at most.
        let mut restated = std::mem::take(&mut self.restated);
        if let Some(first) = restated.iter().nth(RESTATED_AT_ONCE).copied() {
            self.restated = restated.split_off(&first);
        }

        // Grants first, in the order in which they were made, releases last: after a crash in
        // between the next controller finds the rest undone, and decides the same.
        for slot in &given {
            let service = self.index.get(*slot).map(|entry| &entry.stored.service);
            if service.is_some_and(|it| wants::asks_for_numbers(&self.allocations.settings, it)) {
                self.node_port_requester.add(*slot);
            }
        }
        let lets_go = |slot: &ServiceSlot| self.index.get(*slot).is_some_and(|entry| entry.lets_go);
        let (releases, grants): (Vec<ServiceSlot>, Vec<ServiceSlot>) =
            given.into_iter().chain(restated).partition(lets_go);
        let (mut writes, mut written) = (Vec::new(), BTreeSet::new());
        for slot in grants.into_iter().chain(releases) {
            let write = self.plan_service(slot, now);
            if write.is_some() {
                written.insert(slot);
            }
            writes.extend(write);
        }
        let (questions, news) =
            self.node_port_requester
                .plan(&mut self.allocations, &mut self.index, &written);
        writes.extend(questions);
        for slot in news {
            writes.extend(self.plan_service(slot, now));
        }
        self.allocations.show_probes();
        self.plan_pools(now, &mut writes);
        writes.extend(self.peers.plan(&self.gateways, now));
        writes
    }

    /// Whether [`State::settle`] has left something for its next call.
    pub fn has_more(&self) -> bool {
        self.synced && !self.restated.is_empty()
    }

    /// A write of this Service failed: the next `settle` plans it again. What the write gave stays
    /// taken until the store shows a newer version, because an earlier write may have succeeded
    /// without an answer.
    pub fn refused(&mut self, name: &ServiceName) {
        let slot = self.index.slot(name);
        if let Some(entry) = slot.and_then(|slot| self.index.get_mut(slot)) {
            entry.written = None;
            self.restated.extend(slot);
        }
    }

    /// The API server refused the node ports that it was asked for, and says why. `blames_number`:
    /// one of them is not free; else there is another reason. Other numbers, or the same ones, are
    /// asked for after [`State::refused_node_ports`].
    pub fn rejected_node_ports(&mut self, name: &ServiceName, why: &str, blames_number: bool) {
        let slot = self.index.slot(name);
        if let Some(entry) = slot.and_then(|slot| self.index.get_mut(slot)) {
            let slot = entry.rank.slot;
            node_port_requester::refused(&mut self.allocations, slot, entry, why, blames_number);
            self.restated.insert(slot);
        }
    }

    /// The request for the node ports of this Service has to be sent again.
    pub fn refused_node_ports(&mut self, name: &ServiceName) {
        let slot = self.index.slot(name);
        if let Some(entry) = slot.and_then(|slot| self.index.get_mut(slot)) {
            node_port_requester::again(entry);
            self.node_port_requester.add(entry.rank.slot);
        }
    }

    /// A write of this pool's status failed: the next `settle` plans it again.
    pub fn refused_pool(&mut self, name: &str) {
        // The status stays known: its conditions have changed when they did, and not with the next try.
        let mut pools = self.allocations.pools.iter_mut();
        if let Some(pool) = pools.find(|pool| **pool.name() == *name) {
            self.unwritten_pools.insert(Arc::clone(pool.name()));
            pool.touch();
        }
    }

    /// A write of this BGPPeer's status failed: the next `settle` plans it again.
    pub fn refused_bgp_peer(&mut self, name: &ClusterName) {
        self.peers.refused(name);
    }

    /// Whether the first lists are complete.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Why a Service has the address and the node ports that it has: sections `Address`,
    /// `Node ports`, `Traffic` and `Source`. Nothing where there is no such Service.
    pub fn explain(&self, name: &ServiceName) -> Option<Vec<Section>> {
        let entry = self.index.get(self.index.slot(name)?)?;
        Some(explain::explain(&self.allocations, &self.gateways, entry))
    }

    /// The pools in the order in which they are tried.
    pub fn pools(&self) -> Vec<PoolView> {
        let view = |pool: &crate::pools::Pool| PoolView {
            pool: Arc::clone(&pool.config),
            status: self
                .pool_statuses
                .get(pool.name())
                .cloned()
                .unwrap_or_default(),
        };
        self.allocations.pools.iter().map(view).collect()
    }

    /// How many gateways serve a Service, how many are alive, and how many endpoints there are, where
    /// that is known; nothing where there is no such Service, or gateways do not serve it for us.
    pub fn traffic(&self, name: &ServiceName) -> Option<ServiceTraffic> {
        let entry = self.index.get(self.index.slot(name)?)?;
        let service = &entry.stored.service;
        let settings = &self.allocations.settings;
        let is_served = wants::wants_address(settings, service)
            || (settings.allocates_node_ports && status::carries_traffic(service));
        if !is_served {
            return None;
        }
        let heard = self.gateways.heard(entry);
        Some(ServiceTraffic {
            serving: heard.serving.count(),
            gateways: heard.serving.gateways.len(),
            endpoints: self.gateways.endpoints(name),
        })
    }

    /// What is counted, for metrics.
    pub fn counts(&self) -> Counts {
        let pools = self.allocations.pools.iter();
        let (free_static, free_dynamic, used) = self.allocations.numbers.counts();
        Counts {
            pools: pools
                .map(|pool| (Arc::clone(pool.name()), pool.counts()))
                .collect(),
            node_ports: NodePortCounts {
                used,
                free_static,
                free_dynamic,
            },
            services: self.services,
            programmed: self.programmed.clone(),
            gateways: self.gateways.counts(),
            addresses: layer2::counts(&self.allocations, &self.gateways, |slot| {
                let entry = self.index.get(slot);
                let programmed = entry.and_then(|entry| entry.programmed);
                programmed == Some(ProgrammedCount::AddressNotAnnounced)
            }),
        }
    }

    /// The external addresses of a Service that gateways announce on layer 2, and who owns each.
    pub fn owners(&self, name: &ServiceName) -> Vec<AddressOwner> {
        let slot = self.index.slot(name);
        let entry = slot.and_then(|slot| self.index.get(slot));
        entry.map_or_else(Vec::new, |entry| {
            layer2::owners(&self.allocations, &self.gateways, entry)
        })
    }

    /// Whether a gateway says that it owns an address that another one has taken since, and has not been heard again.
    pub fn is_overtaken(&self, address: IpAddr, gateway: &str) -> bool {
        self.gateways.is_overtaken(address, gateway)
    }

    /// Takes in the addresses of a node, which are given to no Service. Where one is in a pool,
    /// which should not be, every Service is looked at again, as after a change of the pool.
    fn put_node(&mut self, name: &ClusterName, node: Option<&Node>) {
        let mut in_a_pool = false;
        for address in self.allocations.nodes.put(name, node) {
            self.restate_holders(address);
            let holders = self.allocations.holders.of(address);
            let (held, node) = (!holders.is_empty(), self.allocations.nodes.node(address));
            in_a_pool |= self.allocations.pools.put_node(address, node, held);
        }
        // Once, however many addresses the node has.
        if in_a_pool {
            self.changed.extend(self.index.slots());
        }
    }

    /// The statuses of the Services that have this address have to be made again.
    fn restate_holders(&mut self, address: IpAddr) {
        let holders = self.allocations.holders.of(address).iter();
        self.restated.extend(holders.map(|holder| holder.slot));
    }

    fn put_report(
        &mut self,
        name: &ServiceName,
        gateway: &ClusterName,
        report: Option<&Arc<Report>>,
    ) {
        self.gateways.put_report(name, gateway, report);
        self.restated.extend(self.index.slot(name));
    }

    fn put_service(&mut self, name: &ServiceName, stored: &Arc<StoredService>) {
        let Some(slot) = self.index.slot(name) else {
            let slot = self.index.insert(Arc::clone(stored));
            self.gateways.put_service(slot, None, Some(stored.revision));
            if let Some(entry) = self.index.get_mut(slot) {
                entry.as_found = !self.synced;
            }
            *self.services.of(Standing::NotOurs) += 1;
            self.changed.insert(slot);
            return;
        };
        let Some(entry) = self.index.get(slot) else {
            return;
        };
        if entry.stored.service.uid != stored.service.uid {
            // It is another Service of the same name, and keeps nothing of the one before.
            self.remove_service(name);
            return self.put_service(name, stored);
        }
        let rank = QueueKey::of(slot, stored);
        if rank != entry.rank {
            // The index of waits is ordered by rank.
            self.index.set_waits(slot, Vec::new());
        }
        let Some(entry) = self.index.get_mut(slot) else {
            return;
        };
        entry.rank = rank;
        entry.as_found &= entry.stored.revision == stored.revision
            && entry.stored.service.is_served_alike(&stored.service);
        let revisions = (entry.stored.revision, stored.revision);
        self.gateways
            .put_service(slot, Some(revisions.0), Some(revisions.1));
        // The store shows what this controller wrote: nothing that `assign` looks at has changed.
        let echo = !entry.lets_go
            && Arc::ptr_eq(&entry.stored.service, &stored.service)
            && stored.held == entry.granted
            && entry.stored.first_seen == stored.first_seen;
        // The store shows the status that was last made. Any other change since then has had the
        // status made again.
        let told = entry.written.as_ref().is_some_and(|written| {
            (&written.0, &written.1) == (&stored.held, &stored.status)
                && entry.stored.source_problem == stored.source_problem
                && entry.stored.source == stored.source
        });
        if entry.stored.version != stored.version {
            entry.written = None;
        }
        entry.stored = Arc::clone(stored);
        if !echo {
            self.changed.insert(slot);
        } else if !told || revisions.0 != revisions.1 {
            self.restated.insert(slot);
        }
    }

    fn remove_service(&mut self, name: &ServiceName) {
        let Some(slot) = self.index.slot(name) else {
            return;
        };
        self.changed.remove(&slot);
        self.restated.remove(&slot);
        if let Some(entry) = self.index.remove(slot) {
            self.node_port_requester.remove(slot, &entry);
            self.gateways
                .put_service(slot, Some(entry.stored.revision), None);
            *self.services.of(entry.standing) -= 1;
            if let Some(programmed) = entry.programmed {
                *self.programmed.entry(programmed).or_default() -= 1;
            }
            let had = || [Some(&entry.granted), entry.leaving.as_deref()];
            for held in had().into_iter().flatten() {
                release(&mut self.allocations, slot, held, &entry.granted_to);
            }
            node_port_requester::release(
                &mut self.allocations,
                slot,
                entry.node_port_request.as_deref(),
            );
            for held in had().into_iter().flatten() {
                let waits = waits_after_removal(&self.allocations, held, &entry.granted_to);
                self.wakes.extend(waits);
            }
        }
    }

    /// After a change of a pool every Service is looked at again: pools are few and seldom change.
    fn rebuild_pools(&mut self) {
        let mut pools = Pools::new(self.pools.values());
        for (address, node) in self.allocations.nodes.iter() {
            pools.put_node(address, Some(node), false);
        }
        for (address, holders) in self.allocations.holders.iter() {
            for (i, holder) in holders.iter().enumerate() {
                pools.take(address, &holder.service.name.namespace, i == 0);
            }
        }
        for (address, aside) in self.allocations.probes.aside() {
            let held = !self.allocations.holders.of(address).is_empty();
            pools.put_aside(address, Some(&aside.hardware_address), held);
        }
        self.allocations.probes.pools_have_changed();
        self.allocations.pools = pools;
        self.changed.extend(self.index.slots());
    }

    /// The difference between what a Service has in the store and what it should have.
    fn plan_service(&mut self, slot: ServiceSlot, now: Timestamp) -> Option<Write> {
        let entry = self.index.get(slot)?;
        if entry.stored.service.asks.other_controller.is_some() {
            self.count(slot, Standing::NotOurs, None);
            return None;
        }
        if blocked(&self.allocations, entry).next().is_some() || self.is_probed(entry) {
            return None;
        }
        let (status, standing) = status::status(&self.allocations, entry, &self.gateways, now);
        self.count(slot, standing, ProgrammedCount::of(&status));
        plan(self.index.get_mut(slot)?, status)
    }

    fn count(
        &mut self,
        slot: ServiceSlot,
        standing: Standing,
        programmed: Option<ProgrammedCount>,
    ) {
        let Some(entry) = self.index.get_mut(slot) else {
            return;
        };
        let before = std::mem::replace(&mut entry.standing, standing);
        *self.services.of(before) -= 1;
        *self.services.of(standing) += 1;
        let before = std::mem::replace(&mut entry.programmed, programmed);
        if let Some(before) = before {
            *self.programmed.entry(before).or_default() -= 1;
        }
        if let Some(now) = programmed {
            *self.programmed.entry(now).or_default() += 1;
        }
    }

    fn plan_pools(&mut self, now: Timestamp, writes: &mut Vec<Write>) {
        for pool in self.allocations.pools.drain_untold() {
            let before = self.pool_statuses.get(pool.name());
            let status = pool.status(before, now);
            let name = Arc::clone(pool.name());
            if !self.unwritten_pools.remove(&name) && before == Some(&status) {
                continue;
            }
            self.pool_statuses.insert(Arc::clone(&name), status.clone());
            writes.push(Write::Pool { name, status });
        }
    }
}

/// The write that brings to the store what a Service was granted, where the store does not have it.
fn plan(entry: &mut IndexedService, status: fairway_config::exchange::Status) -> Option<Write> {
    if *entry.last_held() == entry.granted && *entry.last_status() == status {
        return None;
    }
    let version = entry.stored.version;
    entry.written_from = Some(version);
    entry.written = Some(Box::new((entry.granted.clone(), status.clone())));
    Some(Write::Service {
        name: entry.stored.service.name.clone(),
        version,
        held: entry.granted.clone(),
        status,
    })
}
