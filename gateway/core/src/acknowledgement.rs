//! Whether the machine at the other end of a connection has vanished, by what the kernel knows of acknowledgements.
//!
//! A machine that is there acknowledges what it gets, however slow its programs are: bytes while its buffer has room, and
//! the kernel's questions (window probes, RFC 9293, section 3.8.6.1) while that is full. So one that has acknowledged
//! nothing for [`SILENT`], though several packets asked for it, is gone. The number of packets matters: one may be lost, and
//! questions at a full buffer come minutes apart in the end.

use std::time::Duration;

use crate::route::Tick;

/// How long a machine acknowledges nothing before it counts as gone.
pub const SILENT: Duration = Duration::from_secs(10);

/// So many packets at least were not answered.
const PACKETS: u8 = 3;

/// What the kernel knows of a connection (`TCP_INFO`, tcp(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AcknowledgementState {
    /// Bytes are on their way that are not acknowledged.
    pub has_unacknowledged: bool,
    /// How often the first of them was sent again.
    pub retransmits: u8,
    /// How many questions at a full buffer were not answered.
    pub probes: u8,
    /// How long ago the last acknowledgement came.
    pub last: Duration,
}

/// Looks at a connection from time to time.
#[derive(Clone, Copy, Debug, Default)]
pub struct AcknowledgementWatch {
    /// Since when each look has found that nothing is answered.
    since: Option<Tick>,
}

impl AcknowledgementWatch {
    /// Whether the machine has vanished.
    pub fn look(&mut self, state: AcknowledgementState, now: Tick) -> bool {
        let resent = state.has_unacknowledged && state.retransmits > 0;
        if !resent && state.probes == 0 {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let watched = Duration::from_millis(now.0.saturating_sub(since.0));
        // An acknowledgement may have come and gone between two looks. Before the first look it says nothing: the connection
        // may have been idle.
        let silent = watched.min(state.last);
        silent >= SILENT && (state.retransmits >= PACKETS || state.probes >= PACKETS)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    fn state(
        has_unacknowledged: bool,
        retransmits: u8,
        probes: u8,
        last: u64,
    ) -> AcknowledgementState {
        AcknowledgementState {
            has_unacknowledged,
            retransmits,
            probes,
            last: Duration::from_secs(last),
        }
    }

    /// After how many seconds it counts as gone, where a second passes from state to state.
    fn gone(states: &[AcknowledgementState]) -> Option<usize> {
        let mut watch = AcknowledgementWatch::default();
        let mut ticks = (0..).map(|second| Tick(second * 1000));
        states
            .iter()
            .position(|state| watch.look(*state, ticks.next().unwrap()))
    }

    #[test]
    fn a_machine_is_gone_where_several_packets_are_not_answered_for_ten_seconds() {
        let vanished: Vec<_> = (0..20_u8)
            .map(|second| state(true, second.min(6), 0, 40 + u64::from(second)))
            .collect();
        assert_eq!(gone(&vanished), Some(11), "it was idle for 40 s before");
        let at_a_full_buffer: Vec<_> = (0..20_u8)
            .map(|second| state(false, 0, second / 4, 40 + u64::from(second)))
            .collect();
        assert_eq!(gone(&at_a_full_buffer), Some(14));
    }

    #[test]
    fn a_slow_machine_is_there() {
        // Its buffer is full for a minute, and questions are answered.
        let full: Vec<_> = (0..60).map(|second| state(false, 0, 0, second)).collect();
        assert_eq!(gone(&full), None);
        // Questions come half a minute apart, and one is lost.
        let lost: Vec<_> = (0..60).map(|second| state(false, 0, 1, second)).collect();
        assert_eq!(gone(&lost), None);
        // Each packet is lost a few times.
        let bad: Vec<_> = (0..60)
            .map(|second| state(true, 4, 0, second % 9))
            .collect();
        assert_eq!(gone(&bad), None);
    }

    proptest! {
        #[test]
        fn who_has_acknowledged_within_ten_seconds_is_never_gone(
            states in proptest::collection::vec((any::<bool>(), any::<u8>(), any::<u8>(), 0..10_u64), 0..200),
        ) {
            let states: Vec<_> = states
                .into_iter()
                .map(|(has, retransmits, probes, last)| state(has, retransmits, probes, last))
                .collect();
            prop_assert_eq!(gone(&states), None);
        }
    }
}
