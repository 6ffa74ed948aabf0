//! Writes that did not come about: why, and when each is tried again.
//!
//! Each object waits by itself: one that the store will not take holds up no other, and its waits
//! grow, so that thousands of them cost little.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fairway_config::exchange::Write;
use fairway_config::names::{ClusterName, ServiceName};
use tokio::time::Instant;

use crate::store::WriteOutcome;

/// What a write is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    /// A Service.
    Service(ServiceName),
    /// The node ports that are asked for a Service.
    NodePorts(ServiceName),
    /// An AddressPool.
    Pool(ClusterName),
}

impl Target {
    /// What this write is about.
    pub(crate) fn of(write: &Write) -> Self {
        match write {
            Write::Service { name, .. } => Self::Service(name.clone()),
            Write::NodePorts { name, .. } => Self::NodePorts(name.clone()),
            Write::Pool { name, .. } => Self::Pool(ClusterName::clone(name)),
        }
    }

    /// As a problem names it.
    pub(crate) fn object(&self) -> String {
        match self {
            Self::Service(name) | Self::NodePorts(name) => format!("Service {name}"),
            Self::Pool(name) => format!("AddressPool {name}"),
        }
    }
}

/// Why a write did not come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The object has changed: it is decided anew.
    Refused,
    /// The store could not do it now.
    Failed(String),
    /// The store will not have this object so.
    Rejected(String),
}

impl Why {
    fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected(_))
    }

    /// The first wait and the longest; in between each is twice the one before.
    ///
    /// What an object was refused for usually comes with the next batch, before the first wait is
    /// over. What is rejected stays so until a person changes something, and a change of the object
    /// itself waits for no more than the first wait.
    fn waits(&self) -> (Duration, Duration) {
        match self {
            Self::Refused => (Duration::from_millis(20), Duration::from_secs(1)),
            Self::Failed(_) => (Duration::from_millis(500), Duration::from_secs(30)),
            Self::Rejected(_) => (Duration::from_secs(1), Duration::from_secs(300)),
        }
    }
}

#[derive(Debug)]
struct Miss {
    why: Why,
    wait: Duration,
    /// Since when it is known that the last try was in vain.
    since: Instant,
    /// When it is tried again; nothing while it is.
    at: Option<Instant>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Missed {
    all: BTreeMap<Target, Miss>,
    due: BTreeSet<(Instant, Target)>,
    trying: Vec<Target>,
    /// How many of `all` are rejected.
    rejected: usize,
}

impl Missed {
    /// Notes what became of a write.
    pub(crate) fn note(&mut self, target: Target, outcome: WriteOutcome, now: Instant) {
        let before = self.take(&target);
        let why = match outcome {
            WriteOutcome::Written => return,
            WriteOutcome::Refused => Why::Refused,
            WriteOutcome::Failed(error) => Why::Failed(error),
            WriteOutcome::Rejected(error) | WriteOutcome::Taken(error) => Why::Rejected(error),
        };
        let (first, longest) = why.waits();
        let same = |a: &Why, b: &Why| std::mem::discriminant(a) == std::mem::discriminant(b);
        let wait = match before {
            Some(before) if same(&before.why, &why) => (before.wait * 2).min(longest),
            _ => first,
        };
        if let Why::Rejected(error) = &why {
            tracing::warn!(object = target.object(), error, retry = ?wait, "it is not taken so");
        }
        let at = Some(now + wait);
        self.due.insert((now + wait, target.clone()));
        self.rejected += usize::from(why.is_rejected());
        let since = now;
        let miss = Miss {
            why,
            wait,
            since,
            at,
        };
        self.all.insert(target, miss);
    }

    /// The object has changed: what was rejected may be taken now, or be wanted no longer. One that
    /// changes all the time is not tried all the time.
    pub(crate) fn changed(&mut self, target: &Target, now: Instant) {
        let Some(miss) = self.all.get_mut(target) else {
            return;
        };
        if let (Why::Rejected(_), Some(at)) = (&miss.why, miss.at) {
            let (first, _) = miss.why.waits();
            let sooner = at.min(now.max(miss.since + first));
            self.due.remove(&(at, target.clone()));
            self.due.insert((sooner, target.clone()));
            miss.at = Some(sooner);
        }
    }

    /// The object is gone, or as it should be.
    pub(crate) fn remove(&mut self, target: &Target) {
        self.take(target);
    }

    fn take(&mut self, target: &Target) -> Option<Miss> {
        let miss = self.all.remove(target)?;
        self.rejected -= usize::from(miss.why.is_rejected());
        if let Some(at) = miss.at {
            self.due.remove(&(at, target.clone()));
        }
        Some(miss)
    }

    /// When the next one is to be tried.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Those to be tried now. What is not noted again until [`Missed::tried`] needs no write.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Target> {
        let mut due = Vec::new();
        while self.next().is_some_and(|at| at <= now)
            && let Some((_, target)) = self.due.pop_first()
        {
            if let Some(miss) = self.all.get_mut(&target) {
                miss.at = None;
            }
            due.push(target);
        }
        self.trying.extend(due.iter().cloned());
        due
    }

    /// What was due has been tried.
    pub(crate) fn tried(&mut self) {
        for target in std::mem::take(&mut self.trying) {
            if self.all.get(&target).is_some_and(|miss| miss.at.is_none()) {
                self.take(&target);
            }
        }
    }

    /// Each of them, with its reason.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Target, &Why)> {
        self.all.iter().map(|(target, miss)| (target, &miss.why))
    }

    /// How many the store will not have.
    pub(crate) fn rejected(&self) -> usize {
        self.rejected
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn target(name: &str) -> Target {
        Target::Service(ServiceName::new("web", name))
    }

    fn rejected() -> WriteOutcome {
        WriteOutcome::Rejected("it is invalid".to_owned())
    }

    /// Tries what is due in vain and says how long the next wait is.
    fn again(missed: &mut Missed, now: &mut Instant, outcome: WriteOutcome) -> Duration {
        *now = missed.next().unwrap();
        for target in missed.take_due(*now) {
            missed.note(target, outcome.clone(), *now);
        }
        missed.tried();
        missed.next().unwrap() - *now
    }

    #[test]
    fn waits_grow_for_one_object_and_for_no_other() {
        let (mut missed, mut now) = (Missed::default(), Instant::now());
        missed.note(target("a"), rejected(), now);
        let waits: Vec<u64> = (0..10)
            .map(|_| again(&mut missed, &mut now, rejected()).as_secs())
            .collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        missed.note(target("b"), rejected(), now);
        assert_eq!(missed.next(), Some(now + Duration::from_secs(1)));
        // Another reason begins anew.
        missed.note(target("a"), WriteOutcome::Refused, now);
        assert_eq!(missed.next(), Some(now + Duration::from_millis(20)));
        assert_eq!(missed.rejected(), 1);
    }

    #[test]
    fn a_change_of_the_object_waits_for_a_second_at_most() {
        let (mut missed, mut now) = (Missed::default(), Instant::now());
        missed.note(target("a"), rejected(), now);
        for _ in 0..5 {
            again(&mut missed, &mut now, rejected());
        }
        // Whatever happens to it, it has just been tried.
        let second = Duration::from_secs(1);
        missed.changed(&target("a"), now);
        assert_eq!(missed.next(), Some(now + second));
        missed.changed(&target("a"), now + second / 2);
        assert_eq!(missed.next(), Some(now + second));
        let wait = again(&mut missed, &mut now, rejected());
        assert_eq!(wait, Duration::from_secs(64));
        now += second * 2;
        missed.changed(&target("a"), now);
        assert_eq!(missed.rejected(), 1);
        assert_eq!(missed.take_due(now), [target("a")]);
        assert_eq!(missed.next(), None);
        // Nothing is to be written any more.
        missed.tried();
        assert_eq!((missed.iter().count(), missed.rejected()), (0, 0));
        // What failed waits: the next try is as likely to fail whatever the object is.
        missed.note(target("a"), WriteOutcome::Failed("away".to_owned()), now);
        missed.changed(&target("a"), now);
        assert!(missed.take_due(now).is_empty());
    }

    #[test]
    fn what_is_written_or_gone_is_no_longer_tried() {
        let (mut missed, now) = (Missed::default(), Instant::now());
        for name in ["a", "b"] {
            missed.note(target(name), rejected(), now);
        }
        missed.note(target("a"), WriteOutcome::Written, now);
        missed.remove(&target("b"));
        assert_eq!((missed.next(), missed.iter().count()), (None, 0));
        assert_eq!(missed.rejected(), 0);
    }
}
