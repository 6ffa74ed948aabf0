//! Whether so much comes that no member has written that messages could be lost among it.

use std::time::Duration;

use super::timing::{BootTime, HEARTBEAT};

/// More than this in one [`HEARTBEAT`] is a flood: the buffer of a socket holds some more.
const MOST: u32 = 200;

/// It is taken for one for so long after it was seen.
const LASTS: Duration = Duration::from_secs(5);

/// See the module. While there is a flood, of what does not look like the messages of known runs one in [`Self::SAMPLE`]
/// is to be taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct GarbageWatch {
    span_began: BootTime,
    count: u32,
    lasts_until: BootTime,
}

impl GarbageWatch {
    /// A member that has begun anew is heard by this part of its messages. A power of two.
    pub const SAMPLE: u32 = 16;

    /// Something came that no member has written.
    pub fn note(&mut self, now: BootTime) {
        if now.since(self.span_began) >= HEARTBEAT {
            (self.span_began, self.count) = (now, 0);
        }
        let weight = match self.is_flood(now) {
            true => Self::SAMPLE,
            false => 1,
        };
        self.count = self.count.saturating_add(weight);
        if self.count > MOST {
            self.lasts_until = now.after(LASTS);
        }
    }

    /// Whether there is a flood.
    pub fn is_flood(&self, now: BootTime) -> bool {
        now < self.lasts_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether there is a flood after each of `seconds` in which so many came.
    fn flooded(watch: &mut GarbageWatch, from: u64, seconds: u64, in_a_second: u64) -> Vec<bool> {
        let mut after = Vec::new();
        for second in from..from + seconds {
            for n in 0..in_a_second {
                let micros = second * 1_000_000 + n * 1_000_000 / in_a_second;
                watch.note(BootTime(Duration::from_micros(micros)));
            }
            after.push(watch.is_flood(BootTime(Duration::from_secs(second + 1))));
        }
        after
    }

    #[test]
    fn a_flood_lasts_as_long_as_its_sample_comes_and_some_seconds() {
        let mut watch = GarbageWatch::default();
        assert_eq!(flooded(&mut watch, 1_000, 3, 1_000), [false; 3]);
        assert_eq!(flooded(&mut watch, 1_003, 3, 100_000), [true; 3]);
        assert_eq!(flooded(&mut watch, 1_006, 20, 100_000 / 16), [true; 20]);
        assert_eq!(flooded(&mut watch, 1_026, 4, 10), [true; 4]);
        assert_eq!(flooded(&mut watch, 1_030, 3, 10), [false; 3]);
    }
}
