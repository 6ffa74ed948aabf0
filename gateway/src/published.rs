//! What the control task publishes for the admin address and for metrics.
//!
//! The part of one Service is replaced at a time, so that the cost is that of the change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_config::drained::DrainedEndpoints;
use fairway_config::exchange::Report;
use fairway_config::names::ServiceName;
use fairway_config::service::PortKey;
use fairway_gateway_core::route::Route;
use ipnet::IpNet;

use crate::kernel_routes::shown::KernelRoutesShown;
use crate::port::Port;

/// What is published of all Services.
#[derive(Debug, Default)]
pub(crate) struct Published {
    services: Mutex<BTreeMap<ServiceName, Arc<PublishedService>>>,
    /// The addresses at which others may reach this host.
    host: Mutex<Arc<[IpNet]>>,
    /// Why this gateway drains.
    draining: Mutex<Option<Arc<str>>>,
    /// What an operator drains, as far as that is worked in.
    drained: Mutex<Arc<DrainedEndpoints>>,
    drained_changed: Condvar,
    /// What is shown of routes in a kernel table.
    pub(crate) kernel_routes: Arc<KernelRoutesShown>,
    synced: AtomicBool,
    done: AtomicU64,
}

/// The ports of a Service, ordered by key.
pub(crate) type Ports = Arc<[(PortKey, Arc<Port>)]>;

/// What is published of one Service.
#[derive(Debug)]
pub(crate) struct PublishedService {
    pub(crate) route: Arc<Route>,
    pub(crate) ports: Ports,
    pub(crate) report: Arc<Report>,
}

impl Published {
    /// Notes that all objects of the start are programmed.
    pub(crate) fn set_synced(&self) {
        self.synced.store(true, Ordering::Release);
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Notes that the batch of this sequence is programmed and reported.
    pub(crate) fn set_done(&self, sequence: u64) {
        self.done.store(sequence, Ordering::Release);
    }

    pub(crate) fn done(&self) -> u64 {
        self.done.load(Ordering::Acquire)
    }

    /// Publishes the addresses at which others may reach this host.
    pub(crate) fn set_host(&self, addresses: Vec<IpNet>) {
        *self.host.lock().unwrap_or_else(PoisonError::into_inner) = addresses.into();
    }

    pub(crate) fn host(&self) -> Arc<[IpNet]> {
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&host)
    }

    /// Publishes why this gateway drains, or that it does not.
    pub(crate) fn set_draining(&self, why: Option<Arc<str>>) {
        *self.draining.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    pub(crate) fn draining(&self) -> Option<Arc<str>> {
        let draining = self.draining.lock();
        draining.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes that this is drained, and nothing else.
    pub(crate) fn set_drained(&self, drained: Arc<DrainedEndpoints>) {
        *self.drained.lock().unwrap_or_else(PoisonError::into_inner) = drained;
        self.drained_changed.notify_all();
    }

    pub(crate) fn drained(&self) -> Arc<DrainedEndpoints> {
        let drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&drained)
    }

    /// Waits until this is drained, and nothing else. False: it was not so in time.
    pub(crate) fn wait_drained(&self, wanted: &DrainedEndpoints, patience: Duration) -> bool {
        let drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = |drained: &mut Arc<DrainedEndpoints>| **drained != *wanted;
        let waited = self
            .drained_changed
            .wait_timeout_while(drained, patience, is_other);
        let waited = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    /// Publishes a Service.
    pub(crate) fn set(&self, service: &ServiceName, shown: PublishedService) {
        self.lock().insert(service.clone(), Arc::new(shown));
    }

    /// Removes a Service.
    pub(crate) fn remove(&self, service: &ServiceName) {
        self.lock().remove(service);
    }

    /// One Service.
    pub(crate) fn get(&self, service: &ServiceName) -> Option<Arc<PublishedService>> {
        self.lock().get(service).cloned()
    }

    /// All Services.
    pub(crate) fn all(&self) -> Vec<(ServiceName, Arc<PublishedService>)> {
        self.lock()
            .iter()
            .map(|(name, shown)| (name.clone(), shown.clone()))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Arc<PublishedService>>> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
