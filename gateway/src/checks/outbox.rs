//! The ports whose checks may have changed: the control task adds them, the thread of checks takes them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::port::Port;

/// The latest state of each port, until it is taken.
#[derive(Debug, Default)]
pub(crate) struct PortsToCheck {
    changed: Mutex<BTreeMap<u32, Option<Arc<Port>>>>,
    told: Notify,
}

impl PortsToCheck {
    /// A port has another route.
    pub(crate) fn set(&self, port: &Arc<Port>) {
        self.put(port.number, Some(port.clone()));
    }

    /// A port is gone, or is not checked any more.
    pub(crate) fn remove(&self, port: &Port) {
        self.put(port.number, None);
    }

    /// Has it looked at, whether there is something to take or not.
    pub(crate) fn tell(&self) {
        self.told.notify_one();
    }

    /// Waits until there is something to take.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    /// Takes what has changed; none in place of a port: it is gone.
    pub(super) fn take(&self) -> BTreeMap<u32, Option<Arc<Port>>> {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *changed)
    }

    fn put(&self, number: u32, port: Option<Arc<Port>>) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.insert(number, port);
        self.told.notify_one();
    }
}
