//! What becomes of what was given when things change, and what people are told.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::IpMode;
use fairway_config::names::ServiceName;
use fairway_config::net::{IpFamily, Protocol};
use fairway_config::pool::Forwarding;
use fairway_config::service::*;
use fairway_config::time::Timestamp;
use fairway_controller_core::{NodePortRange, Settings};

use crate::world::{World, label, other_pool, pool, port, service, settings};

fn with_range(first: u16, last: u16) -> Settings {
    Settings {
        node_ports: NodePortRange::new(first, last).unwrap(),
        ..settings()
    }
}

#[test]
fn the_static_band_is_the_last_resort() {
    // 30000-30015 is static, 30016 and 30017 are dynamic.
    let mut world = World::new(with_range(30000, 30017), vec![]);
    let mut many = service("many", 1);
    many.ports = (1..=3).map(|n| port(Protocol::Tcp, n, None)).collect();
    world.put([many]);
    assert_eq!(world.got("many"), "- 30016,30017,30000 NoPools");
}

#[test]
fn a_range_that_is_full_is_said_and_ends_with_the_first_that_goes() {
    let mut world = World::new(with_range(30000, 30000), vec![pool()]);
    world.put([service("old", 1), service("young", 2)]);
    assert_eq!(world.got("old"), "10.0.0.1 30000 Assigned");
    assert_eq!(world.got("young"), "10.0.0.2 - Assigned");
    let full = Some((false, "NodePortsExhausted"));
    assert_eq!(
        world.condition("young", "fairway.dev/NodePortsAllocated"),
        full
    );
    world.delete("old");
    assert_eq!(world.got("young"), "10.0.0.2 30000 Assigned");
    let good = Some((true, "Allocated"));
    assert_eq!(
        world.condition("young", "fairway.dev/NodePortsAllocated"),
        good
    );
}

#[test]
fn allocating_no_node_ports_releases_none_that_were_there() {
    let mut world = World::new(settings(), vec![pool()]);
    world.put([service("shop", 1)]);
    let mut without = service("shop", 1);
    without.allocate_node_ports = false;
    without.ports.push(port(Protocol::Tcp, 81, None));
    world.put([without]);
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
}

#[test]
fn in_a_cluster_node_ports_are_what_the_spec_says() {
    let in_cluster = Settings {
        allocates_node_ports: false,
        ..settings()
    };
    let mut world = World::new(in_cluster, vec![pool()]);
    let mut with = service("with", 1);
    with.ports[0].node_port = Some(31000);
    world.put([with, service("without", 2)]);
    assert_eq!(world.got("with"), "10.0.0.1 31000 Assigned");
    assert_eq!(world.got("without"), "10.0.0.2 - Assigned");
    assert_eq!(
        world.condition("without", "fairway.dev/NodePortsAllocated"),
        None
    );
}

#[test]
fn an_address_outlives_its_pool_and_says_so() {
    let mut world = World::new(settings(), vec![pool()]);
    world.put([service("shop", 1)]);
    assert_eq!(world.condition("shop", "fairway.dev/OutOfPool"), None);
    let elsewhere = || other_pool("edge", "10.1.0.0", "10.1.0.3");

    world.pool(elsewhere());
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
    assert_eq!(
        world.condition("shop", "fairway.dev/OutOfPool"),
        Some((true, "OutOfPool"))
    );
    // Nobody else gets it, asked for or not.
    let mut thief = service("thief", 0);
    thief.asks.addresses = vec!["10.0.0.1".parse().unwrap()];
    world.put([thief]);
    assert_eq!(world.got("thief"), "- 30087 AddressInNoPool");

    world.delete_pool("edge");
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
    world.pool(pool());
    assert_eq!(world.condition("shop", "fairway.dev/OutOfPool"), None);

    // A selector that leaves it out takes nothing away, either.
    let mut picky = pool();
    picky.service_selector = label("edge", "yes");
    world.pool(picky);
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
    assert_eq!(
        world.condition("shop", "fairway.dev/OutOfPool"),
        Some((true, "NotSelected"))
    );
}

#[test]
fn a_pool_that_comes_ends_the_wait() {
    let mut world = World::new(settings(), vec![]);
    world.put([service("shop", 1)]);
    assert_eq!(world.got("shop"), "- 30086 NoPools");
    world.pool(pool());
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
}

#[test]
fn a_label_that_a_namespace_gets_ends_the_wait() {
    let mut picky = pool();
    picky.namespace_selector = label("tier", "gold");
    let mut world = World::new(settings(), vec![picky]);
    world.put([service("shop", 1)]);
    assert_eq!(world.got("shop"), "- 30086 NotSelected");
    world.namespace("web", ("tier", "gold"));
    assert_eq!(world.got("shop"), "10.0.0.1 30086 Assigned");
}

#[test]
fn overlapping_pools_say_so_and_give_an_address_once() {
    let mut first = other_pool("first", "10.0.0.2", "10.0.0.9");
    first.priority = 1;
    let mut world = World::new(settings(), vec![pool(), first]);
    world.put([service("old", 1), service("young", 2)]);
    assert_eq!(world.got("old"), "10.0.0.2 30086 Assigned");
    assert_eq!(world.got("young"), "10.0.0.3 30087 Assigned");
    for (name, other, used, available) in [("edge", "first", 2, 1), ("first", "edge", 2, 6)] {
        let status = world.pool_status(name);
        let overlaps = &status.conditions.get("Overlaps").unwrap();
        assert!(overlaps.status && *overlaps.reason == *"PoolsOverlap");
        let range = format!("Overlaps with pool '{other}' in 10.0.0.2-10.0.0.3.");
        assert!(overlaps.message.starts_with(&range), "{}", overlaps.message);
        let counts = status.counts[&IpFamily::IPv4];
        assert_eq!((counts.used, counts.available), (used, available), "{name}");
    }
}

#[test]
fn the_status_of_a_pool_that_is_not_taken_keeps_the_time_of_the_last_transition() {
    let mut world = World::new(settings(), vec![pool()]);
    let since = |world: &World| {
        let conditions = &world.pool_status("edge").conditions;
        conditions.get("Ready").unwrap().since
    };
    let began = since(&world);
    world.now += 100;
    world.loses_statuses = true;
    world.put([service("shop", 1)]);
    world.write_again();
    world.loses_statuses = false;
    world.write_again();
    let used = world.pool_status("edge").counts[&IpFamily::IPv4].used;
    assert_eq!((used, since(&world)), (1, began));
}

#[test]
fn both_families_come_in_the_order_of_ip_families() {
    let v6 = other_pool("v6", "2001:db8::1", "2001:db8::2");
    let mut world = World::new(settings(), vec![pool(), v6]);
    let mut dual = service("dual", 1);
    dual.ip_family_policy = IpFamilyPolicy::RequireDualStack;
    dual.ip_families = vec![IpFamily::IPv6, IpFamily::IPv4];
    world.put([dual.clone()]);
    assert_eq!(world.got("dual"), "2001:db8::1,10.0.0.1 30086 Assigned");

    // Back to one: the first stays.
    dual.ip_family_policy = IpFamilyPolicy::SingleStack;
    world.put([dual]);
    assert_eq!(world.got("dual"), "2001:db8::1 30086 Assigned");
}

#[test]
fn a_full_quota_ends_with_the_first_that_goes() {
    let mut one_each = pool();
    one_each.quota_per_namespace = Some(1);
    let mut world = World::new(settings(), vec![one_each]);
    world.put([service("old", 1), service("young", 2)]);
    assert_eq!(world.got("young"), "- 30087 QuotaExceeded");
    let mut elsewhere = service("elsewhere", 3);
    elsewhere.name = ServiceName::new("db", "elsewhere");
    world.put([elsewhere]);
    assert_eq!(world.got("elsewhere"), "10.0.0.2 30088 Assigned");
    world.delete("old");
    assert_eq!(world.got("young"), "10.0.0.1 30087 Assigned");
}

#[test]
fn who_waits_to_share_is_woken_when_a_stranger_lets_go() {
    let only = other_pool("edge", "10.0.0.1", "10.0.0.1");
    let mut world = World::new(settings(), vec![only]);
    let sharing = |name: &str, age: i64, port: u16| {
        let mut service = service(name, age);
        service.asks.sharing_key = Some("k".into());
        service.ports[0].port = port;
        service
    };
    world.put([service("stranger", 1)]);
    world.put([sharing("a", 2, 80), sharing("b", 3, 81)]);
    assert_eq!(world.got("a"), "- 30087 PoolExhausted");
    world.delete("stranger");
    assert_eq!(world.got("a"), "10.0.0.1 30087 Assigned");
    assert_eq!(world.got("b"), "10.0.0.1 30088 Assigned");

    // Who asks for a port that another has on the address is the one to wait.
    world.put([sharing("a", 2, 81)]);
    assert_eq!(world.got("a"), "- 30086 PoolExhausted");
    assert_eq!(world.got("b"), "10.0.0.1 30088 Assigned");
}

#[test]
fn two_that_swap_their_ports_never_have_one_both() {
    let only = other_pool("edge", "10.0.0.1", "10.0.0.1");
    for key in [Some("k"), None] {
        let mut world = World::new(settings(), vec![only.clone()]);
        let with = |name: &str, key: Option<&str>, number: u16| {
            let mut service = service(name, 1);
            service.asks.sharing_key = key.map(Into::into);
            service.ports[0].port = number;
            service
        };
        world.put([with("a", Some("k"), 80), with("b", Some("k"), 81)]);
        // Both at once, together or each for itself.
        world.put([with("a", key, 81), with("b", key, 80)]);
        assert_eq!(
            world.held("a").addresses,
            ["10.0.0.1".parse::<IpAddr>().unwrap()]
        );
        let shares = world.held("b").addresses == world.held("a").addresses;
        assert_eq!(shares, key.is_some());
    }
}

#[test]
fn ip_mode_is_that_of_the_pool_and_stays_without_one() {
    let mut by_nodes = pool();
    by_nodes.forwarding = Forwarding::Node;
    let mut world = World::new(crate::programmed::in_cluster(), vec![by_nodes]);
    world.put([service("shop", 1)]);
    assert_eq!(world.status("shop").ingress[0].ip_mode, IpMode::Vip);
    world.delete_pool("edge");
    assert_eq!(world.status("shop").ingress[0].ip_mode, IpMode::Vip);
    world.pool(pool());
    assert_eq!(world.status("shop").ingress[0].ip_mode, IpMode::Proxy);
}

#[test]
fn since_is_when_the_status_changed_and_not_the_reason() {
    let mut picky = pool();
    picky.service_selector = label("edge", "yes");
    let mut world = World::new(settings(), vec![]);
    let since = |world: &World| {
        world
            .status("shop")
            .conditions
            .get("fairway.dev/AddressAssigned")
            .unwrap()
            .since
    };
    world.now = 10;
    world.put([service("shop", 1)]);
    assert_eq!(since(&world), Timestamp(10));
    world.now = 20;
    world.pool(picky);
    assert_eq!(
        world.condition("shop", "fairway.dev/AddressAssigned"),
        Some((false, "NotSelected"))
    );
    assert_eq!(since(&world), Timestamp(10));
    world.now = 30;
    world.pool(pool());
    assert_eq!(
        world.condition("shop", "fairway.dev/AddressAssigned"),
        Some((true, "Assigned"))
    );
    assert_eq!(since(&world), Timestamp(30));
}

#[test]
fn sctp_and_notices_are_said() {
    let mut world = World::new(settings(), vec![pool()]);
    let mut odd = service("odd", 1);
    odd.ports.push(port(Protocol::Sctp, 9, None));
    world.put([odd]);
    assert_eq!(world.got("odd"), "10.0.0.1 30086 Assigned");
    assert_eq!(
        world.condition("odd", "fairway.dev/Accepted"),
        Some((false, "UnsupportedProtocol"))
    );
    let ports = &world.status("odd").ingress[0].ports;
    let errors: Vec<_> = ports.iter().map(|port| port.error.as_deref()).collect();
    assert_eq!(errors, [None, Some("UnsupportedProtocol")]);
}

#[test]
fn explain_says_where_everything_is_from() {
    let mut world = World::new(settings(), vec![pool()]);
    let mut asked = service("asked", 1);
    asked.asks.addresses = vec!["10.0.0.2".parse().unwrap()];
    asked.asks.sharing_key = Some("k".into());
    let mut joins = service("joins", 2);
    joins.asks.sharing_key = Some("k".into());
    joins.ports[0].port = 81;
    joins.ports[0].node_port = Some(30086);
    joins.external_traffic_policy = ExternalTrafficPolicy::Local;
    let mut foreign = service("foreign", 3);
    foreign.class = Some("other/one".into());
    foreign.allocate_node_ports = false;
    let mut plain = service("plain", 4);
    plain.kind = ServiceType::ClusterIP;
    let mut wants = service("wants", 5);
    wants.asks.pool = Some("nowhere".into());
    world.put([asked, joins, foreign, plain, wants]);
    world.put([service("last", 6)]);
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "asked",
            "Address",
            &[
                "10.0.0.2 is from pool 'edge' (priority 100): it was asked for.",
                "10.0.0.2 is shared with web/joins.",
            ],
        ),
        ("asked", "Node ports", &["Port 80/TCP has node port 30087."]),
        ("asked", "Source", &["It comes from web.yaml, document 1."]),
        (
            "joins",
            "Address",
            &[
                "10.0.0.2 is from pool 'edge' (priority 100): it was the lowest free one when it was given, and stays.",
                "10.0.0.2 is shared with web/asked.",
            ],
        ),
        (
            "joins",
            "Node ports",
            &[
                "Port 81/TCP has node port 30086.",
                "The health check answers on node port 30088.",
            ],
        ),
        (
            "foreign",
            "Address",
            &["Its loadBalancerClass is other/one; Fairway serves fairway.dev/gateway."],
        ),
        (
            "foreign",
            "Node ports",
            &["None: allocateLoadBalancerNodePorts is false."],
        ),
        (
            "plain",
            "Address",
            &["It is of type ClusterIP, and gets no external address."],
        ),
        ("plain", "Node ports", &["None: it is of type ClusterIP."]),
        (
            "wants",
            "Address",
            &["The Service asks for pool 'nowhere', and there is no such AddressPool."],
        ),
        (
            "last",
            "Address",
            &[
                "10.0.0.1 is from pool 'edge' (priority 100): it was the lowest free one when it was given, and stays.",
            ],
        ),
    ];
    for (name, heading, wanted) in cases {
        assert_eq!(world.explain(name, heading), *wanted, "{name}: {heading}");
    }
}

#[test]
fn thousands_on_one_address_and_thousands_of_ports_are_no_burden() {
    // Held to a bound on time that what is quadratic misses by far, and a slow machine does not.
    let start = worked();
    let only = other_pool("edge", "10.0.0.1", "10.0.0.1");
    let mut world = World::new(settings(), vec![only]);
    let sharing = |i: u16| {
        let mut service = service(&format!("s{i}"), 1);
        service.asks.sharing_key = Some(Arc::from("k"));
        service.allocate_node_ports = false;
        service.ports[0].port = 1000 + i;
        service
    };
    for i in 0..3_000 {
        world.put([sharing(i)]);
    }
    let mut wide = sharing(0);
    wide.ports = (10_000..16_000)
        .map(|n| port(Protocol::Tcp, n, None))
        .collect();
    world.put([wide]);
    assert_eq!(world.held("s0").addresses, world.held("s2999").addresses);
    let took = worked() - start;
    assert!(took < Duration::from_secs(20), "{took:?}");
}

/// How long this thread has been at work: on a busy machine it waits more than it works.
/// The first field of schedstat, nanoseconds (Documentation/scheduler/sched-stats.rst).
fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let nanoseconds = stat.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect(&stat))
}
