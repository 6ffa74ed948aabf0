//! Fleets of gateways through seeded histories of faults. The judge is what would answer for an address at
//! each instant: a process that runs, owns it, and has the right to answer by its own clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod arrivals;
mod continuing;
mod draining;
mod preferences;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fairway_gateway_core::fleet::message::{FleetMessage, FleetRejection};
use fairway_gateway_core::fleet::{BootTime, Fleet, HEARTBEAT, RIGHT};

use self::world::{World, address, candidacy, name, owners};

/// So many histories.
const HISTORIES: u64 = 500;

#[test]
fn an_address_has_one_owner_through_every_history_of_faults() {
    let first: u64 = std::env::var("FAIRWAY_SEED").map_or(0, |seed| seed.parse().unwrap());
    let next = AtomicU64::new(first);
    let histories = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + HISTORIES {
                return;
            }
            let outcome = std::panic::catch_unwind(|| history(seed));
            assert!(
                outcome.is_ok(),
                "seed {seed}: FAIRWAY_SEED={seed} begins with it"
            );
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(histories);
        }
    });
}

fn history(seed: u64) {
    let members = 2 + (seed % 6) as usize;
    let mut world = World::new(seed, members, 3);
    world.run(Duration::from_secs(1));
    for _ in 0..8 {
        world.fault();
        let time = world.numbers.time(20, 2000);
        world.run(time);
    }
    world.settle();
    let owners = owners(&world);
    let is_drained = |it: &usize| world.machines[*it].is_draining;
    let is_last = (0..members).all(|it| is_drained(&it));
    assert!(is_last || !owners.keys().any(is_drained), "{owners:?}");
    for (owner, n) in owners
        .iter()
        .flat_map(|(it, all)| all.iter().map(move |n| (it, *n)))
    {
        let preferred = &world.machines[0].views[n].preferred;
        let is_best = preferred.contains(owner) || preferred.iter().all(is_drained);
        assert!(
            is_best || is_last,
            "{n}: {preferred:?} before {owner}, {owners:?}"
        );
    }
    assert_eq!(
        owners.values().map(Vec::len).sum::<usize>(),
        world.addresses
    );
}

#[test]
fn addresses_are_spread_evenly_and_only_those_of_who_leaves_move() {
    let mut world = World::new(7, 3, 250);
    world.run(Duration::from_secs(2));
    let before = owners(&world);
    for owned in before.values() {
        assert!((75..=92).contains(&owned.len()), "{}", owned.len());
    }
    world.machines[1].fleet = None;
    world.run(Duration::from_secs(2));
    let after = owners(&world);
    for it in [0, 2] {
        assert!(before[&it].iter().all(|n| after[&it].contains(n)));
    }
    assert_eq!(after.values().map(Vec::len).sum::<usize>(), 250);
    // Who comes back has none.
    world.start(1);
    world.run(Duration::from_secs(3));
    assert_eq!(owners(&world), after);
}

#[test]
fn a_planned_move_leaves_no_moment_without_an_owner() {
    let mut world = World::new(11, 3, 250);
    world.loss = u64::MAX;
    world.run(Duration::from_secs(2));
    world.machines[0].fleet.as_mut().unwrap().leave();
    for _ in 0..200 {
        world.step();
        for n in 0..world.addresses {
            let mut machines = world.machines.iter();
            let is_owned = machines.any(|it| it.answers(address(n), world.now));
            assert!(is_owned, "{} at {:?}", address(n), world.now);
        }
    }
    let fleet = world.machines[0].fleet.as_ref().unwrap();
    assert_eq!(fleet.owned().count(), 0);
}

#[test]
fn one_alone_owns_all_at_once() {
    let now = BootTime(Duration::from_secs(5));
    let mut fleet = Fleet::new(name(0), 1, 1, now);
    fleet.set_addresses(now, [(address(1), candidacy(1, true))].into());
    assert!(fleet.tick(now).is_empty());
    assert_eq!(fleet.owned().collect::<Vec<_>>(), [(address(1), 1)]);
    assert_eq!(fleet.answers_until(), now.after(RIGHT));
}

/// A message of a member that has begun at this time of day.
fn message(from: &str, run: u64, started: u64) -> FleetMessage {
    let now = BootTime(Duration::from_secs(5));
    let mut fleet = Fleet::new(from.into(), run, started, now);
    fleet.set_members([name(0)]);
    fleet.tick(now).remove(0).1
}

#[test]
fn what_no_member_wrote_or_somebody_plays_back_does_not_count() {
    const DAY: u64 = 1_800_000_000_000;
    let now = BootTime(Duration::from_secs(9));
    let mut fleet = Fleet::new(name(0), 7, DAY, now);
    fleet.set_members([name(1)]);
    let first = message("edge-1", 1, DAY);
    let recorded = message("edge-1", 2, DAY - 60_000);
    let just_before = message("edge-1", 3, DAY - 2_000);
    for (what, message, wanted) in [
        (
            "a stranger",
            message("edge-9", 1, DAY),
            Err(FleetRejection::Unknown),
        ),
        (
            "an old one before the first",
            recorded.clone(),
            Err(FleetRejection::NotYetPresent),
        ),
        ("the first", first.clone(), Ok(())),
        ("the same again", first, Err(FleetRejection::Replayed)),
        (
            "an old one after it",
            recorded,
            Err(FleetRejection::Replayed),
        ),
        (
            "one of just before its start",
            just_before,
            Err(FleetRejection::Replayed),
        ),
    ] {
        assert_eq!(fleet.receive(now, &message), wanted, "{what}");
        assert_eq!(
            fleet.is_alive("edge-1", now),
            what != "a stranger" && !what.ends_with("before the first"),
            "{what}"
        );
    }
}

#[test]
fn a_recording_that_is_played_slowly_keeps_no_dead_member_alive() {
    const DAY: u64 = 1_800_000_000_000;
    const SLOWER: u32 = 5;
    let mut now = BootTime(Duration::from_secs(9));
    // Of a present run: what it said for a minute before it died.
    let mut dead = Fleet::new(name(1), 3, DAY, now);
    dead.set_members([name(0)]);
    let recording: Vec<FleetMessage> = (0..600_u32)
        .map(|n| dead.tick(now.after(HEARTBEAT * n)).remove(0).1)
        .collect();
    // Somebody plays that to one that has just started and has heard nobody else.
    now = now.after(HEARTBEAT * 10);
    let mut fleet = Fleet::new(name(0), 7, DAY + 1_000, now);
    fleet.set_members([name(1)]);
    let began = now;
    let mut lived = Duration::ZERO;
    for message in &recording {
        for _ in 0..SLOWER {
            now = now.after(HEARTBEAT);
            fleet.tick(now);
        }
        fleet.receive(now, message).unwrap();
        if fleet.is_alive("edge-1", now) {
            lived = now.since(began);
        }
    }
    // As long as clocks may differ: the recording falls behind by four seconds in five.
    assert!(lived > Duration::from_secs(20), "{lived:?}");
    assert!(lived < Duration::from_secs(45), "{lived:?}");
}

#[test]
fn one_whose_clock_is_wrong_is_heard_after_it_has_ceased_to_hear() {
    const DAY: u64 = 1_800_000_000_000;
    let mut now = BootTime(Duration::from_secs(9));
    let mut fleets = [(0, DAY), (1, DAY - 3_600_000)].map(|(n, started)| {
        let mut fleet = Fleet::new(name(n), 1 + n as u64, started, now);
        fleet.set_members([name(0), name(1)]);
        fleet
    });
    for tick in 0..600 {
        now = now.after(HEARTBEAT);
        let said = fleets.each_mut().map(|fleet| fleet.tick(now));
        let [of_one, of_other] = said.map(|all| all.into_iter().map(|(_, it)| it));
        if tick < 20 {
            for message in of_one {
                // The first ones: it has answered none yet.
                let _ = fleets[1].receive(now, &message);
            }
        }
        for message in of_other {
            let _ = fleets[0].receive(now, &message);
        }
        assert!(tick < 20 || fleets[0].is_alive("edge-1", now), "{tick}");
    }
}

#[test]
fn what_was_held_up_on_the_way_and_comes_in_a_row_takes_nothing_from_an_owner() {
    let mut now = BootTime(Duration::from_secs(1));
    let mut fleets = [0, 1].map(|n| {
        let mut fleet = Fleet::new(name(n), 1 + n as u64, 1_800_000_000_000, now);
        fleet.set_members([name(0), name(1)]);
        let candidacy = candidacy(2, n == 0);
        fleet.set_addresses(now, BTreeMap::from([(address(0), candidacy)]));
        fleet
    });
    let mut held_up = Vec::new();
    // The other one is cut off for a second, twice within ten; what it says meanwhile waits for a way.
    for tick in 0..80 {
        now = now.after(HEARTBEAT);
        let is_cut = matches!(tick, 20..30 | 50..60);
        let said = fleets.each_mut().map(|fleet| fleet.tick(now));
        let [of_one, of_other] = said.map(|all| all.into_iter().map(|(_, it)| it));
        held_up.extend(of_other);
        if is_cut {
            continue;
        }
        for message in of_one {
            fleets[1].receive(now, &message).unwrap();
        }
        for message in held_up.drain(..) {
            fleets[0].receive(now, &message).unwrap();
        }
        if tick > 15 {
            assert!(fleets[0].owned().any(|(it, _)| it == address(0)), "{tick}");
            assert!(fleets[0].answers_until() > now, "{tick}");
        }
    }
}
