//! Node ports that somebody else allocates, and is asked for.

use fairway_config::net::Protocol;
use fairway_config::service::{ForwardTo, Service};
use fairway_controller_core::{NodePortRange, Settings};

use crate::world::{World, pool, port, service, settings};

fn in_a_cluster() -> Settings {
    Settings {
        allocates_node_ports: false,
        ..settings()
    }
}

/// Allocates none, and says that its traffic goes to node ports.
fn asking(name: &str, created: i64) -> Service {
    let mut service = service(name, created);
    service.allocate_node_ports = false;
    service.asks.forward_to = Some(ForwardTo::NodePorts);
    service
}

#[test]
fn numbers_are_asked_for_where_the_service_itself_says_so_and_nowhere_else() {
    let mut world = World::new(in_a_cluster(), vec![pool()]);
    let mut plain = service("plain", 1);
    plain.allocate_node_ports = false;
    let mut allocating = asking("allocating", 2);
    allocating.allocate_node_ports = true;
    let mut foreign = asking("foreign", 3);
    foreign.class = Some("other/one".into());
    let mut internal = asking("internal", 4);
    internal.kind = fairway_config::service::ServiceType::ClusterIP;
    let mut both = asking("both", 5);
    both.ports = vec![
        port(Protocol::Tcp, 53, None),
        port(Protocol::Udp, 53, None),
        port(Protocol::Tcp, 80, Some(30500)),
        port(Protocol::Sctp, 80, None),
    ];
    let mut holder = service("holder", 6);
    holder.kind = fairway_config::service::ServiceType::NodePort;
    holder.ports[0].node_port = Some(30086);
    world.put([plain, allocating, foreign, internal, both, holder]);
    // The lowest of the dynamic band is taken; one number for both protocols.
    assert_eq!(world.asked, [30087, 30087]);
    assert_eq!(world.got("plain"), "10.0.0.1 - Assigned");
    let allocated = Some((true, "Allocated"));
    assert_eq!(
        world.condition("both", "fairway.dev/NodePortsAllocated"),
        allocated
    );
    assert_eq!(
        world.condition("plain", "fairway.dev/NodePortsAllocated"),
        None
    );
    // It is asked once, and what was given stays when the annotation goes.
    let mut without = asking("both", 5);
    without.asks.forward_to = None;
    without.ports = vec![port(Protocol::Tcp, 53, Some(30087))];
    world.put([without]);
    assert_eq!(world.asked.len(), 2);
    assert_eq!(
        world.condition("both", "fairway.dev/NodePortsAllocated"),
        None
    );
}

#[test]
fn a_number_that_is_refused_is_followed_by_another_and_said_meanwhile() {
    let mut world = World::new(in_a_cluster(), vec![pool()]);
    world.refuses.extend([30086, 30087]);
    world.put([asking("web", 1)]);
    assert_eq!(world.asked, [30086]);
    // No change asks again before its time.
    world.put([asking("web", 1)]);
    assert_eq!(world.asked, [30086]);
    world.ask_again("web");
    assert_eq!(world.asked, [30086, 30087]);
    let refused = Some((false, "NodePortsRefused"));
    assert_eq!(
        world.condition("web", "fairway.dev/NodePortsAllocated"),
        refused
    );
    let why = world.explain("web", "Node ports").join(" ");
    assert!(why.contains("it is allocated already"), "{why}");
    world.ask_again("web");
    assert_eq!(world.asked, [30086, 30087, 30088]);
    let allocated = Some((true, "Allocated"));
    assert_eq!(
        world.condition("web", "fairway.dev/NodePortsAllocated"),
        allocated
    );
    // What was refused to one is no secret, but may be free for another by now.
    world.refuses.clear();
    world.put([asking("next", 2)]);
    assert_eq!(world.asked.last(), Some(&30086));
}

#[test]
fn where_no_number_is_left_it_is_said_and_asked_for_when_one_is_free() {
    let small = Settings {
        node_ports: NodePortRange::new(30000, 30000).unwrap(),
        ..in_a_cluster()
    };
    let mut world = World::new(small, vec![pool()]);
    world.put([asking("first", 1), asking("second", 2)]);
    assert_eq!(world.asked, [30000]);
    let refused = Some((false, "NodePortsRefused"));
    assert_eq!(
        world.condition("second", "fairway.dev/NodePortsAllocated"),
        refused
    );
    world.delete("first");
    assert_eq!(world.asked, [30000, 30000]);
    let allocated = Some((true, "Allocated"));
    assert_eq!(
        world.condition("second", "fairway.dev/NodePortsAllocated"),
        allocated
    );
}

#[test]
fn a_question_that_is_denied_is_asked_again_with_the_same_number() {
    let mut world = World::new(in_a_cluster(), vec![pool()]);
    world.denies = true;
    world.put([asking("web", 1)]);
    world.ask_again("web");
    assert_eq!(world.asked, [30086, 30086]);
    let refused = Some((false, "NodePortsRefused"));
    assert_eq!(
        world.condition("web", "fairway.dev/NodePortsAllocated"),
        refused
    );
    let why = world.explain("web", "Node ports").join(" ");
    assert!(why.contains("not now"), "{why}");
    // Nobody's number is kept meanwhile.
    world.denies = false;
    world.put([asking("next", 2)]);
    assert_eq!(world.got("next"), "10.0.0.2 30086 Assigned");
    world.ask_again("web");
    assert_eq!(world.got("web"), "10.0.0.1 30087 Assigned");
}

#[test]
fn when_all_that_are_left_were_refused_they_are_asked_for_again() {
    let small = Settings {
        node_ports: NodePortRange::new(30000, 30001).unwrap(),
        ..in_a_cluster()
    };
    let mut world = World::new(small, vec![pool()]);
    world.refuses.extend([30000, 30001]);
    world.put([asking("web", 1)]);
    world.ask_again("web");
    world.ask_again("web");
    assert_eq!(world.asked, [30000, 30001, 30000]);
    world.refuses.clear();
    world.ask_again("web");
    assert_eq!(world.got("web"), "10.0.0.1 30001 Assigned");
}

#[test]
fn a_number_that_becomes_free_is_asked_for_by_as_many_as_it_serves() {
    let small = Settings {
        node_ports: NodePortRange::new(30000, 30001).unwrap(),
        ..in_a_cluster()
    };
    let holder = |number| {
        let mut holder = service("holder", 1);
        holder.kind = fairway_config::service::ServiceType::NodePort;
        holder.ports = vec![
            port(Protocol::Tcp, 80, number),
            port(Protocol::Tcp, 81, Some(30001)),
        ];
        holder
    };
    let mut world = World::new(small, vec![pool()]);
    let mut two = asking("two", 2);
    two.ports = vec![port(Protocol::Tcp, 80, None), port(Protocol::Tcp, 81, None)];
    let waiting = [asking("third", 3), asking("fourth", 4), asking("fifth", 5)];
    world.put([holder(Some(30000)), two]);
    world.put(waiting);
    assert!(world.asked.is_empty());
    // Whatever else happens.
    world.put([service("other", 9)]);
    assert!(world.asked.is_empty());
    // One that needs two does not hold up those that one is enough for.
    world.put([holder(None)]);
    assert_eq!(world.got("third"), "10.0.0.2 30000 Assigned");
    assert_eq!(world.asked, [30000]);
    // The number of one that asked in vain is the next one's.
    world.denies = true;
    world.delete("third");
    assert_eq!(world.asked, [30000, 30000, 30000]);
    world.denies = false;
    world.ask_again("fifth");
    let allocated = Some((true, "Allocated"));
    assert_eq!(
        world.condition("fifth", "fairway.dev/NodePortsAllocated"),
        allocated
    );
    // Its time comes, and there is none: it waits as the others do, until it wants none any more.
    world.ask_again("fourth");
    let mut without = asking("fourth", 4);
    without.asks.forward_to = None;
    world.put([without]);
    world.delete("fifth");
    assert_eq!(world.asked.len(), 4);
    world.delete("holder");
    assert_eq!(
        world.condition("two", "fairway.dev/NodePortsAllocated"),
        allocated
    );
    assert_eq!(world.asked.len(), 6);
}
