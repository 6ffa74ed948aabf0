//! An object that is in force, and what a Service keeps when its manifest changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_config::exchange::{Held, PoolStatus, StoredService};
use fairway_config::service::Service;
use fairway_config::time::Timestamp;

use uuid::Uuid;

use super::catalog::{Winner, place};
use super::memory::ServiceMemory;

/// An object that is in force.
pub(super) struct Live {
    pub(super) winner: Winner,
    pub(super) first_seen: Timestamp,
    pub(super) service: Option<LiveService>,
    pub(super) pool: Option<PoolStatus>,
}

/// A Service that is in force.
#[derive(Clone)]
pub(super) struct LiveService {
    pub(super) uid: Arc<str>,
    pub(super) stored: Arc<StoredService>,
    /// Whether what it holds is on disk, so that it may be told without being written again.
    pub(super) recorded: bool,
}

/// The new form of a Service, with what the former form held, or what an earlier run remembered.
pub(super) fn bring_service(
    service: &Arc<Service>,
    winner: &Winner,
    before: Option<&LiveService>,
    memory: Option<ServiceMemory>,
    first_seen: Timestamp,
) -> LiveService {
    let source = Some(place(&winner.file, winner.entry.number).into());
    let source_problem = winner.held.as_deref().map(str::to_owned);
    let (uid, stored, recorded) = match before {
        Some(before) => {
            let former = &before.stored;
            // A decision on the former spec is out of date: a new version refuses it.
            let asked_anew = former.service != *service;
            let stored = StoredService {
                service: Arc::clone(service),
                held: carry(&former.held, Some(&former.service), service),
                status: former.status.clone(),
                version: former.version + u64::from(asked_anew),
                revision: 0,
                first_seen: former.first_seen,
                source,
                source_problem,
            };
            let recorded = before.recorded && stored.held == former.held;
            (Arc::clone(&before.uid), stored, recorded)
        }
        None => {
            let memory = memory.unwrap_or_else(|| ServiceMemory {
                uid: service.uid.clone().unwrap_or_else(new_uid),
                version: 0,
                held: Held::default(),
                status: Default::default(),
            });
            let stored = StoredService {
                service: Arc::clone(service),
                held: carry(&memory.held, None, service),
                status: memory.status.clone(),
                version: memory.version,
                revision: 0,
                first_seen,
                source,
                source_problem,
            };
            let recorded = stored.held == memory.held;
            (memory.uid, stored, recorded)
        }
    };
    LiveService {
        uid,
        stored: Arc::new(stored),
        recorded,
    }
}

/// What a Service keeps when its spec changes. A node port stays with its protocol and port; where the
/// port has another number now, it stays with the port of the same name. Whether the Service may keep it
/// is decided by the controller.
fn carry(held: &Held, before: Option<&Service>, after: &Service) -> Held {
    let mut node_ports = BTreeMap::new();
    for port in &after.ports {
        let key = port.key();
        let by_name = || {
            let former = before?
                .ports
                .iter()
                .find(|former| former.name.is_some() && former.name == port.name)?;
            let moved = after.ports.iter().all(|other| other.key() != former.key());
            moved.then(|| held.node_ports.get(&former.key())).flatten()
        };
        if let Some(number) = held.node_ports.get(&key).or_else(by_name) {
            node_ports.insert(key, *number);
        }
    }
    Held {
        addresses: held.addresses.clone(),
        node_ports,
        health_check_node_port: held.health_check_node_port,
    }
}

/// A `metadata.uid` for a Service whose manifest names none: a random UUID, as an API server makes it.
fn new_uid() -> Arc<str> {
    Uuid::new_v4().to_string().into()
}
