//! A member that goes on in another process: others notice nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use fairway_gateway_core::fleet::message::FleetMessage;
use fairway_gateway_core::fleet::{BootTime, Fleet, HEARTBEAT, RIGHT};

use crate::world::{Numbers, address, candidacy, name};

const MEMBERS: usize = 3;
const ADDRESSES: usize = 9;
const STEP: Duration = Duration::from_millis(10);

/// A member, when it ticks next, and what is on its way to it.
struct ContinuingMember {
    fleet: Fleet,
    next_tick: Duration,
    waiting: Vec<FleetMessage>,
}

fn begin(n: usize, fleet: Fleet, now: Duration) -> ContinuingMember {
    let mut fleet = fleet;
    fleet.set_members((0..MEMBERS).map(name));
    let wanted = (0..ADDRESSES).map(|n| (address(n), candidacy(MEMBERS, true)));
    fleet.set_addresses(BootTime(now), wanted.collect());
    ContinuingMember {
        fleet,
        next_tick: now + Duration::from_millis(n as u64),
        waiting: Vec::new(),
    }
}

/// Lets all go on until then, but for one who is away. At each step each address is owned by who is said in `owners`, where that is not empty.
fn run(
    all: &mut [ContinuingMember],
    from: Duration,
    until: Duration,
    owners: &BTreeMap<IpAddr, usize>,
    away: Option<usize>,
) {
    let mut now = from;
    while now < until {
        now += STEP;
        let clock = BootTime(now);
        let mut sent = Vec::new();
        for (n, it) in all.iter_mut().enumerate() {
            if away == Some(n) {
                continue;
            }
            for message in std::mem::take(&mut it.waiting) {
                // One that does not count is as one that was lost.
                let _ = it.fleet.receive(clock, &message);
            }
            if now >= it.next_tick {
                it.next_tick = now + HEARTBEAT;
                sent.extend(it.fleet.tick(clock));
            }
        }
        for (to, message) in sent {
            let to = (0..MEMBERS).find(|n| name(*n) == to).unwrap();
            all[to].waiting.push(message);
        }
        for (address, owner) in owners {
            let owning: Vec<usize> = (0..MEMBERS)
                .filter(|n| all[*n].fleet.term(*address).is_some())
                .collect();
            assert_eq!(owning, [*owner], "{address} after {now:?}");
        }
        if !owners.is_empty() {
            for (n, it) in all.iter().enumerate().filter(|(n, _)| away != Some(*n)) {
                assert!(
                    it.fleet.answers_until() >= clock,
                    "{n} may not answer after {now:?}"
                );
            }
        }
    }
}

#[test]
fn others_notice_nothing_of_a_member_that_goes_on_in_another_process() {
    for seed in 0..200 {
        let mut numbers = Numbers(seed);
        let mut now = Duration::from_secs(100);
        let mut all: Vec<_> = (0..MEMBERS)
            .map(|n| {
                begin(
                    n,
                    Fleet::new(name(n), 1 + n as u64, 7_000, BootTime(now)),
                    now,
                )
            })
            .collect();
        run(
            &mut all,
            now,
            now + Duration::from_secs(6),
            &BTreeMap::new(),
            None,
        );
        now += Duration::from_secs(6);
        let owners: BTreeMap<IpAddr, usize> = (0..MEMBERS)
            .flat_map(|n| all[n].fleet.owned().map(move |(address, _)| (address, n)))
            .collect();
        assert_eq!(owners.len(), ADDRESSES, "seed {seed}");
        for _ in 0..6 {
            let n = numbers.below(MEMBERS as u64) as usize;
            let runs = numbers.time(0, 300);
            run(&mut all, now, now + runs, &owners, None);
            now += runs;
            // It is away for a moment, and has not ticked for less than its right lasts.
            let from = all[n].fleet.continuation();
            // It ticks one step later.
            let left = (from.last_tick.0 + RIGHT).saturating_sub(now + STEP);
            let gone = numbers.time(0, 1 + left.as_millis() as u64);
            let gone = gone.min(left);
            run(&mut all, now, now + gone, &owners, Some(n));
            now += gone;
            let fleet = Fleet::go_on(name(n), &from, BootTime(now)).unwrap();
            let owned: BTreeSet<_> = fleet.owned().collect();
            assert_eq!(owned, from.terms.iter().copied().collect(), "seed {seed}");
            all[n] = begin(n, fleet, now);
            all[n].next_tick = now;
        }
        run(&mut all, now, now + Duration::from_secs(3), &owners, None);
    }
}

#[test]
fn who_comes_too_late_begins_anew() {
    let now = Duration::from_secs(100);
    let mut fleet = Fleet::new(name(0), 1, 7_000, BootTime(now));
    fleet.tick(BootTime(now));
    let from = fleet.continuation();
    assert!(Fleet::go_on(name(0), &from, BootTime(now + RIGHT)).is_some());
    let late = now + RIGHT + Duration::from_millis(1);
    assert!(Fleet::go_on(name(0), &from, BootTime(late)).is_none());
}
