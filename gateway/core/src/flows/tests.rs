#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fairway_config::net::{ClientAddr, ListenAddr};

use super::*;

fn flow(client: IpAddr, port: u64) -> FlowKey {
    FlowKey {
        client: ClientAddr(SocketAddr::new(client, 1024 + port as u16)),
        listen: ListenAddr("203.0.113.1:53".parse().unwrap()),
    }
}

fn key(client: u64, port: u64) -> FlowKey {
    flow(
        Ipv4Addr::from_bits(0x6440_0000 + client as u32).into(),
        port,
    )
}

fn service(name: impl std::fmt::Display) -> ServiceName {
    ServiceName::new("default", name.to_string())
}

/// The namespace of a Service of the simulation: some have more of them than others.
fn namespace(service: u64) -> u64 {
    service / 2
}

fn numbered(service: u64) -> ServiceName {
    ServiceName::new(namespace(service).to_string(), service.to_string())
}

fn limits(flows: usize) -> Limits {
    Limits {
        flows,
        unreplied: Duration::from_secs(30),
        replied: Duration::from_secs(120),
    }
}

/// A table of one Service.
struct One(FlowTable);

impl One {
    fn new(flows: usize) -> Self {
        Self(FlowTable::new(1, limits(flows)))
    }

    fn open(&mut self, key: FlowKey, now: u64) -> (FlowId, Option<FlowId>) {
        self.0.open(key, &service("dns"), None, Tick(now))
    }

    fn answered(&mut self, key: FlowKey, now: u64) -> (FlowId, Option<FlowId>) {
        let (id, gone) = self.open(key, now);
        self.0.replied(id, Tick(now));
        (id, gone)
    }
}

#[test]
fn a_flow_lives_30_s_until_it_is_answered_and_120_s_from_then_on() {
    let mut one = One::new(100);
    let (id, _) = one.open(key(1, 1), 0);
    let table = &mut one.0;
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
    let mut one = One::new(3);
    let (answered, _) = one.answered(key(1, 1), 0);
    let (busy, _) = one.open(key(2, 1), 1);
    let (idle, _) = one.open(key(3, 1), 2);
    one.0.received(key(2, 1), Tick(3));
    let (fourth, gone) = one.open(key(4, 1), 4);
    assert_eq!(gone, Some(idle));
    one.0.replied(fourth, Tick(5));
    one.0.replied(busy, Tick(6));
    assert_eq!(one.open(key(5, 1), 7).1, Some(answered));
}

#[test]
fn a_table_full_of_answered_flows_gives_new_ones_their_time() {
    let mut one = One::new(16);
    let answered: Vec<_> = (1..=16)
        .map(|client| one.answered(key(client, 1), client).0)
        .collect();
    let (first, gone) = one.open(key(21, 1), 21);
    assert_eq!(gone, Some(answered[0]));
    assert_eq!(one.open(key(22, 1), 22).1, Some(answered[1]));
    assert_eq!(one.open(key(23, 1), 23).1, Some(answered[2]));
    // More than an eighth: who asks and is not answered goes before who was.
    assert_eq!(one.open(key(24, 1), 24).1, Some(first));
}

#[test]
fn one_client_may_have_every_flow_while_there_is_room() {
    let mut one = One::new(3_000);
    for port in 0..3_000 {
        assert_eq!(one.answered(key(1, port), port).1, None);
    }
    assert_eq!(one.0.len(), 3_000);
}

/// A client with many sockets: one IPv4 address, or the addresses of one /64.
#[test]
fn where_there_is_no_room_a_client_of_more_than_a_quarter_drives_out_itself() {
    let v4 = |n: u64| key(1, n);
    let v6 = |n: u64| {
        let host = 0x2001_0db8_0001_0002_u128 << 64 | u128::from(n.wrapping_mul(0x9e37_79b9));
        flow(Ipv6Addr::from_bits(host).into(), n % 7)
    };
    for attacker in [&v4 as &dyn Fn(u64) -> FlowKey, &v6] {
        let mut one = One::new(800);
        let others: Vec<_> = (0..400)
            .map(|n| one.answered(key(100 + n, 1), 0).0)
            .collect();
        for n in 0..30_000 {
            let gone = one.answered(attacker(n), 1 + n).1;
            assert!(gone.is_none_or(|gone| !others.contains(&gone)), "{n}");
        }
        assert!(others.iter().all(|id| one.0.close(*id)));
    }
}

#[test]
fn a_flood_from_invented_addresses_drives_out_neither_answered_flows_nor_those_of_a_nat() {
    let mut one = One::new(800);
    let mut kept: Vec<_> = (0..300)
        .map(|port| one.answered(key(1, port), 0).0)
        .collect();
    kept.extend((0..300).map(|n| one.answered(key(100 + n, 1), 0).0));
    for n in 0..30_000 {
        one.open(key(10_000 + n, 1), 1 + n % 1_000);
    }
    assert!(kept.iter().all(|id| one.0.close(*id)));
}

#[test]
fn thirty_thousand_answered_queries_of_one_service_leave_the_flows_of_another_alone() {
    let mut table = FlowTable::new(1, limits(8_192));
    let (quiet, loud) = (service("quiet"), service("loud"));
    let open = |table: &mut FlowTable, service, key, now| {
        let (id, gone) = table.open(key, service, None, Tick(now));
        table.replied(id, Tick(now));
        (id, gone)
    };
    let kept: Vec<_> = (0..4_096)
        .map(|n| open(&mut table, &quiet, key(n, 1), 0).0)
        .collect();
    for n in 0..30_000 {
        let client = key(10_000 + n, 1);
        open(&mut table, &loud, client, 1 + n / 6);
    }
    assert!(kept.iter().all(|id| table.close(*id)));
}

#[test]
fn a_namespace_of_a_thousand_services_leaves_the_only_service_of_another_one_alone() {
    let mut table = FlowTable::new(1, limits(8_192));
    let quiet = ServiceName::new("quiet", "dns");
    let open = |table: &mut FlowTable, service: &ServiceName, key, now| {
        let (id, gone) = table.open(key, service, None, Tick(now));
        table.replied(id, Tick(now));
        (id, gone)
    };
    // Half of all flows is the fair share of one of two namespaces.
    let kept: Vec<_> = (0..4_096)
        .map(|n| open(&mut table, &quiet, key(n, 1), 0).0)
        .collect();
    for n in 0..30_000 {
        let loud = ServiceName::new("loud", format!("dns-{}", n % 1_000));
        open(&mut table, &loud, key(10_000 + n, 1), 1 + n / 6);
    }
    let left = kept.iter().filter(|id| table.close(**id)).count();
    assert_eq!(left, kept.len());
}

#[test]
fn without_room_outside_the_table_a_service_gives_one_of_its_own() {
    let mut table = FlowTable::new(1, limits(100));
    let (one, other) = (service("one"), service("other"));
    let (first, _) = table.open(key(1, 1), &one, None, Tick(0));
    table.open(key(2, 1), &one, None, Tick(1));
    table.open(key(3, 1), &other, None, Tick(0));
    assert_eq!(table.evict_of(&one), Some(first));
    // A Service without flows has one of the largest of its namespace, and none of another namespace.
    assert!(table.evict_of(&service("third")).is_some());
    assert_eq!(table.evict_of(&ServiceName::new("elsewhere", "one")), None);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_lower_limit_evicts_with_the_next_flow_and_a_higher_one_makes_room() {
    let mut one = One::new(2);
    let (first, _) = one.open(key(1, 1), 0);
    one.open(key(2, 1), 1);
    one.0.set_limit(3);
    assert_eq!(one.open(key(3, 1), 2).1, None);
    one.0.set_limit(1);
    assert_eq!(one.0.len(), 3);
    assert_eq!(one.open(key(4, 1), 3).1, Some(first));
}

#[test]
fn what_nobody_has_a_share_of_is_taken_from_the_largest_namespace() {
    let mut table = FlowTable::new(1, limits(100));
    let (large, small) = (
        ServiceName::new("large", "dns"),
        ServiceName::new("small", "dns"),
    );
    let (first, _) = table.open(key(1, 1), &large, None, Tick(0));
    table.open(key(2, 1), &large, None, Tick(1));
    table.open(key(3, 1), &small, None, Tick(0));
    assert_eq!(table.evict_for(&small), Some(first));
}

/// What the table should be, in the plainest form.
#[derive(Default)]
struct Model(BTreeMap<FlowId, ModelFlow>);

#[test]
fn a_port_that_has_as_many_as_it_may_evicts_one_of_its_own_that_was_never_answered() {
    let mut table = FlowTable::new(1, limits(100));
    let dns = service("dns");
    let ids: Vec<_> = (0..10)
        .map(|n| table.open(key(n, 1), &dns, None, Tick(n)).0)
        .collect();
    for id in ids.iter().filter(|id| **id != ids[4]) {
        table.replied(*id, Tick(20));
    }
    let slots: Vec<u32> = ids[2..6].iter().map(|id| id.slot()).collect();
    assert_eq!(table.evict_among(&slots), Some(ids[4]));
    assert_eq!(table.evict_among(&slots[..1]), Some(ids[2]));
    assert_eq!(table.evict_among(&slots[..1]), None, "it is gone");
    assert_eq!(table.evict_among(&[]), None);
    assert_eq!(table.len(), 8);
}

#[derive(Clone, Copy)]
struct ModelFlow {
    key: FlowKey,
    service: u64,
    seen: u64,
    replied: bool,
    idle: Option<u64>,
}

impl ModelFlow {
    fn deadline(&self) -> u64 {
        let replied = self.idle.unwrap_or(120_000);
        self.seen
            + if self.replied {
                replied
            } else {
                replied.min(30_000)
            }
    }
}

impl Model {
    fn find(&self, key: FlowKey) -> Option<FlowId> {
        let mut flows = self.0.iter();
        flows.find(|(_, known)| known.key == key).map(|(id, _)| *id)
    }

    fn of_service(&self, service: u64) -> impl Iterator<Item = &ModelFlow> {
        self.0
            .values()
            .filter(move |known| known.service == service)
    }

    /// How many flows each namespace has that has some.
    fn namespace_sizes(&self) -> BTreeMap<u64, usize> {
        let mut sizes = BTreeMap::new();
        for known in self.0.values() {
            *sizes.entry(namespace(known.service)).or_default() += 1;
        }
        sizes
    }

    /// How many flows each Service of a namespace has that has some.
    fn service_sizes(&self, of: u64) -> BTreeMap<u64, usize> {
        let mut sizes = BTreeMap::new();
        let flows = self.0.values();
        for known in flows.filter(|known| namespace(known.service) == of) {
            *sizes.entry(known.service).or_default() += 1;
        }
        sizes
    }
}

/// One that has `lost` flows of a sort lost one to `wanting`: checks that it was its turn. Where it was not
/// its own, it had more than its fair share of `room`, if that is said.
fn was_largest(sizes: &BTreeMap<u64, usize>, lost: u64, wanting: u64, room: Option<usize>) {
    let most = *sizes.values().max().unwrap();
    assert_eq!(sizes[&lost], most, "it was one of the largest");
    if lost == wanting {
        return;
    }
    let own = sizes.get(&wanting).copied().unwrap_or_default();
    assert!(own < most, "its own where no other one has more");
    let mut after = sizes.clone();
    *after.entry(wanting).or_default() += 1;
    assert!(
        room.is_none_or(|room| most * after.len() > room),
        "it lost one of its fair share: {after:?}"
    );
}

#[test]
fn random_events_keep_the_table_equal_to_a_plain_model_and_everybody_their_fair_share() {
    let base = std::env::var("FAIRWAY_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = base.map_or(1..=40_u64, |seed| seed..=seed);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| simulate(seed));
        assert!(outcome.is_ok(), "run again with FAIRWAY_SEED={seed}");
    }
}

const FLOWS: usize = 80;

fn simulate(seed: u64) {
    let mut table = FlowTable::new(seed, limits(FLOWS));
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
    for _ in 0..4_000 {
        now += [0, 1, 50, 5_000][random(4) as usize];
        // Few clients and many ports, and services of which some get more than others.
        let services = 1 + random(5);
        let service_number = random(services);
        let mut key = key(random(6), random(40));
        key.listen.0.set_port(53 + service_number as u16);
        let ids: Vec<_> = model.0.keys().copied().collect();
        let any = (!ids.is_empty()).then(|| ids[random(ids.len().max(1) as u64) as usize]);
        match random(20) {
            0..12 => {
                let found = table.received(key, Tick(now));
                let expected = model.find(key).filter(|id| model.0[id].deadline() >= now);
                assert_eq!(found, expected);
                if let Some(id) = found {
                    model.0.get_mut(&id).unwrap().seen = now;
                } else {
                    // A Service may have ports with times of their own, and its annotations are edited.
                    let idle = [None, None, Some(10_000), Some(300_000)][random(4) as usize];
                    let time = idle.map(Duration::from_millis);
                    let (id, gone) = table.open(key, &numbered(service_number), time, Tick(now));
                    went_fairly(&mut model, key, service_number, gone);
                    let known = ModelFlow {
                        key,
                        service: service_number,
                        seen: now,
                        replied: false,
                        idle,
                    };
                    assert!(model.0.insert(id, known).is_none(), "ids are new");
                }
            }
            12..16 => {
                if let Some(id) = any {
                    let known = model.0.get_mut(&id).unwrap();
                    (known.seen, known.replied) = (now, true);
                    assert_eq!(table.replied(id, Tick(now)), Some(known.key));
                }
            }
            16 => {
                if let Some(id) = any {
                    assert!(table.close(id));
                    assert!(!table.close(id), "it is gone");
                    model.0.remove(&id);
                }
            }
            17 => {
                let gone = table.evict_of(&numbered(service_number));
                let is_own = |it: &&ModelFlow| it.service == service_number;
                let is_near = |it: &&ModelFlow| namespace(it.service) == namespace(service_number);
                let has_own = model.0.values().any(|it| is_own(&it));
                assert_eq!(gone.is_some(), model.0.values().any(|it| is_near(&it)));
                let gone = gone.map(|gone| model.0.remove(&gone).unwrap());
                let is_right = |it: &ModelFlow| if has_own { is_own(&it) } else { is_near(&it) };
                assert!(gone.as_ref().is_none_or(is_right));
            }
            _ => {
                let mut gone = table.expire(Tick(now));
                gone.sort();
                let over = model.0.iter().filter(|(_, known)| known.deadline() < now);
                let over: Vec<_> = over.map(|(id, _)| *id).collect();
                assert_eq!(gone, over);
                model.0.retain(|id, _| !over.contains(id));
            }
        }
        invariants(&table, &model);
    }
}

/// A flow of that key came, and that one went for it: checks that it was its turn.
fn went_fairly(model: &mut Model, key: FlowKey, service: u64, gone: Option<FlowId>) {
    let same = model.find(key);
    let was_full = model.0.len() >= FLOWS;
    let Some(gone) = gone else {
        assert!(!was_full && same.is_none());
        return;
    };
    if same.is_some() {
        assert_eq!(same, Some(gone));
        model.0.remove(&gone);
        return;
    }
    assert!(was_full, "nobody is bounded while there is room");
    let lost = model.0[&gone];
    let (lost_in, wanting_in) = (namespace(lost.service), namespace(service));
    was_largest(&model.namespace_sizes(), lost_in, wanting_in, Some(FLOWS));
    let sizes = model.service_sizes(lost_in);
    if lost_in == wanting_in {
        was_largest(&sizes, lost.service, service, None);
    }
    let most = sizes[&lost.service];
    assert_eq!(
        sizes.values().max(),
        Some(&most),
        "the largest of its namespace"
    );
    let of_service: Vec<_> = model.of_service(lost.service).collect();
    let unreplied = of_service.iter().filter(|known| !known.replied).count();
    let is_flood = unreplied > most / 8;
    let of_client = |known: &ModelFlow| {
        let ip = known.key.client.0.ip();
        let same = of_service.iter().filter(|it| it.key.client.0.ip() == ip);
        same.count()
    };
    let largest = of_service.iter().map(|it| of_client(it)).max().unwrap();
    let greedy = largest > (most / 4).max(16);
    if !(greedy && of_client(&lost) == largest) {
        assert!(!greedy || is_flood, "a greedy client goes before others");
        // The other kind only where there is none of this.
        let kind = of_service.iter().filter(|it| it.replied != is_flood);
        let oldest = kind.map(|it| it.seen).min();
        assert!(lost.replied != is_flood || oldest.is_none());
        assert!(oldest.is_none_or(|oldest| lost.seen <= oldest));
    } else if is_flood {
        // About the idlest one, of those that were not answered where the sample has some.
        assert!(!lost.replied || unreplied > 0);
    }
    model.0.remove(&gone);
}

fn invariants(table: &FlowTable, model: &Model) {
    assert_eq!(table.len(), model.0.len());
    assert!(table.len() <= table.limits.flows);
    let live = table.entries.iter().filter(|it| it.id != FlowId::NONE);
    assert_eq!(live.count(), table.by_key.len());
    assert_eq!(table.entries.len(), table.free.len() + table.len());
    table.shares.check(&table.entries);
}
