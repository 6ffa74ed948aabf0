//! The thread that reads and writes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fairway_config::exchange::Write;
use fairway_config::object::ObjectKey;
use fairway_config::problem::Problem;
use fairway_config::time::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::oneshot;

use super::catalog::Catalog;
use super::memory;
use super::missing_files::MissingFiles;
use super::objects::LiveObjects;
use super::recovery;
use super::scan::{FileIdentity, OwnState};
use super::settings::{DirectorySettings, OpenError};
use super::watch::{Hint, Watcher};
use super::worker_status::WorkerStatus;
use crate::feed::{Feed, lock};
use crate::state::TakeError;
use crate::state::disk::Disk;
use crate::state::journal::Journal;
use crate::state::lock::{Lock, make_directory};
use crate::store::WriteOutcome;

/// The shortest pause between two passes: at most a hundred passes a second, however fast files are
/// written. It is not longer, because a change that follows another closely waits for it.
const BREATH: Duration = Duration::from_millis(10);

/// How long the worker waits, after the last change of a file, for the writer to close it: a copy over a
/// slow line may pause, and half of a file can be valid YAML with fewer Services.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the worker sleeps at a time while another process has the state directory.
const HELD: Duration = Duration::from_secs(1);

/// A request to the worker thread.
pub(super) enum Message {
    /// See [`crate::Store::write`].
    Write(
        Vec<Write>,
        Option<Instant>,
        oneshot::Sender<Vec<WriteOutcome>>,
    ),
    /// Scan the whole manifest directory.
    Rescan,
    /// Write what is left, and then neither read nor write: another process is to have the state directory. Answered
    /// is whether all could be written.
    Hold(std::sync::mpsc::Sender<bool>),
    /// Give the lock to that process, too.
    ShareLock(std::sync::mpsc::Sender<std::io::Result<OwnedFd>>),
    /// That process has ended: go on.
    GoOn,
    /// That process has it now, for good: nothing is written any more.
    GiveUp,
    /// The process that had the state directory has handed it over; none: it has ended.
    Own(
        Option<OwnedFd>,
        std::sync::mpsc::Sender<Result<(), TakeError>>,
    ),
    /// Write what is left and end.
    Stop,
}

/// A request of [`Message::Write`] that waits.
type HeldWrite = (
    Vec<Write>,
    Option<Instant>,
    oneshot::Sender<Vec<WriteOutcome>>,
);

/// When to look at a file that may have changed, and from when on it may have.
#[derive(Clone, Copy)]
pub(super) struct Look {
    /// When to look at it. Where this is in the past: when the change was noticed.
    pub(super) at: Instant,
    /// It had not changed before this moment.
    pub(super) after: Instant,
}

/// Why a write to the state directory failed, and how long to wait before the next try.
pub(super) struct WriteFailure {
    pub(super) message: String,
    pub(super) wait: Duration,
}

/// The state of the worker thread.
pub(super) struct StoreWorker {
    pub(super) settings: DirectorySettings,
    pub(super) feed: Arc<Feed>,
    status: Arc<Mutex<WorkerStatus>>,
    inbox: mpsc::Receiver<Message>,
    wake: Arc<OwnedFd>,
    /// How many turns its loop has made: the watchdog of systemd looks at it.
    pub(super) turns: Arc<AtomicU64>,
    /// None: another process has the state directory.
    lock: Option<Lock>,
    /// Nothing is written.
    writes_held: bool,
    /// Nothing is read either: another process decides now.
    reads_held: bool,
    /// The directory is another process's for good.
    given_up: bool,
    /// What was to be written meanwhile.
    held_writes: Vec<HeldWrite>,
    /// The state directory, of which nothing is read as a manifest.
    pub(super) own: OwnState,
    pub(super) disk: Disk,
    pub(super) journal: Journal,
    /// Some lines of the journal can't be read: it has to be rewritten without them.
    pub(super) journal_broken: bool,
    pub(super) watcher: Watcher,
    pub(super) catalog: Catalog,
    pub(super) missing: MissingFiles,
    pub(super) objects: LiveObjects,
    /// Files that may have changed, and when to look at each.
    pub(super) looks: BTreeMap<Arc<str>, Look>,
    /// When to scan the whole manifest directory.
    pub(super) survey: Look,
    /// When inotify was last seen to have no event left: an event that is read now happened later.
    silent: Instant,
    /// When the oldest change was made that this pass has found.
    pub(super) since: Option<Instant>,
    /// When to decide on files that are missing.
    pub(super) decide_missing_at: Option<Instant>,
    /// Which directory the manifests were last read from, by this process or an earlier one.
    pub(super) root: Option<FileIdentity>,
    /// Directories of the last survey.
    pub(super) directories: BTreeMap<Arc<str>, FileIdentity>,
    /// What is wrong with the manifest directory or those below it.
    pub(super) directory_problems: Vec<Problem>,
    /// Objects that this pass has to look at again.
    pub(super) touched: BTreeSet<ObjectKey>,
    /// Kinds that Fairway does not use and that have been logged.
    pub(super) passed_over: BTreeSet<String>,
    /// The manifest directory has been read once, or the memory of an earlier run is used for it.
    pub(super) surveyed: bool,
    /// The list of problems may have changed.
    pub(super) news: bool,
    /// See [`StoreWorker::whole`].
    whole: bool,
    last_pass: Option<Instant>,
    /// The shortest pause between the last pass and the next.
    breath: Duration,
    passes: u64,
    pub(super) root_due: bool,
    /// What could not be read of the state directory at the start.
    lost: Vec<Problem>,
    /// When to write to disk what is due.
    pub(super) flush_at: Option<Instant>,
    /// Since when something has been due to be written.
    pub(super) first_due: Option<Instant>,
    pub(super) failure: Option<WriteFailure>,
}

impl StoreWorker {
    /// Locks the state directory and reads what an earlier run left there.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(super) fn open(
        settings: DirectorySettings,
        feed: Arc<Feed>,
        status: Arc<Mutex<WorkerStatus>>,
        inbox: mpsc::Receiver<Message>,
        wake: Arc<OwnedFd>,
    ) -> Result<Self, OpenError> {
        settings.check()?;
        make_directory(&settings.state)?;
        let lock = match settings.is_held {
            false => Some(Lock::take(&settings.state)?),
            true => None,
        };
        let loaded = recovery::load(&settings.state).map_err(|source| TakeError::State {
            path: settings.state.clone(),
            source,
        })?;
        if loaded.records.is_empty() {
            // Without a manifest directory only the memory of an earlier run could be served, and there is none.
            settings.check_manifests()?;
        }
        let watcher = Watcher::new().map_err(|error| OpenError::Watch {
            manifests: settings.manifests.clone(),
            source: error.into(),
        })?;
        let now = Instant::now();
        let mut catalog = Catalog::default();
        let mut objects = LiveObjects::default();
        objects.restore(loaded.records, &mut catalog, timestamp());
        tracing::info!(
            state = %settings.state.display(),
            objects = objects.len(),
            "state taken over"
        );
        Ok(Self {
            feed,
            status,
            inbox,
            wake,
            turns: Arc::default(),
            writes_held: lock.is_none(),
            reads_held: false,
            given_up: false,
            held_writes: Vec::new(),
            lock,
            own: OwnState::new(&settings.state),
            disk: Disk::new(settings.state.clone()),
            journal: loaded.journal,
            journal_broken: !loaded.problems.is_empty(),
            watcher,
            root: memory::load_root(&settings.state),
            missing: MissingFiles::new(settings.grace),
            catalog,
            objects,
            looks: BTreeMap::new(),
            survey: Look {
                at: now,
                after: now,
            },
            silent: now,
            since: None,
            decide_missing_at: None,
            directories: BTreeMap::new(),
            directory_problems: Vec::new(),
            touched: BTreeSet::new(),
            passed_over: BTreeSet::new(),
            surveyed: false,
            news: true,
            whole: false,
            last_pass: None,
            breath: BREATH,
            passes: 0,
            root_due: false,
            lost: loaded.problems,
            flush_at: None,
            first_due: None,
            failure: None,
            settings,
        })
    }

    /// Runs the loop until [`Message::Stop`].
    pub(super) fn run(&mut self) {
        loop {
            self.turns.fetch_add(1, Ordering::Relaxed);
            self.wait();
            for hint in self.watcher.hints() {
                self.note(hint);
            }
            self.silent = Instant::now();
            let stop = self.answer();
            if self.pass_at() <= Instant::now() && !self.reads_held {
                self.pass();
            }
            if self.flush_at.is_some_and(|at| at <= Instant::now()) && !self.writes_held {
                self.flush();
            }
            if stop && !self.writes_held {
                self.flush_all();
            }
            self.tell_outstanding();
            if std::mem::take(&mut self.news) {
                self.tell_problems();
            }
            if stop {
                self.feed.close();
                return;
            }
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) {
        let pass = (!self.reads_held).then(|| self.pass_at());
        let flush = self.flush_at.filter(|_| !self.writes_held);
        let next = pass.into_iter().chain(flush).min();
        let next = next.unwrap_or_else(|| Instant::now() + HELD);
        // Rounded up: a wait that ends too early would be repeated again and again.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_micros(50);
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let mut fds = [
            PollFd::from_borrowed_fd(self.watcher.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
        ];
        // An event that is here already may be old. One that this thread has to wait for is new.
        if poll(&mut fds, Some(&Timespec::default())) == Ok(0) {
            // A wait that a signal interrupts is only shorter.
            let _ = poll(&mut fds, Some(&timeout));
            self.silent = Instant::now();
        }
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// When the next pass is due.
    fn pass_at(&self) -> Instant {
        let mut at = self.survey.at;
        if let Some(look) = self.looks.values().map(|look| look.at).min() {
            at = at.min(look);
        }
        if let Some(absence) = self.decide_missing_at {
            at = at.min(absence);
        }
        self.last_pass.map_or(at, |last| at.max(last + self.breath))
    }

    fn note(&mut self, hint: Hint) {
        let now = Instant::now();
        match hint {
            // A link: its target has to be watched, too, which a scan does.
            Hint::Look(path) | Hint::Touched(path) | Hint::Made(path) if self.is_link(&path) => {
                self.survey_by(now);
            }
            Hint::Other(path) => {
                if self.directories.contains_key(&path) || self.is_link(&path) {
                    self.survey_by(now);
                }
            }
            Hint::MadeBehind(path) => {
                let found = std::fs::metadata(self.settings.manifests.join(&*path));
                if found.is_ok_and(|it| it.is_file() && it.len() == 0) {
                    self.expect(path, now).at = now + PATIENCE;
                }
            }
            // A file with a second name is a hard link: nobody is about to write to it.
            Hint::Made(path) if !self.has_two_names(&path) => {
                self.expect(path, now).at = now + PATIENCE;
            }
            Hint::Look(path) | Hint::LookBehind(path) | Hint::Made(path) => {
                let look = self.expect(path, now);
                look.at = look.at.min(now);
            }
            // Where somebody is writing the file, the look at the end of that sees the mode, too.
            Hint::Touched(path) => {
                self.expect(path, now);
            }
            Hint::Writing(path) => self.expect(path, now).at = now + PATIENCE,
            Hint::Gone(path) => {
                self.looks.remove(&path);
                if self.catalog.knows(&path) {
                    self.missing.miss(&path, now, false, true);
                    self.decide_missing_at = Some(now);
                }
            }
            Hint::Survey => self.survey_by(now),
        }
    }

    fn is_link(&self, path: &str) -> bool {
        let found = std::fs::symlink_metadata(self.settings.manifests.join(path));
        found.is_ok_and(|it| it.is_symlink())
    }

    fn has_two_names(&self, path: &str) -> bool {
        let found = std::fs::symlink_metadata(self.settings.manifests.join(path));
        found.is_ok_and(|it| it.is_file() && it.nlink() > 1)
    }

    /// The entry in `looks` for a file of which an event was read.
    fn expect(&mut self, path: Arc<str>, now: Instant) -> &mut Look {
        self.looks.entry(path).or_insert(Look {
            at: now,
            after: self.silent,
        })
    }

    fn survey_by(&mut self, at: Instant) {
        if at < self.survey.at {
            self.survey = Look {
                at,
                after: self.silent,
            };
        }
    }

    /// A change was found that was made at this time.
    pub(super) fn found(&mut self, since: Instant) {
        self.since = self.since.into_iter().chain([since]).min();
    }

    /// Looks for changed files and tells subscribers what has changed.
    fn pass(&mut self) {
        self.passes += 1;
        metrics::counter!("fairway_manifest_passes_total").increment(1);
        let now = Instant::now();
        if self.survey.at <= now {
            self.survey();
        } else {
            self.look();
        }
        self.decide_on_missing();
        let touched = std::mem::take(&mut self.touched);
        let known = self.surveyed;
        let mut changes = self.objects.refresh(&self.catalog, touched, timestamp());
        if std::mem::take(&mut self.whole) {
            self.objects.forget_the_rest();
        }
        if known && !self.feed.is_synced() {
            // The first batch has every object, whether it was read just now or is remembered.
            changes = self.objects.everything();
            tracing::info!(
                manifests = %self.settings.manifests.display(),
                files = self.catalog.len(),
                objects = self.objects.len(),
                "manifests read"
            );
        }
        let since = self.since.take();
        // First this: a subscriber that reacts at once must not read that nothing is outstanding.
        self.tell_outstanding();
        if known {
            self.feed.publish(changes, true, since);
        }
        self.plan_flush();
        // The message of a failure has the number of objects that wait for the disk.
        self.news |= self.catalog.take_news() || self.failure.is_some();
        let ended = Instant::now();
        self.last_pass = Some(ended);
        // Where a pass takes long, passes take half of a core at most.
        self.breath = BREATH.max(ended - now);
    }

    /// The manifest directory is there and has been read.
    pub(super) fn arrived(&mut self, root: FileIdentity) {
        self.surveyed = true;
        if self.root != Some(root) {
            self.root = Some(root);
            self.root_due = true;
        }
    }

    /// Every manifest has been seen, and no interruption goes on: objects that are remembered and that
    /// no manifest declares were deleted while Fairway did not run.
    pub(super) fn whole(&mut self) {
        self.whole = !self.missing.is_interrupted() && !self.catalog.is_empty();
    }

    /// Answers the messages that have come. True: the worker has to stop.
    fn answer(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Message::Write(writes, _, reply)) if self.given_up => {
                    let _ = reply.send(given_up(&writes));
                }
                Ok(Message::Write(writes, since, reply)) if self.writes_held => {
                    self.held_writes.push((writes, since, reply));
                }
                Ok(Message::Write(writes, since, reply)) => {
                    let outcomes = self.write(writes, since);
                    // Before the reply: whoever gets it must not read that nothing is outstanding.
                    self.tell_outstanding();
                    // The sender may be gone. What was written stays written.
                    let _ = reply.send(outcomes);
                }
                Ok(Message::Rescan) => self.survey_by(Instant::now()),
                // Whoever asked may be gone, here and below.
                Ok(Message::Hold(reply)) => {
                    let is_written = self.writes_held || self.flush_all();
                    (self.writes_held, self.reads_held) = (is_written, is_written);
                    let _ = reply.send(is_written);
                }
                Ok(Message::ShareLock(reply)) => {
                    let missing = || rustix::io::Errno::BADF.into();
                    let lock = self.lock.as_mut().ok_or_else(missing);
                    let _ = reply.send(lock.and_then(Lock::share));
                }
                Ok(Message::GoOn) => {
                    if let Some(lock) = &mut self.lock {
                        lock.keep();
                    }
                    self.go_on();
                }
                Ok(Message::GiveUp) => {
                    self.given_up = true;
                    // As long as it is open the lock is not free, should the other process end.
                    self.lock = None;
                    for (writes, _, reply) in self.held_writes.drain(..) {
                        let _ = reply.send(given_up(&writes));
                    }
                }
                Ok(Message::Own(file, reply)) => {
                    let state = &self.settings.state;
                    let lock = match file {
                        Some(file) => Ok(Lock::of(file, state)),
                        None => Lock::take(state),
                    };
                    let owned = lock.map(|lock| self.lock = Some(lock));
                    let is_own = owned.is_ok();
                    // Others wait for the lock, and not for what is written then.
                    let _ = reply.send(owned);
                    if is_own {
                        self.go_on();
                    }
                }
                Err(mpsc::TryRecvError::Empty) => return false,
                Ok(Message::Stop) | Err(mpsc::TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// Reads and writes from now on.
    fn go_on(&mut self) {
        (self.writes_held, self.reads_held) = (false, false);
        for (writes, since, reply) in std::mem::take(&mut self.held_writes) {
            let outcomes = self.write(writes, since);
            let _ = reply.send(outcomes);
        }
        self.survey_by(Instant::now());
    }

    /// Publishes what has still to be written or read.
    fn tell_outstanding(&self) {
        let mut outstanding = Vec::new();
        if let Some(failure) = &self.failure {
            outstanding.push(self.failure_message(failure));
        } else if !self.objects.shown_due.is_empty() {
            outstanding.push(format!(
                "{} statuses are on their way to {}",
                self.objects.shown_due.len(),
                self.settings.state.display()
            ));
        }
        if !self.surveyed {
            outstanding.push(format!(
                "{} has not been read",
                self.settings.manifests.display()
            ));
        }
        let mut status = lock(&self.status);
        status.outstanding = outstanding;
        status.passes = self.passes;
    }

    fn failure_message(&self, failure: &WriteFailure) -> String {
        format!(
            "can't write state ({}); {} objects wait, what was there stays, and it is tried again \
             within {} s",
            failure.message,
            self.objects
                .records_due
                .len()
                .max(self.objects.shown_due.len()),
            failure.wait.as_secs()
        )
    }

    /// Publishes the problems there are.
    fn tell_problems(&self) {
        let mut problems = self.directory_problems.clone();
        problems.extend(self.catalog.problems());
        problems.extend(self.lost.iter().cloned());
        if let Some(failure) = &self.failure {
            let message = self.failure_message(failure);
            problems.push(problem(&self.settings.state.to_string_lossy(), message));
        }
        let errors = problems.iter().filter(|problem| problem.is_error()).count();
        metrics::gauge!("fairway_manifest_errors").set(errors as f64);
        problems.sort();
        lock(&self.status).tell(problems);
    }
}

/// A problem of a file or directory as a whole.
pub(super) fn problem(file: &str, message: impl Into<String>) -> Problem {
    Problem::of_file(file, message)
}

/// The outcomes of writes to a directory that another process has.
fn given_up(writes: &[Write]) -> Vec<WriteOutcome> {
    let why = "another process has taken the state directory over";
    vec![WriteOutcome::Failed(why.to_owned()); writes.len()]
}

fn timestamp() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_secs().cast_signed()))
}
