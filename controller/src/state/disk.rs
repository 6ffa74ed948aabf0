//! Writes files so that after a crash each has either its old or its new content.
//!
//! A file is written beside its place under a name that begins with a dot, made durable, renamed
//! over its place, and the directory made durable. For a handful of files that is an `fsync` each.
//! For many, one `syncfs` stands in for all of them: it waits until everything written to the file
//! system before the call is on stable storage and, since Linux 5.8, reports an error in writing
//! any of it back (syncfs(2)). That is no weaker than an `fsync` of each file, because no file is
//! renamed before the call has returned well, and none is reported as written before a second call
//! (or an `fsync` of the directories) has made the renames durable. It is much faster, because
//! the journal is committed once and not once for each file. The price is that it waits for what
//! others have written to the same file system too.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// From how many files on one `syncfs` is taken instead of an `fsync` each.
const MANY: usize = 9;

/// A write of one file.
#[derive(Debug)]
pub(crate) struct FileWrite {
    /// Where, below the state directory.
    pub(crate) path: PathBuf,
    /// Its new content; nothing: it is removed.
    pub(crate) content: Option<Vec<u8>>,
    /// Readable by Fairway's user alone: the memory of a Secret has its private key.
    pub(crate) private: bool,
}

/// Writes to a state directory.
pub(crate) struct Disk {
    root: PathBuf,
    #[cfg(test)]
    pub(crate) hook: Option<Hook>,
}

/// One step of a write, in the order in which they are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteStep {
    MakeDirectory,
    Create,
    Fill,
    Sync,
    Rename,
    Remove,
    SyncDirectory,
}

/// Used by tests: a disk that fails, or a process that dies, at a step.
#[cfg(test)]
pub(crate) type Hook = std::sync::Arc<dyn Fn(WriteStep, &Path) -> io::Result<()> + Send + Sync>;

impl Disk {
    /// Writes below `root`, which is there.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self {
            root,
            #[cfg(test)]
            hook: None,
        }
    }

    /// The directory that is written below.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Does all writes; one result for each, in order. What fails leaves the file as it was (or,
    /// where only making it durable failed, as it was to be) and the others are done all the same.
    pub(crate) fn apply(&self, writes: &[FileWrite]) -> Vec<io::Result<()>> {
        let many = writes.len() >= MANY;
        let mut dirty = BTreeSet::new();
        let mut results: Vec<_> = writes
            .iter()
            .map(|write| self.prepare(write, many, &mut dirty))
            .collect();
        if many {
            self.all_or_error(&mut results, |disk| disk.sync_all());
        }
        for (write, result) in writes.iter().zip(&mut results) {
            if result.is_ok() {
                *result = self.put_in_place(write);
            }
            if result.is_err() && write.content.is_some() {
                let temporary = temporary(&self.root.join(&write.path));
                if self.step(WriteStep::Remove, &temporary).is_ok() {
                    let _ = fs::remove_file(temporary);
                }
            }
        }
        dirty.extend(writes.iter().filter_map(|write| parent(&write.path)));
        if dirty.len() >= MANY {
            self.all_or_error(&mut results, |disk| disk.sync_all());
        } else {
            for directory in dirty {
                if let Err(error) = self.sync_directory(&directory) {
                    for (write, result) in writes.iter().zip(&mut results) {
                        if result.is_ok() && write.path.starts_with(&directory) {
                            *result = Err(copy(&error));
                        }
                    }
                }
            }
        }
        results
    }

    /// Writes one file that only Fairway may read, by way of `fill`: for what is too large to be
    /// held in memory. What fails leaves the file as it was.
    pub(crate) fn replace(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        let place = self.root.join(path);
        let beside = temporary(&place);
        self.step(WriteStep::Create, &beside)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&beside)?;
        let written = self
            .step(WriteStep::Fill, &beside)
            .and_then(|()| fill(&mut file))
            .and_then(|()| self.step(WriteStep::Sync, &beside))
            .and_then(|()| file.sync_all())
            .and_then(|()| self.step(WriteStep::Rename, &place))
            .and_then(|()| fs::rename(&beside, &place));
        if written.is_err() {
            let _ = fs::remove_file(beside);
        }
        written?;
        self.sync_directory(&parent(path).unwrap_or_default())
    }

    /// Puts the content beside its place, durable unless `many`. Directories that had to be made
    /// leave `dirty` ones above them.
    fn prepare(
        &self,
        write: &FileWrite,
        many: bool,
        dirty: &mut BTreeSet<PathBuf>,
    ) -> io::Result<()> {
        let Some(content) = &write.content else {
            return Ok(());
        };
        let place = self.root.join(&write.path);
        let temporary = temporary(&place);
        self.step(WriteStep::Create, &temporary)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options.mode(if write.private { 0o600 } else { 0o644 });
        let mut file = match options.open(&temporary) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_directories(&write.path, dirty)?;
                options.open(&temporary)?
            }
            other => other?,
        };
        self.step(WriteStep::Fill, &temporary)?;
        file.write_all(content)?;
        if !many {
            self.step(WriteStep::Sync, &temporary)?;
            file.sync_all()?;
        }
        Ok(())
    }

    fn make_directories(&self, file: &Path, dirty: &mut BTreeSet<PathBuf>) -> io::Result<()> {
        let Some(directory) = parent(file) else {
            return Ok(());
        };
        let mut below = PathBuf::new();
        for component in directory.components() {
            let above = below.clone();
            below.push(component);
            let path = self.root.join(&below);
            self.step(WriteStep::MakeDirectory, &path)?;
            match fs::create_dir(&path) {
                Ok(()) => {
                    dirty.insert(above);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn put_in_place(&self, write: &FileWrite) -> io::Result<()> {
        let place = self.root.join(&write.path);
        if write.content.is_some() {
            self.step(WriteStep::Rename, &place)?;
            return fs::rename(temporary(&place), place);
        }
        self.step(WriteStep::Remove, &place)?;
        match fs::remove_file(place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_all(&self) -> io::Result<()> {
        self.step(WriteStep::Sync, &self.root)?;
        rustix::fs::syncfs(File::open(&self.root)?)?;
        Ok(())
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        let path = self.root.join(directory);
        self.step(WriteStep::SyncDirectory, &path)?;
        match File::open(path) {
            Ok(directory) => directory.sync_all(),
            // Nothing was ever written there: there is nothing to make durable.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// An error of what is done for all is that of each which had none of its own.
    fn all_or_error(
        &self,
        results: &mut [io::Result<()>],
        act: impl FnOnce(&Self) -> io::Result<()>,
    ) {
        if let Err(error) = act(self) {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(copy(&error));
            }
        }
    }

    #[cfg(test)]
    fn step(&self, step: WriteStep, path: &Path) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook(step, path))
    }

    #[cfg(not(test))]
    fn step(&self, _: WriteStep, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a name is that of a file that was never put in its place.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// One name for each place: only the owner of the state directory writes there.
fn temporary(place: &Path) -> PathBuf {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    place.with_file_name(format!(".{name}.tmp"))
}

fn parent(path: &Path) -> Option<PathBuf> {
    path.parent().map(Path::to_owned)
}

fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn writes(count: usize, content: &str) -> Vec<FileWrite> {
        (0..count)
            .map(|n| FileWrite {
                path: format!("objects/kind-{}/{n}.json", n % 3).into(),
                content: Some(content.repeat(100).into_bytes()),
                private: true,
            })
            .collect()
    }

    fn read(root: &Path, write: &FileWrite) -> Option<String> {
        fs::read_to_string(root.join(&write.path)).ok()
    }

    #[test]
    fn a_crash_at_any_step_leaves_every_file_as_it_was_or_as_it_was_to_be() {
        for count in [1, 3, MANY, 20] {
            for crash_at in 0.. {
                let root = tempfile::tempdir().unwrap();
                let mut disk = Disk::new(root.path().to_owned());
                let old = writes(count, "old");
                assert!(disk.apply(&old).iter().all(Result::is_ok));
                let steps = Arc::new(AtomicUsize::new(0));
                let taken = Arc::clone(&steps);
                disk.hook = Some(Arc::new(move |_, _| {
                    if taken.fetch_add(1, Ordering::Relaxed) >= crash_at {
                        return Err(io::Error::other("dead"));
                    }
                    Ok(())
                }));
                let new = writes(count, "new");
                let results = disk.apply(&new);
                for (write, result) in new.iter().zip(&results) {
                    let there = read(root.path(), write).unwrap();
                    let whole = there == "old".repeat(100) || there == "new".repeat(100);
                    assert!(whole, "{count} files, step {crash_at}: {there}");
                    assert!(result.is_err() || there == "new".repeat(100));
                }
                if steps.load(Ordering::Relaxed) <= crash_at {
                    assert!(results.iter().all(Result::is_ok));
                    break;
                }
                assert!(results.iter().any(Result::is_err), "step {crash_at}");
            }
        }
    }

    #[test]
    fn one_file_that_fails_does_not_keep_the_others_from_being_written() {
        for count in [4, 40] {
            let root = tempfile::tempdir().unwrap();
            let mut disk = Disk::new(root.path().to_owned());
            disk.hook = Some(Arc::new(|step, path| {
                if step == WriteStep::Fill && path.ends_with(".2.json.tmp") {
                    return Err(io::Error::from_raw_os_error(28));
                }
                Ok(())
            }));
            let writes = writes(count, "new");
            for (n, result) in disk.apply(&writes).iter().enumerate() {
                assert_eq!(result.is_err(), n == 2);
                assert_eq!(read(root.path(), &writes[n]).is_none(), n == 2);
            }
            let stray = root.path().join("objects/kind-2/.2.json.tmp");
            assert!(!stray.exists(), "what failed is cleaned up");
        }
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::new(root.path().to_owned());
        let gone = FileWrite {
            path: "services/a/b.yaml".into(),
            content: None,
            private: false,
        };
        assert!(disk.apply(&[gone])[0].is_ok());
    }
}
