//! The Services that have an endpoint that has become unreachable, or is reached again. Workers, which dial, add
//! them; the control task takes them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use fairway_config::names::ServiceName;
use tokio::sync::Notify;

/// The Services with a change, until the control task takes them.
#[derive(Debug, Default)]
pub(crate) struct DialChanges {
    services: Mutex<BTreeSet<ServiceName>>,
    told: Notify,
}

impl DialChanges {
    /// Notes that an endpoint of this Service has changed.
    pub(crate) fn tell(&self, service: &ServiceName) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let first = services.is_empty();
        services.insert(service.clone());
        // One wake-up is enough: the control task takes all.
        if first {
            self.told.notify_one();
        }
    }

    /// Waits until a Service is noted.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    /// Takes the Services that were noted.
    pub(crate) fn take(&self) -> BTreeSet<ServiceName> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *services)
    }
}
