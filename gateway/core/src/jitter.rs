//! Spreads timers, so that what began together does not go on together.

use std::time::Duration;

/// Numbers that follow from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to `most`.
    pub(crate) fn up_to(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        mixed % most.saturating_add(1)
    }

    /// At least three quarters of it, and at most `most` thousandths.
    pub(crate) fn shorten(&mut self, time: Duration, most: u32) -> Duration {
        let part = self.up_to(u64::from(most.saturating_sub(750)));
        time * (750 + u32::try_from(part).unwrap_or_default()) / 1000
    }
}
