#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::testing::{IdleEndpoint, endpoints, sorted_out};

fn ejected_at(since: u64, is_slow: bool) -> HealthVerdict {
    HealthVerdict::Ejected {
        since: Tick(since),
        is_slow,
    }
}

/// Which endpoints are out, by their place in the list.
fn out(verdicts: &[HealthVerdict]) -> Vec<usize> {
    let all = endpoints(&vec![1; verdicts.len()]);
    let available = sorted_out(&all, |n| verdicts[n]);
    let places = available.out.iter().map(|it| {
        let place = all.iter().position(|endpoint| *endpoint == it.endpoint);
        place.unwrap()
    });
    places.collect()
}

#[test]
fn half_of_them_may_be_out_and_never_the_last() {
    for (endpoints, most) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (100, 50)] {
        assert_eq!(most_out(endpoints), most, "{endpoints}");
    }
}

#[test]
fn those_that_cost_time_go_first_and_then_those_that_failed_first() {
    use HealthVerdict::{FailsChecks, Healthy};
    let (slow, refusing) = (|at| ejected_at(at, true), |at| ejected_at(at, false));
    for (verdicts, expected) in [
        (vec![Healthy, Healthy], vec![]),
        (vec![slow(1)], vec![]),
        (vec![Healthy, refusing(1)], vec![1]),
        (vec![slow(2), slow(1)], vec![1]),
        (vec![refusing(1), slow(2)], vec![1]),
        (vec![refusing(1), slow(2), slow(3), Healthy], vec![1, 2]),
        // A check is believed of any number, but not of all.
        (
            vec![FailsChecks, FailsChecks, FailsChecks, Healthy],
            vec![0, 1, 2],
        ),
        (vec![FailsChecks, FailsChecks], vec![]),
        (vec![FailsChecks], vec![]),
        // Half of those that pass, and not the last of them.
        (vec![FailsChecks, slow(1), Healthy], vec![0, 1]),
        (vec![FailsChecks, FailsChecks, slow(1)], vec![0, 1]),
        (vec![FailsChecks, slow(1), slow(2)], vec![0, 1]),
    ] {
        assert_eq!(out(&verdicts), expected, "{verdicts:?}");
    }
}

#[test]
fn that_the_checks_are_ignored_is_known() {
    let all = endpoints(&[1; 2]);
    assert!(sorted_out(&all, |_| HealthVerdict::FailsChecks).ignores_checks);
    assert!(!sorted_out(&all, |_| HealthVerdict::Healthy).ignores_checks);
    assert!(!sorted_out(&[], |_| HealthVerdict::FailsChecks).ignores_checks);
}

fn verdicts() -> impl Strategy<Value = Vec<HealthVerdict>> {
    let verdict = prop_oneof![
        2 => Just(HealthVerdict::Healthy),
        3 => (0..5_u64, any::<bool>()).prop_map(|(since, is_slow)| ejected_at(since, is_slow)),
        1 => Just(HealthVerdict::FailsChecks),
    ];
    prop::collection::vec(verdict, 0..20)
}

proptest! {
    #[test]
    fn whatever_is_known_of_them(verdicts in verdicts()) {
        let all = endpoints(&vec![1; verdicts.len()]);
        let available: Available<IdleEndpoint> = sorted_out(&all, |n| verdicts[n]);
        // Each is somewhere, once, in order, and is found.
        let addresses: BTreeSet<_> = available.all().map(|it| it.endpoint.addr).collect();
        prop_assert_eq!(addresses.len(), all.len());
        prop_assert_eq!(available.all().count(), all.len());
        for list in [&available.endpoints, &available.out] {
            prop_assert!(list.is_sorted_by_key(|it| it.endpoint.addr));
        }
        for endpoint in &all {
            prop_assert_eq!(&available.find(endpoint.addr).unwrap().endpoint, endpoint);
            let is_out = available.out.iter().any(|it| it.endpoint == *endpoint);
            prop_assert_eq!(available.is_out(endpoint.addr), is_out);
        }
        // Never the last one, and never more than the part.
        prop_assert!(available.endpoints.is_empty() == all.is_empty());
        let healthy = |it: &AvailableEndpoint<_>| it.verdict == HealthVerdict::Healthy;
        prop_assert!(!available.out.iter().any(healthy));
        let fails = |it: &&AvailableEndpoint<_>| it.verdict == HealthVerdict::FailsChecks;
        let by_traffic = available.out.iter().filter(|it| !fails(it)).count();
        let passing = available.all().filter(|it| !fails(it)).count();
        prop_assert!(by_traffic <= most_out(passing));
        // As many as may be: one that fails is in only where half of them are out.
        let doubtful = available.endpoints.iter().filter(|it| !healthy(it) && !fails(it)).count();
        prop_assert!(doubtful == 0 || by_traffic == most_out(passing));
    }
}
