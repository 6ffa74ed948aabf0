//! Which addresses are to be looked at with each heartbeat: those that nobody owns, and those with two owners. Of
//! thousands these are few, mostly.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// The addresses that are to be looked at.
#[derive(Debug, Default)]
pub(super) struct DueAddresses {
    /// Nobody says that it owns them.
    pub(super) unowned: BTreeSet<IpAddr>,
    /// This member owns them, and another one, which may be dead, has said so of itself.
    pub(super) contested: BTreeSet<IpAddr>,
    /// This member hands them over where it owns them, whatever else it does.
    pub(super) handed_over: BTreeSet<IpAddr>,
}

/// For what an address is to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct DueFor {
    pub(super) is_unowned: bool,
    pub(super) is_contested: bool,
    pub(super) is_handed_over: bool,
}

impl DueAddresses {
    /// An address is to be looked at for this, and for nothing else.
    pub(super) fn set(&mut self, address: IpAddr, due: DueFor) {
        for (set, is_in) in [
            (&mut self.unowned, due.is_unowned),
            (&mut self.contested, due.is_contested),
            (&mut self.handed_over, due.is_handed_over),
        ] {
            match is_in {
                true => set.insert(address),
                false => set.remove(&address),
            };
        }
    }
}
