#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Barrier;

use proptest::prelude::*;

use super::*;
use crate::route::Endpoint;
use crate::testing::{IdleEndpoint, client, endpoints, healthy, port, sorted_out};

const TIMEOUT: Duration = Duration::from_secs(10);
const NOW: Tick = Tick(1_000_000);
const EJECTED: HealthVerdict = HealthVerdict::Ejected {
    since: Tick(1),
    is_slow: true,
};

type Shares = BTreeMap<EndpointAddr, usize>;

/// The endpoint for a client, where nothing is known against any.
fn pick(
    balancer: &Balancer,
    route: &RoutePort,
    client: IpAddr,
    now: Tick,
    tried: &[EndpointAddr],
) -> Option<Endpoint> {
    let available = healthy(&route.endpoints.eligible);
    let picked = balancer.pick(route, &available, client, now, tried)?;
    Some(picked.at.endpoint.clone())
}

/// The same for a UDP flow.
fn pick_for_flow(
    balancer: &Balancer,
    route: &RoutePort,
    client: SocketAddr,
    tried: &[EndpointAddr],
) -> Option<Endpoint> {
    let available = healthy(&route.endpoints.eligible);
    let picked = balancer.pick_for_flow(route, &available, client, NOW, tried)?;
    Some(picked.at.endpoint.clone())
}

fn count(picks: impl IntoIterator<Item = Endpoint>) -> Shares {
    let mut shares = Shares::new();
    for endpoint in picks {
        *shares.entry(endpoint.addr).or_default() += 1;
    }
    shares
}

#[test]
fn without_endpoints_there_is_no_choice() {
    for affinity in [None, Some(TIMEOUT)] {
        let route = port(Vec::new(), affinity);
        assert_eq!(pick(&Balancer::new(1), &route, client(1), NOW, &[]), None);
    }
}

#[test]
fn equal_weights_take_turns_in_order() {
    let all = endpoints(&[3, 3, 3]);
    let route = port(all.clone(), None);
    let balancer = Balancer::new(0);
    for turn in 0..9 {
        assert_eq!(
            pick(&balancer, &route, client(1), NOW, &[]).as_ref(),
            Some(&all[turn % 3])
        );
    }
}

/// Two balancers are two processes: that before a restart and that after it.
#[test]
fn a_flow_has_the_same_endpoint_after_a_restart_with_and_without_affinity() {
    for affinity in [None, Some(TIMEOUT)] {
        let route = port(endpoints(&[1; 10]), affinity);
        let (before, after) = (Balancer::new(1), Balancer::new(2));
        let mut found = std::collections::BTreeSet::new();
        for n in 0..200_u16 {
            let from = SocketAddr::new(client(u32::from(n) / 20), 40_000 + n);
            let first = pick_for_flow(&before, &route, from, &[]).unwrap();
            // Not in the same order, and others come in between.
            pick(&before, &route, client(7_000 + u32::from(n)), NOW, &[]);
            assert_eq!(
                pick_for_flow(&after, &route, from, &[]).as_ref(),
                Some(&first)
            );
            found.insert(first.addr);
            if affinity.is_none() {
                let next = pick_for_flow(&after, &route, from, &[first.addr]);
                assert_ne!(
                    next.unwrap().addr,
                    first.addr,
                    "one that refused is left out"
                );
            }
        }
        assert!(found.len() > 5, "they are spread: {found:?}");
    }
}

#[test]
fn different_seeds_begin_with_different_endpoints() {
    let route = port(endpoints(&[1; 10]), None);
    let first = |seed| {
        let balancer = Balancer::new(seed);
        pick(&balancer, &route, client(1), NOW, &[]).unwrap().addr
    };
    let firsts: std::collections::BTreeSet<_> =
        (0..100_u64).map(|seed| first(seed * 7919)).collect();
    assert_eq!(firsts.len(), 10);
}

#[test]
fn shares_are_exact_however_many_threads_pick() {
    const THREADS: usize = 8;
    const ROUNDS: usize = 500;
    for weights in [vec![1; 7], vec![1, 2, 4]] {
        let sum: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
        let route = port(endpoints(&weights), None);
        let balancer = Balancer::new(42);
        let start = Barrier::new(THREADS);
        let shares = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let picks = (0..sum * ROUNDS)
                            .map(|_| pick(&balancer, &route, client(1), NOW, &[]).unwrap());
                        count(picks)
                    })
                })
                .collect();
            let mut all = Shares::new();
            for worker in workers {
                for (addr, n) in worker.join().unwrap() {
                    *all.entry(addr).or_default() += n;
                }
            }
            all
        });
        let expected: Vec<_> = weights
            .iter()
            .map(|weight| usize::from(*weight) * ROUNDS * THREADS)
            .collect();
        assert_eq!(shares.into_values().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn what_a_dead_endpoint_cannot_take_is_spread_evenly() {
    let all = endpoints(&[1; 4]);
    let dead = all[1].addr;
    let route = port(all.clone(), None);
    let balancer = Balancer::new(7);
    let served = (0..4 * 3 * 10).map(|_| {
        let first = pick(&balancer, &route, client(1), NOW, &[]).unwrap();
        if first.addr != dead {
            return first;
        }
        pick(&balancer, &route, client(1), NOW, &[dead]).unwrap()
    });
    let shares = count(served);
    assert_eq!(shares.into_values().collect::<Vec<_>>(), [40, 40, 40]);
}

#[test]
fn heavy_endpoints_do_not_get_their_turns_in_a_row() {
    let route = port(endpoints(&[10, 10, 1]), None);
    let balancer = Balancer::new(0);
    let picks: Vec<_> = (0..21)
        .map(|_| pick(&balancer, &route, client(1), NOW, &[]).unwrap().addr)
        .collect();
    let longest = picks.chunk_by(|a, b| a == b).map(<[_]>::len).max();
    assert!(longest <= Some(2), "{picks:?}");
}

#[test]
fn a_client_stays_while_others_join_until_its_time_is_over() {
    let balancer = Balancer::new(1);
    let few = port(endpoints(&[1; 2]), Some(TIMEOUT));
    let many = port(endpoints(&[1; 40]), Some(TIMEOUT));
    let mut now = NOW;
    let clients: Vec<_> = (0..100).map(client).collect();
    let first: Vec<_> = clients
        .iter()
        .map(|client| pick(&balancer, &few, *client, now, &[]).unwrap().addr)
        .collect();
    // Each connection counts the time anew.
    for _ in 0..3 {
        now = Tick(now.0 + 10_000);
        for (client, first) in clients.iter().zip(&first) {
            assert_eq!(
                pick(&balancer, &many, *client, now, &[]).unwrap().addr,
                *first
            );
        }
    }
    now = Tick(now.0 + 10_001);
    let moved = clients.iter().zip(&first);
    let moved = moved.filter(|(client, first)| {
        pick(&balancer, &many, **client, now, &[]).unwrap().addr != **first
    });
    assert!(
        moved.count() > 80,
        "most belong to one of the 38 that joined"
    );
}

#[test]
fn a_restart_keeps_clients_where_the_ranking_had_put_them() {
    let route = port(endpoints(&[1, 2, 3, 4]), Some(TIMEOUT));
    let (before, after) = (Balancer::new(1), Balancer::new(2));
    for n in 0..10_000 {
        let was = pick(&before, &route, client(n), NOW, &[]);
        assert_eq!(pick(&after, &route, client(n), Tick(0), &[]), was);
    }
}

#[test]
fn a_client_whose_endpoint_fails_goes_down_its_ranking_and_back() {
    let all = endpoints(&[1; 5]);
    let route = port(all.clone(), Some(TIMEOUT));
    let balancer = Balancer::new(1);
    let order = rank::ranking(client(1), &all);
    let mut tried = Vec::new();
    for expected in &order[..3] {
        let got = pick(&balancer, &route, client(1), NOW, &tried).unwrap();
        assert_eq!(got, **expected);
        tried.push(got.addr);
    }
    let first = pick(&balancer, &route, client(1), NOW, &[]);
    assert_eq!(
        first.as_ref(),
        Some(order[0]),
        "nothing is wrong with it any more"
    );
}

#[test]
fn a_client_of_an_endpoint_that_is_left_alone_belongs_to_it_all_the_same() {
    let all = endpoints(&[1; 5]);
    let route = port(all.clone(), Some(TIMEOUT));
    let balancer = Balancer::new(1);
    let order = rank::ranking(client(1), &all);
    let first_is_out = sorted_out(&all, |n| {
        if all[n] == *order[0] {
            EJECTED
        } else {
            HealthVerdict::Healthy
        }
    });
    for _ in 0..3 {
        // It is known for the first time while its endpoint is left alone.
        let picked = balancer.pick(&route, &first_is_out, client(1), NOW, &[]);
        assert_eq!(picked.unwrap().at.endpoint, *order[1]);
    }
    let back = pick(&balancer, &route, client(1), NOW, &[]);
    assert_eq!(
        back.as_ref(),
        Some(order[0]),
        "as another gateway would choose"
    );
}

#[test]
fn an_endpoint_that_is_left_alone_gets_a_trial_and_is_the_last_that_is_tried() {
    let all = endpoints(&[1; 3]);
    for (affinity, is_flow) in [(None, false), (Some(TIMEOUT), false), (None, true)] {
        let route = port(all.clone(), affinity);
        let balancer = Balancer::new(3);
        let mut available = sorted_out(&all, |n| match n {
            1 => EJECTED,
            _ => HealthVerdict::Healthy,
        });
        let choose = |available: &Available<IdleEndpoint>, n: u32, tried: &[EndpointAddr]| {
            let picked = if is_flow {
                let from = SocketAddr::new(client(n), 4000);
                balancer.pick_for_flow(&route, available, from, NOW, tried)
            } else {
                balancer.pick(&route, available, client(n), NOW, tried)
            };
            let picked = picked?;
            Some((picked.at.endpoint.addr, picked.is_doubtful, picked.is_last))
        };
        for n in 0..100 {
            let mut tried = Vec::new();
            while let Some((addr, is_doubtful, is_last)) = choose(&available, n, &tried) {
                assert_eq!(
                    addr == all[1].addr,
                    tried.len() == 2,
                    "{tried:?}, then {addr}"
                );
                assert_eq!(
                    (is_doubtful, is_last),
                    (addr == all[1].addr, tried.len() == 2)
                );
                tried.push(addr);
            }
            assert_eq!(tried.len(), 3);
        }
        available.out[0].state.may_be_tried = true;
        let trials = (0..100).filter(|n| {
            let (addr, is_doubtful, is_last) = choose(&available, *n, &[]).unwrap();
            assert!(!is_last);
            assert_eq!(is_doubtful, addr == all[1].addr);
            is_doubtful
        });
        let trials = trials.count();
        if affinity.is_some() || is_flow {
            assert!(
                (10..60).contains(&trials),
                "{trials}: those that belong to it"
            );
        } else {
            assert_eq!(trials, 100, "whoever comes");
        }
        let second = choose(&available, 1, &[all[0].addr]).unwrap();
        assert_eq!(
            second.0, all[2].addr,
            "who has waited once tries none that may be slow"
        );
    }
}

#[test]
fn one_that_fails_its_checks_gets_nothing_at_all() {
    let all = endpoints(&[1; 3]);
    let route = port(all.clone(), None);
    let balancer = Balancer::new(3);
    let mut available = sorted_out(&all, |n| match n {
        0 => HealthVerdict::FailsChecks,
        _ => HealthVerdict::Healthy,
    });
    available.out[0].state.may_be_tried = true;
    let (client, others) = (client(1), [all[1].addr, all[2].addr]);
    for _ in 0..10 {
        let picked = balancer.pick(&route, &available, client, NOW, &[]).unwrap();
        assert_ne!(picked.at.endpoint, all[0]);
    }
    let last = balancer.pick(&route, &available, client, NOW, &others[..1]);
    assert!(last.unwrap().is_last);
    assert!(
        balancer
            .pick(&route, &available, client, NOW, &others)
            .is_none()
    );
}

#[test]
fn a_client_leaves_an_endpoint_that_is_not_eligible_any_more() {
    let all = endpoints(&[1; 5]);
    let route = port(all.clone(), Some(TIMEOUT));
    let balancer = Balancer::new(1);
    let first = pick(&balancer, &route, client(1), NOW, &[]).unwrap();
    let rest: Vec<_> = all
        .into_iter()
        .filter(|endpoint| *endpoint != first)
        .collect();
    let route = port(rest.clone(), Some(TIMEOUT));
    assert_eq!(
        pick(&balancer, &route, client(1), NOW, &[]).as_ref(),
        rank::best(client(1), &rest)
    );
}

#[test]
fn a_balancer_that_nobody_uses_takes_next_to_nothing() {
    assert!(size_of::<Balancer>() <= 64, "{}", size_of::<Balancer>());
    let balancer = Balancer::new(1);
    let route = port(endpoints(&[1]), None);
    pick(&balancer, &route, client(1), NOW, &[]);
    assert_eq!(balancer.affinity_entries(), 0);
}

proptest! {
    #[test]
    fn shares_are_the_weights(weights in prop::collection::vec(1..50_u16, 1..20), seed: u64) {
        let all = endpoints(&weights);
        let route = port(all.clone(), None);
        let balancer = Balancer::new(seed);
        let sum = weights.iter().map(|weight| u32::from(*weight)).sum::<u32>();
        let shares = count((0..sum).map(|_| pick(&balancer, &route, client(1), NOW, &[]).unwrap()));
        for endpoint in &all {
            prop_assert_eq!(shares.get(&endpoint.addr), Some(&usize::from(endpoint.weight)));
        }
    }

    #[test]
    fn what_was_tried_is_never_picked_and_everything_is_tried_once(
        weights in prop::collection::vec(1..50_u16, 1..20),
        affinity: bool,
        seed: u64,
        n in 0..10_000_u32,
    ) {
        let route = port(endpoints(&weights), affinity.then_some(TIMEOUT));
        let balancer = Balancer::new(seed);
        let mut tried = Vec::new();
        while let Some(endpoint) = pick(&balancer, &route, client(n), NOW, &tried) {
            prop_assert!(!tried.contains(&endpoint.addr));
            tried.push(endpoint.addr);
        }
        prop_assert_eq!(tried.len(), weights.len());
    }
}
