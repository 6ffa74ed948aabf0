//! What the control task shows to the admin address and to metrics.
//!
//! One Service's part is replaced at a time, so that showing costs the control task no more than
//! the change does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairway_config::exchange::Report;
use fairway_config::names::ServiceName;
use fairway_config::service::PortKey;
use fairway_gateway_core::route::Route;

use crate::port::Port;

/// What is shown.
#[derive(Debug, Default)]
pub(crate) struct Published {
    services: Mutex<BTreeMap<ServiceName, Arc<Shown>>>,
    synced: AtomicBool,
    done: AtomicU64,
}

/// The ports of a Service, in order.
pub(crate) type Ports = Arc<[(PortKey, Arc<Port>)]>;

/// What is shown of one Service.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) route: Arc<Route>,
    pub(crate) ports: Ports,
    pub(crate) report: Arc<Report>,
}

impl Published {
    /// Everything that there was at the start is programmed.
    pub(crate) fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// The batch of this sequence is programmed, and what there is to say of it has been said.
    pub(crate) fn set_done(&self, sequence: u64) {
        self.done.store(sequence, Ordering::Release);
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// A Service is now so.
    pub(crate) fn set(&self, service: &ServiceName, shown: Shown) {
        self.lock().insert(service.clone(), Arc::new(shown));
    }

    /// A Service is gone.
    pub(crate) fn remove(&self, service: &ServiceName) {
        self.lock().remove(service);
    }

    /// One Service.
    pub(crate) fn get(&self, service: &ServiceName) -> Option<Arc<Shown>> {
        self.lock().get(service).cloned()
    }

    /// All Services.
    pub(crate) fn all(&self) -> Vec<(ServiceName, Arc<Shown>)> {
        self.lock()
            .iter()
            .map(|(name, shown)| (name.clone(), shown.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Arc<Shown>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
