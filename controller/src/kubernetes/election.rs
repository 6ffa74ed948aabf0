//! Who leads: a Lease, taken and kept as client-go does it (tools/leaderelection).
//!
//! No clock is compared with that of another machine: a Lease has expired when it has not changed
//! for its duration, by the clock of the process that looks at it. Every write names the version
//! that it was made from, so of two candidates that try one fails. A leader that can't renew stops
//! writing before another may begin.

use std::time::{Duration, Instant};

/// How long a lease lasts that is not renewed.
pub(super) const DURATION: Duration = Duration::from_secs(15);

/// How long after its last renewal a leader may still begin a write. After that the Lease goes on
/// for longer than a request may take.
pub(super) const WRITES: Duration = Duration::from_secs(10);

/// Between two tries.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// What a Lease says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LeaseRecord {
    /// `metadata.resourceVersion`.
    pub(super) version: String,
    /// `spec.holderIdentity`; empty where it was given back.
    pub(super) holder: String,
    /// `spec.leaseDurationSeconds`.
    pub(super) duration: Duration,
    /// `spec.leaseTransitions`.
    pub(super) transitions: i32,
}

/// What a candidate has to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// There is no Lease: make it.
    Create,
    /// Write the candidate's name into the Lease.
    Take {
        /// Into this version.
        version: String,
        /// `spec.leaseTransitions` from now on.
        transitions: i32,
        /// The candidate holds it already, so `acquireTime` stays.
        renews: bool,
    },
    /// Another process holds it.
    Wait,
}

/// One candidate's view of a Lease.
#[derive(Debug)]
pub(super) struct LeaseCandidate {
    identity: String,
    /// The last record that was seen, and when it was first seen.
    observed: Option<(LeaseRecord, Instant)>,
    /// When the last renewal that succeeded was sent.
    renewed: Option<Instant>,
}

impl LeaseCandidate {
    pub(super) fn new(identity: &str) -> Self {
        Self {
            identity: identity.to_owned(),
            observed: None,
            renewed: None,
        }
    }

    /// What to do, given the Lease as it is (or that there is none).
    pub(super) fn consider(&mut self, seen: Option<LeaseRecord>, now: Instant) -> Move {
        let Some(record) = seen else {
            self.observed = None;
            return Move::Create;
        };
        let since = match &self.observed {
            Some((former, since)) if *former == record => *since,
            _ => now,
        };
        let (own, free) = (record.holder == self.identity, record.holder.is_empty());
        let expired = now >= since + record.duration;
        let next = if own || free || expired {
            Move::Take {
                version: record.version.clone(),
                transitions: record.transitions.saturating_add(i32::from(!own)),
                renews: own,
            }
        } else {
            Move::Wait
        };
        self.observed = Some((record, since));
        next
    }

    /// A write that was sent at `asked` has succeeded.
    pub(super) fn won(&mut self, record: LeaseRecord, asked: Instant) {
        self.observed = Some((record, asked));
        self.renewed = Some(asked);
    }

    /// Another process holds the Lease, or it was given back.
    pub(super) fn lost(&mut self) {
        self.renewed = None;
    }

    /// Until when this candidate may write; nothing where it does not lead.
    pub(super) fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|renewed| renewed + WRITES)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn record(version: u32, holder: &str) -> LeaseRecord {
        LeaseRecord {
            version: version.to_string(),
            holder: holder.to_owned(),
            duration: DURATION,
            transitions: 3,
        }
    }

    #[test]
    fn a_lease_that_nobody_has_is_taken() {
        let now = Instant::now();
        let mut it = LeaseCandidate::new("a");
        assert_eq!(it.consider(None, now), Move::Create);
        assert!(matches!(
            it.consider(Some(record(1, "")), now),
            Move::Take {
                transitions: 4,
                renews: false,
                ..
            }
        ));
    }

    #[test]
    fn a_lease_expires_by_the_time_since_it_was_seen_to_change() {
        let now = Instant::now();
        let mut it = LeaseCandidate::new("a");
        assert_eq!(it.consider(Some(record(1, "b")), now), Move::Wait);
        let almost = now + DURATION - Duration::from_millis(1);
        assert_eq!(it.consider(Some(record(1, "b")), almost), Move::Wait);
        // A renewal starts the time anew, whatever it says of the clock over there.
        assert_eq!(it.consider(Some(record(2, "b")), almost), Move::Wait);
        assert_eq!(
            it.consider(Some(record(2, "b")), now + DURATION),
            Move::Wait
        );
        let taken = it.consider(Some(record(2, "b")), almost + DURATION);
        assert_eq!(
            taken,
            Move::Take {
                version: "2".to_owned(),
                transitions: 4,
                renews: false
            }
        );
    }

    #[test]
    fn a_leader_stops_writing_before_another_may_begin() {
        let now = Instant::now();
        let (mut a, mut b) = (LeaseCandidate::new("a"), LeaseCandidate::new("b"));
        a.won(record(1, "a"), now);
        // The other sees it at once, at the earliest.
        b.consider(Some(record(1, "a")), now);
        let until = a.leads_until().unwrap();
        assert_eq!(b.consider(Some(record(1, "a")), until), Move::Wait);
        a.lost();
        assert_eq!(a.leads_until(), None);
    }

    #[test]
    fn ones_own_lease_is_renewed_and_counts_no_transition() {
        let now = Instant::now();
        let mut it = LeaseCandidate::new("a");
        it.won(record(1, "a"), now);
        assert_eq!(
            it.consider(Some(record(1, "a")), now + RETRY),
            Move::Take {
                version: "1".to_owned(),
                transitions: 3,
                renews: true
            }
        );
    }
}
