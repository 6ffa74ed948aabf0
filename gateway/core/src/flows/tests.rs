#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use super::*;

fn key(client: u64, port: u64) -> FlowKey {
    let ip = Ipv4Addr::from_bits(0x6440_0000 + client as u32);
    FlowKey {
        client: ClientAddr(SocketAddr::new(ip.into(), 1024 + port as u16)),
        listen: ListenAddr("203.0.113.1:53".parse().unwrap()),
    }
}

fn limits(flows: usize, per_client: usize) -> Limits {
    Limits {
        flows,
        per_client,
        ..Limits::default()
    }
}

#[test]
fn a_flow_lives_30_s_until_it_is_answered_and_120_s_from_then_on() {
    let mut table = FlowTable::new(1, Limits::default());
    let (id, _) = table.open(key(1, 1), Tick(0));
    assert_eq!(table.expire(Tick(30_000)), []);
    assert_eq!(table.received(key(1, 1), Tick(30_000)), Some(id));
    assert_eq!(table.replied(id, Tick(60_000)), Some(key(1, 1)));
    assert_eq!(
        table.received(key(1, 1), Tick(180_001)),
        None,
        "over, though not swept yet"
    );
    assert_eq!(table.expire(Tick(180_001)), [id]);
    assert!(table.is_empty());
    assert_eq!(table.replied(id, Tick(180_001)), None);
}

#[test]
fn a_full_table_drops_the_unanswered_before_the_answered_and_the_idle_before_the_busy() {
    let mut table = FlowTable::new(1, limits(3, 3));
    let (answered, _) = table.open(key(1, 1), Tick(0));
    table.replied(answered, Tick(0));
    let (busy, _) = table.open(key(2, 1), Tick(1));
    let (idle, _) = table.open(key(3, 1), Tick(2));
    table.received(key(2, 1), Tick(3));
    let (fourth, gone) = table.open(key(4, 1), Tick(4));
    assert_eq!(gone, Some(idle));
    table.replied(fourth, Tick(5));
    table.replied(busy, Tick(6));
    assert_eq!(table.open(key(5, 1), Tick(7)).1, Some(answered));
}

#[test]
fn a_table_full_of_answered_flows_gives_new_ones_their_time() {
    let mut table = FlowTable::new(1, limits(16, 16));
    let answered: Vec<_> = (1..=16)
        .map(|client| {
            let (id, _) = table.open(key(client, 1), Tick(client));
            table.replied(id, Tick(client));
            id
        })
        .collect();
    let mut open = |client| table.open(key(client, 1), Tick(client));
    let (first, gone) = open(21);
    assert_eq!(gone, Some(answered[0]));
    assert_eq!(open(22).1, Some(answered[1]));
    assert_eq!(open(23).1, Some(answered[2]));
    // More than an eighth: who asks and is not answered goes before who was.
    assert_eq!(open(24).1, Some(first));
}

#[test]
fn a_client_at_its_bound_drives_out_its_own_flows_alone() {
    let mut table = FlowTable::new(1, limits(1_000, 10));
    let (other, _) = table.open(key(2, 1), Tick(0));
    let (first, _) = table.open(key(1, 0), Tick(1));
    for port in 1..10 {
        assert_eq!(table.open(key(1, port), Tick(1 + port)).1, None);
    }
    assert_eq!(table.open(key(1, 10), Tick(20)).1, Some(first));
    assert_eq!(table.len(), 11);
    assert!(table.close(other));
}

/// What the table should be, in the plainest form.
#[derive(Default)]
struct Model(BTreeMap<FlowId, Entry>);

/// The key, when it was seen, whether it was answered.
type Entry = (FlowKey, u64, bool);

impl Model {
    fn deadline(&self, id: FlowId) -> u64 {
        let (_, seen, replied) = self.0[&id];
        seen + if replied { 120_000 } else { 30_000 }
    }

    fn find(&self, key: FlowKey) -> Option<FlowId> {
        self.0
            .iter()
            .find(|(_, entry)| entry.0 == key)
            .map(|(id, _)| *id)
    }
}

#[test]
fn random_events_keep_the_table_equal_to_a_plain_model() {
    let base = std::env::var("FAIRWAY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = base.map_or(1..=40_u64, |seed| seed..=seed);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| simulate(seed));
        assert!(outcome.is_ok(), "run again with FAIRWAY_SEED={seed}");
    }
}

fn simulate(seed: u64) {
    let limits = limits(40, 12);
    let mut table = FlowTable::new(seed, limits);
    let mut model = Model::default();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = |below: u64| {
        // xorshift64* (Vigna, 2016).
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    };
    let mut now = 0;
    for _ in 0..3_000 {
        now += [0, 1, 50, 5_000][random(4) as usize];
        let key = key(random(6), random(16));
        match random(20) {
            0..10 => {
                let found = table.received(key, Tick(now));
                let live = model.find(key).filter(|id| model.deadline(*id) >= now);
                assert_eq!(found, live);
                if let Some(id) = live {
                    model.0.get_mut(&id).unwrap().1 = now;
                } else {
                    let same = model.find(key);
                    let of_client = model
                        .0
                        .values()
                        .filter(|e| e.0.client.0.ip() == key.client.0.ip())
                        .count();
                    let was_full = model.0.len() >= limits.flows;
                    let unreplied_before = model.0.values().filter(|e| !e.2).count();
                    let (id, gone) = table.open(key, Tick(now));
                    match gone {
                        Some(gone) => {
                            let entry = model.0.remove(&gone).expect("what goes was there");
                            let own = entry.0.client.0.ip() == key.client.0.ip();
                            assert!(same.is_none_or(|same| same == gone));
                            assert!(
                                same.is_some()
                                    || was_full
                                    || (own && of_client >= limits.per_client)
                            );
                            if same.is_none() && of_client < limits.per_client {
                                let unreplied = unreplied_before > limits.flows / 8;
                                let of_kind = |e: &&Entry| e.2 != unreplied;
                                let others = model.0.values().filter(of_kind);
                                let worst = others.map(|e| e.1).min();
                                // Of the other kind only where there is none of this.
                                assert!(entry.2 != unreplied || worst.is_none());
                                assert!(worst.is_none_or(|worst| entry.1 <= worst));
                            }
                        }
                        None => {
                            assert!(!was_full && of_client < limits.per_client && same.is_none())
                        }
                    }
                    assert!(
                        model.0.insert(id, (key, now, false)).is_none(),
                        "ids are new"
                    );
                }
            }
            10..15 => {
                let ids: Vec<_> = model.0.keys().copied().collect();
                if !ids.is_empty() {
                    let id = ids[random(ids.len() as u64) as usize];
                    let entry = model.0.get_mut(&id).unwrap();
                    (entry.1, entry.2) = (now, true);
                    assert_eq!(table.replied(id, Tick(now)), Some(entry.0));
                }
            }
            15..17 => {
                let ids: Vec<_> = model.0.keys().copied().collect();
                if !ids.is_empty() {
                    let id = ids[random(ids.len() as u64) as usize];
                    assert!(table.close(id));
                    assert!(!table.close(id), "it is gone");
                    model.0.remove(&id);
                }
            }
            _ => {
                let mut gone = table.expire(Tick(now));
                gone.sort();
                let over: Vec<_> = model
                    .0
                    .keys()
                    .copied()
                    .filter(|id| model.deadline(*id) < now)
                    .collect();
                assert_eq!(gone, over);
                model.0.retain(|id, _| !over.contains(id));
            }
        }
        invariants(&table, &model);
    }
}

fn invariants(table: &FlowTable, model: &Model) {
    assert_eq!(table.len(), model.0.len());
    assert!(table.len() <= table.limits.flows);
    let live = table.slots.iter().filter(|slot| slot.id != FlowId::NONE);
    assert_eq!(live.count(), table.by_key.len());
    assert_eq!(table.slots.len(), table.free.len() + table.len());
    let listed: usize = table.by_client.values().map(Vec::len).sum();
    assert_eq!(listed, table.len());
    for slots in table.by_client.values() {
        assert!(!slots.is_empty(), "no empty list is left behind");
        for (at, slot) in slots.iter().enumerate() {
            assert_eq!(table.slots[*slot as usize].in_client as usize, at);
        }
    }
    assert!(
        table
            .by_client
            .values()
            .all(|slots| slots.len() <= table.limits.per_client)
    );
}
