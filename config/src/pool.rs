//! AddressPools: which addresses there are to give out, and to whom.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::announce::Announcement;
use crate::field::FieldProblem;
use crate::names::ClusterName;
use crate::net::{AddressRange, IpFamily, from_bits, to_bits};
use crate::selector::Selector;
use crate::service::Notice;
use crate::time::Timestamp;

/// How many entries `spec.addresses` may have. The CRD says the same.
pub const MAX_ENTRIES: usize = 256;

/// A fairway.dev/v1alpha1 AddressPool, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct AddressPool {
    /// Its name.
    pub name: ClusterName,
    /// `metadata.creationTimestamp`.
    pub created: Option<Timestamp>,
    /// `spec.addresses`, in order and disjoint: see [`AddressBlock::disjoint`].
    pub blocks: Vec<AddressBlock>,
    /// `spec.autoAssign`.
    pub auto_assign: bool,
    /// `spec.priority`: lower goes first, then the name.
    pub priority: i32,
    /// `spec.serviceSelector`.
    pub service_selector: Selector,
    /// `spec.namespaceSelector`.
    pub namespace_selector: Selector,
    /// `spec.quotaPerNamespace`: how many of its addresses one namespace may hold.
    pub quota_per_namespace: Option<u32>,
    /// `spec.forwarding`.
    pub forwarding: Forwarding,
    /// `spec.announce`.
    pub announce: Arc<Announcement>,
    /// What is well-formed and wrong.
    pub notices: Vec<Notice>,
    /// What can't be read, or can't be done. While there is any, nothing new is given out of the
    /// pool: who has an address of it keeps it.
    pub problems: Vec<FieldProblem>,
}

/// Which of several pools an address belongs to, and which is tried first: one that gives out
/// addresses, then the lower `spec.priority`, then the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    gives_nothing: bool,
    priority: i32,
    name: ClusterName,
}

/// One entry of `spec.addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    /// From where to where.
    pub range: AddressRange,
    /// Leave its first and last address and every IPv4 `.0` and `.255` alone. Never set for a
    /// range, a /31, a /32, a /127 or a /128.
    pub avoid_ends: bool,
}

/// Who carries the traffic of a pool's addresses.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
pub enum Forwarding {
    /// The gateways (ipMode Proxy).
    #[default]
    Proxy,
    /// The nodes, by kube-proxy (ipMode VIP).
    Node,
}

impl Precedence {
    /// That of a pool that gives out addresses.
    pub fn of(name: ClusterName, priority: i32) -> Self {
        Self {
            gives_nothing: false,
            priority,
            name,
        }
    }

    /// The pool's name.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }
}

impl AddressPool {
    /// A pool of these blocks that says nothing else: it is for every Service.
    pub fn new(name: ClusterName, blocks: Vec<AddressBlock>) -> Self {
        Self {
            name,
            created: None,
            blocks,
            auto_assign: true,
            priority: 100,
            service_selector: Selector::default(),
            namespace_selector: Selector::default(),
            quota_per_namespace: None,
            forwarding: Forwarding::Proxy,
            announce: Arc::default(),
            notices: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Its precedence: the lowest pool is tried first, and an address that is in several pools
    /// belongs to it.
    pub fn precedence(&self) -> Precedence {
        Precedence {
            gives_nothing: !self.problems.is_empty(),
            priority: self.priority,
            name: self.name.clone(),
        }
    }

    /// Whether `address` lies in the pool, avoided ends included.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.blocks
            .iter()
            .any(|block| block.range.contains(address))
    }

    /// Whether `address` may be given out: it lies in the pool and is no avoided end.
    pub fn usable(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.usable(address))
    }

    /// How many addresses of `family` may be given out, `u128::MAX` at the most.
    pub fn total(&self, family: IpFamily) -> u128 {
        self.blocks
            .iter()
            .filter(|block| block.range.family() == family)
            .fold(0, |sum: u128, block| sum.saturating_add(block.total()))
    }

    /// The lowest address that may be given out and is not below `from`, of `from`'s family.
    pub fn next_usable(&self, from: IpAddr) -> Option<IpAddr> {
        self.blocks
            .iter()
            .filter_map(|block| block.next_usable(from))
            .min()
    }

    /// The ranges that two pools have in common, in order.
    pub fn overlaps(&self, other: &Self) -> Vec<AddressRange> {
        let mut shared = Vec::new();
        for mine in &self.blocks {
            for theirs in &other.blocks {
                shared.extend(mine.range.intersection(theirs.range));
            }
        }
        shared.sort();
        shared
    }
}

impl AddressBlock {
    /// Whether `address` may be given out.
    pub fn usable(&self, address: IpAddr) -> bool {
        self.range.contains(address) && !(self.avoid_ends && self.is_end(address))
    }

    /// The first and last address, and every IPv4 `.0` and `.255`: some networks and hosts still
    /// take them for network and broadcast addresses.
    fn is_end(&self, address: IpAddr) -> bool {
        let dotted = match address {
            IpAddr::V4(v4) => matches!(v4.octets(), [_, _, _, 0 | 255]),
            IpAddr::V6(_) => false,
        };
        dotted || address == self.range.first() || address == self.range.last()
    }

    /// How many addresses may be given out; arithmetic, however large the block is.
    pub fn total(&self) -> u128 {
        let all = self.range.len();
        if !self.avoid_ends {
            return all;
        }
        let (first, last) = (to_bits(self.range.first()), to_bits(self.range.last()));
        let mut avoided = 0;
        let v4 = self.range.family() == IpFamily::IPv4;
        let dotted = |bits: u128| v4 && matches!(bits & 0xff, 0 | 0xff);
        if v4 {
            // Numbers up to n that end in 0x00: n / 256 + 1; in 0xff: (n + 1) / 256.
            let up_to = |n: u128| (n / 256 + 1) + (n + 1) / 256;
            avoided += up_to(last) - first.checked_sub(1).map_or(0, up_to);
        }
        for end in [first, last] {
            if !dotted(end) {
                avoided += 1;
            }
        }
        all.saturating_sub(avoided)
    }

    /// The lowest address that may be given out and is not below `from`; nothing where there is
    /// none, or where `from` is of the other family. Takes the same time for a block of any size.
    pub fn next_usable(&self, from: IpAddr) -> Option<IpAddr> {
        let family = self.range.family();
        if IpFamily::of(from) != family {
            return None;
        }
        let last = to_bits(self.range.last());
        let mut bits = to_bits(from.max(self.range.first()));
        // `.255`, then `.0`, then the block's last: no more than three are avoided in a row.
        for _ in 0..4 {
            if bits > last {
                return None;
            }
            let address = from_bits(family, bits);
            if self.usable(address) {
                return Some(address);
            }
            bits = bits.checked_add(1)?;
        }
        None
    }

    /// The same addresses with none of them twice, in the order of the entries. Of two CIDRs that
    /// avoid their ends the larger one stays, and of what overlaps it only the rest: an end that
    /// is to be avoided is, even where a range names it as well.
    pub fn disjoint(blocks: Vec<Self>) -> Vec<Self> {
        let mut kept: Vec<(usize, Self)> = Vec::with_capacity(blocks.len());
        let (avoiding, plain): (Vec<_>, Vec<_>) = blocks
            .into_iter()
            .enumerate()
            .partition(|(_, block)| block.avoid_ends);
        for (index, block) in avoiding {
            // CIDRs nest or are disjoint: one that has the first address of another may have all of
            // it.
            let within = |outer: &Self, inner: &Self| {
                outer.range.contains(inner.range.first())
                    && outer.range.contains(inner.range.last())
            };
            if kept.iter().any(|(_, other)| within(other, &block)) {
                continue;
            }
            kept.retain(|(_, other)| !within(&block, other));
            kept.push((index, block));
        }
        for (index, block) in plain {
            let mut rest = vec![block.range];
            for (_, taken) in &kept {
                rest = rest
                    .into_iter()
                    .flat_map(|range| without(range, taken.range))
                    .collect();
            }
            kept.extend(rest.into_iter().map(|range| {
                (
                    index,
                    Self {
                        range,
                        avoid_ends: false,
                    },
                )
            }));
        }
        kept.sort_by_key(|(index, block)| (*index, block.range));
        kept.into_iter().map(|(_, block)| block).collect()
    }
}

/// What of `range` is not in `taken`: at most a part below it and one above.
fn without(range: AddressRange, taken: AddressRange) -> Vec<AddressRange> {
    if !range.overlaps(taken) {
        return vec![range];
    }
    let family = range.family();
    let below = to_bits(taken.first())
        .checked_sub(1)
        .and_then(|end| AddressRange::new(range.first(), from_bits(family, end)));
    let above = (taken.last() < range.last())
        .then(|| to_bits(taken.last()).checked_add(1))
        .flatten()
        .and_then(|start| AddressRange::new(from_bits(family, start), range.last()));
    below.into_iter().chain(above).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn block(first: &str, last: &str, avoid_ends: bool) -> AddressBlock {
        AddressBlock {
            range: AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap(),
            avoid_ends,
        }
    }

    fn cidr(text: &str) -> AddressBlock {
        AddressBlock {
            range: AddressRange::of_net(text.parse().unwrap()),
            avoid_ends: true,
        }
    }

    #[test]
    fn totals_are_those_of_the_book() {
        for (block, total) in [
            (cidr("203.0.113.0/24"), 254),
            (cidr("203.0.113.0/28"), 14),
            (cidr("203.0.113.16/28"), 14),
            (cidr("203.0.112.0/23"), 508),
            (cidr("10.0.0.0/8"), (1 << 24) - 2 * (1 << 16)),
            (cidr("2001:db8::/120"), 254),
            (cidr("2001:db8::/64"), (1 << 64) - 2),
            (block("203.0.113.0", "203.0.113.255", false), 256),
            (
                block("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
                u128::MAX,
            ),
        ] {
            assert_eq!(block.total(), total, "{}", block.range);
        }
    }

    #[test]
    fn entries_that_overlap_count_once() {
        let show = |blocks: Vec<AddressBlock>| -> Vec<String> {
            AddressBlock::disjoint(blocks)
                .iter()
                .map(|block| format!("{}{}", block.range, if block.avoid_ends { "!" } else { "" }))
                .collect()
        };
        assert_eq!(
            show(vec![
                block("10.0.0.10", "10.0.0.20", false),
                block("10.0.0.5", "10.0.0.30", false),
                block("10.0.0.1", "10.0.0.2", false),
            ]),
            [
                "10.0.0.10-10.0.0.20",
                "10.0.0.5-10.0.0.9",
                "10.0.0.21-10.0.0.30",
                "10.0.0.1-10.0.0.2",
            ]
        );
        assert_eq!(
            show(vec![
                cidr("10.0.0.16/28"),
                cidr("10.0.0.0/24"),
                cidr("10.0.0.0/24")
            ]),
            ["10.0.0.0-10.0.0.255!"]
        );
        assert_eq!(
            show(vec![
                block("10.0.0.10", "10.0.0.20", false),
                cidr("10.0.0.0/28")
            ]),
            ["10.0.0.16-10.0.0.20", "10.0.0.0-10.0.0.15!"]
        );
    }

    fn any_block() -> impl Strategy<Value = AddressBlock> {
        // Around a boundary of /24s, where every kind of end is near.
        let base = 0x0a00_00c0_u32;
        prop_oneof![
            (0_u32..200, 0_u32..120).prop_map(move |(start, length)| {
                let at = |bits: u32| from_bits(IpFamily::IPv4, u128::from(bits));
                AddressBlock {
                    range: AddressRange::new(at(base + start), at(base + start + length)).unwrap(),
                    avoid_ends: false,
                }
            }),
            (0_u32..200, 23_u8..=30).prop_map(move |(start, prefix)| {
                let address = std::net::Ipv4Addr::from_bits(base + start);
                let net = ipnet::Ipv4Net::new(address, prefix).unwrap();
                AddressBlock {
                    range: AddressRange::of_net(net.into()),
                    avoid_ends: true,
                }
            }),
        ]
    }

    proptest! {
        /// The arithmetic is held to plain enumeration.
        #[test]
        fn totals_and_steps_are_those_of_enumeration(
            entries in proptest::collection::vec(any_block(), 1..6)
        ) {
            let blocks = AddressBlock::disjoint(entries.clone());
            let all = || (0x0a00_0000_u128..0x0a00_0400).map(|bits| from_bits(IpFamily::IPv4, bits));
            let mut seen = BTreeSet::new();
            for block in &blocks {
                let usable: Vec<_> = all().filter(|address| block.usable(*address)).collect();
                prop_assert_eq!(block.total(), usable.len() as u128);
                let mut stepped = Vec::new();
                let mut at = block.next_usable(block.range.first());
                while let Some(address) = at {
                    stepped.push(address);
                    at = block.next_usable(from_bits(IpFamily::IPv4, to_bits(address) + 1));
                }
                prop_assert_eq!(&stepped, &usable);
                for address in usable {
                    prop_assert!(seen.insert(address), "{} is there twice", address);
                }
            }
            for address in all() {
                let covered = entries.iter().any(|entry| entry.range.contains(address));
                let kept = blocks.iter().any(|block| block.range.contains(address));
                prop_assert_eq!(covered, kept, "{}", address);
            }
        }
    }
}
