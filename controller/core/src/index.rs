//! The Services of a controller, and which of them wait for what.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{Held, Status, StoredService};
use fairway_config::names::ServiceName;
use fairway_config::service::{PortKey, Service};

use crate::count_labels::ProgrammedCount;
use crate::node_port_request::NodePortRequest;
use crate::queue::{QueueKey, ServiceQueue, ServiceSlot, WaitsFor};

/// The state of a Service, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Wants no address of ours.
    NotOurs,
    /// Has what it wants.
    Assigned,
    /// Lacks an address.
    Pending,
}

/// A Service and all that the controller knows of it.
#[derive(Debug)]
pub(crate) struct IndexedService {
    pub(crate) stored: Arc<StoredService>,
    pub(crate) rank: QueueKey,
    /// What it has been allocated.
    pub(crate) granted: Held,
    /// The Service as it was when that was allocated.
    pub(crate) granted_to: Arc<Service>,
    /// What it has released and the store still shows; nearly always nothing.
    pub(crate) leaving: Option<Box<Held>>,
    /// Whether the store still shows something that it has released, a port on a shared address
    /// included.
    pub(crate) lets_go: bool,
    pub(crate) waits: Vec<WaitsFor>,
    /// The version that the last write was made from. While the store shows this version, what was
    /// written counts as taken.
    pub(crate) written_from: Option<u64>,
    /// What the store will hold when the last write has taken effect.
    pub(crate) written: Option<Box<(Held, Status)>>,
    pub(crate) standing: Standing,
    /// Why gateways serve it or not, for counting; nothing: they are not to.
    pub(crate) programmed: Option<ProgrammedCount>,
    /// For gateways it has not changed since this controller began.
    pub(crate) as_found: bool,
    /// The node ports that the API server is asked for, if any.
    pub(crate) node_port_request: Option<Box<NodePortRequest>>,
}

impl IndexedService {
    pub(crate) fn new(slot: ServiceSlot, stored: Arc<StoredService>) -> Self {
        Self {
            rank: QueueKey::of(slot, &stored),
            granted: Held::default(),
            granted_to: Arc::clone(&stored.service),
            stored,
            leaving: None,
            lets_go: false,
            waits: Vec::new(),
            written_from: None,
            written: None,
            standing: Standing::NotOurs,
            programmed: None,
            as_found: false,
            node_port_request: None,
        }
    }

    /// What it held before this settling began.
    pub(crate) fn base(&self) -> &Held {
        if self.written_from == Some(self.stored.version) {
            &self.granted
        } else {
            &self.stored.held
        }
    }

    /// The ports that the Service has released on an address, and that the store still shows or
    /// soon may show.
    pub(crate) fn leaving_ports(&self, address: IpAddr) -> Vec<PortKey> {
        let written = self.written.iter().flat_map(|it| &it.1.ingress);
        let shown = self.stored.status.ingress.iter().chain(written);
        let ports = self.stored.service.ports.iter();
        let stays: BTreeSet<_> = ports.map(|port| port.key()).collect();
        let mut leaving: Vec<_> = shown
            .filter(|ingress| ingress.ip == address)
            .flat_map(|ingress| ingress.ports.iter().map(|port| port.key))
            .filter(|key| !stays.contains(key))
            .collect();
        leaving.sort();
        leaving.dedup();
        leaving
    }

    /// The status that was last written.
    pub(crate) fn last_status(&self) -> &Status {
        self.written
            .as_ref()
            .map_or(&self.stored.status, |written| &written.1)
    }

    /// What the store holds, as far as is known.
    pub(crate) fn last_held(&self) -> &Held {
        self.written
            .as_ref()
            .map_or(&self.stored.held, |written| &written.0)
    }
}

/// All Services, by slot and by name.
#[derive(Debug, Default)]
pub(crate) struct Index {
    entries: Vec<Option<IndexedService>>,
    vacant: Vec<ServiceSlot>,
    by_name: HashMap<ServiceName, ServiceSlot>,
    by_namespace: HashMap<Arc<str>, BTreeSet<ServiceSlot>>,
    waiting: HashMap<WaitsFor, ServiceQueue>,
}

impl Index {
    pub(crate) fn slot(&self, name: &ServiceName) -> Option<ServiceSlot> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn get(&self, slot: ServiceSlot) -> Option<&IndexedService> {
        self.entries.get(slot)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: ServiceSlot) -> Option<&mut IndexedService> {
        self.entries.get_mut(slot)?.as_mut()
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = ServiceSlot> {
        (0..self.entries.len()).filter(|&slot| self.get(slot).is_some())
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = ServiceSlot> {
        self.by_namespace
            .get(namespace)
            .into_iter()
            .flatten()
            .copied()
    }

    /// Adds a Service that was not there before.
    pub(crate) fn insert(&mut self, stored: Arc<StoredService>) -> ServiceSlot {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        let name = stored.service.name.clone();
        self.by_namespace
            .entry(Arc::clone(&name.namespace))
            .or_default()
            .insert(slot);
        self.by_name.insert(name, slot);
        if let Some(place) = self.entries.get_mut(slot) {
            *place = Some(IndexedService::new(slot, stored));
        }
        slot
    }

    /// Removes a Service, and what it waits for.
    pub(crate) fn remove(&mut self, slot: ServiceSlot) -> Option<IndexedService> {
        self.set_waits(slot, Vec::new());
        let entry = self.entries.get_mut(slot)?.take()?;
        let name = &entry.rank.name;
        self.by_name.remove(name);
        if let Some(slots) = self.by_namespace.get_mut(&name.namespace) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.by_namespace.remove(&name.namespace);
            }
        }
        self.vacant.push(slot);
        Some(entry)
    }

    /// From now on the Service waits for these, in place of what it waited for.
    pub(crate) fn set_waits(&mut self, slot: ServiceSlot, mut waits: Vec<WaitsFor>) {
        waits.sort();
        waits.dedup();
        let Some(entry) = self.entries.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        if entry.waits == waits {
            return;
        }
        for wait in &entry.waits {
            if let Some(ranked) = self.waiting.get_mut(wait) {
                ranked.remove(&entry.rank);
                if ranked.is_empty() {
                    self.waiting.remove(wait);
                }
            }
        }
        for wait in &waits {
            self.waiting
                .entry(wait.clone())
                .or_default()
                .insert(entry.rank.clone());
        }
        entry.waits = waits;
    }

    /// All Services that wait for this.
    pub(crate) fn waiting(&self, wait: &WaitsFor) -> impl Iterator<Item = &QueueKey> {
        self.waiting.get(wait).into_iter().flatten()
    }

    /// Whether a Service waits for anything.
    pub(crate) fn anyone_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The first Service after `after` that waits for this.
    pub(crate) fn next_waiting(
        &self,
        wait: &WaitsFor,
        after: Option<&QueueKey>,
    ) -> Option<&QueueKey> {
        use std::ops::Bound::{Excluded, Unbounded};
        let ranked = self.waiting.get(wait)?;
        match after {
            None => ranked.first(),
            Some(after) => ranked.range((Excluded(after), Unbounded)).next(),
        }
    }
}
