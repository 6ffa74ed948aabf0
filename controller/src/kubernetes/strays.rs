//! Services whose finalizer is to be looked at, each when its time has come.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fairway_config::object::ObjectKey;
use tokio::sync::Notify;

use crate::feed::lock;

/// How long a finalizer may be all that is left of a Service, or all that is missing, before it is
/// put right: the write that leaves it so usually goes on to do that itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The longest wait between two tries; each is twice the one before.
pub(super) const LONGEST: Duration = Duration::from_secs(300);

/// Services whose finalizer is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Strays {
    waiting: Mutex<Waiting>,
    came: Notify,
}

/// When each of them is to be looked at, and after how long a wait.
#[derive(Debug, Default)]
struct Waiting {
    all: BTreeMap<ObjectKey, (Instant, Duration)>,
    due: BTreeSet<(Instant, ObjectKey)>,
}

impl Waiting {
    /// One that waits already is looked at when the earlier of the two waits is over; what comes after
    /// it is the longer one's.
    fn push(&mut self, key: ObjectKey, wait: Duration, now: Instant) {
        let (mut at, mut wait) = (now + wait, wait);
        if let Some((former, waits)) = self.all.get(&key) {
            self.due.remove(&(*former, key.clone()));
            (at, wait) = (at.min(*former), wait.max(*waits));
        }
        self.due.insert((at, key.clone()));
        self.all.insert(key, (at, wait));
    }

    /// When the next one is to be looked at.
    fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// One whose time has come, and how long it waited.
    fn take_due(&mut self, now: Instant) -> Option<(ObjectKey, Duration)> {
        self.next().filter(|at| *at <= now)?;
        let (_, key) = self.due.pop_first()?;
        let (_, wait) = self.all.remove(&key)?;
        Some((key, wait))
    }
}

impl Strays {
    pub(super) fn push(&self, key: ObjectKey, wait: Duration) {
        lock(&self.waiting).push(key, wait, Instant::now());
        self.came.notify_one();
    }

    /// The next one, when its time has come, and how long it waited.
    pub(super) async fn next(&self) -> (ObjectKey, Duration) {
        loop {
            let (due, next) = {
                let mut waiting = lock(&self.waiting);
                (waiting.take_due(Instant::now()), waiting.next())
            };
            if let Some(due) = due {
                return due;
            }
            let Some(next) = next else {
                self.came.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                // It may be one whose time comes before.
                () = self.came.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fairway_config::names::ServiceName;

    use super::*;
    use crate::kubernetes::settings::key_of;

    #[test]
    fn one_that_changes_while_it_waits_waits_once() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let key = |name: &str| key_of(&ServiceName::new("web", name));
        // It could not be put right for a while, and then changes again and again.
        waiting.push(key("a"), LONGEST, now);
        for _ in 0..3 {
            waiting.push(key("a"), PATIENCE, now);
            waiting.push(key("a"), PATIENCE, now + PATIENCE / 2);
        }
        waiting.push(key("b"), PATIENCE * 2, now);
        assert_eq!((waiting.all.len(), waiting.due.len()), (2, 2));
        assert_eq!(waiting.take_due(now), None);
        // It is looked at soon, and the next time after its longer wait.
        let then = now + PATIENCE;
        assert_eq!(waiting.next(), Some(then));
        assert_eq!(waiting.take_due(then), Some((key("a"), LONGEST)));
        assert_eq!(waiting.take_due(then), None);
        assert_eq!(waiting.next(), Some(then + PATIENCE));
    }
}
