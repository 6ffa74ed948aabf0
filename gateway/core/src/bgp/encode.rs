//! From messages to bytes.

use std::net::{IpAddr, Ipv4Addr};

use fairway_config::net::IpFamily;
use ipnet::IpNet;

use super::message::{AS_TRANS, BgpNotification, BgpOpen, HEADER, LONGEST};
use super::routes::RouteAttributes;

/// An OPEN message.
pub fn open(open: &BgpOpen) -> Vec<u8> {
    let can = &open.capabilities;
    let mut capabilities = Vec::new();
    for family in &can.families {
        let [high, low] = number(*family).to_be_bytes();
        capabilities.extend([1, 4, high, low, 0, 1]);
    }
    if can.route_refresh {
        capabilities.extend([2, 0]);
    }
    if can.extended_next_hop {
        capabilities.extend([5, 6, 0, 1, 0, 1, 0, 2]);
    }
    if let Some((seconds, has_begun)) = can.graceful_restart {
        let flags = seconds & 0xfff | if has_begun { 0x8000 } else { 0 };
        // Each family with the flag that forwarding goes on.
        let families = u8::try_from(can.families.len()).unwrap_or_default();
        capabilities.extend([64, 2 + 4 * families]);
        capabilities.extend(flags.to_be_bytes());
        for family in &can.families {
            let [high, low] = number(*family).to_be_bytes();
            capabilities.extend([high, low, 1, 0x80]);
        }
    }
    if can.four_octet_asn {
        capabilities.extend([65, 4]);
        capabilities.extend(open.asn.to_be_bytes());
    }
    let length = u8::try_from(capabilities.len()).unwrap_or_default();
    let mut body = vec![4];
    body.extend(short(open.asn).to_be_bytes());
    body.extend(open.hold_time.to_be_bytes());
    body.extend(open.router_id.octets());
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    message(1, &body)
}

/// A NOTIFICATION message.
pub fn notification(it: &BgpNotification) -> Vec<u8> {
    let room = LONGEST - HEADER - 2;
    let data = it.data.get(..room).unwrap_or(&it.data);
    message(3, &[&[it.code, it.subcode], data].concat())
}

/// A KEEPALIVE message.
pub fn keepalive() -> Vec<u8> {
    message(4, &[])
}

/// How one router is told of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpdateForm {
    /// The own AS.
    pub asn: u32,
    /// The router is in another AS.
    pub is_external: bool,
    /// It knows AS numbers of four bytes.
    pub four_octet_asn: bool,
}

/// An UPDATE that withdraws prefixes of one family. Answers with it and how many of them it has.
pub fn withdraw<'a>(
    family: IpFamily,
    prefixes: impl Iterator<Item = &'a IpNet>,
) -> (Vec<u8>, usize) {
    match family {
        IpFamily::IPv4 => {
            let (bytes, count) = packed(prefixes, LONGEST - HEADER - 4);
            (update(&bytes, &[], &[]), count)
        }
        IpFamily::IPv6 => {
            // The attribute's own header has four bytes, family and kind three.
            let (bytes, count) = packed(prefixes, LONGEST - HEADER - 4 - 4 - 3);
            let [high, low] = number(family).to_be_bytes();
            let value = [&[high, low, 1], &bytes[..]].concat();
            (update(&[], &attribute(0x80, 15, &value), &[]), count)
        }
    }
}

/// An UPDATE that announces prefixes of one family by this next hop. Answers with it and how many of them it has.
pub fn announce<'a>(
    form: UpdateForm,
    family: IpFamily,
    next_hop: IpAddr,
    attributes: &RouteAttributes,
    prefixes: impl Iterator<Item = &'a IpNet>,
) -> (Vec<u8>, usize) {
    let mut said = Vec::new();
    // ORIGIN: IGP.
    said.extend(attribute(0x40, 1, &[0]));
    let length = attributes.prepended.saturating_add(1);
    said.extend(as_path(form, length));
    if let (IpFamily::IPv4, IpAddr::V4(hop)) = (family, next_hop) {
        said.extend(attribute(0x40, 3, &hop.octets()));
    }
    if !form.is_external {
        let preference = attributes.local_preference.unwrap_or(100);
        said.extend(attribute(0x40, 5, &preference.to_be_bytes()));
    }
    if !attributes.communities.is_empty() {
        let all = attributes.communities.iter().map(|it| it.to_be_bytes());
        let all: Vec<u8> = all.flatten().collect();
        said.extend(attribute(0xc0, 8, &all));
    }
    if form.is_external && !form.four_octet_asn && form.asn > u32::from(u16::MAX) {
        // AS4_PATH.
        said.extend(attribute(0xc0, 17, &path(&form.asn.to_be_bytes(), length)));
    }
    if !attributes.large_communities.is_empty() {
        let all = attributes.large_communities.iter().flatten();
        let all: Vec<u8> = all.flat_map(|it| it.to_be_bytes()).collect();
        said.extend(attribute(0xc0, 32, &all));
    }
    let room = (LONGEST - HEADER - 4).saturating_sub(said.len());
    if let (IpFamily::IPv4, IpAddr::V4(_)) = (family, next_hop) {
        let (bytes, count) = packed(prefixes, room);
        return (update(&[], &said, &bytes), count);
    }
    let hop = match next_hop {
        IpAddr::V4(hop) => hop.to_ipv6_mapped(),
        IpAddr::V6(hop) => hop,
    };
    // The attribute's header, family and kind, the next hop with its length, a reserved byte.
    let (bytes, count) = packed(prefixes, room.saturating_sub(4 + 3 + 17 + 1));
    let [high, low] = number(family).to_be_bytes();
    let value = [&[high, low, 1, 16], &hop.octets()[..], &[0], &bytes[..]].concat();
    // It goes first (RFC 7606, section 5.1).
    let said = [attribute(0x80, 14, &value), said].concat();
    (update(&[], &said, &[]), count)
}

/// An UPDATE that says that all prefixes of a family have been told (RFC 4724).
pub fn end_of_rib(family: IpFamily) -> Vec<u8> {
    match family {
        IpFamily::IPv4 => update(&[], &[], &[]),
        IpFamily::IPv6 => {
            let [high, low] = number(family).to_be_bytes();
            update(&[], &attribute(0x80, 15, &[high, low, 1]), &[])
        }
    }
}

/// The number of a family (IANA's address family numbers).
fn number(family: IpFamily) -> u16 {
    match family {
        IpFamily::IPv4 => 1,
        IpFamily::IPv6 => 2,
    }
}

fn short(asn: u32) -> u16 {
    u16::try_from(asn).unwrap_or(AS_TRANS)
}

/// AS_PATH: the own AS, so often, for a router of another one; nothing, for one of the same.
fn as_path(form: UpdateForm, length: u8) -> Vec<u8> {
    let path = match (form.is_external, form.four_octet_asn) {
        (false, _) => Vec::new(),
        (true, true) => path(&form.asn.to_be_bytes(), length),
        (true, false) => path(&short(form.asn).to_be_bytes(), length),
    };
    attribute(0x40, 2, &path)
}

/// One sequence of the same number.
fn path(asn: &[u8], length: u8) -> Vec<u8> {
    [&[2, length], &asn.repeat(length.into())[..]].concat()
}

fn attribute(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let [high, low] = length.to_be_bytes();
    // MP_REACH and MP_UNREACH are long as a rule, so they always have the long form.
    match high == 0 && !matches!(kind, 14 | 15) {
        true => [&[flags, kind, low], value].concat(),
        false => [&[flags | 0x10, kind, high, low], value].concat(),
    }
}

/// As many of the prefixes as there is room for.
fn packed<'a>(prefixes: impl Iterator<Item = &'a IpNet>, room: usize) -> (Vec<u8>, usize) {
    let (mut bytes, mut count) = (Vec::new(), 0);
    for prefix in prefixes {
        let length = prefix.prefix_len();
        let used = usize::from(length.div_ceil(8));
        if bytes.len() + 1 + used > room {
            break;
        }
        bytes.push(length);
        match prefix.network() {
            IpAddr::V4(address) => bytes.extend(address.octets().iter().take(used)),
            IpAddr::V6(address) => bytes.extend(address.octets().iter().take(used)),
        }
        count += 1;
    }
    (bytes, count)
}

fn update(withdrawn: &[u8], attributes: &[u8], prefixes: &[u8]) -> Vec<u8> {
    let length = |it: &[u8]| u16::try_from(it.len()).unwrap_or(u16::MAX).to_be_bytes();
    let body = [
        &length(withdrawn)[..],
        withdrawn,
        &length(attributes)[..],
        attributes,
        prefixes,
    ];
    message(2, &body.concat())
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![0xff; 16];
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// A router ID for a speaker that has no IPv4 address: any number that is not 0.
pub fn router_id_of(name: &str) -> Ipv4Addr {
    use std::hash::Hasher as _;
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(name.as_bytes());
    let hash = hasher.finish().to_be_bytes();
    let [a, b, c, d, ..] = hash;
    Ipv4Addr::new(a.max(1), b, c, d)
}
