#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use fairway_config::cluster::Node;
use fairway_config::endpoints::{EndpointHost, SliceEndpoint, SlicePort};
use fairway_config::exchange::ListenerState;
use fairway_config::exchange::{Held, Status};
use fairway_config::net::{AddressRange, IpFamily, Protocol};
use fairway_config::pool::{AddressBlock, AddressPool, Forwarding};
use fairway_config::selector::Selector;
use fairway_config::service::{
    AppProtocol, Asks, ExternalTrafficPolicy, ForwardTo, IpFamilyPolicy, Notice, PortKey, Service,
    ServicePort, TargetPort,
};
use fairway_config::time::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::testing::ip;

fn settings() -> Settings {
    Settings {
        gateway: "edge".into(),
        node_name: None,
        zone: None,
        forward_to: ForwardTo::Endpoints,
        slices_are_known: false,
        allow_loopback: false,
        admin: vec!["127.0.0.1:9901".parse().unwrap()],
        serve_node_ports: ServeNodePorts::Always,
        node_addresses: None,
    }
}

const HTTP: PortKey = PortKey {
    protocol: Protocol::Tcp,
    port: 80,
};

/// A LoadBalancer that holds `address` and node port 30080, ready for changes.
fn stored(name: &str, address: &str) -> StoredService {
    let service = Service {
        name: ServiceName::new("web", name),
        uid: None,
        created: Some(Timestamp(100)),
        deleting: false,
        labels: BTreeMap::new(),
        kind: ServiceType::LoadBalancer,
        class: None,
        cluster_ips: Vec::new(),
        headless: false,
        external_name: None,
        has_selector: true,
        ports: vec![ServicePort {
            name: None,
            protocol: Protocol::Tcp,
            port: 80,
            target: TargetPort::Number(8080),
            node_port: None,
            app: AppProtocol::Opaque,
        }],
        external_traffic_policy: ExternalTrafficPolicy::Cluster,
        client_ip_affinity: None,
        source_ranges: Vec::new(),
        ip_families: vec![IpFamily::IPv4],
        ip_family_policy: IpFamilyPolicy::SingleStack,
        allocate_node_ports: true,
        health_check_node_port: None,
        publish_not_ready_addresses: false,
        external_ips: Vec::new(),
        status_addresses: Vec::new(),
        asks: Asks::default(),
        notices: Vec::new(),
    };
    StoredService {
        service: Arc::new(service),
        held: Held {
            addresses: vec![ip(address)],
            node_ports: BTreeMap::from([(HTTP, 30080)]),
            health_check_node_port: None,
        },
        status: Status::default(),
        version: 1,
        revision: 0,
        first_seen: Timestamp(100),
        source: None,
        source_problem: None,
    }
}

fn with(mut stored: StoredService, change: impl FnOnce(&mut Service)) -> StoredService {
    change(Arc::make_mut(&mut stored.service));
    stored
}

fn service(stored: StoredService) -> Change {
    Change::Service(stored.service.name.clone(), Some(Arc::new(stored)))
}

fn host(text: &str) -> EndpointHost {
    text.parse()
        .map(EndpointHost::Ip)
        .unwrap_or_else(|_| EndpointHost::Name(text.into()))
}

/// A slice of a Service with endpoints at these hosts and port 8080; `host@node` names the node.
fn slice(service: &str, name: &str, hosts: &[&str]) -> EndpointSlice {
    let endpoint = |text: &&str| {
        let (address, node) = text.split_once('@').unwrap_or((text, ""));
        SliceEndpoint {
            address: host(address),
            ready: true,
            serving: true,
            terminating: false,
            node: (!node.is_empty()).then(|| node.into()),
            zone: None,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
            target: None,
        }
    };
    EndpointSlice {
        name: NamespacedName::new("web", name),
        service: Some(ServiceName::new("web", service)),
        from_endpoints: false,
        ports: vec![SlicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: Some(8080),
            app: AppProtocol::Opaque,
        }],
        endpoints: hosts.iter().map(endpoint).collect(),
        weight: 1,
        notices: Vec::new(),
    }
}

fn slices(slice: EndpointSlice) -> Change {
    Change::EndpointSlice(
        slice.name.clone(),
        slice.from_endpoints,
        Some(Arc::new(slice)),
    )
}

fn node(name: &str, ips: &[&str]) -> Change {
    let node = Node {
        name: name.into(),
        internal_ips: ips.iter().map(|text| ip(text)).collect(),
        external_ips: Vec::new(),
        zone: None,
        labels: BTreeMap::new(),
        excluded: (name == "cordoned").then_some("it is excluded"),
    };
    Change::Node(name.into(), Some(Arc::new(node)))
}

fn pool(name: &str, first: &str, last: &str, forwarding: Forwarding) -> Change {
    let range = AddressRange::new(ip(first), ip(last)).unwrap();
    let pool = AddressPool {
        name: name.into(),
        created: None,
        blocks: vec![AddressBlock {
            range,
            avoid_ends: false,
        }],
        auto_assign: true,
        priority: 100,
        service_selector: Selector::default(),
        namespace_selector: Selector::default(),
        quota_per_namespace: None,
        forwarding,
        notices: Vec::new(),
        problems: Vec::new(),
    };
    Change::Pool(name.into(), Some(Arc::new(pool)))
}

fn edge() -> Change {
    pool("edge", "203.0.113.0", "203.0.113.15", Forwarding::Proxy)
}

fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        changes,
        synced: true,
        sequence: 0,
        since: None,
        revision: 0,
    }
}

fn resolved(host: &EndpointHost) -> Vec<IpAddr> {
    match host {
        EndpointHost::Ip(ip) => vec![*ip],
        EndpointHost::Name(name) if **name == *"db.example" => {
            vec![ip("198.51.100.1"), ip("127.0.0.1")]
        }
        EndpointHost::Name(_) => Vec::new(),
    }
}

fn builder(settings: Settings, changes: Vec<Change>) -> Builder {
    let mut builder = Builder::new(settings);
    builder.set_host_addresses(
        ["192.0.2.1", "127.0.0.1", "127.0.0.9", "fe80::1"]
            .map(ip)
            .into(),
    );
    builder.apply(&batch(changes));
    builder.build(&resolved);
    builder
}

fn route(builder: &Builder, name: &str) -> Arc<Route> {
    builder
        .route(&ServiceName::new("web", name))
        .expect("a route")
        .clone()
}

fn claims(route: &Route) -> Vec<String> {
    let claims = route.ports.iter().flat_map(|port| &port.claims);
    claims
        .map(|claim| format!("{}/{}", claim.listen, claim.protocol))
        .collect()
}

fn eligible(route: &Route) -> Vec<String> {
    let endpoints = route.ports.iter().flat_map(|port| &port.endpoints.eligible);
    endpoints
        .map(|endpoint| endpoint.addr.to_string())
        .collect()
}

fn reasons(route: &Route) -> Vec<&str> {
    route.notices.iter().map(|notice| &*notice.reason).collect()
}

#[test]
fn nothing_is_built_before_everything_is_known() {
    let mut builder = Builder::new(settings());
    let half = Batch {
        changes: vec![service(stored("shop", "203.0.113.1"))],
        synced: false,
        sequence: 0,
        since: None,
        revision: 0,
    };
    builder.apply(&half);
    assert!(builder.build(&resolved).is_empty());
    builder.apply(&batch(vec![edge()]));
    assert_eq!(builder.build(&resolved).len(), 1);
    assert!(builder.build(&resolved).is_empty(), "nothing changed since");
}

#[test]
fn a_load_balancer_claims_its_vip_and_its_node_port_on_the_hosts_own_addresses() {
    let builder = builder(
        settings(),
        vec![edge(), service(stored("shop", "203.0.113.1"))],
    );
    assert_eq!(
        claims(&route(&builder, "shop")),
        [
            "127.0.0.1:30080/TCP",
            "192.0.2.1:30080/TCP",
            "203.0.113.1:80/TCP"
        ]
    );
}

#[test]
fn node_ports_are_never_served_on_what_a_pool_or_a_service_has() {
    let shop = || service(stored("shop", "198.51.100.1"));
    let listed = Settings {
        node_addresses: Some(["192.0.2.1", "203.0.113.2", "198.51.100.1"].map(ip).into()),
        ..settings()
    };
    let builder = builder(listed, vec![edge(), shop()]);
    let expected = ["192.0.2.1:30080/TCP", "198.51.100.1:80/TCP"];
    assert_eq!(claims(&route(&builder, "shop")), expected);
}

#[test]
fn a_service_that_no_controller_has_taken_keeps_its_node_ports_alone() {
    // Its class is nothing to go by: what the controller has taken holds an address.
    let mut other = with(stored("shop", "203.0.113.1"), |service| {
        service.class = Some("fairway.dev/gateway".into())
    });
    other.held.addresses.clear();
    let built = builder(settings(), vec![edge(), service(other.clone())]);
    assert_eq!(
        claims(&route(&built, "shop")),
        ["127.0.0.1:30080/TCP", "192.0.2.1:30080/TCP"]
    );
    let without = Settings {
        serve_node_ports: ServeNodePorts::Never,
        ..settings()
    };
    let built = builder(without, vec![edge(), service(other)]);
    assert_eq!(built.routes().count(), 0);
}

#[test]
fn what_was_left_out_of_a_slice_is_a_notice_of_its_service() {
    let mut odd = slice("shop", "shop-a", &["192.0.2.20"]);
    odd.notices = vec![Notice::new(
        "LeftOut",
        "EndpointSlice web/shop-a, endpoints[1]",
    )];
    let built = builder(
        settings(),
        vec![edge(), service(stored("shop", "203.0.113.1")), slices(odd)],
    );
    assert_eq!(reasons(&route(&built, "shop")), ["LeftOut"]);
}

#[test]
fn addresses_that_the_nodes_carry_are_not_claimed() {
    let nodes = pool("edge", "203.0.113.0", "203.0.113.15", Forwarding::Node);
    let built = builder(
        settings(),
        vec![nodes, service(stored("shop", "203.0.113.1"))],
    );
    assert_eq!(
        claims(&route(&built, "shop")),
        ["127.0.0.1:30080/TCP", "192.0.2.1:30080/TCP"]
    );
}

#[test]
fn a_claim_moves_in_one_step_and_never_stands_twice() {
    let younger = with(stored("new", "203.0.113.1"), |service| {
        service.created = Some(Timestamp(200));
    });
    let mut held = younger.clone();
    held.held.node_ports.clear();
    let mut built = builder(
        settings(),
        vec![edge(), service(held), service(stored("old", "203.0.113.1"))],
    );
    assert_eq!(claims(&route(&built, "new")), [""; 0]);
    let lost = &route(&built, "new").lost;
    assert!(
        matches!(&lost[..], [it] if matches!(&it.state, ListenerState::Failed { reason, .. } if reason == "ClaimHeld")),
        "{lost:?}"
    );
    let mut let_go = stored("old", "203.0.113.1");
    let_go.held.addresses.clear();
    built.apply(&batch(vec![service(let_go)]));
    let changed: Vec<_> = built
        .build(&resolved)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        changed,
        [
            ServiceName::new("web", "new"),
            ServiceName::new("web", "old")
        ]
    );
    assert_eq!(claims(&route(&built, "new")), ["203.0.113.1:80/TCP"]);
    assert!(route(&built, "new").notices.is_empty());
}

#[test]
fn endpoints_count_only_where_no_endpointslice_does() {
    let endpoints = EndpointSlice {
        from_endpoints: true,
        ..slice("shop", "shop", &["10.0.0.9"])
    };
    let shop = || {
        vec![
            edge(),
            service(stored("shop", "203.0.113.1")),
            slices(endpoints.clone()),
        ]
    };
    let mut built = builder(settings(), shop());
    assert_eq!(eligible(&route(&built, "shop")), ["10.0.0.9:8080"]);
    built.apply(&batch(vec![slices(slice(
        "shop",
        "shop",
        &["10.0.0.1", "10.0.0.2"],
    ))]));
    built.build(&resolved);
    assert_eq!(
        eligible(&route(&built, "shop")),
        ["10.0.0.1:8080", "10.0.0.2:8080"]
    );
    built.apply(&batch(vec![Change::EndpointSlice(
        NamespacedName::new("web", "shop"),
        false,
        None,
    )]));
    built.build(&resolved);
    assert_eq!(eligible(&route(&built, "shop")), ["10.0.0.9:8080"]);
}

#[test]
fn ports_are_found_by_the_service_ports_name() {
    let named = with(stored("shop", "203.0.113.1"), |service| {
        service.ports[0].name = Some("http".into());
        service.ports[0].target = TargetPort::Name("web".into());
    });
    let mut slice = slice("shop", "a", &["10.0.0.1"]);
    let built = builder(
        settings(),
        vec![service(named.clone()), slices(slice.clone())],
    );
    assert_eq!(eligible(&route(&built, "shop")), [""; 0]);
    assert_eq!(reasons(&route(&built, "shop")), ["PortNotInEndpointSlices"]);
    slice.ports[0].name = "http".into();
    let built = builder(settings(), vec![service(named), slices(slice)]);
    assert_eq!(eligible(&route(&built, "shop")), ["10.0.0.1:8080"]);
}

#[test]
fn what_must_not_be_dialled_is_refused_wherever_it_comes_from() {
    let hosts = [
        "10.0.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "203.0.113.9",
        "db.example",
    ];
    let shop = service(stored("shop", "203.0.113.1"));
    let mut built = builder(
        settings(),
        vec![edge(), shop, slices(slice("shop", "a", &hosts))],
    );
    let route = route(&built, "shop");
    assert_eq!(eligible(&route), ["10.0.0.1:8080", "198.51.100.1:8080"]);
    let refused: Vec<_> = route
        .refused
        .iter()
        .map(|r| format!("{} {}", r.endpoint, r.why))
        .collect();
    assert_eq!(
        refused,
        [
            "127.0.0.1:8080 is a loopback address",
            "169.254.169.254:8080 is link-local",
            "192.0.2.1:8080 is an address of this host",
            "203.0.113.9:8080 is an address of pool 'edge'",
        ]
    );
    assert_eq!(
        built.take_changed_names(),
        BTreeMap::from([("db.example".into(), true)])
    );
    assert_eq!(built.take_changed_names(), BTreeMap::new());
    assert_eq!(
        built
            .explain_endpoints(&ServiceName::new("web", "shop"))
            .len(),
        6
    );
    built.apply(&batch(vec![Change::Service(
        ServiceName::new("web", "shop"),
        None,
    )]));
    built.build(&resolved);
    assert_eq!(
        built.take_changed_names(),
        BTreeMap::from([("db.example".into(), false)])
    );
}

#[test]
fn where_loopback_is_allowed_ones_own_listeners_are_still_refused() {
    let demo = Settings {
        allow_loopback: true,
        ..settings()
    };
    let mut to = slice("shop", "a", &["127.0.0.1"]);
    to.ports[0].port = Some(30081);
    let mut admin = slice("shop", "b", &["127.0.0.1"]);
    admin.ports[0].port = Some(9901);
    let shop = service(stored("shop", "203.0.113.1"));
    let mut built = builder(demo, vec![edge(), shop, slices(to), slices(admin)]);
    assert_eq!(eligible(&route(&built, "shop")), ["127.0.0.1:30081"]);
    // Another Service takes that very node port: now it would be a loop.
    let mut other = stored("other", "203.0.113.2");
    other.held.node_ports.insert(HTTP, 30081);
    built.apply(&batch(vec![service(other)]));
    assert_eq!(built.build(&resolved).len(), 2);
    assert_eq!(eligible(&route(&built, "shop")), [""; 0]);
}

#[test]
fn a_name_that_changes_touches_who_depends_on_it() {
    let shop = with(stored("shop", "203.0.113.1"), |service| {
        service.has_selector = false;
        service.asks.external_name = Some("db.example".into());
    });
    let mut built = builder(settings(), vec![edge(), service(shop)]);
    assert_eq!(eligible(&route(&built, "shop")), ["198.51.100.1:8080"]);
    built.name_changed("other.example");
    assert!(built.build(&|_| vec![ip("198.51.100.2")]).is_empty());
    built.name_changed("db.example");
    assert_eq!(built.build(&|_| vec![ip("198.51.100.2")]).len(), 1);
    assert_eq!(eligible(&route(&built, "shop")), ["198.51.100.2:8080"]);
    built.name_changed("db.example");
    built.build(&|_| Vec::new());
    assert_eq!(reasons(&route(&built, "shop")), ["NameNotResolved"]);
}

#[test]
fn local_means_the_own_node_and_on_no_node_everything() {
    let mut shop = with(stored("shop", "203.0.113.1"), |service| {
        service.external_traffic_policy = ExternalTrafficPolicy::Local;
    });
    shop.held.health_check_node_port = Some(32000);
    let objects = || {
        let hosts = ["10.0.0.1@a", "10.0.0.2@b"];
        vec![
            edge(),
            service(shop.clone()),
            slices(slice("shop", "s", &hosts)),
            node("a", &[]),
        ]
    };
    let built = builder(settings(), objects());
    let outside = route(&built, "shop");
    assert_eq!(eligible(&outside), ["10.0.0.1:8080", "10.0.0.2:8080"]);
    assert_eq!(reasons(&outside), ["LocalWithoutNode"]);
    assert_eq!(outside.health_check.as_ref().unwrap().local_endpoints, 2);
    let built = builder(
        Settings {
            node_name: Some("a".into()),
            ..settings()
        },
        objects(),
    );
    let inside = route(&built, "shop");
    assert_eq!(eligible(&inside), ["10.0.0.1:8080"]);
    assert_eq!(inside.health_check.as_ref().unwrap().local_endpoints, 1);
    assert!(inside.notices.is_empty());
}

#[test]
fn on_a_node_of_the_cluster_node_ports_are_left_to_the_nodes_own_proxy() {
    let on_a = Settings {
        node_name: Some("a".into()),
        serve_node_ports: ServeNodePorts::UnlessNode,
        ..settings()
    };
    let shop = || service(stored("shop", "203.0.113.1"));
    let outside = builder(on_a.clone(), vec![edge(), shop()]);
    assert_eq!(
        claims(&route(&outside, "shop")),
        [
            "127.0.0.1:30080/TCP",
            "192.0.2.1:30080/TCP",
            "203.0.113.1:80/TCP"
        ]
    );
    let inside = builder(on_a, vec![edge(), shop(), node("a", &[])]);
    assert_eq!(claims(&route(&inside, "shop")), ["203.0.113.1:80/TCP"]);
}

#[test]
fn forwarding_to_node_ports_uses_each_node_once_and_serves_none_on_a_node() {
    let nodes = Settings {
        forward_to: ForwardTo::NodePorts,
        ..settings()
    };
    let objects = |own: &str| {
        vec![
            edge(),
            service(stored("shop", "203.0.113.1")),
            node("a", &["2001:db8::a", "192.0.2.10", "192.0.2.11"]),
            node("b", &[own]),
            node("cordoned", &["192.0.2.30"]),
        ]
    };
    let built = builder(nodes.clone(), objects("192.0.2.20"));
    let outside = route(&built, "shop");
    assert_eq!(eligible(&outside), ["192.0.2.10:30080", "192.0.2.20:30080"]);
    assert_eq!(claims(&outside).len(), 3);
    let guarded = [
        "192.0.2.10",
        "192.0.2.11",
        "192.0.2.20",
        "192.0.2.30",
        "2001:db8::a",
    ]
    .map(ip);
    assert_eq!(outside.ports[0].loop_guard, guarded);
    let built = builder(nodes, objects("192.0.2.1"));
    let inside = route(&built, "shop");
    assert_eq!(eligible(&inside), ["192.0.2.10:30080"], "never this host");
    assert_eq!(claims(&inside), ["203.0.113.1:80/TCP"]);
    assert_eq!(reasons(&inside), ["NodePortsNotServed"]);
}

#[test]
fn node_ports_are_used_of_nodes_whose_own_proxy_has_an_endpoint() {
    let settings = Settings {
        forward_to: ForwardTo::NodePorts,
        ..settings()
    };
    const READY: (bool, bool) = (true, false);
    const ENDING: (bool, bool) = (false, true);
    const NOT_READY: (bool, bool) = (false, false);
    let (cluster, local) = (ExternalTrafficPolicy::Cluster, ExternalTrafficPolicy::Local);
    for (policy, states, wanted) in [
        (cluster, [READY, NOT_READY], "a b"),
        (cluster, [ENDING, NOT_READY], "a b"),
        (cluster, [NOT_READY, NOT_READY], ""),
        (local, [READY, READY], "a b"),
        (local, [READY, NOT_READY], "a"),
        (local, [ENDING, READY], "b"),
        (local, [ENDING, NOT_READY], "a"),
        (local, [NOT_READY, NOT_READY], ""),
    ] {
        let shop = with(stored("shop", "203.0.113.1"), |service| {
            service.external_traffic_policy = policy;
        });
        let mut slice = slice("shop", "shop-x", &["10.0.0.1@a", "10.0.0.2@b"]);
        for (endpoint, (ready, terminating)) in slice.endpoints.iter_mut().zip(states) {
            endpoint.ready = ready;
            endpoint.serving = ready || terminating;
            endpoint.terminating = terminating;
        }
        let objects = vec![
            edge(),
            service(shop),
            slices(slice),
            node("a", &["192.0.2.10"]),
            node("b", &["192.0.2.11"]),
        ];
        let route = route(&builder(settings.clone(), objects), "shop");
        let nodes = route.ports[0].endpoints.eligible.iter();
        let nodes: Vec<&str> = nodes.filter_map(|it| it.node.as_deref()).collect();
        assert_eq!(nodes.join(" "), wanted, "{policy:?} {states:?}");
    }
}

#[test]
fn node_ports_of_a_service_without_slices_are_used_where_slices_may_be_left_out() {
    for (slices_are_known, wanted) in [(false, 1), (true, 0)] {
        let settings = Settings {
            forward_to: ForwardTo::NodePorts,
            slices_are_known,
            ..settings()
        };
        let objects = vec![
            edge(),
            service(stored("shop", "203.0.113.1")),
            node("a", &["192.0.2.10"]),
        ];
        let mut built = builder(settings, objects);
        let eligible = |built: &Builder| route(built, "shop").ports[0].endpoints.eligible.len();
        assert_eq!(eligible(&built), wanted);
        // The slice comes, and goes again.
        let shop = slice("shop", "shop-x", &["10.0.0.1@a"]);
        let name = shop.name.clone();
        for (change, wanted) in [
            (slices(shop), 1),
            (Change::EndpointSlice(name, false, None), wanted),
        ] {
            built.apply(&batch(vec![change]));
            built.build(&resolved);
            assert_eq!(eligible(&built), wanted);
        }
    }
}

#[test]
fn the_cluster_ip_of_a_service_is_not_dialled_as_long_as_it_has_it() {
    let internal = |name: &str, address: &str| {
        service(with(stored(name, "203.0.113.2"), |service| {
            service.kind = ServiceType::ClusterIP;
            service.cluster_ips = vec![ip(address)];
        }))
    };
    let hosts = [
        "10.0.0.1",
        "10.96.0.10",
        "64:ff9b::10.96.0.10",
        "fd00:96::a",
    ];
    let shop = with(stored("shop", "203.0.113.1"), |service| {
        service.has_selector = false;
    });
    let other = stored("other", "203.0.113.3");
    let mut built = builder(
        settings(),
        vec![
            edge(),
            service(shop),
            slices(slice("shop", "shop-x", &hosts)),
            service(other),
            slices(slice("other", "other-x", &["10.0.0.2"])),
        ],
    );
    assert_eq!(eligible(&route(&built, "shop")).len(), 4);
    // The slice was there first. Nobody else is looked at.
    let mut apply = |change| {
        built.apply(&batch(vec![change]));
        let changed = built.build(&resolved);
        let names: Vec<_> = changed
            .iter()
            .map(|(name, _)| name.name.to_string())
            .collect();
        assert!(!names.contains(&"other".to_owned()), "{names:?}");
        let route = route(&built, "shop");
        let refused = route.refused.iter();
        let refused: Vec<_> = refused
            .map(|it| format!("{} {}", it.endpoint, it.why))
            .collect();
        (eligible(&route).len(), refused.join(", "))
    };
    let why = "is the cluster IP of Service web/internal";
    let both = format!("10.96.0.10:8080 {why}, [64:ff9b::a60:a]:8080 {why}");
    assert_eq!(apply(internal("internal", "10.96.0.10")), (2, both.clone()));
    assert_eq!(apply(internal("internal", "10.96.0.10")), (2, both));
    let six = format!("[fd00:96::a]:8080 {why}");
    assert_eq!(apply(internal("internal", "fd00:96::a")), (3, six));
    let gone = Change::Service(ServiceName::new("web", "internal"), None);
    assert_eq!(apply(gone), (4, String::new()));
    // One's own is no better.
    let own = with(stored("shop", "203.0.113.1"), |service| {
        service.has_selector = false;
        service.cluster_ips = vec![ip("10.96.0.10")];
    });
    assert_eq!(apply(service(own)).0, 2);
}

/// One of the objects of a small world, in one of a few forms; the last form is its absence.
fn object(which: usize, form: usize) -> Change {
    let name = ["a", "b", "c"][which % 3];
    let address = ["203.0.113.1", "203.0.113.2", "198.51.100.7"][form % 3];
    match (which / 3, form) {
        (0, 5) => Change::Service(ServiceName::new("web", name), None),
        (0, _) => service(with(stored(name, address), |service| {
            service.created = Some(Timestamp(which as i64 / 2));
            if form == 3 {
                service.external_traffic_policy = ExternalTrafficPolicy::Local;
            } else if form == 4 {
                service.asks.forward_to = Some(ForwardTo::NodePorts);
            }
            service.cluster_ips = [["10.0.0.1", "10.0.0.2"], ["10.0.0.3", "fd00::3"]][form % 2]
                .map(ip)
                .into();
        })),
        (1, 5) => Change::EndpointSlice(NamespacedName::new("web", name), false, None),
        (1, _) => {
            let owner = ["a", "b"][form % 2];
            let hosts = [
                "10.0.0.1@a",
                "127.0.0.1",
                "192.0.2.1",
                "fd00::3",
                "198.51.100.7",
            ];
            let mut slice = slice(owner, name, &hosts[..=form]);
            slice.ports[0].port = Some(if form == 2 { 30080 } else { 8080 });
            slices(slice)
        }
        (2, 5) => Change::Node(name.into(), None),
        (2, _) => node(name, &["192.0.2.1", "192.0.2.20"][form % 2..]),
        (_, 5) => Change::Pool(name.into(), None),
        _ => {
            let last = ["203.0.113.1", "203.0.113.15"][form % 2];
            let forwarding = if form == 4 {
                Forwarding::Node
            } else {
                Forwarding::Proxy
            };
            pool(name, "203.0.113.0", last, forwarding)
        }
    }
}

proptest! {
    #[test]
    fn step_by_step_comes_to_the_same_as_all_at_once(
        steps in prop::collection::vec((0..12_usize, 0..6_usize, any::<bool>()), 1..60),
        allow_loopback: bool,
        backwards: bool,
    ) {
        let settings = Settings { allow_loopback, node_name: Some("a".into()), ..settings() };
        let mut stepwise = builder(settings.clone(), Vec::new());
        let mut world = BTreeMap::new();
        let mut handed_out = BTreeMap::new();
        for (which, form, build) in steps {
            stepwise.apply(&batch(vec![object(which, form)]));
            world.insert(which, form);
            if build {
                handed_out.extend(stepwise.build(&resolved));
            }
        }
        handed_out.extend(stepwise.build(&resolved));

        let mut objects: Vec<_> = world.iter().map(|(which, form)| object(*which, *form)).collect();
        if backwards {
            objects.reverse();
        }
        let at_once = builder(settings, objects);
        let routes: Vec<_> = at_once.routes().collect();
        prop_assert_eq!(stepwise.routes().collect::<Vec<_>>(), routes.clone());
        let handed_out: Vec<_> = handed_out.values().flatten().collect();
        prop_assert_eq!(handed_out, routes.clone(), "what was handed out adds up to the whole");

        let mut places = BTreeSet::new();
        for route in routes {
            let ports = route.ports.iter().flat_map(|port| &port.claims);
            for claim in ports {
                prop_assert!(places.insert((claim.listen, claim.protocol)), "{:?} stands twice", claim);
            }
        }
    }
}
