//! Failed writes: why each failed, and when it is tried again (back-off).
//!
//! Each object waits by itself: one that the store rejects holds up no other. Its waits grow, so
//! that thousands of such objects cost little.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::retry_queue::{RetryQueue, doubled};
use crate::store::{WriteKey, WriteOutcome};

/// Why a write failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RetryCause {
    /// The object has changed: the decision has to be made again.
    Conflict,
    /// The store could not write it now.
    Failed(String),
    /// The store rejects this form of the object.
    Rejected(String),
    /// The store gave no answer for this object, while it answered others.
    HeldUp(String),
}

impl RetryCause {
    fn of(outcome: WriteOutcome) -> Option<Self> {
        Some(match outcome {
            WriteOutcome::Written | WriteOutcome::Superseded => return None,
            WriteOutcome::Refused => Self::Conflict,
            WriteOutcome::Failed(error) => Self::Failed(error),
            WriteOutcome::HeldUp(error) => Self::HeldUp(error),
            WriteOutcome::Rejected(error) | WriteOutcome::Taken(error) => Self::Rejected(error),
        })
    }

    /// Whether the cause is this one object, and not the store.
    pub(crate) fn concerns_one(&self) -> bool {
        matches!(self, Self::Rejected(_) | Self::HeldUp(_))
    }

    /// The first wait and the longest; in between each is twice the one before.
    ///
    /// The newer form of an object, for which a write was refused, usually comes with the next
    /// batch, before the first wait is over. What is rejected stays rejected until a person changes
    /// something; after a change of the object itself it waits no longer than the first wait.
    fn waits(&self) -> (Duration, Duration) {
        match self {
            Self::Conflict => (Duration::from_millis(20), Duration::from_secs(1)),
            Self::Failed(_) => (Duration::from_millis(500), Duration::from_secs(30)),
            Self::HeldUp(_) => (Duration::from_secs(1), Duration::from_secs(60)),
            Self::Rejected(_) => (Duration::from_secs(1), Duration::from_secs(300)),
        }
    }
}

#[derive(Debug)]
struct Retry {
    cause: RetryCause,
    wait: Duration,
    /// Since when it is known that the last try failed.
    since: Instant,
}

/// All failed writes.
#[derive(Debug, Default)]
pub(crate) struct Retries {
    all: BTreeMap<WriteKey, Retry>,
    waiting: RetryQueue<WriteKey>,
    /// How many of `all` have a cause that concerns one object alone.
    of_one: usize,
}

impl Retries {
    /// Notes what became of a write.
    pub(crate) fn note(&mut self, key: WriteKey, outcome: WriteOutcome, now: Instant) {
        if outcome == WriteOutcome::Superseded {
            // The newer write will have an outcome of its own.
            return;
        }
        let before = self.take(&key);
        let Some(cause) = RetryCause::of(outcome) else {
            return;
        };
        let (first, longest) = cause.waits();
        let same = |a: &RetryCause| std::mem::discriminant(a) == std::mem::discriminant(&cause);
        let wait = match before {
            Some(before) if same(&before.cause) => doubled(before.wait, longest),
            _ => first,
        };
        if let RetryCause::Rejected(error) | RetryCause::HeldUp(error) = &cause {
            tracing::warn!(object = key.object(), error, retry = ?wait, "an object is not written");
        }
        self.waiting.put(key.clone(), wait, now);
        self.of_one += usize::from(cause.concerns_one());
        let retry = Retry {
            cause,
            wait,
            since: now,
        };
        self.all.insert(key, retry);
    }

    /// The object has changed: what was rejected may be accepted now, or not be wanted any more. An
    /// object that changes all the time is not tried all the time.
    pub(crate) fn changed(&mut self, key: &WriteKey, now: Instant) {
        if let Some(retry) = self.all.get(key)
            && matches!(retry.cause, RetryCause::Rejected(_))
        {
            let (first, _) = retry.cause.waits();
            self.waiting.hasten(key, now.max(retry.since + first));
        }
    }

    /// The object is gone, or is as it should be.
    pub(crate) fn remove(&mut self, key: &WriteKey) {
        self.take(key);
    }

    fn take(&mut self, key: &WriteKey) -> Option<Retry> {
        let retry = self.all.remove(key)?;
        self.of_one -= usize::from(retry.cause.concerns_one());
        self.waiting.remove(key);
        Some(retry)
    }

    /// When the next write is to be tried.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.waiting.next()
    }

    /// The writes whose wait is over. The caller says which of them it has [`tried`](Self::tried).
    pub(crate) fn take_due(&mut self, now: Instant) -> BTreeSet<WriteKey> {
        let due = std::iter::from_fn(|| Some(self.waiting.take_due(now)?.0));
        due.collect()
    }

    /// Of the writes that were due these were tried; the others are not needed any more.
    pub(crate) fn tried<'a>(
        &mut self,
        due: &BTreeSet<WriteKey>,
        written: impl IntoIterator<Item = &'a WriteKey>,
    ) {
        let written: BTreeSet<&WriteKey> = written.into_iter().collect();
        for key in due.iter().filter(|key| !written.contains(key)) {
            self.take(key);
        }
    }

    /// Each of them, with its cause.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&WriteKey, &RetryCause)> {
        self.all.iter().map(|(key, retry)| (key, &retry.cause))
    }

    /// How many objects are not written for a cause that concerns each of them alone.
    pub(crate) fn of_one(&self) -> usize {
        self.of_one
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::names::ServiceName;

    use super::*;

    fn key(name: &str) -> WriteKey {
        WriteKey::Service(ServiceName::new("web", name))
    }

    fn rejected() -> WriteOutcome {
        WriteOutcome::Rejected("it is invalid".to_owned())
    }

    /// Tries what is due in vain and says how long the next wait is.
    fn again(retries: &mut Retries, now: &mut Instant, outcome: WriteOutcome) -> Duration {
        *now = retries.next().unwrap();
        let due = retries.take_due(*now);
        retries.tried(&due, &due);
        for key in due {
            retries.note(key, outcome.clone(), *now);
        }
        retries.next().unwrap() - *now
    }

    #[test]
    fn waits_grow_for_one_object_and_for_no_other() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        retries.note(key("a"), rejected(), now);
        let waits: Vec<u64> = (0..10)
            .map(|_| again(&mut retries, &mut now, rejected()).as_secs())
            .collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        retries.note(key("b"), rejected(), now);
        assert_eq!(retries.next(), Some(now + Duration::from_secs(1)));
        // Another reason begins anew.
        retries.note(key("a"), WriteOutcome::Refused, now);
        assert_eq!(retries.next(), Some(now + Duration::from_millis(20)));
        assert_eq!(retries.of_one(), 1);
    }

    #[test]
    fn a_change_of_the_object_waits_for_a_second_at_most() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        retries.note(key("a"), rejected(), now);
        for _ in 0..5 {
            again(&mut retries, &mut now, rejected());
        }
        // Whatever happens to it, it has just been tried.
        let second = Duration::from_secs(1);
        retries.changed(&key("a"), now);
        assert_eq!(retries.next(), Some(now + second));
        retries.changed(&key("a"), now + second / 2);
        assert_eq!(retries.next(), Some(now + second));
        let wait = again(&mut retries, &mut now, rejected());
        assert_eq!(wait, Duration::from_secs(64));
        now += second * 2;
        retries.changed(&key("a"), now);
        assert_eq!(retries.of_one(), 1);
        let due = retries.take_due(now);
        assert_eq!(due, BTreeSet::from([key("a")]));
        assert_eq!(retries.next(), None);
        // Nothing is to be written any more.
        retries.tried(&due, []);
        assert_eq!((retries.iter().count(), retries.of_one()), (0, 0));
        // What failed waits: the next try is as likely to fail whatever the object is.
        retries.note(key("a"), WriteOutcome::Failed("away".to_owned()), now);
        retries.changed(&key("a"), now);
        assert!(retries.take_due(now).is_empty());
    }

    #[test]
    fn what_is_written_or_gone_is_no_longer_tried() {
        let (mut retries, now) = (Retries::default(), Instant::now());
        for name in ["a", "b"] {
            retries.note(key(name), rejected(), now);
        }
        retries.note(key("a"), WriteOutcome::Superseded, now);
        assert_eq!(retries.of_one(), 2);
        retries.note(key("a"), WriteOutcome::Written, now);
        retries.remove(&key("b"));
        assert_eq!((retries.next(), retries.iter().count()), (None, 0));
        assert_eq!(retries.of_one(), 0);
    }
}
