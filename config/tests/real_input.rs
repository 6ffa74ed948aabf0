//! What real people have: a dump of a cluster, and manifests written by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::document::documents;
use fairway_config::endpoints::EndpointHost;
use fairway_config::net::{IpFamily, Protocol};
use fairway_config::object::{Kind, Object, read};
use fairway_config::service::{
    AppProtocol, ExternalTrafficPolicy, Service, ServiceType, TargetPort,
};
use fairway_config::validate::{Located, check};

const KUBECTL: &str = include_str!("fixtures/kubectl-list.yaml");
const BY_HAND: &str = include_str!("fixtures/hand-written.yaml");

fn objects(text: &str) -> (BTreeMap<String, Object>, Vec<String>) {
    let mut objects = BTreeMap::new();
    let mut others = Vec::new();
    for document in documents(text).unwrap() {
        let read = read(&document.value).unwrap_or_else(|error| panic!("{error:?}"));
        match (read.key, read.object) {
            (Some(key), object) => {
                assert!(objects.insert(key.to_string(), object).is_none());
            }
            (None, Object::Other { kind, .. }) => others.push(kind),
            (None, object) => panic!("{object:?} has no key"),
        }
    }
    (objects, others)
}

fn service(objects: &BTreeMap<String, Object>, name: &str) -> Arc<Service> {
    match objects.get(&format!("Service {name}")) {
        Some(Object::Service(service)) => Arc::clone(service),
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn a_dump_of_a_cluster_is_read_as_it_is() {
    let (objects, others) = objects(KUBECTL);
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(
        objects.keys().map(String::as_str).collect::<Vec<_>>(),
        [
            "EndpointSlice default/kubernetes",
            "EndpointSlice kube-system/kube-dns-4wqh2",
            "EndpointSlice web/shop-v8kqn",
            "Node cp-1",
            "Node worker-1",
            "Node worker-2",
            "Service default/kubernetes",
            "Service kube-system/kube-dns",
            "Service web/shop",
        ]
    );

    let shop = service(&objects, "web/shop");
    assert_eq!(shop.kind, ServiceType::LoadBalancer);
    assert_eq!(shop.external_traffic_policy, ExternalTrafficPolicy::Local);
    assert_eq!(shop.client_ip_affinity, Some(Duration::from_secs(10_800)));
    assert_eq!(shop.health_check_node_port, Some(32_511));
    assert_eq!(
        shop.status_addresses,
        ["203.0.113.5".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(shop.created.unwrap().to_string(), "2026-04-17T12:40:55Z");
    assert!(shop.has_selector);
    assert!(shop.notices.is_empty(), "{:?}", shop.notices);
    let [port] = shop.ports.as_slice() else {
        panic!("{:?}", shop.ports)
    };
    assert_eq!(port.node_port, Some(31_468));
    assert_eq!(port.target, TargetPort::Name("http".into()));

    let dns = service(&objects, "kube-system/kube-dns");
    let protocols: Vec<_> = dns.ports.iter().map(|p| (p.port, p.protocol)).collect();
    assert_eq!(
        protocols,
        [
            (53, Protocol::Udp),
            (53, Protocol::Tcp),
            (9153, Protocol::Tcp)
        ]
    );

    let Some(Object::EndpointSlice(slice)) = objects.get("EndpointSlice web/shop-v8kqn") else {
        panic!("no slice")
    };
    assert_eq!(slice.service.as_ref().unwrap().to_string(), "web/shop");
    let [first, second] = slice.endpoints.as_slice() else {
        panic!("{:?}", slice.endpoints)
    };
    assert!(first.ready && first.serving && !first.terminating);
    assert_eq!(first.for_zones, ["hall-a".into()]);
    assert_eq!(first.target.as_deref(), Some("shop-7d9c8f6b5-x2x9z"));
    assert!(!second.ready && second.serving && second.terminating);

    let Some(Object::Node(node)) = objects.get("Node cp-1") else {
        panic!("no node")
    };
    assert!(node.excluded.is_some());
    let Some(Object::Node(node)) = objects.get("Node worker-1") else {
        panic!("no node")
    };
    assert_eq!(node.excluded, None);
    assert_eq!(node.zone.as_deref(), Some("hall-a"));
    assert_eq!(
        node.internal_ips,
        ["192.168.10.21".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        node.external_ips,
        ["198.51.100.21".parse::<std::net::IpAddr>().unwrap()]
    );
}

#[test]
fn manifests_written_by_hand_are_read_as_they_are() {
    let (objects, others) = objects(BY_HAND);
    assert_eq!(others, ["Deployment"]);

    let panel = service(&objects, "plant/panel");
    assert_eq!(panel.kind, ServiceType::NodePort);
    assert_eq!(panel.ports[0].node_port, Some(30_062));
    assert_eq!(panel.ports[0].target, TargetPort::Number(8080));
    let camera = service(&objects, "plant/camera");
    assert_eq!(camera.client_ip_affinity, Some(Duration::from_secs(10_800)));
    // The namespace is the default one, and spec.loadBalancerIP is a request.
    let shop = service(&objects, "default/shop");
    assert_eq!(
        shop.asks.addresses,
        ["203.0.113.5".parse::<std::net::IpAddr>().unwrap()]
    );
    assert!(service(&objects, "plant/members").headless);
    let outside = service(&objects, "plant/outside");
    assert_eq!(outside.external_name.as_deref(), Some("api.example.org"));
    assert!(!service(&objects, "plant/historian").has_selector);
    let web = service(&objects, "plant/web");
    assert_eq!(web.ports[0].app, AppProtocol::Http);
    assert_eq!(web.ports[0].target, TargetPort::Name("web-port".into()));
    let dns = service(&objects, "plant/dns");
    assert_eq!(dns.ports.len(), 2);

    let Some(Object::Endpoints(slices)) = objects.get("Endpoints plant/historian") else {
        panic!("no endpoints")
    };
    let names: Vec<_> = slices.iter().map(|slice| slice.name.to_string()).collect();
    assert_eq!(names, ["plant/historian", "plant/historian#2"]);
    assert!(slices.iter().all(|slice| slice.from_endpoints));
    let ready: Vec<_> = slices[0].endpoints.iter().map(|e| e.ready).collect();
    assert_eq!(ready, [true, true, false]);
    assert_eq!(slices[1].ports[0].port, Some(6432));

    let Some(Object::EndpointSlice(names)) = objects.get("EndpointSlice plant/dns-names") else {
        panic!("no slice")
    };
    assert_eq!(names.weight, 0);
    assert_eq!(
        names.endpoints[0].address,
        EndpointHost::Name("ns1.example.org".into())
    );

    let Some(Object::Pool(pool)) = objects.get("AddressPool edge") else {
        panic!("no pool")
    };
    assert_eq!(pool.total(IpFamily::IPv4), 14 + 9);
    assert_eq!(pool.total(IpFamily::IPv6), 254);
}

#[test]
fn both_pass_the_offline_checks() {
    for text in [KUBECTL, BY_HAND] {
        let located: Vec<Located> = documents(text)
            .unwrap()
            .iter()
            .filter_map(|document| {
                let read = read(&document.value).unwrap();
                Some(Located {
                    place: document.place(&Arc::from("manifests.yaml")),
                    key: read.key?,
                    object: read.object,
                })
            })
            .collect();
        let problems = check(&located, &(30_000..=32_767));
        let errors: Vec<_> = problems.iter().filter(|it| it.is_error()).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}

#[test]
fn every_key_is_read_back_from_what_is_printed() {
    let (objects, _) = objects(BY_HAND);
    for printed in objects.keys() {
        let key: fairway_config::object::ObjectKey = printed.parse().unwrap();
        assert_eq!(key.to_string(), *printed);
        assert_eq!(key.namespace.is_some(), key.kind.is_namespaced());
    }
    for kind in Kind::ALL {
        for wrong in ["../x", "a/../b", "a/b/c", "", "/"] {
            assert!(
                format!("{kind} {wrong}")
                    .parse::<fairway_config::object::ObjectKey>()
                    .is_err(),
                "{kind} {wrong}"
            );
        }
    }
}
