#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::plausible::is_plausible;
use crate::testing::{client, endpoint, endpoints, ip};

/// Clients of a statistical test.
const CLIENTS: u32 = 10_000;

#[test]
fn the_hash_is_fixed_for_all_time() {
    // Another value here moves clients between gateways of different versions: never adapt these.
    for (from, to, golden) in [
        ("198.51.100.7", "10.0.0.1:8080", GOLDEN[0]),
        ("198.51.100.7", "10.0.0.1:8081", GOLDEN[1]),
        ("198.51.100.8", "10.0.0.1:8080", GOLDEN[2]),
        ("2001:db8::7", "10.0.0.1:8080", GOLDEN[3]),
        ("2001:db8::7", "[2001:db8:1::1]:443", GOLDEN[4]),
    ] {
        assert_eq!(hash(ip(from), endpoint(to)), golden, "{from} {to}");
    }
}

/// From an implementation of SipHash-2-4 and of the layout apart from this one.
const GOLDEN: [u64; 5] = [
    0x8f06_c978_2e89_96b4,
    0xf0a9_5f5a_f901_d5bb,
    0x2a27_1256_da21_9067,
    0x91a6_03c2_7162_b8d2,
    0x8252_f7cc_d609_9664,
];

#[test]
fn the_hash_of_a_flow_is_fixed_for_all_time() {
    for (from, to, golden) in [
        ("198.51.100.7:40000", "10.0.0.1:53", 0xdf6f_0623_2f5b_b96a),
        ("198.51.100.7:40001", "10.0.0.1:53", 0xfd03_c356_0876_b296),
        (
            "[2001:db8::7]:5353",
            "[2001:db8:1::1]:443",
            0xd8f3_9c0d_2ff5_2a6d,
        ),
    ] {
        let hash = endpoint_hash(&flow_hasher(from.parse().unwrap()), endpoint(to));
        assert_eq!(hash, golden, "{from} {to}");
    }
}

#[test]
fn the_flows_of_one_client_spread_over_the_endpoints() {
    let all = endpoints(&[1, 2, 3, 4]);
    let mut counts = BTreeMap::<_, u64>::new();
    for port in 20_000..30_000 {
        let from = SocketAddr::new(client(1), port);
        *counts
            .entry(best_for_flow(from, &all).unwrap().addr)
            .or_default() += 1;
    }
    let counts: Vec<u64> = counts.into_values().collect();
    let expected = [1_000.0, 2_000.0, 3_000.0, 4_000.0];
    assert!(is_plausible(&counts, &expected), "{counts:?}");
}

#[test]
fn an_ipv4_client_is_the_same_however_it_is_written() {
    let to = endpoint("10.0.0.1:8080");
    assert_eq!(
        hash(ip("198.51.100.7"), to),
        hash(ip("::ffff:198.51.100.7"), to)
    );
}

#[test]
fn a_flow_has_one_endpoint_however_its_addresses_are_written() {
    let all = [
        "10.0.0.1:53",
        "10.0.0.2:53",
        "10.0.0.3:53",
        "[2001:db8:1::1]:53",
    ]
    .map(endpoint);
    let hashes = |from: SocketAddr| all.map(|to| endpoint_hash(&flow_hasher(from), to));
    let written = |from: &str| hashes(from.parse().unwrap());
    assert_eq!(
        written("198.51.100.7:40000"),
        written("[::ffff:198.51.100.7]:40000")
    );
    // A zone is a number that an interface has on this host, until the next start.
    assert_eq!(written("[fe80::7]:40000"), written("[fe80::7%3]:40000"));
    let labelled = std::net::SocketAddrV6::new("fe80::7".parse().unwrap(), 40_000, 9, 2);
    assert_eq!(hashes(labelled.into()), written("[fe80::7]:40000"));
    for (plain, mapped) in [
        ("10.0.0.1:53", "[::ffff:10.0.0.1]:53"),
        ("[fe80::1]:53", "[fe80::1%2]:53"),
    ] {
        let hasher = flow_hasher("198.51.100.7:40000".parse().unwrap());
        let hash = |to| endpoint_hash(&hasher, endpoint(to));
        assert_eq!(hash(plain), hash(mapped));
    }
    assert_ne!(written("198.51.100.7:40000"), written("198.51.100.7:40001"));
}

#[test]
fn the_ranking_is_fixed_for_all_time() {
    let all = endpoints(&[1, 2, 3, 4, 20]);
    let ranks = |n: u32| -> Vec<u8> {
        let order = ranking(client(n), &all);
        order
            .iter()
            .map(|endpoint| match endpoint.addr.0.ip() {
                IpAddr::V4(v4) => v4.octets()[3],
                IpAddr::V6(_) => panic!("there is none"),
            })
            .collect()
    };
    assert_eq!([1, 2, 3, 400].map(ranks), GOLDEN_RANKS);
}

/// Likewise, with the logarithm of a C library.
const GOLDEN_RANKS: [[u8; 5]; 4] = [
    [4, 2, 0, 3, 1],
    [4, 1, 3, 2, 0],
    [4, 1, 2, 3, 0],
    [4, 3, 2, 1, 0],
];

#[test]
fn the_logarithm_is_exact_to_fifteen_digits() {
    let mut hash = 1_u64;
    for n in 0..20_000_u64 {
        // All magnitudes, and both ends.
        hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(n);
        for x in [
            hash >> (n % 64),
            u64::MAX - (hash >> (n % 64)),
            u64::MAX,
            0,
            1 << (n % 64),
        ] {
            let exact = -(((x | 1) as f64) / 2_f64.powi(64)).log2();
            let ours = minus_log2(x) as f64 / 2_f64.powi(FRACTION as i32);
            assert!(
                (ours - exact).abs() < 1e-13,
                "{x:#x}: {ours} and not {exact}"
            );
        }
    }
}

#[test]
fn the_logarithm_falls_as_the_hash_grows() {
    let mut samples: Vec<u64> = (0..50_000_u64)
        .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .collect();
    samples.sort_unstable();
    for pair in samples.windows(2) {
        assert!(minus_log2(pair[0]) > minus_log2(pair[1]), "{pair:x?}");
    }
}

#[test]
fn clients_spread_by_weight_over_any_number_of_endpoints() {
    for count in 1..=50_u16 {
        for weights in [vec![1; count as usize], (1..=count).collect::<Vec<_>>()] {
            let all = endpoints(&weights);
            let counts = shares(&all);
            let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let expected: Vec<_> = weights
                .iter()
                .map(|weight| f64::from(CLIENTS) * f64::from(*weight) / sum)
                .collect();
            assert!(is_plausible(&counts, &expected), "{weights:?}: {counts:?}");
        }
    }
}

#[test]
fn an_endpoint_that_leaves_moves_only_its_own_clients() {
    for count in [2, 5, 50] {
        let before = endpoints(&weights(count));
        for gone in [0, count / 2, count - 1] {
            let mut after = before.clone();
            let gone = after.remove(gone);
            for n in 0..CLIENTS {
                let was = best(client(n), &before).unwrap();
                let is = best(client(n), &after).unwrap();
                assert!(
                    was == is || *was == gone,
                    "client {n} moved from {was:?} to {is:?}"
                );
            }
        }
    }
}

#[test]
fn an_endpoint_that_joins_takes_its_share_and_moves_nobody_else() {
    for count in 1..=50 {
        let after = endpoints(&vec![1; count + 1]);
        let before = &after[..count];
        let joined = &after[count];
        let mut moved = 0_u64;
        for n in 0..CLIENTS {
            let was = best(client(n), before).unwrap();
            let is = best(client(n), &after).unwrap();
            if was != is {
                assert_eq!(is, joined, "client {n}");
                moved += 1;
            }
        }
        let share = f64::from(CLIENTS) / (count as f64 + 1.0);
        let rest = f64::from(CLIENTS) - share;
        let stayed = u64::from(CLIENTS) - moved;
        assert!(
            is_plausible(&[moved, stayed], &[share, rest]),
            "{moved} of {share} with {count}"
        );
    }
}

#[test]
fn a_weight_that_changes_moves_clients_to_or_from_its_endpoint_alone() {
    let before = endpoints(&[4; 10]);
    for weight in [1, 2, 3, 5, 8] {
        let mut after = before.clone();
        after[3].weight = weight;
        let mut moved = 0_u64;
        for n in 0..CLIENTS {
            let was = best(client(n), &before).unwrap().addr;
            let is = best(client(n), &after).unwrap().addr;
            if was != is {
                let touched = if weight > 4 { is } else { was };
                assert_eq!(touched, before[3].addr, "client {n}");
                moved += 1;
            }
        }
        let share = |weight: u16| f64::from(weight) / f64::from(36 + weight);
        let wanted = f64::from(CLIENTS) * (share(weight) - share(4)).abs();
        let stayed = u64::from(CLIENTS) - moved;
        let rest = f64::from(CLIENTS) - wanted;
        assert!(
            is_plausible(&[moved, stayed], &[wanted, rest]),
            "{moved} of {wanted} with weight {weight}"
        );
    }
}

proptest! {
    #[test]
    fn the_choice_is_free_of_order(weights in prop::collection::vec(1..100_u16, 1..30), n: u32, turn in 0..30_usize) {
        let all = endpoints(&weights);
        let mut turned = all.clone();
        turned.rotate_left(turn % all.len());
        prop_assert_eq!(best(client(n & 0xffff), &all), best(client(n & 0xffff), &turned));
    }

    #[test]
    fn the_ranking_begins_with_the_best_and_goes_on_with_the_best_of_the_rest(
        weights in prop::collection::vec(1..100_u16, 1..30),
        n in 0..100_000_u32,
    ) {
        let all = endpoints(&weights);
        let ranked = ranking(client(n), &all);
        for taken in 0..all.len() {
            let rest = all.iter().filter(|endpoint| !ranked[..taken].contains(endpoint));
            prop_assert_eq!(best(client(n), rest), Some(ranked[taken]));
        }
    }
}

fn weights(count: usize) -> Vec<u16> {
    (0..count).map(|n| 1 + (n % 5) as u16).collect()
}

fn shares(all: &[Endpoint]) -> Vec<u64> {
    let mut counts: BTreeMap<_, u64> = all.iter().map(|endpoint| (endpoint.addr, 0)).collect();
    for n in 0..CLIENTS {
        *counts.get_mut(&best(client(n), all).unwrap().addr).unwrap() += 1;
    }
    counts.into_values().collect()
}
