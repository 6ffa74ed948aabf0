//! Decides which write begins next (fair queueing): as many at a time as the API server takes, and
//! a share for each namespace.
//!
//! A value without a clock. Its rules:
//! - Of one object one write is on its way at a time. A newer write of an object takes the place of one
//!   that waits.
//! - A namespace may have as many writes on their way as there are places left: alone it has half of
//!   all, and however many namespaces there are, there is room for the next one.
//! - A write that is not answered for [`LATE`] (a webhook that hangs) holds back its own namespace
//!   alone: no other write begins there until it is answered, and it takes no place of the others.
//! - Where the API server says that it is busy, one fewer write begins in that namespace from then on;
//!   where it says so of two namespaces in a row, one fewer in all. Where all goes well, now and then
//!   one more.
//! - Urgent jobs go first, else namespaces take turns.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A write that has no answer after this time is late.
pub(super) const LATE: Duration = Duration::from_secs(1);

/// At least this many late writes take no place, however few writes may be on their way.
const LATE_AT_LEAST: usize = 8;

/// After this many writes that went well one more may be on its way.
const GOOD: usize = 16;

/// Two busy answers within this time count as one.
const SAME_TROUBLE: Duration = Duration::from_secs(10);

/// How many namespaces without a job are remembered that are limited.
const REMEMBERED: usize = 1024;

/// What an answer says of how many writes the API server takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It was not busy.
    Well,
    /// It, or a proxy before it, is busy.
    Busy,
    /// Nothing of that: the answer did not come in time, or something else is wrong.
    Neither,
}

/// A job that has begun: give it back when the job has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// How urgent a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Somebody waits for it: an address.
    Urgent,
    /// Nobody waits for it: a status.
    Usual,
}

/// Jobs about objects of type `O`. Several kinds of jobs (`part`) can wait for one object.
#[derive(Debug)]
pub(super) struct FairQueue<O, J> {
    most: usize,
    /// How many may be on their way in all.
    allowed: usize,
    good: usize,
    last_busy: Option<(Arc<str>, Instant)>,
    lanes: HashMap<Arc<str>, Lane<O, J>>,
    /// Namespaces in which an urgent job waits, in the order of their turns; then the same for
    /// usual jobs.
    turns: [VecDeque<Arc<str>>; 2],
    running: BTreeMap<Ticket, InFlight<O>>,
    busy: BTreeSet<O>,
    /// Running jobs that are not late, by when they began.
    prompt: BTreeSet<(Instant, Ticket)>,
    next_ticket: u64,
}

#[derive(Debug)]
struct InFlight<O> {
    namespace: Arc<str>,
    object: O,
    began: Instant,
}

/// The jobs of one namespace.
#[derive(Debug)]
struct Lane<O, J> {
    waiting: HashMap<(O, u8), J>,
    order: [VecDeque<(O, u8)>; 2],
    /// Objects that have a job on its way.
    parked: Vec<((O, u8), usize)>,
    /// Whether it is in each of the lists of turns.
    has_turn: [bool; 2],
    running: usize,
    late: usize,
    allowed: usize,
    good: usize,
}

impl<O: Clone + Ord + Hash, J> FairQueue<O, J> {
    /// At most so many at a time.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            allowed: most,
            good: 0,
            last_busy: None,
            lanes: HashMap::new(),
            turns: Default::default(),
            running: BTreeMap::new(),
            busy: BTreeSet::new(),
            prompt: BTreeSet::new(),
            next_ticket: 0,
        }
    }

    /// Adds a job. Answers with the waiting job of the same object whose place it takes.
    pub(super) fn push(
        &mut self,
        namespace: &Arc<str>,
        (object, part): (O, u8),
        urgency: Urgency,
        job: J,
    ) -> Option<J> {
        let most = self.most;
        let lane = self
            .lanes
            .entry(Arc::clone(namespace))
            .or_insert_with(|| Lane::new(most));
        let key = (object, part);
        let former = lane.waiting.insert(key.clone(), job);
        if former.is_some() && urgency == Urgency::Usual {
            return former;
        }
        // A job that has become urgent is in both lists; when it begins it is removed from the
        // other.
        let level = urgency as usize;
        lane.order[level].push_back(key);
        self.take_turn(namespace, level);
        former
    }

    /// The next job that may begin now.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Ticket, J)> {
        for level in [Urgency::Urgent as usize, Urgency::Usual as usize] {
            for _ in 0..self.turns[level].len() {
                if !self.has_room() {
                    return None;
                }
                let namespace = self.turns[level].pop_front()?;
                let may_begin = self.may_begin(&namespace);
                let lane = self.lanes.get_mut(&namespace)?;
                lane.has_turn[level] = false;
                let taken = may_begin.then(|| lane.take(level, &self.busy)).flatten();
                if !lane.order[level].is_empty() {
                    self.take_turn(&namespace, level);
                }
                if let Some((object, job)) = taken {
                    return Some((self.begin(namespace, object, now), job));
                }
            }
        }
        None
    }

    fn take_turn(&mut self, namespace: &Arc<str>, level: usize) {
        if let Some(lane) = self.lanes.get_mut(namespace)
            && !std::mem::replace(&mut lane.has_turn[level], true)
        {
            self.turns[level].push_back(Arc::clone(namespace));
        }
    }

    fn has_room(&self) -> bool {
        self.places_taken() < self.allowed
    }

    /// Late jobs take no place, except those that are more than there are places.
    fn places_taken(&self) -> usize {
        let late = self.running.len() - self.prompt.len();
        self.prompt.len() + late.saturating_sub(self.most.max(LATE_AT_LEAST))
    }

    fn may_begin(&self, namespace: &str) -> bool {
        let left = self.allowed.saturating_sub(self.places_taken());
        self.lanes.get(namespace).is_some_and(|lane| {
            lane.late == 0 && lane.running < lane.allowed && lane.running < left
        })
    }

    fn begin(&mut self, namespace: Arc<str>, object: O, now: Instant) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        if let Some(lane) = self.lanes.get_mut(&namespace) {
            lane.running += 1;
        }
        self.busy.insert(object.clone());
        self.prompt.insert((now, ticket));
        let running = InFlight {
            namespace,
            object,
            began: now,
        };
        self.running.insert(ticket, running);
        ticket
    }

    /// When the next job becomes late if it is not answered before.
    pub(super) fn next_late(&self) -> Option<Instant> {
        self.prompt.first().map(|(began, _)| *began + LATE)
    }

    /// Notes which jobs are late by now.
    pub(super) fn tick(&mut self, now: Instant) {
        while let Some((began, ticket)) = self.prompt.first().copied()
            && began + LATE <= now
        {
            self.prompt.pop_first();
            let namespace = self.running.get(&ticket).map(|it| &it.namespace);
            if let Some(lane) = namespace.and_then(|it| self.lanes.get_mut(it)) {
                lane.late += 1;
            }
        }
    }

    /// What an answer says that came in this namespace.
    pub(super) fn answered(&mut self, namespace: &Arc<str>, sign: Sign, now: Instant) {
        let Some(lane) = self.lanes.get_mut(namespace) else {
            return;
        };
        match sign {
            Sign::Well => {
                lane.good += 1;
                if lane.good >= GOOD {
                    lane.good = 0;
                    lane.allowed = (lane.allowed + 1).min(self.most);
                }
                self.good += 1;
                if self.good >= GOOD {
                    self.good = 0;
                    self.allowed = (self.allowed + 1).min(self.most);
                }
            }
            Sign::Busy => {
                lane.good = 0;
                lane.allowed = (lane.allowed - 1).max(1);
                let of_another = self.last_busy.as_ref().is_some_and(|(last, at)| {
                    last != namespace && now.saturating_duration_since(*at) < SAME_TROUBLE
                });
                if of_another {
                    self.good = 0;
                    self.allowed = (self.allowed - 1).max(1);
                }
                self.last_busy = Some((Arc::clone(namespace), now));
            }
            Sign::Neither => {}
        }
    }

    /// A job has ended.
    pub(super) fn ended(&mut self, ticket: Ticket) {
        let Some(running) = self.running.remove(&ticket) else {
            return;
        };
        self.busy.remove(&running.object);
        let was_prompt = self.prompt.remove(&(running.began, ticket));
        let namespace = running.namespace;
        let Some(lane) = self.lanes.get_mut(&namespace) else {
            return;
        };
        lane.running -= 1;
        lane.late -= usize::from(!was_prompt);
        let free = |key: &(O, u8)| key.0 == running.object;
        let mut levels = [false; 2];
        for (key, level) in lane.parked.extract_if(.., |(key, _)| free(key)) {
            lane.order[level].push_front(key);
            levels[level] = true;
        }
        let is_idle = lane.running == 0 && lane.waiting.is_empty();
        if is_idle && (lane.allowed == self.most || self.lanes.len() > REMEMBERED) {
            self.turns
                .iter_mut()
                .for_each(|turns| turns.retain(|it| *it != namespace));
            self.lanes.remove(&namespace);
            return;
        }
        for (level, freed) in levels.into_iter().enumerate() {
            if freed {
                self.take_turn(&namespace, level);
            }
        }
    }

    /// How many jobs have begun and not ended.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// How many of them are not late.
    pub(super) fn prompt(&self) -> usize {
        self.prompt.len()
    }

    /// How many jobs wait in a namespace.
    pub(super) fn waiting_in(&self, namespace: &str) -> usize {
        let lane = self.lanes.get(namespace);
        lane.map_or(0, |lane| lane.waiting.len())
    }

    /// The namespaces that are held back by a late job, with how many jobs are late and how many wait.
    pub(super) fn held_back(&self) -> Vec<(Arc<str>, usize, usize)> {
        let lanes = self.lanes.iter().filter(|(_, lane)| lane.late > 0);
        let mut all: Vec<_> = lanes
            .map(|(name, lane)| (Arc::clone(name), lane.late, lane.waiting.len()))
            .collect();
        all.sort();
        all
    }
}

impl<O: Clone + Ord + Hash, J> Lane<O, J> {
    fn new(most: usize) -> Self {
        Self {
            waiting: HashMap::new(),
            order: Default::default(),
            parked: Vec::new(),
            has_turn: [false; 2],
            running: 0,
            late: 0,
            allowed: most,
            good: 0,
        }
    }

    /// The first job of this level whose object has none on its way.
    fn take(&mut self, level: usize, busy: &BTreeSet<O>) -> Option<(O, J)> {
        while let Some(key) = self.order[level].pop_front() {
            if !self.waiting.contains_key(&key) {
                continue;
            }
            if busy.contains(&key.0) {
                self.parked.push((key, level));
                continue;
            }
            let job = self.waiting.remove(&key)?;
            return Some((key.0, job));
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
