//! Which endpoints are preferred: `trafficDistribution`, and topology hints; and the table of a port.

use fairway_config::balance::{Balance, BalanceAlgorithm};
use fairway_config::service::TrafficDistribution::{self, PreferSameNode, PreferSameZone};

use super::*;

/// Endpoints of Nodes in zones: `node@zone`.
fn placed(places: &[&str]) -> EndpointSlice {
    let hosts: Vec<String> = (1..=places.len()).map(|n| format!("10.0.0.{n}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let mut slice = slice("shop", "a", &hosts);
    for (endpoint, place) in slice.endpoints.iter_mut().zip(places) {
        let (node, zone) = place.split_once('@').unwrap_or((place, ""));
        endpoint.node = (!node.is_empty()).then(|| node.into());
        endpoint.zone = (!zone.is_empty()).then(|| zone.into());
    }
    slice
}

/// The endpoints that a gateway on node `n1` in zone `hall-a` uses.
fn used(preferred: Option<TrafficDistribution>, slice: EndpointSlice) -> Vec<String> {
    let shop = with(stored("shop", "203.0.113.1"), |service| {
        service.traffic_distribution = preferred;
    });
    let settings = RouteSettings {
        node_name: Some("n1".into()),
        zone: Some("hall-a".into()),
        ..settings()
    };
    let changes = vec![edge(), node("n1", &[]), service(shop), slices(slice)];
    eligible(&route(&builder(settings, changes), "shop"))
}

const ONE: &str = "10.0.0.1:8080";
const TWO: &str = "10.0.0.2:8080";
const THREE: &str = "10.0.0.3:8080";

/// As kube-proxy has them with the hints that the EndpointSlice controller of Kubernetes 1.35 writes
/// (staging/src/k8s.io/endpointslice/trafficdist).
#[test]
fn where_nobody_writes_hints_they_follow_from_the_traffic_distribution() {
    let table: &[(_, &[&str], &[&str])] = &[
        (
            None,
            &["n1@hall-a", "n2@hall-a", "n3@hall-b"],
            &[ONE, TWO, THREE],
        ),
        (
            Some(PreferSameZone),
            &["n1@hall-a", "n2@hall-a", "n3@hall-b"],
            &[ONE, TWO],
        ),
        (
            Some(PreferSameZone),
            &["n2@hall-b", "n3@hall-b"],
            &[ONE, TWO],
        ),
        // One of which it is not known where it is: nothing is preferred.
        (
            Some(PreferSameZone),
            &["n1@hall-a", "n3@hall-b", "n4"],
            &[ONE, TWO, THREE],
        ),
        (
            Some(PreferSameNode),
            &["n1@hall-a", "n2@hall-a", "n3@hall-b"],
            &[ONE],
        ),
        // None is on the node: those in its zone, else all.
        (Some(PreferSameNode), &["n2@hall-a", "n3@hall-b"], &[ONE]),
        (
            Some(PreferSameNode),
            &["n2@hall-b", "n3@hall-b"],
            &[ONE, TWO],
        ),
        (Some(PreferSameNode), &["n1", "n2", "n3"], &[ONE]),
        (Some(PreferSameNode), &["@hall-a", "n3@hall-b"], &[ONE]),
    ];
    for (preferred, places, wanted) in table {
        assert_eq!(
            used(*preferred, placed(places)),
            *wanted,
            "{preferred:?} {places:?}"
        );
    }
}

#[test]
fn one_that_is_not_ready_says_nothing_of_the_others() {
    let mut slice = placed(&["n1@hall-a", "n2@hall-b"]);
    slice.endpoints[0].ready = false;
    slice.endpoints[0].serving = false;
    assert_eq!(used(Some(PreferSameZone), slice.clone()), [TWO]);
    slice.endpoints[0].zone = None;
    slice.endpoints[1].zone = Some("hall-a".into());
    assert_eq!(used(Some(PreferSameZone), slice), [TWO]);
}

#[test]
fn hints_that_are_written_count_as_they_are() {
    let mut slice = placed(&["n1@hall-a", "n2@hall-b"]);
    for (endpoint, zone) in slice.endpoints.iter_mut().zip(["hall-b", "hall-a"]) {
        endpoint.for_zones = vec![zone.into()];
    }
    for preferred in [None, Some(PreferSameZone), Some(PreferSameNode)] {
        assert_eq!(used(preferred, slice.clone()), [TWO], "{preferred:?}");
    }
    // Kubernetes, too, follows no hints where an endpoint has none.
    slice.endpoints[0].for_zones.clear();
    for preferred in [None, Some(PreferSameZone), Some(PreferSameNode)] {
        assert_eq!(used(preferred, slice.clone()), [ONE, TWO], "{preferred:?}");
    }
}

#[test]
fn a_gateway_in_no_zone_that_is_known_uses_all() {
    let shop = with(stored("shop", "203.0.113.1"), |service| {
        service.traffic_distribution = Some(PreferSameZone);
    });
    let places = placed(&["n1@hall-a", "n3@hall-b"]);
    let changes = || vec![edge(), service(shop.clone()), slices(places.clone())];
    let built = builder(settings(), changes());
    assert_eq!(eligible(&route(&built, "shop")), [ONE, TWO]);
}

#[test]
fn a_table_is_there_where_it_is_asked_for_and_is_kept_while_its_endpoints_stay() {
    let shop = |algorithm: Option<BalanceAlgorithm>, affinity: Option<u64>| {
        service(with(stored("shop", "203.0.113.1"), |service| {
            service.client_ip_affinity = affinity.map(std::time::Duration::from_secs);
            service.ports[0].options.balance = algorithm.map(|algorithm| Balance {
                algorithm,
                slow_start: None,
            });
        }))
    };
    let maglev = Some(BalanceAlgorithm::Maglev);
    let hosts = slice("shop", "a", &["10.0.0.1", "10.0.0.2"]);
    let mut built = builder(settings(), vec![edge(), shop(maglev, None), slices(hosts)]);
    let table = |built: &Builder| route(built, "shop").ports[0].table.clone();
    let first = table(&built).unwrap();
    assert_eq!(*first, route(&built, "shop").ports[0].endpoints.table());
    let mut change = |change: Change| {
        built.apply(&batch(vec![change]));
        built.build(&resolved);
        table(&built)
    };
    let same = change(shop(maglev, Some(10))).unwrap();
    assert!(
        Arc::ptr_eq(&first, &same),
        "nothing of the table has changed"
    );
    let more = slice("shop", "a", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    let other = change(slices(more)).unwrap();
    assert!(other.slots().contains(&2) && !first.slots().contains(&2));
    assert_eq!(change(shop(Some(BalanceAlgorithm::SourceHash), None)), None);
    assert_eq!(change(shop(None, None)), None);
}
