//! Which kept connections a request may use again, and how long an endpoint may acknowledge nothing.
//!
//! A machine that vanishes (a cut, a loss of power, a virtual machine that is paused) closes no connection. Of a new
//! connection the dial tells so. On one that was kept open a request would wait for the time-out of its answer, a
//! minute. So the kernel ends a connection to an endpoint whose machine acknowledges nothing for a few seconds
//! (`TCP_USER_TIMEOUT`, tcp(7)): neither what was sent nor, while nothing is to be sent, the probes of keep-alive.
//!
//! Linux ends a connection by that time-out, too, whose reader takes nothing (a window of zero). A server may
//! well pause while it takes an upload, so only requests that fit into any receive buffer have that time-out; others are
//! watched (`upload_watch`). Time-outs
//! are options of a connection, so requests of different kinds do not share connections.

use std::io::ErrorKind;
use std::time::Duration;

use fairway_config::service::AppProtocol;
use fairway_gateway_core::route::Tick;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora_core::protocols::TcpKeepalive;
use pingora_error::Error;
use pingora_proxy::Session;

use crate::hops::Hops;

/// The most bytes of a body that fits into an endpoint's receive buffer: a quarter of what Linux announces for a new
/// connection. (pingora keeps bodies of up to 64 KiB for another try.)
const SMALL: u64 = 16 * 1024;

/// What a request asks of its connection to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionUse {
    /// It is short, and may be repeated at another endpoint.
    Repeatable,
    /// It is short, and may not be repeated. So a pause of the network has more time to pass.
    Single,
    /// An upload, or a connection that is upgraded.
    Long,
    /// A stream of h2. The endpoint reads its connection on whatever its streams do.
    Stream,
}

impl ConnectionUse {
    /// The kind of a session's request to an endpoint that is spoken to by `app`.
    pub(super) fn of(session: &mut Session, app: AppProtocol, is_upgrade: bool) -> Self {
        if app == AppProtocol::H2c {
            return Self::Stream;
        }
        let is_small = match body_length(session) {
            Some(length) => length <= SMALL,
            None => false,
        };
        if is_upgrade || !is_small {
            Self::Long
        } else if session.req_header().method.is_idempotent() {
            Self::Repeatable
        } else {
            Self::Single
        }
    }

    /// When the kernel ends the connection by itself. The probes are so frequent that one or two may be lost.
    pub(super) fn keepalive(self) -> TcpKeepalive {
        let (idle, interval, user_timeout) = match self {
            Self::Repeatable => (2, 1, 4),
            Self::Stream => (2, 1, 5),
            Self::Single => (4, 2, 10),
            Self::Long => (60, 10, 0),
        };
        TcpKeepalive {
            idle: Duration::from_secs(idle),
            interval: Duration::from_secs(interval),
            // Counts only without a user time-out.
            count: 6,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::from_secs(user_timeout),
        }
    }

    /// A key for pools of connections: a connection is used again only for a request of the same kind, with the same
    /// hops, and by who trusts the endpoint since the same time.
    pub(super) fn pool_key(self, hops: Option<Hops>, trusted_since: Tick) -> u64 {
        let hops = hops.map_or(0, Hops::key);
        // Milliseconds since the start: 44 bits are 500 years. The highest bit is of `ClientConnection::own_pool`.
        (trusted_since.0 << 18) & !OWN_POOL | (self as u64) << 16 | hops
    }
}

/// The bit that the keys of pools of one client's connection have, and no other key.
pub(super) const OWN_POOL: u64 = 1 << 63;

/// Whether a connection has ended because the endpoint's machine gave no sign of life.
pub(super) fn is_silence(error: &Error) -> bool {
    let cause = error.root_cause();
    let kind = match cause.downcast_ref::<std::io::Error>() {
        Some(error) => Some(error.kind()),
        None => cause
            .downcast_ref::<h2::Error>()
            .and_then(|error| Some(error.get_io()?.kind())),
    };
    // What a router has said meanwhile takes the place of the time-out (`tcp_write_err` in net/ipv4/tcp_timer.c).
    kind.is_some_and(|kind| {
        matches!(
            kind,
            ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
        )
    })
}

/// How many bytes a request's body has; none: that is not known.
fn body_length(session: &mut Session) -> Option<u64> {
    let headers = &session.req_header().headers;
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    if let Some(length) = headers.get(CONTENT_LENGTH) {
        return length.to_str().ok()?.parse().ok();
    }
    // h2 says by a flag that nothing follows.
    let is_empty = !session.is_http2() || session.as_mut().is_body_empty();
    is_empty.then_some(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const ALL: [ConnectionUse; 4] = [
        ConnectionUse::Repeatable,
        ConnectionUse::Single,
        ConnectionUse::Long,
        ConnectionUse::Stream,
    ];

    #[test]
    fn what_differs_shares_no_pool() {
        let hops = [None, Hops::left_for_test(1), Hops::left_for_test(32)];
        let ticks = [0, 1, 2, 1000, 1 << 43];
        let mut keys = Vec::new();
        for kind in ALL {
            for hops in hops {
                for tick in ticks {
                    keys.push(kind.pool_key(hops, Tick(tick)));
                }
            }
        }
        assert!(keys.iter().all(|key| key & OWN_POOL == 0));
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn a_probe_may_be_lost_before_a_connection_ends() {
        for kind in ALL {
            let it = kind.keepalive();
            if !it.user_timeout.is_zero() {
                assert!(it.idle + it.interval < it.user_timeout, "{kind:?}");
            }
        }
    }
}
