//! Members that hand over what they own, and go on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::world::{World, address, candidacy, owners};

/// So many addresses.
const ADDRESSES: usize = 30;

/// A network that loses nothing, with a fleet that has shared the addresses out.
fn world(seed: u64, members: usize) -> World {
    let mut world = World::new(seed, members, ADDRESSES);
    world.loss = u64::MAX;
    world.run(Duration::from_secs(2));
    world
}

/// Each address has an owner in each moment of this time.
fn run_without_a_gap(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        world.step();
        let owners = owners(world);
        let owned: BTreeSet<_> = owners.values().flatten().collect();
        assert_eq!(owned.len(), world.addresses, "at {:?}", world.now);
    }
}

/// This member can serve so many of the addresses, the first ones.
fn set_able(world: &mut World, n: usize, able: usize) {
    let members = world.machines.len();
    let wanted = (0..world.addresses).map(|it| (address(it), candidacy(members, it < able)));
    let clock = world.machines[n].clock(world.now);
    let fleet = world.machines[n].fleet.as_mut().unwrap();
    fleet.set_addresses(clock, wanted.collect());
}

#[test]
fn who_drains_hands_all_over_without_a_gap_and_when_it_ends_nothing_comes_back() {
    let mut world = world(3, 3);
    let before = owners(&world);
    world.set_draining(0, true);
    run_without_a_gap(&mut world, Duration::from_secs(1));
    let drained = owners(&world);
    assert!(!drained.contains_key(&0), "{drained:?}");
    for it in [1, 2] {
        assert!(before[&it].iter().all(|n| drained[&it].contains(n)));
    }
    world.set_draining(0, false);
    run_without_a_gap(&mut world, Duration::from_secs(7));
    assert_eq!(owners(&world), drained);
    // It takes its share again when another one drains.
    world.set_draining(1, true);
    run_without_a_gap(&mut world, Duration::from_secs(1));
    let after = owners(&world);
    assert!(
        after.contains_key(&0) && !after.contains_key(&1),
        "{after:?}"
    );
}

#[test]
fn who_drains_keeps_what_no_other_member_can_serve() {
    let mut world = world(4, 2);
    world.set_draining(1, true);
    run_without_a_gap(&mut world, Duration::from_secs(1));
    set_able(&mut world, 1, ADDRESSES / 2);
    world.set_draining(1, false);
    world.set_draining(0, true);
    run_without_a_gap(&mut world, Duration::from_secs(12));
    let half: Vec<usize> = (0..ADDRESSES / 2).collect();
    let rest: Vec<usize> = (ADDRESSES / 2..ADDRESSES).collect();
    let wanted = BTreeMap::from([(0, rest), (1, half)]);
    assert_eq!(owners(&world), wanted);
    // It is offered again: whoever can serve it later gets it.
    set_able(&mut world, 1, ADDRESSES);
    run_without_a_gap(&mut world, Duration::from_secs(6));
    assert_eq!(owners(&world)[&1].len(), ADDRESSES);
}

#[test]
fn the_last_one_keeps_all_while_it_drains_and_who_returns_gets_them() {
    let mut world = world(5, 2);
    world.machines[1].fleet = None;
    world.run(Duration::from_secs(2));
    world.set_draining(0, true);
    run_without_a_gap(&mut world, Duration::from_secs(6));
    world.start(1);
    run_without_a_gap(&mut world, Duration::from_secs(3));
    assert_eq!(owners(&world)[&1].len(), ADDRESSES);
    // It is the last one again, and takes what nobody else can take.
    world.machines[1].fleet = None;
    world.run(Duration::from_secs(2));
    assert_eq!(owners(&world)[&0].len(), ADDRESSES);
}

#[test]
fn where_all_drain_nothing_moves_and_all_is_owned_evenly_after_a_restart() {
    let mut world = world(6, 3);
    let before = owners(&world);
    for n in 0..3 {
        world.set_draining(n, true);
    }
    run_without_a_gap(&mut world, Duration::from_secs(7));
    assert_eq!(owners(&world), before);
    for n in 0..3 {
        world.start(n);
    }
    world.run(Duration::from_secs(2));
    let after = owners(&world);
    let even = ADDRESSES / 3;
    let share = even - even / 5..=even + even / 5;
    assert!(
        after.len() == 3 && after.values().all(|it| share.contains(&it.len())),
        "{after:?}"
    );
}

#[test]
fn an_offer_that_nobody_has_taken_is_over_when_draining_ends() {
    let mut world = world(7, 2);
    world.set_draining(1, true);
    run_without_a_gap(&mut world, Duration::from_secs(1));
    set_able(&mut world, 1, 0);
    world.set_draining(1, false);
    // The other one has said so before, and counts as ready for a moment.
    world.set_draining(0, true);
    run_without_a_gap(&mut world, Duration::from_secs(3));
    world.set_draining(0, false);
    run_without_a_gap(&mut world, Duration::from_secs(1));
    set_able(&mut world, 1, ADDRESSES);
    run_without_a_gap(&mut world, Duration::from_secs(6));
    assert_eq!(owners(&world)[&0].len(), ADDRESSES);
}

#[test]
fn who_drains_takes_from_one_that_stops_what_nobody_else_takes() {
    let mut world = world(8, 2);
    world.set_draining(0, true);
    run_without_a_gap(&mut world, Duration::from_secs(1));
    world.machines[1].fleet.as_mut().unwrap().leave();
    run_without_a_gap(&mut world, Duration::from_secs(1));
    assert_eq!(owners(&world)[&0].len(), ADDRESSES);
}

#[test]
fn who_has_begun_and_joined_takes_at_once_what_the_next_one_hands_over() {
    for seed in 10..40 {
        let mut world = world(seed, 2);
        // It begins anew, and the other one has all.
        world.machines[0].fleet = None;
        world.run(Duration::from_secs(2));
        world.start(0);
        let begun = world.now;
        let has_joined = |world: &World| {
            let machine = &world.machines[0];
            let fleet = machine.fleet.as_ref().unwrap();
            fleet.has_joined(machine.clock(world.now))
        };
        assert!(!has_joined(&world), "seed {seed}");
        while !has_joined(&world) {
            run_without_a_gap(&mut world, Duration::from_millis(1));
            let took = world.now - begun;
            assert!(took < Duration::from_secs(1), "seed {seed}: {took:?}");
        }
        world.machines[1].fleet.as_mut().unwrap().leave();
        run_without_a_gap(&mut world, Duration::from_millis(400));
        let owned = owners(&world)[&0].len();
        assert_eq!(owned, ADDRESSES, "seed {seed}");
    }
}
