//! What happened in the last minute.

use crate::route::Tick;

/// A part of the minute, in milliseconds, and how many of them are remembered: with the one that has begun, all of the
/// last minute is in them.
const PART: u64 = 5_000;
const PARTS: usize = 13;

/// Counts of `KINDS` kinds of events in the last minute. It takes no more memory the more there are.
#[derive(Clone, Copy, Debug)]
pub struct RecentEvents<const KINDS: usize> {
    /// The number of the newest part of time since the start.
    newest: u64,
    counts: [[u64; KINDS]; PARTS],
}

impl<const KINDS: usize> Default for RecentEvents<KINDS> {
    fn default() -> Self {
        Self {
            newest: 0,
            counts: [[0; KINDS]; PARTS],
        }
    }
}

impl<const KINDS: usize> RecentEvents<KINDS> {
    /// So many events of this kind have happened now.
    pub fn add(&mut self, kind: usize, count: u64, now: Tick) {
        self.pass(now);
        let part = (self.newest % PARTS as u64) as usize;
        if let Some(counted) = self.counts[part].get_mut(kind) {
            *counted += count;
        }
    }

    /// How many of each kind there were in the last minute, or up to five seconds more.
    pub fn last_minute(&self, now: Tick) -> [u64; KINDS] {
        let mut now_known = *self;
        now_known.pass(now);
        let mut sum = [0; KINDS];
        for (kind, sum) in sum.iter_mut().enumerate() {
            *sum = now_known.counts.iter().map(|counts| counts[kind]).sum();
        }
        sum
    }

    /// Forgets what is older than a minute.
    fn pass(&mut self, now: Tick) {
        let newest = (now.0 / PART).max(self.newest);
        let passed = (newest - self.newest).min(PARTS as u64);
        for part in 1..=passed {
            let part = (newest - passed + part) % PARTS as u64;
            self.counts[part as usize] = [0; KINDS];
        }
        self.newest = newest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_is_remembered_and_no_more() {
        let mut events = RecentEvents::<2>::default();
        for second in 0..200 {
            events.add(0, 10, Tick(second * 1000));
        }
        events.add(1, 7, Tick(199_000));
        let [of_first, of_second] = events.last_minute(Tick(199_000));
        assert!((600..=650).contains(&of_first), "{of_first}");
        assert_eq!(of_second, 7);
        let [of_first, of_second] = events.last_minute(Tick(229_000));
        assert!((300..=350).contains(&of_first), "{of_first}");
        assert_eq!(of_second, 7);
        assert_eq!(events.last_minute(Tick(265_000)), [0, 0]);
        assert_eq!(events.last_minute(Tick(u64::MAX)), [0, 0]);
        // A worker's clock may be a little behind.
        events.add(0, 1, Tick(198_000));
        assert!(events.last_minute(Tick(199_000))[0] > 600);
    }
}
