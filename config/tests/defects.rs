//! An object with one defect at a random place gives nobody more than it did without, and loses
//! nothing that the defect has nothing to do with.
//!
//! A value that is null, or empty where a default may be meant, is not said at all, as in
//! Kubernetes: the object is then compared with the one without that field, too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::endpoints::{EndpointSlice, SliceEndpoint};
use fairway_config::net::IpFamily;
use fairway_config::object::{Object, read};
use fairway_config::pool::AddressPool;
use fairway_config::selector::SelectorExt as _;
use fairway_config::service::{Service, ServicePort};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// One thing that goes wrong with a value, or with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    Null,
    WrongType,
    EmptyText,
    OutOfRange,
    MisspeltKey,
    UpperCaseKey,
    MappedAddress,
    LeadingZero,
}

const DEFECTS: [Defect; 8] = [
    Defect::Null,
    Defect::WrongType,
    Defect::EmptyText,
    Defect::OutOfRange,
    Defect::MisspeltKey,
    Defect::UpperCaseKey,
    Defect::MappedAddress,
    Defect::LeadingZero,
];

/// A way from the top to a value.
type Path = Vec<String>;

fn paths(value: &Value, at: &Path, found: &mut Vec<Path>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(key, it)| (key.clone(), it)).collect(),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.map(|(index, it)| (index.to_string(), it)).collect()
        }
        _ => Vec::new(),
    };
    for (key, child) in children {
        let mut path = at.clone();
        path.push(key);
        found.push(path.clone());
        paths(child, &path, found);
    }
}

fn parent<'v>(value: &'v mut Value, path: &Path) -> &'v mut Value {
    let mut at = value;
    for key in &path[..path.len() - 1] {
        at = match at {
            Value::Array(items) => &mut items[key.parse::<usize>().unwrap()],
            other => &mut other[key.as_str()],
        };
    }
    at
}

/// The object with the defect; nothing where there can be none of this kind.
fn with(object: &Value, path: &Path, defect: Defect) -> Option<Value> {
    let mut object = object.clone();
    let key = path.last().unwrap().clone();
    let parent = parent(&mut object, path);
    let value = match &*parent {
        Value::Array(items) => &items[key.parse::<usize>().unwrap()],
        other => &other[key.as_str()],
    };
    let other = match (defect, value) {
        (Defect::Null, _) => Value::Null,
        (Defect::WrongType, Value::String(_)) => json!({"a": 1}),
        // A text could be the name of a port.
        (Defect::WrongType, Value::Number(_) | Value::Bool(_)) => json!([1]),
        (Defect::WrongType, _) => json!("nonsense"),
        // A label may have no value: a selector for that is another one, and no defect.
        (Defect::EmptyText, _) if is_label_value(path) => return None,
        (Defect::EmptyText, Value::String(_)) => json!(""),
        (Defect::OutOfRange, Value::Number(_)) => json!(70_000),
        (Defect::OutOfRange, Value::String(text)) if text.contains('/') => {
            json!(format!("{text}999"))
        }
        (Defect::OutOfRange, Value::String(text)) if text.parse::<IpAddr>().is_ok() => {
            json!("999.0.0.1")
        }
        (Defect::MappedAddress, Value::String(text))
            if text.parse::<IpAddr>().is_ok_and(|it| it.is_ipv4()) =>
        {
            json!(format!("::ffff:{text}"))
        }
        (Defect::LeadingZero, Value::String(text))
            if text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.') =>
        {
            json!(format!("0{text}"))
        }
        (Defect::MisspeltKey | Defect::UpperCaseKey, _) => {
            let fields = parent.as_object_mut()?;
            let value = fields.remove(&key)?;
            let misspelt = match defect {
                Defect::MisspeltKey if key.len() > 3 => {
                    let mut letters: Vec<char> = key.chars().collect();
                    letters.swap(key.len() / 2, key.len() / 2 - 1);
                    letters.into_iter().collect()
                }
                Defect::UpperCaseKey => {
                    let mut letters = key.chars();
                    let first = letters.next()?.to_ascii_uppercase();
                    first.to_string() + letters.as_str()
                }
                _ => return None,
            };
            if misspelt == key {
                return None;
            }
            fields.insert(misspelt, value);
            return Some(object);
        }
        _ => return None,
    };
    match parent {
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = other,
        fields => fields[key.as_str()] = other,
    }
    Some(object)
}

fn is_label_value(path: &Path) -> bool {
    path.iter()
        .any(|key| key == "matchLabels" || key == "values")
}

/// The object without the value; nothing for an entry of a list.
fn without(object: &Value, path: &Path) -> Option<Value> {
    let mut object = object.clone();
    parent(&mut object, path)
        .as_object_mut()?
        .remove(path.last().unwrap())?;
    Some(object)
}

fn object(value: &Value) -> Option<Object> {
    Some(read(value).ok()?.object)
}

fn service(value: &Value) -> Option<Arc<Service>> {
    match object(value)? {
        Object::Service(service) => Some(service),
        _ => None,
    }
}

fn slice(value: &Value) -> Option<Arc<EndpointSlice>> {
    match object(value)? {
        Object::EndpointSlice(slice) => Some(slice),
        _ => None,
    }
}

fn pool(value: &Value) -> Option<Arc<AddressPool>> {
    match object(value)? {
        Object::Pool(pool) => Some(pool),
        _ => None,
    }
}

/// The object that the defective one is compared with, and the one without the field where that
/// means the same.
fn allowed(whole: &Value, path: &Path, defect: Defect) -> Vec<Value> {
    let not_said = matches!(defect, Defect::Null | Defect::EmptyText);
    let without = without(whole, path).filter(|_| not_said);
    std::iter::once(whole.clone()).chain(without).collect()
}

const CLIENTS: [&str; 7] = [
    "10.1.2.3",
    "10.200.0.1",
    "192.0.2.7",
    "198.51.100.1",
    "203.0.113.77",
    "2001:db8::7",
    "2001:db8:ff::1",
];

fn admits(service: &Service, client: &str) -> bool {
    let client: IpAddr = client.parse().unwrap();
    let within = |ranges: &[ipnet::IpNet]| ranges.iter().any(|range| range.contains(&client));
    (service.source_ranges.is_empty() || within(&service.source_ranges))
        && !within(&service.asks.deny_source_ranges)
}

/// What a Service asks for where an address of this family is to be given: nothing while that can't
/// be read.
fn asked(service: &Service, family: IpFamily) -> Option<(Option<IpAddr>, Option<String>)> {
    if service.asks.unreadable_address(family).is_some() {
        return None;
    }
    let mut addresses = service.asks.addresses.iter().copied();
    let address = addresses.find(|address| IpFamily::of(*address) == family);
    Some((address, service.asks.pool.as_ref().map(ToString::to_string)))
}

/// Where a port leads to, and its node port: nothing where one is not to be given.
fn port(service: &Service, port: &ServicePort) -> (String, Option<Option<u16>>) {
    let leads = format!("{} {:?}", port.key(), port.target);
    let node_port = !service.asks.is_node_port_unreadable(port.key());
    (leads, node_port.then_some(port.node_port))
}

fn any_service() -> impl Strategy<Value = Value> {
    (
        any::<[bool; 8]>(),
        proptest::sample::select(vec!["LoadBalancer", "NodePort"]),
        proptest::sample::select(vec!["PreferDualStack", "SingleStack"]),
    )
        .prop_map(|(with, kind, policy)| {
            let mut annotations = BTreeMap::new();
            let pairs = [
                ("fairway.dev/pool", "internal"),
                ("fairway.dev/addresses", "10.9.0.5"),
                (
                    "fairway.dev/deny-source-ranges",
                    "192.0.2.0/24, 2001:db8::/64",
                ),
                ("metallb.io/address-pool", "internal"),
                ("metallb.io/loadBalancerIPs", "10.9.0.5"),
            ];
            for ((key, value), with) in pairs.into_iter().zip(with) {
                // Theirs are read where ours are not given.
                if with && !(key.starts_with("metallb") && annotations.len() > 1) {
                    annotations.insert(key, value);
                }
            }
            let mut spec = json!({
                "type": kind,
                "ipFamilyPolicy": policy,
                "ports": [
                    {"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080},
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": "dns"},
                    {"name": "sctp", "port": 99, "protocol": "SCTP", "nodePort": 30099},
                    {"name": "https", "port": 443, "targetPort": 8443, "nodePort": 30443},
                ],
                "selector": {"app": "shop"},
                "externalTrafficPolicy": "Cluster",
                "sessionAffinity": "None",
            });
            let fields = spec.as_object_mut().unwrap();
            if with[5] {
                fields.insert(
                    "loadBalancerSourceRanges".into(),
                    json!(["10.1.0.0/16", "192.0.2.0/24"]),
                );
            }
            if with[6] {
                fields.insert("loadBalancerIP".into(), json!("10.9.0.7"));
            }
            if with[7] {
                fields.insert("allocateLoadBalancerNodePorts".into(), json!(false));
                fields.insert("loadBalancerClass".into(), json!("fairway.dev/gateway"));
            }
            json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "shop", "namespace": "web", "annotations": annotations},
                "spec": spec})
        })
}

fn any_slice() -> impl Strategy<Value = Value> {
    any::<[bool; 4]>().prop_map(|ready| {
        let endpoints: Vec<Value> = ready
            .iter()
            .enumerate()
            .map(|(index, ready)| {
                json!({"addresses": [format!("192.0.2.1{index}")],
                    "conditions": {"ready": ready, "serving": ready, "terminating": !ready},
                    "nodeName": "a", "zone": "hall-a", "targetRef": {"name": format!("pod-{index}")}})
            })
            .collect();
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "shop-a", "namespace": "web",
                "labels": {"kubernetes.io/service-name": "shop"},
                "annotations": {"fairway.dev/weight": "3"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": endpoints})
    })
}

fn any_pool() -> impl Strategy<Value = Value> {
    any::<[bool; 5]>().prop_map(|with| {
        let mut spec =
            json!({"addresses": ["203.0.113.0/28", "203.0.113.32-203.0.113.40", "2001:db8::/120"]});
        let fields = spec.as_object_mut().unwrap();
        let optional = [
            ("autoAssign", json!(false)),
            ("avoidEnds", json!(true)),
            ("quotaPerNamespace", json!(2)),
            (
                "serviceSelector",
                json!({"matchExpressions": [
                {"key": "team", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"}]}),
            ),
            ("namespaceSelector", json!({"matchLabels": {"team": "a"}})),
        ];
        for ((key, value), with) in optional.into_iter().zip(with) {
            if with {
                fields.insert(key.into(), value);
            }
        }
        json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "edge"}, "spec": spec})
    })
}

/// Every defect at every place of an object: there are a few hundred, so none is left to chance.
fn every_defect(whole: &Value, check: impl Fn(&Path, Defect, &Value, &[Value])) {
    let mut all = Vec::new();
    paths(whole, &Vec::new(), &mut all);
    for path in all {
        for defect in DEFECTS {
            if let Some(defective) = with(whole, &path, defect) {
                check(&path, defect, &defective, &allowed(whole, &path, defect));
            }
        }
    }
}

fn services_keep_closed(whole: &Value) {
    every_defect(whole, |path, defect, defective, allowed| {
        // What can't be read at all is not in force, and its last good form stays.
        let Some(now) = service(defective) else {
            return;
        };
        let what = format!("{defect:?} at {path:?}: {defective}");
        let allowed: Vec<_> = allowed.iter().filter_map(service).collect();
        for client in CLIENTS {
            let may = allowed.iter().any(|before| admits(before, client));
            assert!(may || !admits(&now, client), "{client} gets in: {what}");
        }
        for family in IpFamily::ALL {
            let may = allowed
                .iter()
                .any(|before| asked(before, family) == asked(&now, family));
            let waits = asked(&now, family).is_none();
            assert!(may || waits, "another {family} address: {what}");
        }
        for open in &now.ports {
            let (leads, node_port) = port(&now, open);
            let before = allowed.iter().flat_map(|before| {
                before
                    .ports
                    .iter()
                    .map(|it| port(before, it))
                    .collect::<Vec<_>>()
            });
            let same: Vec<_> = before.filter(|(before, _)| *before == leads).collect();
            assert!(!same.is_empty(), "{leads} is opened: {what}");
            let may = same.iter().any(|(_, before)| *before == node_port);
            assert!(may || node_port.is_none(), "another node port: {what}");
        }
        if !now.allocate_node_ports {
            return;
        }
        let may = allowed.iter().any(|before| before.allocate_node_ports);
        assert!(may, "node ports are given: {what}");
    });
}

fn services_lose_nothing_else(whole: &Value) {
    let before = service(whole).unwrap();
    every_defect(whole, |path, defect, defective, _| {
        let Some(now) = service(defective) else {
            return;
        };
        let is_in_ports = path.len() > 1 && path[1] == "ports";
        let entry = path.get(2).filter(|_| is_in_ports);
        let hit = entry.and_then(|index| {
            whole["spec"]["ports"][index.parse::<usize>().ok()?]["port"].as_u64()
        });
        for port in &before.ports {
            if is_in_ports && (hit.is_none() || hit == Some(u64::from(port.port))) {
                continue;
            }
            let stays = now.ports.contains(port);
            assert!(
                stays,
                "port {} is lost by {defect:?} at {path:?}: {defective}",
                port.key()
            );
        }
    });
}

fn reach(slice: &EndpointSlice) -> Vec<&SliceEndpoint> {
    slice
        .endpoints
        .iter()
        .filter(|it| it.ready || it.serving)
        .collect()
}

fn slices_are_whole(whole: &Value) {
    let before = slice(whole).unwrap();
    every_defect(whole, |path, defect, defective, allowed| {
        let Some(now) = slice(defective) else {
            let everything =
                ["addressType", "metadata", "apiVersion", "kind"].contains(&path[0].as_str());
            let whole_list = path.len() == 1;
            assert!(
                everything || whole_list,
                "a slice is lost by {defect:?} at {path:?}: {defective}"
            );
            return;
        };
        let what = format!("{defect:?} at {path:?}: {defective}");
        let allowed: Vec<_> = allowed.iter().filter_map(slice).collect();
        for endpoint in reach(&now) {
            let may = allowed.iter().any(|before| {
                let mut reached = reach(before).into_iter();
                reached.any(|it| it.address == endpoint.address && it.ready == endpoint.ready)
            });
            assert!(may, "{:?} is dialled: {what}", endpoint.address);
        }
        let hit = path.get(1).and_then(|index| index.parse::<usize>().ok());
        let list = path[0].to_ascii_lowercase();
        if list.starts_with("endp") && hit.is_none() || path.len() == 1 {
            return;
        }
        for (index, endpoint) in before.endpoints.iter().enumerate() {
            let is_hit = path[0] == "endpoints" && hit == Some(index);
            assert!(
                is_hit || now.endpoints.contains(endpoint),
                "endpoint {index} is lost: {what}"
            );
        }
        for (index, port) in before.ports.iter().enumerate() {
            let is_hit = path[0] == "ports" && hit == Some(index);
            assert!(
                is_hit || now.ports.contains(port),
                "port {index} is lost: {what}"
            );
        }
    });
}

fn labels() -> Vec<BTreeMap<String, String>> {
    let of = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    vec![
        of(&[]),
        of(&[("team", "a")]),
        of(&[("team", "b")]),
        of(&[("team", "c")]),
        of(&[("team", "")]),
        of(&[("team", "a"), ("old", "yes")]),
    ]
}

fn pools_keep_closed(whole: &Value) {
    let before = pool(whole).unwrap();
    assert!(before.problems.is_empty(), "{:?}", before.problems);
    every_defect(whole, |path, defect, defective, _| {
        let Some(now) = pool(defective).filter(|pool| pool.problems.is_empty()) else {
            return;
        };
        let what = format!("{defect:?} at {path:?}: {defective}");
        for labels in labels() {
            let selects = |pool: &AddressPool| {
                (
                    pool.service_selector.matches(&labels),
                    pool.namespace_selector.matches(&labels),
                )
            };
            let (was, is) = (selects(&before), selects(&now));
            assert!(was.0 || !is.0, "serviceSelector selects {labels:?}: {what}");
            assert!(
                was.1 || !is.1,
                "namespaceSelector selects {labels:?}: {what}"
            );
        }
        let quota = |pool: &AddressPool| pool.quota_per_namespace.unwrap_or(u32::MAX);
        assert!(
            quota(&now) <= quota(&before) || defect == Defect::OutOfRange,
            "{what}"
        );
        assert!(before.auto_assign || !now.auto_assign, "{what}");
        assert!(
            now.avoid_ends_of_all() || !before.avoid_ends_of_all(),
            "{what}"
        );
        for address in [
            "203.0.113.5",
            "203.0.113.0",
            "203.0.113.35",
            "203.0.113.200",
            "2001:db8::5",
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert!(
                before.contains(address) || !now.contains(address),
                "{address}: {what}"
            );
        }
    });
}

trait AvoidEnds {
    fn avoid_ends_of_all(&self) -> bool;
}

impl AvoidEnds for AddressPool {
    /// Whether the ends of its CIDR are left alone.
    fn avoid_ends_of_all(&self) -> bool {
        !self.usable("203.0.113.0".parse().unwrap())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_service_with_a_defect_gives_nobody_more(whole in any_service()) {
        services_keep_closed(&whole);
    }

    #[test]
    fn a_service_with_a_defect_loses_no_other_port(whole in any_service()) {
        services_lose_nothing_else(&whole);
    }

    #[test]
    fn a_slice_with_a_defect_loses_no_other_endpoint(whole in any_slice()) {
        slices_are_whole(&whole);
    }

    #[test]
    fn a_pool_with_a_defect_gives_nobody_more(whole in any_pool()) {
        pools_keep_closed(&whole);
    }

    /// Whatever the schema of the kind takes, the reader has something to say about: a pool that is
    /// used, or one that says why it is not.
    #[test]
    fn a_pool_that_the_schema_takes_is_never_passed_over(
        addresses in proptest::collection::vec("[0-9a-f.:/ -]{0,20}|203\\.0\\.113\\.[0-9]{1,2}", 1..4),
        operator in "In|NotIn|Exists|DoesNotExist|in|[A-Za-z]{0,8}",
        key in "[a-z./]{0,9}",
        values in proptest::option::of(proptest::collection::vec("[a-z]{0,3}", 0..3)),
        forwarding in proptest::sample::select(vec!["Proxy", "Node"]),
        quota in proptest::option::of(0..=u32::MAX),
        which in any::<Index>(),
    ) {
        let mut requirement = json!({"key": key, "operator": operator});
        if let Some(values) = values {
            requirement["values"] = json!(values);
        }
        let mut spec = json!({"addresses": addresses, "forwarding": forwarding});
        let selector = ["serviceSelector", "namespaceSelector"][which.index(2)];
        spec[selector] = json!({"matchExpressions": [requirement]});
        if let Some(quota) = quota {
            spec["quotaPerNamespace"] = json!(quota);
        }
        let document = json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "AddressPool",
            "metadata": {"name": "edge"}, "spec": spec});
        let pool = pool(&document).expect("it is there");
        for problem in &pool.problems {
            prop_assert!(problem.field.starts_with("spec."), "{}", problem);
            prop_assert!(!problem.message.is_empty());
        }
        if pool.problems.is_empty() {
            prop_assert!(["In", "NotIn", "Exists", "DoesNotExist"].contains(&operator.as_str()));
            prop_assert!(!key.is_empty());
            prop_assert_eq!(forwarding, "Proxy");
            let usable = pool.blocks.iter().any(|block| block.total() > 0);
            prop_assert!(usable || !pool.notices.is_empty());
        }
    }
}
