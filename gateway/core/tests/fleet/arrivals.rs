//! A fleet that is told of many addresses at once, whose listeners open one after the other, at each gateway at its own
//! pace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fairway_gateway_core::fleet::message::FleetMessage;
use fairway_gateway_core::fleet::{BootTime, Candidacy, Fleet, HEARTBEAT};

use crate::world::{address, name};

const MEMBERS: usize = 3;
const ADDRESSES: u32 = 250;
const STEPS: Duration = Duration::from_millis(10);

/// A gateway, and how it opens its listeners.
struct Opening {
    fleet: Fleet,
    /// It is told of the addresses then.
    told_at: Duration,
    /// So long after that the last listener is open.
    takes: Duration,
    next_tick: Duration,
    waiting: Vec<FleetMessage>,
}

impl Opening {
    /// The addresses at that time: those whose listeners are open can be served.
    fn addresses(&self, now: Duration) -> BTreeMap<IpAddr, Candidacy> {
        let Some(since) = now.checked_sub(self.told_at) else {
            return BTreeMap::new();
        };
        let open = since.as_micros() * u128::from(ADDRESSES) / self.takes.as_micros();
        let all = (0..ADDRESSES).map(|n| {
            let candidates = (0..MEMBERS).map(name).collect();
            let is_able = u128::from(n) < open;
            (
                address(n as usize),
                Candidacy {
                    candidates,
                    is_able,
                },
            )
        });
        all.collect()
    }
}

/// How many addresses each has in the end. Each gateway begins at a time, is told of the addresses at another one, and
/// takes so long to open the listeners; in milliseconds.
fn shares(gateways: [(u64, u64, u64); MEMBERS]) -> Vec<usize> {
    let millis = Duration::from_millis;
    let mut running: Vec<Option<Opening>> = (0..MEMBERS).map(|_| None).collect();
    let mut now = millis(1000);
    while now < millis(6000) {
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
                Opening {
                    fleet,
                    told_at: millis(1000 + told),
                    takes: millis(takes),
                    next_tick: now,
                    waiting: Vec::new(),
                }
            });
            for message in it.waiting.drain(..) {
                let _ = it.fleet.receive(clock, &message);
            }
            if now >= it.next_tick {
                it.next_tick = now + HEARTBEAT;
                let addresses = it.addresses(now);
                it.fleet.set_addresses(clock, addresses);
                sent.extend(it.fleet.tick(clock));
            }
        }
        for (to, message) in sent {
            let to: usize = to.trim_start_matches("edge-").parse().unwrap();
            if let Some(it) = &mut running[to] {
                it.waiting.push(message);
            }
        }
    }
    let all = running.iter().flatten();
    all.map(|it| it.fleet.owned().count()).collect()
}

#[test]
fn many_addresses_that_come_at_once_are_shared_evenly() {
    let table = [
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
    ];
    for (what, gateways) in table {
        let shares = shares(gateways);
        assert_eq!(shares.iter().sum::<usize>(), 250, "{what}: {shares:?}");
        // Within 20 % of even.
        assert!(
            shares.iter().all(|it| (67..=100).contains(it)),
            "{what}: {shares:?}"
        );
    }
}
