//! Where endpoints come from: EndpointSlices, v1 Endpoints, DNS names, and the own Node.

use super::*;

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
        RouteSettings {
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
fn under_local_it_is_known_which_nodes_have_an_endpoint() {
    let on = |policy, name: &str| {
        let shop = with(stored("shop", "203.0.113.1"), |service| {
            service.external_traffic_policy = policy;
        });
        let mut slice = slice(
            "shop",
            "a",
            &[
                "10.0.0.1@n1",
                "10.0.0.2@n2",
                "10.0.0.3@n3",
                "10.0.0.4@n4",
                "127.0.0.1@n5",
                "10.0.0.6",
            ],
        );
        let mut states = slice.endpoints.iter_mut().skip(1);
        // Terminating and still serving; terminating only; not ready.
        for (serving, terminating) in [(true, true), (false, true), (false, false)] {
            let endpoint = states.next().unwrap();
            (endpoint.ready, endpoint.serving, endpoint.terminating) =
                (false, serving, terminating);
        }
        let settings = RouteSettings {
            node_name: Some(name.into()),
            ..settings()
        };
        let changes = vec![edge(), node("n1", &[]), service(shop), slices(slice)];
        let route = route(&builder(settings, changes), "shop");
        let nodes = route.local_nodes.as_ref()?;
        Some(nodes.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (local, cluster) = (ExternalTrafficPolicy::Local, ExternalTrafficPolicy::Cluster);
    assert_eq!(
        on(local, "n1"),
        Some(vec!["n1".to_owned(), "n2".to_owned()])
    );
    assert_eq!(on(cluster, "n1"), None);
    assert_eq!(
        on(local, "outside"),
        None,
        "it is no Node: it serves them all"
    );
}
