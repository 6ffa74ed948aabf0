//! Addresses that gateways ask for before a Service is shown with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::announce::{Announcement, Layer2Announcement};
use fairway_config::conditions::READY;
use fairway_config::exchange::{AddressConflict, AddressReport, AddressState, GatewayProgress};
use fairway_config::pool::AddressPool;
use fairway_config::service::Service;
use fairway_config::time::Timestamp;

use crate::programmed::in_cluster;
use crate::world::{World, pool, service, settings};

const ONE: &str = "10.0.0.1";
const TWO: &str = "10.0.0.2";

/// 10.0.0.1 and 10.0.0.2, announced on layer 2.
fn announced_pool() -> AddressPool {
    AddressPool {
        announce: Arc::new(Announcement {
            layer2: Some(Layer2Announcement::default()),
            ..Announcement::default()
        }),
        ..pool()
    }
}

fn asked(world: &World) -> BTreeMap<IpAddr, u64> {
    world.pool_status("edge").probing.clone()
}

/// The addresses that are asked for.
fn asked_for(world: &World) -> Vec<String> {
    asked(world).keys().map(ToString::to_string).collect()
}

fn number(world: &World, address: &str) -> u64 {
    asked(world)[&address.parse::<IpAddr>().unwrap()]
}

/// What a gateway says of an address that it was asked for by this number.
fn said(state: AddressState, number: u64) -> Option<AddressReport> {
    Some(AddressReport {
        state,
        owner: None,
        since: Timestamp(5),
        term: 0,
        why: "".into(),
        interfaces: Vec::new(),
        conflict: (state == AddressState::Conflict).then(|| AddressConflict {
            hardware_address: "52:54:00:00:00:01".into(),
            since: Timestamp(5),
        }),
        successor: None,
        probe: Some(number),
    })
}

fn answer(world: &mut World, gateway: &str, address: &str, state: AddressState) {
    let number = number(world, address);
    world.address(gateway, address, said(state, number));
}

/// A Service that asks for this address.
fn asking(name: &str, address: &str) -> Service {
    let mut service = service(name, 1);
    service.asks.addresses = vec![address.parse().unwrap()];
    service
}

/// One that shares its address.
fn sharing(name: &str, created: i64, port: u16) -> Service {
    let mut service = service(name, created);
    service.asks.sharing_key = Some("k".into());
    for it in &mut service.ports {
        *it = crate::world::port(it.protocol, port, None);
    }
    service
}

#[test]
fn a_new_address_is_shown_when_a_gateway_has_found_it_free() {
    let mut world = World::new(settings(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    assert_eq!(world.got("shop"), "- - -");
    assert_eq!(asked_for(&world), [ONE]);
    assert!(
        world
            .explain("shop", "Address")
            .join(" ")
            .contains("whether another host uses it")
    );
    // What answers another question is no answer.
    let old = number(&world, ONE) - 1;
    world.address("here", ONE, said(AddressState::Free, old));
    let unasked = AddressReport {
        probe: None,
        ..said(AddressState::Conflict, 0).unwrap()
    };
    world.address("here", ONE, Some(unasked));
    assert_eq!(world.got("shop"), "- - -");
    answer(&mut world, "here", ONE, AddressState::Free);
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
    assert!(asked(&world).is_empty());
}

#[test]
fn an_address_that_another_host_uses_is_left_out_for_a_while_and_the_next_is_taken() {
    let mut world = World::new(settings(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    answer(&mut world, "here", ONE, AddressState::Conflict);
    assert_eq!(world.got("shop"), "- - -");
    assert_eq!(asked_for(&world), [TWO]);
    let told = world.events();
    assert_eq!(told, ["shop AddressConflict"]);
    answer(&mut world, "here", TWO, AddressState::Free);
    assert_eq!(world.got("shop"), "10.0.0.2 30086 Assigned");
    let explained = world.explain("shop", "Address").join(" ");
    let why = "10.0.0.1 was not given to it, because another host uses it: the one with the hardware address 52:54:00:00:00:01";
    assert!(explained.contains(why), "{explained}");
    let ready = world.pool_status("edge").conditions.get(READY).unwrap();
    assert!(
        ready
            .message
            .contains("another host uses it: 10.0.0.1 (52:54:00:00:00:01)"),
        "{ready:?}"
    );
    let counts = world.pool_status("edge").counts.values().next().unwrap();
    assert_eq!((counts.used, counts.available), (1, 0));
    // Nobody gets it who does not ask for it.
    world.put([service("late", 2)]);
    assert_eq!(
        world.condition("late", "fairway.dev/AddressAssigned"),
        Some((false, "PoolExhausted"))
    );
    world.pass(299);
    assert!(asked(&world).is_empty());
    world.pass(1);
    assert_eq!(asked_for(&world), [ONE]);
    answer(&mut world, "here", ONE, AddressState::Free);
    assert_eq!(world.got("late"), "10.0.0.1 30087 Assigned");
    let ready = world.pool_status("edge").conditions.get(READY).unwrap();
    assert!(!ready.message.contains("another host"), "{ready:?}");
}

#[test]
fn who_asks_for_an_address_has_it_at_once_and_so_has_everybody_where_nothing_is_announced() {
    let mut world = World::new(settings(), vec![announced_pool()]);
    world.put([asking("shop", TWO)]);
    assert_eq!(world.got("shop"), "10.0.0.2 30086 Assigned");
    let mut wishes = service("wish", 2);
    wishes.status_addresses = vec![ONE.parse().unwrap()];
    world.put([wishes]);
    assert_eq!(world.got("wish"), "10.0.0.1 30087 Assigned");
    assert!(asked(&world).is_empty());
    let mut world = World::new(settings(), vec![pool()]);
    world.put([service("shop", 1)]);
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
    assert!(asked(&world).is_empty());
    // What is set aside can be asked for.
    let mut world = World::new(settings(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    answer(&mut world, "here", ONE, AddressState::Conflict);
    world.put([asking("bold", ONE)]);
    assert_eq!(world.got("bold"), "10.0.0.1 30087 Assigned");
}

#[test]
fn nobody_waits_for_gateways_that_are_not_there_can_not_ask_or_do_not_answer() {
    let applied = |revision| GatewayProgress::Applied {
        revision,
        since_start: true,
        untold: BTreeSet::new(),
    };
    let mut world = World::new(in_cluster(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    assert_eq!(world.got("shop"), "10.0.0.1 - Assigned");
    for name in ["edge-1", "edge-2"] {
        world.gateway(name, applied(100));
    }
    // One that can't ask is no answer while another one lives.
    world.put([service("late", 2)]);
    assert_eq!(asked_for(&world), [TWO]);
    answer(&mut world, "edge-1", TWO, AddressState::Unowned);
    assert_eq!(world.got("late"), "- - -");
    world.gateway("edge-2", GatewayProgress::Gone);
    assert_eq!(world.got("late"), "10.0.0.2 - Assigned");
    // No answer at all.
    world.delete("late");
    world.gateway("edge-2", applied(100));
    world.pass(20);
    world.put([service("last", 3)]);
    world.pass(3);
    assert_eq!(world.got("last"), "- - -");
    world.pass(1);
    assert_eq!(world.got("last"), "10.0.0.2 - Assigned");
    assert!(asked(&world).is_empty());
    // In one process there is one gateway.
    let mut world = World::new(settings(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    answer(&mut world, "here", ONE, AddressState::Unowned);
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
}

#[test]
fn those_who_share_an_address_wait_together_and_move_together() {
    let mut world = World::new(settings(), vec![announced_pool()]);
    world.put([sharing("a", 1, 80), sharing("b", 2, 81)]);
    assert_eq!(asked_for(&world), [ONE]);
    answer(&mut world, "here", ONE, AddressState::Conflict);
    assert_eq!(asked_for(&world), [TWO]);
    answer(&mut world, "here", TWO, AddressState::Elsewhere);
    assert_eq!(world.got("a"), "10.0.0.2 30086 Assigned");
    assert_eq!(world.got("b"), "10.0.0.2 30087 Assigned");
    // Who joins later waits for nothing.
    world.put([sharing("c", 3, 82)]);
    assert_eq!(world.got("c"), "10.0.0.2 30088 Assigned");
}

#[test]
fn what_is_not_needed_is_not_asked_and_a_controller_that_begins_asks_anew() {
    let mut world = World::new(settings(), vec![announced_pool()]);
    world.put([service("shop", 1)]);
    let before = number(&world, ONE);
    world.now += 1;
    world.restart(settings(), vec![announced_pool()]);
    assert_eq!(asked_for(&world), [ONE]);
    let number = number(&world, ONE);
    assert!(number > before, "{number} is no newer than {before}");
    // A change of a Service that waits begins no second wait.
    world.put([service("shop", 1)]);
    assert_eq!(asked(&world).into_values().collect::<Vec<_>>(), [number]);
    world.delete("shop");
    assert!(asked(&world).is_empty());
    world.address("here", ONE, said(AddressState::Conflict, number));
    assert!(world.events().is_empty());
    // What a Service has it keeps, whatever is found.
    world.put([service("shop", 1)]);
    answer(&mut world, "here", ONE, AddressState::Free);
    world.address("here", ONE, said(AddressState::Conflict, number));
    world.restart(settings(), vec![announced_pool()]);
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
    assert!(asked(&world).is_empty());
}
