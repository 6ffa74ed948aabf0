//! Random events against a store that drops, delays and refuses, with the invariants checked after
//! every step.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod checks;
mod model;
mod probing;
#[path = "../samples/mod.rs"]
mod samples;
mod steps;
mod store;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{Change, Write};
use fairway_config::names::ServiceName;
use fairway_config::net::Protocol;
use fairway_config::service::{IpFamilyPolicy, ServiceType};
use fairway_controller_core::State;
use proptest::prelude::*;

use crate::checks::rest;
use crate::model::{Event, RandomPool, RandomService, event, name, pool, service};
use crate::steps::{World, world};
use crate::store::{NOW, Store, settings};

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
        let spec = RandomService {
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
    let edge = RandomPool {
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

/// Whether a Service that shared an address shares by another key, or with other namespaces, than before.
fn leaves_others(before: &Store, after: &Store) -> bool {
    let shared = |name: &ServiceName, held: &[IpAddr]| {
        let mut others = before.services.iter().filter(|(other, _)| *other != name);
        others.any(|(_, it)| it.held.addresses.iter().any(|it| held.contains(it)))
    };
    after.services.iter().any(|(name, is)| {
        before.services.get(name).is_some_and(|was| {
            let (is, asks) = (&is.service.asks, &was.service.asks);
            let is_same = is.sharing_key == asks.sharing_key
                && is.sharing_namespaces == asks.sharing_namespaces;
            !is_same && shared(name, &was.held.addresses)
        })
    })
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
        world.state.apply(&store::batch(changes));
        rest(&mut world.state, &mut world.store);
        // Who leaves those that it shares an address with moves, and they stay. One that starts later sees only that they
        // don't share any more: then the older one stays.
        if !leaves_others(&settled, &world.store) {
            prop_assert_eq!(&full.outcome(), &world.store.outcome(), "incremental and full differ");
        }

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
