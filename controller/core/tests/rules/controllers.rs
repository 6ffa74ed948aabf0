//! Two controllers of different classes over the same Services and pools.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::class::ClassFilter;
use fairway_config::exchange::*;
use fairway_config::names::ServiceName;
use fairway_config::service::Service;
use fairway_config::time::Timestamp;
use fairway_controller_core::{Settings, State};
use proptest::prelude::*;

use crate::world::{other_pool, service, settings};

const CLASSES: [&str; 2] = ["example.com/a", "example.com/b"];

/// A Service as the API server has it.
struct Object {
    service: Service,
    version: u64,
    /// The class of the controller that has taken it.
    owner: Option<usize>,
    addresses: Vec<IpAddr>,
    status: Status,
}

/// One API server, two controllers that hear of it each in its own time.
struct Cluster {
    objects: BTreeMap<String, Object>,
    states: [State; 2],
    /// What each has not heard yet.
    unheard: [BTreeSet<String>; 2],
    /// What each has decided that was not written yet.
    undone: [Vec<Write>; 2],
    refused: [BTreeSet<String>; 2],
    /// The last version that an object got, and no two get the same.
    version: u64,
}

impl Cluster {
    fn new() -> Self {
        let states = CLASSES.map(|class| {
            let mut state = State::new(Settings {
                class: ClassFilter {
                    name: class.into(),
                    is_default: true,
                },
                allocates_node_ports: false,
                ..settings()
            });
            let pool = Arc::new(other_pool("edge", "10.0.0.0", "10.0.0.7"));
            state.apply(&Batch::synced(vec![Change::Pool(
                "edge".into(),
                Some(pool),
            )]));
            state
        });
        Self {
            objects: BTreeMap::new(),
            states,
            unheard: Default::default(),
            undone: Default::default(),
            refused: Default::default(),
            version: 0,
        }
    }

    fn told(&mut self, name: &str) {
        for unheard in &mut self.unheard {
            unheard.insert(name.to_owned());
        }
    }

    fn put(&mut self, number: u8, class: Option<usize>) {
        let name = format!("s-{number}");
        let mut wanted = service(&name, number.into());
        wanted.class = class.map(|class| CLASSES[class].into());
        self.version += 1;
        match self.objects.get_mut(&name) {
            Some(object) => {
                wanted.uid = object.service.uid.clone();
                object.service = wanted;
                object.version = self.version;
            }
            None => {
                wanted.uid = Some(self.version.to_string().into());
                let object = Object {
                    service: wanted,
                    version: self.version,
                    owner: None,
                    addresses: vec![],
                    status: Status::default(),
                };
                self.objects.insert(name.clone(), object);
            }
        }
        self.told(&name);
    }

    fn delete(&mut self, number: u8) {
        let name = format!("s-{number}");
        self.objects.remove(&name);
        self.told(&name);
    }

    /// A Service as the controller sees it.
    fn seen(&self, who: usize, name: &str) -> Option<Arc<StoredService>> {
        let object = self.objects.get(name)?;
        let mut service = object.service.clone();
        let mut status = object.status.clone();
        let others = object.owner.filter(|owner| *owner != who);
        if let Some(other) = others {
            service.asks.other_controller = Some(CLASSES[other].into());
        }
        if object.owner != Some(who) {
            status = Status::default();
        }
        Some(Arc::new(StoredService {
            held: Held {
                addresses: object.addresses.clone(),
                ..Held::default()
            },
            status,
            version: object.version,
            revision: object.version,
            ..StoredService::new(Arc::new(service))
        }))
    }

    /// One of the two hears of something, or writes something; false where there is nothing to do.
    fn step(&mut self, who: usize, hears: bool, pick: usize) -> bool {
        if hears {
            let unheard = &self.unheard[who];
            let Some(name) = unheard.iter().nth(pick % unheard.len().max(1)).cloned() else {
                return false;
            };
            self.unheard[who].remove(&name);
            let key = ServiceName::new("web", name.as_str());
            let change = Change::Service(key.clone(), self.seen(who, &name));
            self.states[who].apply(&Batch::synced(vec![change]));
            if self.refused[who].remove(&name) {
                self.states[who].refused(&key);
            }
            let writes = self.states[who].settle(Timestamp(1));
            self.undone[who].extend(writes);
            return true;
        }
        if self.undone[who].is_empty() {
            return false;
        }
        let write = self.undone[who].remove(0);
        let Write::Service {
            name,
            version,
            held,
            status,
        } = write
        else {
            return true;
        };
        let name = name.name.to_string();
        let Some(object) = self.objects.get_mut(&name) else {
            return true;
        };
        if object.version != version {
            // It is decided again when what is new has been heard.
            self.refused[who].insert(name.clone());
            self.unheard[who].insert(name);
            return true;
        }
        assert!(
            object.owner.is_none_or(|owner| owner == who),
            "{name} is another's"
        );
        let class = object.service.class.as_deref();
        let takes = class.is_none_or(|class| class == CLASSES[who]);
        object.owner = takes.then_some(who);
        object.addresses = held.addresses;
        object.status = status;
        self.version += 1;
        object.version = self.version;
        self.told(&name);
        true
    }

    /// Everything is heard and written; false where that has no end.
    fn come_to_rest(&mut self) -> bool {
        for _ in 0..10_000 {
            let did = [(0, true), (1, true), (0, false), (1, false)]
                .map(|(who, hears)| self.step(who, hears, 0));
            if did == [false; 4] {
                return true;
            }
        }
        false
    }
}

#[derive(Clone, Debug)]
enum Doing {
    Put(u8, Option<usize>),
    Delete(u8),
    Step(usize, bool, usize),
}

fn doings() -> impl Strategy<Value = Vec<Doing>> {
    let doing = prop_oneof![
        2 => (0..6u8, proptest::option::of(0..2usize)).prop_map(|(n, class)| Doing::Put(n, class)),
        1 => (0..6u8).prop_map(Doing::Delete),
        8 => (0..2usize, any::<bool>(), 0..8usize).prop_map(|(who, hears, pick)| Doing::Step(who, hears, pick)),
    ];
    proptest::collection::vec(doing, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn two_controllers_come_to_rest_and_no_address_is_with_two_services(doings in doings()) {
        let mut cluster = Cluster::new();
        for doing in doings {
            match doing {
                Doing::Put(number, class) => cluster.put(number, class),
                Doing::Delete(number) => cluster.delete(number),
                Doing::Step(who, hears, pick) => {
                    cluster.step(who, hears, pick);
                }
            }
        }
        prop_assert!(cluster.come_to_rest(), "they write for ever");
        let mut holders: BTreeMap<IpAddr, &String> = BTreeMap::new();
        for (name, object) in &cluster.objects {
            // There is one for each.
            prop_assert_eq!(object.addresses.len(), 1, "{}", name);
            let class = object.service.class.as_deref();
            let owner = object.owner.map(|owner| CLASSES[owner]);
            prop_assert!(class.is_none() || class == owner, "{} is with {:?}", name, owner);
            for address in &object.addresses {
                let other = holders.insert(*address, name);
                prop_assert!(other.is_none(), "{} is with {} and {:?}", address, name, other);
            }
        }
    }
}
