//! The members that have handed over addresses to this one, as it remembers them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::message::MemberName;
use super::timing::BootTime;

/// The members that have handed over addresses to this one.
#[derive(Debug, Default)]
pub(super) struct FormerOwners {
    pub(super) by_address: BTreeMap<IpAddr, FormerOwner>,
    /// Offers that are not taken yet.
    pub(super) held: BTreeSet<IpAddr>,
    /// An address was offered to this member.
    pub(super) is_news: bool,
}

#[derive(Debug)]
pub(super) struct FormerOwner {
    pub(super) member: MemberName,
    /// Another run of it has none of the connections.
    pub(super) run: u64,
    /// The number of the term that this member has begun then, and when.
    pub(super) term: u64,
    pub(super) since: BootTime,
}

impl FormerOwners {
    /// Whether an offer is not to be taken yet.
    pub(super) fn is_held(&self, address: IpAddr) -> bool {
        self.held.contains(&address)
    }
}
