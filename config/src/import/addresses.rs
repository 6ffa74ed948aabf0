//! `spec.addresses` of an IPAddressPool as entries of an AddressPool.
//!
//! MetalLB's `avoidBuggyIPs` leaves every IPv4 address alone that ends in .0 or .255, wherever it
//! lies. `avoidEnds` does that in CIDRs, where it leaves the first and last address alone, too. The
//! two are the same for an IPv4 CIDR of /24 or larger; everything else is written as ranges.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;

use super::imported::Imported;
use super::metallb::MetalLbPool;
use crate::field::Shown;
use crate::net::{AddressRange, IpFamily, from_bits, to_bits};
use crate::object::{Object, read};

/// Into how many ranges one entry may fall where .0 and .255 are taken out of it.
const PIECES: usize = 64;

/// What a pool holds, entry by entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries(Vec<PoolEntry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PoolEntry {
    Net(IpNet),
    Range(AddressRange),
}

impl PoolEntry {
    fn range(self) -> AddressRange {
        match self {
            Self::Net(net) => AddressRange::of_net(net),
            Self::Range(range) => range,
        }
    }
}

impl Entries {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|entry| entry.range().contains(address))
    }

    /// Where it overlaps another pool, if it does.
    pub(super) fn overlap(&self, other: &Self) -> Option<AddressRange> {
        self.0.iter().find_map(|mine| {
            other.0.iter().find_map(|theirs| {
                let (mine, theirs) = (mine.range(), theirs.range());
                AddressRange::new(
                    mine.first().max(theirs.first()),
                    mine.last().min(theirs.last()),
                )
                .filter(|_| mine.overlaps(theirs))
            })
        })
    }

    /// Takes one address in, where the reader of AddressPools does.
    ///
    /// # Errors
    /// With what that reader says.
    pub(super) fn add(&mut self, address: IpAddr) -> Result<(), String> {
        let range = AddressRange::new(address, address).ok_or("is no address")?;
        self.push(PoolEntry::Range(range))
    }

    fn push(&mut self, entry: PoolEntry) -> Result<(), String> {
        readable(&text(entry))?;
        self.0.push(entry);
        Ok(())
    }

    /// As they are written.
    pub(super) fn texts(&self) -> Vec<String> {
        self.0.iter().copied().map(text).collect()
    }
}

fn text(entry: PoolEntry) -> String {
    match entry {
        PoolEntry::Net(net) => net.to_string(),
        PoolEntry::Range(range) => range.to_string(),
    }
}

/// The entries of a pool, and the ranges that it has in MetalLB.
pub(super) fn convert(pool: &MetalLbPool, imported: &mut Imported) -> (Entries, Vec<AddressRange>) {
    let mut entries = Entries::default();
    let mut ranges: Vec<AddressRange> = Vec::new();
    for text in &pool.addresses {
        let result = parse(text.trim()).and_then(|entry| {
            let range = entry.range();
            if let Some(other) = ranges.iter().find(|other| other.overlaps(range)) {
                return Err(format!("overlaps {other} of the same pool"));
            }
            for part in parts(entry, pool, imported) {
                entries.push(part)?;
            }
            ranges.push(range);
            Ok(())
        });
        if let Err(why) = result {
            imported.warnings.push(format!(
                "{pool}: its entry '{}' is left out: it {why}.",
                Shown(text)
            ));
        }
    }
    (entries, ranges)
}

fn parse(text: &str) -> Result<PoolEntry, String> {
    let wrong = || "is no CIDR, no range FIRST-LAST and no address".to_owned();
    if text.contains('/') {
        // MetalLB takes 192.168.1.5/24 for 192.168.1.0/24.
        let net: IpNet = text.parse().map_err(|_| wrong())?;
        return Ok(PoolEntry::Net(net.trunc()));
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| wrong());
    AddressRange::new(address(first)?, address(last)?)
        .map(PoolEntry::Range)
        .ok_or_else(wrong)
}

/// One entry so that `avoidEnds` leaves alone of it what `avoidBuggyIPs` did.
fn parts(entry: PoolEntry, pool: &MetalLbPool, imported: &mut Imported) -> Vec<PoolEntry> {
    let range = entry.range();
    if !pool.avoid_buggy_ips {
        return vec![entry];
    }
    if range.family() == IpFamily::IPv6 {
        return vec![PoolEntry::Range(range)];
    }
    if matches!(entry, PoolEntry::Net(net) if net.prefix_len() <= 24) {
        return vec![entry];
    }
    let (first, last) = (to_bits(range.first()), to_bits(range.last()));
    let mut parts = Vec::new();
    let mut block = first & !0xff;
    while block <= last {
        let ends = (first.max(block + 1), last.min(block + 0xfe));
        let address = |bits| from_bits(IpFamily::IPv4, bits);
        if ends.0 <= ends.1
            && let Some(part) = AddressRange::new(address(ends.0), address(ends.1))
        {
            parts.push(PoolEntry::Range(part));
        }
        if parts.len() > PIECES {
            imported.warnings.push(format!(
                "{pool}: of {range} the addresses that end in .0 and .255 can be given out now; \
                 write it as CIDRs to leave them alone."
            ));
            return vec![PoolEntry::Range(range)];
        }
        block += 0x100;
    }
    parts
}

/// Whether an AddressPool may have such an entry: whoever reads it says so.
fn readable(entry: &str) -> Result<(), String> {
    let pool = json!({
        "apiVersion": "fairway.dev/v1alpha1",
        "kind": "AddressPool",
        "metadata": {"name": "entry"},
        "spec": {"addresses": [entry]},
    });
    match read(&pool) {
        Ok(read) => match read.object {
            // An entry of which nothing can be given out; what else there is to say is said later.
            Object::Pool(pool) if !pool.problems.is_empty() => {
                let problems = pool.problems.iter().map(|it| it.message.as_str());
                Err(problems.collect::<Vec<_>>().join("; "))
            }
            Object::Pool(pool) if pool.blocks.is_empty() => {
                Err(pool.notices.iter().map(|it| it.message.as_str()).collect())
            }
            _ => Ok(()),
        },
        Err(unreadable) => Err(unreadable
            .problems
            .into_iter()
            .map(|problem| problem.message)
            .collect::<Vec<_>>()
            .join("; ")),
    }
}
