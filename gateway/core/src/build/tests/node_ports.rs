//! Forwarding to the node ports of the cluster.

use super::*;

#[test]
fn forwarding_to_node_ports_uses_each_node_once_and_serves_none_on_a_node() {
    let nodes = RouteSettings {
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
    let settings = RouteSettings {
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
        let settings = RouteSettings {
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
