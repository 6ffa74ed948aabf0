//! What a BGPPeer's status says of the sessions that gateways have with it.

use std::sync::Arc;

use fairway_config::bgp_peer::{BgpPeer, PeerAsn};
use fairway_config::class::ClassFilter;
use fairway_config::cluster::Node;
use fairway_config::exchange::{BgpPeerRow, Change, ConditionMap};
use fairway_config::field::FieldProblem;
use fairway_config::time::Timestamp;
use fairway_controller_core::{NodePortRange, Settings};

use crate::world::World;

fn world() -> World {
    let filter = ClassFilter {
        name: "fairway.dev/gateway".into(),
        is_default: true,
    };
    let settings = Settings::cluster(filter, NodePortRange::default());
    World::new(settings, Vec::new())
}

fn peer(generation: i64) -> BgpPeer {
    let address = "192.0.2.1".parse().unwrap();
    BgpPeer {
        generation,
        ..BgpPeer::new("tor".into(), 64512, PeerAsn::External, address)
    }
}

fn there(peer: BgpPeer) -> Vec<Change> {
    vec![Change::BgpPeer("tor".into(), Some(Arc::new(peer)))]
}

fn node(name: &str, is_there: bool) -> Vec<Change> {
    let node = Node {
        name: name.into(),
        internal_ips: Vec::new(),
        external_ips: Vec::new(),
        zone: None,
        labels: Default::default(),
        excluded: None,
        draining: None,
    };
    vec![Change::Node(name.into(), is_there.then(|| Arc::new(node)))]
}

/// The session of a gateway with the router, of that form of the BGPPeer.
fn session(gateway: &str, state: &str, why: &str, generation: i64) -> BgpPeerRow {
    BgpPeerRow {
        name: "tor".to_owned(),
        gateway: gateway.to_owned(),
        state: state.to_owned(),
        why: why.to_owned(),
        generation,
        ..BgpPeerRow::default()
    }
}

/// What was written last: whether it is ready, the reason and the sentences.
fn said(world: &World) -> String {
    let Some(status) = world.peer_statuses("tor").last() else {
        return String::new();
    };
    let ready = status.conditions.get("Ready").unwrap();
    format!("{} {} {}", ready.status, ready.reason, ready.message)
}

#[test]
fn a_peer_is_ready_when_every_gateway_that_has_it_has_a_session() {
    let mut world = world();
    let edges = ["edge-1", "edge-2", "edge-3"];
    edges.iter().for_each(|name| world.apply(node(name, true)));
    world.apply(there(peer(1)));
    let nobody = "false NoGateway No gateway says that it has this peer: none is alive, or nodeSelectors select \
                  none of their Nodes.";
    assert_eq!(said(&world), nobody);
    let refuses = "it refuses the connection";
    let mut step = |gateway: &str, state: &str, why: &str, wanted: &str| {
        world.now += 1;
        world.sessions(gateway, &[session(gateway, state, why, 1)]);
        assert_eq!(said(&world), wanted, "{gateway} {state}");
    };
    step(
        "edge-1",
        "Idle",
        refuses,
        "false NotEstablished The gateway has no session. edge-1 has none: it refuses the connection.",
    );
    step(
        "edge-1",
        "Established",
        "",
        "true Established The gateway has a session. edge-1 has one.",
    );
    step(
        "edge-2",
        "Connect",
        refuses,
        "false PartlyEstablished 1 of 2 gateways have a session. edge-1 has one. edge-2 has none: it refuses the \
         connection.",
    );
    step(
        "edge-2",
        "Established",
        "IPv6 prefixes are not told: the router takes none",
        "true Established All 2 gateways have a session. edge-1 and edge-2 have one. edge-2: IPv6 prefixes are not \
         told: the router takes none.",
    );
    let silent = "it has not been heard of since 2026-01-01T00:00:00Z";
    step(
        "edge-1",
        "Unknown",
        silent,
        "false PartlyEstablished 1 of 2 gateways have a session. edge-2 has one. edge-1 has none: it has not been \
         heard of since 2026-01-01T00:00:00Z. edge-2: IPv6 prefixes are not told: the router takes none.",
    );
    // It will not come back.
    world.now += 1;
    world.apply(node("edge-1", false));
    assert!(said(&world).starts_with("true Established The gateway has a session. edge-2"));
    // One that stops has no sessions.
    world.now += 1;
    world.stops("edge-2");
    assert_eq!(said(&world), nobody);
}

#[test]
fn a_session_of_an_earlier_form_of_the_peer_is_no_evidence() {
    let mut world = world();
    world.apply(node("edge-1", true));
    world.apply(there(peer(1)));
    world.now += 1;
    world.sessions("edge-1", &[session("edge-1", "Established", "", 1)]);
    assert!(said(&world).starts_with("true"));
    world.now += 1;
    world.apply(there(peer(2)));
    assert_eq!(
        said(&world),
        "false NotEstablished The gateway has no session. edge-1 has none: it has not taken in the latest change of \
         the BGPPeer."
    );
    let statuses = world.peer_statuses("tor");
    assert_eq!(statuses.last().map(|it| it.generation), Some(2));
    world.now += 1;
    world.sessions("edge-1", &[session("edge-1", "Established", "", 2)]);
    assert!(said(&world).starts_with("true"));
    // What can't be read has no session, whatever somebody says.
    world.now += 1;
    let mut bad = peer(3);
    bad.problems.push(FieldProblem {
        field: "spec.myASN".to_owned(),
        message: "is 0".to_owned(),
    });
    world.apply(there(bad));
    assert!(said(&world).starts_with("false NotUsable No gateway has a session: spec.myASN"));
}

#[test]
fn a_status_is_written_once_a_second_at_most_and_the_last_word_is_not_lost() {
    let mut world = world();
    world.apply(node("edge-1", true));
    world.apply(there(peer(1)));
    let count = |world: &World| world.peer_statuses("tor").len();
    assert_eq!(count(&world), 1);
    for n in 0..5 {
        let why = format!("reason {n}");
        world.sessions("edge-1", &[session("edge-1", "Idle", &why, 1)]);
    }
    // In the same second.
    assert_eq!(count(&world), 1);
    world.now += 1;
    world.apply(Vec::new());
    assert_eq!(count(&world), 2);
    assert!(said(&world).contains("reason 4"));
    // What changes all the time is no reason to write.
    world.now += 1;
    let busy = BgpPeerRow {
        prefixes: 7,
        updates_sent: 9,
        ..session("edge-1", "Connect", "reason 4", 1)
    };
    world.sessions("edge-1", &[busy]);
    assert_eq!(count(&world), 2);
}

#[test]
fn a_new_leader_keeps_the_time_of_the_last_transition() {
    let mut first = world();
    first.apply(node("edge-1", true));
    first.apply(there(peer(1)));
    let written = first.peer_statuses("tor").last().unwrap().clone();
    let since = |conditions: &ConditionMap| conditions.get("Ready").unwrap().since;
    let mut next = world();
    next.now = 1_000;
    let change = Change::BgpPeerStatus("tor".into(), Arc::new(written.clone()));
    next.apply([vec![change], there(peer(1))].concat());
    // The same is not written again.
    assert!(next.peer_statuses("tor").is_empty());
    next.now += 1;
    next.apply(node("edge-1", true));
    next.sessions("edge-1", &[session("edge-1", "Idle", "it is not there", 1)]);
    let status = next.peer_statuses("tor").last().unwrap();
    assert_eq!(since(&status.conditions), since(&written.conditions));
    next.now += 1;
    next.sessions("edge-1", &[session("edge-1", "Established", "", 1)]);
    let status = next.peer_statuses("tor").last().unwrap();
    assert_eq!(since(&status.conditions), Timestamp(1_002));
}

#[test]
fn a_status_that_is_not_taken_keeps_the_time_of_the_last_transition() {
    let mut world = world();
    world.apply(node("edge-1", true));
    world.apply(there(peer(1)));
    world.now = 100;
    world.sessions("edge-1", &[session("edge-1", "Established", "", 1)]);
    let since = |world: &World| {
        let status = world.peer_statuses("tor").last().unwrap();
        status.conditions.get("Ready").unwrap().since
    };
    assert_eq!(since(&world), Timestamp(100));
    // Other sentences, which the store does not take the first two times.
    world.now = 200;
    world.loses_statuses = true;
    let count = world.peer_statuses("tor").len();
    let lacks = session("edge-1", "Established", "IPv6 prefixes are not told", 1);
    world.sessions("edge-1", &[lacks]);
    world.now = 201;
    world.write_again();
    world.loses_statuses = false;
    // In the same second: who was refused does not wait.
    world.write_again();
    assert_eq!(world.peer_statuses("tor").len(), count + 1);
    assert!(said(&world).contains("IPv6 prefixes are not told"));
    assert_eq!(since(&world), Timestamp(100));
}

#[test]
fn of_sessions_that_a_gateway_had_no_room_to_tell_nobody_says_that_there_are_none() {
    let mut world = world();
    world.apply(node("edge-1", true));
    world.apply(there(peer(1)));
    let other = || BgpPeerRow {
        name: "another".to_owned(),
        ..session("edge-1", "Established", "", 1)
    };
    world.now += 1;
    world.some_sessions("edge-1", &[other()], 2);
    let unknown = "false Unknown Of edge-1 it is not known whether it has a session: it has more sessions than it \
                   can tell of.";
    assert_eq!(said(&world), unknown);
    world.now += 1;
    world.sessions("edge-2", &[session("edge-2", "Established", "", 1)]);
    assert_eq!(
        said(&world),
        "false Unknown The gateway that tells of it has a session. edge-2 has one. Of edge-1 it is not known \
         whether it has a session: it has more sessions than it can tell of."
    );
    // It tells of it.
    world.now += 1;
    let told = session("edge-1", "Established", "", 1);
    world.some_sessions("edge-1", &[other(), told], 1);
    assert!(said(&world).starts_with("true Established All 2 gateways"));
    // It tells of all, and this one is not among them.
    world.now += 1;
    world.some_sessions("edge-1", &[other()], 1);
    world.now += 1;
    world.sessions("edge-1", &[other()]);
    assert_eq!(
        said(&world),
        "true Established The gateway has a session. edge-2 has one."
    );
}
