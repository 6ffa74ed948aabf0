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

/// How exactly it is known when a connection was last accepted, in milliseconds.
const STEP: u64 = 100;

/// The health of one endpoint.
#[derive(Debug, Default)]
pub struct EndpointHealth {
    /// The history has something that a success may change.
    is_noted: AtomicBool,
    /// Before this no trial can be claimed.
    next_claim: AtomicU64,
    /// When it last accepted a connection.
    accepted: AtomicU64,
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

    /// The endpoint has accepted a connection. Returns whether that changes what is to be told or done.
    pub fn connected(&self, now: Tick) -> bool {
        if now.0 >= self.accepted.load(Ordering::Relaxed) + STEP {
            self.accepted.store(now.0, Ordering::Relaxed);
        }
        self.worked(HealthSuccess::Connected, now)
    }

    /// Something else has worked. Returns whether that changes what is to be told or done.
    pub fn worked(&self, success: HealthSuccess, now: Tick) -> bool {
        self.is_noted() && self.change(|history| history.worked(success, now))
    }

    /// Whether a success may change anything, so that it has to be told.
    pub fn is_noted(&self) -> bool {
        self.is_noted.load(Ordering::Relaxed)
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

    /// As [`HealthHistory::claim_trial`]. Takes no lock where it is too early.
    pub fn claim_trial(&self, now: Tick) -> bool {
        now.0 >= self.next_claim.load(Ordering::Relaxed)
            && self.change(|history| history.claim_trial(now))
    }

    /// What its history says of it.
    pub fn verdict(&self) -> HealthVerdict {
        self.lock().verdict()
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

    /// When it came back after it had been left alone; none: it never was.
    pub fn returned(&self) -> Option<Tick> {
        self.lock().returned()
    }

    fn change(&self, change: impl FnOnce(&mut HealthHistory) -> bool) -> bool {
        let mut history = self.lock();
        let changed = change(&mut history);
        let next_claim = history.next_claim().unwrap_or_default();
        self.next_claim.store(next_claim.0, Ordering::Relaxed);
        self.is_noted.store(!history.is_clean(), Ordering::Relaxed);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, HealthHistory> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
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
}
