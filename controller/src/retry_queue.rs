//! When each of many things is tried again: each waits by itself, and its waits grow (back-off).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

/// What waits, by when it is due. A value without a clock: the caller says what time it is.
#[derive(Debug)]
pub(crate) struct RetryQueue<K> {
    all: BTreeMap<K, (Instant, Duration)>,
    due: BTreeSet<(Instant, K)>,
}

impl<K> Default for RetryQueue<K> {
    fn default() -> Self {
        Self {
            all: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }
}

impl<K: Clone + Ord> RetryQueue<K> {
    /// This one is due after `wait`, whatever it waited for before.
    pub(crate) fn put(&mut self, key: K, wait: Duration, now: Instant) {
        self.put_at(key, now + wait, wait);
    }

    /// The same; one that waits already is due when the earlier of the two waits is over, and its next
    /// wait follows from the longer one.
    pub(crate) fn put_sooner(&mut self, key: K, wait: Duration, now: Instant) {
        let (mut at, mut wait) = (now + wait, wait);
        if let Some((former, waits)) = self.all.get(&key) {
            (at, wait) = (at.min(*former), wait.max(*waits));
        }
        self.put_at(key, at, wait);
    }

    fn put_at(&mut self, key: K, at: Instant, wait: Duration) {
        self.remove(&key);
        self.due.insert((at, key.clone()));
        self.all.insert(key, (at, wait));
    }

    /// One that waits is due at `at` if that is sooner; its wait stays.
    pub(crate) fn hasten(&mut self, key: &K, at: Instant) {
        if let Some((former, wait)) = self.all.get(key).copied() {
            self.put_at(key.clone(), at.min(former), wait);
        }
    }

    /// This one waits no longer. Answers with how long it was to wait.
    pub(crate) fn remove(&mut self, key: &K) -> Option<Duration> {
        let (at, wait) = self.all.remove(key)?;
        self.due.remove(&(at, key.clone()));
        Some(wait)
    }

    /// When the next one is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// One that is due, with how long it waited.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(K, Duration)> {
        self.next().filter(|at| *at <= now)?;
        let (_, key) = self.due.pop_first()?;
        let (_, wait) = self.all.remove(&key)?;
        Some((key, wait))
    }
}

/// The wait after a try that failed: twice the wait before it, but not more than `longest`.
pub(crate) fn doubled(wait: Duration, longest: Duration) -> Duration {
    (wait * 2).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_changes_while_it_waits_waits_once() {
        let (mut queue, now) = (RetryQueue::default(), Instant::now());
        let (short, long) = (Duration::from_secs(2), Duration::from_secs(300));
        // It could not be put right for a while, and then changes again and again.
        queue.put_sooner("a", long, now);
        for _ in 0..3 {
            queue.put_sooner("a", short, now);
            queue.put_sooner("a", short, now + short / 2);
        }
        queue.put_sooner("b", short * 2, now);
        assert_eq!((queue.all.len(), queue.due.len()), (2, 2));
        assert_eq!(queue.take_due(now), None);
        // It is looked at soon, and the next time after its longer wait.
        assert_eq!(queue.next(), Some(now + short));
        assert_eq!(queue.take_due(now + short), Some(("a", long)));
        assert_eq!(queue.take_due(now + short), None);
        assert_eq!(queue.next(), Some(now + short * 2));
        assert_eq!(queue.remove(&"b"), Some(short * 2));
        assert_eq!(queue.next(), None);
    }
}
