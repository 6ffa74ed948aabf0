//! Least connections: the endpoint with the fewest for its weight.

use super::carried::Carried;
use super::draw::spread;

/// The index of the endpoint with the fewest connections for its weight, of those that have one; none where none has.
/// Of several that have as few, those that follow each other in turns take them by weight, so that a port with hardly
/// any traffic does not send all of it to its first endpoint.
///
/// `carried` is asked for each endpoint of `0..count`, none leaves one out. What others count meanwhile may or may not
/// be seen: every choice is near the best one, and no lock is taken. This is one pass over the endpoints, and a second
/// one where several have as few.
pub(super) fn least_connections(
    count: usize,
    carried: impl Fn(usize) -> Option<Carried>,
    turn: impl FnOnce() -> u64,
) -> Option<usize> {
    let mut least: Option<(usize, Carried)> = None;
    // The weights of those that have as few as the least one.
    let (mut alike, mut sum) = (0_usize, 0_u64);
    for at in 0..count {
        let Some(other) = carried(at) else {
            continue;
        };
        let order = least.map(|(_, least)| other.compare(&least));
        match order {
            Some(std::cmp::Ordering::Greater) => {}
            Some(std::cmp::Ordering::Equal) => {
                alike += 1;
                sum += u64::from(other.weight);
            }
            Some(std::cmp::Ordering::Less) | None => {
                least = Some((at, other));
                (alike, sum) = (1, u64::from(other.weight));
            }
        }
    }
    let (first, least) = least?;
    if alike < 2 {
        return Some(first);
    }
    let place = spread(turn(), sum);
    let mut up_to = 0;
    for at in first..count {
        let Some(other) = carried(at).filter(|other| other.compare(&least).is_le()) else {
            continue;
        };
        up_to += u64::from(other.weight);
        if place < up_to {
            return Some(at);
        }
    }
    // They have got more meanwhile.
    Some(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Endpoints as (weight, connections).
    fn choose(all: &[(u32, u64)], turn: u64) -> Option<usize> {
        let carried = |at: usize| {
            let (weight, connections) = *all.get(at)?;
            (weight > 0).then_some(Carried {
                weight,
                connections,
            })
        };
        least_connections(all.len(), carried, || turn)
    }

    #[test]
    fn the_one_with_the_fewest_for_its_weight_is_chosen() {
        for (all, wanted) in [
            (&[][..], None),
            (&[(0, 0)], None),
            (&[(1, 9)], Some(0)),
            (&[(1, 3), (1, 2), (1, 4)], Some(1)),
            // 3/1, 5/2, 8/3: 2.5 is the least.
            (&[(1, 3), (2, 5), (3, 8)], Some(1)),
            (&[(1, 3), (2, 5), (4, 8)], Some(2)),
            (&[(0, 0), (1, 7)], Some(1)),
            (&[(u32::MAX, u64::MAX), (1, u64::MAX)], Some(0)),
        ] {
            for turn in 0..20 {
                assert_eq!(choose(all, turn), wanted, "{all:?}");
            }
        }
    }

    #[test]
    fn those_that_have_as_few_take_turns_by_weight() {
        let all = [(1, 0), (9, 4), (2, 0), (3, 0)];
        let mut counts = [0_i32; 4];
        for turn in 0..600 {
            counts[choose(&all, turn).unwrap_or(1)] += 1;
        }
        for (count, share) in counts.iter().zip([100, 0, 200, 300]) {
            assert!((count - share).abs() <= 5, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn none_has_fewer(all in prop::collection::vec((0..5_u32, 0..6_u64), 0..20), turn: u64) {
            let chosen = choose(&all, turn);
            prop_assert_eq!(chosen.is_none(), all.iter().all(|(weight, _)| *weight == 0));
            if let Some(at) = chosen {
                let (weight, connections) = all[at];
                for (other, more) in all.iter().filter(|(other, _)| *other > 0) {
                    prop_assert!(connections * u64::from(*other) <= more * u64::from(weight));
                }
            }
        }
    }
}
