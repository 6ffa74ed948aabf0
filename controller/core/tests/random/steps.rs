//! A controller and a store with changes and writes under way between them, step by step.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::announce::{Announcement, Layer2Announcement};
use fairway_config::cluster::Namespace;
use fairway_config::exchange::{Change, Write};
use fairway_config::pool::AddressPool;
use fairway_config::service::Service;
use fairway_controller_core::State;

use crate::checks::rest;
use crate::model::{Event, address, name, node, pool, service};
use crate::store::{NOW, Store, batch};

/// A store and a controller with something under way between them.
pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) state: State,
    /// Changes that the controller has not seen.
    pub(crate) unseen: Vec<Change>,
    /// Writes that the store has not got.
    pub(crate) under_way: Vec<Write>,
    pub(crate) lose_from: Option<usize>,
    /// Pools are announced on layer 2.
    pub(crate) announces: bool,
    /// What gateways are asked, by pool.
    pub(crate) asked: BTreeMap<Arc<str>, BTreeMap<IpAddr, u64>>,
}

impl World {
    pub(crate) fn step(&mut self, event: &Event) {
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
                let announce = Announcement {
                    layer2: self.announces.then(Layer2Announcement::default),
                    ..Announcement::default()
                };
                let announce = Arc::new(announce);
                let new = spec.as_ref().map(|spec| {
                    Arc::new(AddressPool {
                        announce: Arc::clone(&announce),
                        ..pool(*n, spec)
                    })
                });
                self.asked.remove(&key);
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
                self.asked.clear();
                self.state = self.store.fresh(false);
            }
            Event::Lose(from) => self.lose_from = Some(*from),
        }
        self.store.check_exclusive();
        self.store.check_messages();
        if !matches!(event, Event::Lose(_)) {
            let changes = std::mem::take(&mut self.unseen);
            self.state.apply(&batch(changes));
            self.settle();
        }
    }

    pub(crate) fn settle(&mut self) {
        let mut writes = self.state.settle(NOW);
        for write in &writes {
            if let Write::Pool { name, status } = write {
                self.asked.insert(Arc::clone(name), status.probing.clone());
            }
        }
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
    pub(crate) fn deliver(&mut self, n: usize) {
        let n = n.min(self.under_way.len());
        for write in self.under_way.drain(..n) {
            match (self.store.write(&write), write) {
                (Some(change), _) => self.unseen.push(change),
                (None, Write::Service { name, .. }) => self.state.refused(&name),
                (None, Write::Pool { .. } | Write::BgpPeer { .. } | Write::NodePorts { .. }) => {}
            }
            self.store.check_exclusive();
            self.store.check_messages();
        }
    }

    /// Everything arrives, and the controller comes to rest.
    pub(crate) fn calm(&mut self) {
        self.deliver(usize::MAX);
        let changes = std::mem::take(&mut self.unseen);
        self.state.apply(&batch(changes));
        rest(&mut self.state, &mut self.store);
    }
}

pub(crate) fn world() -> World {
    World {
        store: Store::default(),
        state: Store::default().fresh(false),
        unseen: vec![],
        under_way: vec![],
        lose_from: None,
        announces: false,
        asked: BTreeMap::new(),
    }
}
