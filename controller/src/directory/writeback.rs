//! The part of the worker that writes decisions to disk. What was given out is written before anybody is
//! told. What can be computed again is written a moment later, so that a first connection does not wait
//! for it.
//!
//! - The **memory** of a Service is on disk before subscribers are told what the Service was given.
//! - A status takes effect at once. It follows from the objects and from what gateways report, so it is
//!   computed again after a crash.
//! - The **views** for people are written when nothing has changed for a moment; `/readyz` waits for them.
//!   After them comes what else has changed in memory.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fairway_config::exchange::{Change, Write};
use fairway_config::object::ObjectKey;

use super::worker::{StoreWorker, WriteFailure};
use super::{memory, parallel};
use crate::retry_queue::doubled;
use crate::state::disk::FileWrite;
use crate::store::WriteOutcome;

/// How long nothing may have changed before views are written, and how much longer for each view: a
/// status that changes twice in a moment is written once.
const QUIET: (Duration, Duration) = (Duration::from_millis(30), Duration::from_micros(20));

/// How long memory that nobody waits for is gathered before it is written. Views wait no longer than this
/// and what [`QUIET`] adds for each of them.
const GATHER: Duration = Duration::from_millis(250);

/// The longest wait before a failed write is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

impl StoreWorker {
    /// See [`crate::Store::write`].
    pub(super) fn write(
        &mut self,
        writes: Vec<Write>,
        since: Option<Instant>,
    ) -> Vec<WriteOutcome> {
        let mut outcomes = vec![WriteOutcome::Refused; writes.len()];
        let mut changes: Vec<Change> = Vec::new();
        let mut accepted = Vec::new();
        let mut keys = BTreeSet::new();
        let mut lines = Vec::new();
        for ((index, write), outcome) in writes.into_iter().enumerate().zip(&mut outcomes) {
            let Some(it) = self.objects.accept(write) else {
                continue;
            };
            match self.objects.durable(&it) {
                Ok(None) => {
                    changes.extend(self.objects.commit(it));
                    *outcome = WriteOutcome::Written;
                }
                // A second decision on the same object did not know of the first one: refused.
                Ok(Some(line)) => {
                    if keys.insert(line.key.clone()) {
                        accepted.push((index, it));
                        lines.push(line);
                    }
                }
                Err(error) => *outcome = WriteOutcome::Failed(error),
            }
        }
        let result = self
            .journal
            .append(&lines)
            .map_err(|error| error.to_string());
        if let Err(error) = &result {
            self.failed(error);
        }
        for (index, it) in accepted {
            let outcome = match &result {
                Ok(()) => {
                    changes.extend(self.objects.commit(it));
                    WriteOutcome::Written
                }
                Err(error) => WriteOutcome::Failed(error.clone()),
            };
            if let Some(slot) = outcomes.get_mut(index) {
                *slot = outcome;
            }
        }
        self.feed.publish(changes, false, since);
        self.plan_flush();
        outcomes
    }

    /// Writes what is due and what nobody waits for: views, or else memory.
    pub(super) fn flush(&mut self) {
        self.flush_at = None;
        self.first_due = None;
        let well = if self.failure.is_some() {
            self.flush_all()
        } else if self.objects.shown_due.is_empty() {
            self.flush_memory()
        } else {
            self.flush_views()
        };
        if well && self.failure.take().is_some() {
            self.news = true;
            tracing::info!(state = %self.settings.state.display(), "the state can be written again");
        }
        self.plan_flush();
    }

    /// Writes everything that is due. True: all of it could be written.
    pub(super) fn flush_all(&mut self) -> bool {
        let views = self.flush_views();
        self.flush_memory() && views
    }

    fn flush_memory(&mut self) -> bool {
        let due = self.objects.records_due.clone();
        let lines: Result<Vec<_>, _> = due.iter().map(|key| self.objects.record(key)).collect();
        let mut done = lines.and_then(|lines| {
            let appended = self.journal.append(&lines);
            appended.map_err(|error| error.to_string())
        });
        if done.is_ok() {
            for key in &due {
                self.objects.recorded(key);
            }
            done = self.drop_history();
        }
        let root = self
            .root
            .filter(|_| self.root_due && !self.missing.is_interrupted());
        if let Some(root) = root {
            let written: std::io::Result<()> =
                self.disk.apply(&[memory::root(root)]).into_iter().collect();
            match written {
                Ok(()) => self.root_due = false,
                Err(error) => done = Err(error.to_string()),
            }
        }
        if let Err(error) = &done {
            self.failed(error);
        }
        done.is_ok()
    }

    /// Rewrites the journal where most of its lines are out of date, or some can't be read.
    fn drop_history(&mut self) -> Result<(), String> {
        let wanted = self.journal_broken || self.journal.is_mostly_history();
        if !wanted || !self.objects.is_complete() {
            return Ok(());
        }
        let lines = self.objects.records()?;
        let rewritten = self.journal.rewrite(&self.disk, &lines);
        rewritten.map_err(|error| error.to_string())?;
        self.journal_broken = false;
        Ok(())
    }

    /// Writes views. Those that can't be written stay due. True: all could be written.
    fn flush_views(&mut self) -> bool {
        let mut well = true;
        let keys: Vec<ObjectKey> = self.objects.shown_due.iter().cloned().collect();
        let (objects, root) = (&self.objects, self.disk.root());
        // After most restarts the file has this content already.
        let rendered = parallel::map(&keys, |key| -> Result<_, String> {
            let file = objects.shown(key)?;
            let there = std::fs::read(root.join(&file.path)).ok();
            Ok((there != file.content).then_some(file))
        });
        let mut files: Vec<FileWrite> = Vec::new();
        let mut written = Vec::new();
        for (key, rendered) in keys.into_iter().zip(rendered) {
            match rendered {
                Ok(Some(file)) => {
                    files.push(file);
                    written.push(key);
                }
                Ok(None) => {
                    self.objects.shown_due.remove(&key);
                }
                Err(error) => {
                    well = false;
                    self.failed(&error);
                }
            }
        }
        for (key, result) in written.iter().zip(self.disk.apply(&files)) {
            match result {
                Ok(()) => {
                    self.objects.shown_due.remove(key);
                }
                Err(error) => {
                    well = false;
                    self.failed(&error.to_string());
                }
            }
        }
        well
    }

    /// Decides when to write what is due.
    pub(super) fn plan_flush(&mut self) {
        let views = !self.objects.shown_due.is_empty();
        let root_due = self.root_due && !self.missing.is_interrupted();
        let journal_due = self.journal_broken && self.objects.is_complete();
        let due = views
            || root_due
            || journal_due
            || self.failure.is_some()
            || !self.objects.records_due.is_empty();
        if !due {
            self.first_due = None;
            return;
        }
        let now = Instant::now();
        if let Some(failure) = &self.failure {
            self.flush_at.get_or_insert(now + failure.wait);
            return;
        }
        let first = *self.first_due.get_or_insert(now);
        self.flush_at = Some(if views {
            let count = self.objects.shown_due.len().try_into().unwrap_or(u32::MAX);
            let more = QUIET.1.saturating_mul(count).min(GATHER);
            let quiet = (first + GATHER + more * 2).min(now + QUIET.0 + more);
            if self.feed.is_reported() {
                quiet
            } else {
                quiet.max(first + self.settings.first_report)
            }
        } else {
            first + GATHER
        });
    }

    fn failed(&mut self, error: &str) {
        metrics::counter!("fairway_store_errors_total", "operation" => "write").increment(1);
        let now = Instant::now();
        let wait = match &mut self.failure {
            // Several writes failed at once: they share one wait. Else the wait was over, and doubles.
            Some(failure) if self.flush_at.is_some() => failure.wait,
            Some(failure) => doubled(failure.wait, LONGEST_RETRY),
            None => Duration::from_secs(1),
        };
        if self
            .failure
            .as_ref()
            .is_none_or(|failure| failure.message != error)
        {
            tracing::error!(
                error,
                state = %self.settings.state.display(),
                "can't write state; what was there stays, and it is tried again"
            );
        }
        self.news = true;
        self.failure = Some(WriteFailure {
            message: error.to_owned(),
            wait,
        });
        self.flush_at = Some(self.flush_at.map_or(now + wait, |at| at.max(now + wait)));
    }
}
