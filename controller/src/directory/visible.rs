//! What the worker lets others see.

use fairway_config::problem::Problem;

/// How things stand, as of the last time round.
#[derive(Debug, Default)]
pub(super) struct Visible {
    pub(super) problems: Vec<Problem>,
    pub(super) outstanding: Vec<String>,
    pub(super) passes: u64,
}

impl Visible {
    /// This is wrong now, in order. Says in the log what is new of it and what is mended.
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
