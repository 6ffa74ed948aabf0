//! Reports changes below the manifest directory, by inotify(7).
//!
//! Each directory is watched, and no file: so a file that an editor replaces by another one of the same
//! name is still seen. An event is only a hint where to look: the worker looks at the file itself, and
//! finds by a scan from time to time what no event told.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::links::LinkTargets;
use super::scan::is_manifest;

/// Where something has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hint {
    /// A manifest was written and closed, or moved here: look at once.
    Look(Arc<str>),
    /// A manifest's mode or owner changed: look at once, unless it is being written. Whoever copies
    /// a file sets its mode before its content.
    Touched(Arc<str>),
    /// A manifest was removed by its name.
    Gone(Arc<str>),
    /// A manifest is being written: look when it is closed, of which there will be an event.
    Writing(Arc<str>),
    /// The target of the link of that name was written and closed: look at once.
    LookBehind(Arc<str>),
    /// The target of the link of that name was made: perhaps it is about to be written.
    MadeBehind(Arc<str>),
    /// The name of a manifest is new: a file that is about to be written, of which there will be events,
    /// or a link, of which there will be no other event.
    Made(Arc<str>),
    /// Another name came or went: it matters where it is or was a link to a directory.
    Other(Arc<str>),
    /// Something else changed: scan the whole directory.
    Survey,
}

/// Why a directory is watched; there can be several reasons.
#[derive(Clone, Debug, Default)]
struct Watched {
    /// Its path below the root, where it is part of the survey.
    directory: Option<Arc<str>>,
    /// The names in it that decide where links lead.
    targets: BTreeMap<String, BTreeSet<Arc<str>>>,
    /// The manifest directory is in it, under this name.
    holds_root: Option<String>,
    /// It was set again in this scan.
    fresh: bool,
}

/// Which watch reports that a manifest is written, and under which name where a link leads there.
#[derive(Default)]
pub(super) struct Places {
    directories: BTreeMap<Arc<str>, i32>,
    behind: BTreeMap<Arc<str>, (i32, String)>,
}

impl Places {
    /// Whether a manifest is reported by the same watch in both: then the event that it was closed, for
    /// which somebody may wait, will come.
    pub(super) fn agree(&self, other: &Self, manifest: &str) -> bool {
        let directory = manifest.rsplit_once('/').map_or("", |(above, _)| above);
        self.directories.get(directory) == other.directories.get(directory)
            && self.behind.get(manifest) == other.behind.get(manifest)
    }
}

/// All inotify watches of a store.
pub(super) struct Watcher {
    inotify: OwnedFd,
    watches: BTreeMap<i32, Watched>,
    /// A directory could not be watched, which has been logged.
    short: bool,
    /// Whether there are links, which may lead through names that are passed over otherwise.
    links: bool,
}

impl Watcher {
    /// Watches nothing yet.
    pub(super) fn new() -> rustix::io::Result<Self> {
        Ok(Self {
            inotify: inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?,
            watches: BTreeMap::new(),
            short: false,
            links: false,
        })
    }

    /// Becomes readable when there are hints.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Whether a directory is not watched, so that only a scan finds its changes.
    pub(super) fn short(&self) -> bool {
        self.short
    }

    /// Which watch reports the writing of each manifest.
    pub(super) fn places(&self) -> Places {
        let mut places = Places::default();
        for (watch, watched) in &self.watches {
            if let Some(directory) = &watched.directory {
                places.directories.insert(Arc::clone(directory), *watch);
            }
            for (name, manifests) in &watched.targets {
                for manifest in manifests {
                    let place = (*watch, name.clone());
                    places.behind.insert(Arc::clone(manifest), place);
                }
            }
        }
        places
    }

    /// A scan begins: a directory that it does not enter is not watched any more when it has ended.
    pub(super) fn begin(&mut self) {
        self.short = false;
        for watched in self.watches.values_mut() {
            *watched = Watched::default();
        }
    }

    /// Watches a directory that the scan enters.
    pub(super) fn enter(&mut self, directory: &str, path: &Path) {
        if let Some(watched) = self.watch(path, contents()) {
            watched.directory = Some(directory.into());
        }
    }

    /// The scan has ended: watches the places that its links lead to, and the directory that its root is
    /// in. True: a directory that links lead through was not watched before, so that there was no event for
    /// what happened in it since the scan.
    pub(super) fn end(&mut self, root: &Path, targets: LinkTargets) -> bool {
        self.links = !targets.is_empty();
        let before = self.watches.len();
        for (directory, names) in targets {
            let holds_content = names.values().any(|manifests| !manifests.is_empty());
            let flags = if holds_content {
                contents()
            } else {
                names_alone()
            };
            if let Some(watched) = self.watch(&directory, flags) {
                watched.targets = names;
            }
        }
        let is_new = self.watches.len() > before;
        let name = root.file_name().map(|name| name.to_string_lossy());
        if let (Some(name), Some(parent)) = (name, root.parent()) {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            if let Some(watched) = self.watch(parent, names_alone()) {
                watched.holds_root = Some(name.into_owned());
            }
        }
        let stale: Vec<i32> = self
            .watches
            .iter()
            .filter(|(_, watched)| !watched.fresh)
            .map(|(watch, _)| *watch)
            .collect();
        for watch in stale {
            self.watches.remove(&watch);
            // The kernel has removed it already where the directory is gone.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
        is_new
    }

    fn watch(&mut self, path: &Path, flags: WatchFlags) -> Option<&mut Watched> {
        // The flags are added to those that are set: a directory may be watched for several reasons.
        let flags = flags | WatchFlags::MASK_ADD | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.inotify, path, flags) {
            Ok(watch) => {
                let watched = self.watches.entry(watch).or_default();
                watched.fresh = true;
                Some(watched)
            }
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(error) => {
                self.short = true;
                tracing::debug!(%error, path = %path.display(), "can't watch a directory");
                None
            }
        }
    }

    /// The events since the last call; never waits.
    pub(super) fn hints(&mut self) -> Vec<Hint> {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut hints = Vec::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR) => continue,
                Err(_) => return hints,
            };
            let flags = event.events();
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                hints.push(Hint::Survey);
                continue;
            }
            let Some(watched) = self.watches.get(&event.wd()) else {
                continue;
            };
            let name = event.file_name().map(|name| name.to_string_lossy());
            hint(watched, flags, name.as_deref(), self.links, &mut hints);
            if flags.contains(ReadFlags::IGNORED) {
                self.watches.remove(&event.wd());
            }
        }
    }
}

/// The events that can change what is read from a directory; not those of opening and reading.
fn contents() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::EXCL_UNLINK
}

/// The events of names that come and go in a directory. Others don't matter here, and there can be many,
/// as in /tmp or /var.
fn names_alone() -> WatchFlags {
    WatchFlags::CREATE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::DELETE
}

/// What one event means for one watch.
fn hint(
    watched: &Watched,
    flags: ReadFlags,
    name: Option<&str>,
    links: bool,
    hints: &mut Vec<Hint>,
) {
    let Some(name) = name else {
        // Of the directory itself: moved, removed, unmounted, its mode changed.
        if watched.directory.is_some() || !watched.targets.is_empty() {
            hints.push(Hint::Survey);
        }
        return;
    };
    let writing = flags.contains(ReadFlags::MODIFY);
    // A new file will be written to by whoever made it. A new link or directory will not.
    let made = flags.contains(ReadFlags::CREATE);
    let moved = flags.intersects(
        ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM | ReadFlags::DELETE,
    );
    if watched.holds_root.as_deref() == Some(name) && moved {
        hints.push(Hint::Survey);
    }
    if let Some(manifests) = watched.targets.get(name) {
        let hint = if writing {
            Some(Hint::Writing as fn(Arc<str>) -> Hint)
        } else if flags.contains(ReadFlags::CLOSE_WRITE) {
            Some(Hint::LookBehind as _)
        } else {
            // The link may lead elsewhere now, or nowhere, or to something that was not there before.
            hints.push(Hint::Survey);
            if made {
                Some(Hint::MadeBehind as _)
            } else {
                // The file that was being written, if any, is not there any more.
                moved.then_some(Hint::LookBehind as _)
            }
        };
        hints.extend(manifests.iter().cloned().filter_map(|it| Some(hint?(it))));
    }
    let Some(directory) = &watched.directory else {
        return;
    };
    if name.starts_with('.') {
        // Passed over, as are the temporary files of editors; but a mounted ConfigMap's links lead
        // through one.
        if links && moved {
            hints.push(Hint::Survey);
        }
        return;
    }
    if flags.contains(ReadFlags::ISDIR) {
        hints.push(Hint::Survey);
        return;
    }
    let path: Arc<str> = if directory.is_empty() {
        name.into()
    } else {
        format!("{directory}/{name}").into()
    };
    if is_manifest(name) {
        hints.push(if writing {
            Hint::Writing(path)
        } else if made {
            Hint::Made(path)
        } else if flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            Hint::Gone(path)
        } else if flags.contains(ReadFlags::ATTRIB) {
            Hint::Touched(path)
        } else {
            Hint::Look(path)
        });
    } else if moved {
        hints.push(Hint::Other(path));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::directory::scan;

    fn watch(root: &Path) -> Watcher {
        let mut watcher = Watcher::new().unwrap();
        watcher.begin();
        let survey = scan::survey(root, None, &mut |below, path| {
            watcher.enter(below, path);
        });
        watcher.end(root, survey.unwrap().targets);
        watcher
    }

    #[test]
    fn a_file_is_looked_at_when_it_is_closed_and_not_before() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        let mut watcher = watch(root.path());
        let path: Arc<str> = "sub/a.yaml".into();
        let file = fs::File::create(root.path().join(&*path)).unwrap();
        assert_eq!(watcher.hints(), [Hint::Made(Arc::clone(&path))]);
        std::io::Write::write_all(&mut &file, b"kind").unwrap();
        assert_eq!(watcher.hints(), [Hint::Writing(Arc::clone(&path))]);
        drop(file);
        assert_eq!(watcher.hints(), [Hint::Look(Arc::clone(&path))]);
        fs::remove_file(root.path().join(&*path)).unwrap();
        assert_eq!(watcher.hints(), [Hint::Gone(path)]);
    }

    #[test]
    fn a_changed_mode_is_told_from_a_file_that_was_closed() {
        let root = tempfile::tempdir().unwrap();
        let file = fs::File::create(root.path().join("a.yaml")).unwrap();
        let mut watcher = watch(root.path());
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        file.set_permissions(mode).unwrap();
        assert_eq!(watcher.hints(), [Hint::Touched("a.yaml".into())]);
    }

    #[test]
    fn reading_makes_no_hints() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("a.yaml"), "").unwrap();
        let mut watcher = watch(root.path());
        scan::read(&root.path().join("a.yaml")).unwrap_or_else(|_| panic!());
        scan::survey(root.path(), None, &mut |_, _| {}).unwrap();
        assert_eq!(watcher.hints(), []);
    }

    #[test]
    fn a_swapped_link_and_a_change_behind_a_link_ask_for_a_survey() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("x"), "").unwrap();
        symlink(elsewhere.path().join("x"), root.path().join("a.yaml")).unwrap();
        let mut watcher = watch(root.path());
        fs::rename(elsewhere.path().join("x"), elsewhere.path().join("y")).unwrap();
        assert!(watcher.hints().contains(&Hint::Survey));
        symlink("x", root.path().join("..new")).unwrap();
        assert_eq!(watcher.hints(), [Hint::Survey]);
        fs::rename(root.path().join("..new"), root.path().join("..data")).unwrap();
        assert!(watcher.hints().contains(&Hint::Survey));
    }

    #[test]
    fn a_temporary_file_that_is_moved_into_place_asks_for_no_survey() {
        let root = tempfile::tempdir().unwrap();
        let mut watcher = watch(root.path());
        fs::write(root.path().join(".next"), "kind").unwrap();
        fs::rename(root.path().join(".next"), root.path().join("a.yaml")).unwrap();
        assert_eq!(watcher.hints(), [Hint::Look("a.yaml".into())]);
    }

    #[test]
    fn the_root_that_goes_and_comes_is_noticed() {
        let above = tempfile::tempdir().unwrap();
        let root = above.path().join("manifests");
        fs::create_dir(&root).unwrap();
        let mut watcher = watch(&root);
        fs::rename(&root, above.path().join("away")).unwrap();
        assert!(watcher.hints().contains(&Hint::Survey));
        fs::create_dir(&root).unwrap();
        assert!(watcher.hints().contains(&Hint::Survey));
    }

    #[test]
    fn directories_that_are_gone_are_watched_no_more() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        let mut watcher = watch(root.path());
        let before = watcher.watches.len();
        fs::rename(root.path().join("sub"), root.path().join(".sub")).unwrap();
        watcher.begin();
        let survey = scan::survey(root.path(), None, &mut |below, path| {
            watcher.enter(below, path);
        });
        watcher.end(root.path(), survey.unwrap().targets);
        assert_eq!(watcher.watches.len(), before - 1);
    }
}
