#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod announcing;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::bgp_peer::BgpPeer;
use crate::document::documents;
use crate::object::{Object, read};
use crate::pool::AddressPool;
use crate::selector::SelectorExt as _;

/// The examples of MetalLB's documentation, as `kubectl get -o yaml` prints them, with Services.
const REAL: &str = include_str!("tests/metallb.yaml");

fn import(text: &str) -> Imported {
    let documents = documents(text).unwrap();
    metallb(documents.iter().map(|document| &document.value))
}

/// A pool as Fairway reads it.
fn parsed(pool: &ImportedPool) -> Arc<AddressPool> {
    match read(&pool.manifest()) {
        Ok(read) => match read.object {
            Object::Pool(pool) => {
                assert!(pool.problems.is_empty(), "{:?}", pool.problems);
                pool
            }
            other => panic!("{other:?}"),
        },
        Err(unreadable) => panic!("{:?}", unreadable.problems),
    }
}

/// A peer as Fairway reads it.
fn parsed_peer(peer: &ImportedPeer) -> Arc<BgpPeer> {
    match read(&peer.manifest()).map(|it| it.object) {
        Ok(Object::BgpPeer(peer)) => {
            assert!(peer.problems.is_empty(), "{:?}", peer.problems);
            peer
        }
        other => panic!("{other:?}"),
    }
}

fn spec_of(imported: &Imported, name: &str) -> Value {
    let pool = imported.pools.iter().find(|pool| pool.name == name);
    let pool = pool.unwrap_or_else(|| panic!("no {name} in {imported:#?}"));
    parsed(pool);
    pool.manifest()["spec"].clone()
}

fn says(lines: &[String], words: &[&str]) {
    assert!(
        lines
            .iter()
            .any(|line| words.iter().all(|word| line.contains(word))),
        "{words:?} is not in {lines:#?}"
    );
}

/// One IPAddressPool called `a` with these fields of `spec`.
fn pool(spec: Value) -> Value {
    json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
        "metadata": {"name": "a", "namespace": "metallb-system"}, "spec": spec})
}

fn service(namespace: &str, name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": address}]}}})
}

#[test]
fn a_real_configuration_becomes_the_same_pools() {
    let imported = import(REAL);
    let names: Vec<_> = imported.pools.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["cheap", "expensive", "pool-ns"]);
    assert_eq!(
        spec_of(&imported, "cheap"),
        json!({"addresses": ["192.168.10.0/24", "192.168.9.1-192.168.9.5",
                "fc00:f853:ccd:e799::/124"], "autoAssign": true,
            "announce": {"layer2": {},
                "bgp": {"communities": ["65535:65282"], "localPreference": 100}}})
    );
    assert_eq!(
        spec_of(&imported, "expensive"),
        json!({"addresses": ["42.176.25.64/30"], "autoAssign": false,
            "announce": {"layer2": {"interfaces": ["eth3"], "nodeSelector": {"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["NodeA", "NodeB"]}]}}}})
    );
    // Namespaces by name or by label is more than one selector can say.
    assert_eq!(
        spec_of(&imported, "pool-ns"),
        json!({"addresses": ["192.168.20.0/24"], "autoAssign": true, "priority": 50,
            "avoidEnds": true,
            "serviceSelector": {"matchExpressions": [{"key": "app", "operator": "In",
                "values": ["bar"]}]}})
    );
    says(
        &imported.said,
        &["IPAddressPool metallb-system/cheap becomes AddressPool cheap."],
    );
    says(&imported.said, &["expensive", "autoAssign: false"]);
    says(
        &imported.said,
        &["pool-ns", "avoidBuggyIPs becomes avoidEnds"],
    );
    says(
        &imported.said,
        &[
            "cheap",
            "announce.bgp says what BGPAdvertisement metallb-system/local said",
        ],
    );
    says(&imported.said, &["3 Services", "--default-class"]);
    says(
        &imported.warnings,
        &["pool-ns is open to more", "namespaceSelector"],
    );
    says(
        &imported.warnings,
        &[
            "Service shop/b shares 192.168.10.7",
            "-n shop b fairway.dev/sharing-namespaces=web",
        ],
    );
    assert_eq!(imported.warnings.len(), 3, "{:#?}", imported.warnings);
}

#[test]
fn the_same_addresses_are_left_alone() {
    for (entries, wanted) in [
        (json!(["10.0.0.0/24"]), json!(["10.0.0.0/24"])),
        (json!(["10.0.0.0/23"]), json!(["10.0.0.0/23"])),
        (json!(["10.0.0.16/28"]), json!(["10.0.0.16-10.0.0.31"])),
        (json!(["10.0.0.0/28"]), json!(["10.0.0.1-10.0.0.15"])),
        (json!(["10.0.0.240/28"]), json!(["10.0.0.240-10.0.0.254"])),
        (
            json!([" 10.0.0.250 - 10.0.2.3"]),
            json!([
                "10.0.0.250-10.0.0.254",
                "10.0.1.1-10.0.1.254",
                "10.0.2.1-10.0.2.3"
            ]),
        ),
        (json!(["10.0.0.0/32", "10.0.0.9/32"]), json!(["10.0.0.9"])),
        (
            json!(["2001:db8::/120"]),
            json!(["2001:db8::-2001:db8::ff"]),
        ),
    ] {
        let document = pool(json!({"addresses": entries, "avoidBuggyIPs": true}));
        let imported = metallb([&document]);
        let spec = spec_of(&imported, "a");
        assert_eq!(spec["addresses"], wanted);
        assert_eq!(spec["avoidEnds"], true);
        assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
    }
    // Too many pieces: they are given out, and that is said.
    let wide = pool(json!({"addresses": ["10.0.0.1-10.9.0.1"], "avoidBuggyIPs": true}));
    let imported = metallb([&wide]);
    assert_eq!(
        spec_of(&imported, "a")["addresses"],
        json!(["10.0.0.1-10.9.0.1"])
    );
    says(&imported.warnings, &["10.0.0.1-10.9.0.1", ".0 and .255"]);
}

#[test]
fn entries_that_can_not_be_are_left_out_and_named() {
    let document = pool(json!({"addresses":
        ["10.0.0.9/24", "rubbish", "224.0.0.0/8", "10.0.0.7-10.0.0.2", "10.0.0.8/32"]}));
    let imported = metallb([&document]);
    assert_eq!(spec_of(&imported, "a")["addresses"], json!(["10.0.0.0/24"]));
    for words in [
        ["rubbish", "no CIDR"],
        ["224.0.0.0/8", "multicast"],
        ["10.0.0.7-", "no range"],
        ["10.0.0.8/32", "overlaps"],
    ] {
        says(&imported.warnings, &words);
    }
    assert_eq!(imported.warnings.len(), 4);
    let nothing = metallb([&pool(json!({"addresses": ["rubbish"]}))]);
    assert!(nothing.pools.is_empty());
    says(
        &nothing.warnings,
        &["metallb-system/a is left out", "no address"],
    );
}

#[test]
fn pools_go_in_the_order_in_which_metallb_took_them() {
    let named = |name: &str, allocation: Value| {
        let mut pool = pool(json!({"addresses": [format!("10.0.0.{}/32", name.len())],
            "serviceAllocation": allocation}));
        pool["metadata"]["name"] = json!(name);
        pool
    };
    let of = |allocations: [Value; 3]| -> Vec<i32> {
        let [x, y, z] = allocations;
        let all = [named("a", x), named("aa", y), named("aaa", z)];
        let imported = metallb(&all);
        imported.pools.iter().map(|it| it.spec.priority).collect()
    };
    let pinned = |priority: i64| json!({"priority": priority, "namespaces": ["x"]});
    assert_eq!(of([Value::Null, Value::Null, Value::Null]), [100, 100, 100]);
    assert_eq!(of([pinned(50), pinned(0), Value::Null]), [50, 99, 100]);
    assert_eq!(of([pinned(500), pinned(0), Value::Null]), [500, 501, 502]);
    let most = i32::MAX;
    assert_eq!(
        of([pinned(i64::MAX), pinned(0), Value::Null]),
        [most - 2, most - 1, most]
    );
}

#[test]
fn alternatives_become_one_selector_where_one_can_say_them() {
    let label = |key: &str, value: &str| json!({"matchLabels": {key: value}});
    let table = [
        (json!([]), Some(json!({}))),
        (json!([{}]), Some(json!({}))),
        (json!([label("a", "x"), {}]), Some(json!({}))),
        (json!([label("a", "x")]), Some(label("a", "x"))),
        (
            json!([label("a", "x"), label("a", "x")]),
            Some(label("a", "x")),
        ),
        (
            json!([label("a", "y"), label("a", "x")]),
            Some(
                json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", "y"]}]}),
            ),
        ),
        (
            json!([{"matchLabels": {"a": "x", "b": "1"}}, {"matchLabels": {"a": "y", "b": "1"}}]),
            Some(json!({"matchExpressions": [
                {"key": "a", "operator": "In", "values": ["x", "y"]},
                {"key": "b", "operator": "In", "values": ["1"]}]})),
        ),
        (json!([label("a", "x"), label("b", "x")]), None),
    ];
    for (selectors, wanted) in table {
        let document = pool(json!({"addresses": ["10.0.0.0/24"],
            "serviceAllocation": {"serviceSelectors": selectors}}));
        let imported = metallb([&document]);
        let spec = json!(imported.pools[0].spec);
        match wanted {
            Some(wanted) => {
                assert_eq!(spec["serviceSelector"], wanted);
                assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
            }
            None => {
                assert_eq!(spec["serviceSelector"], json!({}));
                says(&imported.warnings, &["open to more", "serviceSelector"]);
            }
        }
    }
}

#[test]
fn an_address_that_is_in_no_pool_gets_one() {
    let mut asking = service("web", "asks", "10.9.0.1");
    asking["metadata"]["annotations"] = json!({"metallb.universe.tf/address-pool": "a"});
    let mut foreign = service("web", "cloud", "203.0.113.9");
    foreign["spec"]["loadBalancerClass"] = json!("service.k8s.aws/nlb");
    let mut idle = service("web", "cluster", "10.9.0.9");
    idle["spec"]["type"] = json!("ClusterIP");
    let imported = metallb(&[
        pool(json!({"addresses": ["10.0.0.0/28"], "avoidBuggyIPs": true})),
        asking,
        service("web", "avoided", "10.0.0.0"),
        service("web", "lost", "10.9.0.2"),
        service("web", "void", "0.0.0.0"),
        foreign,
        idle,
    ]);
    assert_eq!(
        spec_of(&imported, "a")["addresses"],
        json!(["10.0.0.1-10.0.0.15", "10.9.0.1", "10.0.0.0"])
    );
    assert_eq!(
        spec_of(&imported, "metallb-left-over"),
        json!({"addresses": ["10.9.0.2"], "autoAssign": false})
    );
    assert_eq!(imported.pools.len(), 2);
    for words in [
        ["Service web/asks holds 10.9.0.1", "AddressPool a."],
        ["Service web/avoided holds 10.0.0.0", "AddressPool a."],
        [
            "Service web/lost holds 10.9.0.2",
            "AddressPool metallb-left-over.",
        ],
        [
            "Service web/void holds 0.0.0.0",
            "no AddressPool can have it",
        ],
        ["Service web/cloud holds 203.0.113.9", "another provider's"],
    ] {
        says(&imported.warnings, &words);
    }
    assert_eq!(imported.warnings.len(), 5, "{:#?}", imported.warnings);
}

#[test]
fn who_would_not_get_its_address_again_is_named() {
    let mut elsewhere = service("web", "elsewhere", "10.0.0.2");
    elsewhere["metadata"]["annotations"] = json!({"metallb.io/address-pool": "b"});
    let mut classy = service("shop", "classy", "10.0.0.3");
    classy["spec"]["loadBalancerClass"] = json!("metallb.io/metallb");
    let imported = metallb(&[
        pool(json!({"addresses": ["10.0.0.0/24"],
            "serviceAllocation": {"namespaces": ["shop"]}})),
        service("web", "left", "10.0.0.1"),
        elsewhere,
        classy,
    ]);
    says(
        &imported.warnings,
        &["web/left", "10.0.0.1", "does not select it", "OutOfPool"],
    );
    says(&imported.warnings, &["web/elsewhere", "asks for pool b"]);
    says(
        &imported.said,
        &[
            "1 Service of loadBalancerClass metallb.io/metallb",
            "--class metallb.io/metallb",
        ],
    );
}

#[test]
fn names_of_two_namespaces_do_not_collide() {
    let mut other = pool(json!({"addresses": ["10.0.1.0/24"]}));
    other["metadata"]["namespace"] = json!("other");
    let first = pool(json!({"addresses": ["10.0.0.0/24"]}));
    let imported = metallb([&first, &other, &first]);
    let names: Vec<_> = imported.pools.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["a", "other-a"]);
    says(&imported.warnings, &["other/a becomes AddressPool other-a"]);
}

#[test]
fn what_can_not_be_read_is_named_and_more_entries_than_fit_are_split() {
    let entries: Vec<String> = (0..300)
        .map(|n| format!("10.0.{}.{}/32", n / 100, n % 100))
        .collect();
    let mut old = pool(json!({}));
    old["kind"] = json!("AddressPool");
    let imported = metallb(&[
        pool(json!({"addresses": entries})),
        json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "b"},
            "spec": {"addresses": 5}}),
        old,
        json!({"kind": "Pod"}),
        json!(17),
    ]);
    let sizes: Vec<_> = imported
        .pools
        .iter()
        .map(|it| (it.name.as_str(), it.spec.addresses.len()))
        .collect();
    assert_eq!(sizes, [("a", 256), ("a-2", 44)]);
    says(&imported.warnings, &["IPAddressPool b is left out", "spec"]);
    says(
        &imported.warnings,
        &["AddressPool a is left out", "IPAddressPool"],
    );
    says(&imported.warnings, &["300 entries", "a-2"]);
}

/// A selector over two labels with two values each.
fn selector() -> impl Strategy<Value = Value> {
    let expression = ("[ab]", 0..4, proptest::collection::vec("[xy]", 1..3)).prop_map(
        |(key, operator, values)| match operator {
            0 => json!({"key": key, "operator": "In", "values": values}),
            1 => json!({"key": key, "operator": "NotIn", "values": values}),
            2 => json!({"key": key, "operator": "Exists"}),
            _ => json!({"key": key, "operator": "DoesNotExist"}),
        },
    );
    let labels = proptest::collection::btree_map("[ab]", "[xy]", 0..2);
    (labels, proptest::collection::vec(expression, 0..2))
        .prop_map(|(labels, all)| json!({"matchLabels": labels, "matchExpressions": all}))
}

fn selectors() -> impl Strategy<Value = Vec<Value>> {
    proptest::collection::vec(selector(), 0..3)
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[ab]", "[xy]", 0..3)
}

/// What one entry of `10.POOL.ENTRY.0` is, as MetalLB takes it, from where to where.
fn entry(pool: u8, number: u8, kind: u8, a: u8, b: u8) -> (String, Ipv4Addr, Ipv4Addr) {
    let at = |last: u8| Ipv4Addr::new(10, pool, number, last);
    match kind {
        0 => {
            let length = 24 + a % 9;
            let net: ipnet::Ipv4Net = format!("{}/{length}", at(b)).parse().unwrap();
            (net.to_string(), net.network(), net.broadcast())
        }
        _ => {
            let (first, last) = (at(a.min(b)), at(a.max(b)));
            (format!("{first}-{last}"), first, last)
        }
    }
}

type Declared = (
    Vec<(u8, u8, u8)>,
    bool,
    bool,
    Option<(i64, Vec<String>, Vec<Value>, Vec<Value>)>,
);

fn declared() -> impl Strategy<Value = Declared> {
    (
        proptest::collection::vec((0..2_u8, any::<u8>(), any::<u8>()), 1..4),
        any::<bool>(),
        any::<bool>(),
        proptest::option::of((
            0..200_i64,
            proptest::collection::vec("(web|shop)", 0..2),
            selectors(),
            selectors(),
        )),
    )
}

proptest! {
    /// Every address that MetalLB could have given a Service is in an AddressPool that gives it to
    /// that Service, and nothing that comes out has a problem.
    #[test]
    fn no_address_is_lost(
        pools in proptest::collection::vec(declared(), 1..4),
        picks in proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>(),
             "(web|shop|home)", labels()),
            0..8,
        ),
        namespace_labels in labels(),
    ) {
        let mut documents = Vec::new();
        let mut ranges = Vec::new();
        for (index, (entries, auto_assign, avoid, allocation)) in pools.iter().enumerate() {
            let own: Vec<_> = entries.iter().enumerate()
                .map(|(number, (kind, a, b))| entry(index as u8, number as u8, *kind, *a, *b))
                .collect();
            let addresses: Vec<_> = own.iter().map(|(text, ..)| text).collect();
            let mut spec = json!({"addresses": addresses, "autoAssign": auto_assign,
                "avoidBuggyIPs": avoid});
            if let Some((priority, namespaces, namespace_selectors, service_selectors)) = allocation {
                spec["serviceAllocation"] = json!({"priority": priority, "namespaces": namespaces,
                    "namespaceSelectors": namespace_selectors,
                    "serviceSelectors": service_selectors});
            }
            documents.push(json!({"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
                "metadata": {"name": format!("pool-{index}"), "namespace": "metallb-system"},
                "spec": spec}));
            ranges.push(own);
        }
        let mut held = Vec::new();
        for (number, (pool, range, step, namespace, labels)) in picks.iter().enumerate() {
            let pool = pool.index(ranges.len());
            let (_, first, last) = &ranges[pool][range.index(ranges[pool].len())];
            let span = last.to_bits() - first.to_bits();
            let address = Ipv4Addr::from_bits(first.to_bits() + u32::from(*step) % (span + 1));
            documents.push(json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": format!("s{number}"), "namespace": namespace, "labels": labels},
                "spec": {"type": "LoadBalancer"},
                "status": {"loadBalancer": {"ingress": [{"ip": address}]}}}));
            held.push((pool, IpAddr::V4(address), namespace, labels));
        }
        let imported = metallb(&documents);
        let parsed: BTreeMap<_, _> = imported.pools.iter()
            .map(|pool| (pool.name.clone(), parsed(pool)))
            .collect();
        for pool in parsed.values() {
            prop_assert!(pool.notices.is_empty(), "{:?}", pool.notices);
        }
        for (pool, address, namespace, labels) in held {
            let home = parsed.values().find(|it| it.contains(address));
            let home = home.unwrap_or_else(|| panic!("{address} is lost: {imported:#?}"));
            prop_assert_eq!(&*home.name, format!("pool-{pool}"));
            let (_, auto_assign, avoid, allocation) = &pools[pool];
            let IpAddr::V4(v4) = address else { unreachable!() };
            let avoided = *avoid && matches!(v4.octets()[3], 0 | 255);
            prop_assert!(avoided || home.usable(address), "{address}");
            prop_assert_eq!(home.auto_assign, *auto_assign);
            let mut its = namespace_labels.clone();
            its.insert(NAMESPACE_NAME.to_owned(), namespace.clone());
            let any = |all: &[Value], labels: &BTreeMap<String, String>| {
                all.iter().any(|selector| {
                    let selector = serde_json::from_value(selector.clone()).unwrap();
                    selectors::parsed(&selector).unwrap().matches(labels)
                })
            };
            let given = match allocation {
                None => true,
                Some((_, namespaces, by_label, services)) => {
                    let everywhere = namespaces.is_empty() && by_label.is_empty();
                    (everywhere || namespaces.contains(namespace) || any(by_label, &its))
                        && (services.is_empty() || any(services, labels))
                }
            };
            if given {
                prop_assert!(home.service_selector.matches(labels));
                prop_assert!(home.namespace_selector.matches(&its));
            }
        }
    }

    /// Whatever a document is, nothing panics and what comes out can be read.
    #[test]
    fn rubbish_does_no_harm(
        fields in proptest::collection::btree_map(
            "(addresses|autoAssign|avoidBuggyIPs|serviceAllocation|nodeSelectors|interfaces|type\
             |communities|peers|aggregationLength|localPref|myASN|peerASN|peerAddress|bfdProfile)",
            prop_oneof![
                Just(json!(null)), Just(json!(7)), Just(json!("LoadBalancer")), Just(json!(true)),
                Just(json!([{}, null, "10.0.0.0/8", "::/0", "0.0.0.0/0", "-", "/", "10.0.0.255"])),
                Just(json!(["10.0.0.0/8", "::/0", "0.0.0.0/0", "-", "/", "fe80::1-ff00::"])),
                Just(json!({"namespaces": ["", "x"], "serviceSelectors": [{"matchExpressions":
                    [{"key": "", "operator": "Like"}]}]})),
            ],
            0..5,
        ),
        kind in "(IPAddressPool|L2Advertisement|BGPAdvertisement|BGPPeer|BFDProfile|Community|Service)",
        name in "[a-zA-Z./-]{0,3}",
    ) {
        let version = if kind == "Service" { "v1" } else { "metallb.io/v1beta1" };
        let document = json!({"apiVersion": version, "kind": kind,
            "metadata": {"name": name}, "spec": fields,
            "status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.255"}, {"ip": "::"}, 7]}}});
        let good = pool(json!({"addresses": ["10.0.0.0/24"], "avoidBuggyIPs": true}));
        let imported = metallb([&document, &good]);
        for pool in &imported.pools {
            parsed(pool);
        }
        for peer in &imported.peers {
            parsed_peer(peer);
        }
    }
}
