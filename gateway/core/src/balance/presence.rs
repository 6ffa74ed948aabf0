//! Since when an endpoint is among those that get traffic.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::route::Tick;

/// Since when an endpoint is among those that get traffic. Written where the list changes, read by picks without a
/// lock.
#[derive(Debug, Default)]
pub struct Presence(AtomicU64);

/// It was never looked at.
const UNKNOWN: u64 = 0;
/// It is not among them.
const AWAY: u64 = 1;
/// It was among them when the first list was made.
const FROM_THE_START: u64 = 2;
/// The first number that stands for a time.
const TIMES: u64 = 3;

impl Presence {
    /// Whether it was never looked at.
    pub fn is_unknown(&self) -> bool {
        self.0.load(Ordering::Relaxed) == UNKNOWN
    }

    /// It is among those that get traffic, in a list that is made at `now`. In the `first` list nobody has come back.
    pub fn enter(&self, first: bool, now: Tick) {
        if self.0.load(Ordering::Relaxed) <= AWAY {
            let since = now.0.saturating_add(TIMES);
            let since = if first { FROM_THE_START } else { since };
            self.0.store(since, Ordering::Relaxed);
        }
    }

    /// It is not among them.
    pub fn leave(&self) {
        self.0.store(AWAY, Ordering::Relaxed);
    }

    /// When it came, after it had been away or not been there; none: it did not.
    pub fn returned(&self) -> Option<Tick> {
        self.0.load(Ordering::Relaxed).checked_sub(TIMES).map(Tick)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_there_from_the_start_has_not_returned_until_it_was_away() {
        let it = Presence::default();
        assert!(it.is_unknown());
        it.enter(true, Tick(7));
        assert!(!it.is_unknown());
        assert_eq!(it.returned(), None);
        it.enter(false, Tick(8));
        assert_eq!(it.returned(), None, "it stays");
        it.leave();
        assert_eq!(it.returned(), None);
        assert!(!it.is_unknown());
        it.enter(false, Tick(9));
        assert_eq!(it.returned(), Some(Tick(9)));
        it.enter(false, Tick(10));
        assert_eq!(it.returned(), Some(Tick(9)), "it stays");
    }

    #[test]
    fn who_joins_later_has_returned() {
        let it = Presence::default();
        it.enter(false, Tick(0));
        assert_eq!(it.returned(), Some(Tick(0)));
    }
}
