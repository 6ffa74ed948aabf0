#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use fairway_config::balance::{Balance, BalanceAlgorithm};
use fairway_config::names::ServiceName;
use fairway_config::net::Protocol;
use fairway_config::service::PortKey;
use fairway_gateway_core::available::LiveEndpoint;
use fairway_gateway_core::route::EndpointSet;

use super::*;

const OVER: Duration = Duration::from_secs(10);

fn addr(last: u8) -> EndpointAddr {
    EndpointAddr(SocketAddr::from(([10, 0, 0, last], 80)))
}

/// A route with these endpoints and a slow start.
fn route(endpoints: &[u8]) -> Arc<RoutePort> {
    let eligible = endpoints.iter().map(|last| Endpoint::new(addr(*last)));
    let endpoints = EndpointSet::new(eligible.collect(), Vec::new());
    let key = PortKey {
        protocol: Protocol::Tcp,
        port: 80,
    };
    let mut route = RoutePort::new(ServiceName::new("web", "shop"), key, endpoints);
    route.options.balance = Some(Balance {
        algorithm: BalanceAlgorithm::RoundRobin,
        slow_start: Some(OVER),
    });
    Arc::new(route)
}

/// How many of 3,000 connections each endpoint gets at this time.
fn shares(port: &Port, now: u64) -> BTreeMap<EndpointAddr, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..3_000 {
        let route = port.route();
        let client = IpAddr::from([198, 51, 100, 7]);
        let picked = port.pick(&route, client, Tick(now), &[]).unwrap();
        *counts.entry(picked.at.endpoint.addr).or_default() += 1;
    }
    counts
}

fn returned(port: &Port, last: u8) -> Option<Tick> {
    port.endpoint(addr(last)).returned()
}

#[test]
fn who_joins_or_comes_back_starts_slowly_and_who_was_there_does_not() {
    let port = Port::new(route(&[1, 2]), 1);
    assert_eq!(
        shares(&port, 1_000),
        BTreeMap::from([(addr(1), 1_500), (addr(2), 1_500)])
    );

    port.set_route(route(&[1, 2, 3]));
    let found = shares(&port, 2_000);
    // A tenth of a share: 3,000 / 2.1 * 0.1.
    assert!((110..180).contains(&found[&addr(3)]), "{found:?}");
    assert_eq!(
        (returned(&port, 1), returned(&port, 3)),
        (None, Some(Tick(2_000)))
    );
    let found = shares(&port, 2_000 + 5_000);
    // 3,000 / 2.55 * 0.55.
    assert!((580..720).contains(&found[&addr(3)]), "{found:?}");
    let found = shares(&port, 2_000 + 10_000);
    assert!(found.values().all(|count| *count == 1_000), "{found:?}");

    // One that is left out for a while, as it is not ready, begins anew.
    port.set_route(route(&[1, 3]));
    shares(&port, 20_000);
    port.set_route(route(&[1, 2, 3]));
    let found = shares(&port, 21_000);
    assert!((110..180).contains(&found[&addr(2)]), "{found:?}");
    assert_eq!(returned(&port, 3), Some(Tick(2_000)), "it was there");
}

#[test]
fn one_that_fails_its_checks_starts_slowly_when_it_passes_again() {
    let port = Port::new(route(&[1, 2, 3]), 1);
    shares(&port, 1_000);
    let failing = CheckVerdict::Failing {
        since: Tick(2_000),
        why: "connection refused".into(),
    };
    port.set_checked(addr(2), Some(failing), Tick(2_000));
    assert_eq!(shares(&port, 2_000).get(&addr(2)), None);
    port.set_checked(addr(2), Some(CheckVerdict::Passing), Tick(9_000));
    let found = shares(&port, 9_000);
    assert!((110..180).contains(&found[&addr(2)]), "{found:?}");
    assert_eq!(returned(&port, 2), Some(Tick(9_000)));
}

#[test]
fn one_that_its_traffic_had_left_alone_starts_slowly_when_a_trial_has_worked() {
    let port = Port::new(route(&[1, 2, 3]), 1);
    shares(&port, 1_000);
    let state = port.endpoint(addr(2));
    let (took, why) = (Duration::from_millis(1_500), DialFailure::Timeout);
    port.dial_failed(&state, why, took, Tick(2_000));
    assert_eq!(shares(&port, 2_000).get(&addr(2)), None);
    // One connection tries it.
    assert_eq!(shares(&port, 4_000).get(&addr(2)), Some(&1));
    port.dial_worked(&state, Duration::ZERO, Tick(4_001));
    let found = shares(&port, 4_001);
    assert!((110..180).contains(&found[&addr(2)]), "{found:?}");
    assert_eq!(returned(&port, 2), Some(Tick(4_001)));
    let found = shares(&port, 4_001 + 10_000);
    assert!(found.values().all(|count| *count == 1_000), "{found:?}");
}
