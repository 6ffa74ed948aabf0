//! The count of open client connections, by port and by slot.

use std::ops::Deref;
use std::sync::Arc;

use crate::port::Port;
use crate::slot::Slot;

/// Counts as an open connection of a port, and of the slot where it came in, from the accept until the socket is
/// closed.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    port: Arc<Port>,
    slot: Arc<Slot>,
}

impl OpenConnection {
    /// Counts one more connection.
    pub(crate) fn new(port: Arc<Port>, slot: Arc<Slot>) -> Self {
        port.counters.active.increment();
        slot.active.increment();
        Self { port, slot }
    }

    /// Whether the time to drain of its port or its slot is over.
    pub(crate) fn is_cut(&self) -> bool {
        self.port.cut.is_cancelled() || self.slot.cut.is_cancelled()
    }

    /// Waits until the time to drain of its port or its slot is over.
    pub(crate) async fn cut(&self) {
        tokio::select! {
            () = self.port.cut.cancelled() => {}
            () = self.slot.cut.cancelled() => {}
        }
    }
}

impl Deref for OpenConnection {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.port.counters.active.decrement();
        self.slot.active.decrement();
    }
}
