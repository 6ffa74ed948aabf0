//! Which addresses have changed lately, so that who follows all of them need not look at all of them.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;

/// The most changes that are remembered.
const REMEMBERED: usize = 256;

/// The latest changes, each with its number. Numbers begin with 1.
#[derive(Clone, Debug, Default)]
pub struct AddressChanges {
    /// The number of the latest change.
    latest: u64,
    /// Of changes after this one it is known which addresses they are of.
    known_after: u64,
    addresses: VecDeque<(u64, IpAddr)>,
}

impl AddressChanges {
    /// An address has changed.
    pub(crate) fn note(&mut self, address: IpAddr) {
        self.latest += 1;
        self.addresses.push_back((self.latest, address));
        if self.addresses.len() > REMEMBERED
            && let Some((number, _)) = self.addresses.pop_front()
        {
            self.known_after = number;
        }
    }

    /// Something has changed that may concern all addresses.
    pub(crate) fn note_all(&mut self) {
        self.latest += 1;
        self.known_after = self.latest;
        self.addresses.clear();
    }

    /// The number of the latest change.
    pub(crate) fn latest(&self) -> u64 {
        self.latest
    }

    /// The addresses that have changed after the change of this number; nothing: all may have.
    pub(crate) fn after(&self, number: u64) -> Option<BTreeSet<IpAddr>> {
        if number < self.known_after {
            return None;
        }
        let first = self.addresses.partition_point(|(it, _)| *it <= number);
        let later = self.addresses.iter().skip(first);
        Some(later.map(|(_, address)| *address).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: usize) -> IpAddr {
        let [.., high, low] = n.to_be_bytes();
        IpAddr::from([203, 0, high, low])
    }

    #[test]
    fn who_was_there_lately_is_told_what_has_changed_and_others_that_all_may_have() {
        let mut changes = AddressChanges::default();
        assert_eq!(changes.after(0), Some(BTreeSet::new()));
        for n in 0..3 {
            changes.note(address(n));
        }
        changes.note(address(1));
        assert_eq!(changes.after(0), Some((0..3).map(address).collect()));
        assert_eq!(changes.after(3), Some(BTreeSet::from([address(1)])));
        assert_eq!(changes.after(changes.latest()), Some(BTreeSet::new()));
        let before = changes.latest();
        changes.note_all();
        assert_eq!(changes.after(before), None);
        assert_eq!(changes.after(changes.latest()), Some(BTreeSet::new()));
        let before = changes.latest();
        for n in 0..REMEMBERED {
            changes.note(address(n));
        }
        let all = (0..REMEMBERED).map(address).collect();
        assert_eq!(changes.after(before), Some(all));
        changes.note(address(REMEMBERED));
        assert_eq!(changes.after(before), None);
    }
}
