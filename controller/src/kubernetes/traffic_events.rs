//! Which events about the traffic of a Service are told: each change of what is wrong, and that it is
//! over, at a bounded rate.
//!
//! A Service whose endpoints come and go every second has a new condition each time. People are told of
//! the first few changes, and then of one in [`REFILL`]. That all is well is told to who was told that it
//! is not.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_controller_core::events::Event;

/// So many events in a row about the traffic of one Service.
const BURST: u32 = 10;

/// After those, one more each time this has passed.
const REFILL: Duration = Duration::from_secs(30);

/// What is said already is said again after this time.
const SAME: Duration = Duration::from_secs(300);

/// So many Services are remembered. Of one that is forgotten it is not told that all is well again.
const REMEMBERED: usize = 32_768;

/// What was told last of each Service, by its UID.
#[derive(Debug, Default)]
pub(super) struct TrafficEvents {
    last: HashMap<Arc<str>, LastTold>,
    /// In the order in which they came.
    order: VecDeque<Arc<str>>,
}

#[derive(Debug)]
struct LastTold {
    event: Event,
    at: Instant,
    /// So many may follow at once, as of `refilled`.
    budget: u32,
    refilled: Instant,
}

impl TrafficEvents {
    /// Whether this event is to be told now; then it counts as told.
    pub(super) fn take(&mut self, uid: &Arc<str>, event: &Event, now: Instant) -> bool {
        let Some(last) = self.last.get_mut(uid) else {
            if event.is_warning {
                self.remember(uid, event, now);
            }
            return event.is_warning;
        };
        let is_same = last.event == *event;
        let is_old = now >= last.at + SAME;
        if is_same && !(is_old && event.is_warning) {
            return false;
        }
        let refills = now.duration_since(last.refilled).as_secs() / REFILL.as_secs();
        let refills = u32::try_from(refills).unwrap_or(BURST).min(BURST);
        if refills > 0 {
            last.budget = (last.budget + refills).min(BURST);
            last.refilled = now;
        }
        if last.budget == 0 {
            return false;
        }
        last.budget -= 1;
        last.event = event.clone();
        last.at = now;
        true
    }

    fn remember(&mut self, uid: &Arc<str>, event: &Event, now: Instant) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
        self.order.push_back(Arc::clone(uid));
        let last = LastTold {
            event: event.clone(),
            at: now,
            budget: BURST - 1,
            refilled: now,
        };
        self.last.insert(Arc::clone(uid), last);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn event(reason: &str, is_warning: bool) -> Event {
        Event {
            reason: reason.to_owned(),
            is_warning,
            is_of_traffic: true,
            message: format!("{reason}."),
        }
    }

    #[test]
    fn a_fault_its_end_and_the_next_one_are_told_in_turn() {
        let mut events = TrafficEvents::default();
        let (uid, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        let (bad, worse) = (event("NoEndpoints", true), event("NoGateway", true));
        let well = event("Programmed", false);
        let now = Instant::now();
        let mut take =
            |uid, event, after| events.take(uid, event, now + Duration::from_secs(after));
        assert!(!take(&uid, &well, 0), "nobody was told of a fault");
        for (event, after, is_told) in [
            (&bad, 0, true),
            (&bad, 1, false),
            (&worse, 2, true),
            (&well, 3, true),
            (&well, 4, false),
            (&worse, 5, true),
            (&worse, 200, false),
            (&worse, 306, true),
            (&well, 307, true),
            (&well, 1000, false),
            (&bad, 1001, true),
        ] {
            assert_eq!(
                take(&uid, event, after),
                is_told,
                "{event:?} after {after} s"
            );
        }
        assert!(!take(&other, &well, 1002));
        assert!(take(&other, &bad, 1002));
    }

    #[test]
    fn what_comes_and_goes_without_end_is_told_at_a_bounded_rate() {
        let mut events = TrafficEvents::default();
        let uid: Arc<str> = "one".into();
        let now = Instant::now();
        let told = |seconds: std::ops::Range<u64>, events: &mut TrafficEvents| {
            let mut count = 0;
            for second in seconds {
                let well = second % 2 == 1;
                let reason = if well { "Programmed" } else { "NoEndpoints" };
                let at = now + Duration::from_secs(second);
                count += u32::from(events.take(&uid, &event(reason, !well), at));
            }
            count
        };
        let first = told(0..60, &mut events);
        assert!((10..=12).contains(&first), "{first}");
        let hour = told(60..3660, &mut events);
        assert!((100..=121).contains(&hour), "{hour}");
    }

    #[test]
    fn memory_is_bounded() {
        let mut events = TrafficEvents::default();
        let now = Instant::now();
        for n in 0..REMEMBERED + 100 {
            let uid: Arc<str> = n.to_string().into();
            assert!(events.take(&uid, &event("NoGateway", true), now));
        }
        assert_eq!(events.last.len(), REMEMBERED);
        assert_eq!(events.order.len(), REMEMBERED);
    }
}
