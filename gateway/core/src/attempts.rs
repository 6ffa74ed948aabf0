//! How many endpoints are tried for one connection, and how long each of them may take to accept it: the same for
//! opaque connections and for HTTP requests.

use std::time::Duration;

use fairway_config::net::EndpointAddr;

use crate::pick::Picked;
use crate::route::Tick;

/// The most endpoints that are tried for one connection.
pub const TRIES: usize = 4;

/// After this time no further endpoint is tried.
pub const DIAL_TIME: Duration = Duration::from_secs(10);

/// How long an endpoint has for its answer while there are others to try: more than the one second after which TCP
/// repeats a SYN that was lost (RFC 6298).
pub const CONNECT_WITH_OTHERS: Duration = Duration::from_millis(1500);

/// The same for an endpoint that has failed lately. Most answer within a few milliseconds, and the client waits.
pub const CONNECT_DOUBTFUL: Duration = Duration::from_millis(250);

/// How long an endpoint may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// It has failed lately, and there are others to try.
    Doubtful,
    /// There are others to try.
    WithOthers,
    /// It is the last one that is left to try.
    Last,
}

impl Patience {
    /// How long an endpoint may take that would have this time, where it is dialled from the client's address: what it
    /// answers may never come, and the client waits.
    pub fn from_client(self, is_proven: bool) -> Self {
        match self {
            _ if !is_proven => Self::Doubtful,
            Self::Last => Self::WithOthers,
            other => other,
        }
    }

    /// The same once that has failed and it is dialled from the gateway's address: one that answers others has failed
    /// itself, most likely.
    pub fn after_client(self, is_proven: bool) -> Self {
        match self {
            Self::WithOthers if is_proven => Self::Doubtful,
            other => other,
        }
    }

    /// The time. The last one that is left has `connect_timeout`, and none has more.
    pub fn duration(self, connect_timeout: Duration) -> Duration {
        match self {
            Self::Doubtful => CONNECT_DOUBTFUL.min(connect_timeout),
            Self::WithOthers => CONNECT_WITH_OTHERS.min(connect_timeout),
            Self::Last => connect_timeout,
        }
    }
}

/// The endpoints that were tried for one connection.
#[derive(Debug, Default)]
pub struct Attempts {
    tried: Vec<EndpointAddr>,
    /// When it was first asked whether one may be tried.
    began: Option<Tick>,
}

impl Attempts {
    /// Those that could not be reached.
    pub fn tried(&self) -> &[EndpointAddr] {
        &self.tried
    }

    /// Whether another endpoint may be tried, if there is one.
    pub fn may_try(&mut self, now: Tick) -> bool {
        let began = *self.began.get_or_insert(now);
        let took = Duration::from_millis(now.0.saturating_sub(began.0));
        self.tried.len() < TRIES && took < DIAL_TIME
    }

    /// How long the endpoint that was picked may take.
    pub fn patience<S>(&self, picked: &Picked<'_, S>) -> Patience {
        if picked.is_last || self.tried.len() + 1 >= TRIES {
            Patience::Last
        } else if picked.is_doubtful {
            Patience::Doubtful
        } else {
            Patience::WithOthers
        }
    }

    /// Notes that an endpoint could not be reached.
    pub fn failed(&mut self, endpoint: EndpointAddr) {
        self.tried.push(endpoint);
    }
}

#[cfg(test)]
mod tests;
