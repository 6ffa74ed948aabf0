//! `spec.announce` of an AddressPool.

use std::net::IpAddr;

use ipnet::IpNet;

use super::selectors::{not_null, selector};
use crate::annotations::parse;
use crate::announce::{
    Announcement, BgpAnnouncement, INTERFACE_NAME, Layer2Announcement, MAX_ANNOUNCE_ENTRIES,
    is_interface_name,
};
use crate::field::{Cursor, Shown};
use crate::names::ClusterName;
use crate::net::{AddressRange, IpFamily, from_bits, to_bits};
use crate::pool::AddressBlock;
use crate::service::Notice;

/// The fields of `spec.announce`; a test holds the CRD's schema to the same sets.
pub const ANNOUNCE_FIELDS: &[&str] = &["layer2", "bgp", "routes"];
/// Those of `layer2`.
pub const LAYER2_FIELDS: &[&str] = &["interfaces", "nodeSelector"];
/// Those of `bgp`.
pub const BGP_FIELDS: &[&str] = &[
    "peers",
    "communities",
    "localPreference",
    "aggregationLength",
    "aggregationLengthV6",
    "nodeSelector",
];

/// Reads it. `blocks` are the pool's addresses.
pub(super) fn announcement(
    field: &Cursor<'_, '_>,
    blocks: &[AddressBlock],
    notices: &mut Vec<Notice>,
) -> Announcement {
    field.only(ANNOUNCE_FIELDS);
    not_null(field);
    Announcement {
        layer2: part(&field.field("layer2"), |it| layer2(it, notices)),
        bgp: part(&field.field("bgp"), |it| bgp(it, blocks, notices)),
        kernel_routes: field
            .field("routes")
            .one_of(&[("kernel", true)])
            .unwrap_or(false),
    }
}

/// One way to announce. With a problem in it it is none: what can't be read may be what keeps an
/// address from a network or a router.
fn part<T>(field: &Cursor<'_, '_>, read: impl FnOnce(&Cursor<'_, '_>) -> T) -> Option<T> {
    let before = field.problems_so_far();
    field.mapping()?;
    not_null(field);
    let part = read(field);
    (field.problems_so_far() == before).then_some(part)
}

fn layer2(field: &Cursor<'_, '_>, notices: &mut Vec<Notice>) -> Layer2Announcement {
    field.only(LAYER2_FIELDS);
    let interface = |text: &str| is_interface_name(text).then(|| Box::from(text));
    Layer2Announcement {
        interfaces: entries(
            &field.field("interfaces"),
            INTERFACE_NAME,
            interface,
            notices,
        ),
        node_selector: selector(&field.field("nodeSelector")),
    }
}

fn bgp(
    field: &Cursor<'_, '_>,
    blocks: &[AddressBlock],
    notices: &mut Vec<Notice>,
) -> BgpAnnouncement {
    field.only(BGP_FIELDS);
    let peer = |text: &str| parse::is_dns_subdomain(text).then(|| ClusterName::from(text));
    let all = entries(&field.field("communities"), COMMUNITY, community, notices);
    let (mut communities, mut large_communities) = (Vec::new(), Vec::new());
    for community in all {
        match community {
            ReadCommunity::Standard(value) => communities.push(value),
            ReadCommunity::Large(value) => large_communities.push(value),
        }
    }
    let mut length = |name: &str, family: IpFamily| {
        let field = field.field(name);
        let most = match family {
            IpFamily::IPv4 => 32,
            IpFamily::IPv6 => 128,
        };
        let length = field.integer_within(1..=most)?;
        let length = u8::try_from(length).ok()?;
        if let Some(beyond) = beyond(blocks, family, length) {
            notices.push(Notice::new(
                "AggregateBeyondPool",
                format!(
                    "{} is {length}, so {beyond} is announced, which has addresses that are none of \
                     the pool's: routers send what is for them to Fairway, too",
                    field.path()
                ),
            ));
        }
        Some(length)
    };
    let aggregation_length = length("aggregationLength", IpFamily::IPv4);
    let aggregation_length_v6 = length("aggregationLengthV6", IpFamily::IPv6);
    BgpAnnouncement {
        peers: entries(
            &field.field("peers"),
            "the name of a BGPPeer",
            peer,
            notices,
        ),
        communities,
        large_communities,
        local_preference: field
            .field("localPreference")
            .integer_within(0..=i64::from(u32::MAX))
            .and_then(|number| u32::try_from(number).ok()),
        aggregation_length,
        aggregation_length_v6,
        node_selector: selector(&field.field("nodeSelector")),
    }
}

/// Whether a list has no more entries than are read.
pub(super) fn is_short_enough(list: &Cursor<'_, '_>) -> bool {
    let count = list.value().as_array().map_or(0, Vec::len);
    if count > MAX_ANNOUNCE_ENTRIES {
        list.problem(format!(
            "has {count} entries, at most {MAX_ANNOUNCE_ENTRIES} are read"
        ));
    }
    count <= MAX_ANNOUNCE_ENTRIES
}

/// The entries of a list of texts, each once.
fn entries<T: PartialEq>(
    list: &Cursor<'_, '_>,
    must: &str,
    parse: impl Fn(&str) -> Option<T>,
    notices: &mut Vec<Notice>,
) -> Vec<T> {
    if !is_short_enough(list) {
        return Vec::new();
    }
    let mut entries = Vec::new();
    for item in list.items() {
        let Some(text) = item.text() else {
            if !item.is_present() {
                item.wrong(must);
            }
            continue;
        };
        match parse(text) {
            None => item.wrong(must),
            Some(entry) if entries.contains(&entry) => notices.push(Notice::new(
                "DuplicateEntry",
                format!(
                    "{} is '{}', which stands there already: it counts once",
                    item.path(),
                    Shown(text)
                ),
            )),
            Some(entry) => entries.push(entry),
        }
    }
    entries
}

const COMMUNITY: &str = "a community like 64512:100, two numbers from 0 to 65535, or a large one \
    like large:64512:1:2, three numbers from 0 to 4294967295";

#[derive(PartialEq)]
enum ReadCommunity {
    Standard(u32),
    Large([u32; 3]),
}

fn community(text: &str) -> Option<ReadCommunity> {
    if let Some(large) = text.strip_prefix("large:") {
        let mut numbers = large.split(':').map(number::<u32>);
        let mut next = || numbers.next().flatten();
        let large = [next()?, next()?, next()?];
        return numbers
            .next()
            .is_none()
            .then_some(ReadCommunity::Large(large));
    }
    let (asn, value) = text.split_once(':')?;
    let (asn, value) = (number::<u16>(asn)?, number::<u16>(value)?);
    Some(ReadCommunity::Standard(
        u32::from(asn) << 16 | u32::from(value),
    ))
}

/// A number in digits alone: Rust's own parser takes a plus sign, too.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// The first prefix of this length that has an address of the pool in it and others, too. A prefix
/// between those of a block's ends has none but the block's.
fn beyond(blocks: &[AddressBlock], family: IpFamily, length: u8) -> Option<IpNet> {
    let of_family = blocks.iter().filter(|it| it.range.family() == family);
    let ends = of_family.flat_map(|it| [it.range.first(), it.range.last()]);
    let prefixes = ends.filter_map(|end| Some(IpNet::new(end, length).ok()?.trunc()));
    let mut prefixes = prefixes.filter(|it| !covered(blocks, AddressRange::of_net(*it)));
    prefixes.next()
}

/// Whether all of a range is the pool's. Its blocks have nothing in common, so each step passes
/// another one.
fn covered(blocks: &[AddressBlock], range: AddressRange) -> bool {
    let mut at: IpAddr = range.first();
    while let Some(block) = blocks.iter().find(|it| it.range.contains(at)) {
        if block.range.last() >= range.last() {
            return true;
        }
        match to_bits(block.range.last()).checked_add(1) {
            Some(next) => at = from_bits(range.family(), next),
            None => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_are_two_or_three_numbers() {
        let standard = |text| match community(text) {
            Some(ReadCommunity::Standard(value)) => Some(value),
            _ => None,
        };
        let large = |text| match community(text) {
            Some(ReadCommunity::Large(value)) => Some(value),
            _ => None,
        };
        assert_eq!(standard("64512:100"), Some(64_512 << 16 | 100));
        assert_eq!(standard("65535:65281"), Some(0xffff_ff01));
        assert_eq!(large("large:4294967295:0:7"), Some([4_294_967_295, 0, 7]));
        for wrong in [
            "",
            ":",
            "1",
            "1:",
            "65536:1",
            "1:65536",
            "1:2:3",
            "+1:2",
            " 1:2",
            "-1:2",
            "large:1:2",
            "large:1:2:3:4",
            "large:1:2:4294967296",
            "large:1:2:+3",
            "LARGE:1:2:3",
            "no-export",
        ] {
            assert!(community(wrong).is_none(), "{wrong}");
        }
    }
}
