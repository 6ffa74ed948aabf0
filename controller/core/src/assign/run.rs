//! What one run of assigning works on.

use crate::index::{Index, Ranked, Slot, Wait};
use crate::ledger::Ledger;

/// One run of assigning.
pub(super) struct Run<'a> {
    pub(super) ledger: &'a mut Ledger,
    pub(super) index: &'a mut Index,
    /// Who is to be served in the next round.
    pub(super) next: Ranked,
    /// Who was given something, each time.
    pub(super) given: Vec<Slot>,
}

impl Run<'_> {
    /// Puts those who wait for it into the next round. Of those who wait for one of many alike
    /// only the first: it passes the word on while there is something left.
    pub(super) fn wake(&mut self, wait: &Wait) {
        match wait {
            Wait::Pool(..) | Wait::AnyNodePort => {
                self.next
                    .extend(self.index.next_waiting(wait, None).cloned());
            }
            _ => self.next.extend(self.index.waiting(wait).cloned()),
        }
    }
}
