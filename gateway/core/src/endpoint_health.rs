//! The [health](crate::health) of one endpoint, shared by all workers.
//!
//! What works where nothing has failed only reads an atomic; once in `STEP` milliseconds it writes one. The lock is
//! taken where something has failed, and by who wants to show it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::dial_failure::DialFailure;
use crate::health::{
    CheckVerdict, Ejection, FailureRun, HealthFailure, HealthHistory, HealthSuccess, HealthVerdict,
};
use crate::route::Tick;

/// How exactly it is known when a connection was last accepted, or a request answered, in milliseconds.
const STEP: u64 = 100;

/// The health of one endpoint.
#[derive(Debug, Default)]
pub struct EndpointHealth {
    /// The history has something that a success may change.
    is_noted: AtomicBool,
    /// What its check says.
    fails_checks: AtomicBool,
    /// Before this no trial can be claimed.
    next_claim: AtomicU64,
    /// When it last accepted a connection.
    accepted: AtomicU64,
    /// When it last answered a request.
    answered: AtomicU64,
    /// When it was last found to fail, so that it was to be left alone.
    distrusted: AtomicU64,
    history: Mutex<HealthHistory>,
}

/// What is shown of the health of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownHealth {
    /// The failures since the last success.
    pub run: Option<FailureRun>,
    /// Since when it is to be left alone, and until when.
    pub ejection: Option<Ejection>,
    /// What its check says.
    pub checked: Option<CheckVerdict>,
}

impl EndpointHealth {
    /// A dial that began at `began` has failed. Returns whether that changes what is to be told or done.
    pub fn dial_failed(&self, why: DialFailure, began: Tick, now: Tick) -> bool {
        let alive = self.accepted.load(Ordering::Relaxed) > began.0;
        self.failed(HealthFailure::Dial { why, alive }, now)
    }

    /// Something else has failed. Returns whether that changes what is to be told or done.
    pub fn failed(&self, failure: HealthFailure, now: Tick) -> bool {
        self.change(|history| history.failed(failure, now))
    }

    /// The endpoint's machine has acknowledged nothing of a request that began at `began`. Returns whether that changes
    /// what is to be told or done.
    pub fn went_silent(&self, began: Tick, now: Tick) -> bool {
        let alive = self.answered.load(Ordering::Relaxed) > began.0;
        let why = DialFailure::Silent;
        self.failed(HealthFailure::Dial { why, alive }, now)
    }

    /// The endpoint has accepted a connection. Returns whether that changes what is to be told or done.
    pub fn connected(&self, now: Tick) -> bool {
        note(&self.accepted, now);
        self.worked(HealthSuccess::Connected, now)
    }

    /// The endpoint has answered a request or a datagram. Returns whether that changes what is to be told or done.
    pub fn answered(&self, now: Tick) -> bool {
        note(&self.answered, now);
        self.worked(HealthSuccess::Answer, now)
    }

    /// Something else has worked. Returns whether that changes what is to be told or done.
    pub fn worked(&self, success: HealthSuccess, now: Tick) -> bool {
        self.is_noted() && self.change(|history| history.worked(success, now))
    }

    /// Whether a success may change anything, so that it has to be told.
    pub fn is_noted(&self) -> bool {
        self.is_noted.load(Ordering::Relaxed)
    }

    /// A probe of the endpoint's own port has ended: what it has shown; none: it has failed. See
    /// [`HealthHistory::probed`].
    pub fn probed(&self, shown: Option<HealthSuccess>, rise: u16, now: Tick) -> bool {
        self.is_noted() && self.change(|history| history.probed(shown, rise, now))
    }

    /// Notes what a check says; none: no check is made. Returns whether that changes what is to be told or done.
    pub fn set_checked(&self, verdict: Option<CheckVerdict>, now: Tick) -> bool {
        self.change(|history| history.set_checked(verdict, now))
    }

    /// Forgets all: the endpoint may be another server from now on.
    pub fn forget(&self) {
        if self.is_noted() {
            self.change(|history| {
                history.forget();
                true
            });
        }
    }

    /// All that is known of it, for another process.
    pub fn history(&self) -> HealthHistory {
        self.lock().clone()
    }

    /// Goes on with what another process knew, whose clock was this one's, too.
    pub fn go_on(&self, known: HealthHistory) {
        self.change(|history| {
            *history = known;
            true
        });
    }

    /// As [`HealthHistory::claim_trial`]. Takes no lock where it is too early.
    pub fn claim_trial(&self, now: Tick) -> bool {
        now.0 >= self.next_claim.load(Ordering::Relaxed)
            && self.change(|history| history.claim_trial(now))
    }

    /// What its history says of it.
    pub fn verdict(&self) -> HealthVerdict {
        self.lock().verdict()
    }

    /// Whether it fails its checks. Takes no lock.
    pub fn fails_checks(&self) -> bool {
        self.fails_checks.load(Ordering::Relaxed)
    }

    /// The failures since the last success.
    pub fn run(&self) -> Option<FailureRun> {
        self.is_noted().then(|| self.lock().run())?
    }

    /// All that is to be shown.
    pub fn shown(&self) -> ShownHealth {
        let history = self.lock();
        ShownHealth {
            run: history.run(),
            ejection: history.ejection(),
            checked: history.checked().cloned(),
        }
    }

    /// Connections that are older are not to be used again: it was found to fail then. The start of time where it never
    /// was. Takes no lock.
    pub fn trusted_since(&self) -> Tick {
        Tick(self.distrusted.load(Ordering::Relaxed))
    }

    /// When it came back after it had been left alone; none: it never was.
    pub fn returned(&self) -> Option<Tick> {
        self.lock().returned()
    }

    fn change(&self, change: impl FnOnce(&mut HealthHistory) -> bool) -> bool {
        let mut history = self.lock();
        let changed = change(&mut history);
        let next_claim = history.next_claim().unwrap_or_default();
        self.next_claim.store(next_claim.0, Ordering::Relaxed);
        if let Some(since) = history.distrusted() {
            self.distrusted.store(since.0, Ordering::Relaxed);
        }
        self.is_noted.store(!history.is_clean(), Ordering::Relaxed);
        let fails_checks = history.verdict() == HealthVerdict::FailsChecks;
        self.fails_checks.store(fails_checks, Ordering::Relaxed);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, HealthHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn note(last: &AtomicU64, now: Tick) {
    if now.0 >= last.load(Ordering::Relaxed) + STEP {
        last.store(now.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn of_many_threads_that_fail_at_once_one_has_the_news() {
        let it = EndpointHealth::default();
        let news = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let failed =
                            |_: &u64| it.dial_failed(DialFailure::Refused, Tick(0), Tick(1));
                        (0..100_u64).filter(failed).count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|it| it.join().unwrap())
                .sum::<usize>()
        });
        assert_eq!(news, 1, "the third ejects and makes it unreachable");
        assert_eq!(it.run().unwrap().count, 800);
    }

    #[test]
    fn of_many_threads_one_has_the_trial() {
        let it = EndpointHealth::default();
        assert!(it.dial_failed(DialFailure::Timeout, Tick(0), Tick(1500)));
        assert!(!it.claim_trial(Tick(2000)), "it waits");
        let claims = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| it.claim_trial(Tick(4000))))
                .collect();
            threads
                .into_iter()
                .map(|it| usize::from(it.join().unwrap()))
                .sum::<usize>()
        });
        assert_eq!(claims, 1);
        assert!(it.connected(Tick(4001)));
        assert_eq!(it.verdict(), HealthVerdict::Healthy);
        assert!(!it.is_noted());
    }

    #[test]
    fn an_endpoint_that_accepts_others_is_not_ejected_by_two_lost_packets() {
        let it = EndpointHealth::default();
        it.connected(Tick(1000));
        it.connected(Tick(2000));
        assert!(!it.dial_failed(DialFailure::Timeout, Tick(900), Tick(2400)));
        assert_eq!(it.verdict(), HealthVerdict::Healthy);
        assert!(it.dial_failed(DialFailure::Timeout, Tick(2400), Tick(3900)));
    }

    #[test]
    fn silence_ejects_where_no_other_request_was_answered() {
        let it = EndpointHealth::default();
        it.answered(Tick(1000));
        it.answered(Tick(4000));
        assert!(
            !it.went_silent(Tick(2000), Tick(6000)),
            "one connection was forgotten"
        );
        assert_eq!(it.trusted_since(), Tick(0));
        assert!(it.went_silent(Tick(4000), Tick(8000)));
        assert!(matches!(
            it.verdict(),
            HealthVerdict::Ejected { is_slow: true, .. }
        ));
    }

    #[test]
    fn connections_from_before_a_failure_are_not_used_again() {
        let it = EndpointHealth::default();
        assert!(it.went_silent(Tick(1000), Tick(5000)));
        assert_eq!(it.trusted_since(), Tick(5000));
        assert!(it.connected(Tick(9000)));
        assert_eq!(
            it.trusted_since(),
            Tick(5000),
            "it works again, and the old ones do not"
        );
        let why = "got status 503".into();
        let failing = CheckVerdict::Failing {
            since: Tick(11_000),
            why,
        };
        assert!(it.set_checked(Some(failing), Tick(11_000)));
        assert!(it.set_checked(Some(CheckVerdict::Passing), Tick(12_000)));
        assert_eq!(it.trusted_since(), Tick(11_000));
    }

    #[test]
    fn another_process_goes_on_with_what_is_known() {
        let (here, there) = (EndpointHealth::default(), EndpointHealth::default());
        assert!(here.dial_failed(DialFailure::Timeout, Tick(0), Tick(1500)));
        here.set_checked(Some(CheckVerdict::Passing), Tick(1600));
        there.go_on(here.history());
        assert_eq!(there.shown(), here.shown());
        assert!(there.is_noted());
        assert_eq!(there.trusted_since(), Tick(1500));
        assert!(!there.claim_trial(Tick(3000)), "it waits as before");
        assert!(there.claim_trial(Tick(3500)));
        there.go_on(HealthHistory::default());
        assert_eq!(there.verdict(), HealthVerdict::Healthy);
        assert!(!there.is_noted());
    }
}
