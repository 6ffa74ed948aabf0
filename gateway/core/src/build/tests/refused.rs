//! Endpoints that must not be dialled.

use fairway_config::health_check::{CheckKind, EndpointCheck};

use super::*;
use crate::checks::targets::targets;

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
    assert_eq!(
        refused(&route),
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
    let demo = RouteSettings {
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
        (eligible(&route).len(), refused(&route).join(", "))
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

#[test]
fn one_port_of_the_host_may_be_dialled_and_nothing_else_of_it() {
    let with_port = RouteSettings {
        host_endpoint_port: Some(8080),
        ..settings()
    };
    let hosts = [
        "192.0.2.1",
        "127.0.0.1",
        "127.0.0.9",
        "::ffff:192.0.2.1",
        "2002:c000:0201::",
        "203.0.113.2",
    ];
    let built = |settings: &RouteSettings, port: u16| {
        let mut slice = slice("shop", "a", &hosts);
        slice.ports[0].port = Some(port);
        let changes = vec![
            edge(),
            service(stored("shop", "203.0.113.1")),
            slices(slice),
        ];
        eligible(&route(&builder(settings.clone(), changes), "shop"))
    };
    // An address that is mapped is the same one.
    assert_eq!(built(&with_port, 8080), ["192.0.2.1:8080"]);
    assert_eq!(built(&with_port, 8081), [""; 0]);
    assert_eq!(built(&settings(), 8080), [""; 0]);
    // What this process listens on is not dialled.
    let own = RouteSettings {
        host_endpoint_port: Some(9901),
        admin: vec!["0.0.0.0:9901".parse().unwrap()],
        ..settings()
    };
    assert_eq!(built(&own, 9901), [""; 0]);
    // UDP is no API server.
    let dns = with(stored("shop", "203.0.113.1"), |service| {
        service.ports[0].protocol = Protocol::Udp;
    });
    let mut udp = slice("shop", "a", &hosts);
    udp.ports[0].protocol = Protocol::Udp;
    let changes = vec![edge(), service(dns), slices(udp)];
    assert_eq!(
        eligible(&route(&builder(with_port, changes), "shop")),
        [""; 0]
    );
}

#[test]
fn a_check_names_no_port_of_the_host_that_is_never_dialled() {
    let demo = || RouteSettings {
        allow_loopback: true,
        ..settings()
    };
    let shop = |port| {
        let kind = CheckKind::Grpc { service: "".into() };
        let check = EndpointCheck {
            port: Some(port),
            ..EndpointCheck::new(kind)
        };
        service(with(stored("shop", "203.0.113.1"), |service| {
            service.ports[0].options.health_check = Some(Arc::new(check));
        }))
    };
    let hosts = ["127.0.0.1", "10.0.0.1"];
    let asked = |route: &Route| {
        let probes = targets(&route.ports[0]).into_values();
        probes
            .map(|probe| probe.addr.to_string())
            .collect::<Vec<_>>()
    };
    // The admin address.
    let changes = vec![edge(), shop(9901), slices(slice("shop", "a", &hosts))];
    let built = builder(demo(), changes);
    let route_now = route(&built, "shop");
    assert_eq!(eligible(&route_now), ["10.0.0.1:8080", "127.0.0.1:8080"]);
    assert_eq!(asked(&route_now), ["10.0.0.1:9901"]);
    assert_eq!(reasons(&route_now), ["NotChecked"]);

    // A node port, from the moment on when this gateway listens there.
    let changes = vec![edge(), shop(30081), slices(slice("shop", "a", &hosts))];
    let mut built = builder(demo(), changes);
    let both = ["10.0.0.1:30081", "127.0.0.1:30081"];
    assert_eq!(asked(&route(&built, "shop")), both);
    let mut other = stored("other", "203.0.113.2");
    other.held.node_ports = BTreeMap::from([(HTTP, 30081)]);
    built.apply(&batch(vec![service(other)]));
    built.build(&resolved);
    assert_eq!(asked(&route(&built, "shop")), ["10.0.0.1:30081"]);
}
