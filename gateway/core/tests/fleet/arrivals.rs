//! A fleet that is told of many addresses at once, whose listeners open one after the other, at each gateway at its own
//! pace and in its own time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fairway_gateway_core::fleet::message::FleetMessage;
use fairway_gateway_core::fleet::{BootTime, Candidacy, Fleet, HEARTBEAT, LEARNS};

use crate::world::{Numbers, address, candidacy, name};

const MEMBERS: usize = 3;
const ADDRESSES: u32 = 250;
const STEPS: Duration = Duration::from_millis(10);

/// How long it takes to ask whether another host uses an address.
const ASKED: Duration = Duration::from_millis(800);

/// When a gateway begins, when it is told of the addresses, and how long it takes then to open the listeners; in
/// milliseconds.
type Pace = (u64, u64, u64);

/// A gateway, and how it opens its listeners.
struct Opening {
    fleet: Fleet,
    told_at: Duration,
    takes: Duration,
    next_tick: Duration,
    waiting: Vec<FleetMessage>,
    /// Since when it asks who has an address.
    asks: BTreeMap<IpAddr, Duration>,
    /// How often it has asked.
    asked: usize,
}

impl Opening {
    /// Asks whether other hosts use the addresses that it is about to take. None does.
    fn ask(&mut self, now: Duration) {
        for address in self.fleet.unasked(BootTime(now)) {
            let since = *self.asks.entry(address).or_insert_with(|| {
                self.asked += 1;
                now
            });
            if now >= since + ASKED {
                self.asks.remove(&address);
                self.fleet.note_free(address, BootTime(now));
            }
        }
    }

    /// The addresses at that time: those whose listeners are open. Of others it does not know whether it can serve them.
    fn addresses(&self, now: Duration) -> BTreeMap<IpAddr, Candidacy> {
        let since = now.saturating_sub(self.told_at).as_micros();
        let open = since * u128::from(ADDRESSES) / self.takes.as_micros();
        let all = (0..ADDRESSES).filter(|n| u128::from(*n) < open);
        all.map(|n| (address(n as usize), candidacy(MEMBERS, true)))
            .collect()
    }
}

/// How many addresses each has in the end, after what time each address had an owner, and how many questions there
/// were.
fn shares(gateways: [Pace; MEMBERS]) -> (Vec<usize>, Duration, usize) {
    let millis = Duration::from_millis;
    let mut running: Vec<Option<Opening>> = (0..MEMBERS).map(|_| None).collect();
    let mut now = millis(1000);
    let mut all_owned = None;
    while now < millis(10_000) {
        now += STEPS;
        let clock = BootTime(now);
        let mut sent = Vec::new();
        for (n, (begins, told, takes)) in gateways.into_iter().enumerate() {
            if now < millis(1000 + begins) {
                continue;
            }
            let it = running[n].get_or_insert_with(|| {
                let started = now.as_millis() as u64;
                let mut fleet = Fleet::new(name(n), 1 + n as u64, started, clock);
                fleet.set_members((0..MEMBERS).map(name));
                fleet.ask_first();
                Opening {
                    fleet,
                    told_at: millis(1000 + told),
                    takes: millis(takes),
                    next_tick: now,
                    waiting: Vec::new(),
                    asks: BTreeMap::new(),
                    asked: 0,
                }
            });
            for message in it.waiting.drain(..) {
                let _ = it.fleet.receive(clock, &message);
            }
            if now >= it.next_tick {
                it.next_tick = now + HEARTBEAT;
                let addresses = it.addresses(now);
                it.fleet.set_addresses(clock, addresses);
                it.ask(now);
                sent.extend(it.fleet.tick(clock));
            }
        }
        for (to, message) in sent {
            let to: usize = to.trim_start_matches("edge-").parse().unwrap();
            if let Some(it) = &mut running[to] {
                it.waiting.push(message);
            }
        }
        let owned = running.iter().flatten().map(|it| it.fleet.owned().count());
        if owned.sum::<usize>() >= ADDRESSES as usize {
            all_owned.get_or_insert(now);
        }
    }
    let all = running.iter().flatten();
    let shares = all.clone().map(|it| it.fleet.owned().count()).collect();
    let asked = all.map(|it| it.asked).sum();
    (shares, all_owned.unwrap_or(now) - millis(1000), asked)
}

/// Within 20 % of even.
fn check(what: &str, gateways: [Pace; MEMBERS]) -> usize {
    let (shares, _, asked) = shares(gateways);
    assert_eq!(shares.iter().sum::<usize>(), 250, "{what}: {shares:?}");
    assert!(
        shares.iter().all(|it| (67..=100).contains(it)),
        "{what} {gateways:?}: {shares:?}"
    );
    asked
}

#[test]
fn one_gateway_asks_after_an_address_that_comes_to_all_at_once() {
    let asked = check("at once", [(0, 1500, 50), (30, 1500, 50), (60, 1500, 50)]);
    // All three would ask three times as often. For a few addresses the even shares have changed meanwhile.
    assert!(asked <= ADDRESSES as usize * 21 / 20, "{asked}");
}

#[test]
fn many_addresses_that_come_at_once_are_shared_evenly() {
    for (what, gateways) in [
        (
            "into a fleet that runs, all at the same pace",
            [(0, 1500, 300), (30, 1500, 300), (60, 1500, 300)],
        ),
        (
            "into a fleet that runs, each at its own pace",
            [(0, 1500, 200), (30, 1540, 400), (60, 1580, 550)],
        ),
        (
            "with the start of all",
            [(0, 50, 300), (100, 250, 400), (300, 400, 500)],
        ),
        (
            "one learns of them long before the others",
            [(0, 1500, 200), (30, 3500, 400), (60, 3700, 400)],
        ),
        (
            "one learns of them long after the others",
            [(0, 1500, 200), (30, 1600, 400), (60, 4000, 400)],
        ),
    ] {
        check(what, gateways);
    }
}

#[test]
fn they_are_shared_evenly_whenever_each_gateway_learns_of_them_within_the_bound() {
    let first: u64 = std::env::var("FAIRWAY_SEED").map_or(0, |seed| seed.parse().unwrap());
    // What the first one opens last has to be open at the others in time.
    let latest = LEARNS.as_millis() as u64 - 600;
    for seed in first..first + 16 {
        let mut numbers = Numbers(seed);
        let gateways = [(); MEMBERS].map(|()| {
            let told = 1500 + numbers.below(latest);
            (numbers.below(100), told, 50 + numbers.below(550))
        });
        check(&format!("FAIRWAY_SEED={seed}"), gateways);
    }
}

#[test]
fn who_learns_of_an_address_too_late_or_never_keeps_it_waiting_no_longer_than_the_bound() {
    let never = 60_000;
    let (shares, after, _) = shares([(0, 1500, 50), (30, 1500, 50), (60, never, 50)]);
    assert_eq!(shares[2], 0);
    assert_eq!(shares.iter().sum::<usize>(), 250);
    let told = Duration::from_millis(1550);
    assert!(after <= told + LEARNS + ASKED + HEARTBEAT * 6, "{after:?}");
}
