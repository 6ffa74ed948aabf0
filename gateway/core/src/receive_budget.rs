//! How much of a processor a thread may use for what it receives.
//!
//! Some threads run before all others of the machine, and receive what anybody on the network may send them. A flood
//! must not take the machine by way of them. So what they receive has a share of one processor, and a thread that has
//! used it up receives nothing for a moment: the kernel drops what does not fit into the buffer of the socket. All
//! else that the thread does goes on: it keeps its priority, and is in time with what others wait for.

use std::time::Duration;

use crate::fleet::BootTime;

/// The part of the time: one fifth.
const PART: u32 = 5;

/// A thread that was idle may use so much at once, in time that has to pass for it: 10 ms of a processor.
const BURST: Duration = Duration::from_millis(50);

/// A pause ends when no more than this is left of it: turns that are shorter cost more than they bring.
const RESUMES: Duration = Duration::from_millis(25);

/// So many pauses within [`SPAN`] are a flood: one or two are a burst.
const FLOOD: u32 = 10;
const SPAN: Duration = Duration::from_secs(1);

/// A flood that goes on is told of again after this time.
const AGAIN: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReceiveBudget {
    /// When the time has passed that is needed for all that was used.
    paid_at: BootTime,
    resumes_at: BootTime,
    span_began: BootTime,
    /// Pauses in that span.
    pauses: u32,
    told_at: Option<BootTime>,
}

/// What follows from what was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetStep {
    /// It may go on.
    GoesOn,
    /// It has to pause.
    Pauses {
        /// It pauses again and again, and people are to be told now.
        is_news: bool,
    },
}

impl ReceiveBudget {
    /// Whether something may be received now.
    pub fn may_receive(&self, now: BootTime) -> bool {
        now >= self.resumes_at
    }

    /// When something may be received again; nothing: now.
    pub fn resumes_at(&self, now: BootTime) -> Option<BootTime> {
        (now < self.resumes_at).then_some(self.resumes_at)
    }

    /// So much time of a processor was used.
    pub fn spend(&mut self, now: BootTime, used: Duration) -> BudgetStep {
        self.paid_at = self.paid_at.max(now).after(used.saturating_mul(PART));
        if self.paid_at.since(now) <= BURST {
            return BudgetStep::GoesOn;
        }
        self.resumes_at = self.paid_at.before(RESUMES);
        if now.since(self.span_began) >= SPAN {
            (self.span_began, self.pauses) = (now, 0);
        }
        self.pauses += 1;
        let was_told = self.told_at.is_some_and(|at| now.since(at) < AGAIN);
        let is_news = self.pauses >= FLOOD && !was_told;
        if is_news {
            self.told_at = Some(now);
        }
        BudgetStep::Pauses { is_news }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: BootTime = BootTime(Duration::from_secs(1_000));

    /// Receives as much as it may until `end`, each turn at the cost of `turn`. Returns what was used, the longest
    /// pause, and how often it is to be told.
    fn flooded(turn: Duration, end: Duration) -> (Duration, Duration, usize) {
        let mut budget = ReceiveBudget::default();
        let (mut now, mut used) = (START, Duration::ZERO);
        let (mut longest, mut told) = (Duration::ZERO, 0);
        while now < START.after(end) {
            if let Some(at) = budget.resumes_at(now) {
                longest = longest.max(at.since(now));
                now = at;
            }
            now = now.after(turn);
            used += turn;
            let step = budget.spend(now, turn);
            told += usize::from(step == BudgetStep::Pauses { is_news: true });
        }
        (used, longest, told)
    }

    proptest! {
        #[test]
        fn a_flood_gets_a_fifth_of_a_processor_in_short_pauses(micros in 10_u64..20_000) {
            let turn = Duration::from_micros(micros);
            let (used, longest, _) = flooded(turn, Duration::from_secs(10));
            let millis = used.as_millis();
            prop_assert!((1_800..=2_100).contains(&millis), "{millis} ms of 10 s");
            prop_assert!(longest <= BURST + turn * PART, "{longest:?}");
        }

        #[test]
        fn what_takes_less_than_its_part_never_waits(micros in 10_u64..9_000) {
            let mut budget = ReceiveBudget::default();
            let mut now = START;
            for _ in 0..1_000 {
                let used = Duration::from_micros(micros);
                now = now.after(used * PART);
                prop_assert_eq!(budget.spend(now, used), BudgetStep::GoesOn);
                prop_assert!(budget.may_receive(now));
            }
        }
    }

    #[test]
    fn a_flood_is_told_of_once_in_five_minutes_and_a_burst_never() {
        let turn = Duration::from_millis(1);
        assert_eq!(flooded(turn, Duration::from_millis(150)).2, 0);
        assert_eq!(flooded(turn, Duration::from_secs(299)).2, 1);
        assert_eq!(flooded(turn, Duration::from_secs(599)).2, 2);
    }

    #[test]
    fn who_was_frozen_hears_at_once_what_went_on() {
        let mut budget = ReceiveBudget::default();
        budget.spend(START, Duration::from_millis(100));
        assert!(!budget.may_receive(START.after(Duration::from_millis(400))));
        assert!(budget.may_receive(START.after(Duration::from_millis(500))));
    }
}
