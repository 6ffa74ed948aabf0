#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Barrier;

use proptest::prelude::*;

use super::*;
use crate::testing::{client, endpoints, port};

const TIMEOUT: Duration = Duration::from_secs(10);
const NOW: Tick = Tick(1_000_000);

type Shares = BTreeMap<EndpointAddr, usize>;

fn count<'a>(picks: impl IntoIterator<Item = &'a Endpoint>) -> Shares {
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
        assert_eq!(Balancer::new(1).pick(&route, client(1), NOW, &[]), None);
    }
}

#[test]
fn equal_weights_take_turns_in_order() {
    let all = endpoints(&[3, 3, 3]);
    let route = port(all.clone(), None);
    let balancer = Balancer::new(0);
    for turn in 0..9 {
        assert_eq!(
            balancer.pick(&route, client(1), NOW, &[]),
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
            let first = before.pick_for_flow(&route, from, NOW, &[]).unwrap();
            // Not in the same order, and others come in between.
            before.pick(&route, client(7_000 + u32::from(n)), NOW, &[]);
            assert_eq!(after.pick_for_flow(&route, from, NOW, &[]), Some(first));
            found.insert(first.addr);
            if affinity.is_none() {
                let next = after.pick_for_flow(&route, from, NOW, &[first.addr]);
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
        Balancer::new(seed)
            .pick(&route, client(1), NOW, &[])
            .unwrap()
            .addr
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
                            .map(|_| balancer.pick(&route, client(1), NOW, &[]).unwrap());
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
        let first = balancer.pick(&route, client(1), NOW, &[]).unwrap();
        if first.addr != dead {
            return first;
        }
        balancer.pick(&route, client(1), NOW, &[dead]).unwrap()
    });
    let shares = count(served);
    assert_eq!(shares.into_values().collect::<Vec<_>>(), [40, 40, 40]);
}

#[test]
fn heavy_endpoints_do_not_get_their_turns_in_a_row() {
    let route = port(endpoints(&[10, 10, 1]), None);
    let balancer = Balancer::new(0);
    let picks: Vec<_> = (0..21)
        .map(|_| balancer.pick(&route, client(1), NOW, &[]).unwrap().addr)
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
        .map(|client| balancer.pick(&few, *client, now, &[]).unwrap().addr)
        .collect();
    // Each connection counts the time anew.
    for _ in 0..3 {
        now = Tick(now.0 + 10_000);
        for (client, first) in clients.iter().zip(&first) {
            assert_eq!(
                balancer.pick(&many, *client, now, &[]).unwrap().addr,
                *first
            );
        }
    }
    now = Tick(now.0 + 10_001);
    let moved = clients.iter().zip(&first);
    let moved = moved.filter(|(client, first)| {
        balancer.pick(&many, **client, now, &[]).unwrap().addr != **first
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
        let was = before.pick(&route, client(n), NOW, &[]);
        assert_eq!(after.pick(&route, client(n), Tick(0), &[]), was);
    }
}

#[test]
fn a_client_whose_endpoint_failed_stays_with_the_one_that_worked() {
    let all = endpoints(&[1; 5]);
    let route = port(all.clone(), Some(TIMEOUT));
    let balancer = Balancer::new(1);
    let order = rank::ranking(client(1), &all);
    let mut tried = Vec::new();
    for expected in &order[..3] {
        let got = balancer.pick(&route, client(1), NOW, &tried).unwrap();
        assert_eq!(got, *expected);
        tried.push(got.addr);
    }
    assert_eq!(balancer.pick(&route, client(1), NOW, &[]), Some(order[2]));
}

#[test]
fn a_client_leaves_an_endpoint_that_is_not_eligible_any_more() {
    let all = endpoints(&[1; 5]);
    let route = port(all.clone(), Some(TIMEOUT));
    let balancer = Balancer::new(1);
    let first = balancer.pick(&route, client(1), NOW, &[]).unwrap().clone();
    let rest: Vec<_> = all
        .into_iter()
        .filter(|endpoint| *endpoint != first)
        .collect();
    let route = port(rest.clone(), Some(TIMEOUT));
    assert_eq!(
        balancer.pick(&route, client(1), NOW, &[]),
        rank::best(client(1), &rest)
    );
}

#[test]
fn a_balancer_that_nobody_uses_takes_next_to_nothing() {
    assert!(size_of::<Balancer>() <= 64, "{}", size_of::<Balancer>());
    let balancer = Balancer::new(1);
    balancer.pick(&port(endpoints(&[1]), None), client(1), NOW, &[]);
    assert_eq!(balancer.affinity_entries(), 0);
}

proptest! {
    #[test]
    fn shares_are_the_weights(weights in prop::collection::vec(1..50_u16, 1..20), seed: u64) {
        let all = endpoints(&weights);
        let route = port(all.clone(), None);
        let balancer = Balancer::new(seed);
        let sum = weights.iter().map(|weight| u32::from(*weight)).sum::<u32>();
        let shares = count((0..sum).map(|_| balancer.pick(&route, client(1), NOW, &[]).unwrap()));
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
        while let Some(endpoint) = balancer.pick(&route, client(n), NOW, &tried) {
            prop_assert!(!tried.contains(&endpoint.addr));
            tried.push(endpoint.addr);
        }
        prop_assert_eq!(tried.len(), weights.len());
    }
}
