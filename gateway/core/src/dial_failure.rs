//! Why an endpoint did not do what was asked of it.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Why a dial of an endpoint failed, or a connection to it before its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DialFailure {
    /// It refused the connection.
    Refused,
    /// It did not answer in time.
    Timeout,
    /// There is no route to it.
    Unreachable,
    /// Its machine has acknowledged nothing on an open connection.
    Silent,
    /// It accepted the connection, and reset it before it said anything.
    Reset,
    /// This process has no file descriptors or no ports left.
    Exhausted,
    /// Anything else.
    Other,
}

impl DialFailure {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Silent,
        Self::Reset,
        Self::Exhausted,
        Self::Other,
    ];

    /// One word: the value of a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Reset => "reset",
            Self::Exhausted => "exhausted",
            Self::Other => "other",
        }
    }

    /// The class of an error of `connect(2)`.
    pub fn of(error: &io::Error) -> Self {
        use io::ErrorKind;
        match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Self::Refused,
            ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Self::Unreachable,
            ErrorKind::AddrNotAvailable => Self::Exhausted,
            _ => match error.raw_os_error() {
                // EMFILE and ENFILE: see errno(3).
                Some(23 | 24) => Self::Exhausted,
                _ => Self::Other,
            },
        }
    }

    /// Whether the cause is the endpoint or the way to it, and not this process.
    pub fn is_of_the_endpoint(self) -> bool {
        self != Self::Exhausted
    }
}

impl fmt::Display for DialFailure {
    /// For people: `connection refused`, so that `3 times` can follow.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Timeout => "connect timed out",
            Self::Unreachable => "no route to it",
            Self::Silent => "no sign of life on an open connection",
            Self::Reset => "connection reset before an answer",
            Self::Exhausted => "no port or file descriptor left to dial from",
            Self::Other => "another error",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn errors_of_connect_have_their_class() {
        for (number, class) in [
            (111, DialFailure::Refused),
            (104, DialFailure::Refused),
            (110, DialFailure::Timeout),
            (113, DialFailure::Unreachable),
            (101, DialFailure::Unreachable),
            (99, DialFailure::Exhausted),
            (24, DialFailure::Exhausted),
            (13, DialFailure::Other),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(DialFailure::of(&error), class, "{error}");
        }
    }
}
