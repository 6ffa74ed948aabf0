//! Whatever comes in whatever order, `Programmed` is True only for what a gateway has programmed.
//!
//! A store, controllers one after the other, and gateways, with words between them that arrive late:
//! changes of Services on one way, Leases of gateways on the other, each in its order and neither
//! waiting for the other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod samples;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::class::ClassFilter;
use fairway_config::conditions::PROGRAMMED;
use fairway_config::exchange::*;
use fairway_config::names::ServiceName;
use fairway_config::net::AddressRange;
use fairway_config::service::Service;
use fairway_config::time::Timestamp;
use fairway_controller_core::{GatewayCount, NodePortRange, ProgrammedCount, Settings, State};
use proptest::prelude::*;

const SERVICES: usize = 3;
const GATEWAYS: usize = 2;

#[derive(Clone, Debug)]
enum Event {
    /// Its author gives a Service this port; none: it is gone.
    Put(usize, Option<u16>),
    /// The controller hears of so many changes of Services.
    Hear(usize),
    /// The API server takes so many of the controller's writes, and loses the rest.
    Write(usize),
    /// A gateway applies so many changes of the store.
    Apply(usize, usize),
    /// These Services fail on a gateway from now on.
    Fail(usize, u8),
    /// A gateway writes its Lease.
    Renew(usize),
    /// It is killed, or started anew.
    Live(usize, bool),
    /// The controller hears of so many Leases.
    Lease(usize),
    /// A gateway's Lease runs out, as far as the controller can tell.
    Expire(usize),
    /// Another controller begins, from lists.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let service = 0..SERVICES;
    let gateway = || 0..GATEWAYS;
    prop_oneof![
        3 => (service, proptest::option::weighted(0.8, 80u16..82)).prop_map(|(n, p)| Event::Put(n, p)),
        4 => (1usize..4).prop_map(Event::Hear),
        4 => (0usize..4).prop_map(Event::Write),
        3 => (gateway(), 1usize..4).prop_map(|(g, n)| Event::Apply(g, n)),
        1 => (gateway(), 0u8..8).prop_map(|(g, fails)| Event::Fail(g, fails)),
        4 => gateway().prop_map(Event::Renew),
        1 => (gateway(), any::<bool>()).prop_map(|(g, lives)| Event::Live(g, lives)),
        4 => (1usize..4).prop_map(Event::Lease),
        1 => gateway().prop_map(Event::Expire),
        1 => Just(Event::Restart),
    ]
}

/// What gateways look at of a Service: its port and its addresses.
type Form = (u16, Vec<IpAddr>);

/// What a gateway's Lease says, and what is true of it.
#[derive(Clone, Debug)]
struct Lease {
    gateway: usize,
    applied: u64,
    lives: bool,
    failing: BTreeSet<usize>,
    /// Not said: what it has programmed.
    programmed: BTreeMap<usize, Form>,
}

#[derive(Clone, Debug, Default)]
struct Gateway {
    lives: bool,
    applied: u64,
    failing: BTreeSet<usize>,
    programmed: BTreeMap<usize, Form>,
}

struct World {
    revision: u64,
    store: BTreeMap<usize, Arc<StoredService>>,
    /// Every change: of which Service, and its form then.
    history: Vec<(u64, usize, Option<Form>)>,
    to_controller: VecDeque<(usize, Option<Arc<StoredService>>)>,
    gateways: Vec<Gateway>,
    leases: BTreeMap<usize, Lease>,
    to_hear: VecDeque<Lease>,
    /// What the controller was last told by each gateway that has not run out.
    heard: BTreeMap<usize, Lease>,
    state: State,
    /// What the controller knows of each Service.
    known: BTreeMap<usize, Arc<StoredService>>,
    /// Services that were True when the controller began, and have not changed since.
    found: BTreeSet<usize>,
}

fn name(n: usize) -> ServiceName {
    ServiceName::new("web", format!("s{n}"))
}

fn gateway_name(n: usize) -> Arc<str> {
    format!("edge-{n}").into()
}

fn service(n: usize, port: u16) -> Service {
    Service {
        allocate_node_ports: false,
        ..samples::service(name(n), 1, port)
    }
}

fn pool() -> Change {
    let range = AddressRange::new("10.0.0.0".parse().unwrap(), "10.0.0.1".parse().unwrap());
    let pool = samples::pool("edge", range.unwrap(), false);
    Change::Pool("edge".into(), Some(Arc::new(pool)))
}

fn form(stored: &StoredService) -> Form {
    let addresses = stored.status.ingress.iter().map(|it| it.ip).collect();
    (stored.service.ports[0].port, addresses)
}

fn is_true(stored: &StoredService) -> bool {
    let condition = stored.status.conditions.get(PROGRAMMED);
    condition.is_some_and(|it| it.status)
}

fn fresh() -> State {
    State::new(Settings::cluster(
        ClassFilter {
            name: "fairway.dev/gateway".into(),
            is_default: true,
        },
        NodePortRange::default(),
    ))
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            revision: 0,
            store: BTreeMap::new(),
            history: Vec::new(),
            to_controller: VecDeque::new(),
            gateways: vec![Gateway::default(); GATEWAYS],
            leases: BTreeMap::new(),
            to_hear: VecDeque::new(),
            heard: BTreeMap::new(),
            state: fresh(),
            known: BTreeMap::new(),
            found: BTreeSet::new(),
        };
        world.restart();
        world
    }

    fn apply(&mut self, changes: Vec<Change>) {
        self.state.apply(&Batch::synced(changes));
    }

    fn store(&mut self, n: usize, stored: Option<StoredService>) {
        let before = self.store.get(&n).map(|it| form(it));
        let now = stored.as_ref().map(form);
        self.revision += 1;
        let stored = stored.map(|mut stored| {
            stored.version = self.revision;
            if before != now {
                stored.revision = self.revision;
            }
            Arc::new(stored)
        });
        self.history.push((self.revision, n, now));
        match &stored {
            Some(stored) => self.store.insert(n, Arc::clone(stored)),
            None => self.store.remove(&n),
        };
        self.to_controller.push_back((n, stored));
    }

    fn lease_change(&self, lease: &Lease, since_start: bool) -> Vec<Change> {
        let gateway = gateway_name(lease.gateway);
        let progress = match lease.lives {
            true => GatewayProgress::Applied {
                revision: lease.applied,
                since_start,
                untold: BTreeSet::new(),
            },
            false => GatewayProgress::Gone,
        };
        let row = GatewayRow {
            name: gateway.to_string(),
            version: String::new(),
            ready: lease.lives,
            why: String::new(),
            listening: 0,
            failed: 0,
            addresses: 0,
            connections: 0,
            flows: 0,
            started: String::new(),
            omitted: 0,
            draining: None,
            members: 0,
            heard: 0,
            silent: Vec::new(),
        };
        let status = GatewayStatus {
            row,
            stopped: false,
            progress,
            sessions: [].into(),
            untold_sessions: 0,
            endpoints: Arc::default(),
        };
        let reports = (0..SERVICES).map(|n| {
            let report = Report::new(Arc::clone(&gateway));
            let fails = lease.lives && lease.failing.contains(&n);
            Change::Report(
                name(n),
                Arc::clone(&gateway),
                fails.then(|| Arc::new(report)),
            )
        });
        let mut changes: Vec<_> = reports.collect();
        changes.push(Change::Gateway(gateway, Some(Arc::new(status))));
        changes
    }

    fn hear(&mut self, lease: Lease, since_start: bool) {
        let changes = self.lease_change(&lease, since_start);
        self.heard.insert(lease.gateway, lease);
        self.apply(changes);
    }

    fn restart(&mut self) {
        self.to_controller.clear();
        self.to_hear.clear();
        self.state = fresh();
        self.known = self.store.clone();
        let all = self.known.iter();
        self.found = all.filter(|(_, it)| is_true(it)).map(|(n, _)| *n).collect();
        self.heard = self.leases.clone();
        let mut changes = vec![pool()];
        changes.extend(
            self.known
                .iter()
                .map(|(n, it)| Change::Service(name(*n), Some(Arc::clone(it)))),
        );
        for lease in self.leases.values() {
            changes.extend(self.lease_change(lease, false));
        }
        self.apply(changes);
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Put(n, port) => {
                let before = self.store.get(n).map(|it| StoredService::clone(it));
                let Some(port) = port else {
                    if before.is_some() {
                        self.store(*n, None);
                    }
                    return;
                };
                let service = Arc::new(service(*n, *port));
                let stored = before.unwrap_or_else(|| StoredService {
                    version: 0,
                    ..StoredService::new(Arc::clone(&service))
                });
                self.store(*n, Some(StoredService { service, ..stored }));
            }
            Event::Hear(count) => {
                for _ in 0..*count {
                    let Some((n, stored)) = self.to_controller.pop_front() else {
                        break;
                    };
                    let before = self.known.get(&n).map(|it| form(it));
                    if before != stored.as_deref().map(form) {
                        self.found.remove(&n);
                    }
                    match &stored {
                        Some(stored) => self.known.insert(n, Arc::clone(stored)),
                        None => self.known.remove(&n),
                    };
                    self.apply(vec![Change::Service(name(n), stored)]);
                }
            }
            Event::Write(taken) => self.write(*taken),
            Event::Apply(g, count) => {
                let gateway = &mut self.gateways[*g];
                let new = self.history.iter();
                let applied = gateway.applied;
                let new = new.filter(|(revision, ..)| *revision > applied);
                for (revision, n, form) in new.take(*count) {
                    gateway.applied = *revision;
                    match form {
                        Some(form) => gateway.programmed.insert(*n, form.clone()),
                        None => gateway.programmed.remove(n),
                    };
                }
            }
            Event::Fail(g, fails) => {
                let all = 0..SERVICES;
                self.gateways[*g].failing = all.filter(|n| fails & (1 << n) != 0).collect();
            }
            Event::Renew(g) => {
                let gateway = &self.gateways[*g];
                if gateway.lives {
                    let lease = Lease {
                        gateway: *g,
                        applied: gateway.applied,
                        lives: true,
                        failing: gateway.failing.clone(),
                        programmed: gateway.programmed.clone(),
                    };
                    self.leases.insert(*g, lease.clone());
                    self.to_hear.push_back(lease);
                }
            }
            Event::Live(g, lives) => {
                let before = self.gateways[*g].lives;
                if before != *lives {
                    self.gateways[*g] = Gateway {
                        lives: *lives,
                        ..Gateway::default()
                    };
                }
            }
            Event::Lease(count) => {
                for _ in 0..*count {
                    let Some(lease) = self.to_hear.pop_front() else {
                        break;
                    };
                    self.hear(lease, true);
                }
            }
            Event::Expire(g) => {
                if let Some(lease) = self.heard.get(g).cloned() {
                    self.hear(
                        Lease {
                            lives: false,
                            ..lease
                        },
                        true,
                    );
                }
            }
            Event::Restart => self.restart(),
        }
    }

    /// The controller decides; what it says is checked against what gateways have programmed.
    fn write(&mut self, taken: usize) {
        let writes = self.state.settle(Timestamp(5));
        for (at, write) in writes.into_iter().enumerate() {
            let Write::Service {
                name: service,
                version,
                held,
                status,
            } = write
            else {
                continue;
            };
            let n: usize = service.name[1..].parse().unwrap();
            let claims = status
                .conditions
                .get(PROGRAMMED)
                .is_some_and(|it| it.status);
            let known = &self.known[&n];
            let addresses: Vec<_> = status.ingress.iter().map(|it| it.ip).collect();
            let form = (known.service.ports[0].port, addresses);
            let is_programmed = self.heard.values().any(|lease| {
                lease.lives
                    && lease.programmed.get(&n) == Some(&form)
                    && !lease.failing.contains(&n)
            });
            let was_found = self.found.contains(&n) && is_true(known);
            // What was decided on an older version is refused: it is said to nobody.
            let current = self.store.get(&n).filter(|it| it.version == version);
            assert!(
                !claims || is_programmed || was_found || current.is_none(),
                "s{n} is said to be programmed as {form:?}: {:?}",
                self.heard
            );
            match current.filter(|_| at < taken).cloned() {
                Some(stored) => {
                    let stored = StoredService {
                        held,
                        status,
                        ..StoredService::clone(&stored)
                    };
                    self.store(n, Some(stored));
                }
                None => self.state.refused(&service),
            }
        }
    }

    /// Everything arrives, all gateways live and are well, and all have their say.
    fn calm(&mut self) {
        for g in 0..GATEWAYS {
            self.happen(&Event::Live(g, true));
            self.happen(&Event::Fail(g, 0));
        }
        for _ in 0..8 {
            self.happen(&Event::Hear(usize::MAX));
            self.happen(&Event::Write(usize::MAX));
            for g in 0..GATEWAYS {
                self.happen(&Event::Apply(g, usize::MAX));
                self.happen(&Event::Renew(g));
            }
            self.happen(&Event::Lease(usize::MAX));
        }
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: cases.and_then(|it| it.parse().ok()).unwrap_or(500),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn programmed_is_never_true_of_what_no_live_gateway_has_programmed(
        events in proptest::collection::vec(event(), 1..80)
    ) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
        }
        world.happen(&Event::Write(usize::MAX));
        world.calm();
        for (n, stored) in &world.store {
            prop_assert_eq!(
                is_true(stored), !stored.status.ingress.is_empty(), "s{} {:?}", n, stored.status
            );
        }
        // What is counted is what the Services say.
        let counts = world.state.counts();
        let said = |is: fn(&StoredService) -> bool| world.store.values().filter(|it| is(it)).count();
        let all = said(|it| it.status.conditions.contains_key(PROGRAMMED));
        prop_assert_eq!(counts.programmed[&ProgrammedCount::Programmed], said(is_true));
        prop_assert_eq!(counts.programmed.values().sum::<usize>(), all);
        let ready = BTreeMap::from(GatewayCount::ALL.map(|it| {
            (it, if it == GatewayCount::Ready { GATEWAYS } else { 0 })
        }));
        prop_assert_eq!(counts.gateways, ready);
    }
}
