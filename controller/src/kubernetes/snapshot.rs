//! The objects of a store on disk: a process that starts while the API server is away serves them.
//!
//! Every object is a line in a journal, as the API server sent it. A thread of its own writes. The
//! latest form of each object that changes meanwhile waits, so that what waits is bounded by the
//! number of objects. A disk that is full or broken is a problem that people are shown, and nothing
//! else.
//!
//! The state directory: `memory.jsonl` has the objects, `snapshot.json` the kinds that were once
//! complete in it, `fleet.json` the other gateways and their key, `lock` is held by the process that
//! uses it.
//!
//! One process may hand the directory over to another one (`state_handover`): what is to be
//! written waits meanwhile, and the lock says whose the files are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::UNIX_EPOCH;

use fairway_config::object::{Kind, ObjectKey};
use fairway_config::time::Timestamp;
use serde_json::Value;

use super::snapshot_writer::{COMPLETE, FLEET, SnapshotHolder, SnapshotQueue, SnapshotWriter};
use crate::feed::lock;
use crate::state::TakeError;
use crate::state::disk::Disk;
use crate::state::journal::{self, Contents, Journal};
use crate::state::lock::{Lock, make_directory};

/// The snapshot of a store. Dropping it writes what is left to write and waits for that.
pub struct Snapshot {
    /// What is in the journal or on its way there: a hash of each object.
    index: HashMap<ObjectKey, u64>,
    /// What was there at the start.
    recalled: Option<Recalled>,
    /// What [`FLEET`] had at the start.
    recalled_fleet: Option<Vec<u8>>,
    is_private: bool,
    waiting: Arc<SnapshotQueue>,
    writer: Option<JoinHandle<()>>,
}

/// What an earlier process knew.
pub(super) struct Recalled {
    records: BTreeMap<String, String>,
    complete: BTreeSet<String>,
    /// When it was last written to.
    pub(super) written: Timestamp,
}

impl Recalled {
    /// Whether these kinds are complete in it.
    pub(super) fn is_complete(&self, mut kinds: impl Iterator<Item = Kind>) -> bool {
        kinds.all(|kind| self.complete.contains(kind.as_str()))
    }

    /// The objects.
    pub(super) fn documents(self) -> impl Iterator<Item = (Kind, Value)> {
        self.records.into_iter().filter_map(|(key, json)| {
            let kind = key.parse::<ObjectKey>().ok()?.kind;
            match serde_json::from_str(&json) {
                Ok(document) => Some((kind, document)),
                Err(error) => {
                    tracing::warn!(object = key, %error, "can't be read in the snapshot");
                    None
                }
            }
        })
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Locks a state directory and reads what is there.
    ///
    /// # Errors
    /// Where another process has it or it can't be used.
    pub fn open(state: &Path) -> Result<Self, TakeError> {
        make_directory(state)?;
        let lock = Lock::take(state)?;
        let (journal, contents) = Journal::open(state).map_err(failed(state))?;
        Self::of(state, contents, Some((lock, journal)))
    }

    /// Reads what is there where another process has the directory, and holds it. Nothing is written before
    /// the store [owns](super::KubernetesStore::own) it.
    ///
    /// # Errors
    /// Where it can't be read.
    pub fn open_held(state: &Path) -> Result<Self, TakeError> {
        let contents = journal::read(state).map_err(failed(state))?;
        Self::of(state, contents, None)
    }

    fn of(
        state: &Path,
        contents: Contents,
        owned: Option<(Lock, Journal)>,
    ) -> Result<Self, TakeError> {
        let failed = failed(state);
        for (line, why) in &contents.broken {
            tracing::warn!(state = %state.display(), line, why, "a line of the snapshot is lost");
        }
        let records = contents.records;
        let index = records
            .iter()
            .filter_map(|(key, json)| Some((key.parse().ok()?, hash(json.as_bytes()))))
            .collect();
        let complete = complete(state);
        let written = contents.written;
        let written = written.and_then(|it| it.duration_since(UNIX_EPOCH).ok());
        tracing::info!(
            state = %state.display(),
            objects = records.len(),
            complete = !complete.is_empty(),
            "snapshot taken over"
        );
        let recalled_fleet = fs::read(state.join(FLEET)).ok();
        let is_private = keeps_private(state);
        let waiting = Arc::new(SnapshotQueue::default());
        lock(&waiting.pending).is_held = owned.is_none();
        let (lock, journal) = owned.unzip();
        let writer = SnapshotWriter {
            lock,
            state: state.to_owned(),
            disk: Disk::new(state.to_owned()),
            journal,
            complete: complete.clone(),
            waiting: Arc::clone(&waiting),
        };
        let writer = thread::Builder::new()
            .name("fairway-state".to_owned())
            .spawn(|| writer.run())
            .map_err(failed)?;
        Ok(Self {
            index,
            recalled: Some(Recalled {
                records,
                complete,
                written: Timestamp(written.map_or(0, |written| written.as_secs().cast_signed())),
            }),
            recalled_fleet,
            is_private,
            waiting,
            writer: Some(writer),
        })
    }

    /// By which another thread holds what is written, or has it go on.
    pub(super) fn holder(&self) -> SnapshotHolder {
        SnapshotHolder::new(Arc::clone(&self.waiting))
    }

    /// What was there at the start of the fleet. Answers only once.
    pub(super) fn recall_fleet(&mut self) -> Option<Vec<u8>> {
        self.recalled_fleet.take()
    }

    /// Whether nobody but Fairway's user can read what is written: some file systems have no modes.
    pub(super) fn is_private(&self) -> bool {
        self.is_private
    }

    /// Notes what is known of the fleet.
    pub(super) fn put_fleet(&mut self, content: Vec<u8>) {
        lock(&self.waiting.pending).fleet = Some(content);
        self.waiting.wake.notify_one();
    }

    /// What was there at the start. Answers only once, because it is large.
    pub(super) fn recall(&mut self) -> Option<Recalled> {
        self.recalled.take()
    }

    /// Notes the present form of an object.
    pub(super) fn put(&mut self, kind: Kind, document: &Value) {
        let Some(key) = key_in(kind, document) else {
            return;
        };
        let Ok(content) = serde_json::to_vec(document) else {
            return;
        };
        let hash = hash(&content);
        if self.index.insert(key.clone(), hash) != Some(hash) {
            self.waiting.add(key, Some(content));
        }
    }

    /// Notes that an object is gone.
    pub(super) fn remove(&mut self, kind: Kind, document: &Value) {
        if let Some(key) = key_in(kind, document)
            && self.index.remove(&key).is_some()
        {
            self.waiting.add(key, None);
        }
    }

    /// All objects of this kind have been listed; those that `is_there` does not know are gone.
    pub(super) fn listed(&mut self, kind: Kind, is_there: impl Fn(&ObjectKey) -> bool) {
        let gone: Vec<ObjectKey> = self
            .index
            .keys()
            .filter(|key| key.kind == kind && !is_there(key))
            .cloned()
            .collect();
        for key in gone {
            self.index.remove(&key);
            self.waiting.add(key, None);
        }
        let mut pending = lock(&self.waiting.pending);
        pending.complete.insert(kind.as_str().to_owned());
        self.waiting.wake.notify_one();
    }

    /// Why it can't be written now.
    pub(super) fn problem(&self) -> Option<String> {
        lock(&self.waiting.pending).problem.clone()
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        lock(&self.waiting.pending).closed = true;
        self.waiting.wake.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes the snapshot has panicked");
        }
    }
}

/// Whether a file that is made for its owner alone can be read by nobody else in this directory.
fn keeps_private(state: &Path) -> bool {
    let probe = state.join(".private");
    let _ = fs::remove_file(&probe);
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&probe);
    let mode = made.and_then(|file| Ok(file.metadata()?.permissions().mode()));
    let _ = fs::remove_file(&probe);
    mode.is_ok_and(|mode| mode & 0o077 == 0)
}

/// The kinds of which everything was there once; none where that is not known.
fn complete(state: &Path) -> BTreeSet<String> {
    let text = fs::read(state.join(COMPLETE)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn failed(path: &Path) -> impl Fn(io::Error) -> TakeError + Copy {
    move |source| TakeError::State {
        path: path.to_owned(),
        source,
    }
}

fn key_in(kind: Kind, document: &Value) -> Option<ObjectKey> {
    let metadata = document.get("metadata")?;
    let text = |field: &str| metadata.get(field).and_then(Value::as_str);
    Some(ObjectKey {
        kind,
        namespace: text("namespace").map(Into::into),
        name: text("name")?.into(),
    })
}

/// Where two forms of an object have one hash (1 in 2^64) the old form would come back after a
/// start without an API server.
fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::os::fd::OwnedFd;

    use serde_json::json;

    use super::super::snapshot_writer::WriterOrder;
    use super::*;

    fn node(name: &str, version: usize) -> Value {
        json!({"apiVersion": "v1", "kind": "Node",
               "metadata": {"name": name, "resourceVersion": version.to_string()}})
    }

    /// What a next process finds, with the kinds that are complete.
    fn found(state: &Path) -> (Vec<Value>, bool) {
        let mut snapshot = Snapshot::open(state).unwrap();
        let recalled = snapshot.recall().unwrap();
        let complete = recalled.is_complete([Kind::Node].into_iter());
        (recalled.documents().map(|(_, it)| it).collect(), complete)
    }

    #[test]
    fn the_last_form_of_each_object_comes_back() {
        let state = tempfile::tempdir().unwrap();
        let mut snapshot = Snapshot::open(state.path()).unwrap();
        for version in 0..100 {
            snapshot.put(Kind::Node, &node("a", version));
        }
        snapshot.put(Kind::Node, &node("b", 1));
        snapshot.put(Kind::Node, &node("c", 1));
        snapshot.remove(Kind::Node, &node("b", 2));
        drop(snapshot);
        let (nodes, complete) = found(state.path());
        assert_eq!(nodes, [node("a", 99), node("c", 1)]);
        // A list that had begun is no snapshot to serve from.
        assert!(!complete);
    }

    #[test]
    fn what_is_known_of_the_fleet_comes_back_and_nobody_else_can_read_it() {
        let state = tempfile::tempdir().unwrap();
        let mut snapshot = Snapshot::open(state.path()).unwrap();
        assert_eq!(snapshot.recall_fleet(), None);
        assert!(snapshot.is_private());
        for content in ["first", "second"] {
            snapshot.put_fleet(content.into());
        }
        drop(snapshot);
        let file = state.path().join(FLEET);
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut snapshot = Snapshot::open(state.path()).unwrap();
        assert_eq!(snapshot.recall_fleet().unwrap(), b"second");
        assert_eq!(snapshot.recall_fleet(), None);
    }

    #[test]
    fn what_a_list_does_not_show_is_gone() {
        let state = tempfile::tempdir().unwrap();
        let mut snapshot = Snapshot::open(state.path()).unwrap();
        snapshot.put(Kind::Node, &node("a", 1));
        snapshot.put(Kind::Node, &node("b", 1));
        drop(snapshot);
        let mut snapshot = Snapshot::open(state.path()).unwrap();
        snapshot.put(Kind::Node, &node("b", 2));
        snapshot.listed(Kind::Node, |key| &*key.name == "b");
        drop(snapshot);
        assert_eq!(found(state.path()), (vec![node("b", 2)], true));
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let state = tempfile::tempdir().unwrap();
        let mut snapshot = Snapshot::open(state.path()).unwrap();
        snapshot.put(Kind::Node, &node("a", 1));
        drop(snapshot);
        let size = || {
            fs::metadata(state.path().join("memory.jsonl"))
                .unwrap()
                .len()
        };
        let before = size();
        let mut snapshot = Snapshot::open(state.path()).unwrap();
        snapshot.put(Kind::Node, &node("a", 1));
        drop(snapshot);
        assert_eq!(size(), before);
    }

    #[test]
    fn a_disk_that_fails_is_a_problem_and_loses_nothing() {
        let state = tempfile::tempdir().unwrap();
        let mut snapshot = Snapshot::open(state.path()).unwrap();
        // A directory in its place: the file can't be put there.
        let place = state.path().join(COMPLETE);
        fs::create_dir(&place).unwrap();
        fs::write(place.join("x"), "").unwrap();
        snapshot.put(Kind::Node, &node("a", 1));
        snapshot.listed(Kind::Node, |_| true);
        while snapshot.problem().is_none() {
            thread::yield_now();
        }
        fs::remove_dir_all(place).unwrap();
        snapshot.put(Kind::Node, &node("b", 1));
        drop(snapshot);
        let wanted = vec![node("a", 1), node("b", 1)];
        assert_eq!(found(state.path()), (wanted, true));
    }

    #[test]
    fn history_that_cannot_be_dropped_does_not_grow_by_itself() {
        let state = tempfile::tempdir().unwrap();
        // In the place of the file that is to become the new journal.
        let obstacle = state.path().join(".memory.jsonl.tmp");
        fs::create_dir(&obstacle).unwrap();
        let large = "x".repeat(300_000);
        let rewrite = |version: usize| {
            let mut snapshot = Snapshot::open(state.path()).unwrap();
            let mut node = node("a", version);
            node["metadata"]["annotations"] = json!({"large": large});
            snapshot.put(Kind::Node, &node);
        };
        let journal = state.path().join("memory.jsonl");
        let size = || fs::metadata(&journal).unwrap().len();
        (0..10).for_each(rewrite);
        assert!((3_000_000..3_100_000).contains(&size()), "{}", size());
        fs::remove_dir(obstacle).unwrap();
        rewrite(10);
        assert!((300_000..310_000).contains(&size()), "{}", size());
        assert_eq!(found(state.path()).0.len(), 1);
    }

    #[test]
    fn a_state_directory_has_one_owner() {
        let state = tempfile::tempdir().unwrap();
        let _first = Snapshot::open(state.path()).unwrap();
        let second = Snapshot::open(state.path()).unwrap_err().to_string();
        let own = format!("belongs to process {}", std::process::id());
        assert!(second.contains(&own), "{second}");
    }

    /// The names of the objects that are on disk.
    fn names(state: &Path) -> Vec<String> {
        let all = crate::state::journal::read(state).unwrap().records;
        let keys = all.keys().map(|key| key.parse::<ObjectKey>().unwrap());
        keys.map(|key| key.name.to_string()).collect()
    }

    fn hold(snapshot: &Snapshot) -> bool {
        snapshot.holder().ask(WriterOrder::Hold).unwrap()
    }

    fn own(snapshot: &Snapshot, lock: Option<OwnedFd>) -> Result<(), TakeError> {
        let order = |reply| WriterOrder::Own(lock, reply);
        snapshot.holder().ask(order).unwrap()
    }

    #[test]
    fn what_changes_while_another_process_may_take_the_directory_is_written_later() {
        let state = tempfile::tempdir().unwrap();
        let mut old = Snapshot::open(state.path()).unwrap();
        old.put(Kind::Node, &node("a", 1));
        assert!(hold(&old));
        assert_eq!(names(state.path()), ["a"], "all that was known");
        old.put(Kind::Node, &node("b", 1));
        old.put_fleet("fleet".into());
        // The other one reads what is there, and ends.
        let mut new = Snapshot::open_held(state.path()).unwrap();
        let recalled: Vec<Value> = new.recall().unwrap().documents().map(|it| it.1).collect();
        assert_eq!(recalled, [node("a", 1)]);
        new.put(Kind::Node, &node("c", 1));
        assert!(own(&new, None).is_err(), "the lock is the old one's");
        drop(new);
        assert_eq!(names(state.path()), ["a"]);
        old.holder().order(WriterOrder::GoOn);
        drop(old);
        assert_eq!(names(state.path()), ["a", "b"]);
        assert_eq!(fs::read(state.path().join(FLEET)).unwrap(), b"fleet");
        Snapshot::open(state.path()).unwrap();
    }

    #[test]
    fn another_process_has_the_directory_once_it_has_the_lock() {
        let state = tempfile::tempdir().unwrap();
        let mut old = Snapshot::open(state.path()).unwrap();
        old.put(Kind::Node, &node("a", 1));
        assert!(hold(&old));
        let mut new = Snapshot::open_held(state.path()).unwrap();
        new.put(Kind::Node, &node("b", 1));
        old.put(Kind::Node, &node("of the old one", 1));
        let lock = old.holder().ask(WriterOrder::ShareLock).unwrap().unwrap();
        own(&new, Some(lock)).unwrap();
        old.holder().order(WriterOrder::GiveUp);
        new.put(Kind::Node, &node("c", 1));
        // The old one writes nothing at its end.
        drop(old);
        assert!(Snapshot::open(state.path()).is_err(), "the new one has it");
        drop(new);
        assert_eq!(names(state.path()), ["a", "b", "c"]);
    }

    #[test]
    fn a_process_that_has_given_up_keeps_the_directory_from_nobody() {
        let state = tempfile::tempdir().unwrap();
        let old = Snapshot::open(state.path()).unwrap();
        assert!(hold(&old));
        let new = Snapshot::open_held(state.path()).unwrap();
        let lock = old.holder().ask(WriterOrder::ShareLock).unwrap().unwrap();
        own(&new, Some(lock)).unwrap();
        old.holder().order(WriterOrder::GiveUp);
        drop(new);
        // The order is obeyed before the next answer.
        assert!(old.holder().ask(WriterOrder::ShareLock).unwrap().is_err());
        Snapshot::open(state.path()).unwrap();
    }

    #[test]
    fn a_disk_that_fails_is_not_held() {
        let state = tempfile::tempdir().unwrap();
        let mut old = Snapshot::open(state.path()).unwrap();
        // A directory in its place: the file can't be put there.
        let place = state.path().join(COMPLETE);
        fs::create_dir(&place).unwrap();
        fs::write(place.join("x"), "").unwrap();
        old.put(Kind::Node, &node("a", 1));
        old.listed(Kind::Node, |_| true);
        assert!(!hold(&old));
        fs::remove_dir_all(place).unwrap();
        assert!(hold(&old));
    }
}
