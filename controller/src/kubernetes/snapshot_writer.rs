//! The thread that writes a snapshot, and what waits for it.
//!
//! While another process is to have the state directory nothing is written: what changes waits, as it does while a disk
//! fails. The thread has the lock of the directory, and gives it away or takes it when it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fairway_config::object::ObjectKey;

use crate::feed::lock;
use crate::state::TakeError;
use crate::state::disk::{Disk, FileWrite};
use crate::state::journal::{Journal, Line};
use crate::state::lock::Lock;

/// The file that names the kinds of which everything is in the journal.
pub(super) const COMPLETE: &str = "snapshot.json";

/// The file with the other gateways of the fleet, and its key.
pub(super) const FLEET: &str = "fleet.json";

/// The shortest pause between two writes.
const GATHER: Duration = Duration::from_millis(500);

/// This many bytes don't wait for the pause to be over.
const LARGE: usize = 4 << 20;

/// The pause after a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// What the thread is told besides what it is to write.
pub(super) enum WriterOrder {
    /// Write what waits, and nothing from then on. The answer: whether all could be written.
    Hold(Sender<bool>),
    /// Write again.
    GoOn,
    /// The lock for another process. This one does not release it any more.
    ShareLock(Sender<io::Result<OwnedFd>>),
    /// Another process has the directory for good.
    GiveUp,
    /// The directory is this process's own: another one has handed its lock over, or (none) has ended.
    Own(Option<OwnedFd>, Sender<Result<(), TakeError>>),
}

/// By which another thread has the writer hold what it writes.
#[derive(Clone)]
pub(super) struct SnapshotHolder(Arc<SnapshotQueue>);

impl SnapshotHolder {
    pub(super) fn new(queue: Arc<SnapshotQueue>) -> Self {
        Self(queue)
    }

    /// Gives an order, and does not wait.
    pub(super) fn order(&self, order: WriterOrder) {
        lock(&self.0.pending).orders.push_back(order);
        self.0.wake.notify_one();
    }

    /// Gives an order, and waits for the answer; none: the thread has ended.
    pub(super) fn ask<T>(&self, order: impl FnOnce(Sender<T>) -> WriterOrder) -> Option<T> {
        let (reply, answer) = mpsc::channel();
        self.order(order(reply));
        answer.recv().ok()
    }
}

/// The queue of the thread that writes.
#[derive(Default)]
pub(super) struct SnapshotQueue {
    pub(super) pending: Mutex<PendingObjects>,
    pub(super) wake: Condvar,
}

/// What is to be written.
#[derive(Default)]
pub(super) struct PendingObjects {
    /// Nothing: it is gone.
    objects: BTreeMap<ObjectKey, Option<Vec<u8>>>,
    /// Bytes of their contents; never too low.
    bytes: usize,
    /// Kinds that this process has listed.
    pub(super) complete: BTreeSet<String>,
    /// What [`FLEET`] is to have.
    pub(super) fleet: Option<Vec<u8>>,
    pub(super) closed: bool,
    pub(super) problem: Option<String>,
    /// Nothing is written, for another process has the directory or is about to.
    pub(super) is_held: bool,
    orders: VecDeque<WriterOrder>,
}

impl SnapshotQueue {
    pub(super) fn add(&self, key: ObjectKey, content: Option<Vec<u8>>) {
        let mut pending = lock(&self.pending);
        pending.bytes += content.as_ref().map_or(0, Vec::len);
        let first = pending.objects.is_empty();
        pending.objects.insert(key, content);
        // It waits for the first, and then for the time to be over.
        if first || pending.bytes > LARGE {
            self.wake.notify_one();
        }
    }

    /// Waits until there is something to do, and to write until `earliest`; nothing at the end.
    fn next(&self, earliest: Instant, complete: &BTreeSet<String>) -> Option<WriterWork> {
        let mut pending = lock(&self.pending);
        loop {
            if let Some(order) = pending.orders.pop_front() {
                return Some(WriterWork::Order(order));
            }
            let is_due = !pending.is_held && pending.is_due(complete);
            if pending.closed && !is_due {
                return None;
            }
            let left = earliest.saturating_duration_since(Instant::now());
            let urgent = pending.closed || (pending.bytes > LARGE && pending.problem.is_none());
            if is_due && (left.is_zero() || urgent) {
                return Some(WriterWork::Write(pending.take()));
            }
            pending = if is_due {
                let woken = self.wake.wait_timeout(pending, left);
                woken.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let woken = self.wake.wait(pending);
                woken.unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    /// Puts back what could not be written, except where something newer waits.
    fn give_back(&self, lines: Vec<Line>, fleet: Option<Vec<u8>>, problem: String) {
        let mut pending = lock(&self.pending);
        pending.fleet = pending.fleet.take().or(fleet);
        for Line { key, content } in lines {
            let bytes = content.as_ref().map_or(0, Vec::len);
            if let std::collections::btree_map::Entry::Vacant(entry) = pending.objects.entry(key) {
                entry.insert(content);
                pending.bytes += bytes;
            }
        }
        pending.problem = Some(problem);
    }
}

impl PendingObjects {
    fn is_due(&self, complete: &BTreeSet<String>) -> bool {
        !self.objects.is_empty() || !self.complete.is_subset(complete) || self.fleet.is_some()
    }

    fn take(&mut self) -> SnapshotBatch {
        self.bytes = 0;
        SnapshotBatch {
            objects: std::mem::take(&mut self.objects),
            complete: self.complete.clone(),
            fleet: self.fleet.take(),
            last: self.closed,
        }
    }
}

/// What the thread does next.
enum WriterWork {
    Write(SnapshotBatch),
    Order(WriterOrder),
}

/// What is written together.
struct SnapshotBatch {
    objects: BTreeMap<ObjectKey, Option<Vec<u8>>>,
    complete: BTreeSet<String>,
    fleet: Option<Vec<u8>>,
    /// Nothing comes after it.
    last: bool,
}

/// The thread that writes.
pub(super) struct SnapshotWriter {
    /// None, with the journal: the directory is another process's.
    pub(super) lock: Option<Lock>,
    pub(super) state: PathBuf,
    pub(super) disk: Disk,
    pub(super) journal: Option<Journal>,
    /// What [`COMPLETE`] says.
    pub(super) complete: BTreeSet<String>,
    pub(super) waiting: Arc<SnapshotQueue>,
}

impl SnapshotWriter {
    /// Runs until the snapshot is dropped.
    pub(super) fn run(mut self) {
        let mut earliest = Instant::now();
        while let Some(work) = self.waiting.next(earliest, &self.complete) {
            match work {
                WriterWork::Order(order) => self.obey(order),
                WriterWork::Write(batch) => {
                    let is_last = batch.last;
                    earliest = Instant::now()
                        + match self.write(batch) {
                            true => GATHER,
                            false if is_last => return,
                            false => RETRY,
                        };
                }
            }
        }
    }

    /// Does what it is told. Whoever has asked may be gone.
    fn obey(&mut self, order: WriterOrder) {
        match order {
            WriterOrder::Hold(reply) => {
                let batch = {
                    let mut pending = lock(&self.waiting.pending);
                    let is_due = !pending.is_held && pending.is_due(&self.complete);
                    pending.is_held = true;
                    is_due.then(|| pending.take())
                };
                let is_written = batch.is_none_or(|batch| self.write(batch));
                lock(&self.waiting.pending).is_held = is_written;
                let _ = reply.send(is_written);
            }
            WriterOrder::GoOn => {
                if let Some(lock) = &mut self.lock {
                    lock.keep();
                }
                lock(&self.waiting.pending).is_held = false;
            }
            WriterOrder::ShareLock(reply) => {
                let missing = || rustix::io::Errno::BADF.into();
                let lock = self.lock.as_mut().ok_or_else(missing);
                let _ = reply.send(lock.and_then(Lock::share));
            }
            WriterOrder::GiveUp => {
                // As long as it is open the lock is not free, should the other process end.
                (self.lock, self.journal) = (None, None);
                lock(&self.waiting.pending).is_held = true;
            }
            WriterOrder::Own(file, reply) => {
                let _ = reply.send(self.own(file));
            }
        }
    }

    fn own(&mut self, file: Option<OwnedFd>) -> Result<(), TakeError> {
        let lock_ = match file {
            Some(file) => Lock::of(file, &self.state),
            None => Lock::take(&self.state)?,
        };
        // Opened now: the other process may have gone on with it in the meantime.
        let opened = Journal::open(&self.state).map_err(|source| TakeError::State {
            path: self.state.clone(),
            source,
        });
        self.lock = Some(lock_);
        self.journal = Some(opened?.0);
        lock(&self.waiting.pending).is_held = false;
        Ok(())
    }

    /// Writes what waits. Returns whether that could be done.
    fn write(&mut self, batch: SnapshotBatch) -> bool {
        let lines: Vec<Line> = batch
            .objects
            .into_iter()
            .map(|(key, content)| Line { key, content })
            .collect();
        let missing = || Err(rustix::io::Errno::BADF.into());
        let appended = self.journal.as_mut();
        let appended = appended.map_or_else(missing, |journal| journal.append(&lines));
        // What is in the journal must not be written again where the rest fails.
        let (lines, written) = match appended {
            Ok(()) => (Vec::new(), self.round_off(batch.complete)),
            Err(error) => (lines, Err(error)),
        };
        let written = written.and_then(|()| match &batch.fleet {
            Some(fleet) => self.replace(FLEET, fleet.clone()),
            None => Ok(()),
        });
        match written {
            Ok(()) => {
                if lock(&self.waiting.pending).problem.take().is_some() {
                    tracing::info!(state = %self.state.display(), "the snapshot is written again");
                }
                true
            }
            Err(error) => {
                self.failed(lines, batch.fleet, &error);
                false
            }
        }
    }

    /// After the objects: notes which kinds are complete, and rewrites the journal where most of it
    /// is out of date.
    fn round_off(&mut self, complete: BTreeSet<String>) -> io::Result<()> {
        if !complete.is_subset(&self.complete) {
            let all = self.complete.union(&complete).cloned().collect();
            self.replace(COMPLETE, serde_json::to_vec(&all)?)?;
            self.complete = all;
        }
        if let Some(journal) = self.journal.as_mut().filter(|it| it.is_mostly_history()) {
            journal.compact(&self.disk)?;
        }
        Ok(())
    }

    /// Writes a file that nobody else may read.
    fn replace(&self, file: &str, content: Vec<u8>) -> io::Result<()> {
        let write = FileWrite {
            path: file.into(),
            content: Some(content),
            private: true,
        };
        self.disk.apply(&[write]).into_iter().collect()
    }

    fn failed(&self, lines: Vec<Line>, fleet: Option<Vec<u8>>, error: &io::Error) {
        metrics::counter!("fairway_store_errors_total", "operation" => "snapshot").increment(1);
        let problem = format!(
            "the snapshot in {} can't be written: {error}; a start while the API server is away \
             would bring back what was known before",
            self.state.display()
        );
        if lock(&self.waiting.pending).problem.as_ref() != Some(&problem) {
            tracing::warn!(state = %self.state.display(), %error, "the snapshot can't be written");
        }
        self.waiting.give_back(lines, fleet, problem);
    }
}
