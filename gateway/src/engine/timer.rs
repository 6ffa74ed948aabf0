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
    /// Was there a byte either way lately? Where a connection may be idle for so long or longer: a check waits in the
    /// list of the longest of these times that is no longer than what is left. So a few lists do for all times, no
    /// connection is looked at more often than three times in each of them, and the end comes a second late at most.
    Idle1,
    Idle4,
    Idle16,
    Idle64,
    Idle256,
    Idle1024,
    Idle4096,
}

/// The lists of idle checks with their times in seconds, the longest first.
const IDLE: [(Timer, u64); 7] = [
    (Timer::Idle4096, 4096),
    (Timer::Idle1024, 1024),
    (Timer::Idle256, 256),
    (Timer::Idle64, 64),
    (Timer::Idle16, 16),
    (Timer::Idle4, 4),
    (Timer::Idle1, 1),
];

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
    pub(super) const COUNT: usize = 17;
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
        Self::Idle1,
        Self::Idle4,
        Self::Idle16,
        Self::Idle64,
        Self::Idle256,
        Self::Idle1024,
        Self::Idle4096,
    ];

    /// The next idle check of a connection that may be silent for this long from now on.
    pub(super) fn until_idle(left: Duration) -> Self {
        let mut lists = IDLE.into_iter();
        let found = lists.find(|(_, seconds)| *seconds <= left.as_secs());
        found.map_or(Self::Idle1, |(timer, _)| timer)
    }

    /// The first timer of a connection that carries bytes, where it may be idle for so long.
    pub(super) fn while_carrying(idle: Option<Duration>) -> Self {
        match idle {
            Some(idle) if idle < KEEP_ALIVE_START => Self::until_idle(idle),
            _ => Self::KeepAliveStart,
        }
    }

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
            Self::Idle1 => Duration::from_secs(1),
            Self::Idle4 => Duration::from_secs(4),
            Self::Idle16 => Duration::from_secs(16),
            Self::Idle64 => Duration::from_secs(64),
            Self::Idle256 => Duration::from_secs(256),
            Self::Idle1024 => Duration::from_secs(1024),
            Self::Idle4096 => Duration::from_secs(4096),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_check_comes_in_time_and_not_often() {
        for idle in [1, 2, 3, 5, 59, 60, 300, 3_600, 86_400] {
            let idle = Duration::from_secs(idle);
            let (mut waited, mut checks) = (Duration::ZERO, 0);
            while waited < idle {
                let timer = Timer::until_idle(idle - waited);
                let wait = IDLE.into_iter().find(|(it, _)| *it == timer);
                waited += Duration::from_secs(wait.map_or(0, |(_, seconds)| seconds));
                checks += 1;
            }
            assert!(
                waited < idle + Duration::from_secs(1),
                "{idle:?}: {waited:?}"
            );
            assert!(checks <= 21 + 3 * 6, "{idle:?}: {checks} checks");
        }
        let odd = Duration::from_millis(1_500);
        assert_eq!(Timer::until_idle(odd), Timer::Idle1);
        assert_eq!(Timer::until_idle(Duration::ZERO), Timer::Idle1);
    }

    #[test]
    fn each_timer_has_the_place_of_its_list() {
        for (at, timer) in Timer::ALL.into_iter().enumerate() {
            assert_eq!(at, timer as usize);
        }
    }
}
