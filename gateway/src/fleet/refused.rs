//! Datagrams at the fleet's port that are no messages of its members: counted by reason, and said once for a cause.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fairway_gateway_core::fleet::BootTime;
use fairway_gateway_core::fleet::message::FleetRejection;
use fairway_gateway_core::fleet::wire::FleetWireError;

use crate::metrics::HEARTBEATS_REJECTED;

/// A cause is said again after this time, if it goes on.
const AGAIN: Duration = Duration::from_secs(300);

/// Why a datagram does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusedFor {
    /// It is no message, or one of another version.
    Format(FleetWireError),
    /// Nobody who has the fleet's key has written it to this gateway.
    Seal,
    /// It is one, and does not count.
    Fleet(FleetRejection),
}

/// All reasons, as labels of the metric.
pub(crate) const REFUSED_FOR: [&str; 5] =
    ["format", "key", "unknown", "replayed", "not_yet_present"];

impl RefusedFor {
    /// The label `reason` of the metric, and what to do about it.
    fn reason(self) -> (&'static str, &'static str) {
        match self {
            Self::Format(_) => (
                "format",
                "something that is no gateway sends to this port, or a gateway of another version does",
            ),
            Self::Seal => (
                "key",
                "a gateway with another key or of another name, or somebody who pretends to be one: look at \
                 --peers-key-file and --node-name on both",
            ),
            Self::Fleet(FleetRejection::Unknown) => (
                "unknown",
                "a gateway that is no member here: name it in --peers of this one",
            ),
            Self::Fleet(FleetRejection::Replayed) => (
                "replayed",
                "an older message came again: the network doubles packets, or somebody plays them back",
            ),
            // As with every start.
            Self::Fleet(FleetRejection::NotYetPresent) => ("not_yet_present", ""),
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RefusedDatagrams(BTreeMap<&'static str, RefusedSince>);

#[derive(Debug)]
struct RefusedSince {
    said: BootTime,
    count: u64,
}

impl RefusedDatagrams {
    /// Counts one that came from there by that interface.
    pub(super) fn note(&mut self, now: BootTime, interface: &str, from: IpAddr, why: RefusedFor) {
        let (reason, advice) = why.reason();
        metrics::counter!(HEARTBEATS_REJECTED, "reason" => reason).increment(1);
        if advice.is_empty() {
            return;
        }
        if let Some(count) = self.count(now, reason) {
            tracing::warn!(
                reason,
                interface,
                %from,
                count,
                advice,
                "messages at the fleet's port are refused"
            );
        }
    }

    /// How many there were since they were said last, if they are to be said now.
    fn count(&mut self, now: BootTime, reason: &'static str) -> Option<u64> {
        let new = || RefusedSince {
            said: BootTime::default(),
            count: 0,
        };
        let is_new = !self.0.contains_key(reason);
        let since = self.0.entry(reason).or_insert_with(new);
        since.count += 1;
        if !is_new && now.since(since.said) < AGAIN {
            return None;
        }
        since.said = now;
        Some(std::mem::take(&mut since.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_and_again_after_five_minutes() {
        let mut refused = RefusedDatagrams::default();
        let mut count =
            |second, reason| refused.count(BootTime(Duration::from_secs(second)), reason);
        assert_eq!(count(10, "key"), Some(1));
        assert_eq!(count(11, "key"), None);
        assert_eq!(count(12, "format"), Some(1));
        assert_eq!(count(309, "key"), None);
        assert_eq!(count(310, "key"), Some(3));
        assert_eq!(count(311, "key"), None);
    }
}
