#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

use fairway_config::drained::DrainTarget;
use fairway_config::time::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::testing::endpoint;

/// An endpoint with what its tokens say: `notready`, `serving`, `terminating`, `w=2`, `node=a`,
/// `zones=a,b`, `nodes=a,b`.
#[derive(Clone, Debug)]
struct GivenEndpoint {
    addr: EndpointAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
    weight: u16,
    node: Option<ClusterName>,
    zones: Vec<Arc<str>>,
    nodes: Vec<ClusterName>,
}

impl GivenEndpoint {
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let addr = endpoint(words.next().expect("an address"));
        let (mut ready, mut serving, mut terminating) = (true, true, false);
        let (mut weight, mut node, mut zones, mut nodes) = (1, None, Vec::new(), Vec::new());
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let list = || value.split(',').map(Arc::from).collect();
            match key {
                "notready" => (ready, serving) = (false, false),
                "serving" => serving = true,
                "terminating" => terminating = true,
                "w" => weight = value.parse().expect("a weight"),
                "node" => node = Some(value.into()),
                "zones" => zones = list(),
                "nodes" => nodes = list(),
                other => unreachable!("{other}"),
            }
        }
        Self {
            addr,
            ready,
            serving,
            terminating,
            weight,
            node,
            zones,
            nodes,
        }
    }

    fn candidate(&self) -> EndpointCandidate<'_> {
        EndpointCandidate {
            addr: self.addr,
            ready: self.ready,
            serving: self.serving,
            terminating: self.terminating,
            node: self.node.as_ref(),
            for_zones: &self.zones,
            for_nodes: &self.nodes,
            weight: self.weight,
            target: None,
            barred: None,
        }
    }
}

fn guarded(addr: EndpointAddr) -> Result<(), Refusal> {
    if addr.0.ip().is_loopback() {
        Err(Refusal::Loopback)
    } else {
        Ok(())
    }
}

static NOTHING: LazyLock<DrainedEndpoints> = LazyLock::new(DrainedEndpoints::default);

fn policy() -> Policy<'static> {
    Policy {
        publish_not_ready: false,
        only_node: None,
        node: Some("here"),
        zone: Some("z1"),
        family: None,
        drained: &NOTHING,
        check: &guarded,
    }
}

/// The last part of each address that gets traffic.
fn chosen(lines: &[&str], policy: &Policy<'_>) -> Vec<String> {
    let given: Vec<_> = lines
        .iter()
        .map(|line| GivenEndpoint::parse(line))
        .collect();
    let outcome = eligible(given.iter().map(GivenEndpoint::candidate), policy);
    outcome
        .kept
        .iter()
        .map(|endpoint| endpoint.addr.to_string())
        .collect()
}

#[track_caller]
fn check(lines: &[&str], policy: &Policy<'_>, expected: &[&str]) {
    assert_eq!(chosen(lines, policy), expected, "{lines:#?}");
}

#[test]
fn readiness() {
    let p = policy();
    check(&[], &p, &[]);
    check(
        &["10.0.0.1:80", "10.0.0.2:80 notready"],
        &p,
        &["10.0.0.1:80"],
    );
    check(&["10.0.0.1:80 notready"], &p, &[]);
    let ending = "10.0.0.2:80 notready serving terminating";
    check(&["10.0.0.1:80", ending], &p, &["10.0.0.1:80"]);
    check(&["10.0.0.1:80 notready", ending], &p, &["10.0.0.2:80"]);
    check(&["10.0.0.1:80 notready terminating"], &p, &[]);
    check(&["10.0.0.1:80 notready serving"], &p, &[]);
    let publish = Policy {
        publish_not_ready: true,
        ..policy()
    };
    check(
        &["10.0.0.1:80 notready", ending],
        &publish,
        &["10.0.0.1:80", "10.0.0.2:80"],
    );
}

#[test]
fn maintenance_holds_for_the_last_one_too() {
    check(
        &["10.0.0.1:80 w=0", "10.0.0.2:80"],
        &policy(),
        &["10.0.0.2:80"],
    );
    check(&["10.0.0.1:80 w=0"], &policy(), &[]);
    let ending = "10.0.0.2:80 notready serving terminating";
    check(&["10.0.0.1:80 w=0", ending], &policy(), &["10.0.0.2:80"]);
}

#[test]
fn what_is_drained_is_out_unless_no_other_is_ready() {
    let mut drained = DrainedEndpoints::default();
    for place in ["10.0.0.1", "10.0.0.2:80"] {
        let place = place.parse().expect("a place");
        drained
            .set(DrainTarget::Place(place), true, Timestamp(100))
            .unwrap();
    }
    drained
        .set(DrainTarget::Node("n".into()), true, Timestamp(200))
        .unwrap();
    let policy = Policy {
        drained: &drained,
        ..policy()
    };
    let (one, two, on_node) = ("10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80 node=n");
    let other = "10.0.0.4:80";
    check(&[one, two, on_node, other], &policy, &[other]);
    check(&["10.0.0.2:81", one], &policy, &["10.0.0.2:81"]);
    // They are the last ones.
    check(&[one, two], &policy, &[one, two]);
    check(&[one, "10.0.0.4:80 notready"], &policy, &[one]);
    check(&[one, "10.0.0.4:80 w=0"], &policy, &[one]);
    check(&[one, "127.0.0.1:80"], &policy, &[one]);
    // One that ends is not ready.
    check(
        &[one, "10.0.0.4:80 notready serving terminating"],
        &policy,
        &[one],
    );
    // Hints do not lead back to them.
    check(
        &["10.0.0.1:80 zones=z1", "10.0.0.4:80 zones=z2"],
        &policy,
        &[other],
    );
    let given = [one, "10.0.0.2:80 notready", other].map(GivenEndpoint::parse);
    let set = eligible(given.iter().map(GivenEndpoint::candidate), &policy).set();
    let why: Vec<_> = set.excluded.iter().map(|it| it.why.clone()).collect();
    let expected = [Exclusion::Draining(Timestamp(100)), Exclusion::NotReady];
    assert_eq!(why, expected);
    assert!(set.serves(endpoint(one)), "its flows go on");
}

#[test]
fn what_is_guarded_is_out_and_holds_nothing_back() {
    let ending = "10.0.0.2:80 notready serving terminating";
    check(&["127.0.0.1:80", ending], &policy(), &["10.0.0.2:80"]);
}

#[test]
fn local_leaves_the_nodes_own() {
    let local = Policy {
        only_node: Some("here"),
        ..policy()
    };
    let lines = [
        "10.0.0.1:80 node=here",
        "10.0.0.2:80 node=there",
        "10.0.0.3:80",
    ];
    check(&lines, &local, &["10.0.0.1:80"]);
    check(&lines[1..], &local, &[]);
    // Readiness is judged among the local ones, and hints do not count.
    let ending = "10.0.0.1:80 node=here notready serving terminating";
    check(
        &[ending, "10.0.0.2:80 node=there"],
        &local,
        &["10.0.0.1:80"],
    );
    check(
        &["10.0.0.1:80 node=here zones=z9"],
        &local,
        &["10.0.0.1:80"],
    );
}

#[test]
fn topology_hints() {
    let p = policy();
    let (a, b) = ("10.0.0.1:80 zones=z1", "10.0.0.2:80 zones=z2");
    check(&[a, b], &p, &["10.0.0.1:80"]);
    check(
        &[a, b, "10.0.0.3:80"],
        &p,
        &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"],
    );
    check(&[b], &p, &["10.0.0.2:80"]);
    check(&[a, b, "10.0.0.3:80 notready"], &p, &["10.0.0.1:80"]);
    check(&["10.0.0.1:80 zones=z1 notready", b], &p, &["10.0.0.2:80"]);
    check(&[a, "127.0.0.1:80"], &p, &["10.0.0.1:80"]);
    let nowhere = Policy {
        zone: None,
        ..policy()
    };
    check(&[a, b], &nowhere, &["10.0.0.1:80", "10.0.0.2:80"]);
    let nodes = [
        "10.0.0.1:80 nodes=there zones=z1",
        "10.0.0.2:80 nodes=here zones=z2",
    ];
    check(&nodes, &p, &["10.0.0.2:80"]);
    check(
        &["10.0.0.1:80 nodes=there zones=z1", b],
        &p,
        &["10.0.0.1:80"],
    );
}

#[test]
fn duplicates_are_one_endpoint_and_the_ready_one_wins() {
    let lines = [
        "10.0.0.1:80 notready",
        "10.0.0.1:80",
        "10.0.0.1:80 notready serving terminating",
    ];
    for turn in 0..3 {
        let mut lines = lines;
        lines.rotate_left(turn);
        check(&lines, &policy(), &["10.0.0.1:80"]);
    }
}

#[test]
fn of_two_families_the_first_is_kept_where_it_has_anything() {
    let p = Policy {
        family: Some(IpFamily::IPv4),
        ..policy()
    };
    check(&["10.0.0.1:80", "[2001:db8::1]:80"], &p, &["10.0.0.1:80"]);
    check(
        &["10.0.0.1:80 notready", "[2001:db8::1]:80"],
        &p,
        &["[2001:db8::1]:80"],
    );
    check(
        &["10.0.0.1:80", "[2001:db8::1]:80"],
        &policy(),
        &["10.0.0.1:80", "[2001:db8::1]:80"],
    );
}

prop_compose! {
    fn given()(
        ip in prop_oneof![Just(Ipv4Addr::LOCALHOST), (1..12_u32).prop_map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n))],
        (ready, serving, terminating) in any::<(bool, bool, bool)>(),
        weight in 0..3_u16,
        node in prop::option::of(prop_oneof![Just("here"), Just("there")]),
        zones in prop::sample::subsequence(vec!["z1", "z2"], 0..=2),
        nodes in prop::sample::subsequence(vec!["here", "there"], 0..=2),
    ) -> GivenEndpoint {
        GivenEndpoint {
            addr: EndpointAddr(SocketAddr::new(IpAddr::V4(ip), 80)),
            ready,
            serving,
            terminating,
            weight,
            node: node.map(Arc::from),
            zones: zones.into_iter().map(Arc::from).collect(),
            nodes: nodes.into_iter().map(Arc::from).collect(),
        }
    }
}

proptest! {
    #[test]
    fn the_rules_hold_for_any_endpoints(
        given in prop::collection::vec(given(), 0..20),
        publish_not_ready: bool,
        local: bool,
        turn in 0..20_usize,
    ) {
        let policy = Policy { publish_not_ready, only_node: local.then_some("here"), ..policy() };
        let outcome = eligible(given.iter().map(GivenEndpoint::candidate), &policy);
        let set = &outcome.set();
        prop_assert!(outcome.is(set), "it is what it comes to");

        let mut turned = given.clone();
        turned.rotate_left(turn % given.len().max(1));
        prop_assert_eq!(&outcome, &eligible(turned.iter().map(GivenEndpoint::candidate), &policy), "free of order");

        let mut addrs: Vec<_> = set.eligible.iter().map(|endpoint| endpoint.addr)
            .chain(set.excluded.iter().map(|excluded| excluded.addr)).collect();
        addrs.sort();
        let mut all: Vec<_> = given.iter().map(|given| given.addr).collect();
        all.sort();
        all.dedup();
        prop_assert_eq!(addrs, all, "each address is in one of the two, once");
        prop_assert!(set.eligible.is_sorted_by_key(|endpoint| endpoint.addr));
        prop_assert!(set.excluded.is_sorted_by_key(|excluded| excluded.addr));

        let usable = |given: &&GivenEndpoint| {
            guarded(given.addr).is_ok() && given.weight > 0
                && (!local || given.node.as_deref() == Some("here"))
        };
        let is_ready = |given: &GivenEndpoint| given.ready || publish_not_ready;
        for endpoint in &set.eligible {
            prop_assert!(guarded(endpoint.addr).is_ok(), "never a guarded address");
            prop_assert!(endpoint.weight > 0);
            prop_assert!(!local || endpoint.node.as_deref() == Some("here"));
            let ready = given.iter().filter(|given| given.addr == endpoint.addr).any(is_ready);
            prop_assert_eq!(ready, !outcome.fallback, "all are ready, or none is");
        }
        if set.eligible.is_empty() {
            let left = given.iter().filter(usable);
            let mut left = left.filter(|given| is_ready(given));
            // A duplicate that wins by readiness may be in maintenance or on another node.
            let hidden = |one: &GivenEndpoint| given.iter().any(|other| other.addr == one.addr && usable(&other).eq(&false));
            prop_assert!(left.all(hidden), "a ready endpoint is never withheld");
        }
    }
}
