//! What is asked for and can't be read, pools that can't be used, and who shares with whom.

use fairway_config::exchange::IpMode;
use fairway_config::field::FieldProblem;
use fairway_config::pool::Forwarding;
use fairway_config::service::*;

use crate::world::{World, pool, service, settings};

#[test]
fn who_drops_the_sharing_key_moves_and_not_who_kept_it() {
    for part in ["a", "b"] {
        for key in [Some("other"), None] {
            let mut world = World::new(settings(), vec![pool()]);
            let with = |name: &str, age: i64, key: Option<&str>| {
                let mut service = service(name, age);
                service.asks.sharing_key = key.map(Into::into);
                service.ports[0].port += age as u16;
                service
            };
            world.put([with("a", 1, Some("k")), with("b", 2, Some("k"))]);
            assert_eq!(world.got("b"), "10.0.0.1 30087 Assigned");
            world.put([with(part, if part == "a" { 1 } else { 2 }, key)]);
            let (moved, stayed) = if part == "a" { ("a", "b") } else { ("b", "a") };
            assert!(
                world.got(stayed).starts_with("10.0.0.1 "),
                "{part}: {}",
                world.got(stayed)
            );
            assert!(
                world.got(moved).starts_with("10.0.0.2 "),
                "{part}: {}",
                world.got(moved)
            );
        }
    }
}

#[test]
fn explain_says_with_whom_an_address_is_not_shared_and_why() {
    let mut world = World::new(settings(), vec![pool()]);
    let with = |name: &str, age: i64, port: u16| {
        let mut service = service(name, age);
        service.asks.sharing_key = Some("k".into());
        service.ports[0].port = port;
        service
    };
    let mut elsewhere = with("elsewhere", 3, 82);
    elsewhere.name.namespace = "db".into();
    elsewhere.asks.addresses = vec!["10.0.0.1".parse().unwrap()];
    let mut keyless = service("keyless", 4);
    keyless.asks.addresses = vec!["10.0.0.1".parse().unwrap()];
    world.put([with("a", 1, 80), with("b", 2, 80)]);
    world.put([elsewhere, keyless]);
    assert_eq!(world.got("b"), "10.0.0.2 30087 Assigned");
    for (name, words) in [
        (
            "b",
            &[
                "does not share 10.0.0.1",
                "'k'",
                "Service web/a",
                "use port 80/TCP",
            ][..],
        ),
        (
            "elsewhere",
            &[
                "Service web/a holds it",
                "the namespaces db and web do not both name",
            ],
        ),
        (
            "keyless",
            &[
                "no sharing key in common",
                "this one has none, the other has 'k'",
            ],
        ),
    ] {
        let said = world.explain(name, "Address").join(" ");
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{name}: {said}"
        );
    }
}

#[test]
fn a_request_that_can_not_be_read_is_waited_for_and_not_replaced() {
    let mut world = World::new(settings(), vec![pool()]);
    let request = |what| UnreadableRequest {
        what,
        message: "fairway.dev/pool is 'a b', must be the name of one AddressPool".into(),
    };
    let mut shop = service("shop", 1);
    shop.asks.unreadable = vec![request(RequestKind::Other)];
    world.put([shop.clone(), service("next", 2)]);
    assert_eq!(world.got("shop"), "- 30086 RequestUnreadable");
    assert_eq!(world.got("next"), "10.0.0.1 30087 Assigned");
    assert!(world.explain("shop", "Address")[0].contains("'a b'"));
    // As soon as it can be read.
    shop.asks.unreadable.clear();
    world.put([shop.clone()]);
    assert_eq!(world.got("shop"), "10.0.0.2 30086 Assigned");
    // What it has it keeps.
    shop.asks.unreadable = vec![request(RequestKind::Addresses)];
    world.put([shop]);
    assert_eq!(world.got("shop"), "10.0.0.2 30086 Assigned");

    let mut local = service("local", 3);
    local.external_traffic_policy = ExternalTrafficPolicy::Local;
    let key = local.ports[0].key();
    local.asks.unreadable = vec![
        request(RequestKind::NodePort(key)),
        request(RequestKind::HealthCheckNodePort),
    ];
    world.delete("next");
    world.put([local]);
    assert_eq!(world.got("local"), "10.0.0.1 - Assigned");
    assert_eq!(
        world.condition("local", "fairway.dev/NodePortsAllocated"),
        Some((false, "NodePortUnreadable"))
    );
}

#[test]
fn a_pool_with_a_problem_gives_out_nothing_and_takes_nothing_away() {
    let problem = |field: &str| FieldProblem {
        field: field.into(),
        message: "is wrong".into(),
    };
    let mut world = World::new(settings(), vec![pool()]);
    world.put([service("shop", 1)]);
    let mut broken = pool();
    broken.problems = vec![problem("spec.forwarding")];
    world.pool(broken.clone());
    world.put([service("next", 2)]);
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
    assert_eq!(
        world.condition("shop", "fairway.dev/OutOfPool"),
        Some((true, "PoolNotUsable"))
    );
    assert_eq!(world.got("next"), "- 30087 PoolNotUsable");
    let ready = world
        .pool_status("edge")
        .conditions
        .get("Ready")
        .cloned()
        .unwrap();
    assert_eq!((ready.status, &*ready.reason), (false, "NotUsable"));
    assert!(
        ready.message.contains("spec.forwarding: is wrong"),
        "{}",
        ready.message
    );
    // Another leader says the same: it follows from the pool alone.
    world.restart(settings(), vec![broken]);
    assert_eq!(world.got("next"), "- 30087 PoolNotUsable");
    assert_eq!(
        *world.pool_status("edge").conditions.get("Ready").unwrap(),
        ready
    );
    world.pool(pool());
    assert_eq!(world.got("next"), "10.0.0.2 30087 Assigned");
    assert_eq!(world.condition("shop", "fairway.dev/OutOfPool"), None);
}

#[test]
fn of_two_pools_the_address_belongs_to_the_lower_priority_and_to_one_that_gives_out() {
    let mut first = pool();
    first.priority = 1;
    let mut second = pool();
    second.name = "aside".into();
    let mut world = World::new(settings(), vec![first.clone(), second]);
    world.put([service("shop", 1)]);
    assert!(world.explain("shop", "Address")[0].contains("from pool 'edge'"));
    first.problems = vec![FieldProblem {
        field: "spec.forwarding".into(),
        message: "is Node".into(),
    }];
    first.forwarding = Forwarding::Node;
    world.pool(first);
    assert!(world.explain("shop", "Address")[0].contains("from pool 'aside'"));
    assert_eq!(world.status("shop").ingress[0].ip_mode, IpMode::Proxy);
}
