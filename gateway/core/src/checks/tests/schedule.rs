//! The schedule under many probes, as a simulation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use crate::checks::schedule::{BUDGET, BURST, CheckId, CheckSchedule, MOST_AT_ONCE};
use crate::jitter::Jitter;
use crate::route::Tick;

/// A schedule, with probes that take some time.
struct World {
    schedule: CheckSchedule,
    now: Tick,
    /// When those under way end.
    under_way: BTreeMap<(Tick, CheckId), ()>,
    /// When each began.
    began: Vec<(Tick, CheckId)>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            schedule: CheckSchedule::new(seed),
            now: Tick(0),
            under_way: BTreeMap::new(),
            began: Vec::new(),
        }
    }

    fn add(&mut self, ids: std::ops::Range<u64>, namespace: &str, interval: Duration) {
        for id in ids {
            self.schedule
                .add(CheckId(id), &Arc::from(namespace), interval, self.now);
        }
    }

    /// Runs until then; `takes`: how long a probe is under way.
    fn run(&mut self, until: u64, takes: impl Fn(CheckId) -> u64) {
        loop {
            let ends = self.under_way.first_key_value().map(|((at, _), ())| *at);
            let due = self.schedule.next_due(self.now);
            let Some(next) = ends.into_iter().chain(due).min() else {
                return;
            };
            if next.0 > until {
                self.now = Tick(until);
                return;
            }
            self.now = self.now.max(next);
            while let Some(((at, id), ())) = self.under_way.first_key_value()
                && *at <= self.now
            {
                let (at, id) = (*at, *id);
                self.under_way.remove(&(at, id));
                self.schedule.finished(id, false, self.now);
            }
            for id in self.schedule.take_due(self.now) {
                self.began.push((self.now, id));
                self.under_way
                    .insert((Tick(self.now.0 + takes(id)), id), ());
            }
            assert!(self.under_way.len() <= MOST_AT_ONCE);
        }
    }

    /// How many of these began in each second.
    fn each_second(&self, of: impl Fn(CheckId) -> bool, from: u64, to: u64) -> Vec<u64> {
        let mut counts = vec![0; usize::try_from(to - from).unwrap()];
        for (at, id) in &self.began {
            let second = at.0 / 1000;
            if of(*id) && (from..to).contains(&second) {
                counts[usize::try_from(second - from).unwrap()] += 1;
            }
        }
        counts
    }

    /// No time has more than the budget.
    fn assert_budget(&self) {
        let mut window: VecDeque<Tick> = VecDeque::new();
        for (at, _) in &self.began {
            window.push_back(*at);
            while window.front().is_some_and(|first| at.0 - first.0 >= 1000) {
                window.pop_front();
            }
            let most = BUDGET + BURST;
            assert!(window.len() as u64 <= most, "{} at {at:?}", window.len());
        }
    }
}

#[test]
fn each_is_made_once_in_an_interval_and_they_are_spread() {
    let seed = 7;
    let mut world = World::new(seed);
    world.add(0..1000, "web", Duration::from_secs(2));
    world.run(60_000, |_| 5);
    world.assert_budget();
    for id in 0..1000 {
        let times = world.began.iter().filter(|(_, it)| *it == CheckId(id));
        let times: Vec<u64> = times.map(|(at, _)| at.0).collect();
        assert!(times[0] <= 2000, "the first one of {id} is at {}", times[0]);
        for pair in times.windows(2) {
            let apart = pair[1] - pair[0];
            assert!((1900..=2060).contains(&apart), "{id}: {apart} ms");
        }
    }
    // 500 a second are asked for; jitter makes it some more.
    for count in world.each_second(|_| true, 2, 60) {
        assert!(
            (430..=600).contains(&count),
            "{count} in a second, seed {seed}"
        );
    }
    assert_eq!(world.schedule.stretch(), 1000);
}

#[test]
fn beyond_the_budget_intervals_stretch_and_that_is_said() {
    let mut world = World::new(3);
    world.add(0..8000, "web", Duration::from_secs(2));
    assert_eq!(world.schedule.stretch(), 4000);
    world.run(40_000, |_| 5);
    world.assert_budget();
    for count in world.each_second(|_| true, 5, 40) {
        assert!((950..=1050).contains(&count), "{count}");
    }
    // All of them have their turn: in 8 s once.
    let mut made = BTreeMap::<CheckId, u64>::new();
    for (_, id) in &world.began {
        *made.entry(*id).or_default() += 1;
    }
    assert_eq!(made.len(), 8000);
    assert!(
        made.values().all(|count| (4..=6).contains(count)),
        "{made:?}"
    );
}

#[test]
fn who_asks_for_too_much_stretches_its_own_intervals() {
    let mut world = World::new(5);
    world.add(0..20_000, "greedy", Duration::from_millis(100));
    world.add(20_000..20_100, "modest", Duration::from_secs(2));
    world.run(30_000, |_| 5);
    world.assert_budget();
    let modest = |id: CheckId| id.0 >= 20_000;
    for count in world.each_second(modest, 3, 30) {
        assert!((35..=65).contains(&count), "{count} of 50 in a second");
    }
    let all: u64 = world.each_second(|_| true, 3, 30).iter().sum();
    assert!(all >= 27 * 950, "the budget is used: {all}");
}

#[test]
fn who_hangs_takes_no_places_of_others() {
    let mut world = World::new(9);
    world.add(0..10_000, "hanging", Duration::from_secs(60));
    world.add(10_000..10_100, "well", Duration::from_secs(2));
    let well = |id: CheckId| id.0 >= 10_000;
    world.run(50_000, |id| if well(id) { 5 } else { 60_000 });
    for count in world.each_second(well, 3, 50) {
        assert!((35..=65).contains(&count), "{count} of 50 in a second");
    }
    assert!(
        world.under_way.len() < MOST_AT_ONCE,
        "{}",
        world.under_way.len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is added, removed and finished when: no budget is passed, nothing is lost, nothing is made twice at a time.
    #[test]
    fn nothing_is_lost(seed in any::<u64>(), steps in 100..600_u64) {
        let mut random = Jitter::new(seed);
        let mut world = World::new(seed);
        let mut there = BTreeMap::new();
        let mut under_way = BTreeMap::new();
        for step in 0..steps {
            match random.up_to(5) {
                0 | 1 => {
                    let namespace = ["a", "b", "c"][usize::try_from(random.up_to(2)).unwrap()];
                    let interval = Duration::from_millis(100 + random.up_to(3000));
                    world.schedule.add(CheckId(step), &Arc::from(namespace), interval, world.now);
                    there.insert(CheckId(step), ());
                }
                2 => {
                    let at = usize::try_from(random.up_to(there.len() as u64)).unwrap();
                    if let Some(id) = there.keys().nth(at).copied() {
                        there.remove(&id);
                        world.schedule.remove(id);
                        // A second time changes nothing.
                        world.schedule.remove(id);
                    }
                }
                3 => {
                    let at = usize::try_from(random.up_to(under_way.len() as u64)).unwrap();
                    if let Some(id) = under_way.keys().nth(at).copied() {
                        under_way.remove(&id);
                        world.schedule.finished(id, random.up_to(1) == 0, world.now);
                    }
                }
                _ => {
                    world.now = Tick(world.now.0 + random.up_to(300));
                    for id in world.schedule.take_due(world.now) {
                        prop_assert!(there.contains_key(&id), "{id:?} was removed");
                        prop_assert!(under_way.insert(id, ()).is_none(), "{id:?} is made twice");
                        world.began.push((world.now, id));
                    }
                }
            }
        }
        world.assert_budget();
        // Once all have finished, each that is there is made again.
        for id in under_way.into_keys() {
            world.schedule.finished(id, false, world.now);
        }
        world.began.clear();
        world.run(world.now.0 + 10_000, |_| 1);
        let made: BTreeMap<_, _> = world.began.iter().map(|(_, id)| (*id, ())).collect();
        prop_assert_eq!(made, there);
        prop_assert!(world.schedule.stretch() == 1000);
        // And nothing is left when all are gone.
        for id in world.under_way.keys().map(|(_, id)| *id).collect::<Vec<_>>() {
            world.schedule.finished(id, false, world.now);
        }
        let ids: Vec<_> = world.began.iter().map(|(_, id)| *id).collect();
        for id in ids {
            world.schedule.remove(id);
        }
        prop_assert_eq!(world.schedule.next_due(world.now), None);
    }
}
