//! The state of one run of [`assign`](super::assign).

use crate::allocations::Allocations;
use crate::index::Index;
use crate::queue::{ServiceQueue, ServiceSlot, WaitsFor};

/// One run of assigning.
pub(super) struct Run<'a> {
    pub(super) allocations: &'a mut Allocations,
    pub(super) index: &'a mut Index,
    /// The Services to serve in the next round.
    pub(super) next: ServiceQueue,
    /// The Services that were given something, one entry each time.
    pub(super) given: Vec<ServiceSlot>,
}

impl Run<'_> {
    /// Puts the Services that wait for this into the next round. Where they wait for one of many
    /// alike (any free address) only the first one: after it the next, while there is something
    /// left.
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
