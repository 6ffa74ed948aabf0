//! Weighted round-robin: the order in which endpoints take turns.
//!
//! The order repeats after as many turns as the sum of the weights (in lowest terms). In each repetition every
//! endpoint has as many turns as its weight. With unequal weights a stride spreads the turns of one endpoint: it is
//! about the golden ratio of the sum and has no common divisor with it, so it visits every position once.

/// The turns of a list of endpoints. They are computed with the list, so that a pick does not walk it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Turns {
    /// One each, in the order of the list.
    #[default]
    Equal,
    /// By weight.
    Weighted {
        /// The sum of the weights up to each endpoint, its own included, in lowest terms.
        sums: Vec<u64>,
        /// How far the next turn is from the last one.
        stride: u64,
    },
}

impl Turns {
    /// The turns of endpoints of these weights.
    pub(crate) fn of(weights: impl Iterator<Item = u16> + Clone) -> Self {
        let weights = || weights.clone().map(u64::from);
        let first = weights().next();
        if weights().all(|weight| Some(weight) == first) {
            return Self::Equal;
        }
        let divisor = weights().fold(0, greatest_common_divisor).max(1);
        let mut sum = 0;
        let sums = weights().map(|weight| {
            sum += weight / divisor;
            sum
        });
        let sums: Vec<_> = sums.collect();
        let stride = stride(sum);
        Self::Weighted { sums, stride }
    }

    /// The index in a list of `count` endpoints of the one whose turn it is. Without endpoints none, and `turn` is
    /// not called.
    pub(crate) fn place(&self, count: usize, turn: impl FnOnce() -> u64) -> Option<usize> {
        if count == 0 {
            return None;
        }
        match self {
            Self::Equal => Some((turn() % count as u64) as usize),
            Self::Weighted { sums, stride } => {
                let sum = *sums.last()?;
                let place = u128::from(turn() % sum) * u128::from(*stride) % u128::from(sum);
                Some(sums.partition_point(|up_to| u128::from(*up_to) <= place))
            }
        }
    }
}

/// A number near `sum` divided by the golden ratio that has no divisor in common with `sum`.
fn stride(sum: u64) -> u64 {
    let near = sum.saturating_mul(618) / 1000;
    (near..sum)
        .find(|stride| greatest_common_divisor(*stride, sum) == 1)
        .unwrap_or(1)
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
