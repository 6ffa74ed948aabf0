//! The token bucket of one client.

use std::time::Duration;

use fairway_config::port_limits::ConnectionRate;

use crate::route::Tick;

/// A token in thousandths: with a rate in tokens a second so many thousandths come in a millisecond.
const TOKEN: u64 = 1000;

/// A token bucket, as what is missing in it: so its size and its rate can change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Thousandths of a token, at [`Self::at`].
    pub missing: u64,
    /// When it was looked at last.
    pub at: Tick,
}

impl TokenBucket {
    /// A full one.
    pub(super) fn full(now: Tick) -> Self {
        Self {
            missing: 0,
            at: now,
        }
    }

    /// Whether it was full when it was looked at last.
    pub(super) fn is_full(&self) -> bool {
        self.missing == 0
    }

    /// Takes a token.
    ///
    /// # Errors
    /// There is none. The time until there is one.
    pub(super) fn take(&mut self, rate: ConnectionRate, now: Tick) -> Result<(), Duration> {
        let (size, speed) = (u64::from(rate.burst.get()) * TOKEN, rate.per_second.get());
        self.fill(speed.into(), now);
        // A bucket that was made smaller is empty at most.
        self.missing = self.missing.min(size);
        let missing = self.missing + TOKEN;
        if missing > size {
            let wait = (missing - size).div_ceil(u64::from(speed));
            return Err(Duration::from_millis(wait));
        }
        self.missing = missing;
        Ok(())
    }

    /// Whether it would be full now even if it had been empty when it was looked at last.
    pub(super) fn is_full_for_sure(&self, rate: ConnectionRate, now: Tick) -> bool {
        let size = u64::from(rate.burst.get()) * TOKEN;
        let since = now.0.saturating_sub(self.at.0);
        since >= size.div_ceil(u64::from(rate.per_second.get()))
    }

    /// Adds what has come since it was looked at last. The clock that a worker has read may be a little behind.
    fn fill(&mut self, speed: u64, now: Tick) {
        let since = now.0.saturating_sub(self.at.0);
        self.missing = self.missing.saturating_sub(since.saturating_mul(speed));
        self.at = self.at.max(now);
    }
}
