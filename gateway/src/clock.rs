//! The clock of the process.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fairway_config::time::Timestamp;
use fairway_gateway_core::fleet::BootTime;
use fairway_gateway_core::route::Tick;
use rustix::time::{ClockId, clock_gettime};

/// The time since the machine started, with the time that it slept.
pub fn boot_time() -> BootTime {
    let time = clock_gettime(ClockId::Boottime);
    BootTime(Duration::try_from(time).unwrap_or_default())
}

/// The process's monotonic clock as [`Tick`]s.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    /// The wall clock's time at the start.
    wall: Timestamp,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            wall: wall_time(),
        }
    }

    /// A clock that goes on for that of another process, which started then.
    pub(crate) fn started(start: Instant) -> Self {
        let since = i64::try_from(start.elapsed().as_secs()).unwrap_or_default();
        Self {
            start,
            wall: Timestamp(wall_time().0.saturating_sub(since)),
        }
    }

    /// How long ago it started.
    pub(crate) fn age(&self) -> Duration {
        self.start.elapsed()
    }

    /// Now.
    pub fn now(&self) -> Tick {
        self.at(Instant::now())
    }

    /// The tick of an instant. One before the start counts as the start.
    pub fn at(&self, instant: Instant) -> Tick {
        let since = instant.saturating_duration_since(self.start);
        Tick(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The wall-clock time of a tick. It stays the same where the wall clock is set meanwhile.
    pub fn timestamp(&self, tick: Tick) -> Timestamp {
        let seconds = i64::try_from(tick.0 / 1000).unwrap_or(i64::MAX);
        Timestamp(self.wall.0.saturating_add(seconds))
    }
}

/// The time of day when the machine started, since 1970. With a [`boot_time`] it tells when that was, in any process.
pub(crate) fn wall_time_at_boot() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().saturating_sub(boot_time().0)
}

/// The time of day.
pub(crate) fn wall_time() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    Timestamp(i64::try_from(seconds).unwrap_or(i64::MAX))
}
