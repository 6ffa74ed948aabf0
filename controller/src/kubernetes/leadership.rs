//! What this process knows of who leads.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::election::WRITES;
use crate::feed::lock;

/// How old the knowledge of who leads may be: five tries of the election.
const LATELY: Duration = Duration::from_secs(10);

/// Whether this process leads, or follows one that does. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Arc<Mutex<Knowledge>>);

#[derive(Debug, Default)]
struct Knowledge {
    /// While this process leads: when it sent the last renewal that succeeded.
    renewed: Option<Moment>,
    /// When the Lease was last seen to be held by another process.
    followed: Option<Moment>,
    /// Which rights this process lacks to take over, as far as it has asked.
    unfit: Option<String>,
    /// When it was last found to lack none.
    fit: Option<Moment>,
    /// What went wrong with the last try.
    fault: Option<String>,
    /// The Lease must not be given back: this process does not wait for writes that are on their
    /// way.
    must_expire: bool,
}

/// A moment by two clocks. `CLOCK_MONOTONIC` stops while a machine is suspended, `CLOCK_BOOTTIME`
/// goes on. Neither can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    monotonic: Instant,
    since_boot: Duration,
}

impl Moment {
    /// Now.
    pub(super) fn now() -> Self {
        let since_boot = clock_gettime(ClockId::Boottime);
        Self {
            monotonic: Instant::now(),
            since_boot: Duration::new(
                since_boot.tv_sec.unsigned_abs(),
                u32::try_from(since_boot.tv_nsec).unwrap_or_default(),
            ),
        }
    }

    /// By the usual clock.
    pub(super) fn instant(self) -> Instant {
        self.monotonic
    }

    /// Less than this before `now`, by both clocks.
    fn is_within(self, patience: Duration, now: Self) -> bool {
        now.monotonic.saturating_duration_since(self.monotonic) < patience
            && now.since_boot.saturating_sub(self.since_boot) < patience
    }
}

impl Leadership {
    /// Whether a write may begin now.
    pub fn holds(&self) -> bool {
        self.renewed_within(WRITES)
    }

    /// Whether this process leads and the API server has renewed its Lease since.
    pub(super) fn renewed_within(&self, patience: Duration) -> bool {
        self.was_renewed_within(patience, Moment::now())
    }

    fn was_renewed_within(&self, patience: Duration, now: Moment) -> bool {
        let renewed = lock(&self.0).renewed;
        renewed.is_some_and(|renewed| renewed.is_within(patience, now))
    }

    /// This process leads, by a renewal that it sent at this moment. Nothing: it does not lead.
    pub(super) fn set(&self, renewed: Option<Moment>) {
        lock(&self.0).renewed = renewed;
    }

    /// Another holds the Lease.
    pub(super) fn follows(&self, asked: Moment) {
        lock(&self.0).followed = Some(asked);
    }

    /// How the last try ended.
    pub(super) fn tried(&self, fault: Option<String>) {
        lock(&self.0).fault = fault;
    }

    /// Which rights this process lacks to take over; nothing: none.
    pub(super) fn asked_rights(&self, unfit: Option<String>) {
        let mut knowledge = lock(&self.0);
        knowledge.fit = unfit.is_none().then(Moment::now);
        knowledge.unfit = unfit;
    }

    /// Why this process neither leads nor could take over from one that leads: a sentence for
    /// `/readyz`. Silence of the API server is no sign that all is well.
    pub fn missing(&self) -> Option<String> {
        let now = Moment::now();
        if self.was_renewed_within(WRITES, now) {
            return None;
        }
        let knowledge = lock(&self.0);
        let fault = knowledge.fault.as_ref();
        let is_lately = |moment: Option<Moment>| moment.is_some_and(|it| it.is_within(LATELY, now));
        if !is_lately(knowledge.followed) {
            let why = fault.map_or_else(String::new, |fault| format!(": {fault}"));
            return Some(format!(
                "this controller does not lead, and has not seen lately that another does{why}"
            ));
        }
        if let Some(unfit) = &knowledge.unfit {
            return Some(format!(
                "another controller leads, and this one could not: {unfit}"
            ));
        }
        knowledge.fit.is_none().then(|| {
            "another controller leads, and this one does not know yet whether it could".to_owned()
        })
    }

    /// The Lease is not given back but runs out: writes are on their way that nobody waits for, and
    /// they have to end before another controller begins.
    pub fn let_expire(&self) {
        lock(&self.0).must_expire = true;
    }

    pub(super) fn must_expire(&self) -> bool {
        lock(&self.0).must_expire
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(moment: Moment, awake: Duration, asleep: Duration) -> Moment {
        Moment {
            monotonic: moment.monotonic + awake,
            since_boot: moment.since_boot + awake + asleep,
        }
    }

    #[test]
    fn a_leader_that_slept_does_not_lead_when_it_wakes() {
        let (leadership, now) = (Leadership::default(), Moment::now());
        leadership.set(Some(now));
        let second = Duration::from_secs(1);
        for (awake, asleep, leads) in [(5, 0, true), (10, 0, false), (1, 8, true), (1, 9, false)] {
            let then = after(now, second * awake, second * asleep);
            let said = leadership.was_renewed_within(WRITES, then);
            assert_eq!(said, leads, "{awake} s awake, {asleep} s asleep");
        }
    }

    #[test]
    fn who_does_not_lead_is_ready_only_on_evidence() {
        let leadership = Leadership::default();
        let says = |words: &str| {
            let missing = leadership.missing();
            assert!(
                missing.as_ref().is_some_and(|it| it.contains(words)),
                "{missing:?}"
            );
        };
        says("has not seen lately that another does");
        leadership.tried(Some("leases is forbidden".to_owned()));
        says("leases is forbidden");
        leadership.follows(Moment::now());
        says("does not know yet whether it could");
        leadership.asked_rights(Some("it may not patch services".to_owned()));
        says("could not: it may not patch services");
        leadership.asked_rights(None);
        assert_eq!(leadership.missing(), None);
        // What was seen of another leader is long ago.
        lock(&leadership.0).followed = None;
        says("has not seen lately");
        leadership.set(Some(Moment::now()));
        assert_eq!(leadership.missing(), None);
    }
}
