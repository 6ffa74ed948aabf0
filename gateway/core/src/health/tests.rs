#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

const REFUSED: HealthFailure = dial(DialFailure::Refused);
const TIMEOUT: HealthFailure = dial(DialFailure::Timeout);

const fn dial(why: DialFailure) -> HealthFailure {
    HealthFailure::Dial { why, alive: false }
}

fn is_ejected(it: &HealthHistory) -> bool {
    it.ejection().is_some()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

#[test]
fn what_ejects_and_what_does_not() {
    let connected = Ok(HealthSuccess::Connected);
    let first_byte = Ok(HealthSuccess::FirstByte);
    let (refused, reset) = (Err(REFUSED), Err(HealthFailure::Reset));
    let lost = Err(HealthFailure::Dial {
        why: DialFailure::Timeout,
        alive: true,
    });
    let silent = Err(dial(DialFailure::Silent));
    let forgotten = Err(HealthFailure::Dial {
        why: DialFailure::Silent,
        alive: true,
    });
    let datagram = Err(HealthFailure::Datagram(DialFailure::Refused));
    let exhausted = Err(dial(DialFailure::Exhausted));
    for (what, events, expected) in [
        ("one time-out", vec![Err(TIMEOUT)], true),
        ("a packet that is lost twice", vec![lost], false),
        ("three times", vec![lost; 3], true),
        ("silence on an open connection", vec![silent], true),
        ("a connection that is forgotten", vec![forgotten; 2], false),
        ("two refusals", vec![refused; 2], false),
        ("three refusals", vec![refused; 3], true),
        ("three datagrams that are refused", vec![datagram; 3], true),
        ("what this process lacks", vec![exhausted; 100], false),
        ("four resets", vec![reset; 4], false),
        ("five resets", vec![reset; 5], true),
        (
            "resets of accepted connections",
            [connected, reset].repeat(5),
            true,
        ),
        (
            "an answer among resets",
            [vec![reset; 4], vec![first_byte], vec![reset; 4]].concat(),
            false,
        ),
        (
            "every third is refused",
            [connected, connected, refused].repeat(50),
            false,
        ),
        (
            "every second is refused",
            [connected, refused].repeat(10),
            true,
        ),
    ] {
        let mut it = HealthHistory::default();
        let mut found = false;
        for (n, event) in events.into_iter().enumerate() {
            let now = Tick(1000 + 10 * n as u64);
            match event {
                Ok(success) => it.worked(success, now),
                Err(failure) => it.failed(failure, now),
            };
            found |= is_ejected(&it);
        }
        assert_eq!(found, expected, "{what}");
    }
}

#[test]
fn failures_far_from_each_other_do_not_eject() {
    let mut it = HealthHistory::default();
    for n in 0..100 {
        it.failed(REFUSED, Tick(n * (millis(WINDOW) + 1)));
        assert!(!is_ejected(&it));
    }
    // They are in a row, and people are told so.
    assert_eq!(it.run().unwrap().count, 100);
}

#[test]
fn it_is_tried_by_one_at_a_time_after_a_wait_that_doubles() {
    for (why, waits) in [
        (DialFailure::Timeout, [2, 4, 8, 16, 32, 60, 60]),
        (DialFailure::Refused, [2, 4, 5, 5, 5, 5, 5]),
    ] {
        let mut it = HealthHistory::default();
        let mut now = Tick(7_000);
        for _ in 0..3 {
            it.failed(dial(why), now);
        }
        for wait in waits {
            assert!(
                !it.claim_trial(Tick(now.0 + wait * 1000 - 1)),
                "{why} {wait}"
            );
            now = Tick(now.0 + wait * 1000);
            assert_eq!(it.next_claim(), Some(now));
            assert!(it.claim_trial(now), "{why} {wait}");
            assert!(!it.claim_trial(now), "one at a time");
            assert!(!it.failed(dial(why), now), "nothing new");
        }
        let wait = waits[6] * 1000;
        now = Tick(now.0 + wait);
        assert!(it.claim_trial(now));
        assert!(it.worked(HealthSuccess::Connected, now));
        assert_eq!(it.verdict(), HealthVerdict::Healthy);
        assert!(it.is_clean());
        assert!(it.claim_trial(now), "who asks late may have it");
        // Again at once: twice the first wait.
        for _ in 0..3 {
            it.failed(dial(why), now);
        }
        assert_eq!(it.ejection().unwrap().wait, Duration::from_secs(4));
    }
}

#[test]
fn a_trial_that_nobody_ends_is_over_after_a_while() {
    // The client went away while the endpoint was dialled.
    let mut it = HealthHistory::default();
    it.failed(TIMEOUT, Tick(0));
    assert!(it.claim_trial(Tick(2_000)));
    assert!(!it.claim_trial(Tick(11_999)));
    assert!(it.claim_trial(Tick(12_000)));
    assert!(is_ejected(&it), "nothing is known of it");
    // A server that does not speak, and did not reset the connection either.
    let mut it = HealthHistory::default();
    for _ in 0..RESETS {
        it.failed(HealthFailure::Reset, Tick(0));
    }
    assert!(it.claim_trial(Tick(2_000)));
    it.worked(HealthSuccess::Connected, Tick(2_001));
    assert!(is_ejected(&it), "it had accepted those that it reset, too");
    assert!(it.claim_trial(Tick(12_000)));
    assert!(!is_ejected(&it));
}

#[test]
fn each_ejection_is_ended_by_what_shows_that_its_cause_is_over() {
    use HealthSuccess::{Answer, Connected, FirstByte};
    let datagram = HealthFailure::Datagram(DialFailure::Refused);
    for (failure, success, ends) in [
        (REFUSED, Connected, true),
        (REFUSED, Answer, true),
        // An old connection may go on where no new one is accepted.
        (REFUSED, FirstByte, false),
        (HealthFailure::Reset, Connected, false),
        (HealthFailure::Reset, FirstByte, true),
        (HealthFailure::Reset, Answer, true),
        (datagram, Answer, true),
    ] {
        let mut it = HealthHistory::default();
        for _ in 0..RESETS {
            it.failed(failure, Tick(0));
        }
        assert_eq!(it.worked(success, Tick(1)), ends, "{failure:?} {success:?}");
        assert_eq!(!is_ejected(&it), ends, "{failure:?} {success:?}");
    }
}

#[test]
fn what_an_early_dial_finds_late_does_not_make_the_wait_longer() {
    let mut it = HealthHistory::default();
    it.failed(TIMEOUT, Tick(1_500));
    for now in 1_501..1_600 {
        it.failed(TIMEOUT, Tick(now));
    }
    assert_eq!(it.ejection().unwrap().next_trial, Tick(3_500));
}

#[test]
fn an_ejection_long_ago_is_forgotten() {
    let mut it = HealthHistory::default();
    it.failed(TIMEOUT, Tick(0));
    it.worked(HealthSuccess::Connected, Tick(5_000));
    it.failed(TIMEOUT, Tick(5_000 + millis(REMEMBERED) + 1));
    assert_eq!(it.ejection().unwrap().wait, FIRST_WAIT);
}

#[test]
fn three_failed_dials_make_an_endpoint_unreachable_and_one_that_works_ends_it() {
    let mut it = HealthHistory::default();
    let unreachable =
        |it: &HealthHistory, now| it.run().is_some_and(|it| it.is_unreachable(Tick(now)));
    it.failed(REFUSED, Tick(10));
    it.failed(TIMEOUT, Tick(20));
    assert!(!unreachable(&it, 20));
    assert!(it.failed(REFUSED, Tick(30)), "it is news");
    assert!(!it.failed(REFUSED, Tick(40)), "and only once");
    let run = it.run().unwrap();
    assert_eq!((run.count, run.since, run.last), (4, Tick(10), Tick(40)));
    assert_eq!(run.why, DialFailure::Refused);
    assert!(unreachable(&it, 40 + millis(LAPSE)));
    assert!(
        !unreachable(&it, 41 + millis(LAPSE)),
        "nobody has tried for long"
    );
    assert!(
        it.worked(HealthSuccess::Connected, Tick(50)),
        "that it is over is news"
    );
    assert!(!it.worked(HealthSuccess::Connected, Tick(50)));
    assert_eq!(it.run(), None);
}

#[test]
fn one_that_resets_is_left_alone_and_is_not_unreachable() {
    let mut it = HealthHistory::default();
    for now in 0..100 {
        it.failed(HealthFailure::Reset, Tick(now));
        assert!(!it.run().unwrap().is_unreachable(Tick(now)));
    }
    assert!(is_ejected(&it));
}

#[test]
fn a_check_that_fails_counts_before_traffic_and_there_is_no_trial() {
    let mut it = HealthHistory::default();
    let failing = CheckVerdict::Failing {
        since: Tick(1),
        why: "got status 503".into(),
    };
    assert!(it.set_checked(Some(failing.clone()), Tick(1)));
    assert!(!it.set_checked(Some(failing.clone()), Tick(2)));
    assert_eq!(it.verdict(), HealthVerdict::FailsChecks);
    assert!(!it.claim_trial(Tick(100_000)));
    it.forget();
    assert_eq!(
        it.verdict(),
        HealthVerdict::FailsChecks,
        "who checks it takes that back"
    );
    assert!(it.set_checked(Some(CheckVerdict::Passing), Tick(3)));
    assert_eq!(it.verdict(), HealthVerdict::Healthy);
    assert_eq!(it.returned(), Some(Tick(3)));
}

#[test]
fn probes_that_pass_end_an_ejection_as_soon_as_enough_have_since_the_last_failure() {
    let silent = HealthFailure::Dial {
        why: DialFailure::Timeout,
        alive: false,
    };
    // p: a probe that connects; a: one that is answered; -: one that fails; x: traffic fails.
    for (failure, outcomes, back) in [
        (silent, "p", false),
        (silent, "pp", true),
        (silent, "p-p", false),
        (silent, "p-pp", true),
        (silent, "pxp", false),
        (silent, "pxpp", true),
        (silent, "aa", true),
        // Whether it resets what it accepts, only an answer shows.
        (HealthFailure::Reset, "pppp", false),
        (HealthFailure::Reset, "aa", true),
    ] {
        let mut it = HealthHistory::default();
        for _ in 0..RESETS {
            it.failed(failure, Tick(1));
        }
        assert!(is_ejected(&it));
        for (at, outcome) in outcomes.chars().enumerate() {
            let now = Tick(2 + at as u64);
            match outcome {
                'p' => drop(it.probed(Some(HealthSuccess::Connected), 2, now)),
                'a' => drop(it.probed(Some(HealthSuccess::Answer), 2, now)),
                'x' => drop(it.failed(failure, now)),
                _ => drop(it.probed(None, 2, now)),
            }
        }
        assert_eq!(!is_ejected(&it), back, "{failure:?} {outcomes}");
        assert_eq!(it.run().is_none(), back, "{failure:?} {outcomes}");
    }
}
