//! Sets of free addresses, kept as intervals.
//!
//! A pool may hold 2^64 addresses and more, so what is free is a map from the first to the last
//! address of each gap. Taking, giving back and the lowest one cost O(log of the gaps).

use std::collections::{BTreeMap, BTreeSet};

use fairway_config::net::{IpFamily, from_bits, to_bits};
use fairway_config::pool::AddressBlock;

/// The free addresses of one family of a pool, as numbers.
#[derive(Clone, Debug)]
pub(crate) struct FreeAddresses {
    /// By their first address.
    blocks: BTreeMap<u128, AddressBlock>,
    gaps: BTreeMap<u128, u128>,
    total: u128,
    available: u128,
    /// Addresses that are given to no Service: they are nodes'.
    reserved: BTreeSet<u128>,
    /// How many of the reserved ones are usable.
    kept_back: u128,
    /// How many of those nobody holds.
    left_out: u128,
}

impl FreeAddresses {
    /// All addresses of `family` in the blocks. Blocks that overlap count once.
    pub(crate) fn of(blocks: &[AddressBlock], family: IpFamily) -> Self {
        let mut set = Self {
            blocks: BTreeMap::new(),
            gaps: BTreeMap::new(),
            total: 0,
            available: 0,
            reserved: BTreeSet::new(),
            kept_back: 0,
            left_out: 0,
        };
        for block in blocks.iter().filter(|b| b.range.family() == family) {
            let first = to_bits(block.range.first());
            let last = to_bits(block.range.last());
            // The reader merges entries of one pool that overlap; what would still overlap here
            // would be counted twice, so the first wins.
            if set
                .blocks
                .values()
                .any(|other| other.range.overlaps(block.range))
            {
                continue;
            }
            set.total = set.total.saturating_add(block.total());
            set.blocks.insert(first, *block);
            set.gaps.insert(first, last);
        }
        set.available = set.total;
        set
    }

    /// How many addresses can be given out without being asked for by number, free or not, and with
    /// those that are reserved but held.
    pub(crate) fn total(&self) -> u128 {
        self.total.saturating_sub(self.left_out)
    }

    /// How many addresses can be given out without being asked for by number, free or not. It does
    /// not depend on who holds what, so a message to Services that wait can name it.
    pub(crate) fn to_give(&self) -> u128 {
        self.total.saturating_sub(self.kept_back)
    }

    /// How many of them are free.
    pub(crate) fn available(&self) -> u128 {
        self.available
    }

    /// Whether the pool has no address of this family.
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Whether `address` is in one of the blocks, free or not, avoided or not.
    pub(crate) fn covers(&self, address: u128) -> bool {
        self.block(address).is_some()
    }

    fn block(&self, address: u128) -> Option<&AddressBlock> {
        let (_, block) = self.blocks.range(..=address).next_back()?;
        (address <= to_bits(block.range.last())).then_some(block)
    }

    /// Whether `address` can be given out without being asked for by number: it is in a block, and
    /// `avoidEnds` does not leave it out.
    fn is_usable(&self, address: u128) -> bool {
        self.block(address)
            .is_some_and(|block| block.usable(from_bits(block.range.family(), address)))
    }

    /// From now on `address` is given to no Service. `held`: a Service holds it already.
    pub(crate) fn reserve(&mut self, address: u128, held: bool) {
        if !self.reserved.insert(address) {
            return;
        }
        let counts = self.counts(address);
        self.kept_back += counts;
        if !held {
            self.take_free(address);
            self.left_out += counts;
        }
    }

    /// From now on it may be given again.
    pub(crate) fn unreserve(&mut self, address: u128, held: bool) {
        if !self.reserved.remove(&address) {
            return;
        }
        let counts = self.counts(address);
        self.kept_back -= counts;
        if !held {
            self.left_out -= counts;
            self.give_back_free(address);
        }
    }

    /// Notes that somebody holds `address`.
    pub(crate) fn take(&mut self, address: u128) {
        if self.reserved.contains(&address) {
            self.left_out -= self.counts(address);
        } else {
            self.take_free(address);
        }
    }

    /// Notes that nobody holds it any more.
    pub(crate) fn give_back(&mut self, address: u128) {
        if self.reserved.contains(&address) {
            self.left_out += self.counts(address);
        } else {
            self.give_back_free(address);
        }
    }

    /// 1 for an address that can be given out without being asked for by number, else 0.
    fn counts(&self, address: u128) -> u128 {
        u128::from(self.is_usable(address))
    }

    /// Takes `address` out; nothing happens where it is not in.
    fn take_free(&mut self, address: u128) {
        let Some((&first, &last)) = self.gaps.range(..=address).next_back() else {
            return;
        };
        if last < address {
            return;
        }
        let counts = self.is_usable(address);
        if first == address {
            self.gaps.remove(&first);
        } else {
            self.gaps.insert(first, address - 1);
        }
        if address < last {
            self.gaps.insert(address + 1, last);
        }
        self.available -= u128::from(counts);
    }

    /// Puts `address` back; nothing happens where it is in already, is in no block, or is one that
    /// `avoidEnds` leaves alone.
    fn give_back_free(&mut self, address: u128) {
        if !self.is_usable(address) {
            return;
        }
        let before = self.gaps.range(..=address).next_back();
        if before.is_some_and(|(_, &last)| last >= address) {
            return;
        }
        let before = before
            .filter(|&(_, &last)| address > 0 && last == address - 1)
            .map(|(&first, _)| first);
        let last = address
            .checked_add(1)
            .and_then(|next| self.gaps.remove(&next))
            .unwrap_or(address);
        self.gaps.insert(before.unwrap_or(address), last);
        self.available = self.available.saturating_add(1);
    }

    /// The lowest free address that `avoidEnds` does not leave alone.
    ///
    /// Addresses that `avoidEnds` leaves out are dropped from the gaps on the way, so that no later
    /// search comes by them.
    pub(crate) fn lowest(&mut self) -> Option<u128> {
        loop {
            let (&first, &last) = self.gaps.first_key_value()?;
            if self.is_usable(first) {
                return Some(first);
            }
            self.gaps.remove(&first);
            if first < last {
                self.gaps.insert(first + 1, last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use fairway_config::net::AddressRange;
    use std::collections::BTreeSet;

    fn block(first: &str, last: &str, avoid_ends: bool) -> AddressBlock {
        AddressBlock {
            range: AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap(),
            avoid_ends,
        }
    }

    #[test]
    fn totals_leave_out_what_is_avoided() {
        for (first, last, avoid, total) in [
            ("10.0.0.0", "10.0.0.15", false, 16),
            ("10.0.0.0", "10.0.0.15", true, 14),
            ("10.0.0.16", "10.0.0.31", true, 14),
            ("10.0.0.0", "10.0.0.255", true, 254),
            ("10.0.0.0", "10.0.1.255", true, 508),
            ("2001:db8::", "2001:db8::ff", true, 254),
            (
                "::",
                "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                false,
                u128::MAX,
            ),
        ] {
            let blocks = [block(first, last, avoid)];
            let set = FreeAddresses::of(&blocks, blocks[0].range.family());
            assert_eq!(set.total(), total, "{first} {last} {avoid}");
            assert_eq!(set.available(), total);
        }
    }

    proptest::proptest! {
        #[test]
        fn intervals_agree_with_a_plain_set(
            avoid in proptest::bool::ANY,
            steps in proptest::collection::vec((0..4, 0u128..40), 0..120),
        ) {
            let blocks = [block("10.0.0.248", "10.0.1.7", avoid), block("10.0.1.10", "10.0.1.12", false)];
            let mut set = FreeAddresses::of(&blocks, IpFamily::IPv4);
            let base = to_bits("10.0.0.244".parse().unwrap());
            let mut model: BTreeSet<u128> = (0..200)
                .map(|i| base + i)
                .filter(|&a| set.is_usable(a))
                .collect();
            let all = model.clone();
            proptest::prop_assert_eq!(set.total(), all.len() as u128);
            let (mut held, mut reserved) = (BTreeSet::new(), BTreeSet::new());
            for (step, offset) in steps {
                let address = base + offset;
                if !set.covers(address) {
                    continue;
                }
                let is_held = held.contains(&address);
                match step {
                    0 if held.insert(address) => set.take(address),
                    1 if held.remove(&address) => set.give_back(address),
                    2 => {
                        set.reserve(address, is_held);
                        reserved.insert(address);
                    }
                    3 => {
                        set.unreserve(address, is_held);
                        reserved.remove(&address);
                    }
                    _ => continue,
                }
                model = all.iter().copied().filter(|it| !held.contains(it) && !reserved.contains(it)).collect();
                proptest::prop_assert_eq!(set.lowest(), model.first().copied());
                proptest::prop_assert_eq!(set.available(), model.len() as u128);
                let to_give = all.difference(&reserved).count() as u128;
                proptest::prop_assert_eq!(set.to_give(), to_give);
                let used = held.intersection(&all).count() as u128;
                proptest::prop_assert_eq!(set.total(), set.available() + used);
            }
        }
    }
}
