#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::slab::Slab;

/// What a slab is told.
#[derive(Clone, Debug)]
enum Act {
    Insert,
    Remove(usize),
    Enlist(usize, u8),
    Delist(usize),
    Due(u8, u64),
    Reclaim,
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => Just(Act::Insert),
        2 => any::<usize>().prop_map(Act::Remove),
        4 => (any::<usize>(), 0..3_u8).prop_map(|(at, list)| Act::Enlist(at, list)),
        1 => any::<usize>().prop_map(Act::Delist),
        2 => (0..3_u8, 0..50_u64).prop_map(|(list, after)| Act::Due(list, after)),
        1 => Just(Act::Reclaim),
        2 => (0..20_u64).prop_map(Act::Pass),
    ]
}

proptest! {
    /// Against lists as anybody would write them.
    #[test]
    fn a_slab_keeps_values_by_number_and_lists_in_order(acts in prop::collection::vec(act(), 0..400)) {
        let mut slab: Slab<u64, 3> = Slab::new();
        let mut values: BTreeMap<u32, u64> = BTreeMap::new();
        let mut lists: [Vec<(u32, Instant)>; 3] = Default::default();
        let mut gone: Vec<u32> = Vec::new();
        let mut now = Instant::now();
        let mut next = 0;
        for act in acts {
            let pick = |at: usize| values.keys().nth(at % values.len().max(1)).copied();
            let out = |number: u32, lists: &mut [Vec<(u32, Instant)>; 3]| {
                for list in lists.iter_mut() {
                    list.retain(|(there, _)| *there != number);
                }
            };
            match act {
                Act::Insert => {
                    let number = slab.insert(next);
                    prop_assert!(!values.contains_key(&number));
                    prop_assert!(!gone.contains(&number), "given out before it was reclaimed");
                    values.insert(number, next);
                    next += 1;
                }
                Act::Remove(at) => {
                    if let Some(number) = pick(at) {
                        prop_assert_eq!(slab.remove(number), values.remove(&number));
                        prop_assert!(slab.get(number).is_none());
                        out(number, &mut lists);
                        gone.push(number);
                    }
                }
                Act::Enlist(at, list) => {
                    if let Some(number) = pick(at) {
                        slab.enlist(number, list, now);
                        out(number, &mut lists);
                        lists[usize::from(list)].push((number, now));
                    }
                }
                Act::Delist(at) => {
                    if let Some(number) = pick(at) {
                        slab.delist(number);
                        out(number, &mut lists);
                    }
                }
                Act::Due(list, after) => {
                    let after = Duration::from_millis(after);
                    let first = lists[usize::from(list)].first().copied();
                    let due = first.filter(|(_, since)| now.duration_since(*since) >= after);
                    prop_assert_eq!(slab.due(list, now, after), due.map(|(number, _)| number));
                    if let Some((number, _)) = due {
                        out(number, &mut lists);
                    }
                }
                Act::Reclaim => {
                    slab.reclaim();
                    gone.clear();
                }
                Act::Pass(time) => now += Duration::from_millis(time),
            }
            prop_assert_eq!(slab.len(), values.len());
            for (list, members) in lists.iter().enumerate() {
                let since = members.first().map(|(_, since)| *since);
                prop_assert_eq!(slab.since(u8::try_from(list).unwrap()), since);
            }
        }
        for (number, value) in values {
            prop_assert_eq!(slab.get(number).copied(), Some(value));
        }
    }
}
