//! Random events against a store that drops, delays and refuses, with the invariants checked after
//! every step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::cluster::{Namespace, Node};
use fairway_config::exchange::{Batch, Change, Held, Status, StoredService, Write};
use fairway_config::names::ServiceName;
use fairway_config::net::{AddressRange, IpFamily, Protocol};
use fairway_config::pool::{AddressBlock, AddressPool, Forwarding};
use fairway_config::selector::{Expression, Selector};
use fairway_config::service::*;
use fairway_config::time::Timestamp;
use fairway_controller_core::{NodePortRange, Settings, State};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn settings() -> Settings {
    Settings {
        class: "fairway.dev/gateway".into(),
        default_class: true,
        node_ports: NodePortRange::new(30000, 30017).unwrap(),
        allocates_node_ports: true,
        gateways_tell: false,
    }
}

/// What an author may write in a Service, small enough for clashes to be frequent.
#[derive(Clone, Debug)]
struct Spec {
    kind: ServiceType,
    foreign: bool,
    ports: Vec<(Protocol, u16, Option<u16>)>,
    asked: Option<u8>,
    pool: Option<u8>,
    wish: Option<u8>,
    key: Option<u8>,
    consents: bool,
    families: u8,
    policy: IpFamilyPolicy,
    allocate: bool,
    local: bool,
    label: bool,
}

#[derive(Clone, Debug)]
enum Event {
    Put(usize, Spec),
    /// A Service that is there gets another sharing key, and stays what it is otherwise.
    Key(usize, Option<u8>),
    Delete(usize),
    Pool(u8, Option<PoolSpec>),
    Namespace(u8, Option<bool>),
    /// A node with one address, or none.
    Node(u8, Option<u8>),
    /// The store applies what was written up to here, or refuses it.
    Echo,
    /// The controller starts anew from the store; this many writes under way come about first.
    Crash(usize),
    /// The next settling's writes are lost from this one on.
    Lose(usize),
}

#[derive(Clone, Debug)]
struct PoolSpec {
    first: u8,
    len: u8,
    v6: bool,
    auto: bool,
    priority: i32,
    labelled: bool,
    namespaced: bool,
    quota: Option<u32>,
}

fn spec() -> impl Strategy<Value = Spec> {
    let kind = prop_oneof![
        5 => Just(ServiceType::LoadBalancer),
        1 => Just(ServiceType::NodePort),
        1 => Just(ServiceType::ClusterIP),
    ];
    let port = (
        prop_oneof![3 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp)],
        80u16..83,
        proptest::option::weighted(0.3, 29999u16..30019),
    );
    let policy = prop_oneof![
        3 => Just(IpFamilyPolicy::SingleStack),
        1 => Just(IpFamilyPolicy::PreferDualStack),
        1 => Just(IpFamilyPolicy::RequireDualStack),
    ];
    let asks = (
        proptest::option::weighted(0.2, 0u8..14),
        proptest::option::weighted(0.1, 0u8..3),
        proptest::option::weighted(0.2, 0u8..14),
        proptest::option::weighted(0.5, 0u8..2),
        any::<bool>(),
    );
    (
        kind,
        proptest::bool::weighted(0.1),
        proptest::collection::vec(port, 1..4),
        asks,
        0u8..4,
        policy,
        (any::<bool>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(
                kind,
                foreign,
                ports,
                (asked, pool, wish, key, consents),
                families,
                policy,
                flags,
            )| {
                Spec {
                    kind,
                    foreign,
                    ports,
                    asked,
                    pool,
                    wish,
                    key,
                    consents,
                    families,
                    policy,
                    allocate: flags.0,
                    local: flags.1,
                    label: flags.2,
                }
            },
        )
}

fn pool_spec() -> impl Strategy<Value = PoolSpec> {
    (
        0u8..8,
        1u8..6,
        any::<bool>(),
        proptest::bool::weighted(0.8),
        0i32..2,
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.2),
        proptest::option::weighted(0.3, 1u32..4),
    )
        .prop_map(
            |(first, len, v6, auto, priority, labelled, namespaced, quota)| PoolSpec {
                first,
                len,
                v6,
                auto,
                priority,
                labelled,
                namespaced,
                quota,
            },
        )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0usize..12, spec()).prop_map(|(i, spec)| Event::Put(i, spec)),
        3 => (0usize..12, proptest::option::weighted(0.7, 0u8..2)).prop_map(|(i, k)| Event::Key(i, k)),
        3 => (0usize..12).prop_map(Event::Delete),
        2 => (0u8..3, proptest::option::weighted(0.8, pool_spec())).prop_map(|(i, p)| Event::Pool(i, p)),
        1 => (0u8..2, proptest::option::of(any::<bool>())).prop_map(|(i, l)| Event::Namespace(i, l)),
        1 => (0u8..2, proptest::option::weighted(0.7, 0u8..14)).prop_map(|(i, a)| Event::Node(i, a)),
        5 => Just(Event::Echo),
        2 => (0usize..4).prop_map(Event::Crash),
        1 => (0usize..3).prop_map(Event::Lose),
    ]
}

/// 0–6 are IPv4 addresses, 7–13 IPv6 ones.
fn address(n: u8) -> IpAddr {
    if n < 7 {
        IpAddr::from([10, 0, 0, n])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n - 7)])
    }
}

fn name(i: usize) -> ServiceName {
    ServiceName::new(if i.is_multiple_of(2) { "a" } else { "b" }, format!("s{i}"))
}

fn service(i: usize, spec: &Spec) -> Service {
    let families = match spec.families {
        0 | 1 => vec![],
        2 => vec![IpFamily::IPv4],
        _ => vec![IpFamily::IPv6],
    };
    let mut ports = BTreeMap::new();
    for (protocol, port, node_port) in &spec.ports {
        ports.entry((*protocol, *port)).or_insert(*node_port);
    }
    Service {
        name: name(i),
        uid: None,
        created: Some(Timestamp((i / 3) as i64)),
        deleting: false,
        labels: spec
            .label
            .then(|| ("edge".to_owned(), "yes".to_owned()))
            .into_iter()
            .collect(),
        kind: spec.kind,
        class: spec.foreign.then(|| "other/one".into()),
        cluster_ips: vec![],
        headless: false,
        external_name: None,
        has_selector: true,
        ports: ports
            .into_iter()
            .map(|((protocol, port), node_port)| ServicePort {
                name: None,
                protocol,
                port,
                target: TargetPort::Number(port),
                node_port,
                app: AppProtocol::Opaque,
            })
            .collect(),
        external_traffic_policy: if spec.local {
            ExternalTrafficPolicy::Local
        } else {
            ExternalTrafficPolicy::Cluster
        },
        client_ip_affinity: None,
        source_ranges: vec![],
        ip_families: families,
        ip_family_policy: spec.policy,
        allocate_node_ports: spec.allocate,
        health_check_node_port: None,
        publish_not_ready_addresses: false,
        external_ips: vec![],
        status_addresses: spec.wish.map(address).into_iter().collect(),
        asks: Asks {
            addresses: spec.asked.map(address).into_iter().collect(),
            pool: spec.pool.map(|n| format!("p{n}").into()),
            sharing_key: spec.key.map(|n| format!("k{n}").into()),
            sharing_namespaces: if spec.consents {
                SharingNamespaces::All
            } else {
                SharingNamespaces::Own
            },
            ..Asks::default()
        },
        notices: vec![],
    }
}

fn pool(n: u8, spec: &PoolSpec) -> AddressPool {
    let base = if spec.v6 { 7 } else { 0 };
    let first = spec.first.min(6);
    let last = (first + spec.len).min(6);
    let requirement =
        |key: &str, value: &str| Selector::from(Expression::Equal(key.into(), value.into()));
    AddressPool {
        name: format!("p{n}").into(),
        created: None,
        blocks: vec![AddressBlock {
            range: AddressRange::new(address(base + first), address(base + last)).unwrap(),
            avoid_ends: spec.len > 3 && last > first + 1,
        }],
        auto_assign: spec.auto,
        priority: spec.priority,
        service_selector: if spec.labelled {
            requirement("edge", "yes")
        } else {
            Selector::default()
        },
        namespace_selector: if spec.namespaced {
            requirement("tier", "gold")
        } else {
            Selector::default()
        },
        quota_per_namespace: spec.quota,
        forwarding: Forwarding::Proxy,
        notices: vec![],
        problems: Vec::new(),
    }
}

fn node(name: &Arc<str>, address: IpAddr) -> Node {
    Node {
        name: Arc::clone(name),
        internal_ips: vec![address],
        external_ips: vec![],
        zone: None,
        labels: BTreeMap::new(),
        excluded: None,
    }
}

/// What there is, and what was written of it.
#[derive(Clone, Default)]
struct Store {
    services: BTreeMap<ServiceName, Arc<StoredService>>,
    pools: BTreeMap<Arc<str>, Arc<AddressPool>>,
    namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    counter: u64,
}

impl Store {
    fn put(&mut self, service: Service) -> Change {
        self.counter += 1;
        let name = service.name.clone();
        let old = self.services.get(&name);
        let stored = Arc::new(StoredService {
            held: old.map(|old| old.held.clone()).unwrap_or_default(),
            status: old.map(|old| old.status.clone()).unwrap_or_default(),
            service: Arc::new(service),
            version: self.counter,
            revision: 0,
            first_seen: Timestamp(0),
            source: None,
            source_problem: None,
        });
        self.services.insert(name.clone(), Arc::clone(&stored));
        Change::Service(name, Some(stored))
    }

    /// True where the write came about.
    fn write(&mut self, write: &Write) -> Option<Change> {
        let Write::Service {
            name,
            version,
            held,
            status,
        } = write
        else {
            return None;
        };
        let stored = self.services.get(name)?;
        if stored.version != *version {
            return None;
        }
        self.counter += 1;
        let stored = Arc::new(StoredService {
            held: held.clone(),
            status: status.clone(),
            version: self.counter,
            ..StoredService::clone(stored)
        });
        self.services.insert(name.clone(), Arc::clone(&stored));
        Some(Change::Service(name.clone(), Some(stored)))
    }

    /// Whether a Service has something that this write takes from it.
    fn lets_go(&self, write: &Write) -> bool {
        let Write::Service {
            name, held, status, ..
        } = write
        else {
            return false;
        };
        let stored = &self.services[name];
        let numbers = |held: &Held| -> BTreeSet<u16> {
            let all = held.node_ports.values().chain(&held.health_check_node_port);
            all.copied().collect()
        };
        let ports = |status: &Status| -> BTreeSet<(IpAddr, PortKey)> {
            let ports = status.ingress.iter();
            ports
                .flat_map(|i| i.ports.iter().map(|port| (i.ip, port.key)))
                .collect()
        };
        !stored
            .held
            .addresses
            .iter()
            .all(|a| held.addresses.contains(a))
            || !numbers(&stored.held).is_subset(&numbers(held))
            || !ports(&stored.status).is_subset(&ports(status))
    }

    fn everything(&self) -> Vec<Change> {
        let services = self.services.iter();
        let pools = self.pools.iter();
        let namespaces = self.namespaces.iter();
        let nodes = self.nodes.iter();
        services
            .map(|(n, s)| Change::Service(n.clone(), Some(Arc::clone(s))))
            .chain(pools.map(|(n, p)| Change::Pool(Arc::clone(n), Some(Arc::clone(p)))))
            .chain(namespaces.map(|(n, o)| Change::Namespace(Arc::clone(n), Some(Arc::clone(o)))))
            .chain(nodes.map(|(n, o)| Change::Node(Arc::clone(n), Some(Arc::clone(o)))))
            .collect()
    }

    /// A controller that starts now.
    fn fresh(&self, reversed: bool) -> State {
        let mut changes = self.everything();
        if reversed {
            changes.reverse();
        }
        let mut state = State::new(settings());
        state.apply(&Batch {
            changes,
            synced: true,
            sequence: 0,
            since: None,
            revision: 0,
        });
        state
    }

    /// Nothing is given twice.
    fn check_exclusive(&self) {
        let mut claims = BTreeMap::new();
        let mut numbers: BTreeMap<u16, (ServiceName, BTreeSet<(u8, PortKey)>)> = BTreeMap::new();
        for (name, stored) in &self.services {
            for ip in &stored.held.addresses {
                let status = stored.status.ingress.iter().find(|i| i.ip == *ip);
                let keys: BTreeSet<PortKey> = status
                    .into_iter()
                    .flat_map(|i| i.ports.iter().map(|p| p.key))
                    .collect();
                for key in keys {
                    if let Some(other) = claims.insert((*ip, key), name.clone()) {
                        panic!("{ip} {key} is with {other} and {name}");
                    }
                }
            }
            let held = &stored.held;
            let ports = held.node_ports.iter().map(|(key, n)| (*n, (0, *key)));
            let zero = PortKey {
                protocol: Protocol::Tcp,
                port: 0,
            };
            let health = held.health_check_node_port.map(|n| (n, (1, zero)));
            for (number, usage) in ports.chain(health) {
                let (owner, uses) = numbers
                    .entry(number)
                    .or_insert_with(|| (name.clone(), BTreeSet::new()));
                assert_eq!(owner, name, "node port {number} is with two Services");
                let same = |u: &(u8, PortKey)| u.0 != usage.0 || u.1.protocol == usage.1.protocol;
                assert!(!uses.iter().any(same), "{name} uses {number} twice");
                uses.insert(usage);
            }
        }
    }

    /// The settled state, without versions.
    fn outcome(&self) -> BTreeMap<ServiceName, (Held, Status)> {
        let services = self.services.iter();
        services
            .map(|(n, s)| (n.clone(), (s.held.clone(), s.status.clone())))
            .collect()
    }
}

/// Lets everything come to rest; fails where it does not.
fn rest(state: &mut State, store: &mut Store) {
    for _ in 0..8 {
        let writes = state.settle(NOW);
        let services: Vec<_> = writes
            .iter()
            .filter(|w| matches!(w, Write::Service { .. }))
            .collect();
        if services.is_empty() {
            assert!(state.settle(NOW).is_empty(), "settling twice writes again");
            return;
        }
        for write in services {
            let changes = match store.write(write) {
                Some(change) => vec![change],
                None => {
                    let Write::Service { name, .. } = write else {
                        unreachable!()
                    };
                    state.refused(name);
                    let stored = store.services.get(name).cloned();
                    vec![Change::Service(name.clone(), stored)]
                }
            };
            state.apply(&Batch {
                changes,
                synced: true,
                sequence: 0,
                since: None,
                revision: 0,
            });
        }
        store.check_exclusive();
    }
    panic!("it does not come to rest");
}

/// A store and a controller with something under way between them.
struct World {
    store: Store,
    state: State,
    /// Changes that the controller has not seen.
    unseen: Vec<Change>,
    /// Writes that the store has not got.
    under_way: Vec<Write>,
    lose_from: Option<usize>,
}

impl World {
    fn step(&mut self, event: &Event) {
        let store = &mut self.store;
        match event {
            Event::Put(i, spec) => {
                let change = store.put(service(*i, spec));
                self.unseen.push(change);
            }
            Event::Key(i, key) => {
                if let Some(stored) = store.services.get(&name(*i)) {
                    let mut service = Service::clone(&stored.service);
                    service.asks.sharing_key = key.map(|n| format!("k{n}").into());
                    let change = store.put(service);
                    self.unseen.push(change);
                }
            }
            Event::Delete(i) => {
                store.services.remove(&name(*i));
                self.unseen.push(Change::Service(name(*i), None));
            }
            Event::Pool(n, spec) => {
                let key: Arc<str> = format!("p{n}").into();
                let new = spec.as_ref().map(|spec| Arc::new(pool(*n, spec)));
                match &new {
                    Some(new) => store.pools.insert(Arc::clone(&key), Arc::clone(new)),
                    None => store.pools.remove(&key),
                };
                self.unseen.push(Change::Pool(key, new));
            }
            Event::Namespace(n, labelled) => {
                let key: Arc<str> = if *n == 0 { "a" } else { "b" }.into();
                let new = labelled.map(|labelled| {
                    let labels = labelled.then(|| ("tier".to_owned(), "gold".to_owned()));
                    Arc::new(Namespace {
                        name: Arc::clone(&key),
                        labels: labels.into_iter().collect(),
                    })
                });
                match &new {
                    Some(new) => store.namespaces.insert(Arc::clone(&key), Arc::clone(new)),
                    None => store.namespaces.remove(&key),
                };
                self.unseen.push(Change::Namespace(key, new));
            }
            Event::Node(n, has) => {
                let key: Arc<str> = format!("n{n}").into();
                let new = has.map(|has| Arc::new(node(&key, address(has))));
                match &new {
                    Some(new) => store.nodes.insert(Arc::clone(&key), Arc::clone(new)),
                    None => store.nodes.remove(&key),
                };
                self.unseen.push(Change::Node(key, new));
            }
            Event::Echo => self.deliver(usize::MAX),
            Event::Crash(written) => {
                self.deliver(*written);
                self.unseen.clear();
                self.under_way.clear();
                self.state = self.store.fresh(false);
            }
            Event::Lose(from) => self.lose_from = Some(*from),
        }
        self.store.check_exclusive();
        if !matches!(event, Event::Lose(_)) {
            let changes = std::mem::take(&mut self.unseen);
            self.state.apply(&Batch {
                changes,
                synced: true,
                sequence: 0,
                since: None,
                revision: 0,
            });
            self.settle();
        }
    }

    fn settle(&mut self) {
        let mut writes = self.state.settle(NOW);
        if let Some(from) = self.lose_from.take() {
            for lost in writes.drain(from.min(writes.len())..) {
                if let Write::Service { name, .. } = lost {
                    self.state.refused(&name);
                }
            }
        }
        self.under_way.extend(writes);
    }

    /// The store gets up to `n` of the writes that are under way.
    fn deliver(&mut self, n: usize) {
        let n = n.min(self.under_way.len());
        for write in self.under_way.drain(..n) {
            match (self.store.write(&write), write) {
                (Some(change), _) => self.unseen.push(change),
                (None, Write::Service { name, .. }) => self.state.refused(&name),
                (None, Write::Pool { .. } | Write::NodePorts { .. }) => {}
            }
            self.store.check_exclusive();
        }
    }

    /// Everything arrives, and the controller comes to rest.
    fn calm(&mut self) {
        self.deliver(usize::MAX);
        let changes = std::mem::take(&mut self.unseen);
        self.state.apply(&Batch {
            changes,
            synced: true,
            sequence: 0,
            since: None,
            revision: 0,
        });
        rest(&mut self.state, &mut self.store);
    }
}

fn world() -> World {
    World {
        store: Store::default(),
        state: Store::default().fresh(false),
        unseen: vec![],
        under_way: vec![],
        lose_from: None,
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: std::env::var("PROPTEST_CASES")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(300),
        ..ProptestConfig::default()
    }
}

/// The order of writing matters where one joins another: written alone, the last of these three
/// would be joined by the first.
#[test]
fn a_crash_between_any_two_grants_changes_nothing() {
    let sharing = |i: usize, port: u16| {
        let spec = Spec {
            kind: ServiceType::LoadBalancer,
            foreign: false,
            ports: vec![(Protocol::Tcp, port, None)],
            asked: None,
            pool: None,
            wish: None,
            key: Some(0),
            consents: true,
            families: 0,
            policy: IpFamilyPolicy::SingleStack,
            allocate: true,
            local: false,
            label: false,
        };
        service(i, &spec)
    };
    let edge = PoolSpec {
        first: 0,
        len: 5,
        v6: false,
        auto: true,
        priority: 0,
        labelled: false,
        namespaced: false,
        quota: None,
    };
    let mut store = Store::default();
    let edge = Arc::new(pool(0, &edge));
    store.pools.insert(Arc::clone(&edge.name), edge);
    for (i, port) in [(0, 81), (3, 80), (6, 80)] {
        store.put(sharing(i, port));
    }
    let outcome_after = |written: usize| {
        let mut store = store.clone();
        for write in store.fresh(true).settle(NOW).iter().take(written) {
            store.write(write);
        }
        let mut fresh = store.fresh(false);
        rest(&mut fresh, &mut store);
        store.outcome()
    };
    for written in 1..=3 {
        assert_eq!(
            outcome_after(0),
            outcome_after(written),
            "crash after {written}"
        );
    }
}

proptest! {
    #![proptest_config(config())]

    /// Whatever is dropped, delayed or refused, and wherever it crashes: nothing is given twice,
    /// it comes to rest, and a controller that starts then has nothing to change.
    #[test]
    fn a_faulty_store_and_crashes_give_nothing_twice(
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut world = world();
        for event in &events {
            world.step(event);
        }
        world.calm();
        let before = world.store.outcome();
        let mut fresh = world.store.fresh(true);
        rest(&mut fresh, &mut world.store);
        prop_assert_eq!(before, world.store.outcome());
    }

    /// One batch onto a settled state: the result of the controller that was there all the time is
    /// that of one which starts with the same objects and assignments, in whatever order it gets
    /// them; after a crash between any two writes what was written stays; and it is stable.
    #[test]
    fn the_incremental_result_is_the_full_one(
        before in proptest::collection::vec(event(), 1..40),
        batch in proptest::collection::vec(event(), 1..6),
        crash_after in 0usize..6,
    ) {
        let mut world = world();
        for event in &before {
            world.step(event);
        }
        world.calm();
        let settled = world.store.clone();

        let mut changes: BTreeMap<String, Change> = BTreeMap::new();
        for event in &batch {
            if matches!(event, Event::Put(..) | Event::Key(..) | Event::Delete(_) | Event::Pool(..) | Event::Namespace(..) | Event::Node(..)) {
                // Only the store's side of the step.
                let mut scratch = World { store: world.store.clone(), ..self::world() };
                scratch.state = State::new(settings());
                scratch.step(event);
                world.store = scratch.store;
                let key = match event {
                    Event::Put(i, _) | Event::Key(i, _) | Event::Delete(i) => format!("s{i}"),
                    Event::Pool(n, _) => format!("p{n}"),
                    Event::Namespace(n, _) => format!("n{n}"),
                    Event::Node(n, _) => format!("o{n}"),
                    _ => unreachable!(),
                };
                let change = match event {
                    Event::Put(i, _) | Event::Key(i, _) | Event::Delete(i) =>
                        Change::Service(name(*i), world.store.services.get(&name(*i)).cloned()),
                    Event::Pool(n, _) => {
                        let key: Arc<str> = format!("p{n}").into();
                        Change::Pool(Arc::clone(&key), world.store.pools.get(&key).cloned())
                    }
                    Event::Namespace(n, _) => {
                        let key: Arc<str> = if *n == 0 { "a" } else { "b" }.into();
                        Change::Namespace(Arc::clone(&key), world.store.namespaces.get(&key).cloned())
                    }
                    Event::Node(n, _) => {
                        let key: Arc<str> = format!("n{n}").into();
                        Change::Node(Arc::clone(&key), world.store.nodes.get(&key).cloned())
                    }
                    _ => unreachable!(),
                };
                changes.insert(key, change);
            }
        }
        let changes: Vec<Change> = changes.into_values().collect();
        let full = {
            let mut store = world.store.clone();
            let mut fresh = store.fresh(false);
            rest(&mut fresh, &mut store);
            store
        };
        let reversed = {
            let mut store = world.store.clone();
            let mut fresh = store.fresh(true);
            rest(&mut fresh, &mut store);
            store.outcome()
        };
        prop_assert_eq!(&full.outcome(), &reversed, "the order within a batch matters");
        // A crash between any two writes: what had been written by then stays. Where nobody lets go
        // of anything, what comes of it is the same as without the crash. (What is let go of is given
        // to whoever waits at the time, and a crash moves the time: there is no order in which
        // somebody who asks late could not be early.)
        let mut store = world.store.clone();
        let mut granted = BTreeMap::new();
        let writes = store.fresh(false).settle(NOW);
        let lets_go = writes.iter().any(|write| store.lets_go(write));
        for write in writes.iter().take(crash_after) {
            store.write(write);
            if let Write::Service { name, held, .. } = write {
                granted.insert(name.clone(), held.clone());
            }
        }
        let mut fresh = store.fresh(true);
        rest(&mut fresh, &mut store);
        for (name, held) in granted {
            let now = &store.services[&name].held;
            prop_assert!(held.addresses.iter().all(|a| now.addresses.contains(a)), "{}", name);
            prop_assert!(held.node_ports.iter().all(|(k, n)| now.node_ports.get(k) == Some(n)));
        }
        if !lets_go {
            prop_assert_eq!(&full.outcome(), &store.outcome(), "a crash changes the outcome");
        }
        world.state.apply(&Batch { changes, synced: true, sequence: 0, since: None, revision: 0, });
        rest(&mut world.state, &mut world.store);
        prop_assert_eq!(&full.outcome(), &world.store.outcome(), "incremental and full differ");

        // Who did not change, names no pool and shares nothing keeps what it has.
        for (name, was) in &settled.services {
            let Some(is) = world.store.services.get(name) else { continue };
            let asks = &is.service.asks;
            if is.service != was.service || asks.pool.is_some() {
                continue;
            }
            let is_numbers = &is.held.node_ports;
            prop_assert!(
                was.held.node_ports.iter().all(|(key, n)| is_numbers.get(key) == Some(n)),
                "{} lost a node port", name
            );
            let kept = was.held.addresses.iter().all(|a| is.held.addresses.contains(a));
            prop_assert!(kept || asks.sharing_key.is_some(), "{} was renumbered", name);
        }
    }
}
