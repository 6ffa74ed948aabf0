//! The timers of a client's connection that is carried by request.

use std::time::Duration;

use fairway_gateway_core::attempts::Patience;

use crate::delivery::{SELDOM, SOON};
use crate::shared::GatewayShared;

/// How long to wait where the kernel has no file or no memory for another socket just now.
const SOCKET_RETRY: Duration = Duration::from_millis(100);

/// What a connection waits for: each timer has a list of the connections that wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum HttpTimer {
    /// The first byte has to come, or the rest of a head.
    Head,
    /// Another request may come.
    KeepAlive,
    /// It is looked now and then whether anything has taken too long.
    Look,
    /// An endpoint is dialled that has failed lately, and there are others to try.
    ConnectDoubtful,
    /// An endpoint is dialled, and there are others to try.
    ConnectWithOthers,
    /// The last endpoint that is left to try is dialled.
    ConnectLast,
    /// The kernel had no socket; it is asked again.
    SocketRetry,
    /// Does the client have all bytes?
    Delivery,
    /// The same for a client that is slow.
    SlowDelivery,
}

impl From<Patience> for HttpTimer {
    fn from(patience: Patience) -> Self {
        match patience {
            Patience::Doubtful => Self::ConnectDoubtful,
            Patience::WithOthers => Self::ConnectWithOthers,
            Patience::Last => Self::ConnectLast,
        }
    }
}

impl HttpTimer {
    pub(crate) const COUNT: usize = 9;
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Head,
        Self::KeepAlive,
        Self::Look,
        Self::ConnectDoubtful,
        Self::ConnectWithOthers,
        Self::ConnectLast,
        Self::SocketRetry,
        Self::Delivery,
        Self::SlowDelivery,
    ];

    /// How long it runs.
    pub(crate) fn duration(self, shared: &GatewayShared) -> Duration {
        let connect = |patience: Patience| patience.duration(shared.connect_timeout);
        match self {
            Self::Head => shared.http_times.head,
            Self::KeepAlive => shared.http_times.keep_alive,
            Self::Look => shared.http_times.look,
            Self::ConnectDoubtful => connect(Patience::Doubtful),
            Self::ConnectWithOthers => connect(Patience::WithOthers),
            Self::ConnectLast => connect(Patience::Last),
            Self::SocketRetry => SOCKET_RETRY,
            Self::Delivery => SOON,
            Self::SlowDelivery => SELDOM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_timer_has_the_place_of_its_list() {
        for (at, timer) in HttpTimer::ALL.into_iter().enumerate() {
            assert_eq!(at, timer as usize);
        }
    }
}
