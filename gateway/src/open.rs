//! A client's connection that is open.

use std::ops::Deref;
use std::sync::Arc;

use crate::port::Port;
use crate::slot::Slot;

/// A client's connection to a port, counted as one of the port's and one of the place's where it came in,
/// from its accept until its socket is closed.
#[derive(Debug)]
pub(crate) struct Open {
    port: Arc<Port>,
    slot: Arc<Slot>,
}

impl Open {
    /// One more.
    pub(crate) fn new(port: Arc<Port>, slot: Arc<Slot>) -> Self {
        port.counters.active.increment();
        slot.active.increment();
        Self { port, slot }
    }

    /// Whether its port, or the place where it came in, has had its time.
    pub(crate) fn is_cut(&self) -> bool {
        self.port.cut.is_cancelled() || self.slot.cut.is_cancelled()
    }

    /// Waits until it is cut.
    pub(crate) async fn cut(&self) {
        tokio::select! {
            () = self.port.cut.cancelled() => {}
            () = self.slot.cut.cancelled() => {}
        }
    }
}

impl Deref for Open {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.port.counters.active.decrement();
        self.slot.active.decrement();
    }
}
