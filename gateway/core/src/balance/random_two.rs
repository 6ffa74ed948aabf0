//! The power of two choices: two endpoints are drawn, and the one with fewer connections for its weight is taken
//! (Mitzenmacher, *The power of two choices in randomized load balancing*, 2001).
//!
//! It costs two looks, however many endpoints there are, and many gateways that know nothing of each other's
//! connections do not all run to the same endpoint, as with least connections.

use super::draw::{drawn, scale};

/// Draws endpoints of a list in proportion to their weights. What it needs is computed with the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lots {
    /// So many, of equal weights.
    Equal(usize),
    /// The sum of the weights up to each endpoint, its own included.
    Weighted(Box<[u64]>),
}

impl Lots {
    /// Those of endpoints of these weights.
    pub(super) fn of(weights: impl Iterator<Item = u16> + Clone) -> Self {
        let mut others = weights.clone();
        let first = others.next();
        if others.all(|weight| Some(weight) == first) {
            return Self::Equal(weights.count());
        }
        let mut sum = 0;
        let sums = weights.map(|weight| {
            sum += u64::from(weight);
            sum
        });
        Self::Weighted(sums.collect())
    }

    /// The indices of two different endpoints, drawn for a turn. The second one is drawn from the others, and is none
    /// where there are none. Nothing where there is no endpoint.
    pub(super) fn two(&self, turn: u64) -> Option<(usize, Option<usize>)> {
        let number = |n: u64| drawn(turn.wrapping_mul(2).wrapping_add(n));
        match self {
            Self::Equal(0) => None,
            Self::Equal(1) => Some((0, None)),
            Self::Equal(count) => {
                let first = scale(number(0), *count as u64) as usize;
                let other = scale(number(1), *count as u64 - 1) as usize;
                // The others are those before it and those after it.
                let second = if other < first { other } else { other + 1 };
                Some((first, Some(second)))
            }
            Self::Weighted(sums) => {
                let sum = *sums.last()?;
                let at = |place: u64| sums.partition_point(|up_to| *up_to <= place);
                let first = at(scale(number(0), sum));
                let end = sums.get(first).copied()?;
                let start = first.checked_sub(1).and_then(|before| sums.get(before));
                let start = start.copied().unwrap_or(0);
                let weight = end - start;
                let other = scale(number(1), sum - weight);
                let second = at(if other < start { other } else { other + weight });
                Some((first, (second < sums.len()).then_some(second)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plausible::is_plausible;

    const TURNS: u64 = 100_000;

    fn counts(weights: &[u16]) -> (Vec<u64>, Vec<u64>) {
        let lots = Lots::of(weights.iter().copied());
        let (mut firsts, mut seconds) = (vec![0; weights.len()], vec![0; weights.len()]);
        for turn in 0..TURNS {
            let (first, second) = lots.two(turn).unwrap_or_default();
            assert_ne!(Some(first), second, "two different ones");
            firsts[first] += 1;
            if let Some(second) = second {
                seconds[second] += 1;
            }
        }
        (firsts, seconds)
    }

    #[test]
    fn both_are_drawn_by_weight_and_differ() {
        for weights in [&[1, 1][..], &[3; 7], &[1, 2, 3, 4], &[1, 65_535], &[5; 100]] {
            let (firsts, seconds) = counts(weights);
            let weights: Vec<_> = weights.iter().map(|weight| f64::from(*weight)).collect();
            let sum: f64 = weights.iter().sum();
            let turns = TURNS as f64;
            let expected: Vec<_> = weights.iter().map(|it| turns * it / sum).collect();
            assert!(is_plausible(&firsts, &expected), "{weights:?}: {firsts:?}");
            // The second one is drawn from what the first one leaves.
            let after = |at: usize| {
                let others = weights.iter().enumerate().filter(|(first, _)| *first != at);
                let chance = |first: &f64| first / sum * (weights[at] / (sum - first));
                others.map(|(_, first)| chance(first)).sum::<f64>() * turns
            };
            let expected: Vec<_> = (0..weights.len()).map(after).collect();
            assert!(
                is_plausible(&seconds, &expected),
                "{weights:?}: {seconds:?}"
            );
        }
    }

    #[test]
    fn one_endpoint_is_drawn_alone_and_none_is_none() {
        assert_eq!(Lots::of(std::iter::empty()).two(7), None);
        assert_eq!(Lots::of([9].into_iter()).two(7), Some((0, None)));
    }
}
