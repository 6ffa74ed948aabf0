//! BGPPeers: to whom sessions are opened, and by whom.

use std::sync::Arc;

use fairway_config::bgp_peer::BgpPeer;
use fairway_config::object::Object;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::defect::{every_defect, labels, object};

fn peer(value: &Value) -> Option<Arc<BgpPeer>> {
    match object(value)? {
        Object::BgpPeer(peer) => Some(peer),
        _ => None,
    }
}

fn any_peer() -> impl Strategy<Value = Value> {
    (any::<[bool; 10]>(), any::<bool>()).prop_map(|(with, on_a_link)| {
        let mut spec = match on_a_link {
            true => json!({"myASN": 64512, "dynamicASN": "external", "peerAddress": "fe80::1",
                "interface": "eth1"}),
            false => json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1",
                "sourceAddress": "192.0.2.2"}),
        };
        let fields = spec.as_object_mut().unwrap();
        let optional = [
            ("peerPort", json!(1179)),
            ("routerID", json!("192.0.2.9")),
            ("holdTime", json!("90s")),
            ("keepaliveTime", json!("10s")),
            ("password", json!("hush")),
            ("bfd", json!({"receiveInterval": 50, "detectMultiplier": 5})),
            ("ebgpMultiHop", json!(false)),
            ("ttlSecurity", json!(true)),
            (
                "nodeSelectors",
                json!([{"matchLabels": {"team": "a"}}, {"matchExpressions": [
                {"key": "team", "operator": "In", "values": ["b"]},
                {"key": "old", "operator": "DoesNotExist"}]}]),
            ),
            ("nextHop", json!("192.0.2.77")),
        ];
        for ((key, value), with) in optional.into_iter().zip(with) {
            if with {
                fields.insert(key.into(), value);
            }
        }
        json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "BGPPeer",
            "metadata": {"name": "tor"}, "spec": spec})
    })
}

fn peers_keep_closed(whole: &Value) {
    let before = peer(whole).unwrap();
    assert!(before.problems.is_empty(), "{:?}", before.problems);
    every_defect(whole, |path, defect, defective, allowed| {
        let Some(now) = peer(defective).filter(|peer| peer.problems.is_empty()) else {
            return;
        };
        let what = format!("{defect:?} at {path:?}: {defective}");
        assert_eq!(now.password, before.password, "{what}");
        assert_eq!(now.interface, before.interface, "{what}");
        assert!(before.ebgp_multi_hop || !now.ebgp_multi_hop, "{what}");
        assert!(before.graceful_restart || !now.graceful_restart, "{what}");
        let allowed: Vec<_> = allowed.iter().filter_map(peer).collect();
        let may = |is_so: &dyn Fn(&BgpPeer) -> bool| allowed.iter().any(|it| is_so(it));
        assert!(may(&|it| it.peer_address == now.peer_address), "{what}");
        assert!(may(&|it| it.ttl_security == now.ttl_security), "{what}");
        assert!(may(&|it| it.next_hop == now.next_hop), "{what}");
        assert!(may(&|it| it.source_address == now.source_address), "{what}");
        for labels in labels() {
            let (was, is) = (before.is_for(Some(&labels)), now.is_for(Some(&labels)));
            assert!(was || !is, "a session from {labels:?}: {what}");
        }
        assert!(before.is_for(None) || !now.is_for(None), "{what}");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_peer_with_a_defect_has_no_session_that_it_had_not(whole in any_peer()) {
        peers_keep_closed(&whole);
    }

    /// What has no problem is whole: a session needs all of it.
    #[test]
    fn a_peer_is_whole_or_says_what_is_wrong(
        address in "192\\.0\\.2\\.[0-9]{1,3}|fe80::[0-9a-f]{0,2}|[0-9a-f.:]{0,9}",
        interface in proptest::option::of("[a-z0-9./ ]{0,16}"),
        numbers in any::<[u32; 2]>(),
        dynamic in proptest::option::of("internal|external|[a-z]{0,4}"),
        times in proptest::collection::vec("[0-9]{0,6}[hms]{0,2}", 3),
        password in proptest::option::of("[a-z]{0,90}"),
    ) {
        let [my_asn, peer_asn] = numbers;
        let mut spec = json!({"myASN": my_asn, "peerAddress": address, "holdTime": times[0],
            "keepaliveTime": times[1], "connectTime": times[2]});
        match dynamic {
            Some(dynamic) => spec["dynamicASN"] = json!(dynamic),
            None => spec["peerASN"] = json!(peer_asn),
        }
        if let Some(interface) = &interface {
            spec["interface"] = json!(interface);
        }
        if let Some(password) = &password {
            spec["password"] = json!(password);
        }
        let document = json!({"apiVersion": "fairway.dev/v1alpha1", "kind": "BGPPeer",
            "metadata": {"name": "tor"}, "spec": spec});
        let peer = peer(&document).expect("it is there");
        for problem in &peer.problems {
            prop_assert!(problem.field.starts_with("spec."), "{}", problem);
            prop_assert!(!problem.message.is_empty());
        }
        if peer.problems.is_empty() {
            prop_assert!(peer.my_asn > 0);
            prop_assert!(peer.peer_address.is_some() || peer.interface.is_some());
            prop_assert_eq!(peer.password.as_deref(), password.as_deref());
            let (hold, keepalive) = (peer.hold_time.as_secs(), peer.keepalive_time.as_secs());
            prop_assert!(hold == 0 && keepalive == 0 || (3..=65_535).contains(&hold));
            prop_assert!(hold == 0 || (1..hold).contains(&keepalive));
            prop_assert!((1..=65_535).contains(&peer.connect_time.as_secs()));
        }
    }
}
