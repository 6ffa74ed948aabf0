//! What one run of assigning works on.

use crate::allocations::Allocations;
use crate::index::Index;
use crate::queue::{ServiceQueue, ServiceSlot, WaitsFor};

/// One run of assigning.
pub(super) struct Run<'a> {
    pub(super) allocations: &'a mut Allocations,
    pub(super) index: &'a mut Index,
    /// Who is to be served in the next round.
    pub(super) next: ServiceQueue,
    /// Who was given something, each time.
    pub(super) given: Vec<ServiceSlot>,
}

impl Run<'_> {
    /// Puts those who wait for it into the next round. Of those who wait for one of many alike
    /// only the first: it passes the word on while there is something left.
    pub(super) fn wake(&mut self, wait: &WaitsFor) {
        match wait {
            WaitsFor::Pool(..) | WaitsFor::AnyNodePort => {
                self.next
                    .extend(self.index.next_waiting(wait, None).cloned());
            }
            _ => self.next.extend(self.index.waiting(wait).cloned()),
        }
    }
}
