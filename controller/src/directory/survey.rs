//! The part of the worker that looks for changed manifests: it looks at some files or at all of them,
//! reads those that have changed, and decides what becomes of those that are gone.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fairway_config::problem::Problem;

use super::manifest::{self, Manifest};
use super::missing_files::MissingFileOutcome;
use super::parallel;
use super::scan::{self, FileIdentity, ManifestReadError, Sighting, Stamp, Survey};
use super::worker::{Look, StoreWorker, problem};

/// How often the worker looks for a manifest directory that is not there.
const ABSENT: Duration = Duration::from_millis(250);

/// How often the whole directory is scanned where the kernel has no inotify watches left.
const UNWATCHED: Duration = Duration::from_secs(1);

/// A file that a scan finds changed in place, and of which no event said that it was closed, is read
/// when it has not changed for this long.
const SETTLED: Duration = Duration::from_millis(250);

/// When to look again at a file that changed while it was read.
const MOVING: Duration = Duration::from_millis(50);

impl StoreWorker {
    /// Scans the whole manifest directory.
    pub(super) fn survey(&mut self) {
        let root = self.settings.manifests.clone();
        let began = Instant::now();
        let before = self.watcher.places();
        self.watcher.begin();
        let watcher = &mut self.watcher;
        let own = Some(&self.own);
        let mut found = scan::survey(&root, own, &mut |below, path| watcher.enter(below, path));
        let targets = match &mut found {
            Ok(survey) => std::mem::take(&mut survey.targets),
            Err(_) => Default::default(),
        };
        let unheard = self.watcher.end(&root, targets);
        let now = Instant::now();
        // The worker waits for a writer to close a file only where it will get that event: the file may
        // have been moved away, or the link to it may lead elsewhere now.
        let after = self.watcher.places();
        self.looks
            .retain(|path, look| look.at <= now || before.agree(&after, path));
        let asked = Look {
            at: self.survey.at.min(now),
            ..self.survey
        };
        // A change that the next scan finds, and of which there was no event, was made after this one
        // began.
        self.survey.after = began;
        match found {
            Ok(survey) => {
                self.take(&root, survey, asked, now);
                if unheard {
                    self.survey.at = now;
                }
            }
            Err(error) => {
                self.survey.at = now + ABSENT;
                self.absent(&format!("can't be read: {error}"), now);
            }
        }
    }

    /// The manifest directory can't be read: everything stays as it is.
    fn absent(&mut self, why: &str, now: Instant) {
        let manifests = self.settings.manifests.to_string_lossy().into_owned();
        let message = format!(
            "the manifest directory {why}; what was declared in it stays in force until it is back"
        );
        if self.directory_problems.is_empty() || !self.missing.is_interrupted() {
            tracing::warn!(manifests, why, "the manifest directory can't be read");
            metrics::counter!("fairway_store_errors_total", "operation" => "read").increment(1);
        }
        self.of_directories(vec![problem(&manifests, message)]);
        self.missing.interrupt(now);
        let held: Arc<str> = format!("the manifest directory {manifests} {why}").into();
        for path in self.catalog.paths().cloned().collect::<Vec<_>>() {
            let touched = self.catalog.hold(&path, None, Arc::clone(&held), None);
            self.touched.extend(touched);
        }
        // The memory of an earlier run is used in its place, if there is one.
        self.surveyed |= !self.catalog.is_empty();
    }

    /// Sets the problems of directories.
    fn of_directories(&mut self, problems: Vec<Problem>) {
        self.news |= self.directory_problems != problems;
        self.directory_problems = problems;
    }

    /// Takes in what a scan found.
    fn take(&mut self, root: &Path, survey: Survey, whole: Look, now: Instant) {
        let first = self.directories.is_empty();
        let elsewhere = self.root.is_some_and(|former| former != survey.root)
            || survey.directories.iter().any(|(path, identity)| {
                let former = self.directories.get(path);
                former.is_some_and(|former| former.device != identity.device)
            });
        if elsewhere && !self.catalog.is_empty() {
            self.missing.interrupt(now);
        }
        let unlisted = survey.unlisted.iter().map(|(path, why)| {
            let message = format!("{why}; what was declared below it stays in force");
            problem(path, message)
        });
        let own = survey.own.iter().map(|path| {
            let message = "leads into Fairway's own state directory: nothing there is a manifest";
            problem(path, message)
        });
        self.of_directories(unlisted.chain(own).collect());
        let gone: Vec<_> = self
            .catalog
            .paths()
            .filter(|path| !survey.files.contains_key(*path))
            .cloned()
            .collect();
        let mut changed = Vec::new();
        for (path, sighting) in survey.files {
            let asked = self.looks.get(&path).copied();
            if asked.is_some_and(|look| look.at > now) {
                // It is being written at this moment.
                self.missing.clear(&path);
                continue;
            }
            self.looks.remove(&path);
            let told = first || asked.is_some();
            let look = asked.unwrap_or(whole);
            if let Some(wait) = self.met(&path, sighting, told, look, &mut changed) {
                let at = now + wait;
                self.looks.insert(path, Look { at, ..look });
            }
        }
        for path in gone {
            match above(&path).find_map(|directory| survey.unlisted.get(directory)) {
                Some(why) => {
                    let held = format!("its directory {why}").into();
                    let touched = self.catalog.hold(&path, None, held, None);
                    self.touched.extend(touched);
                }
                None => self.missing.miss(&path, now, first, false),
            }
        }
        self.directories = survey.directories;
        self.read(root, &changed, now);
        self.decide_missing_at = Some(now);
        let every = if self.watcher.short() {
            UNWATCHED.min(self.settings.resync)
        } else {
            self.settings.resync
        };
        self.survey.at = now + every;
        self.surveyed = true;
        self.arrived(survey.root);
    }

    /// Looks at the files whose time has come.
    pub(super) fn look(&mut self) {
        let now = Instant::now();
        let root = self.settings.manifests.clone();
        let due: Vec<_> = self
            .looks
            .iter()
            .filter(|(_, look)| look.at <= now)
            .map(|(path, look)| (Arc::clone(path), *look))
            .collect();
        let mut changed = Vec::new();
        for (path, look) in due {
            self.looks.remove(&path);
            match scan::look(&root.join(&*path)) {
                Some(sighting) => {
                    self.met(&path, sighting, true, look, &mut changed);
                }
                None if self.catalog.knows(&path) => {
                    self.missing.miss(&path, now, false, false);
                    self.decide_missing_at = Some(now);
                }
                None => {}
            }
        }
        self.read(&root, &changed, now);
    }

    /// A file is there. Where it has to be read it is added to `changed`; where it may still be being
    /// written the answer is how long to wait before looking at it again.
    fn met(
        &mut self,
        path: &Arc<str>,
        sighting: Sighting,
        told: bool,
        look: Look,
        changed: &mut Vec<Arc<str>>,
    ) -> Option<Duration> {
        self.missing.clear(path);
        match sighting {
            Sighting::File { stamp, .. } if self.catalog.is_current(path, &stamp) => None,
            Sighting::File { stamp, link } => {
                let former = self.catalog.stamp(path).map(|former| former.identity);
                let in_place = former.is_none_or(|former| former == stamp.identity);
                let age = age(&stamp);
                let wait = age.and_then(|age| SETTLED.checked_sub(age));
                let wait = wait.filter(|_| in_place && !told);
                if wait.is_none() {
                    self.found(came_about(age.filter(|_| !link), look, Instant::now()));
                    changed.push(Arc::clone(path));
                }
                wait
            }
            Sighting::Unreadable(why) => {
                self.hold(path, &why);
                None
            }
        }
    }

    /// Reads files and takes in what they declare.
    fn read(&mut self, root: &Path, paths: &[Arc<str>], now: Instant) {
        if !paths.is_empty() {
            self.missing.stir(now);
        }
        let read = parallel::map(paths, |path| read_one(root, path));
        for (path, result) in paths.iter().zip(read) {
            match result {
                Ok((stamp, Ok(manifest))) => {
                    self.name_others(path, &manifest);
                    let touched = self.catalog.read(path, stamp, manifest);
                    self.touched.extend(touched);
                }
                Ok((stamp, Err(problem))) => {
                    let why = problem.message.as_str().into();
                    let touched = self.catalog.hold(path, Some(stamp), why, Some(problem));
                    self.touched.extend(touched);
                }
                Err(ManifestReadError::Moving) => {
                    let look = Look {
                        at: now + MOVING,
                        after: now,
                    };
                    self.looks.insert(Arc::clone(path), look);
                }
                Err(ManifestReadError::Unreadable(why)) => self.hold(path, &why),
            }
        }
    }

    fn hold(&mut self, path: &Arc<str>, why: &str) {
        let problem = problem(path, why);
        let touched = self.catalog.hold(path, None, why.into(), Some(problem));
        self.touched.extend(touched);
    }

    /// Logs, once for each kind, that Fairway does not use it.
    fn name_others(&mut self, path: &Arc<str>, manifest: &Manifest) {
        for kind in &manifest.passed_over {
            if !self.passed_over.contains(kind) {
                tracing::info!(kind, file = %path, "a kind that Fairway does not use");
                self.passed_over.insert(kind.clone());
            }
        }
    }

    /// Releases the objects of files that were deleted, and holds those of files that can't be seen.
    pub(super) fn decide_on_missing(&mut self) {
        let now = Instant::now();
        if self.decide_missing_at.is_none_or(|at| at > now) {
            return;
        }
        self.decide_missing_at = None;
        let root = self.settings.manifests.clone();
        // Where the directory itself has gone meanwhile, none of its files was deleted.
        let there = std::fs::metadata(&root).map(|it| FileIdentity::of(&it));
        if there.ok() != self.root {
            self.survey.at = now;
            return;
        }
        let known = self.catalog.len();
        for (path, verdict) in self.missing.verdicts(known, now) {
            if scan::look(&root.join(&*path)).is_some() {
                self.missing.clear(&path);
                self.looks.entry(path).or_insert(Look {
                    at: now,
                    after: now,
                });
                continue;
            }
            let (again, why) = match verdict {
                MissingFileOutcome::Deleted(since) => {
                    self.found(since);
                    self.missing.clear(&path);
                    self.missing.stir(now);
                    let touched = self.catalog.forget(&path);
                    self.touched.extend(touched);
                    continue;
                }
                MissingFileOutcome::Wait(at) => (Some(at), None),
                MissingFileOutcome::Interrupted(at) => (
                    Some(at),
                    Some(format!(
                        "is missing since the manifest directory came back; what it declared \
                         stays in force until nothing has changed there for {} s",
                        self.settings.grace.as_secs_f32()
                    )),
                ),
                MissingFileOutcome::Emptied => (
                    None,
                    Some(format!(
                        "is missing, and {} holds no manifests at all; what it declared stays in \
                         force until there is one again (an empty one will do)",
                        root.display()
                    )),
                ),
            };
            if let Some(at) = again {
                self.decide_missing_at =
                    Some(self.decide_missing_at.map_or(at, |other| other.min(at)));
            }
            if let Some(why) = why {
                self.hold(&path, &why);
            }
        }
        self.whole();
    }
}

type Parsed = (Stamp, Result<Manifest, Problem>);

fn read_one(root: &Path, path: &Arc<str>) -> Result<Parsed, ManifestReadError> {
    let text = scan::read(&root.join(&**path))?;
    Ok((text.stamp, manifest::parse(path, &text.text)))
}

/// The directories that a path lies in.
fn above(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(end, _)| end);
    ends.filter_map(|end| path.get(..end))
}

/// How long ago a file changed (ctime). Nothing where that time is in the future: it is from the clock of
/// a file server, or from this clock before it was set.
fn age(stamp: &Stamp) -> Option<Duration> {
    let (seconds, nanoseconds) = stamp.changed();
    let changed = Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    now.checked_sub(changed)
}

/// When a change was made. The file's own time counts where it lies between the last moment at which the
/// file was known to be unchanged and the moment the change was noticed; else the latter counts. So a
/// clock that is wrong, or a file that was made long before it was moved here, makes no change older than
/// it can be.
fn came_about(age: Option<Duration>, look: Look, now: Instant) -> Instant {
    let by_file = age.and_then(|age| now.checked_sub(age));
    by_file
        .filter(|at| (look.after..look.at).contains(at))
        .unwrap_or(look.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_lies_in_every_directory_above_it() {
        assert_eq!(above("a/b/c.yaml").collect::<Vec<_>>(), ["a", "a/b"]);
        assert_eq!(above("c.yaml").count(), 0);
    }

    #[test]
    fn a_change_is_as_old_as_its_file_where_that_can_be_true() {
        let second = Duration::from_secs(1);
        let after = Instant::now() + second * 100;
        let look = Look {
            at: after + second * 10,
            after,
        };
        let now = look.at + second;
        let told = |age| came_about(age, look, now);
        assert_eq!(told(Some(second * 4)), now - second * 4);
        assert_eq!(told(Some(second * 11)), after);
        for unlikely in [
            None,
            Some(second / 2),
            Some(second * 12),
            Some(second * 1_000_000_000),
        ] {
            assert_eq!(told(unlikely), look.at, "{unlikely:?}");
        }
    }
}
