//! What follows from the addresses of nodes.

use fairway_config::net::IpFamily;

use crate::world::{World, other_pool, service, settings};

fn counts(world: &World) -> (u128, u128, u128) {
    let counts = world.pool_status("edge").counts[&IpFamily::IPv4];
    (counts.total, counts.used, counts.available)
}

fn ready(world: &World) -> (bool, &str) {
    let ready = &world.pool_status("edge").conditions.get("Ready").unwrap();
    (ready.status, &ready.message)
}

/// A pool of 10.0.0.1 to 10.0.0.3.
fn world() -> World {
    World::new(settings(), vec![other_pool("edge", "10.0.0.1", "10.0.0.3")])
}

#[test]
fn an_address_of_a_node_is_given_to_nobody() {
    let mut world = world();
    world.node("a", &["10.0.0.1", "192.0.2.1"]);
    assert_eq!(counts(&world), (2, 0, 2));
    let message = "Addresses can be given out. 1 address is left out, because it is a node's: \
                   10.0.0.1 (a).";
    assert_eq!(ready(&world), (true, message));
    let mut asking = service("asking", 1);
    asking.asks.addresses = vec!["10.0.0.1".parse().unwrap()];
    let mut wishing = service("wishing", 2);
    wishing.status_addresses = asking.asks.addresses.clone();
    world.put([asking, wishing, service("plain", 3), service("late", 4)]);
    assert_eq!(world.got("asking"), "- 30086 NodeAddress");
    assert_eq!(world.got("wishing"), "10.0.0.2 30087 Assigned");
    assert_eq!(world.got("plain"), "10.0.0.3 30088 Assigned");
    assert_eq!(world.got("late"), "- 30089 PoolExhausted");
    assert_eq!(counts(&world), (2, 2, 0));
    let why = world.explain("asking", "Address").join(" ");
    assert!(why.contains("is an address of node 'a'"), "{why}");

    // As soon as it is no node's, who asked for it gets it.
    world.node("a", &["192.0.2.1"]);
    assert_eq!(world.got("asking"), "10.0.0.1 30086 Assigned");
    assert_eq!(counts(&world), (3, 3, 0));
    assert_eq!(ready(&world), (true, "Addresses can be given out."));
}

#[test]
fn who_has_the_address_of_a_node_that_comes_later_keeps_it_and_says_so() {
    let mut world = world();
    world.put([service("web", 1)]);
    assert_eq!(world.got("web"), "10.0.0.1 30086 Assigned");
    for restarted in [false, true] {
        world.node("a", &["10.0.0.1"]);
        assert_eq!(world.got("web"), "10.0.0.1 30086 Assigned", "{restarted}");
        let out = Some((true, "NodeAddress"));
        assert_eq!(world.condition("web", "fairway.dev/OutOfPool"), out);
        assert_eq!(counts(&world), (3, 1, 2));
        let pool = other_pool("edge", "10.0.0.1", "10.0.0.3");
        world.restart(settings(), vec![pool]);
    }
    world.node("a", &["10.0.0.1"]);
    // Nobody joins it, and when it is let go of it is out.
    world.delete("web");
    assert_eq!(counts(&world), (2, 0, 2));
    world.put([service("next", 2)]);
    assert_eq!(world.got("next"), "10.0.0.2 30086 Assigned");
    world.node("a", &[]);
    assert_eq!(counts(&world), (3, 1, 2));
    world.put([service("third", 3)]);
    assert_eq!(world.got("third"), "10.0.0.1 30087 Assigned");
}

#[test]
fn a_pool_of_nothing_but_nodes_says_why_it_gives_nothing() {
    let mut world = world();
    for (node, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
        world.node(node, &[address]);
    }
    world.put([service("web", 1)]);
    assert_eq!(world.got("web"), "- 30086 PoolExhausted");
    let why = world.explain("web", "Address").join(" ");
    assert!(why.contains("they are nodes'"), "{why}");
    // A pool that is edited leaves them out likewise.
    world.pool(other_pool("edge", "10.0.0.1", "10.0.0.4"));
    assert_eq!(world.got("web"), "10.0.0.4 30086 Assigned");
    let (_, message) = ready(&world);
    let names = "3 addresses are left out, because they are nodes': 10.0.0.1 (a), 10.0.0.2 (b), \
                 10.0.0.3 (c).";
    assert!(message.ends_with(names), "{message}");
}
