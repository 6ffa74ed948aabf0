//! Fleets of gateways through seeded histories of faults. The judge is what would answer for an address at
//! each instant: a process that runs, owns it, and has the right to answer by its own clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fairway_gateway_core::fleet::message::{FleetMessage, FleetRejection, MemberName};
use fairway_gateway_core::fleet::{BootTime, Candidacy, Fleet, HEARTBEAT, RIGHT, SILENT, STEP};

/// The judge looks each time this has passed, and nothing happens in between.
const STEPS: Duration = Duration::from_millis(5);

/// A message is on its way for less than this.
const LATENCY: Duration = Duration::from_millis(20);

/// Two members that hear each other both answer for one address for no longer than this: a heartbeat that
/// is on its way, two that were lost, and the one after them.
const BOTH: Duration = Duration::from_millis(350);

/// The same where one of them does not hear the other, or has time for a tick now and then only.
const BOTH_IF_ONE_IS_DEAF: Duration = Duration::from_millis(700);

/// With so many members, an address that a member could serve which has run all the time has no owner
/// for no longer than this.
fn nobody(members: usize) -> Duration {
    SILENT * 2 + RIGHT + STEP * u32::try_from(members).unwrap() + HEARTBEAT * 3
}

/// A generator of numbers (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn time(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

fn name(n: usize) -> MemberName {
    format!("edge-{n}").into()
}

fn address(n: usize) -> IpAddr {
    Ipv4Addr::from_bits(0xcb00_7100 + u32::try_from(n).unwrap()).into()
}

/// A machine with a gateway.
struct Machine {
    /// Nothing where the process does not run.
    fleet: Option<Fleet>,
    /// Its clock is ahead by this.
    ahead: Duration,
    /// The clock shows this time, and stands.
    stands_at: Option<BootTime>,
    /// The process does nothing until then.
    frozen_until: Duration,
    next_tick: Duration,
    /// How often it has time for a tick.
    pace: Duration,
    /// Since when it runs, with a clock that goes.
    well_since: Duration,
    waiting: Vec<FleetMessage>,
}

impl Machine {
    fn clock(&self, now: Duration) -> BootTime {
        self.stands_at.unwrap_or(BootTime(now + self.ahead))
    }

    fn answers(&self, address: IpAddr, now: Duration) -> bool {
        let Some(fleet) = &self.fleet else {
            return false;
        };
        now >= self.frozen_until
            && self.clock(now) < fleet.answers_until()
            && fleet.owned().any(|(owned, _)| owned == address)
    }
}

/// A fleet, and the network between its members.
struct World {
    now: Duration,
    numbers: Numbers,
    machines: Vec<Machine>,
    addresses: usize,
    /// Nothing goes from the one to the other.
    cut: BTreeSet<(usize, usize)>,
    /// One message in so many is lost.
    loss: u64,
    on_the_way: BTreeMap<(Duration, u64), (usize, FleetMessage)>,
    count: u64,
    /// Since when two members can speak to each other, in one direction at least.
    joined: BTreeMap<(usize, usize), Duration>,
    both: BTreeMap<(usize, usize, usize), Duration>,
    nobody: BTreeMap<(usize, BTreeSet<usize>), Duration>,
}

impl World {
    fn new(seed: u64, members: usize, addresses: usize) -> Self {
        let mut numbers = Numbers(seed);
        let machines = (0..members).map(|_| Machine {
            fleet: None,
            ahead: numbers.time(0, 1_000_000),
            stands_at: None,
            frozen_until: Duration::ZERO,
            next_tick: Duration::ZERO,
            pace: HEARTBEAT,
            well_since: Duration::ZERO,
            waiting: Vec::new(),
        });
        let machines = machines.collect();
        let loss = 20 + numbers.below(80);
        let mut world = Self {
            now: Duration::from_secs(1),
            numbers,
            machines,
            addresses,
            cut: BTreeSet::new(),
            loss,
            on_the_way: BTreeMap::new(),
            count: 0,
            joined: BTreeMap::new(),
            both: BTreeMap::new(),
            nobody: BTreeMap::new(),
        };
        for n in 0..members {
            world.start(n);
        }
        world
    }

    fn start(&mut self, n: usize) {
        let members = self.machines.len();
        let run = self.numbers.next();
        let first = self.numbers.time(0, 100);
        let addresses = self.addresses;
        let machine = &mut self.machines[n];
        let clock = machine.clock(self.now);
        let started = self.now.as_millis() as u64;
        let mut fleet = Fleet::new(name(n), run, started, clock);
        fleet.set_members((0..members).map(name));
        let candidacy = Candidacy {
            candidates: (0..members).map(name).collect(),
            is_able: true,
        };
        let wanted = (0..addresses).map(|it| (address(it), candidacy.clone()));
        fleet.set_addresses(clock, wanted.collect());
        machine.fleet = Some(fleet);
        machine.next_tick = self.now + first;
        machine.well_since = self.now;
        machine.waiting.clear();
    }

    fn freeze(&mut self, n: usize, time: Duration) {
        let machine = &mut self.machines[n];
        machine.frozen_until = machine.frozen_until.max(self.now + time);
        machine.well_since = machine.frozen_until;
    }

    fn step(&mut self) {
        self.now += STEPS;
        let now = self.now;
        while let Some(entry) = self.on_the_way.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let (to, message) = entry.remove();
            // What a frozen process does not take waits in its socket.
            if self.machines[to].fleet.is_some() && self.machines[to].waiting.len() < 200 {
                self.machines[to].waiting.push(message);
            }
        }
        for n in 0..self.machines.len() {
            let machine = &mut self.machines[n];
            let clock = machine.clock(now);
            let is_frozen = now < machine.frozen_until;
            let Some(fleet) = machine.fleet.as_mut().filter(|_| !is_frozen) else {
                continue;
            };
            for message in machine.waiting.drain(..) {
                let _ = fleet.receive(clock, &message);
            }
            // Where the clock stands no timer goes off.
            if now < machine.next_tick || machine.stands_at.is_some() {
                continue;
            }
            machine.next_tick = now + machine.pace;
            for (to, message) in fleet.tick(clock) {
                let to: usize = to.trim_start_matches("edge-").parse().unwrap();
                if self.cut.contains(&(n, to)) || self.numbers.below(self.loss) == 0 {
                    continue;
                }
                let late = self.numbers.time(1, LATENCY.as_millis() as u64);
                self.count += 1;
                self.on_the_way
                    .insert((now + late, self.count), (to, message));
            }
        }
        self.judge();
    }

    /// Whether one of them hears the other. Where its clock stands a member says nothing.
    fn is_joined(&self, a: usize, b: usize) -> bool {
        self.hears(a, b) || self.hears(b, a)
    }

    fn hears(&self, it: usize, other: usize) -> bool {
        !self.cut.contains(&(other, it)) && self.machines[other].stands_at.is_none()
    }

    fn judge(&mut self) {
        let count = self.machines.len();
        for a in 0..count {
            for b in a + 1..count {
                if self.is_joined(a, b) {
                    self.joined.entry((a, b)).or_insert(self.now);
                } else {
                    self.joined.remove(&(a, b));
                }
            }
        }
        let sides = self.sides();
        self.nobody.retain(|(_, side), _| sides.contains(side));
        for n in 0..self.addresses {
            let owners: Vec<usize> = (0..count)
                .filter(|it| self.machines[*it].answers(address(n), self.now))
                .collect();
            self.judge_both(n, &owners);
            for side in &sides {
                self.judge_nobody(n, &owners, side);
            }
        }
    }

    fn judge_both(&mut self, n: usize, owners: &[usize]) {
        let pairs = owners
            .iter()
            .flat_map(|a| owners.iter().map(move |b| (*a, *b)));
        let pairs: BTreeSet<_> = pairs.filter(|(a, b)| a < b).collect();
        self.both
            .retain(|(address, a, b), _| *address != n || pairs.contains(&(*a, *b)));
        for (a, b) in pairs {
            let since = *self.both.entry((n, a, b)).or_insert(self.now);
            let Some(joined) = self.joined.get(&(a, b)) else {
                continue;
            };
            let time = self.now - since.max(*joined);
            let is_slow = |it: usize| self.machines[it].pace != HEARTBEAT;
            let is_well = self.hears(a, b) && self.hears(b, a) && !is_slow(a) && !is_slow(b);
            let limit = match is_well {
                true => BOTH,
                false => BOTH_IF_ONE_IS_DEAF,
            };
            assert!(
                time <= limit,
                "at {:?} {} and {} both answer for {} for {time:?}",
                self.now,
                name(a),
                name(b),
                address(n)
            );
        }
    }

    fn judge_nobody(&mut self, n: usize, owners: &[usize], side: &BTreeSet<usize>) {
        let well = side.iter().map(|it| &self.machines[*it]);
        let well =
            well.filter(|it| it.fleet.is_some() && it.stands_at.is_none() && it.pace == HEARTBEAT);
        let well_since = well.map(|it| it.well_since).min();
        let last = self.nobody.entry((n, side.clone())).or_insert(self.now);
        if owners.iter().any(|it| side.contains(it)) {
            *last = self.now;
        }
        let Some(well_since) = well_since else { return };
        let time = self.now.saturating_sub(well_since.max(*last));
        assert!(
            time <= nobody(self.machines.len()),
            "at {:?} nobody among {side:?} answers for {} for {time:?}",
            self.now,
            address(n)
        );
    }

    /// The members by who can speak to whom, by others too.
    fn sides(&self) -> Vec<BTreeSet<usize>> {
        let mut left: BTreeSet<usize> = (0..self.machines.len()).collect();
        let mut sides = Vec::new();
        while let Some(first) = left.pop_first() {
            let mut side = BTreeSet::from([first]);
            while let Some(next) = {
                let mut rest = left.iter().copied();
                rest.find(|it| side.iter().any(|member| self.is_joined(*member, *it)))
            } {
                left.remove(&next);
                side.insert(next);
            }
            sides.push(side);
        }
        sides
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Something goes wrong, or comes right again.
    fn fault(&mut self) {
        let count = self.machines.len() as u64;
        let n = self.numbers.below(count) as usize;
        let other = self.numbers.below(count) as usize;
        match self.numbers.below(10) {
            0 => self.machines[n].fleet = None,
            1 => {
                let time = self.numbers.time(50, 3000);
                self.freeze(n, time);
            }
            2 if self.machines[n].fleet.is_none() => self.start(n),
            3 => {
                // A partition.
                let sides = self.numbers.next();
                let is_left = |it: usize| (sides >> it) & 1 == 1;
                for a in 0..self.machines.len() {
                    for b in 0..self.machines.len() {
                        if is_left(a) != is_left(b) {
                            self.cut.insert((a, b));
                        }
                    }
                }
            }
            4 if n != other => {
                self.cut.insert((n, other));
            }
            5 => {
                let machine = &mut self.machines[n];
                machine.stands_at = match machine.stands_at {
                    None => Some(machine.clock(self.now)),
                    Some(at) => {
                        // It goes on from where it stood.
                        machine.ahead = at.0.saturating_sub(self.now);
                        machine.well_since = self.now;
                        None
                    }
                };
            }
            6 => {
                // It has too little time to work: a tick now and then.
                self.machines[n].pace = self.numbers.time(310, 480);
            }
            _ => {
                self.cut.clear();
                for it in 0..self.machines.len() {
                    if self.machines[it].pace != HEARTBEAT {
                        self.machines[it].pace = HEARTBEAT;
                        self.machines[it].well_since = self.now;
                    }
                    if self.machines[it].fleet.is_none() {
                        self.start(it);
                    }
                }
            }
        }
    }
}

fn owners(world: &World) -> BTreeMap<usize, Vec<usize>> {
    let mut owners: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for n in 0..world.addresses {
        for (it, machine) in world.machines.iter().enumerate() {
            if machine.answers(address(n), world.now) {
                owners.entry(it).or_default().push(n);
            }
        }
    }
    owners
}

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
    let candidacy = Candidacy {
        candidates: [name(0)].into(),
        is_able: true,
    };
    fleet.set_addresses(now, [(address(1), candidacy)].into());
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
fn what_was_held_up_on_the_way_and_comes_in_a_row_takes_nothing_from_an_owner() {
    let mut now = BootTime(Duration::from_secs(1));
    let mut fleets = [0, 1].map(|n| {
        let mut fleet = Fleet::new(name(n), 1 + n as u64, 1_800_000_000_000, now);
        fleet.set_members([name(0), name(1)]);
        let candidacy = Candidacy {
            candidates: BTreeSet::from([name(0), name(1)]),
            is_able: n == 0,
        };
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
