//! Whether an endpoint can be reached, by the outcome of its last dials.
//!
//! Only the dials of real traffic count. After [`UNREACHABLE_AFTER`] failures in a row the endpoint is unreachable,
//! until a dial works, or nobody has dialled it for [`LAPSE`]: then nothing is known of it. The state is local to
//! this process.
//!
//! Workers write and others read without a lock: a reader may see a failure a moment before its time or its reason.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use crate::route::Tick;

/// An endpoint is unreachable after this many failed dials in a row. A single one may be a server that restarts.
pub const UNREACHABLE_AFTER: u32 = 3;

/// Failures count for this long after the last dial.
pub const LAPSE: Duration = Duration::from_mins(5);

/// The count of failures stops here.
const MOST: u32 = 1 << 30;

/// Why a dial of an endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DialFailure {
    /// It refused the connection.
    Refused,
    /// It did not answer in time.
    Timeout,
    /// There is no route to it.
    Unreachable,
    /// This process has no file descriptors or no ports left.
    Exhausted,
    /// Anything else.
    Other,
}

impl DialFailure {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Refused,
        Self::Timeout,
        Self::Unreachable,
        Self::Exhausted,
        Self::Other,
    ];

    /// One word: the value of a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
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
    /// For people: `connection refused`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Timeout => "no answer in time",
            Self::Unreachable => "no route to it",
            Self::Exhausted => "no port or file descriptor left to dial from",
            Self::Other => "another error",
        })
    }
}

/// The outcome of the last dials of one endpoint. Shared by all workers that dial it.
#[derive(Debug, Default)]
pub struct Reachability {
    /// Dials that failed since the last one that worked.
    failures: AtomicU32,
    /// When the first of them failed.
    since: AtomicU64,
    /// When the last of them failed.
    last: AtomicU64,
    /// Why the last of them failed: the index in [`DialFailure::ALL`].
    why: AtomicU8,
}

/// Dials that failed one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailedDials {
    /// How many.
    pub count: u32,
    /// When the first of them failed.
    pub since: Tick,
    /// When the last of them failed.
    pub last: Tick,
    /// Why the last of them failed.
    pub why: DialFailure,
}

impl FailedDials {
    /// Whether the endpoint is unreachable.
    pub fn is_unreachable(&self, now: Tick) -> bool {
        self.count >= UNREACHABLE_AFTER && !self.is_old(now)
    }

    /// Whether nobody has tried for so long that it says nothing of now.
    pub fn is_old(&self, now: Tick) -> bool {
        is_old(self.last, now)
    }
}

fn is_old(last: Tick, now: Tick) -> bool {
    Duration::from_millis(now.0.saturating_sub(last.0)) > LAPSE
}

impl Reachability {
    /// A dial failed. Returns whether the endpoint is unreachable from now on and was not before.
    pub fn failed(&self, why: DialFailure, now: Tick) -> bool {
        if !why.is_of_the_endpoint() {
            return false;
        }
        if self.failures.load(Ordering::Relaxed) == 0 {
            self.since.store(now.0, Ordering::Relaxed);
        }
        self.why.store(why as u8, Ordering::Relaxed);
        let lapsed = is_old(Tick(self.last.swap(now.0, Ordering::Relaxed)), now);
        let more = |count: u32| Some((count + 1).min(MOST));
        let before = self
            .failures
            .fetch_update(Ordering::Release, Ordering::Relaxed, more);
        let count = before.unwrap_or_default() + 1;
        count == UNREACHABLE_AFTER || count > UNREACHABLE_AFTER && lapsed
    }

    /// Notes a dial that worked, or a datagram that was answered. Returns whether the endpoint was unreachable until
    /// now. Where nothing had failed this only reads an atomic that nobody writes.
    pub fn worked(&self) -> bool {
        self.failures.load(Ordering::Relaxed) != 0
            && self.failures.swap(0, Ordering::Relaxed) >= UNREACHABLE_AFTER
    }

    /// The failures since a dial last worked; none where the last one worked, or none was made.
    pub fn failed_dials(&self) -> Option<FailedDials> {
        let count = self.failures.load(Ordering::Acquire);
        let why = usize::from(self.why.load(Ordering::Relaxed));
        (count > 0).then(|| FailedDials {
            count,
            since: Tick(self.since.load(Ordering::Relaxed)),
            last: Tick(self.last.load(Ordering::Relaxed)),
            why: DialFailure::ALL
                .get(why)
                .copied()
                .unwrap_or(DialFailure::Other),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const LAPSED: u64 = LAPSE.as_millis() as u64 + 1;

    fn is_unreachable(it: &Reachability, now: u64) -> bool {
        it.failed_dials()
            .is_some_and(|failed| failed.is_unreachable(Tick(now)))
    }

    #[test]
    fn three_failed_dials_make_an_endpoint_unreachable_and_one_that_works_ends_it() {
        let it = Reachability::default();
        assert_eq!(it.failed_dials(), None);
        assert!(!it.failed(DialFailure::Refused, Tick(10)));
        assert!(!it.failed(DialFailure::Timeout, Tick(20)));
        assert!(!is_unreachable(&it, 20));
        assert!(it.failed(DialFailure::Refused, Tick(30)), "it is news once");
        assert!(!it.failed(DialFailure::Refused, Tick(40)), "and only once");
        let failed = it.failed_dials().unwrap();
        assert_eq!(
            (failed.count, failed.since, failed.last),
            (4, Tick(10), Tick(40))
        );
        assert_eq!(failed.why, DialFailure::Refused);
        assert!(it.worked(), "that it is over is news");
        assert!(!it.worked());
        assert_eq!(it.failed_dials(), None);
    }

    #[test]
    fn a_dial_that_works_starts_the_count_anew() {
        let it = Reachability::default();
        for now in 0..10 {
            assert!(!it.failed(DialFailure::Refused, Tick(now)));
            assert!(!it.failed(DialFailure::Refused, Tick(now)));
            assert!(!it.worked());
        }
    }

    #[test]
    fn what_nobody_has_tried_for_long_is_not_known_until_the_next_dial_fails() {
        let it = Reachability::default();
        for now in 0..3 {
            it.failed(DialFailure::Refused, Tick(now));
        }
        assert!(is_unreachable(&it, LAPSED));
        assert!(!is_unreachable(&it, 3 + LAPSED));
        // No dial has worked since, so one more is enough, and it is news again.
        assert!(it.failed(DialFailure::Refused, Tick(10 + LAPSED)));
        assert!(is_unreachable(&it, 10 + LAPSED));
        assert_eq!(it.failed_dials().unwrap().since, Tick(0));
    }

    #[test]
    fn what_this_process_lacks_says_nothing_of_the_endpoint() {
        let it = Reachability::default();
        for now in 0..10 {
            assert!(!it.failed(DialFailure::Exhausted, Tick(now)));
        }
        assert_eq!(it.failed_dials(), None);
    }

    #[test]
    fn of_many_threads_that_fail_at_once_one_has_the_news() {
        let it = Reachability::default();
        let news = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..100)
                            .filter(|now| it.failed(DialFailure::Refused, Tick(*now)))
                            .count()
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|it| it.join().unwrap())
                .sum::<usize>()
        });
        assert_eq!(news, 1);
        assert_eq!(it.failed_dials().unwrap().count, 800);
    }

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
