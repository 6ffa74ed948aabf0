#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::asks::{Merged, RequestTexts, merge};
use super::*;
use crate::service::{ForwardTo, SharingNamespaces};

fn merged(annotations: &[(&str, &str)]) -> Merged {
    merged_with(annotations, None, &[])
}

fn merged_with(
    annotations: &[(&str, &str)],
    load_balancer_ip: Option<&str>,
    source_ranges: &[&str],
) -> Merged {
    let annotations: BTreeMap<&str, &str> = annotations.iter().copied().collect();
    merge(&RequestTexts {
        annotations: &annotations,
        load_balancer_ip,
        source_ranges,
    })
}

fn addresses(merged: &Merged) -> Vec<String> {
    merged
        .asks
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn reasons(merged: &Merged) -> Vec<&str> {
    merged.notices.iter().map(|n| n.reason.as_ref()).collect()
}

#[test]
fn every_dialect_asks_for_addresses() {
    for name in [
        ADDRESSES,
        dialects::METALLB_ADDRESSES,
        dialects::METALLB_OLD_ADDRESSES,
        dialects::CILIUM_ADDRESSES,
        dialects::CILIUM_OLD_ADDRESSES,
        dialects::KUBE_VIP_ADDRESSES,
    ] {
        let merged = merged(&[(name, " 2001:db8::1 , 203.0.113.5,")]);
        assert_eq!(addresses(&merged), ["203.0.113.5", "2001:db8::1"], "{name}");
        assert!(merged.notices.is_empty(), "{name}: {:?}", merged.notices);
    }
    let merged = merged_with(&[], Some("203.0.113.5"), &[]);
    assert_eq!(addresses(&merged), ["203.0.113.5"]);
}

#[test]
fn where_dialects_differ_the_winner_and_the_loser_are_named() {
    let own = (ADDRESSES, "203.0.113.1");
    let new = (dialects::METALLB_ADDRESSES, "203.0.113.2");
    let old = (dialects::METALLB_OLD_ADDRESSES, "203.0.113.3");
    let kube_vip = (dialects::KUBE_VIP_ADDRESSES, "203.0.113.4");
    for (given, winner) in [
        (vec![own, new], "203.0.113.1"),
        (vec![new, old], "203.0.113.2"),
        (vec![old, kube_vip], "203.0.113.3"),
        (vec![own, kube_vip], "203.0.113.1"),
    ] {
        let merged = merged(&given);
        assert_eq!(addresses(&merged), [winner]);
        assert_eq!(reasons(&merged), ["ConflictingAnnotations"]);
        for (name, _) in &given {
            assert!(
                merged.notices[0].message.contains(name),
                "{:?}",
                merged.notices
            );
        }
    }
    // The same wish in two dialects is no conflict, in any order.
    let agreed = merged(&[
        (ADDRESSES, "203.0.113.1,2001:db8::1"),
        (dialects::METALLB_ADDRESSES, "2001:db8::1,203.0.113.1"),
    ]);
    assert!(agreed.notices.is_empty(), "{:?}", agreed.notices);
}

#[test]
fn metallb_does_not_take_an_annotation_and_the_field() {
    let merged = merged_with(
        &[(dialects::METALLB_ADDRESSES, "203.0.113.1")],
        Some("203.0.113.1"),
        &[],
    );
    assert_eq!(reasons(&merged), ["ConflictingAnnotations"]);
    assert_eq!(addresses(&merged), ["203.0.113.1"]);
    // With an annotation of ours it is a conflict only where they differ.
    let merged = merged_with(&[(ADDRESSES, "203.0.113.1")], Some("203.0.113.1"), &[]);
    assert!(merged.notices.is_empty(), "{:?}", merged.notices);
}

#[test]
fn an_address_that_is_none_is_left_out_and_said_so() {
    for (text, kept) in [
        ("203.0.113.300", &[][..]),
        ("010.0.0.1", &[]),
        ("0.0.0.0", &[]),
        ("::", &[]),
        ("224.0.0.1", &[]),
        ("ff02::1", &[]),
        ("255.255.255.255", &[]),
        ("::ffff:203.0.113.1", &[]),
        ("203.0.113.1 203.0.113.2", &[]),
        ("203.0.113.1,203.0.113.2", &["203.0.113.1"]),
        ("203.0.113.1,nonsense", &["203.0.113.1"]),
    ] {
        let merged = merged(&[(ADDRESSES, text)]);
        assert_eq!(addresses(&merged), kept, "{text}");
        assert_eq!(reasons(&merged), ["InvalidAddress"], "{text}");
    }
    assert!(merged(&[(ADDRESSES, " , ")]).notices.is_empty());
}

#[test]
fn own_annotations_are_checked_by_name() {
    let table = [
        (
            "fairway.dev/adresses",
            "UnknownAnnotation",
            "is fairway.dev/addresses meant?",
        ),
        (
            "fairway.dev/xyzzyxyzzyxyzzy",
            "UnknownAnnotation",
            "is no annotation that Fairway knows",
        ),
        (WEIGHT, "UnknownAnnotation", "belongs on an EndpointSlice"),
        (TLS_SECRET, "NotYetInForce", TLS_SECRET),
    ];
    for (name, reason, part) in table {
        let merged = merged(&[(name, "x")]);
        assert_eq!(reasons(&merged), [reason], "{name}");
        assert!(
            merged.notices[0].message.contains(part),
            "{:?}",
            merged.notices
        );
    }
    // Other people's annotations are theirs.
    assert!(
        merged(&[("example.org/addresses", "x"), ("fairway.devil/x", "y")])
            .notices
            .is_empty()
    );
}

#[test]
fn sharing_and_the_rest_come_from_every_dialect() {
    for name in [
        SHARING_KEY,
        dialects::METALLB_SHARING_KEY,
        dialects::METALLB_OLD_SHARING_KEY,
        dialects::CILIUM_SHARING_KEY,
        dialects::CILIUM_OLD_SHARING_KEY,
    ] {
        assert_eq!(
            merged(&[(name, "k")]).asks.sharing_key.as_deref(),
            Some("k"),
            "{name}"
        );
        assert_eq!(merged(&[(name, "")]).asks.sharing_key, None, "{name}");
    }
    for name in [
        SHARING_NAMESPACES,
        dialects::CILIUM_SHARING_NAMESPACES,
        dialects::CILIUM_OLD_SHARING_NAMESPACES,
    ] {
        let listed = merged(&[(name, "b, a,b")]).asks.sharing_namespaces;
        assert_eq!(
            listed,
            SharingNamespaces::Listed(vec!["a".into(), "b".into()])
        );
        let all = merged(&[(name, "*")]).asks.sharing_namespaces;
        assert_eq!(all, SharingNamespaces::All);
    }
    for name in [POOL, dialects::METALLB_POOL, dialects::METALLB_OLD_POOL] {
        assert_eq!(merged(&[(name, "edge")]).asks.pool.as_deref(), Some("edge"));
    }
    let merged = merged(&[
        (FORWARD_TO, "node-ports"),
        (EXTERNAL_NAME, "db.example.org."),
        (dialects::KUBE_VIP_IGNORE, "true"),
        (dialects::KUBE_VIP_HOSTNAME, "shop.example.org"),
        (dialects::CILIUM_SHARING_PODS, "true"),
    ]);
    assert_eq!(merged.asks.forward_to, Some(ForwardTo::NodePorts));
    assert_eq!(
        merged.asks.external_name.as_deref(),
        Some("db.example.org.")
    );
    assert_eq!(merged.asks.hostname.as_deref(), Some("shop.example.org"));
    assert!(merged.asks.ignore);
    assert!(merged.notices.is_empty(), "{:?}", merged.notices);
}

#[test]
fn a_value_that_is_none_of_those_allowed_is_left_out() {
    for (name, value) in [
        (POOL, "Two Pools"),
        (SHARING_NAMESPACES, "a/b"),
        (FORWARD_TO, "nodes"),
        (EXTERNAL_NAME, "not a name"),
        (EXTERNAL_NAME, "192.0.2.1"),
        (dialects::KUBE_VIP_IGNORE, "maybe"),
        (dialects::CILIUM_SOURCE_RANGES_POLICY, "maybe"),
    ] {
        let mut merged = merged(&[(name, value)]);
        assert_eq!(reasons(&merged), ["InvalidAnnotation"], "{name}");
        // What decides about all addresses is waited for.
        let waits = [POOL, dialects::KUBE_VIP_IGNORE].contains(&name);
        let unreadable = std::mem::take(&mut merged.asks.unreadable);
        assert_eq!(unreadable.len(), usize::from(waits), "{name}");
        assert_eq!(merged.asks, Default::default(), "{name}");
    }
}

#[test]
fn source_ranges_fail_closed() {
    let ranges = |merged: &Merged| -> Vec<String> {
        merged
            .source_ranges
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    let nobody = ["0.0.0.0/32", "::/128"];
    let merge = |list: &[&str]| merged_with(&[], None, list);

    assert!(merge(&[]).source_ranges.is_empty());
    assert_eq!(
        ranges(&merge(&[" 10.1.2.3/8 ", "192.0.2.7"])),
        ["10.0.0.0/8", "192.0.2.7/32"]
    );
    let part = merge(&["10.0.0.0/8", "nonsense"]);
    assert_eq!(ranges(&part), ["10.0.0.0/8"]);
    assert_eq!(reasons(&part), ["InvalidSourceRange"]);
    let none = merge(&["nonsense"]);
    assert_eq!(ranges(&none), nobody);
    assert_eq!(reasons(&none), ["InvalidSourceRange", "InvalidSourceRange"]);
    assert_eq!(ranges(&merge(&[""])), nobody);

    let older = (dialects::SOURCE_RANGES, "10.0.0.0/8, 192.0.2.0/24");
    assert_eq!(ranges(&merged(&[older])), ["10.0.0.0/8", "192.0.2.0/24"]);
    assert_eq!(ranges(&merged(&[(older.0, "nonsense")])), nobody);
    let both = merged_with(&[older], None, &["198.51.100.0/24"]);
    assert_eq!(ranges(&both), ["198.51.100.0/24"]);
    assert_eq!(reasons(&both), ["ConflictingAnnotations"]);
}

#[test]
fn cilium_policy_turns_source_ranges_around() {
    let deny = (dialects::CILIUM_SOURCE_RANGES_POLICY, "deny");
    let own = (DENY_SOURCE_RANGES, "192.0.2.0/24,10.0.0.0/8");
    let merged = merged_with(&[deny, own], None, &["10.0.0.0/8", "198.51.100.0/24"]);
    assert!(merged.source_ranges.is_empty());
    let denied: Vec<_> = merged
        .asks
        .deny_source_ranges
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(denied, ["192.0.2.0/24", "10.0.0.0/8", "198.51.100.0/24"]);
    // Of a policy that can't be read nobody knows whom it means.
    let unclear = merged_with(&[(deny.0, "Deny?")], None, &["10.0.0.0/8"]);
    assert_eq!(unclear.source_ranges, parse::nobody());
}

#[test]
fn refused_clients_that_can_not_be_read_are_everybody() {
    for (annotations, ranges) in [
        (
            &[(DENY_SOURCE_RANGES, "192.0.2.0/24, nonsense")][..],
            &[][..],
        ),
        (&[(DENY_SOURCE_RANGES, "192.0.2.0/240")], &["10.0.0.0/8"]),
        (&[("fairway.dev/deny-source-range", "192.0.2.0/24")], &[]),
        // Without the headers an endpoint may believe what a client writes.
        (&[("fairway.dev/proxy-protocl", "v2")], &[]),
        (&[("fairway.dev/accept-proxy-protocols", "10.0.0.0/8")], &[]),
        (&[("Fairway.dev/Deny-Source-Ranges", "192.0.2.0/24")], &[]),
        (
            &[(dialects::CILIUM_SOURCE_RANGES_POLICY, "deny")],
            &["192.0.2.0/24", "nonsense"],
        ),
        (&[(DENY_SOURCE_RANGES, "::ffff:192.0.2.0/64")], &[]),
    ] {
        let merged = merged_with(annotations, None, ranges);
        assert_eq!(merged.source_ranges, parse::nobody(), "{annotations:?}");
        let is_known = |(name, _): &(&str, &str)| {
            [DENY_SOURCE_RANGES, dialects::CILIUM_SOURCE_RANGES_POLICY].contains(name)
        };
        let misspelt = !annotations.iter().all(is_known);
        let reason = if misspelt {
            "InvalidAnnotation"
        } else {
            "InvalidSourceRange"
        };
        assert!(reasons(&merged).contains(&reason), "{annotations:?}");
    }
}

#[test]
fn ipv4_ranges_in_the_form_of_ipv6_are_ipv4_ranges() {
    for (text, meant) in [
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ] {
        let meant: ipnet::IpNet = meant.parse().unwrap();
        let denied = merged(&[(DENY_SOURCE_RANGES, text)]);
        assert_eq!(denied.asks.deny_source_ranges, [meant], "{text}");
        assert!(denied.notices.is_empty(), "{text}");
        assert_eq!(merged_with(&[], None, &[text]).source_ranges, [meant]);
    }
}

#[test]
fn a_request_that_can_not_be_read_is_waited_for() {
    let waits = |merged: &Merged, family| merged.asks.unreadable_address(family).is_some();
    let (v4, v6) = (crate::net::IpFamily::IPv4, crate::net::IpFamily::IPv6);
    for (name, value, families) in [
        (ADDRESSES, "203.0.113.300", [true, true]),
        (ADDRESSES, "::ffff:203.0.113.3", [true, true]),
        (
            dialects::METALLB_ADDRESSES,
            "203.0.113.1,2001:dg8::1",
            [false, true],
        ),
        (dialects::KUBE_VIP_ADDRESSES, "0.0.0.0", [true, true]),
        (POOL, "internal pool", [true, true]),
        (dialects::METALLB_POOL, "internal/pool", [true, true]),
        ("fairway.dev/adresses", "203.0.113.1", [true, true]),
        ("Fairway.dev/pool", "internal", [true, true]),
        ("fairway.dev/pol", "internal", [true, true]),
        (dialects::KUBE_VIP_IGNORE, "True", [true, true]),
        (ADDRESSES, "203.0.113.1", [false, false]),
        (POOL, "internal", [false, false]),
    ] {
        let merged = merged(&[(name, value)]);
        assert_eq!(
            [waits(&merged, v4), waits(&merged, v6)],
            families,
            "{name}: {value}"
        );
    }
    // A misspelt one beside the right one is superfluous; a loser that can't be read has lost.
    for pair in [
        [("fairway.dev/pol", "x"), (POOL, "internal")],
        [(POOL, "internal"), (dialects::METALLB_POOL, "not a pool")],
    ] {
        assert!(!waits(&merged(&pair), v4), "{pair:?}");
    }
    let field = merged_with(&[], Some("203.0.113.x"), &[]);
    assert!(waits(&field, v4));
}

fn any_name() -> impl Strategy<Value = String> {
    let known: Vec<String> = FAIRWAY
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .chain(
            [
                dialects::METALLB_ADDRESSES,
                dialects::METALLB_OLD_ADDRESSES,
                dialects::METALLB_POOL,
                dialects::METALLB_SHARING_KEY,
                dialects::CILIUM_ADDRESSES,
                dialects::CILIUM_SHARING_NAMESPACES,
                dialects::CILIUM_SOURCE_RANGES_POLICY,
                dialects::KUBE_VIP_ADDRESSES,
                dialects::KUBE_VIP_IGNORE,
                dialects::KUBE_VIP_HOSTNAME,
                dialects::SOURCE_RANGES,
            ]
            .map(str::to_owned),
        )
        .collect();
    prop_oneof![
        8 => proptest::sample::select(known),
        1 => any::<String>(),
        1 => any::<String>().prop_map(|rest| format!("{PREFIX}{rest}")),
    ]
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[0-9a-f.:/, *-]{0,60}",
        "(true|deny|allow|\\*|node-ports|203\\.0\\.113\\.[0-9]{1,3}(/[0-9]{1,2})?|, ?){0,6}",
    ]
}

proptest! {
    #[test]
    fn any_text_in_any_annotation_is_read(
        annotations in proptest::collection::btree_map(any_name(), any_text(), 0..8),
        load_balancer_ip in proptest::option::of(any_text()),
        source_ranges in proptest::collection::vec(any_text(), 0..4),
    ) {
        let annotations: BTreeMap<&str, &str> =
            annotations.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let source_ranges: Vec<&str> = source_ranges.iter().map(String::as_str).collect();
        let merged = merge(&RequestTexts {
            annotations: &annotations,
            load_balancer_ip: load_balancer_ip.as_deref(),
            source_ranges: &source_ranges,
        });
        let asks = &merged.asks;
        let v4 = asks.addresses.iter().filter(|a| a.is_ipv4()).count();
        prop_assert!(v4 <= 1 && asks.addresses.len() - v4 <= 1);
        // Who gives ranges never ends up open to everybody by a slip.
        let denies = annotations
            .get(dialects::CILIUM_SOURCE_RANGES_POLICY)
            .is_some_and(|policy| policy.trim() == "deny");
        if !source_ranges.is_empty() && !denies {
            prop_assert!(!merged.source_ranges.is_empty());
        }
        for notice in &merged.notices {
            prop_assert!(!notice.message.chars().any(char::is_control), "{}", notice.message);
        }
    }
}

#[test]
fn a_list_of_any_length_is_said_in_few_words() {
    let bad = "a,".repeat(30_000);
    for name in [ADDRESSES, DENY_SOURCE_RANGES, SHARING_NAMESPACES] {
        let bad = bad.replace('a', "-");
        let merged = merged(&[(name, &bad)]);
        let last = &merged.notices.last().unwrap().message;
        assert_eq!(last, "29980 more are not listed", "{name}");
        let said: usize = merged.notices.iter().map(|it| it.message.len()).sum();
        assert!(said < 10_000, "{name}: {said} bytes");
    }
    let names: Vec<String> = (0..5000).map(|n| format!("{PREFIX}x-{n}")).collect();
    let names: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(merged(&names).notices.len(), 21);
    // What is right is taken, however much it is.
    let ranges: Vec<String> = (0..20_000u32)
        .map(|n| std::net::Ipv4Addr::from_bits(n << 8).to_string() + "/24")
        .collect();
    let ranges = format!("{0},{0}", ranges.join(","));
    let merged = merged(&[(DENY_SOURCE_RANGES, &ranges)]);
    assert_eq!(merged.asks.deny_source_ranges.len(), 20_000);
    assert!(merged.notices.is_empty());
}
