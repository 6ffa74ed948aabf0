//! A store over a directory of manifests: files in, files out.
//!
//! Reading order:
//! 1. `scan` finds and reads files, `links` follows symbolic links, `watch` reports changes (inotify),
//!    `manifest` turns text into objects;
//! 2. `catalog` holds which file declares which object and what is held back, `missing_files` decides when
//!    a file that is gone counts as deleted;
//! 3. `objects` holds every object that is in force and what of it is not on disk yet; `live_service` says
//!    what a Service keeps when its manifest changes, `changes` what subscribers are told, `decision_log`
//!    what is logged;
//! 4. `memory` and `render` make the content of state files, `recovery` reads them after a restart;
//!    `read_once` reads manifests without a store;
//! 5. `worker` is the thread that does all of this. `survey` is the part of it that looks for changed files,
//!    `writeback` the part that writes decisions to disk, `worker_status` what other threads can read of it.
//!
//! The state directory:
//! - `memory.jsonl`: Fairway's memory of each object, a line for each change: its last good form, the
//!   file it came from, when it was first seen and, for a Service, what it holds. Node ports and
//!   addresses come back from here.
//! - `services/NAMESPACE/NAME.yaml`, `pools/NAME.yaml`: the same for people and programs, as an API
//!   server would return it. Made from the memory when things have been quiet for a moment, and
//!   again whenever it differs.
//! - what the process keeps besides, a file each ([`DirectoryStore::keep`]);
//! - `root.json`: which directory the manifests were read from; `lock`: held by the process that uses the directory;
//!   `take-over.sock`: where it waits for one that takes over (the gateway makes it).
//!
//! Invariants:
//! - Subscribers are told of a change of a manifest as soon as it has been read. They are told of an
//!   address or a node port that was given out when it is on disk, and of a status at once. All of it in
//!   the order in which it took effect.
//! - Nothing is released because it could not be read.

mod catalog;
mod changes;
mod decision_log;
mod links;
mod live_service;
mod manifest;
mod memory;
mod missing_files;
mod objects;
mod parallel;
mod read_once;
mod recovery;
mod render;
mod scan;
mod settings;
mod survey;
mod watch;
mod worker;
mod worker_status;
mod writeback;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use fairway_config::exchange::{Batch, Change, ReportBatch, Write};
use fairway_config::names::ClusterName;
use fairway_config::problem::Problem;
use futures::StreamExt as _;
use rustix::event::{EventfdFlags, eventfd};

use crate::feed::{Feed, lock};
use crate::own_addresses::{OwnAddress, OwnAddresses};
use crate::state::disk::{Disk, FileWrite};
use crate::store::{Outcomes, Store, WriteKey, WriteOutcome};
pub use read_once::{Declared, declared, declared_bytes};
pub use settings::{DirectorySettings, OpenError};
use worker::{Message, StoreWorker};
use worker_status::WorkerStatus;

/// A [`Store`] over a directory of manifests and a state directory.
///
/// One thread does all reading and writing. Dropping the store writes what is left to write and
/// waits for it.
pub struct DirectoryStore {
    feed: Arc<Feed>,
    status: Arc<Mutex<WorkerStatus>>,
    messages: mpsc::Sender<Message>,
    wake: Arc<OwnedFd>,
    turns: Arc<AtomicU64>,
    own_addresses: OwnAddresses,
    /// For what the process keeps besides. The worker has its own.
    disk: Mutex<Disk>,
    /// Another process has the state directory, or is about to. Changes while the disk is locked.
    is_held: AtomicBool,
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
        let disk = Mutex::new(Disk::new(settings.state.clone()));
        let is_held = settings.is_held;
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)
            .map_err(|error| watch_failed(error.into()))?;
        let wake = Arc::new(wake);
        let feed = Arc::new(Feed::default());
        let status = Arc::new(Mutex::new(WorkerStatus::default()));
        let (messages, inbox) = mpsc::channel();
        let mut worker = StoreWorker::open(
            settings,
            Arc::clone(&feed),
            Arc::clone(&status),
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
            status,
            messages,
            wake,
            turns,
            own_addresses: OwnAddresses::default(),
            disk,
            is_held: AtomicBool::new(is_held),
            worker: Some(worker),
        })
    }

    /// How many times the store has gone to look for changes: bounded by time, however many
    /// changes there are.
    pub fn passes(&self) -> u64 {
        lock(&self.status).passes
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

    /// Writes a file of that name in the state directory, which is not one of the store's own. After a crash it has its
    /// old or its new content.
    ///
    /// # Errors
    /// It can't be written. It is as it was, or not known to be durable.
    pub fn keep(&self, name: &str, content: Vec<u8>) -> io::Result<()> {
        let disk = lock(&self.disk);
        if self.is_held.load(Ordering::Acquire) {
            let why = "another process is taking the state directory over";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        let write = FileWrite {
            path: name.into(),
            content: Some(content),
            private: false,
        };
        let mut done = disk.apply(&[write]);
        done.pop().unwrap_or(Ok(()))
    }

    /// The content of a file that [`Self::keep`] has written; none: there is no such file.
    ///
    /// # Errors
    /// It can't be read.
    pub fn kept(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match std::fs::read(lock(&self.disk).root().join(name)) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes what is left, and then neither reads nor writes until [`Self::go_on`]: another process is to have the
    /// state directory. Returns whether all could be written; else the store goes on.
    pub fn hold(&self) -> bool {
        let set = |is_held| {
            let _disk = lock(&self.disk);
            self.is_held.store(is_held, Ordering::Release);
        };
        set(true);
        let (reply, is_held) = mpsc::channel();
        self.send(Message::Hold(reply));
        let is_held = is_held.recv().unwrap_or(false);
        set(is_held);
        is_held
    }

    /// The other process has ended, and has written nothing: the store goes on.
    pub fn go_on(&self) {
        self.is_held.store(false, Ordering::Release);
        self.send(Message::GoOn);
    }

    /// The other process has the state directory for good: this one writes nothing any more.
    pub fn give_up(&self) {
        self.send(Message::GiveUp);
    }

    /// The lock of the state directory for the other process. This one does not release it any more.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub fn share_lock(&self) -> io::Result<OwnedFd> {
        let (reply, lock) = mpsc::channel();
        self.send(Message::ShareLock(reply));
        let gone = |_| io::Error::other("the store is closed");
        lock.recv().map_err(gone).flatten()
    }

    /// The state directory is this process's: another one has handed its lock over, or (none) has ended.
    ///
    /// # Errors
    /// The other one has it still.
    pub fn own(&self, lock: Option<OwnedFd>) -> Result<(), OpenError> {
        let (reply, owned) = mpsc::channel();
        self.send(Message::Own(lock, reply));
        match owned.recv() {
            Ok(owned) => {
                owned?;
                self.is_held.store(false, Ordering::Release);
                Ok(())
            }
            Err(_) => Ok(()),
        }
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
        self.own_addresses.take(&said.addresses);
        let reports = said.reports.into_iter();
        let reports = reports.map(|(name, report)| Change::Report(name, gateway.clone(), report));
        let addresses = said.addresses.into_iter();
        let addresses =
            addresses.map(|(address, report)| Change::Address(address, gateway.clone(), report));
        let changes = reports.chain(addresses).collect();
        self.feed.publish(changes, false, None);
    }

    fn own_addresses(&self) -> BTreeMap<IpAddr, OwnAddress> {
        self.own_addresses.all()
    }

    fn sequence(&self) -> u64 {
        self.feed.sequence()
    }

    fn problems(&self) -> Vec<Problem> {
        lock(&self.status).problems.clone()
    }

    fn outstanding(&self) -> Vec<String> {
        lock(&self.status).outstanding.clone()
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
