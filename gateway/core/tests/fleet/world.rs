//! Machines with gateways, the network between them, and the judge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use fairway_gateway_core::fleet::message::{FleetMessage, MemberName};
use fairway_gateway_core::fleet::{
    Ability, BootTime, Candidacy, EndpointReach, Fleet, HEARTBEAT, RIGHT, SILENT, STEP,
};

/// The judge looks each time this has passed, and nothing happens in between.
pub(crate) const STEPS: Duration = Duration::from_millis(5);

/// A message is on its way for less than this.
pub(crate) const LATENCY: Duration = Duration::from_millis(20);

/// Two members that hear each other both answer for one address for no longer than this: a heartbeat that
/// is on its way, two that were lost, and the one after them.
pub(crate) const BOTH: Duration = Duration::from_millis(350);

/// The same where one of them does not hear the other, or has time for a tick now and then only.
pub(crate) const BOTH_IF_ONE_IS_DEAF: Duration = Duration::from_millis(700);

/// Where all has come right, no two answer for one address after this time, and no member that drains owns what another
/// can own: a freeze has to end first, an offer may be lost, and the other may have listened.
pub(crate) const SETTLES: Duration = Duration::from_secs(6);

/// With so many members, an address that a member could serve which has run all the time has no owner
/// for no longer than this.
pub(crate) fn nobody(members: usize) -> Duration {
    SILENT * 2 + RIGHT + STEP * u32::try_from(members).unwrap() + HEARTBEAT * 3
}

/// A generator of numbers (SplitMix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn time(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

pub(crate) fn name(n: usize) -> MemberName {
    format!("edge-{n}").into()
}

/// These members may own an address, and it can be served here, or not.
pub(crate) fn candidacy(members: usize, is_able: bool) -> Candidacy {
    Candidacy {
        candidates: Arc::new((0..members).map(name).collect()),
        ability: match is_able {
            true => Ability::Able,
            false => Ability::Unable,
        },
        ..Candidacy::default()
    }
}

pub(crate) fn address(n: usize) -> IpAddr {
    Ipv4Addr::from_bits(0xcb00_7100 + u32::try_from(n).unwrap()).into()
}

/// A machine with a gateway.
pub(crate) struct Machine {
    /// Nothing where the process does not run.
    pub(crate) fleet: Option<Fleet>,
    /// Its clock is ahead by this.
    pub(crate) ahead: Duration,
    /// The clock shows this time, and stands.
    pub(crate) stands_at: Option<BootTime>,
    /// The process does nothing until then.
    pub(crate) frozen_until: Duration,
    pub(crate) next_tick: Duration,
    /// It is to own nothing that another one can own, before and after a restart.
    pub(crate) is_draining: bool,
    /// How often it has time for a tick.
    pub(crate) pace: Duration,
    /// Since when it runs, with a clock that goes.
    pub(crate) well_since: Duration,
    pub(crate) waiting: Vec<FleetMessage>,
    /// How it sees each address.
    pub(crate) views: Vec<AddressView>,
}

/// How a machine sees an address.
#[derive(Clone)]
pub(crate) struct AddressView {
    pub(crate) ability: Ability,
    /// Since when that is so.
    pub(crate) since: Duration,
    /// Those that come before others.
    pub(crate) preferred: BTreeSet<usize>,
    pub(crate) reach: EndpointReach,
}

impl AddressView {
    pub(crate) fn able() -> Self {
        Self {
            ability: Ability::Able,
            since: Duration::ZERO,
            preferred: BTreeSet::new(),
            reach: EndpointReach::NothingAgainst,
        }
    }
}

impl Machine {
    pub(crate) fn clock(&self, now: Duration) -> BootTime {
        self.stands_at.unwrap_or(BootTime(now + self.ahead))
    }

    /// The addresses as it sees them.
    pub(crate) fn wanted(&self, members: usize) -> BTreeMap<IpAddr, Candidacy> {
        let candidates = Arc::new((0..members).map(name).collect());
        let views = self.views.iter().enumerate().map(|(n, it)| {
            let candidacy = Candidacy {
                candidates: Arc::clone(&candidates),
                preferred: Arc::new(it.preferred.iter().copied().map(name).collect()),
                ability: it.ability,
                reach: it.reach,
            };
            (address(n), candidacy)
        });
        views.collect()
    }

    pub(crate) fn answers(&self, address: IpAddr, now: Duration) -> bool {
        let Some(fleet) = &self.fleet else {
            return false;
        };
        now >= self.frozen_until
            && self.clock(now) < fleet.answers_until()
            && fleet.owned().any(|(owned, _)| owned == address)
    }
}

/// A fleet, and the network between its members.
pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) numbers: Numbers,
    pub(crate) machines: Vec<Machine>,
    pub(crate) addresses: usize,
    /// Members ask before they begin a first term, and are answered that nobody has the address.
    pub(crate) asks: bool,
    /// Nothing goes from the one to the other.
    pub(crate) cut: BTreeSet<(usize, usize)>,
    /// One message in so many is lost.
    pub(crate) loss: u64,
    pub(crate) on_the_way: BTreeMap<(Duration, u64), (usize, FleetMessage)>,
    pub(crate) count: u64,
    /// Since when two members can speak to each other, in one direction at least.
    pub(crate) joined: BTreeMap<(usize, usize), Duration>,
    pub(crate) both: BTreeMap<(usize, usize, usize), Duration>,
    pub(crate) nobody: BTreeMap<(usize, BTreeSet<usize>), Duration>,
}

impl World {
    pub(crate) fn new(seed: u64, members: usize, addresses: usize) -> Self {
        let mut numbers = Numbers(seed);
        let machines = (0..members).map(|_| Machine {
            fleet: None,
            ahead: numbers.time(0, 1_000_000),
            stands_at: None,
            frozen_until: Duration::ZERO,
            next_tick: Duration::ZERO,
            is_draining: false,
            pace: HEARTBEAT,
            well_since: Duration::ZERO,
            waiting: Vec::new(),
            views: vec![AddressView::able(); addresses],
        });
        let machines = machines.collect();
        let loss = 20 + numbers.below(80);
        let mut world = Self {
            now: Duration::from_secs(1),
            numbers,
            machines,
            addresses,
            asks: seed % 2 == 1,
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

    pub(crate) fn start(&mut self, n: usize) {
        let members = self.machines.len();
        let run = self.numbers.next();
        let first = self.numbers.time(0, 100);
        let machine = &mut self.machines[n];
        let clock = machine.clock(self.now);
        let started = self.now.as_millis() as u64;
        let mut fleet = Fleet::new(name(n), run, started, clock);
        if self.asks {
            fleet.ask_first();
        }
        fleet.set_members((0..members).map(name));
        fleet.set_addresses(clock, machine.wanted(members));
        fleet.set_draining(machine.is_draining);
        machine.fleet = Some(fleet);
        machine.next_tick = self.now + first;
        machine.well_since = self.now;
        machine.waiting.clear();
    }

    pub(crate) fn freeze(&mut self, n: usize, time: Duration) {
        let machine = &mut self.machines[n];
        machine.frozen_until = machine.frozen_until.max(self.now + time);
        machine.well_since = machine.frozen_until;
    }

    pub(crate) fn step(&mut self) {
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
            for address in fleet.unasked(clock) {
                fleet.note_free(address, clock);
            }
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
    pub(crate) fn is_joined(&self, a: usize, b: usize) -> bool {
        self.hears(a, b) || self.hears(b, a)
    }

    pub(crate) fn hears(&self, it: usize, other: usize) -> bool {
        !self.cut.contains(&(other, it)) && self.machines[other].stands_at.is_none()
    }

    pub(crate) fn judge(&mut self) {
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

    pub(crate) fn judge_both(&mut self, n: usize, owners: &[usize]) {
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

    pub(crate) fn judge_nobody(&mut self, n: usize, owners: &[usize], side: &BTreeSet<usize>) {
        let well = side.iter().map(|it| &self.machines[*it]);
        let well = well.filter(|it| {
            let can = it.views[n].ability == Ability::Able;
            can && it.fleet.is_some() && it.stands_at.is_none() && it.pace == HEARTBEAT
        });
        let well_since = well.map(|it| it.well_since.max(it.views[n].since)).min();
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
    pub(crate) fn sides(&self) -> Vec<BTreeSet<usize>> {
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

    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }

    /// Something goes wrong, or comes right again.
    pub(crate) fn fault(&mut self) {
        let count = self.machines.len() as u64;
        let n = self.numbers.below(count) as usize;
        let other = self.numbers.below(count) as usize;
        match self.numbers.below(15) {
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
            5 => match self.machines[n].stands_at {
                None => self.machines[n].stands_at = Some(self.machines[n].clock(self.now)),
                Some(_) => self.let_clock_go(n),
            },
            6 => {
                // It has too little time to work: a tick now and then.
                self.machines[n].pace = self.numbers.time(310, 480);
            }
            9 | 10 => self.change_ability(n),
            11 => self.change_preferred(),
            7 | 8 => {
                let is_draining = !self.machines[n].is_draining;
                self.set_draining(n, is_draining);
            }
            _ => self.heal(),
        }
    }

    /// Whether it is to own nothing that another one can own.
    pub(crate) fn set_draining(&mut self, n: usize, is_draining: bool) {
        let machine = &mut self.machines[n];
        machine.is_draining = is_draining;
        if let Some(fleet) = &mut machine.fleet {
            fleet.set_draining(is_draining);
        }
    }

    /// A machine sees an address like this from now on.
    pub(crate) fn see(&mut self, machine: usize, n: usize, change: impl FnOnce(&mut AddressView)) {
        let members = self.machines.len();
        let it = &mut self.machines[machine];
        let view = &mut it.views[n];
        let before = view.ability;
        change(view);
        if view.ability != before {
            view.since = self.now;
        }
        let (clock, wanted) = (it.clock(self.now), it.wanted(members));
        // One that is frozen takes it in later: it is told of what others say first, too.
        if let Some(fleet) = &mut it.fleet {
            fleet.set_addresses(clock, wanted);
        }
    }

    /// A machine can serve an address, or can't.
    fn change_ability(&mut self, machine: usize) {
        let n = self.numbers.below(self.addresses as u64) as usize;
        let ability = match self.numbers.below(4) {
            0 => Ability::Unable,
            1 => Ability::Ceasing,
            _ => Ability::Able,
        };
        self.see(machine, n, |it| it.ability = ability);
    }

    /// Others are preferred for an address. Not all learn of it.
    fn change_preferred(&mut self) {
        let n = self.numbers.below(self.addresses as u64) as usize;
        let preferred = self.numbers.next() & self.numbers.next();
        let told = self.numbers.next() | self.numbers.next();
        let count = self.machines.len();
        for machine in (0..count).filter(|it| (told >> it) & 1 == 1) {
            let preferred = (0..count).filter(|it| (preferred >> it) & 1 == 1).collect();
            self.see(machine, n, |it| it.preferred = preferred);
        }
    }

    /// All comes right, and stays so for a while. All see what the first machine sees.
    pub(crate) fn settle(&mut self) {
        self.heal();
        for n in 0..self.machines.len() {
            self.let_clock_go(n);
        }
        for n in 0..self.addresses {
            let preferred = self.machines[0].views[n].preferred.clone();
            for machine in 0..self.machines.len() {
                self.see(machine, n, |it| {
                    it.ability = Ability::Able;
                    it.preferred.clone_from(&preferred);
                });
            }
        }
        self.run(SETTLES);
    }

    /// A clock that stands goes on from where it stood.
    pub(crate) fn let_clock_go(&mut self, n: usize) {
        let machine = &mut self.machines[n];
        if let Some(at) = machine.stands_at.take() {
            machine.ahead = at.0.saturating_sub(self.now);
            machine.well_since = self.now;
        }
    }

    /// All run, and hear each other. Clocks that stand go on standing.
    pub(crate) fn heal(&mut self) {
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

pub(crate) fn owners(world: &World) -> BTreeMap<usize, Vec<usize>> {
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
