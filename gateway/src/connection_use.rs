//! Which kept connections to endpoints a request may use again, and how long an endpoint may acknowledge nothing.
//!
//! A machine that vanishes (a cut, a loss of power, a virtual machine that is paused) closes no connection. Of a new
//! connection the dial tells so. On one that was kept open a request would wait for the time-out of its answer, a
//! minute. So the kernel ends a connection to an endpoint whose machine acknowledges nothing for a few seconds
//! (`TCP_USER_TIMEOUT`, tcp(7)): neither what was sent nor, while nothing is to be sent, the probes of keep-alive.
//!
//! Linux ends a connection by that time-out, too, whose reader takes nothing (a window of zero). A server may
//! well pause while it takes an upload, so only requests that fit into any receive buffer have that time-out; others are
//! watched (`AcknowledgementWatch`). Time-outs are options of a connection, so requests of different kinds do not share
//! connections.

use std::io::ErrorKind;
use std::time::Duration;

/// The most bytes of a body that fits into an endpoint's receive buffer: a quarter of what Linux announces for a new
/// connection. (Bodies of up to 64 KiB are kept for another try.)
pub(crate) const SMALL: u64 = 16 * 1024;

/// What a request asks of its connection to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ConnectionUse {
    /// It is short, and may be repeated at another endpoint.
    Repeatable,
    /// It is short, and may not be repeated. So a pause of the network has more time to pass.
    Single,
    /// An upload, or a connection that is upgraded.
    Long,
    /// A stream of h2. The endpoint reads its connection on whatever its streams do.
    Stream,
}

/// When the kernel asks a silent endpoint whether it is there, and when it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeTimes {
    pub(crate) idle: Duration,
    pub(crate) interval: Duration,
    /// `TCP_USER_TIMEOUT`; zero: none.
    pub(crate) user_timeout: Duration,
}

/// How many probes are not answered until the kernel gives up. Counts only without a user time-out.
pub(crate) const PROBES: u32 = 6;

impl ConnectionUse {
    /// The kind of a request over HTTP/1.1; the length of its body: none, it is not known.
    pub(crate) fn of(length: Option<u64>, is_idempotent: bool, is_upgrade: bool) -> Self {
        let is_small = length.is_some_and(|length| length <= SMALL);
        if is_upgrade || !is_small {
            Self::Long
        } else if is_idempotent {
            Self::Repeatable
        } else {
            Self::Single
        }
    }

    /// When the kernel ends the connection by itself. The probes are so frequent that one or two may be lost.
    pub(crate) fn times(self) -> ProbeTimes {
        let (idle, interval, user_timeout) = match self {
            Self::Repeatable => (2, 1, 4),
            Self::Stream => (2, 1, 5),
            Self::Single => (4, 2, 10),
            Self::Long => (60, 10, 0),
        };
        ProbeTimes {
            idle: Duration::from_secs(idle),
            interval: Duration::from_secs(interval),
            user_timeout: Duration::from_secs(user_timeout),
        }
    }
}

/// Whether an error says that the endpoint's machine gave no sign of life. What a router has said meanwhile takes the
/// place of the time-out (`tcp_write_err` in net/ipv4/tcp_timer.c).
pub(crate) fn is_silence(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_may_be_lost_before_a_connection_ends() {
        use ConnectionUse::{Long, Repeatable, Single, Stream};
        for kind in [Repeatable, Single, Long, Stream] {
            let it = kind.times();
            if !it.user_timeout.is_zero() {
                assert!(it.idle + it.interval < it.user_timeout, "{kind:?}");
            }
        }
    }
}
