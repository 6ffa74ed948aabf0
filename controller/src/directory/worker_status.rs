//! What other threads can read of the worker: problems, and what is outstanding.

use fairway_config::problem::Problem;

/// The state of the worker after its last turn.
#[derive(Debug, Default)]
pub(super) struct WorkerStatus {
    pub(super) problems: Vec<Problem>,
    pub(super) outstanding: Vec<String>,
    pub(super) passes: u64,
}

impl WorkerStatus {
    /// Takes the problems there are now, in order. Logs those that are new and those that are mended.
    pub(super) fn tell(&mut self, problems: Vec<Problem>) {
        for new in not_in(&problems, &self.problems) {
            tracing::warn!(problem = %new, "held back");
        }
        for mended in not_in(&self.problems, &problems) {
            tracing::info!(problem = %mended, "mended");
        }
        self.problems = problems;
    }
}

fn not_in<'a>(some: &'a [Problem], others: &'a [Problem]) -> impl Iterator<Item = &'a Problem> {
    let new = |it: &&Problem| others.binary_search(it).is_err();
    some.iter().filter(new)
}
