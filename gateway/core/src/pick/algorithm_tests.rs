#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::plausible::is_plausible;
use crate::route::Endpoint;
use crate::testing::{client, endpoints, port};

const NOW: Tick = Tick(1_000_000);
const TIMEOUT: Duration = Duration::from_secs(10);
const CLIENTS: u32 = 10_000;

const BY_CLIENT: [BalanceAlgorithm; 2] = [BalanceAlgorithm::SourceHash, BalanceAlgorithm::Maglev];

/// A state whose connections a test counts.
#[derive(Debug, Default)]
struct CountedState {
    active: Cell<u64>,
}

impl LiveEndpoint for CountedState {
    fn active(&self) -> u64 {
        self.active.get()
    }

    fn claim_trial(&self, _now: Tick) -> bool {
        false
    }
}

fn said(algorithm: BalanceAlgorithm) -> Balance {
    Balance {
        algorithm,
        slow_start: None,
    }
}

/// A port with this algorithm.
fn port_by(all: &[Endpoint], algorithm: BalanceAlgorithm) -> RoutePort {
    let mut route = port(all.to_vec(), None);
    route.options.balance = Some(said(algorithm));
    if algorithm == BalanceAlgorithm::Maglev {
        route.table = Some(Arc::new(route.endpoints.table()));
    }
    route
}

/// The endpoints sorted out, of which those at the places `out` have failed.
fn available(route: &RoutePort, out: &[usize]) -> Available<CountedState> {
    let eligible = route.endpoints.eligible.iter().enumerate();
    let ejected = HealthVerdict::Ejected {
        since: Tick(1),
        is_slow: false,
    };
    let all = eligible.map(|(at, endpoint)| AvailableEndpoint {
        endpoint: endpoint.clone(),
        verdict: if out.contains(&at) {
            ejected
        } else {
            HealthVerdict::Healthy
        },
        state: CountedState::default(),
    });
    Available::balanced(all, route.options.balance)
}

/// The place of the endpoint that each client has.
fn choices(route: &RoutePort, available: &Available<CountedState>, seed: u64) -> Vec<EndpointAddr> {
    let balancer = Balancer::new(seed);
    let pick = |n| balancer.pick(route, available, client(n), NOW, &[]);
    (0..CLIENTS)
        .map(|n| pick(n).unwrap().at.endpoint.addr)
        .collect()
}

#[test]
fn affinity_goes_before_every_algorithm() {
    let all = endpoints(&[1, 2, 3, 4]);
    for algorithm in BalanceAlgorithm::ALL {
        let mut route = port_by(&all, algorithm);
        route.affinity = Some(TIMEOUT);
        let list = available(&route, &[]);
        let balancer = Balancer::new(7);
        for n in 0..200 {
            let wanted = rank::best(client(n), &all).unwrap();
            let found = balancer.pick(&route, &list, client(n), NOW, &[]).unwrap();
            assert_eq!(found.at.endpoint, *wanted, "{algorithm:?}");
            let from = SocketAddr::new(client(n), 40_000);
            let found = balancer.pick_for_flow(&route, &list, from, NOW, &[]);
            assert_eq!(found.unwrap().at.endpoint, *wanted, "{algorithm:?}");
        }
    }
}

#[test]
fn every_gateway_has_the_same_endpoint_for_a_client_and_so_has_udp() {
    let all = endpoints(&[1, 2, 3, 4]);
    for algorithm in BY_CLIENT {
        let route = port_by(&all, algorithm);
        let list = available(&route, &[]);
        let found = choices(&route, &list, 1);
        assert_eq!(found, choices(&route, &list, 99), "{algorithm:?}");
        let balancer = Balancer::new(5);
        for (n, wanted) in (0..).zip(&found).take(500) {
            for port in [1_024, 40_000 + n as u16] {
                let from = SocketAddr::new(client(n), port);
                let found = balancer
                    .pick_for_flow(&route, &list, from, NOW, &[])
                    .unwrap();
                assert_eq!(found.at.endpoint.addr, *wanted, "{algorithm:?}");
            }
        }
        let mut counts = BTreeMap::<_, u64>::new();
        for addr in found {
            *counts.entry(addr).or_default() += 1;
        }
        let counts: Vec<u64> = counts.into_values().collect();
        let expected = [1_000.0, 2_000.0, 3_000.0, 4_000.0];
        assert!(
            is_plausible(&counts, &expected),
            "{algorithm:?}: {counts:?}"
        );
    }
}

/// What one gateway has seen fail moves the clients of that endpoint alone, and they return to it.
#[test]
fn clients_of_an_endpoint_that_fails_go_to_all_others_and_nobody_else_moves() {
    let all = endpoints(&[1; 10]);
    for algorithm in BY_CLIENT {
        let route = port_by(&all, algorithm);
        let before = choices(&route, &available(&route, &[]), 1);
        let during = choices(&route, &available(&route, &[3, 7]), 1);
        let gone = [all[3].addr, all[7].addr];
        let mut counts = BTreeMap::<_, u64>::new();
        for (was, is) in before.iter().zip(&during) {
            assert!(!gone.contains(is), "{algorithm:?}");
            assert!(
                was == is || gone.contains(was),
                "{algorithm:?}: {was} to {is}"
            );
            if was != is {
                *counts.entry(*is).or_default() += 1;
            }
        }
        let counts: Vec<u64> = counts.into_values().collect();
        let share = counts.iter().sum::<u64>() as f64 / 8.0;
        assert!(share > 200.0, "{algorithm:?}: {counts:?}");
        assert!(
            is_plausible(&counts, &[share; 8]),
            "{algorithm:?}: {counts:?}"
        );
    }
}

/// By the next slots of the client, so that it is one look and the same on every gateway: not by a pass over all endpoints.
#[test]
fn with_a_table_the_clients_next_slots_say_where_it_goes_when_its_endpoint_fails() {
    let all = endpoints(&[1, 2, 3, 4, 5]);
    let route = port_by(&all, BalanceAlgorithm::Maglev);
    let table = route.endpoints.table();
    let (balancer, gone) = (Balancer::new(1), [1, 4]);
    let failed = available(&route, &gone);
    let well = available(&route, &[]);
    let tried = gone.map(|at| all[at].addr);
    for n in 0..2_000 {
        let next = table.indices(client(n)).find(|at| !gone.contains(at));
        let wanted = Some(all[next.unwrap()].addr);
        for (list, tried) in [(&failed, &[][..]), (&well, &tried)] {
            let found = balancer.pick(&route, list, client(n), NOW, tried);
            assert_eq!(found.map(|it| it.at.endpoint.addr), wanted, "client {n}");
        }
    }
}

#[test]
fn with_a_table_the_last_endpoint_of_many_slots_is_found() {
    // One slot in 65,536 is that of the first: looking for it in the slots would take long.
    let all = endpoints(&[1, u16::MAX]);
    let route = port_by(&all, BalanceAlgorithm::Maglev);
    let list = available(&route, &[]);
    let balancer = Balancer::new(1);
    for n in 0..100 {
        let found = balancer.pick(&route, &list, client(n), NOW, &[all[1].addr]);
        assert_eq!(found.unwrap().at.endpoint, all[0]);
    }
}

#[test]
fn least_connections_reads_what_is_open_now_for_connections_and_flows() {
    let all = endpoints(&[1; 3]);
    let route = port_by(&all, BalanceAlgorithm::LeastConnections);
    let list = available(&route, &[]);
    let balancer = Balancer::new(1);
    for (at, it) in list.endpoints.iter().enumerate() {
        it.state.active.set([5, 3, 4][at]);
    }
    let tcp = |tried: &[EndpointAddr]| {
        let found = balancer.pick(&route, &list, client(1), NOW, tried);
        found.unwrap().at.endpoint.addr
    };
    assert_eq!(tcp(&[]), all[1].addr);
    assert_eq!(
        tcp(&[all[1].addr]),
        all[2].addr,
        "the next one where that failed"
    );
    let from = SocketAddr::new(client(1), 40_000);
    let udp = || {
        let found = balancer.pick_for_flow(&route, &list, from, NOW, &[]);
        found.unwrap().at.endpoint.addr
    };
    assert_eq!(udp(), all[1].addr);
    list.endpoints[1].state.active.set(9);
    assert_eq!((tcp(&[]), udp()), (all[2].addr, all[2].addr));
}

#[test]
fn flows_take_turns_where_that_is_said() {
    let all = endpoints(&[1, 3]);
    for (algorithm, wanted) in [
        (BalanceAlgorithm::RoundRobin, [200, 200]),
        (BalanceAlgorithm::WeightedRoundRobin, [100, 300]),
    ] {
        let route = port_by(&all, algorithm);
        let list = available(&route, &[]);
        let balancer = Balancer::new(1);
        let mut counts = [0; 2];
        for n in 0..400 {
            let from = SocketAddr::new(client(n / 7), 40_000);
            let found = balancer
                .pick_for_flow(&route, &list, from, NOW, &[])
                .unwrap();
            counts[usize::from(found.at.endpoint == all[1])] += 1;
        }
        assert_eq!(counts, wanted, "{algorithm:?}");
    }
}

#[test]
fn what_a_dead_endpoint_cannot_take_is_spread_by_every_algorithm() {
    let all = endpoints(&[1; 6]);
    let dead = all[1].addr;
    for algorithm in BalanceAlgorithm::ALL {
        let route = port_by(&all, algorithm);
        let list = available(&route, &[]);
        let balancer = Balancer::new(7);
        let mut counts = BTreeMap::<_, u64>::new();
        for n in 0..CLIENTS {
            let first = balancer.pick(&route, &list, client(n), NOW, &[]).unwrap();
            if first.at.endpoint.addr == dead {
                let second = balancer.pick(&route, &list, client(n), NOW, &[dead]);
                let second = second.unwrap().at.endpoint.addr;
                *counts.entry(second).or_default() += 1;
            }
        }
        let counts: Vec<u64> = counts.into_values().collect();
        let share = counts.iter().sum::<u64>() as f64 / 5.0;
        assert!(share > 250.0, "{algorithm:?}: {counts:?}");
        assert!(
            is_plausible(&counts, &[share; 5]),
            "{algorithm:?}: {counts:?}"
        );
    }
}

proptest! {
    #[test]
    fn every_algorithm_tries_everything_once(
        weights in prop::collection::vec(1..50_u16, 1..20),
        algorithm in prop::sample::select(BalanceAlgorithm::ALL.to_vec()),
        out in prop::collection::vec(0..20_usize, 0..4),
        seed: u64,
        n in 0..10_000_u32,
        is_flow: bool,
    ) {
        let all = endpoints(&weights);
        let route = port_by(&all, algorithm);
        let list = available(&route, &out);
        let balancer = Balancer::new(seed);
        let mut tried = Vec::new();
        let pick = |tried: &[EndpointAddr]| {
            let found = match is_flow {
                true => balancer.pick_for_flow(&route, &list, SocketAddr::new(client(n), 9), NOW, tried),
                false => balancer.pick(&route, &list, client(n), NOW, tried),
            };
            found.map(|it| it.at.endpoint.addr)
        };
        while let Some(addr) = pick(&tried) {
            prop_assert!(!tried.contains(&addr));
            tried.push(addr);
        }
        prop_assert_eq!(tried.len(), weights.len());
    }
}
