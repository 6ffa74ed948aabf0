#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::testing::{endpoints, healthy};

fn patience(attempts: &Attempts, is_doubtful: bool, is_last: bool) -> Patience {
    let available = healthy(&endpoints(&[1]));
    attempts.patience(&Picked {
        at: &available.endpoints[0],
        is_doubtful,
        is_last,
    })
}

fn addr(last: u8) -> EndpointAddr {
    EndpointAddr(([10, 0, 0, last], 80).into())
}

#[test]
fn the_last_one_has_all_the_time_and_one_that_failed_lately_little() {
    let mut attempts = Attempts::default();
    assert_eq!(patience(&attempts, false, false), Patience::WithOthers);
    assert_eq!(patience(&attempts, true, false), Patience::Doubtful);
    assert_eq!(patience(&attempts, false, true), Patience::Last);
    assert_eq!(patience(&attempts, true, true), Patience::Last);
    for last in 1..4 {
        attempts.failed(addr(last));
    }
    assert_eq!(
        patience(&attempts, true, false),
        Patience::Last,
        "the fourth is"
    );
}

#[test]
fn four_are_tried_in_ten_seconds() {
    let mut attempts = Attempts::default();
    for last in 0..4 {
        assert!(attempts.may_try(Tick(5_000)));
        attempts.failed(addr(last));
    }
    assert!(!attempts.may_try(Tick(5_000)));

    let mut slow = Attempts::default();
    assert!(slow.may_try(Tick(5_000)));
    assert!(slow.may_try(Tick(14_999)));
    assert!(!slow.may_try(Tick(15_000)));
}

#[test]
fn nobody_has_more_time_than_the_last_one() {
    let limit = Duration::from_millis(100);
    for patience in [Patience::Doubtful, Patience::WithOthers, Patience::Last] {
        assert_eq!(patience.duration(limit), limit);
        assert!(patience.duration(Duration::from_secs(5)) <= Duration::from_secs(5));
    }
    // A SYN that was lost is repeated after a second.
    assert!(Patience::WithOthers.duration(Duration::from_secs(5)) > Duration::from_secs(1));
}
