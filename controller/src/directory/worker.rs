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

use super::absence::Absence;
use super::catalog::Catalog;
use super::memory;
use super::objects::LiveObjects;
use super::recovery;
use super::scan::{FileIdentity, OwnState};
use super::settings::{DirectorySettings, OpenError};
use super::visible::Visible;
use super::watch::{Hint, Watcher};
use crate::feed::{Feed, lock};
use crate::state::TakeError;
use crate::state::disk::Disk;
use crate::state::journal::Journal;
use crate::state::lock::{Lock, make_directory};
use crate::store::WriteOutcome;

/// From the end of a pass to the next, at least: a hundred passes a second, whatever is written how
/// fast. Not more, for it is on the way of a change that follows another closely.
const BREATH: Duration = Duration::from_millis(10);

/// How long after its last change a file that is not closed is waited for: a copy over a slow line
/// may pause, and half of a file can be valid YAML with fewer Services.
const PATIENCE: Duration = Duration::from_secs(10);

/// What others want of the worker.
pub(super) enum Message {
    /// See [`crate::Store::write`].
    Write(
        Vec<Write>,
        Option<Instant>,
        oneshot::Sender<Vec<WriteOutcome>>,
    ),
    /// Look at everything.
    Rescan,
    /// Write what is left and end.
    Stop,
}

/// When to look at something that may have changed, and since when it may have.
#[derive(Clone, Copy)]
pub(super) struct Look {
    /// When to look: where that is not to come, when it was noticed.
    pub(super) at: Instant,
    /// It was as it is known until then.
    pub(super) after: Instant,
}

/// Why writing failed, and how long to leave it alone.
pub(super) struct WriteFailure {
    pub(super) message: String,
    pub(super) wait: Duration,
}

/// All that the thread works on.
pub(super) struct StoreWorker {
    pub(super) settings: DirectorySettings,
    pub(super) feed: Arc<Feed>,
    visible: Arc<Mutex<Visible>>,
    inbox: mpsc::Receiver<Message>,
    wake: Arc<OwnedFd>,
    /// How often it has looked what there is to do.
    pub(super) turns: Arc<AtomicU64>,
    _lock: Lock,
    /// The state directory, of which nothing is read as a manifest.
    pub(super) own: OwnState,
    pub(super) disk: Disk,
    pub(super) journal: Journal,
    /// Some of it can't be read: it is to be written anew without that.
    pub(super) journal_broken: bool,
    pub(super) watcher: Watcher,
    pub(super) catalog: Catalog,
    pub(super) absence: Absence,
    pub(super) objects: LiveObjects,
    /// Files to look at, and when.
    pub(super) looks: BTreeMap<Arc<str>, Look>,
    /// When to look at everything.
    pub(super) survey: Look,
    /// Nothing was waiting to be heard then, so that what is heard now came about later.
    silent: Instant,
    /// When the oldest change came about that this pass has found.
    pub(super) since: Option<Instant>,
    /// When to decide on files that are missing.
    pub(super) absence_at: Option<Instant>,
    /// Which directory the manifests were last read from, by this process or an earlier one.
    pub(super) root: Option<FileIdentity>,
    /// Directories of the last survey.
    pub(super) directories: BTreeMap<Arc<str>, FileIdentity>,
    /// What is wrong with the manifest directory or those below it.
    pub(super) directory_problems: Vec<Problem>,
    /// Objects that may have changed in this pass.
    pub(super) touched: BTreeSet<ObjectKey>,
    /// Kinds that were passed over and named once.
    pub(super) passed_over: BTreeSet<String>,
    /// The manifest directory has been read once, or memory stands in for it.
    pub(super) surveyed: bool,
    /// What is wrong may be different now.
    pub(super) news: bool,
    /// See [`StoreWorker::whole`].
    whole: bool,
    last_pass: Option<Instant>,
    /// From the last pass to the next, at least.
    breath: Duration,
    passes: u64,
    pub(super) root_due: bool,
    /// Memory that could not be read at the start.
    lost: Vec<Problem>,
    /// When to write what is due.
    pub(super) flush_at: Option<Instant>,
    /// Since when something has been due.
    pub(super) first_due: Option<Instant>,
    pub(super) failure: Option<WriteFailure>,
}

impl StoreWorker {
    /// Takes the state directory over and reads what is remembered.
    pub(super) fn open(
        settings: DirectorySettings,
        feed: Arc<Feed>,
        visible: Arc<Mutex<Visible>>,
        inbox: mpsc::Receiver<Message>,
        wake: Arc<OwnedFd>,
    ) -> Result<Self, OpenError> {
        settings.check()?;
        make_directory(&settings.state)?;
        let lock = Lock::take(&settings.state)?;
        let loaded = recovery::load(&settings.state).map_err(|source| TakeError::State {
            path: settings.state.clone(),
            source,
        })?;
        if loaded.records.is_empty() {
            // What an earlier run read can stand in for it, but there is nothing of the kind.
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
            visible,
            inbox,
            wake,
            turns: Arc::default(),
            _lock: lock,
            own: OwnState::new(&settings.state),
            disk: Disk::new(settings.state.clone()),
            journal: loaded.journal,
            journal_broken: !loaded.problems.is_empty(),
            watcher,
            root: memory::load_root(&settings.state),
            absence: Absence::new(settings.grace),
            catalog,
            objects,
            looks: BTreeMap::new(),
            survey: Look {
                at: now,
                after: now,
            },
            silent: now,
            since: None,
            absence_at: None,
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

    /// Works until it is told to stop.
    pub(super) fn run(&mut self) {
        loop {
            self.turns.fetch_add(1, Ordering::Relaxed);
            self.wait();
            for hint in self.watcher.hints() {
                self.note(hint);
            }
            self.silent = Instant::now();
            let stop = self.answer();
            if self.pass_at() <= Instant::now() {
                self.pass();
            }
            if self.flush_at.is_some_and(|at| at <= Instant::now()) {
                self.flush();
            }
            if stop {
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
        let next = self
            .flush_at
            .map_or(self.pass_at(), |at| at.min(self.pass_at()));
        // Rounded up, for a wait that ends early would be made again and again.
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_micros(50);
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let mut fds = [
            PollFd::from_borrowed_fd(self.watcher.fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN),
        ];
        // What waits already came while there was other work; what doesn't is heard as it comes.
        if poll(&mut fds, Some(&Timespec::default())) == Ok(0) {
            // An interrupted wait is a short one.
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
        if let Some(absence) = self.absence_at {
            at = at.min(absence);
        }
        self.last_pass.map_or(at, |last| at.max(last + self.breath))
    }

    fn note(&mut self, hint: Hint) {
        let now = Instant::now();
        match hint {
            // Where a link leads is to be watched, too.
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
            // A second name for a file that is there is not written to.
            Hint::Made(path) if !self.has_two_names(&path) => {
                self.expect(path, now).at = now + PATIENCE;
            }
            Hint::Look(path) | Hint::LookBehind(path) | Hint::Made(path) => {
                let look = self.expect(path, now);
                look.at = look.at.min(now);
            }
            // The look that is due when the writing ends sees the mode, too.
            Hint::Touched(path) => {
                self.expect(path, now);
            }
            Hint::Writing(path) => self.expect(path, now).at = now + PATIENCE,
            Hint::Gone(path) => {
                self.looks.remove(&path);
                if self.catalog.knows(&path) {
                    self.absence.miss(&path, now, false, true);
                    self.absence_at = Some(now);
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

    /// The look at a file of which something was heard.
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

    /// A change has been found that came about then.
    pub(super) fn found(&mut self, since: Instant) {
        self.since = self.since.into_iter().chain([since]).min();
    }

    /// Looks for changes, and tells of them.
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
            // The first of it: everything, whether it was read just now or is remembered.
            changes = self.objects.everything();
            tracing::info!(
                manifests = %self.settings.manifests.display(),
                files = self.catalog.len(),
                objects = self.objects.len(),
                "manifests read"
            );
        }
        let since = self.since.take();
        // Whoever hears of changes must not find that nothing is to be done.
        self.tell_outstanding();
        if known {
            self.feed.publish(changes, true, since);
        }
        self.plan_flush();
        // How many objects wait for a disk is part of what is told.
        self.news |= self.catalog.take_news() || self.failure.is_some();
        let ended = Instant::now();
        self.last_pass = Some(ended);
        // A directory that takes long to look at has half of a core at most.
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

    /// Nothing of the directory may still be away: what is remembered and not declared is not
    /// wanted any more.
    pub(super) fn whole(&mut self) {
        self.whole = !self.absence.is_interrupted() && !self.catalog.is_empty();
    }

    /// Does what others asked for; whether to stop.
    fn answer(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(Message::Write(writes, since, reply)) => {
                    let outcomes = self.write(writes, since);
                    // Whoever hears that all is written must not find that nothing is to be done.
                    self.tell_outstanding();
                    // Whoever asked may be gone; what was written is written.
                    let _ = reply.send(outcomes);
                }
                Ok(Message::Rescan) => self.survey_by(Instant::now()),
                Err(mpsc::TryRecvError::Empty) => return false,
                Ok(Message::Stop) | Err(mpsc::TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// Lets others see what is still to be done.
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
        let mut visible = lock(&self.visible);
        visible.outstanding = outstanding;
        visible.passes = self.passes;
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

    /// Lets others see what is wrong.
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
        lock(&self.visible).tell(problems);
    }
}

/// A problem of a file or directory as a whole.
pub(super) fn problem(file: &str, message: impl Into<String>) -> Problem {
    Problem::of_file(file, message)
}

fn timestamp() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_secs().cast_signed()))
}
