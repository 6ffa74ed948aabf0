//! An object with one defect at a random place gives nobody more than it did without, and loses
//! nothing that the defect has nothing to do with.
//!
//! A value that is null, or empty where a default may be meant, is not said at all, as in
//! Kubernetes: the object is then compared with the one without that field, too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "defects/defect.rs"]
mod defect;
#[path = "defects/peers.rs"]
mod peers;
#[path = "defects/pools.rs"]
mod pools;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::endpoints::{EndpointSlice, SliceEndpoint};
use fairway_config::net::IpFamily;
use fairway_config::object::Object;
use fairway_config::port_limits::{LimitSetting, PortLimits};
use fairway_config::port_options::PortOptions;
use fairway_config::service::{Service, ServicePort};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::defect::{every_defect, object};

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
        any::<[bool; 17]>(),
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
                ("fairway.dev/proxy-protocol", "443=v2,80=v1"),
                (
                    "fairway.dev/accept-proxy-protocol",
                    "192.0.2.0/24, 2001:db8::/64",
                ),
                ("metallb.io/address-pool", "internal"),
                ("metallb.io/loadBalancerIPs", "10.9.0.5"),
                ("fairway.dev/health-check", "*=http:/healthz;port=8080"),
                ("fairway.dev/balance", "443=maglev,*=random-two"),
                ("fairway.dev/connections-per-client", "443=20,*=100"),
                (
                    "fairway.dev/new-connections-per-second",
                    "80=10;burst=50,443=5",
                ),
                ("fairway.dev/udp-flows-per-client", "30"),
                ("fairway.dev/timeout-idle", "53=10s,*=5m"),
                (
                    "fairway.dev/client-address",
                    "443=transparent,80=transparent",
                ),
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
            if with[14] {
                fields.insert(
                    "loadBalancerSourceRanges".into(),
                    json!(["10.1.0.0/16", "192.0.2.0/24"]),
                );
            }
            if with[15] {
                fields.insert("loadBalancerIP".into(), json!("10.9.0.7"));
            }
            if with[16] {
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
            let mut before = allowed.iter().flat_map(|before| &before.ports);
            let may = before.any(|it| {
                it.key() == open.key() && believes(&it.options) == believes(&open.options)
            });
            let is_closed = open.options.closed
                || open.options.limits.closed
                || CLIENTS.iter().all(|client| !admits(&now, client));
            assert!(may || is_closed, "{leads} believes others: {what}");
        }
        if !now.allocate_node_ports {
            return;
        }
        let may = allowed.iter().any(|before| before.allocate_node_ports);
        assert!(may, "node ports are given: {what}");
    });
}

/// What a port believes of who its clients are and tells of them, and how much a client may have of it.
fn believes(options: &PortOptions) -> PortOptions {
    PortOptions {
        balance: None,
        health_check: None,
        limits: PortLimits {
            idle: LimitSetting::Default,
            ..options.limits.clone()
        },
        // Without it an endpoint believes nobody more.
        transparent: false,
        ..options.clone()
    }
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
        let is_in_annotations = path.get(1).is_some_and(|it| it == "annotations");
        let mut now = now.ports.clone();
        let mut before = before.ports.clone();
        if path.len() == 1 || is_in_annotations {
            // They say how ports are carried.
            for port in now.iter_mut().chain(&mut before) {
                port.options = PortOptions::default();
            }
        }
        for port in &before {
            if is_in_ports && (hit.is_none() || hit == Some(u64::from(port.port))) {
                continue;
            }
            let stays = now.contains(port);
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
}
