#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;

fn client(number: u32) -> ClientNetwork {
    ClientNetwork::of(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number)))
}

fn room(clients: usize) -> Arc<ClientRoom> {
    Arc::new(ClientRoom::new(clients))
}

fn table(clients: usize) -> ClientLimits {
    ClientLimits::new(7, room(clients))
}

/// Connections at a time, and a rate with its burst; 0: no limit.
fn limits(per_client: u32, per_second: u32, burst: u32) -> LimitsInForce {
    LimitsInForce {
        per_client: NonZeroU32::new(per_client),
        rate: NonZeroU32::new(per_second).map(|per_second| ConnectionRate {
            per_second,
            burst: NonZeroU32::new(burst).unwrap(),
        }),
        ..LimitsInForce::default()
    }
}

fn enter(
    table: &ClientLimits,
    number: u32,
    limits: &LimitsInForce,
    now: u64,
) -> Result<(), OverLimit> {
    table.enter(client(number), limits, Tick(now), |_| false)
}

#[test]
fn a_client_has_so_many_connections_and_no_more() {
    let table = table(100);
    let limits = limits(2, 0, 0);
    for number in [1, 2] {
        assert_eq!(enter(&table, number, &limits, 0), Ok(()));
        assert_eq!(enter(&table, number, &limits, 0), Ok(()));
        assert_eq!(
            enter(&table, number, &limits, 0),
            Err(OverLimit::Connections)
        );
    }
    table.leave(client(1));
    assert_eq!(enter(&table, 1, &limits, 0), Ok(()));
    assert_eq!(enter(&table, 2, &limits, 0), Err(OverLimit::Connections));
    for number in [1, 1, 2, 2] {
        table.leave(client(number));
    }
    assert!(table.is_empty(), "who has no connection is forgotten");
}

#[test]
fn a_client_makes_a_burst_and_then_so_many_in_a_second() {
    let table = table(100);
    let limits = limits(0, 10, 3);
    for _ in 0..3 {
        assert_eq!(enter(&table, 1, &limits, 1000), Ok(()));
    }
    let wait = |millis| Err(OverLimit::Rate(Duration::from_millis(millis)));
    assert_eq!(enter(&table, 1, &limits, 1000), wait(100));
    assert_eq!(enter(&table, 1, &limits, 1060), wait(40));
    assert_eq!(enter(&table, 1, &limits, 1100), Ok(()));
    assert_eq!(enter(&table, 1, &limits, 1100), wait(100));
    // Its connections end, its bucket is remembered.
    for _ in 0..4 {
        table.leave(client(1));
    }
    assert_eq!(enter(&table, 1, &limits, 1150), wait(50));
    assert_eq!(enter(&table, 2, &limits, 1150), Ok(()), "another client");
    // A second of refusals costs it nothing.
    assert_eq!(enter(&table, 1, &limits, 2150), Ok(()));
    table.leave(client(1));
    table.leave(client(2));
    table.expire(Tick(2300), limits.rate);
    assert_eq!(table.len(), 1, "its bucket may not be full before 300 ms");
    table.expire(Tick(2450), limits.rate);
    assert!(table.is_empty());
}

#[test]
fn limits_that_change_count_what_is_there() {
    let table = table(100);
    for _ in 0..5 {
        assert_eq!(enter(&table, 1, &limits(5, 0, 0), 0), Ok(()));
    }
    let fewer = limits(3, 0, 0);
    table.leave(client(1));
    assert_eq!(enter(&table, 1, &fewer, 0), Err(OverLimit::Connections));
    table.leave(client(1));
    table.leave(client(1));
    assert_eq!(enter(&table, 1, &fewer, 0), Ok(()));
    // A smaller bucket is empty, and not in debt.
    let table = self::table(100);
    for _ in 0..50 {
        assert_eq!(enter(&table, 2, &limits(0, 10, 50), 0), Ok(()));
    }
    let slower = limits(0, 10, 1);
    let wait = Err(OverLimit::Rate(Duration::from_millis(100)));
    assert_eq!(enter(&table, 2, &slower, 0), wait);
    assert_eq!(enter(&table, 2, &slower, 100), Ok(()));
}

#[test]
fn whoever_was_told_hears_that_the_client_may_come_again_once() {
    let table = table(100);
    let limits = limits(1, 0, 0);
    assert_eq!(enter(&table, 1, &limits, 0), Ok(()));
    let mut told = Vec::new();
    for _ in 0..2 {
        let _ = table.enter(client(1), &limits, Tick(0), |over| {
            told.push(over);
            true
        });
    }
    assert_eq!(told, [OverLimit::Connections; 2]);
    assert!(table.leave(client(1)));
    assert_eq!(enter(&table, 1, &limits, 0), Ok(()));
    assert!(!table.leave(client(1)));
}

#[test]
fn memory_is_bounded_and_nobody_is_refused_for_others() {
    const ROOM: usize = 1_000;
    let room = room(ROOM);
    let table = ClientLimits::new(7, room.clone());
    let limits = limits(1, 1, 1);
    // Each has a connection and is then quiet, with an empty bucket.
    for number in 0..50_000 {
        assert_eq!(enter(&table, number, &limits, 0), Ok(()), "client {number}");
        table.leave(client(number));
        assert!(table.len() <= ROOM, "{} clients", table.len());
    }
    assert!(
        table.len() > ROOM / 4,
        "it forgets too much: {}",
        table.len()
    );
    assert_eq!(room.left() + table.len(), ROOM);
    // Another port has room, too, however full the first one is.
    let other = ClientLimits::new(8, room.clone());
    for number in 0..100 {
        assert_eq!(enter(&other, number, &limits, 0), Ok(()));
        other.leave(client(number));
    }
    assert!(other.len() > 10, "{} of another port", other.len());
    table.expire(Tick(1_000), limits.rate);
    assert!(table.is_empty());
    drop(other);
    assert_eq!(room.left(), ROOM);
}

#[test]
fn many_threads_keep_to_the_limit() {
    let table = table(1_000);
    let limits = limits(3, 0, 0);
    let open: [AtomicU32; 4] = Default::default();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (table, limits, open) = (&table, &limits, &open);
            scope.spawn(move || {
                for round in 0..5_000_u32 {
                    let number = (round * 7 + thread) % 4;
                    if enter(table, number, limits, 0).is_ok() {
                        let mine = &open[number as usize];
                        assert!(mine.fetch_add(1, Ordering::SeqCst) < 3);
                        std::thread::yield_now();
                        mine.fetch_sub(1, Ordering::SeqCst);
                        table.leave(client(number));
                    }
                }
            });
        }
    });
    assert!(table.is_empty());
}

/// What may happen to one port.
#[derive(Clone, Debug)]
enum LimitEvent {
    Enter(u32),
    /// A connection ends: one of those that are open, by this number.
    Leave(usize),
    Pass(u64),
    Change(u32, u32, u32),
    Expire,
}

fn any_event() -> impl Strategy<Value = LimitEvent> {
    prop_oneof![
        8 => (0_u32..6).prop_map(LimitEvent::Enter),
        6 => any::<usize>().prop_map(LimitEvent::Leave),
        3 => (0_u64..400).prop_map(LimitEvent::Pass),
        1 => (0_u32..4, 0_u32..8, 1_u32..6).prop_map(|(a, b, c)| LimitEvent::Change(a, b, c)),
        1 => Just(LimitEvent::Expire),
    ]
}

/// A client in the plain model: its connections, and what its bucket lacks, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
struct ModelClient {
    open: u32,
    missing: u64,
    at: u64,
}

impl ModelClient {
    fn enter(&mut self, limits: &LimitsInForce, now: u64) -> bool {
        if limits
            .per_client
            .is_some_and(|most| self.open >= most.get())
        {
            return false;
        }
        if let Some(rate) = limits.rate {
            let came = (now - self.at) * u64::from(rate.per_second.get());
            let size = u64::from(rate.burst.get()) * 1000;
            self.missing = self.missing.saturating_sub(came).min(size);
            self.at = now;
            if self.missing + 1000 > size {
                return false;
            }
            self.missing += 1000;
        }
        self.open += 1;
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens in whatever order, each client gets what a plain model without bounds gives it, and nothing is
    /// left when all connections have ended. Time passes with every change: what a client lacked by an old rate is not
    /// kept for one that has come between.
    #[test]
    fn it_is_as_a_plain_model(events in proptest::collection::vec(any_event(), 1..300)) {
        let room = room(1_000);
        let table = ClientLimits::new(3, room.clone());
        let mut model: BTreeMap<u32, ModelClient> = BTreeMap::new();
        let mut open: Vec<u32> = Vec::new();
        let mut now = 0;
        let mut in_force = limits(2, 3, 2);
        for event in events {
            match event {
                LimitEvent::Enter(number) => {
                    let it = model.entry(number).or_default();
                    let wanted = it.enter(&in_force, now);
                    let found = enter(&table, number, &in_force, now);
                    prop_assert_eq!(found.is_ok(), wanted, "{:?} of {}", found, number);
                    if wanted {
                        open.push(number);
                    }
                    if let Err(OverLimit::Rate(wait)) = found {
                        let mut then = *it;
                        let wait = wait.as_millis() as u64;
                        prop_assert!(then.enter(&in_force, now + wait), "it comes too early");
                        prop_assert!(!it.clone().enter(&in_force, now + wait - 1), "too late");
                    }
                }
                LimitEvent::Leave(at) => {
                    if !open.is_empty() {
                        let number = open.swap_remove(at % open.len());
                        model.get_mut(&number).unwrap().open -= 1;
                        table.leave(client(number));
                    }
                }
                LimitEvent::Pass(time) => now += time,
                LimitEvent::Change(a, b, c) => {
                    in_force = limits(a, b, c);
                    // Buckets are full by any rate.
                    now += 10_000_000;
                }
                LimitEvent::Expire => table.expire(Tick(now), in_force.rate),
            }
            prop_assert!(table.len() <= 6);
        }
        for number in open {
            table.leave(client(number));
        }
        table.expire(Tick(now + 10_000_000), in_force.rate);
        prop_assert!(table.is_empty());
        prop_assert_eq!(room.left(), 1_000);
    }
}

#[test]
fn another_process_goes_on_with_buckets() {
    let (here, there) = (table(100), table(2));
    let limits = limits(0, 10, 3);
    for _ in 0..3 {
        assert_eq!(enter(&here, 1, &limits, 1000), Ok(()));
    }
    assert_eq!(enter(&here, 2, &limits, 1000), Ok(()));
    assert_eq!(enter(&here, 3, &LimitsInForce::default(), 1000), Ok(()));
    // A client that is connected there already: the connection has gone over first.
    assert_eq!(enter(&there, 1, &LimitsInForce::default(), 1000), Ok(()));
    let buckets: Vec<_> = (0..PARTS).flat_map(|part| here.buckets(part)).collect();
    assert_eq!(buckets.len(), 2, "a bucket that is full says nothing");
    for (client, bucket) in buckets {
        there.go_on(client, bucket);
    }
    let wait = |millis| Err(OverLimit::Rate(Duration::from_millis(millis)));
    assert_eq!(enter(&there, 1, &limits, 1010), wait(90));
    assert_eq!(enter(&there, 2, &limits, 1010), Ok(()));
    assert_eq!(enter(&there, 2, &limits, 1010), Ok(()));
    assert_eq!(enter(&there, 2, &limits, 1010), wait(90));
    for number in [1, 2, 2] {
        there.leave(client(number));
    }
    there.expire(Tick(10_000), limits.rate);
    assert!(there.is_empty());
    // Without room it is forgotten.
    let full = table(0);
    full.go_on(
        client(1),
        TokenBucket {
            missing: 3000,
            at: Tick(1000),
        },
    );
    assert!(full.is_empty());
}
