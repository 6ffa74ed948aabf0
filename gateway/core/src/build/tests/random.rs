//! The routes follow from the objects alone, whatever happened before: random changes.

use proptest::prelude::*;

use super::*;

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
        let settings = RouteSettings { allow_loopback, node_name: Some("a".into()), ..settings() };
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
