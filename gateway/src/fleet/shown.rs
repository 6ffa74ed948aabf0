//! Which other gateways are heard, as people are shown it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fairway_config::names::ClusterName;
use fairway_gateway_core::fleet::BootTime;

/// What the fleet's thread has not said for so long is not known.
const OLD: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ShownFleet {
    members: Mutex<SeenMembers>,
    /// Whether the process has begun, and other gateways can't hand addresses over to it yet.
    is_joining: AtomicBool,
}

#[derive(Debug, Default)]
struct SeenMembers {
    at: BootTime,
    /// Whether each hears this gateway and is heard by it.
    members: BTreeMap<ClusterName, bool>,
}

impl ShownFleet {
    /// Whether other gateways can't hand addresses over to this one yet, which has begun.
    pub(crate) fn is_joining(&self) -> bool {
        self.is_joining.load(Ordering::Relaxed)
    }

    /// See [`Self::is_joining`].
    pub(crate) fn set_joining(&self, is_joining: bool) {
        self.is_joining.store(is_joining, Ordering::Relaxed);
    }

    /// The fleet's thread says how it is.
    pub(super) fn set(&self, at: BootTime, members: BTreeMap<ClusterName, bool>) {
        *self.members.lock().unwrap_or_else(PoisonError::into_inner) = SeenMembers { at, members };
    }

    /// The other gateways, and whether each hears this one and is heard by it. Nobody is where the thread stands
    /// still.
    pub(crate) fn members(&self, now: BootTime) -> BTreeMap<ClusterName, bool> {
        let seen = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = now.since(seen.at) <= OLD;
        let members = seen.members.iter();
        members
            .map(|(name, is_heard)| (name.clone(), is_known && *is_heard))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_stands_still_hears_nobody() {
        let shown = ShownFleet::default();
        let second = |n| BootTime::default().after(Duration::from_secs(n));
        let members = [("edge-2".into(), true), ("edge-3".into(), false)];
        shown.set(second(10), members.into());
        let heard = |at| shown.members(second(at)).into_values().collect::<Vec<_>>();
        assert_eq!(heard(11), [true, false]);
        assert_eq!(heard(20), [false, false]);
    }
}
