//! fairway.dev/v1alpha1 AddressPool.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::field::{Cursor, Shown};
use crate::names::ClusterName;
use crate::net::{AddressRange, IpFamily, from_bits, to_bits};
use crate::pool::{AddressBlock, AddressPool, Forwarding, MAX_ENTRIES};
use crate::service::Notice;

use super::announce::announcement;
use super::selectors::{not_null, selector};

/// The fields of `spec`; a test holds the CRD's schema to the same set.
pub const POOL_SPEC_FIELDS: &[&str] = &[
    "addresses",
    "autoAssign",
    "avoidEnds",
    "priority",
    "serviceSelector",
    "namespaceSelector",
    "quotaPerNamespace",
    "forwarding",
    "announce",
];

/// Reads an AddressPool. What can't be read becomes a problem of the pool itself: an API server may
/// have taken it, so it has to be there for its condition to say so.
pub(super) fn pool(root: &Cursor<'_, '_>, name: &ClusterName) -> AddressPool {
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"]);
    let metadata = root.field("metadata");
    metadata.field("labels").text_map();
    metadata.field("annotations").text_map();
    let spec = root.field("spec");
    if !spec.is_present() {
        spec.missing("an AddressPool says there which addresses it has");
    }
    spec.only(POOL_SPEC_FIELDS);
    not_null(&spec);
    let mut notices = Vec::new();
    let avoid_ends = spec.field("avoidEnds").boolean().unwrap_or(false);
    let blocks = if spec.is_present() {
        blocks(&spec.field("addresses"), avoid_ends, &mut notices)
    } else {
        Vec::new()
    };
    let announce = announcement(&spec.field("announce"), &blocks, &mut notices);
    let forwarding = spec
        .field("forwarding")
        .one_of(&[("Proxy", Forwarding::Proxy), ("Node", Forwarding::Node)])
        .unwrap_or_default();
    AddressPool {
        name: Arc::clone(name),
        created: metadata
            .field("creationTimestamp")
            .nonempty_text()
            .and_then(|text| text.parse().ok()),
        blocks,
        auto_assign: spec.field("autoAssign").boolean().unwrap_or(true),
        priority: spec
            .field("priority")
            .integer_within(i64::from(i32::MIN)..=i64::from(i32::MAX))
            .and_then(|number| i32::try_from(number).ok())
            .unwrap_or(100),
        service_selector: selector(&spec.field("serviceSelector")),
        namespace_selector: selector(&spec.field("namespaceSelector")),
        quota_per_namespace: spec
            .field("quotaPerNamespace")
            .integer_within(0..=i64::from(u32::MAX))
            .and_then(|number| u32::try_from(number).ok()),
        forwarding,
        announce: Arc::new(announce),
        notices,
        problems: Vec::new(),
    }
}

fn blocks(list: &Cursor<'_, '_>, avoid_ends: bool, notices: &mut Vec<Notice>) -> Vec<AddressBlock> {
    let count = list.value().as_array().map_or(0, Vec::len);
    if list.value().is_null() || (list.value().is_array() && count == 0) {
        list.missing("a pool has at least one CIDR, range or address");
    }
    if count > MAX_ENTRIES {
        list.problem(format!(
            "has {count} entries, at most {MAX_ENTRIES} are read: write ranges, or several pools"
        ));
        return Vec::new();
    }
    let mut blocks: Vec<AddressBlock> = Vec::with_capacity(count);
    let items: Vec<_> = list.items().collect();
    let (mut unusables, mut unreadable) = (Vec::new(), false);
    for item in &items {
        let Some(text) = item.text() else {
            if !item.is_present() {
                item.wrong("a CIDR, a range FIRST-LAST or an address");
            }
            unreadable = true;
            continue;
        };
        let usable = entry(text.trim(), avoid_ends).and_then(|block| {
            let why = unusable(block.range).map(Wrong::Range);
            why.map_or(Ok(block), Err)
        });
        let block = match usable {
            Ok(block) => block,
            Err(Wrong::Text(why)) => {
                unreadable = true;
                item.problem(format!("is '{}', {why}", Shown(text)));
                continue;
            }
            Err(Wrong::Range(why)) => {
                unusables.push((item, text, why));
                continue;
            }
        };
        if is_link_local(block.range) {
            notices.push(Notice::new(
                "LinkLocalAddresses",
                format!(
                    "{} has link-local addresses: clients behind a router can't reach them",
                    item.path()
                ),
            ));
        }
        if text.contains('/') && !text.trim().starts_with(&block.range.first().to_string()) {
            notices.push(Notice::new(
                "HostBitsSet",
                format!(
                    "{} is '{}', which stands for {}: write its first address, or a range if fewer \
                     are meant",
                    item.path(),
                    Shown(text),
                    block.range
                ),
            ));
        }
        if let Some(other) = blocks
            .iter()
            .find(|other| other.range.overlaps(block.range))
        {
            notices.push(Notice::new(
                "OverlappingAddresses",
                format!(
                    "{} overlaps {} of the same pool: each address counts once",
                    item.path(),
                    other.range
                ),
            ));
        }
        blocks.push(block);
    }
    for (item, text, why) in unusables {
        if unreadable {
            // Where the pool can't be read nobody sees its notices, and everything is said at once.
            item.problem(format!("is '{}', {why}", Shown(text)));
        } else {
            notices.push(left_out(item, text, why));
        }
    }
    AddressBlock::disjoint(blocks)
}

/// What is wrong with an entry.
enum Wrong {
    /// It is not what the schema asks for: the pool can't be read.
    Text(&'static str),
    /// It is, and there are no addresses that could be given out. An API server takes such a pool, so
    /// its condition says it, and the other entries count.
    Range(&'static str),
}

fn left_out(item: &Cursor<'_, '_>, text: &str, why: &str) -> Notice {
    Notice::new(
        "UnusableAddresses",
        format!(
            "{} is '{}', {why}: nothing is given out of it, the other entries count",
            item.path(),
            Shown(text)
        ),
    )
}

/// One entry: a CIDR, a range, or an address.
fn entry(text: &str, avoid_ends: bool) -> Result<AddressBlock, Wrong> {
    let wrong = Wrong::Text;
    if text.contains('/') {
        let net: IpNet = text
            .parse()
            .map_err(|_| wrong("which is no CIDR like 203.0.113.0/28 or 2001:db8::/120"))?;
        let hosts = net.max_prefix_len() - net.prefix_len();
        return Ok(AddressBlock {
            range: AddressRange::of_net(net),
            avoid_ends: avoid_ends && hosts > 1,
        });
    }
    let address = |text: &str| {
        text.trim()
            .parse::<IpAddr>()
            .map_err(|_| wrong("must be a CIDR, a range FIRST-LAST or an address"))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (address(first)?, address(last)?),
        None => (address(text)?, address(text)?),
    };
    if IpFamily::of(first) != IpFamily::of(last) {
        return Err(wrong("a range from one family to the other"));
    }
    AddressRange::new(first, last)
        .map(|range| AddressBlock {
            range,
            avoid_ends: false,
        })
        .ok_or(Wrong::Range(
            "a range whose last address lies before the first (swap them)",
        ))
}

/// Why a range can't be given out, where it holds addresses that no Service can have. Loopback is
/// not among them: a pool of it is how Fairway is tried on one machine.
fn unusable(range: AddressRange) -> Option<&'static str> {
    let overlaps = |first: IpAddr, last: IpAddr| {
        AddressRange::new(first, last).is_some_and(|other| other.overlaps(range))
    };
    let v4 = |a, b, c, d| IpAddr::V4(Ipv4Addr::new(a, b, c, d));
    let v6 = |first: u128| IpAddr::V6(Ipv6Addr::from_bits(first));
    if overlaps(v4(0, 0, 0, 0), v4(0, 255, 255, 255)) || range.contains(v6(0)) {
        Some("which holds addresses that stand for no host (0.0.0.0/8, ::)")
    } else if overlaps(v4(224, 0, 0, 0), v4(239, 255, 255, 255))
        || overlaps(v6(0xff << 120), v6(u128::MAX))
    {
        Some("which holds multicast addresses")
    } else if range.contains(v4(255, 255, 255, 255)) {
        Some("which holds the broadcast address")
    } else if overlaps(v6(0xffff_0000_0000), v6(0xffff_ffff_ffff)) {
        Some("which holds IPv4 addresses in the form of IPv6: write them as IPv4")
    } else {
        None
    }
}

fn is_link_local(range: AddressRange) -> bool {
    let (first, last) = match range.family() {
        IpFamily::IPv4 => (0xa9fe_0000, 0xa9fe_ffff),
        IpFamily::IPv6 => (0xfe80 << 112, (0xfec0 << 112) - 1),
    };
    let first = from_bits(range.family(), first);
    let last = from_bits(range.family(), last);
    to_bits(range.first()) <= to_bits(last) && to_bits(first) <= to_bits(range.last())
}
