//! The table `arp fairway` of nftables: `nft list table arp fairway` shows it.
//!
//! It holds for whichever gateway owns the addresses and is left in place when the process is killed: then nobody
//! answers. The next process takes it over. It is removed at a clean end.
//!
//! ```text
//! table arp fairway {
//!     chain input {
//!         type filter hook input priority filter; policy accept;
//!         arp operation request arp daddr ip 203.0.113.0-203.0.113.15 drop
//!     }
//!     chain output {
//!         type filter hook output priority filter; policy accept;
//!         arp operation request arp saddr ip 203.0.113.0-203.0.113.15 goto sender
//!     }
//!     chain sender {
//!         oifname "eth0" arp saddr ip set 192.0.2.12 accept
//!         arp saddr ip set 0.0.0.0
//!     }
//! }
//! ```
//!
//! An interface without an address of its own asks as a probe does (RFC 5227), from which nobody learns anything.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use crate::netfilter::{PacketHook, RuleExpressions, TableBatch, TableFamily, count_rules};

/// The name of the table.
const NAME: &str = "fairway";

/// Offsets of the two protocol addresses in an ARP packet for IPv4 over Ethernet (RFC 826).
const SENDER: u32 = 14;
const TARGET: u32 = 24;

/// What an ARP request for IPv4 over Ethernet begins with.
const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];

/// The longest name of an interface, with zeroes after it (`IFNAMSIZ`).
const NAME_LENGTH: usize = 16;

/// What the table says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ArpTable {
    /// The addresses that the kernel must not answer for, nor name as a sender.
    pub(super) ranges: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// The address that each interface names instead.
    pub(super) senders: BTreeMap<Box<str>, Ipv4Addr>,
}

/// Writes the table in place of whatever was there.
///
/// # Errors
/// See [`TableBatch::commit`].
pub(super) fn write(table: &ArpTable) -> io::Result<()> {
    let mut batch = emptied();
    batch.add_table();
    batch.add_chain("input", Some(PacketHook::ArpInput));
    batch.add_chain("output", Some(PacketHook::ArpOutput));
    batch.add_chain("sender", None);
    for (first, last) in &table.ranges {
        let asked = request_about(TARGET, *first, *last);
        batch.add_rule("input", &asked.drop_packet());
        let named = request_about(SENDER, *first, *last);
        batch.add_rule("output", &named.go_to("sender"));
    }
    for (interface, address) in &table.senders {
        let mut name = interface.as_bytes().to_vec();
        name.resize(NAME_LENGTH, 0);
        let rule = RuleExpressions::default().load_interface().equals(&name);
        let rule = rule.store(SENDER, &address.octets()).accept();
        batch.add_rule("sender", &rule);
    }
    let nobody = Ipv4Addr::UNSPECIFIED.octets();
    batch.add_rule("sender", &RuleExpressions::default().store(SENDER, &nobody));
    batch.commit()
}

fn request_about(address: u32, first: Ipv4Addr, last: Ipv4Addr) -> RuleExpressions {
    let request = RuleExpressions::default().load(0, 8).equals(&REQUEST);
    let loaded = request.load(address, 4);
    match first == last {
        true => loaded.equals(&first.octets()),
        false => loaded.between(&first.octets(), &last.octets()),
    }
}

/// Whether the table is there.
///
/// # Errors
/// See [`count_rules`].
pub(super) fn exists() -> io::Result<bool> {
    Ok(count_rules(TableFamily::Arp, NAME)?.is_some())
}

/// Whether the table is there with as many rules as this one has.
///
/// # Errors
/// See [`count_rules`].
pub(super) fn is_whole(table: &ArpTable) -> io::Result<bool> {
    let rules = 2 * table.ranges.len() + table.senders.len() + 1;
    Ok(count_rules(TableFamily::Arp, NAME)? == Some(rules))
}

/// Removes the table, if it is there.
///
/// # Errors
/// See [`TableBatch::commit`].
pub(super) fn remove() -> io::Result<()> {
    emptied().commit()
}

/// A batch that begins by removing the table. It is added first, for what is not there can't be removed.
fn emptied() -> TableBatch {
    let mut batch = TableBatch::new(TableFamily::Arp, NAME);
    batch.add_table();
    batch.remove_table();
    batch
}
