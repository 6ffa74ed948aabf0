//! When each probe is made.
//!
//! A probe begins an interval after it began last, a little earlier at random, so that probes which began together do not
//! stay together; half an interval where its endpoint is about to fail or to come back. All of them together keep to a
//! [`BUDGET`], and to [`MOST_AT_ONCE`]. Where that is not enough, probes wait: namespaces take turns, so one that asks for
//! more than its share stretches its own intervals, and another one's are kept.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::jitter::Jitter;
use crate::route::Tick;

/// So many probes begin in a second, at most.
pub const BUDGET: u64 = 1000;

/// So many more may begin at once, after a pause.
pub const BURST: u64 = 50;

/// So many probes are under way at most: each has a socket.
pub const MOST_AT_ONCE: usize = 1024;

/// A namespace may have so many times under way of what is left for others. So those that hang take no places of others.
const MULTIPLE: usize = 3;

/// A new probe begins within this time, or its interval.
const FIRST_WITHIN: Duration = Duration::from_secs(2);

/// A probe begins at most so many thousandths of its interval early.
const EARLY: u64 = 50;

/// A probe, for as long as anybody needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(pub(super) u64);

/// All probes, by when they are due.
#[derive(Debug)]
pub struct CheckSchedule {
    jitter: Jitter,
    probes: HashMap<CheckId, ScheduledProbe>,
    namespaces: BTreeMap<Arc<str>, NamespaceQueue>,
    /// The namespaces whose first probe is due later.
    waiting: BTreeSet<(Tick, Arc<str>)>,
    /// The namespaces whose first probe is due, in their turn.
    ready: VecDeque<Arc<str>>,
    /// Those that have too many under way.
    full: Vec<Arc<str>>,
    under_way: usize,
    /// What is left of the budget, in thousandths of a probe, as of `counted`.
    credit: u64,
    counted: Tick,
    /// What is asked for, in thousandths of a thousandth of a probe in a second.
    asked: u64,
}

#[derive(Debug)]
struct ScheduledProbe {
    namespace: Arc<str>,
    interval: Duration,
    state: ProbeTime,
}

#[derive(Clone, Copy, Debug)]
enum ProbeTime {
    Due(Tick),
    UnderWay { began: Tick, is_removed: bool },
}

#[derive(Debug, Default)]
struct NamespaceQueue {
    due: BTreeSet<(Tick, CheckId)>,
    under_way: usize,
    place: QueuePlace,
}

/// Where a namespace is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum QueuePlace {
    #[default]
    Nowhere,
    Waiting(Tick),
    Ready,
    Full,
}

impl CheckSchedule {
    /// No probe yet.
    pub fn new(seed: u64) -> Self {
        Self {
            jitter: Jitter::new(seed),
            probes: HashMap::new(),
            namespaces: BTreeMap::new(),
            waiting: BTreeSet::new(),
            ready: VecDeque::new(),
            full: Vec::new(),
            under_way: 0,
            credit: BURST * 1000,
            counted: Tick(0),
            asked: 0,
        }
    }

    /// A new probe, which is made each `interval`.
    pub fn add(&mut self, id: CheckId, namespace: &Arc<str>, interval: Duration, now: Tick) {
        let within = milliseconds(interval.min(FIRST_WITHIN));
        let due = Tick(now.0 + self.jitter.up_to(within));
        self.asked += rate(interval);
        let probe = ScheduledProbe {
            namespace: namespace.clone(),
            interval,
            state: ProbeTime::Due(due),
        };
        self.probes.insert(id, probe);
        let queue = self.namespaces.entry(namespace.clone()).or_default();
        queue.due.insert((due, id));
        self.place(namespace);
    }

    /// A probe is not made again. One that is under way counts until it has finished.
    pub fn remove(&mut self, id: CheckId) {
        let Some(probe) = self.probes.get_mut(&id) else {
            return;
        };
        match &mut probe.state {
            ProbeTime::UnderWay {
                is_removed: true, ..
            } => {}
            ProbeTime::UnderWay { is_removed, .. } => {
                *is_removed = true;
                self.asked -= rate(probe.interval);
            }
            ProbeTime::Due(due) => {
                let key = (*due, id);
                self.asked -= rate(probe.interval);
                let namespace = probe.namespace.clone();
                self.probes.remove(&id);
                if let Some(queue) = self.namespaces.get_mut(&namespace) {
                    queue.due.remove(&key);
                }
                self.place(&namespace);
            }
        }
    }

    /// When [`Self::take_due`] has something to do; none: not before one finishes, or is added.
    pub fn next_due(&self, now: Tick) -> Option<Tick> {
        if self.under_way >= MOST_AT_ONCE {
            return None;
        }
        let first = match self.ready.front() {
            Some(_) => now,
            None => self.waiting.first()?.0,
        };
        let missing = 1000_u64.saturating_sub(self.credit_at(now));
        Some(first.max(Tick(now.0 + missing.div_ceil(BUDGET))))
    }

    /// The probes that begin now.
    pub fn take_due(&mut self, now: Tick) -> Vec<CheckId> {
        self.credit = self.credit_at(now);
        self.counted = now.max(self.counted);
        while let Some((due, _)) = self.waiting.first()
            && *due <= now
            && let Some((_, namespace)) = self.waiting.pop_first()
        {
            if let Some(queue) = self.namespaces.get_mut(&namespace) {
                queue.place = QueuePlace::Ready;
            }
            self.ready.push_back(namespace);
        }
        let mut taken = Vec::new();
        while self.credit >= 1000
            && self.under_way < MOST_AT_ONCE
            && let Some(namespace) = self.ready.pop_front()
        {
            let Some(queue) = self.namespaces.get_mut(&namespace) else {
                continue;
            };
            let left = MOST_AT_ONCE - self.under_way - 1;
            if queue.under_way > 0 && queue.under_way + 1 > MULTIPLE * left {
                queue.place = QueuePlace::Full;
                self.full.push(namespace);
                continue;
            }
            queue.place = QueuePlace::Nowhere;
            if let Some((due, id)) = queue.due.first().copied()
                && due <= now
            {
                queue.due.pop_first();
                queue.under_way += 1;
                self.under_way += 1;
                self.credit -= 1000;
                if let Some(probe) = self.probes.get_mut(&id) {
                    probe.state = ProbeTime::UnderWay {
                        began: now,
                        is_removed: false,
                    };
                }
                taken.push(id);
            }
            // It goes to the end where it has more that is due.
            let next = queue.due.first().map(|(due, _)| *due);
            if next.is_some_and(|due| due <= now) {
                queue.place = QueuePlace::Ready;
                self.ready.push_back(namespace);
            } else {
                self.place(&namespace);
            }
        }
        taken
    }

    /// A probe that began has ended. `is_changing`: the next one is needed soon.
    pub fn finished(&mut self, id: CheckId, is_changing: bool, now: Tick) {
        let Some(probe) = self.probes.get_mut(&id) else {
            return;
        };
        let ProbeTime::UnderWay { began, is_removed } = probe.state else {
            return;
        };
        let namespace = probe.namespace.clone();
        let next = if is_removed {
            self.probes.remove(&id);
            None
        } else {
            let interval = milliseconds(probe.interval) / if is_changing { 2 } else { 1 };
            let early = self.jitter.up_to(interval * EARLY / 1000);
            let due = Tick(now.0.max(began.0 + interval - early));
            probe.state = ProbeTime::Due(due);
            Some((due, id))
        };
        self.under_way -= 1;
        if let Some(queue) = self.namespaces.get_mut(&namespace) {
            queue.under_way -= 1;
            queue.due.extend(next);
        }
        self.place(&namespace);
        for namespace in std::mem::take(&mut self.full) {
            if let Some(queue) = self.namespaces.get_mut(&namespace) {
                queue.place = QueuePlace::Nowhere;
            }
            self.place(&namespace);
        }
    }

    /// By how much intervals are stretched, in thousandths; 1,000: not at all.
    pub fn stretch(&self) -> u64 {
        (self.asked / (BUDGET * 1000)).max(1000)
    }

    /// Puts a namespace where it belongs, unless it is in its turn.
    fn place(&mut self, namespace: &Arc<str>) {
        let Some(queue) = self.namespaces.get_mut(namespace) else {
            return;
        };
        match queue.place {
            QueuePlace::Ready | QueuePlace::Full => return,
            QueuePlace::Waiting(due) => {
                self.waiting.remove(&(due, namespace.clone()));
            }
            QueuePlace::Nowhere => {}
        }
        if let Some((due, _)) = queue.due.first() {
            queue.place = QueuePlace::Waiting(*due);
            self.waiting.insert((*due, namespace.clone()));
        } else if queue.under_way > 0 {
            queue.place = QueuePlace::Nowhere;
        } else {
            self.namespaces.remove(namespace);
        }
    }

    fn credit_at(&self, now: Tick) -> u64 {
        let passed = now.0.saturating_sub(self.counted.0);
        let more = passed.saturating_mul(BUDGET);
        self.credit.saturating_add(more).min(BURST * 1000)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// How many probes an interval means, in thousandths of a thousandth of one in a second.
fn rate(interval: Duration) -> u64 {
    1_000_000_000 / milliseconds(interval)
}
