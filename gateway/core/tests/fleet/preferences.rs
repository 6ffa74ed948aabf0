//! Addresses that some members are to have before others, because they alone serve all of what is there, or reach its
//! endpoints.

use std::collections::BTreeSet;
use std::time::Duration;

use fairway_gateway_core::fleet::{Ability, EndpointReach};

use crate::world::{World, address, owners};

/// So many addresses.
const ADDRESSES: usize = 30;

/// A network that loses nothing, with a fleet that has shared the addresses out.
fn world(seed: u64) -> World {
    let mut world = World::new(seed, 3, ADDRESSES);
    world.loss = u64::MAX;
    world.run(Duration::from_secs(2));
    world
}

/// All see that these are preferred for all addresses.
fn prefer(world: &mut World, preferred: &[usize]) {
    let preferred: BTreeSet<usize> = preferred.iter().copied().collect();
    for machine in 0..world.machines.len() {
        for n in 0..world.addresses {
            world.see(machine, n, |it| it.preferred.clone_from(&preferred));
        }
    }
}

/// A machine sees all addresses like this from now on.
fn set_ability(world: &mut World, machine: usize, ability: Ability) {
    for n in 0..world.addresses {
        world.see(machine, n, |it| it.ability = ability);
    }
}

/// Each address has an owner in each moment of this time.
fn run_without_a_gap(world: &mut World, seconds: u64) {
    let end = world.now + Duration::from_secs(seconds);
    while world.now < end {
        world.step();
        for n in 0..world.addresses {
            let mut machines = world.machines.iter();
            let is_owned = machines.any(|it| it.answers(address(n), world.now));
            assert!(is_owned, "{} at {:?}", address(n), world.now);
        }
    }
}

#[test]
fn addresses_move_to_who_is_preferred_without_a_gap() {
    let mut world = world(1);
    prefer(&mut world, &[1]);
    run_without_a_gap(&mut world, 2);
    assert_eq!(owners(&world)[&1].len(), ADDRESSES);
    // Of two the one that has them keeps them.
    prefer(&mut world, &[1, 2]);
    run_without_a_gap(&mut world, 2);
    assert_eq!(owners(&world)[&1].len(), ADDRESSES);
    prefer(&mut world, &[0, 2]);
    run_without_a_gap(&mut world, 2);
    let shares = owners(&world);
    assert!(!shares.contains_key(&1), "{shares:?}");
}

#[test]
fn who_is_preferred_and_dead_or_unable_leaves_no_address_without_an_owner() {
    for is_dead in [true, false] {
        let mut world = world(2);
        match is_dead {
            true => world.machines[1].fleet = None,
            false => set_ability(&mut world, 1, Ability::Unable),
        }
        world.run(Duration::from_secs(2));
        let before = owners(&world);
        prefer(&mut world, &[1]);
        run_without_a_gap(&mut world, 5);
        assert_eq!(owners(&world), before, "is it dead: {is_dead}");
        // It gets them when it can take them.
        match is_dead {
            true => world.start(1),
            false => set_ability(&mut world, 1, Ability::Able),
        }
        run_without_a_gap(&mut world, 3);
        assert_eq!(owners(&world)[&1].len(), ADDRESSES, "is it dead: {is_dead}");
        // And others do when it dies then.
        world.machines[1].fleet = None;
        world.run(Duration::from_secs(2));
        assert_eq!(
            owners(&world).values().map(Vec::len).sum::<usize>(),
            ADDRESSES
        );
    }
}

#[test]
fn who_can_serve_an_address_no_more_answers_until_another_one_has_taken_it() {
    let mut world = world(3);
    prefer(&mut world, &[1, 2]);
    set_ability(&mut world, 0, Ability::Ceasing);
    run_without_a_gap(&mut world, 2);
    let shares = owners(&world);
    assert!(!shares.contains_key(&0), "{shares:?}");
    // Whoever is to have it may be ready a moment later.
    for machine in [0, 1] {
        set_ability(&mut world, machine, Ability::Unable);
    }
    world.run(Duration::from_secs(2));
    assert_eq!(owners(&world)[&2].len(), ADDRESSES);
    set_ability(&mut world, 2, Ability::Ceasing);
    run_without_a_gap(&mut world, 1);
    set_ability(&mut world, 1, Ability::Able);
    run_without_a_gap(&mut world, 1);
    assert_eq!(owners(&world)[&1].len(), ADDRESSES);
    // Where nobody takes it, it is owned no more.
    set_ability(&mut world, 1, Ability::Ceasing);
    world.run(Duration::from_secs(4));
    assert!(owners(&world).is_empty());
}

#[test]
fn who_is_preferred_and_drains_hands_over_to_the_others() {
    let mut world = world(4);
    prefer(&mut world, &[1]);
    run_without_a_gap(&mut world, 2);
    world.set_draining(1, true);
    run_without_a_gap(&mut world, 7);
    let drained = owners(&world);
    assert!(!drained.contains_key(&1), "{drained:?}");
    world.set_draining(1, false);
    run_without_a_gap(&mut world, 2);
    assert_eq!(owners(&world)[&1].len(), ADDRESSES);
}

/// The checks of a machine say this of the endpoints of all addresses from now on.
fn set_reach(world: &mut World, machine: usize, reach: EndpointReach) {
    for n in 0..world.addresses {
        world.see(machine, n, |it| it.reach = reach);
    }
}

#[test]
fn an_address_goes_to_who_reaches_its_endpoints_and_where_nobody_does_it_stays() {
    for seed in 0..5 {
        let mut world = world(seed);
        let before = owners(&world);
        // From nowhere are they reached: nothing moves.
        for machine in 0..3 {
            set_reach(&mut world, machine, EndpointReach::Failing);
        }
        run_without_a_gap(&mut world, 20);
        assert_eq!(owners(&world), before, "seed {seed}");
        // Who does not know yet takes nothing either.
        set_reach(&mut world, 1, EndpointReach::Unknown);
        run_without_a_gap(&mut world, 20);
        assert_eq!(owners(&world), before, "seed {seed}");
        // One reaches them: it gets all.
        set_reach(&mut world, 1, EndpointReach::NothingAgainst);
        run_without_a_gap(&mut world, 10);
        assert_eq!(owners(&world)[&1].len(), ADDRESSES, "seed {seed}");
        // Nothing goes back by itself.
        for machine in [0, 2] {
            set_reach(&mut world, machine, EndpointReach::NothingAgainst);
        }
        run_without_a_gap(&mut world, 10);
        assert_eq!(owners(&world)[&1].len(), ADDRESSES, "seed {seed}");
        // An owner that stops is followed by one that does not reach them, too.
        for machine in [0, 2] {
            set_reach(&mut world, machine, EndpointReach::Failing);
        }
        world.set_draining(1, true);
        run_without_a_gap(&mut world, 7);
        let drained = owners(&world);
        assert!(!drained.contains_key(&1), "seed {seed}: {drained:?}");
    }
}

#[test]
fn an_address_of_endpoints_that_nobody_reaches_has_an_owner_when_its_owner_dies() {
    let mut world = world(6);
    for machine in 0..3 {
        set_reach(&mut world, machine, EndpointReach::Failing);
    }
    world.machines[0].fleet = None;
    world.run(Duration::from_secs(3));
    let shares = owners(&world);
    assert_eq!(shares.values().map(Vec::len).sum::<usize>(), ADDRESSES);
}
