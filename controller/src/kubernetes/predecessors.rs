//! Controllers of our class in other namespaces that have Services: whether they are gone.
//!
//! An install moves to another namespace, and its Services with it. A controller is gone where its Lease
//! is; or where nobody has written to the Lease for so long that nobody is about to come back, by our
//! own clock alone, for that of the other may be wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// A controller whose Lease nobody has written to for so long is gone. One that is stopped for an
/// upgrade, or whose node is being mended, keeps its Services.
pub(super) const ABANDONED: Duration = Duration::from_secs(600);

/// What is asked once for all Services of one controller.
const FRESH: Duration = Duration::from_secs(5);

/// Past so many, those that are not asked for any more are forgotten. Tenants can name namespaces without
/// end.
const REMEMBERED: usize = 1024;

/// What is known of them, by namespace.
#[derive(Debug, Default)]
pub(super) struct Predecessors(HashMap<Arc<str>, SeenLease>);

#[derive(Debug)]
struct SeenLease {
    /// Its version; nothing: there is none.
    version: Option<String>,
    since: Instant,
    asked: Instant,
}

impl Predecessors {
    /// Whether the Lease in that namespace is to be asked for again.
    pub(super) fn is_due(&self, namespace: &str, now: Instant) -> bool {
        let seen = self.0.get(namespace);
        seen.is_none_or(|seen| now >= seen.asked + FRESH)
    }

    /// The Lease there has this version now; nothing: there is none.
    pub(super) fn note(&mut self, namespace: &str, version: Option<String>, now: Instant) {
        let before = self.0.get(namespace);
        let since = before.filter(|seen| seen.version == version);
        let since = since.map_or(now, |seen| seen.since);
        if self.0.len() >= REMEMBERED {
            // Of a Lease that is not there nothing is to be remembered; of one that is, since when.
            self.0.retain(|_, seen| {
                let kept = match seen.version {
                    Some(_) => ABANDONED,
                    None => FRESH,
                };
                now < seen.asked + kept
            });
        }
        let seen = SeenLease {
            version,
            since,
            asked: now,
        };
        self.0.insert(namespace.into(), seen);
    }

    /// Whether the controller there is gone.
    pub(super) fn is_gone(&self, namespace: &str) -> bool {
        self.0.get(namespace).is_some_and(|seen| {
            seen.version.is_none() || seen.asked.duration_since(seen.since) >= ABANDONED
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Option<String> {
        Some(number.to_string())
    }

    #[test]
    fn a_controller_is_gone_where_its_lease_is_gone() {
        let (mut them, now) = (Predecessors::default(), Instant::now());
        assert!(them.is_due("old", now) && !them.is_gone("old"));
        them.note("old", None, now);
        assert!(them.is_gone("old") && !them.is_gone("other"));
        assert!(!them.is_due("old", now) && them.is_due("old", now + FRESH));
        // It is back.
        them.note("old", version(7), now + FRESH);
        assert!(!them.is_gone("old"));
    }

    #[test]
    fn names_without_end_take_no_memory_and_take_no_time_from_a_lease_that_is_there() {
        let (mut them, now) = (Predecessors::default(), Instant::now());
        them.note("old", version(7), now);
        for n in 0..100_000u32 {
            let now = now + Duration::from_millis(u64::from(n) * 6);
            them.note(&format!("made-up-{n}"), None, now);
            if them.is_due("old", now) {
                them.note("old", version(7), now);
            }
            assert!(them.0.len() <= 2 * REMEMBERED, "{}", them.0.len());
        }
        them.note("old", version(7), now + ABANDONED);
        assert!(them.is_gone("old"));
    }

    #[test]
    fn a_controller_is_gone_after_ten_minutes_in_which_nobody_wrote_to_its_lease() {
        let (mut them, now) = (Predecessors::default(), Instant::now());
        them.note("old", version(7), now);
        let almost = now + ABANDONED - Duration::from_secs(1);
        them.note("old", version(7), almost);
        assert!(!them.is_gone("old"));
        // It lives.
        them.note("old", version(8), almost);
        them.note("old", version(8), now + ABANDONED);
        assert!(!them.is_gone("old"));
        them.note("old", version(8), almost + ABANDONED);
        assert!(them.is_gone("old"));
    }
}
