//! Numbers from turns: what looks like chance, and follows from a counter.

/// A number that looks drawn by chance (the last steps of SplitMix64: Steele, Lea and Flood, *Fast splittable
/// pseudorandom number generators*, 2014).
pub(super) fn drawn(turn: u64) -> u64 {
    let mut mixed = turn.wrapping_mul(GOLDEN);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A number below `sum` for a turn. Turns that follow each other are spread evenly over the numbers (the additive
/// recurrence with the golden ratio: Knuth, *The Art of Computer Programming*, volume 3, section 6.4): of `n` turns
/// each number gets its part, give or take a few.
pub(super) fn spread(turn: u64, sum: u64) -> u64 {
    scale(turn.wrapping_mul(GOLDEN), sum)
}

/// A number below `sum` from a number of 64 digits.
pub(super) fn scale(number: u64, sum: u64) -> u64 {
    ((u128::from(number) * u128::from(sum)) >> 64) as u64
}

/// 2^64 divided by the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plausible::is_plausible;

    #[test]
    fn what_is_spread_is_even_at_any_time() {
        for sum in [1, 2, 3, 7, 10, 50] {
            for start in [0, 1 << 40, u64::MAX - 100] {
                let mut counts = vec![0_i64; sum];
                for n in 1..=500 {
                    let turn = u64::wrapping_add(start, n);
                    let at = usize::try_from(spread(turn, sum as u64));
                    counts[at.unwrap_or(usize::MAX)] += 1;
                    let share = i64::try_from(n).unwrap_or(0) / sum as i64;
                    let off = counts.iter().map(|count| (count - share).abs()).max();
                    assert!(off <= Some(5), "{sum}: {counts:?} after {n}");
                }
            }
        }
    }

    #[test]
    fn what_is_drawn_is_spread_as_by_chance() {
        let mut counts = [0_u64; 100];
        for turn in 0..100_000 {
            let at = usize::try_from(scale(drawn(turn), 100));
            counts[at.unwrap_or(usize::MAX)] += 1;
        }
        assert!(is_plausible(&counts, &[1_000.0; 100]), "{counts:?}");
    }
}
