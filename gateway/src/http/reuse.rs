//! Which kept connections a request may use again on this path: see [`ConnectionUse`].

use fairway_config::service::AppProtocol;
use fairway_gateway_core::route::Tick;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora_core::protocols::TcpKeepalive;
use pingora_error::Error;
use pingora_proxy::Session;

use crate::connection_use::{self, ConnectionUse, PROBES};
use crate::hops::Hops;

/// The kind of a session's request to an endpoint that is spoken to by `app`.
pub(super) fn kind_of(session: &mut Session, app: AppProtocol, is_upgrade: bool) -> ConnectionUse {
    if app == AppProtocol::H2c {
        return ConnectionUse::Stream;
    }
    let length = body_length(session);
    let is_idempotent = session.req_header().method.is_idempotent();
    ConnectionUse::of(length, is_idempotent, is_upgrade)
}

/// When the kernel ends the connection by itself.
pub(super) fn keepalive(kind: ConnectionUse) -> TcpKeepalive {
    let times = kind.times();
    TcpKeepalive {
        idle: times.idle,
        interval: times.interval,
        count: PROBES as usize,
        #[cfg(target_os = "linux")]
        user_timeout: times.user_timeout,
    }
}

/// A key for pools of connections: a connection is used again only for a request of the same kind, with the same
/// hops, and by who trusts the endpoint since the same time.
pub(super) fn pool_key(kind: ConnectionUse, hops: Option<Hops>, trusted_since: Tick) -> u64 {
    let hops = hops.map_or(0, Hops::key);
    // Milliseconds since the start: 44 bits are 500 years. The highest bit is of `ClientConnection::own_pool`.
    (trusted_since.0 << 18) & !OWN_POOL | (kind as u64) << 16 | hops
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
    kind.is_some_and(connection_use::is_silence)
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
                    keys.push(pool_key(kind, hops, Tick(tick)));
                }
            }
        }
        assert!(keys.iter().all(|key| key & OWN_POOL == 0));
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
