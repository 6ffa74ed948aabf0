//! Other controllers, whose names are on Services: whether they are gone.
//!
//! An install moves to another namespace, and its Services with it; another one ends, and what it has said of
//! our Services is true no more. A controller is gone where its Lease is; or where nobody has written to the Lease for so long that nobody is about to come back, by our
//! own clock alone, for that of the other may be wrong.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::ownership::ControllerName;

/// A controller whose Lease nobody has written to for so long is gone. One that is stopped for an
/// upgrade, or whose node is being mended, keeps its Services.
pub(super) const ABANDONED: Duration = Duration::from_secs(600);

/// How often it is looked whether another controller, which has Services or would take ours, is gone.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What is asked once for all Services of one controller.
const FRESH: Duration = Duration::from_secs(5);

/// Past so many, those that are not asked for any more are forgotten. Tenants can name namespaces without
/// end.
const REMEMBERED: usize = 1024;

/// What is known of them, by name. Each class has its own Lease in a namespace.
#[derive(Debug, Default)]
pub(super) struct OtherControllers(HashMap<String, SeenLease>);

#[derive(Debug)]
struct SeenLease {
    /// Its version; nothing: there is none.
    version: Option<String>,
    since: Instant,
    asked: Instant,
}

impl OtherControllers {
    /// Whether the Lease of that controller is to be asked for again.
    pub(super) fn is_due(&self, controller: ControllerName<'_>, now: Instant) -> bool {
        let seen = self.0.get(&controller.to_string());
        seen.is_none_or(|seen| now >= seen.asked + FRESH)
    }

    /// Its Lease has this version now; nothing: there is none.
    pub(super) fn note(
        &mut self,
        controller: ControllerName<'_>,
        version: Option<String>,
        now: Instant,
    ) {
        let name = controller.to_string();
        let before = self.0.get(&name);
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
        self.0.insert(name, seen);
    }

    /// Whether that controller is gone.
    pub(super) fn is_gone(&self, controller: ControllerName<'_>) -> bool {
        self.0.get(&controller.to_string()).is_some_and(|seen| {
            seen.version.is_none() || seen.asked.duration_since(seen.since) >= ABANDONED
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'a>(namespace: &'a str, class: &'a str) -> ControllerName<'a> {
        ControllerName { namespace, class }
    }

    fn in_namespace(namespace: &str) -> ControllerName<'_> {
        of(namespace, "example.com/edge")
    }

    fn version(number: u64) -> Option<String> {
        Some(number.to_string())
    }

    #[test]
    fn a_controller_is_gone_where_its_lease_is_gone() {
        let (mut them, now) = (OtherControllers::default(), Instant::now());
        assert!(them.is_due(in_namespace("old"), now) && !them.is_gone(in_namespace("old")));
        them.note(in_namespace("old"), None, now);
        assert!(them.is_gone(in_namespace("old")) && !them.is_gone(in_namespace("other")));
        assert!(
            !them.is_due(in_namespace("old"), now) && them.is_due(in_namespace("old"), now + FRESH)
        );
        // It is back.
        them.note(in_namespace("old"), version(7), now + FRESH);
        assert!(!them.is_gone(in_namespace("old")));
    }

    #[test]
    fn controllers_of_two_classes_in_one_namespace_are_two() {
        let (mut them, now) = (OtherControllers::default(), Instant::now());
        them.note(of("old", "example.com/edge"), version(7), now);
        them.note(of("old", "example.com/other"), None, now);
        assert!(!them.is_gone(of("old", "example.com/edge")));
        assert!(them.is_gone(of("old", "example.com/other")));
    }

    #[test]
    fn names_without_end_take_no_memory_and_take_no_time_from_a_lease_that_is_there() {
        let (mut them, now) = (OtherControllers::default(), Instant::now());
        them.note(in_namespace("old"), version(7), now);
        for n in 0..100_000u32 {
            let now = now + Duration::from_millis(u64::from(n) * 6);
            them.note(in_namespace(&format!("made-up-{n}")), None, now);
            if them.is_due(in_namespace("old"), now) {
                them.note(in_namespace("old"), version(7), now);
            }
            assert!(them.0.len() <= 2 * REMEMBERED, "{}", them.0.len());
        }
        them.note(in_namespace("old"), version(7), now + ABANDONED);
        assert!(them.is_gone(in_namespace("old")));
    }

    #[test]
    fn a_controller_is_gone_after_ten_minutes_in_which_nobody_wrote_to_its_lease() {
        let (mut them, now) = (OtherControllers::default(), Instant::now());
        them.note(in_namespace("old"), version(7), now);
        let almost = now + ABANDONED - Duration::from_secs(1);
        them.note(in_namespace("old"), version(7), almost);
        assert!(!them.is_gone(in_namespace("old")));
        // It lives.
        them.note(in_namespace("old"), version(8), almost);
        them.note(in_namespace("old"), version(8), now + ABANDONED);
        assert!(!them.is_gone(in_namespace("old")));
        them.note(in_namespace("old"), version(8), almost + ABANDONED);
        assert!(them.is_gone(in_namespace("old")));
    }
}
