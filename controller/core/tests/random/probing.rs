//! Random events where gateways ask for new addresses, and other hosts use some of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{AddressConflict, AddressReport, AddressState, Change, Write};
use fairway_config::names::ServiceName;
use fairway_config::time::Timestamp;
use fairway_controller_core::State;
use proptest::prelude::*;

use crate::config;
use crate::model::{Event, address, event};
use crate::steps::{World, world};
use crate::store::{NOW, Store, batch};

/// What a gateway says of an address that it was asked for: the truth.
fn answer(address: IpAddr, number: u64, used: &BTreeSet<IpAddr>) -> Change {
    let is_used = used.contains(&address);
    let report = AddressReport {
        state: match is_used {
            true => AddressState::Conflict,
            false => AddressState::Free,
        },
        owner: None,
        since: Timestamp(0),
        term: 0,
        why: "".into(),
        interfaces: Vec::new(),
        conflict: is_used.then(|| AddressConflict {
            hardware_address: "52:54:00:00:00:01".into(),
            since: Timestamp(0),
        }),
        successor: None,
        probe: Some(number),
    };
    Change::Address(address, "here".into(), Some(Arc::new(report)))
}

/// No Service was given an address that another host uses, unless it asked for it, its author's status names it, or
/// it shares the address of one that did.
fn check(before: &Store, after: &Store, used: &BTreeSet<IpAddr>) {
    let meant = |name: &ServiceName, ip: &IpAddr| {
        let mut stored = [before, after]
            .into_iter()
            .filter_map(|it| it.services.get(name));
        stored.any(|it| {
            it.service.asks.addresses.contains(ip) || it.service.status_addresses.contains(ip)
        })
    };
    for (name, stored) in &after.services {
        let had = before
            .services
            .get(name)
            .map_or(&[][..], |it| &it.held.addresses);
        for ip in stored.held.addresses.iter().filter(|ip| used.contains(*ip)) {
            let mut others = before.services.iter().chain(&after.services);
            let is_shared =
                others.any(|(other, it)| other != name && it.held.addresses.contains(ip));
            assert!(
                had.contains(ip) || meant(name, ip) || is_shared,
                "{name} was given {ip}"
            );
        }
    }
}

/// Lets everything come to rest, with an answer to every question.
fn rest(state: &mut State, store: &mut Store, used: &BTreeSet<IpAddr>) {
    for _ in 0..64 {
        let writes = state.settle(NOW);
        if writes.is_empty() && state.probing() == 0 {
            return;
        }
        let mut changes = Vec::new();
        for write in &writes {
            match write {
                Write::Service { name, .. } => {
                    let before = store.clone();
                    match store.write(write) {
                        Some(change) => changes.push(change),
                        None => {
                            state.refused(name);
                            let stored = store.services.get(name).cloned();
                            changes.push(Change::Service(name.clone(), stored));
                        }
                    }
                    check(&before, store, used);
                }
                Write::Pool { status, .. } => {
                    let asked = status.probing.iter();
                    changes.extend(asked.map(|(address, number)| answer(*address, *number, used)));
                }
                Write::BgpPeer { .. } | Write::NodePorts { .. } => {}
            }
        }
        state.apply(&batch(changes));
        store.check_exclusive();
        store.check_messages();
    }
    panic!(
        "it does not come to rest: {} are asked for",
        state.probing()
    );
}

fn held(store: &Store) -> BTreeMap<ServiceName, Vec<IpAddr>> {
    let services = store.services.iter();
    services
        .map(|(name, it)| (name.clone(), it.held.addresses.clone()))
        .collect()
}

proptest! {
    #![proptest_config(config())]

    /// Whatever is dropped, delayed or refused, wherever it crashes, and whenever gateways answer: nobody is given an
    /// address that another host uses, nothing is given twice, it comes to rest, and a controller that starts then has
    /// nothing to change.
    #[test]
    fn nobody_is_given_an_address_that_another_host_uses(
        events in proptest::collection::vec((event(), any::<bool>()), 1..50),
        used in proptest::collection::btree_set(0u8..14, 0..6),
    ) {
        let used: BTreeSet<IpAddr> = used.into_iter().map(address).collect();
        let mut world = World { announces: true, ..world() };
        for (event, answers) in &events {
            let before = world.store.clone();
            world.step(event);
            check(&before, &world.store, &used);
            if *answers && !matches!(event, Event::Lose(_)) {
                let asked = world.asked.values().flatten();
                let answers = asked.map(|(address, number)| answer(*address, *number, &used));
                world.state.apply(&batch(answers.collect()));
                world.settle();
            }
        }
        let before = world.store.clone();
        world.deliver(usize::MAX);
        check(&before, &world.store, &used);
        let changes = std::mem::take(&mut world.unseen);
        world.state.apply(&batch(changes));
        // What was asked before may have been answered by nobody.
        let asked = world.asked.values().flatten();
        let answers = asked.map(|(address, number)| answer(*address, *number, &used));
        world.state.apply(&batch(answers.collect()));
        rest(&mut world.state, &mut world.store, &used);
        let settled = held(&world.store);
        let mut fresh = world.store.fresh(true);
        rest(&mut fresh, &mut world.store, &used);
        prop_assert_eq!(settled, held(&world.store));
    }
}
