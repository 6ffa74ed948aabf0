//! The timers of a connection.

use std::time::Duration;

use fairway_gateway_core::attempts::Patience;

use crate::delivery::{SELDOM, SOON};
use crate::shared::GatewayShared;

/// Most endpoints answer within this. Until then epoll does not watch the client, which saves a system call.
const CONNECT_GRACE: Duration = Duration::from_millis(50);

/// How long to wait where the kernel has no file or no memory for another socket just now.
const SOCKET_RETRY: Duration = Duration::from_millis(100);

/// Only connections that live this long get keep-alive probes (`SO_KEEPALIVE`) towards their endpoint. For
/// shorter ones the system calls are not worth it.
const KEEP_ALIVE_START: Duration = Duration::from_secs(10);

/// How long a peer has for its PROXY protocol header: more than the time after which TCP has repeated a segment that was
/// lost twice (RFC 6298).
const PROXY_HEADER: Duration = Duration::from_secs(5);

/// What a connection waits for: each timer has a list of the connections that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Timer {
    /// The peer's PROXY protocol header has to come.
    ProxyHeader,
    /// An endpoint is dialled, and has a moment to answer.
    ConnectGrace,
    /// An endpoint is dialled that has failed lately, and there are others to try.
    ConnectDoubtful,
    /// An endpoint is dialled, and there are others to try.
    ConnectWithOthers,
    /// The last endpoint that is left to try is dialled.
    ConnectLast,
    /// The kernel had no socket; it is asked again.
    SocketRetry,
    /// The connection gets keep-alive probes.
    KeepAliveStart,
    /// The endpoint has sent its end: does the client still take bytes?
    StallCheck,
    /// Does the client have all bytes?
    DeliveryCheck,
    /// The same for a client that is slow.
    SlowDeliveryCheck,
}

impl From<Patience> for Timer {
    /// The timer that follows [`Timer::ConnectGrace`].
    fn from(patience: Patience) -> Self {
        match patience {
            Patience::Doubtful => Self::ConnectDoubtful,
            Patience::WithOthers => Self::ConnectWithOthers,
            Patience::Last => Self::ConnectLast,
        }
    }
}

impl Timer {
    pub(super) const COUNT: usize = 10;
    pub(super) const ALL: [Self; Self::COUNT] = [
        Self::ProxyHeader,
        Self::ConnectGrace,
        Self::ConnectDoubtful,
        Self::ConnectWithOthers,
        Self::ConnectLast,
        Self::SocketRetry,
        Self::KeepAliveStart,
        Self::StallCheck,
        Self::DeliveryCheck,
        Self::SlowDeliveryCheck,
    ];

    /// How long it runs.
    pub(super) fn duration(self, shared: &GatewayShared) -> Duration {
        let connect = |patience: Patience| {
            let limit = patience.duration(shared.connect_timeout);
            limit.saturating_sub(CONNECT_GRACE)
        };
        match self {
            Self::ProxyHeader => PROXY_HEADER,
            Self::ConnectGrace => CONNECT_GRACE,
            Self::ConnectDoubtful => connect(Patience::Doubtful),
            Self::ConnectWithOthers => connect(Patience::WithOthers),
            Self::ConnectLast => connect(Patience::Last),
            Self::SocketRetry => SOCKET_RETRY,
            Self::KeepAliveStart => KEEP_ALIVE_START,
            Self::StallCheck => shared.stall_timeout,
            Self::DeliveryCheck => SOON,
            Self::SlowDeliveryCheck => SELDOM,
        }
    }
}
