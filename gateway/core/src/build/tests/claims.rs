//! Which listen addresses a Service claims, and who has one that several request.

use super::*;

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
    let listed = RouteSettings {
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
    let without = RouteSettings {
        serve_node_ports: ServeNodePorts::Never,
        ..settings()
    };
    let built = builder(without, vec![edge(), service(other)]);
    assert_eq!(built.routes().count(), 0);
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
fn where_the_nodes_carry_an_address_the_endpoints_are_those_of_their_own_proxy() {
    let nodes = || pool("edge", "203.0.113.0", "203.0.113.15", Forwarding::Node);
    let on = |name: &str, policy, family: &[&str]| {
        let mut shop = with(stored("shop", "203.0.113.1"), |service| {
            service.external_traffic_policy = policy;
            service.ports.push(ServicePort::new(Protocol::Sctp, 81));
        });
        shop.held
            .addresses
            .extend(family.iter().map(|text| ip(text)));
        // The host itself, one in maintenance, and one of each family elsewhere.
        let hosts = ["192.0.2.1@n1", "10.0.0.2@n2", "2001:db8::3@n3"];
        let slice = EndpointSlice {
            weight: 0,
            ..slice("shop", "a", &hosts)
        };
        let settings = RouteSettings {
            serve_node_ports: ServeNodePorts::UnlessNode,
            node_name: Some(name.into()),
            ..settings()
        };
        let changes = vec![
            nodes(),
            node("n1", &["192.0.2.1"]),
            service(shop),
            slices(slice),
        ];
        route(&builder(settings, changes), "shop")
    };
    let shown = |route: &Route| {
        let places = route.forwarded.iter();
        let places = places.map(|it| format!("{}/{} {}", it.listen, it.protocol, it.endpoints));
        places.collect::<Vec<_>>()
    };
    let (cluster, local) = (ExternalTrafficPolicy::Cluster, ExternalTrafficPolicy::Local);
    let route = on("n1", cluster, &[]);
    assert_eq!(
        shown(&route),
        ["203.0.113.1:80/TCP 2", "203.0.113.1:81/SCTP 0"]
    );
    assert_eq!(refused(&route), [""; 0]);
    assert!(route.local_nodes.is_none() && route.lost.is_empty());
    let route = on("n1", local, &["203.0.113.2"]);
    assert_eq!(shown(&route)[0], "203.0.113.1:80/TCP 1");
    let nodes_with = route.local_nodes.as_ref().unwrap().iter();
    assert_eq!(
        nodes_with.map(ToString::to_string).collect::<Vec<_>>(),
        ["n1", "n2", "n3"]
    );
    // Who is no Node has no kube-proxy.
    let route = on("outside", cluster, &[]);
    assert_eq!(shown(&route), [""; 0]);
    assert!(
        matches!(&route.lost[0].state, ListenerState::Failed { reason, .. } if reason == "NoNode")
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
fn on_a_node_of_the_cluster_node_ports_are_left_to_the_nodes_own_proxy() {
    let on_a = RouteSettings {
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
