//! A store over a directory of manifests: files in, files out.
//!
//! Reading order:
//! 1. `scan` finds and reads files, `links` says where links lead, `watch` hears of changes, `manifest`
//!    turns text into objects;
//! 2. `catalog` knows which file declares what and what is held back, `absence` when a file
//!    that is gone counts as deleted;
//! 3. `holding` is what an object in force has and what a Service keeps when it changes, `changes`
//!    what subscribers hear of it, `decisions` what the log says of it, `objects` has all of it and what of it is not yet on disk;
//! 4. `memory` and `render` say what is written, `recovery` reads it after a restart; `offline` reads
//!    manifests without any of this;
//! 5. `worker` is the thread that does all of this, one thing after the other; `survey` is its
//!    part that finds out what has changed, `writeback` the one that makes decisions last,
//!    `visible` what it lets others see.
//!
//! The state directory:
//! - `memory.jsonl`: Fairway's memory of each object, a line for each change: its last good form, the
//!   file it came from, when it was first seen and, for a Service, what it holds. Node ports and
//!   addresses come back from here.
//! - `services/NAMESPACE/NAME.yaml`, `pools/NAME.yaml`: the same for people and programs, as an API
//!   server would return it. Made from the memory when things have been quiet for a moment, and
//!   again whenever it differs.
//! - `root.json`: which directory the manifests were read from; `lock`: who is at work.
//!
//! Invariants:
//! - A change is told when it has been read; what was given out comes back when it would survive a
//!   crash, a status alone at once. Both in the order in which they took effect.
//! - Nothing is released because it could not be read.

mod absence;
mod catalog;
mod changes;
mod decisions;
mod holding;
mod links;
mod manifest;
mod memory;
mod objects;
mod offline;
mod parallel;
mod recovery;
mod render;
mod scan;
mod settings;
mod survey;
mod visible;
mod watch;
mod worker;
mod writeback;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use fairway_config::exchange::{Batch, Change, ReportBatch, Write};
use fairway_config::names::ClusterName;
use fairway_config::problem::Problem;
use futures::StreamExt as _;
use rustix::event::{EventfdFlags, eventfd};

use crate::feed::{Feed, lock};
use crate::store::{Outcomes, Store, WriteKey, WriteOutcome};
pub use offline::{Declared, declared, declared_bytes};
pub use settings::{DirectorySettings, OpenError};
use visible::Visible;
use worker::{Message, StoreWorker};

/// A [`Store`] over a directory of manifests and a state directory.
///
/// One thread does all reading and writing. Dropping the store writes what is left to write and
/// waits for it.
pub struct DirectoryStore {
    feed: Arc<Feed>,
    visible: Arc<Mutex<Visible>>,
    messages: mpsc::Sender<Message>,
    wake: Arc<OwnedFd>,
    turns: Arc<AtomicU64>,
    worker: Option<JoinHandle<()>>,
}

impl DirectoryStore {
    /// Takes the state directory over and begins to read.
    ///
    /// # Errors
    /// Where another process has the state directory, or it can't be used. Manifests that are not
    /// there or can't be read are no error: they are problems.
    pub fn open(settings: DirectorySettings) -> Result<Self, OpenError> {
        let watch_failed = {
            let manifests = settings.manifests.clone();
            move |source: io::Error| OpenError::Watch {
                manifests: manifests.clone(),
                source,
            }
        };
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| watch_failed(error.into()))?;
        let wake = Arc::new(wake);
        let feed = Arc::new(Feed::default());
        let visible = Arc::new(Mutex::new(Visible::default()));
        let (messages, inbox) = mpsc::channel();
        let mut worker = StoreWorker::open(
            settings,
            Arc::clone(&feed),
            Arc::clone(&visible),
            inbox,
            Arc::clone(&wake),
        )?;
        let turns = Arc::clone(&worker.turns);
        let worker = thread::Builder::new()
            .name("fairway-store".to_owned())
            .spawn(move || worker.run())
            .map_err(watch_failed)?;
        Ok(Self {
            feed,
            visible,
            messages,
            wake,
            turns,
            worker: Some(worker),
        })
    }

    /// How many times the store has gone to look for changes: bounded by time, however many
    /// changes there are.
    pub fn passes(&self) -> u64 {
        lock(&self.visible).passes
    }

    /// How often the store's thread has turned; asked, it turns once more. Where that is still the same
    /// after a while it is stuck.
    pub fn turns(&self) -> u64 {
        let turns = self.turns.load(Ordering::Relaxed);
        self.wake_up();
        turns
    }

    /// Looks at all manifests, whatever was heard of them.
    pub fn rescan(&self) {
        self.send(Message::Rescan);
    }

    fn wake_up(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn send(&self, message: Message) {
        // It is there as long as the store is; a worker that died has logged why.
        let _ = self.messages.send(message);
        self.wake_up();
    }
}

impl Store for DirectoryStore {
    fn subscribe(&self) -> tokio::sync::mpsc::Receiver<Batch> {
        self.feed.subscribe()
    }

    /// Answers when all of them are written: what comes meanwhile goes with the next ones, in one write
    /// to the disk.
    async fn write(&self, writes: Vec<Write>, since: Option<Instant>) -> Outcomes {
        let keys: Vec<WriteKey> = writes.iter().map(WriteKey::of).collect();
        let (reply, outcomes) = tokio::sync::oneshot::channel();
        self.send(Message::Write(writes, since, reply));
        let closed = || WriteOutcome::Failed("the store is closed".to_owned());
        let outcomes = outcomes
            .await
            .unwrap_or_else(|_| vec![closed(); keys.len()]);
        futures::stream::iter(keys.into_iter().zip(outcomes)).boxed()
    }

    fn report(&self, gateway: &ClusterName, said: ReportBatch) {
        let changes = said
            .reports
            .into_iter()
            .map(|(name, report)| Change::Report(name, gateway.clone(), report))
            .collect();
        self.feed.publish(changes, false, None);
    }

    fn sequence(&self) -> u64 {
        self.feed.sequence()
    }

    fn problems(&self) -> Vec<Problem> {
        lock(&self.visible).problems.clone()
    }

    fn outstanding(&self) -> Vec<String> {
        lock(&self.visible).outstanding.clone()
    }
}

impl Drop for DirectoryStore {
    fn drop(&mut self) {
        self.send(Message::Stop);
        if let Some(worker) = self.worker.take() {
            // A panic in it has been reported by the panic hook.
            let _ = worker.join();
        }
    }
}
