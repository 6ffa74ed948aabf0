//! Decides when a manifest that is gone counts as deleted.
//!
//! What a manifest declared is released when someone deleted the manifest. It is kept when the manifest
//! can't be seen for another reason: a file system that was unmounted, a directory that comes back with
//! half of its files, an empty directory in the place of a full one. The two cases look much alike, so in
//! doubt everything is kept:
//!
//! - in normal operation a file that has been gone for a moment was deleted (the moment is for
//!   editors that move a file away and write another, and for `rm -r` of the directory itself);
//! - where no manifest is left at all, files were deleted if each was seen to be removed by name,
//!   and are held otherwise, without end;
//! - after an interruption (the directory was away, is another one, or one below it is on another
//!   device) files that are missing are held until nothing has changed for a grace period.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a file has to be gone before it counts as deleted.
const MOMENT: Duration = Duration::from_millis(100);

/// The same for the last file there is: `rm -r` removes the directory itself at the end.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Manifests that were read and are not there any more.
#[derive(Debug)]
pub(super) struct MissingFiles {
    grace: Duration,
    missing: BTreeMap<Arc<str>, MissingFile>,
    /// Since when nothing has changed, while an interruption isn't over.
    interrupted: Option<Instant>,
    /// When the last interruption was over: what was missing before counts as gone since then.
    resumed: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct MissingFile {
    since: Instant,
    /// It was gone when the process started: it counts as deleted at once.
    from_start: bool,
    /// inotify said that it was removed by its name.
    removed: bool,
}

/// What becomes of a missing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissingFileOutcome {
    /// It was deleted, at this time.
    Deleted(Instant),
    /// Not decided before this time; it is no problem until then.
    Wait(Instant),
    /// Kept until then at least: there was an interruption.
    Interrupted(Instant),
    /// Kept until there is a manifest again: there is none at all.
    Emptied,
}

impl MissingFiles {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            missing: BTreeMap::new(),
            interrupted: None,
            resumed: None,
        }
    }

    /// The directory was away, or is another one.
    pub(super) fn interrupt(&mut self, now: Instant) {
        self.interrupted = Some(now);
    }

    /// A manifest changed: an interruption lasts until nothing has changed for the grace period.
    pub(super) fn stir(&mut self, now: Instant) {
        if self.interrupted.is_some() {
            self.interrupted = Some(now);
        }
    }

    /// Whether an interruption is not over yet.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.is_some()
    }

    /// A known file is not there.
    pub(super) fn miss(&mut self, path: &Arc<str>, now: Instant, from_start: bool, removed: bool) {
        let missing = self
            .missing
            .entry(Arc::clone(path))
            .or_insert_with(|| MissingFile {
                since: now,
                from_start,
                removed,
            });
        missing.removed |= removed;
    }

    /// A file is there again, or has been forgotten.
    pub(super) fn clear(&mut self, path: &str) {
        self.missing.remove(path);
    }

    /// What becomes of each missing file, now that `known` files are known in all.
    pub(super) fn verdicts(
        &mut self,
        known: usize,
        now: Instant,
    ) -> Vec<(Arc<str>, MissingFileOutcome)> {
        if self
            .interrupted
            .is_some_and(|quiet| now >= quiet + self.grace)
        {
            self.interrupted = None;
            self.resumed = Some(now);
        }
        let emptied = self.missing.len() >= known;
        self.missing
            .iter()
            .map(|(path, missing)| (Arc::clone(path), self.verdict(*missing, emptied, now)))
            .collect()
    }

    fn verdict(&self, missing: MissingFile, emptied: bool, now: Instant) -> MissingFileOutcome {
        if emptied && !missing.removed {
            return MissingFileOutcome::Emptied;
        }
        if let Some(quiet) = self.interrupted {
            return MissingFileOutcome::Interrupted(quiet + self.grace);
        }
        let moment = match (emptied, missing.from_start) {
            (true, _) => LAST_MOMENT,
            (false, true) => Duration::ZERO,
            (false, false) => MOMENT,
        };
        let due = missing.since + moment;
        if due <= now {
            MissingFileOutcome::Deleted(
                self.resumed
                    .map_or(missing.since, |it| it.max(missing.since)),
            )
        } else {
            MissingFileOutcome::Wait(due)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    fn verdict(absence: &mut MissingFiles, known: usize, now: Instant) -> MissingFileOutcome {
        absence.verdicts(known, now)[0].1
    }

    #[test]
    fn a_file_deleted_in_normal_operation_goes_after_a_moment() {
        let now = Instant::now();
        let mut absence = MissingFiles::new(GRACE);
        absence.miss(&"a.yaml".into(), now, false, true);
        assert_eq!(
            verdict(&mut absence, 2, now),
            MissingFileOutcome::Wait(now + MOMENT)
        );
        assert_eq!(
            verdict(&mut absence, 2, now + MOMENT),
            MissingFileOutcome::Deleted(now)
        );
    }

    #[test]
    fn a_file_deleted_while_nobody_looked_goes_at_once() {
        let now = Instant::now();
        let mut absence = MissingFiles::new(GRACE);
        absence.miss(&"a.yaml".into(), now, true, false);
        assert_eq!(
            verdict(&mut absence, 2, now),
            MissingFileOutcome::Deleted(now)
        );
    }

    #[test]
    fn an_emptied_directory_releases_only_what_was_removed_by_name() {
        let now = Instant::now();
        let mut absence = MissingFiles::new(GRACE);
        absence.miss(&"a.yaml".into(), now, false, false);
        let later = now + Duration::from_secs(86_400);
        assert_eq!(verdict(&mut absence, 1, later), MissingFileOutcome::Emptied);
        absence.miss(&"a.yaml".into(), now, false, true);
        assert_eq!(
            verdict(&mut absence, 1, now),
            MissingFileOutcome::Wait(now + LAST_MOMENT)
        );
        assert_eq!(
            verdict(&mut absence, 1, later),
            MissingFileOutcome::Deleted(now)
        );
    }

    #[test]
    fn after_an_interruption_what_is_missing_is_held_until_it_has_been_quiet() {
        let now = Instant::now();
        let mut absence = MissingFiles::new(GRACE);
        absence.interrupt(now);
        absence.miss(&"a.yaml".into(), now, false, false);
        let stirred = now + GRACE / 2;
        absence.stir(stirred);
        let still = verdict(&mut absence, 2, now + GRACE);
        assert_eq!(still, MissingFileOutcome::Interrupted(stirred + GRACE));
        // It is no fault of whoever deleted it that it took so long.
        let quiet = stirred + GRACE;
        assert_eq!(
            verdict(&mut absence, 2, quiet),
            MissingFileOutcome::Deleted(quiet)
        );
        assert!(!absence.is_interrupted());
    }
}
