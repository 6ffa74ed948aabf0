//! A store that a random test writes to, and controllers that start from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::cluster::{Namespace, Node};
use fairway_config::exchange::{Batch, Change, Held, Status, StoredService, Write};
use fairway_config::names::ServiceName;
use fairway_config::pool::AddressPool;
use fairway_config::service::{PortKey, Service};
use fairway_config::time::Timestamp;
use fairway_controller_core::{NodePortRange, Settings, State};

pub(crate) const NOW: Timestamp = Timestamp(1_000_000);

pub(crate) fn settings() -> Settings {
    let node_ports = NodePortRange::new(30000, 30017).unwrap();
    Settings::standalone("fairway.dev/gateway".into(), node_ports)
}

/// What a store tells after its first lists.
pub(crate) fn batch(changes: Vec<Change>) -> Batch {
    Batch::synced(changes)
}

/// What there is, and what was written of it.
#[derive(Clone, Default)]
pub(crate) struct Store {
    pub(crate) services: BTreeMap<ServiceName, Arc<StoredService>>,
    pub(crate) pools: BTreeMap<Arc<str>, Arc<AddressPool>>,
    pub(crate) namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    pub(crate) nodes: BTreeMap<Arc<str>, Arc<Node>>,
    pub(crate) counter: u64,
}

impl Store {
    pub(crate) fn put(&mut self, service: Service) -> Change {
        self.counter += 1;
        let name = service.name.clone();
        let old = self.services.get(&name);
        let stored = Arc::new(StoredService {
            held: old.map(|old| old.held.clone()).unwrap_or_default(),
            status: old.map(|old| old.status.clone()).unwrap_or_default(),
            version: self.counter,
            ..StoredService::new(Arc::new(service))
        });
        self.services.insert(name.clone(), Arc::clone(&stored));
        Change::Service(name, Some(stored))
    }

    /// True where the write came about.
    pub(crate) fn write(&mut self, write: &Write) -> Option<Change> {
        let Write::Service {
            name,
            version,
            held,
            status,
        } = write
        else {
            return None;
        };
        let stored = self.services.get(name)?;
        if stored.version != *version {
            return None;
        }
        self.counter += 1;
        let stored = Arc::new(StoredService {
            held: held.clone(),
            status: status.clone(),
            version: self.counter,
            ..StoredService::clone(stored)
        });
        self.services.insert(name.clone(), Arc::clone(&stored));
        Some(Change::Service(name.clone(), Some(stored)))
    }

    /// Whether a Service has something that this write takes from it.
    pub(crate) fn lets_go(&self, write: &Write) -> bool {
        let Write::Service {
            name, held, status, ..
        } = write
        else {
            return false;
        };
        let stored = &self.services[name];
        let numbers = |held: &Held| -> BTreeSet<u16> {
            let all = held.node_ports.values().chain(&held.health_check_node_port);
            all.copied().collect()
        };
        let ports = |status: &Status| -> BTreeSet<(IpAddr, PortKey)> {
            let ports = status.ingress.iter();
            ports
                .flat_map(|i| i.ports.iter().map(|port| (i.ip, port.key)))
                .collect()
        };
        !stored
            .held
            .addresses
            .iter()
            .all(|a| held.addresses.contains(a))
            || !numbers(&stored.held).is_subset(&numbers(held))
            || !ports(&stored.status).is_subset(&ports(status))
    }

    pub(crate) fn everything(&self) -> Vec<Change> {
        let services = self.services.iter();
        let pools = self.pools.iter();
        let namespaces = self.namespaces.iter();
        let nodes = self.nodes.iter();
        services
            .map(|(n, s)| Change::Service(n.clone(), Some(Arc::clone(s))))
            .chain(pools.map(|(n, p)| Change::Pool(Arc::clone(n), Some(Arc::clone(p)))))
            .chain(namespaces.map(|(n, o)| Change::Namespace(Arc::clone(n), Some(Arc::clone(o)))))
            .chain(nodes.map(|(n, o)| Change::Node(Arc::clone(n), Some(Arc::clone(o)))))
            .collect()
    }

    /// A controller that starts now.
    pub(crate) fn fresh(&self, reversed: bool) -> State {
        let mut changes = self.everything();
        if reversed {
            changes.reverse();
        }
        let mut state = State::new(settings());
        state.apply(&batch(changes));
        state
    }

    /// The settled state, without versions.
    pub(crate) fn outcome(&self) -> BTreeMap<ServiceName, (Held, Status)> {
        let services = self.services.iter();
        services
            .map(|(n, s)| (n.clone(), (s.held.clone(), s.status.clone())))
            .collect()
    }
}
