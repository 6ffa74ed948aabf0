//! fairway.dev/v1alpha1 BGPPeer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::announce::is_short_enough;
use super::selectors::{not_null, selector};
use crate::annotations::parse;
use crate::announce::{INTERFACE_NAME, is_interface_name};
use crate::bgp_peer::{
    BFD_INTERVAL, BFD_MULTIPLIER, BGP_PORT, BfdSettings, BgpPeer, CONNECT_TIME, HOLD_TIME,
    MAX_PASSWORD, PeerAsn, PeerPassword,
};
use crate::field::Cursor;
use crate::names::{ClusterName, NamespacedName};
use crate::net::IpFamily;
use crate::selector::Selector;

/// The fields of `spec`; a test holds the CRD's schema to the same set.
pub const BGP_PEER_SPEC_FIELDS: &[&str] = &[
    "myASN",
    "peerASN",
    "dynamicASN",
    "peerAddress",
    "interface",
    "peerPort",
    "sourceAddress",
    "routerID",
    "holdTime",
    "keepaliveTime",
    "connectTime",
    "password",
    "passwordSecret",
    "bfd",
    "ebgpMultiHop",
    "ttlSecurity",
    "enableGracefulRestart",
    "nodeSelectors",
    "nextHop",
];

/// AS_TRANS (RFC 6793): stands in a field of 16 bits for a number that does not fit.
const AS_TRANS: u32 = 23_456;

/// Reads a BGPPeer. What can't be read becomes a problem of the peer itself, as of an AddressPool:
/// an API server may have taken it, so it has to be there for people to see why it has no session.
pub(super) fn bgp_peer(root: &Cursor<'_, '_>, name: &ClusterName) -> BgpPeer {
    root.only(&["apiVersion", "kind", "metadata", "spec", "status"]);
    let metadata = root.field("metadata");
    metadata.field("labels").text_map();
    metadata.field("annotations").text_map();
    let spec = root.field("spec");
    if !spec.is_present() {
        spec.missing("a BGPPeer says there which router it is");
    }
    spec.only(BGP_PEER_SPEC_FIELDS);
    not_null(&spec);
    let my_asn = spec.field("myASN");
    if !my_asn.is_present() {
        my_asn.missing("the number of the AS that the gateways are in");
    }
    let peer_address = address(&spec.field("peerAddress"));
    let interface = interface(&spec.field("interface"));
    place(&spec, peer_address, interface.is_some());
    let source_address = address(&spec.field("sourceAddress"));
    if let (Some(source), Some(peer)) = (source_address, peer_address)
        && IpFamily::of(source) != IpFamily::of(peer)
    {
        let field = spec.field("sourceAddress");
        field.problem(format!(
            "is {source}, and peerAddress is {peer}: a session is within one family"
        ));
    }
    let times = times(&spec);
    BgpPeer {
        name: Arc::clone(name),
        // Whoever writes it by hand into a manifest may write what they like.
        generation: metadata
            .field("generation")
            .value()
            .as_i64()
            .unwrap_or_default(),
        my_asn: asn(&my_asn).unwrap_or_default(),
        peer_asn: peer_asn(&spec),
        peer_address,
        interface,
        peer_port: spec.field("peerPort").port().unwrap_or(BGP_PORT),
        source_address,
        router_id: router_id(&spec.field("routerID")),
        hold_time: times.hold,
        keepalive_time: times.keepalive,
        connect_time: times.connect,
        password_secret: password_secret(&spec),
        password: password(&spec.field("password")),
        bfd: bfd(&spec.field("bfd")),
        ebgp_multi_hop: spec.field("ebgpMultiHop").boolean().unwrap_or(false),
        ttl_security: ttl_security(&spec),
        graceful_restart: spec
            .field("enableGracefulRestart")
            .boolean()
            .unwrap_or(false),
        node_selectors: node_selectors(&spec.field("nodeSelectors")),
        next_hop: address(&spec.field("nextHop")),
        notices: Vec::new(),
        problems: Vec::new(),
    }
}

fn asn(field: &Cursor<'_, '_>) -> Option<u32> {
    let number = field.integer_within(1..=i64::from(u32::MAX))?;
    let number = u32::try_from(number).ok()?;
    if number == AS_TRANS {
        field.problem("is 23456, which no AS has: it stands for numbers above 65535 (AS_TRANS)");
    }
    Some(number)
}

fn peer_asn(spec: &Cursor<'_, '_>) -> PeerAsn {
    let (number, dynamic) = (spec.field("peerASN"), spec.field("dynamicASN"));
    match (number.is_present(), dynamic.is_present()) {
        (true, true) => dynamic.problem("stands beside peerASN: give one of the two"),
        (false, false) => number.missing("the number of the peer's AS, or dynamicASN"),
        _ => {}
    }
    let words = [
        ("internal", PeerAsn::Internal),
        ("external", PeerAsn::External),
    ];
    let (number, dynamic) = (asn(&number), dynamic.one_of(&words));
    dynamic.unwrap_or(PeerAsn::Number(number.unwrap_or_default()))
}

/// Where the peer is has to be said once: by its address, or by the link on which it is found.
fn place(spec: &Cursor<'_, '_>, address: Option<IpAddr>, has_interface: bool) {
    let (address_field, interface) = (spec.field("peerAddress"), spec.field("interface"));
    let is_link_local = matches!(address, Some(IpAddr::V6(it)) if it.is_unicast_link_local());
    let is_said = |field: &Cursor<'_, '_>| field.is_present() && field.value() != "";
    match (is_said(&address_field), is_said(&interface)) {
        (false, false) => address_field.missing(
            "the address of the router, or in interface the link on which one without an address is",
        ),
        (true, true) if address.is_some() && has_interface && !is_link_local => interface.problem(
            "stands beside peerAddress: it is for a peer without an address, or with a link-local one",
        ),
        (true, false) if is_link_local => {
            address_field.problem("is link-local: say in interface on which link it is");
        }
        _ => {}
    }
}

/// A unicast address.
fn address(field: &Cursor<'_, '_>) -> Option<IpAddr> {
    let text = field.nonempty_text()?;
    match parse::address(text) {
        Ok(address) => Some(address),
        Err(why) => {
            field.problem(why);
            None
        }
    }
}

/// A peer that may be farther away sends with a lower TTL.
fn ttl_security(spec: &Cursor<'_, '_>) -> bool {
    let field = spec.field("ttlSecurity");
    let is_on = field.boolean().unwrap_or(false);
    if is_on && spec.field("ebgpMultiHop").value() == true {
        field.problem("stands beside ebgpMultiHop: it is for a peer on the same link");
    }
    is_on
}

fn interface(field: &Cursor<'_, '_>) -> Option<Box<str>> {
    let text = field.nonempty_text()?;
    if !is_interface_name(text) {
        field.wrong(INTERFACE_NAME);
        return None;
    }
    Some(Box::from(text))
}

/// The BGP identifier, which is written like an IPv4 address and is not 0 (RFC 6286).
fn router_id(field: &Cursor<'_, '_>) -> Option<Ipv4Addr> {
    const MUST: &str = "four numbers like 192.0.2.1, and not 0.0.0.0";
    let id = field.parsed::<Ipv4Addr>(MUST)?;
    if id.is_unspecified() {
        field.wrong(MUST);
    }
    Some(id)
}

struct SessionTimes {
    hold: Duration,
    keepalive: Duration,
    connect: Duration,
}

/// The times of a session. RFC 4271 (4.2): a hold time is zero or at least three seconds.
fn times(spec: &Cursor<'_, '_>) -> SessionTimes {
    let hold_field = spec.field("holdTime");
    let hold = seconds(&hold_field).unwrap_or(HOLD_TIME.as_secs());
    if (1..3).contains(&hold) {
        hold_field
            .problem("is shorter than three seconds: write 3s or more, or 0s for no time-out");
    }
    let keepalive_field = spec.field("keepaliveTime");
    let keepalive = seconds(&keepalive_field);
    if let Some(keepalive) = keepalive
        && hold > 0
        && !(1..hold).contains(&keepalive)
    {
        keepalive_field.problem(format!(
            "is {keepalive}s: it must be at least 1s and shorter than the hold time, {hold}s"
        ));
    }
    let connect_field = spec.field("connectTime");
    let connect = seconds(&connect_field).unwrap_or(CONNECT_TIME.as_secs());
    if connect == 0 {
        connect_field.problem("is 0s, must be at least 1s");
    }
    let keepalive = match hold {
        0 => 0,
        hold => keepalive.unwrap_or(hold / 3),
    };
    SessionTimes {
        hold: Duration::from_secs(hold),
        keepalive: Duration::from_secs(keepalive),
        connect: Duration::from_secs(connect),
    }
}

/// A duration as `90s`, `1m30s` or `1h`, in whole seconds, of 65535 s at most: the field of the
/// protocol has 16 bits.
fn seconds(field: &Cursor<'_, '_>) -> Option<u64> {
    let text = field.nonempty_text()?;
    let seconds = whole_seconds(text).filter(|seconds| *seconds <= u64::from(u16::MAX));
    if seconds.is_none() {
        field.wrong("a duration like 90s or 1m30s, in whole seconds and at most 65535s");
    }
    seconds
}

fn whole_seconds(text: &str) -> Option<u64> {
    let (mut rest, mut sum) = (text, 0_u64);
    for (unit, seconds) in [('h', 3600), ('m', 60), ('s', 1)] {
        let Some((number, after)) = rest.split_once(unit) else {
            continue;
        };
        // More digits are more than 65535 s in any unit.
        let is_number =
            (1..=6).contains(&number.len()) && number.bytes().all(|it| it.is_ascii_digit());
        if !is_number {
            return None;
        }
        sum += number.parse::<u64>().ok()? * seconds;
        rest = after;
    }
    (rest.is_empty() && !text.is_empty()).then_some(sum)
}

/// What stands there is in no message: it is a password, even where it is a number.
fn password(field: &Cursor<'_, '_>) -> Option<PeerPassword> {
    match field.value() {
        Value::Null => None,
        Value::String(text) if (1..=MAX_PASSWORD).contains(&text.len()) => {
            Some(PeerPassword::new(text.as_str()))
        }
        Value::String(text) if text.is_empty() => {
            field.problem("is empty: leave the field out where there is no password");
            None
        }
        Value::String(text) => {
            let length = text.len();
            field.problem(format!(
                "is {length} bytes long, at most {MAX_PASSWORD} are taken (TCP MD5)"
            ));
            None
        }
        _ => {
            field.problem("is no text: put it in quotes");
            None
        }
    }
}

fn password_secret(spec: &Cursor<'_, '_>) -> Option<NamespacedName> {
    let field = spec.field("passwordSecret");
    field.mapping()?;
    field.only(&["name", "namespace"]);
    not_null(&field);
    if spec.field("password").is_present() {
        field.problem("stands beside password: give one of the two");
    }
    let part = |name: &str| {
        let part = field.field(name);
        match part.text() {
            Some(text) if parse::is_dns_subdomain(text) => Some(text),
            Some(_) => {
                part.wrong("the name of a Secret and its namespace");
                None
            }
            None => {
                if !part.is_present() {
                    part.missing("the name of a Secret and its namespace");
                }
                None
            }
        }
    };
    let (namespace, name) = (part("namespace"), part("name"));
    Some(NamespacedName::new(namespace?, name?))
}

fn bfd(field: &Cursor<'_, '_>) -> Option<BfdSettings> {
    field.mapping()?;
    field.only(&["receiveInterval", "transmitInterval", "detectMultiplier"]);
    not_null(field);
    let interval = |name: &str| {
        let milliseconds = field.field(name).integer_within(10..=60_000);
        let milliseconds = milliseconds.and_then(|it| u64::try_from(it).ok());
        milliseconds.map_or(BFD_INTERVAL, Duration::from_millis)
    };
    Some(BfdSettings {
        receive_interval: interval("receiveInterval"),
        transmit_interval: interval("transmitInterval"),
        detect_multiplier: field
            .field("detectMultiplier")
            .integer_within(2..=255)
            .and_then(|it| u8::try_from(it).ok())
            .unwrap_or(BFD_MULTIPLIER),
    })
}

fn node_selectors(list: &Cursor<'_, '_>) -> Vec<Selector> {
    if !is_short_enough(list) {
        return Vec::new();
    }
    let selector = |item: Cursor<'_, '_>| {
        if !item.is_present() {
            item.wrong("a label selector");
        }
        selector(&item)
    };
    list.items().map(selector).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_whole_seconds() {
        for (text, seconds) in [
            ("90s", 90),
            ("1m30s", 90),
            ("0s", 0),
            ("2m", 120),
            ("18h12m15s", 65_535),
            ("100000s", 100_000),
        ] {
            assert_eq!(whole_seconds(text), Some(seconds), "{text}");
        }
        for text in [
            "",
            "90",
            "s",
            "1.5s",
            "-3s",
            "+3s",
            "3 s",
            "30s1m",
            "1m1m",
            "1s2",
            "500ms",
            "99999999999999999999s",
        ] {
            assert_eq!(whole_seconds(text), None, "{text}");
        }
    }
}
