//! Which Services have an endpoint that became unreachable, or is reached again: told by the workers that
//! dial, taken by the control task.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use fairway_config::names::ServiceName;
use tokio::sync::Notify;

/// Services that have an endpoint that became unreachable, or is reached again.
#[derive(Debug, Default)]
pub(crate) struct DialChanges {
    services: Mutex<BTreeSet<ServiceName>>,
    told: Notify,
}

impl DialChanges {
    /// Something has changed with this Service.
    pub(crate) fn tell(&self, service: &ServiceName) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let first = services.is_empty();
        services.insert(service.clone());
        // Whoever was told takes all.
        if first {
            self.told.notify_one();
        }
    }

    /// Waits until something is told.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    /// What was told since the last time.
    pub(crate) fn take(&self) -> BTreeSet<ServiceName> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *services)
    }
}
