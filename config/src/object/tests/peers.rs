use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::bgp_peer::{BfdSettings, BgpPeer, PeerAsn};
use crate::selector::{Expression, Selector};

/// A BGPPeer with these fields of `spec`, problems and all.
fn any_peer(spec: &str) -> Arc<BgpPeer> {
    let object = json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "BGPPeer",
        "metadata": {"name": "tor"}, "spec": value(spec)});
    match read(&object).unwrap().object {
        Object::BgpPeer(peer) => peer,
        other => panic!("{other:?}"),
    }
}

fn peer(spec: &str) -> Arc<BgpPeer> {
    let peer = any_peer(spec);
    assert!(peer.problems.is_empty(), "{spec}: {:?}", peer.problems);
    peer
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_peer_has_the_defaults_of_its_schema() {
    let read = peer("{myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1}");
    let mut wanted = BgpPeer::new(
        "tor".into(),
        64_512,
        PeerAsn::Number(64_513),
        address("192.0.2.1"),
    );
    wanted.notices = read.notices.clone();
    assert_eq!(*read, wanted);
    assert_eq!(read.keepalive_time, Duration::from_secs(30));
}

#[test]
fn every_field_of_a_peer_is_read() {
    let read = peer(
        "{myASN: 4200000000, dynamicASN: external, peerAddress: 'fe80::1', interface: eth1, peerPort: 1179, \
         sourceAddress: 'fe80::2', routerID: 192.0.2.7, holdTime: 1m30s, keepaliveTime: 10s, connectTime: 1s, \
         password: hush, bfd: {receiveInterval: 50, detectMultiplier: 5}, ebgpMultiHop: true, \
         enableGracefulRestart: true, nodeSelectors: [{matchLabels: {rack: a}}, {}], nextHop: '2001:db8::9'}",
    );
    assert_eq!(read.my_asn, 4_200_000_000);
    assert_eq!(read.peer_asn, PeerAsn::External);
    assert_eq!(read.peer_address, Some(address("fe80::1")));
    assert_eq!(read.interface.as_deref(), Some("eth1"));
    assert_eq!(read.peer_port, 1179);
    assert_eq!(read.source_address, Some(address("fe80::2")));
    assert_eq!(read.router_id, Some("192.0.2.7".parse().unwrap()));
    assert_eq!(read.hold_time, Duration::from_secs(90));
    assert_eq!(read.keepalive_time, Duration::from_secs(10));
    assert_eq!(read.connect_time, Duration::from_secs(1));
    assert_eq!(read.password.as_deref(), Some("hush"));
    let bfd = BfdSettings {
        receive_interval: Duration::from_millis(50),
        transmit_interval: Duration::from_millis(100),
        detect_multiplier: 5,
    };
    assert_eq!(read.bfd, Some(bfd));
    assert!(read.ebgp_multi_hop && read.graceful_restart);
    let rack = Selector::from_iter([Expression::Equal("rack".to_owned(), "a".to_owned())]);
    assert_eq!(read.node_selectors, [rack, Selector::default()]);
    assert_eq!(read.next_hop, Some(address("2001:db8::9")));
    assert!(!read.ttl_security);
    // On a link without addresses, and without a time-out.
    let read = peer(
        "{myASN: 1, dynamicASN: internal, interface: eth1, holdTime: 0s, bfd: {}, ttlSecurity: true}",
    );
    assert_eq!(
        (read.peer_asn, read.peer_address),
        (PeerAsn::Internal, None)
    );
    assert!(read.hold_time.is_zero() && read.keepalive_time.is_zero());
    assert!(read.bfd.is_some() && read.ttl_security);
}

#[test]
fn what_is_wrong_with_a_peer_is_said_with_its_field() {
    for (fields, problem) in [
        ("", ""),
        (
            "peerAdress: 192.0.2.2",
            "spec.peerAdress: is no field of this object; is peerAddress meant?",
        ),
        (
            "myASN: 0",
            "spec.myASN: is 0, must be a whole number from 1 to 4294967295",
        ),
        (
            "peerASN: 23456",
            "spec.peerASN: is 23456, which no AS has: it stands for numbers above 65535 (AS_TRANS)",
        ),
        (
            "peerASN: 4294967296",
            "spec.peerASN: is 4294967296, must be a whole number from 1 to 4294967295",
        ),
        (
            "ttlSecurity: true, ebgpMultiHop: true",
            "spec.ttlSecurity: stands beside ebgpMultiHop: it is for a peer on the same link",
        ),
        (
            "dynamicASN: internal",
            "spec.dynamicASN: stands beside peerASN: give one of the two",
        ),
        (
            "peerASN: null",
            "spec.peerASN: is null: leave the field out, or say what is meant",
        ),
        (
            "peerAddress: 192.0.2.999",
            "spec.peerAddress: has '192.0.2.999', which is no IP address",
        ),
        (
            "peerAddress: 224.0.0.1",
            "spec.peerAddress: has '224.0.0.1', which is no unicast address",
        ),
        (
            "peerAddress: 'fe80::1'",
            "spec.peerAddress: is link-local: say in interface on which link it is",
        ),
        (
            "interface: eth0",
            "spec.interface: stands beside peerAddress: it is for a peer without an address, or with a link-local one",
        ),
        (
            "peerPort: 70000",
            "spec.peerPort: is 70000, must be a whole number from 1 to 65535",
        ),
        (
            "sourceAddress: '2001:db8::1'",
            "spec.sourceAddress: is 2001:db8::1, and peerAddress is 192.0.2.1: a session is within one family",
        ),
        (
            "routerID: 0.0.0.0",
            "spec.routerID: is '0.0.0.0', must be four numbers like 192.0.2.1, and not 0.0.0.0",
        ),
        (
            "holdTime: 2s",
            "spec.holdTime: is shorter than three seconds: write 3s or more, or 0s for no time-out",
        ),
        (
            "holdTime: 90",
            "spec.holdTime: is 90, must be a text: put it in quotes",
        ),
        (
            "holdTime: 1.5s",
            "spec.holdTime: is '1.5s', must be a duration like 90s or 1m30s, in whole seconds and at most 65535s",
        ),
        (
            "keepaliveTime: 90s",
            "spec.keepaliveTime: is 90s: it must be at least 1s and shorter than the hold time, 90s",
        ),
        (
            "connectTime: 0s",
            "spec.connectTime: is 0s, must be at least 1s",
        ),
        (
            "password: ''",
            "spec.password: is empty: leave the field out where there is no password",
        ),
        (
            "bfd: {receiveInterval: 5}",
            "spec.bfd.receiveInterval: is 5, must be a whole number from 10 to 60000",
        ),
        (
            "bfd: {detectMultiplier: 1}",
            "spec.bfd.detectMultiplier: is 1, must be a whole number from 2 to 255",
        ),
        (
            "bfd: {echoMode: true}",
            "spec.bfd.echoMode: is no field of this object; known are receiveInterval, transmitInterval, detectMultiplier",
        ),
        (
            "nodeSelectors: [null]",
            "spec.nodeSelectors[0]: is missing, must be a label selector",
        ),
        (
            "nodeSelectors: [{matchLabels: {rack: 1}}]",
            "spec.nodeSelectors[0].matchLabels.rack: is 1, must be a text: put it in quotes",
        ),
        (
            "nextHop: '::'",
            "spec.nextHop: has '::', which stands for no address; an address from a DHCP server is not among what Fairway does",
        ),
    ] {
        let mut spec = value("{myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1}");
        let more = value(&format!("{{{fields}}}"));
        let all = spec.as_object_mut().unwrap();
        all.extend(more.as_object().unwrap().clone());
        let peer = any_peer(&spec.to_string());
        let problems: Vec<_> = peer.problems.iter().map(ToString::to_string).collect();
        assert!(
            problems.iter().any(|it| it == problem) || problem.is_empty(),
            "{fields}: {problems:?}"
        );
        assert_eq!(problems.is_empty(), problem.is_empty(), "{problems:?}");
    }
    let nothing = any_peer("{}");
    let fields: Vec<_> = nothing
        .problems
        .iter()
        .map(|it| it.field.as_str())
        .collect();
    assert_eq!(fields, ["spec.myASN", "spec.peerAddress", "spec.peerASN"]);
}

#[test]
fn a_password_is_in_no_message() {
    for password in ["1234567", "[1234567]", &"1234567".repeat(12)] {
        let spec =
            format!("{{myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, password: {password}}}");
        let peer = any_peer(&spec);
        assert_eq!(peer.password, None);
        let [problem] = &peer.problems[..] else {
            panic!("{:?}", peer.problems)
        };
        assert_eq!(problem.field, "spec.password");
        assert!(!problem.message.contains("1234567"), "{problem}");
    }
}

#[test]
fn a_password_may_be_in_a_secret() {
    let spec = "{myASN: 1, peerASN: 2, peerAddress: 192.0.2.1, passwordSecret: {name: tor, namespace: fairway-system}}";
    let peer = any_peer(spec);
    assert!(peer.problems.is_empty(), "{:?}", peer.problems);
    let secret = peer.password_secret.as_ref().unwrap();
    assert_eq!(secret.to_string(), "fairway-system/tor");
    let both = any_peer(&spec.replace("passwordSecret", "password: x, passwordSecret"));
    assert!(both.problems[0].message.contains("give one of the two"));
    let nameless = any_peer(&spec.replace("name: tor, ", ""));
    assert_eq!(nameless.password_secret, None);
    assert_eq!(nameless.problems[0].field, "spec.passwordSecret.name");
}
