//! The state of the watches of a store: what has been listed, and which watch fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fairway_config::object::Kind;
use fairway_config::time::Timestamp;

use super::api_document::resource;
use super::settings::Reads;

/// What is wrong with a watch, and since when.
#[derive(Debug)]
struct Failing {
    why: String,
    since: Instant,
}

/// When a watch has failed for this long, while everything else works, what it told counts as
/// stale. A watch that failed is tried again within half a minute.
const STALE: Duration = Duration::from_secs(40);

/// The state of the watches.
#[derive(Debug)]
pub(super) struct WatchProgress {
    reads: Reads,
    listed: BTreeSet<Kind>,
    /// Kinds that can't be watched just now, and why.
    failing: BTreeMap<Kind, Failing>,
    /// Those of them that RBAC refuses: the API server answers, and what is known here is out of
    /// date.
    refused: BTreeSet<Kind>,
    /// The same for the Leases of gateways.
    gateways_listed: bool,
    gateways_failing: Option<String>,
    /// When the snapshot was written that is used for what has not been listed.
    stands_in: Option<Timestamp>,
}

impl WatchProgress {
    /// Nothing has been listed.
    pub(super) fn new(reads: Reads) -> Self {
        Self {
            reads,
            listed: BTreeSet::new(),
            failing: BTreeMap::new(),
            refused: BTreeSet::new(),
            gateways_listed: false,
            gateways_failing: None,
            stands_in: None,
        }
    }

    /// All objects of this kind have been listed. True: a snapshot was used until now and is not
    /// needed any more.
    pub(super) fn listed(&mut self, kind: Kind) -> bool {
        self.listed.insert(kind);
        self.is_complete() && self.stands_in.take().is_some()
    }

    /// Whether all objects of this kind have been listed once.
    pub(super) fn has_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// The Leases of all gateways have been listed.
    pub(super) fn listed_gateways(&mut self) {
        self.gateways_listed = true;
    }

    /// Whether everything has been listed once.
    pub(super) fn is_complete(&self) -> bool {
        self.listed.len() == self.reads.kinds().len()
            && (self.gateways_listed || self.reads == Reads::Gateway)
    }

    /// A snapshot that was written at this time is used for what has not been listed.
    pub(super) fn stand_in(&mut self, written: Timestamp) {
        self.stands_in = Some(written);
    }

    /// A watch works.
    pub(super) fn works(&mut self, kind: Kind) {
        self.refused.remove(&kind);
        if self.failing.remove(&kind).is_some() {
            tracing::info!(%kind, "watched again");
        }
    }

    /// A watch fails. `is_refused`: the API server answered that RBAC does not allow it.
    pub(super) fn fails(&mut self, kind: Kind, why: String, is_refused: bool) {
        match is_refused {
            true => self.refused.insert(kind),
            false => self.refused.remove(&kind),
        };
        metrics::counter!("fairway_store_errors_total", "operation" => "watch").increment(1);
        let before = self.failing.get(&kind);
        if before.is_none_or(|before| before.why != why) {
            tracing::warn!(%kind, why, "can't be watched; what is known stays in force");
            let since = before.map_or_else(Instant::now, |before| before.since);
            self.failing.insert(kind, Failing { why, since });
        }
    }

    /// The watch of the Leases of gateways works.
    pub(super) fn works_gateways(&mut self) {
        if self.gateways_failing.take().is_some() {
            tracing::info!("gateways are heard again");
        }
    }

    /// The Leases of gateways can't be watched.
    pub(super) fn fails_gateways(&mut self, why: String) {
        metrics::counter!("fairway_store_errors_total", "operation" => "watch").increment(1);
        if self.gateways_failing.as_ref() != Some(&why) {
            tracing::warn!(why, "gateways can't be heard; what is known stays in force");
            self.gateways_failing = Some(why);
        }
    }

    /// Why what is known may be stale: a watch has failed for long, while everything else has
    /// worked since `answered`. Where the API server is away nothing changes, so nothing is missed.
    pub(super) fn stale(&self, answered: Instant, now: Instant) -> Option<String> {
        let mut failing = self.failing.values();
        let stale = failing.find(|it| it.since.max(answered) + STALE <= now);
        stale.map(|it| it.why.clone())
    }

    /// The watches that fail, a sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let failing = self.failing.values().map(|it| &it.why);
        let failing = failing.chain(&self.gateways_failing);
        let mut problems: Vec<String> = failing.cloned().collect();
        problems.extend(self.stands_in.map(|written| {
            let unlisted = self.unlisted().map(|kind| resource(kind).plural);
            format!(
                "the API server has not been heard yet: {} are as they were written down until \
                 {written}",
                unlisted.collect::<Vec<_>>().join(", ")
            )
        }));
        problems
    }

    /// What has not been listed yet, a sentence each; nothing where a snapshot is used because the
    /// API server is away. What RBAC refuses is said in any case: in a rollout, a new version that
    /// lacks a right must not replace one that has it.
    pub(super) fn outstanding(&self) -> Vec<String> {
        let refused = self
            .refused
            .iter()
            .filter(|kind| self.stands_in.is_some() || self.listed.contains(kind));
        let refused = refused.filter_map(|kind| Some(self.failing.get(kind)?.why.clone()));
        let refused: Vec<String> = refused.collect();
        if self.stands_in.is_some() {
            return refused;
        }
        let unlisted = self.unlisted().map(|kind| match self.failing.get(&kind) {
            Some(failing) => failing.why.clone(),
            None => format!("{} are being listed", resource(kind).plural),
        });
        let mut outstanding: Vec<String> = unlisted.chain(refused).collect();
        if self.reads == Reads::Controller && !self.gateways_listed {
            let listing = || "the gateways' leases are being listed".to_owned();
            outstanding.push(self.gateways_failing.clone().unwrap_or_else(listing));
        }
        outstanding
    }

    fn unlisted(&self) -> impl Iterator<Item = Kind> {
        let kinds = self.reads.kinds().iter().copied();
        kinds.filter(|kind| !self.listed.contains(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_is_refused_is_not_ready_and_one_whose_api_server_is_away_is() {
        let mut progress = WatchProgress::new(Reads::Gateway);
        progress.stand_in(Timestamp(1));
        progress.fails(Kind::Service, "no route to host".to_owned(), false);
        assert!(progress.outstanding().is_empty());
        progress.fails(Kind::Service, "RBAC does not allow it".to_owned(), true);
        assert_eq!(progress.outstanding(), ["RBAC does not allow it"]);
        progress.works(Kind::Service);
        assert!(progress.outstanding().is_empty());
        // And so when everything had been listed.
        for kind in Reads::Gateway.kinds() {
            progress.listed(*kind);
        }
        progress.fails(Kind::Node, "away".to_owned(), false);
        assert!(progress.outstanding().is_empty());
        progress.fails(Kind::Node, "forbidden".to_owned(), true);
        assert_eq!(progress.outstanding(), ["forbidden"]);
        progress.fails(Kind::Node, "away".to_owned(), false);
        assert!(progress.outstanding().is_empty());
    }

    #[test]
    fn what_fails_is_a_problem_until_it_works() {
        let mut progress = WatchProgress::new(Reads::Controller);
        progress.fails(Kind::Service, "services can't be watched".to_owned(), false);
        progress.fails_gateways("leases can't be watched".to_owned());
        let both = ["services can't be watched", "leases can't be watched"];
        assert_eq!(progress.problems(), both);
        progress.works(Kind::Node);
        assert_eq!(progress.problems(), both);
        progress.works(Kind::Service);
        assert_eq!(progress.problems(), both[1..]);
        progress.works_gateways();
        assert!(progress.problems().is_empty());
    }
}
