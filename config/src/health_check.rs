//! How the endpoints of a port are checked, as the annotation `fairway.dev/health-check` says it.

use std::fmt;
use std::time::Duration;

/// One way to ask an endpoint whether it works.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// The TCP port that is asked in place of the endpoint's own.
    pub port: Option<u16>,
    /// The time from the beginning of one probe to that of the next one.
    pub interval: Duration,
    /// How long a probe may take, the connection included; no longer than the interval.
    pub timeout: Duration,
    /// So many probes in a row have to pass before an endpoint that has failed gets traffic again.
    pub rise: u16,
    /// So many probes in a row have to fail before an endpoint that has passed gets no more traffic.
    pub fall: u16,
}

impl EndpointCheck {
    /// Where nothing is said: as in HAProxy (`inter 2s rise 2 fall 3`).
    pub const INTERVAL: Duration = Duration::from_secs(2);
    /// The same.
    pub const RISE: u16 = 2;
    /// The same.
    pub const FALL: u16 = 3;
    /// The longest time-out that is not asked for.
    const MOST_TIMEOUT: Duration = Duration::from_secs(10);

    /// A check with the default times.
    pub fn new(kind: CheckKind) -> Self {
        Self {
            kind,
            port: None,
            interval: Self::INTERVAL,
            timeout: Self::default_timeout(Self::INTERVAL),
            rise: Self::RISE,
            fall: Self::FALL,
        }
    }

    /// How long a probe may take where that is not said: half of the interval. So three probes that nobody answers are
    /// over within three intervals. (HAProxy's is the whole interval.)
    pub fn default_timeout(interval: Duration) -> Duration {
        (interval / 2).min(Self::MOST_TIMEOUT)
    }
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckKind {
    /// A TCP connection can be made.
    Tcp {
        /// What is sent then; may be empty.
        send: Box<[u8]>,
        /// What has to stand in the answer; may be empty: nothing is waited for.
        expect: Box<[u8]>,
    },
    /// An HTTP request is answered with one of these status codes.
    Http {
        /// By TLS. The certificate is not checked.
        is_tls: bool,
        /// Path and query.
        path: Box<str>,
        /// The Host header, and the server's name in TLS; none: the endpoint's address.
        host: Option<Box<str>>,
        /// The status codes of an endpoint that works.
        status: StatusCodes,
    },
    /// `grpc.health.v1.Health/Check`, in clear text, is answered with SERVING.
    Grpc {
        /// The service that is asked for; empty: the server as a whole.
        service: Box<str>,
    },
}

impl fmt::Display for CheckKind {
    /// As in the annotation, without options.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => f.write_str("tcp"),
            Self::Http { is_tls, path, .. } => {
                let scheme = if *is_tls { "https" } else { "http" };
                write!(f, "{scheme}:{path}")
            }
            Self::Grpc { service } if service.is_empty() => f.write_str("grpc"),
            Self::Grpc { service } => write!(f, "grpc:{service}"),
        }
    }
}

/// Status codes from the first to the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusCodes {
    /// The first one.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl StatusCodes {
    /// Whether it is one of them.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl Default for StatusCodes {
    /// Those of success and of redirection, as in HAProxy and Kubernetes.
    fn default() -> Self {
        Self {
            first: 200,
            last: 399,
        }
    }
}

impl fmt::Display for StatusCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last {
            write!(f, "{first}")
        } else {
            write!(f, "{first}-{last}")
        }
    }
}
