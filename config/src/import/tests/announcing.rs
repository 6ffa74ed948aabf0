use super::*;

#[test]
fn advertisements_are_merged_where_one_field_can_say_them() {
    let advertisement = |spec: Value| {
        json!({"apiVersion": "metallb.io/v1beta1",
        "kind": "L2Advertisement", "metadata": {"name": "l2", "namespace": "metallb-system"},
        "spec": spec})
    };
    let nodes = |value: &str| json!([{"matchLabels": {"rack": value}}]);
    let table = [
        (vec![json!({})], json!({})),
        (vec![Value::Null], json!({})),
        (
            vec![json!({"ipAddressPools": ["b"], "interfaces": ["eth1"]})],
            Value::Null,
        ),
        (
            vec![json!({"interfaces": ["eth1"]})],
            json!({"interfaces": ["eth1"]}),
        ),
        (
            vec![
                json!({"interfaces": ["eth1"]}),
                json!({"interfaces": ["eth0"]}),
            ],
            json!({"interfaces": ["eth0", "eth1"]}),
        ),
        (vec![json!({"interfaces": ["eth1"]}), json!({})], json!({})),
        (
            vec![
                json!({"nodeSelectors": nodes("1")}),
                json!({"nodeSelectors": nodes("2")}),
            ],
            json!({"nodeSelector": {"matchExpressions":
                [{"key": "rack", "operator": "In", "values": ["1", "2"]}]}}),
        ),
        (
            vec![
                json!({"nodeSelectors": nodes("1"), "interfaces": ["eth1"]}),
                json!({"nodeSelectors": nodes("2"), "interfaces": ["eth0"]}),
            ],
            json!({}),
        ),
        // No interface can be called so; an empty list would stand for all of them.
        (vec![json!({"interfaces": ["eth/1"]})], Value::Null),
        (
            vec![json!({"interfaces": ["eth/1", "eth1"]})],
            json!({"interfaces": ["eth1"]}),
        ),
    ];
    for (advertisements, wanted) in table {
        let mut all = vec![pool(json!({"addresses": ["10.0.0.0/24"]}))];
        all.extend(advertisements.into_iter().map(advertisement));
        let imported = metallb(&all);
        let spec = spec_of(&imported, "a");
        assert_eq!(spec["announce"]["layer2"], wanted, "{all:?}");
    }
    let selective = advertisement(json!({"serviceSelectors": [{}], "interfaces": []}));
    let imported = metallb(&[pool(json!({"addresses": ["10.0.0.0/24"]})), selective]);
    says(
        &imported.warnings,
        &["L2Advertisement metallb-system/l2", "serviceSelectors"],
    );
}

/// A BGPPeer, a BFDProfile, a Community or a BGPAdvertisement of MetalLB's.
fn about_routers(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "metallb.io/v1beta2", "kind": kind,
        "metadata": {"name": name, "namespace": "metallb-system"}, "spec": spec})
}

#[test]
fn peers_become_peers_with_their_bfd() {
    let imported = metallb(&[
        about_routers(
            "BGPPeer",
            "tor-b",
            json!({"myASN": 64512, "dynamicASN": "external", "interface": "eth1",
                "password": "hush", "bfdProfile": "slow", "vrf": "red", "disableMP": false}),
        ),
        about_routers(
            "BGPPeer",
            "tor-a",
            json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1", "peerPort": 179,
                "holdTime": "3m0s", "keepaliveTime": "1m0s", "routerID": "192.0.2.7",
                "ebgpMultiHop": true, "bfdProfile": "fast", "passwordSecret": {"name": "tor"},
                "nodeSelectors": [{"matchLabels": {"rack": "a"}}, {"matchLabels": {"rack": "b"}}]}),
        ),
        about_routers(
            "BFDProfile",
            "fast",
            json!({"receiveInterval": 100, "echoMode": true, "passiveMode": false}),
        ),
        about_routers(
            "BGPPeer",
            "bad",
            json!({"myASN": 64512, "peerAddress": "192.0.2.2"}),
        ),
        pool(json!({"addresses": ["10.0.0.0/24"]})),
    ]);
    let specs: Vec<_> = imported
        .peers
        .iter()
        .map(|peer| {
            parsed_peer(peer);
            (peer.name.as_str(), peer.manifest()["spec"].clone())
        })
        .collect();
    assert_eq!(
        specs,
        [
            (
                "tor-a",
                json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "192.0.2.1",
                    "holdTime": "3m0s", "keepaliveTime": "1m0s", "routerID": "192.0.2.7",
                    "ebgpMultiHop": true,
                    "passwordSecret": {"name": "tor", "namespace": "metallb-system"},
                    "bfd": {"receiveInterval": 100, "transmitInterval": 300, "detectMultiplier": 3},
                    "nodeSelectors": [{"matchLabels": {"rack": "a"}}, {"matchLabels": {"rack": "b"}}]})
            ),
            (
                "tor-b",
                json!({"myASN": 64512, "dynamicASN": "external", "interface": "eth1"})
            ),
        ]
    );
    says(
        &imported.said,
        &["BGPPeer metallb-system/tor-a of MetalLB becomes BGPPeer tor-a of Fairway."],
    );
    for words in [
        &["tor-a", "BFDProfile fast", "echoMode."][..],
        &["tor-a", "passwordSecret names metallb-system/tor"],
        &[
            "tor-b",
            "the password that stands in",
            "kubernetes.io/basic-auth",
        ],
        &["tor-b", "this is not carried over: vrf."],
        &["tor-b", "BFDProfile slow, which is not there"],
        &["metallb-system/bad of MetalLB is left out", "spec.peerASN"],
    ] {
        says(&imported.warnings, words);
    }
    assert_eq!(imported.warnings.len(), 6, "{:#?}", imported.warnings);
    assert!(!format!("{imported:?}").contains("hush"));
}

#[test]
fn what_routers_are_told_is_carried_over_where_one_field_can_say_it() {
    let all_peers = |advertisements: &[Value]| -> (Value, Imported) {
        let mut all = vec![pool(json!({"addresses": ["10.0.0.0/24"]}))];
        for name in ["tor-a", "tor-b"] {
            let spec =
                json!({"myASN": 1, "peerASN": 2, "peerAddress": format!("192.0.2.{}", all.len())});
            all.push(about_routers("BGPPeer", name, spec));
        }
        let names = json!({"communities": [{"name": "no-export", "value": "65535:65281"},
            {"name": "big", "value": "large:64512:1:2"}]});
        all.push(about_routers("Community", "names", names));
        let advertisements = advertisements.iter().cloned();
        all.extend(advertisements.map(|it| about_routers("BGPAdvertisement", "bgp", it)));
        let imported = metallb(&all);
        (spec_of(&imported, "a")["announce"]["bgp"].clone(), imported)
    };
    let nodes = |value: &str| json!([{"matchLabels": {"rack": value}}]);
    let table = [
        (vec![], Value::Null),
        (vec![json!({})], json!({})),
        (vec![json!({"ipAddressPools": ["b"]})], Value::Null),
        (
            vec![json!({"aggregationLength": 32, "aggregationLengthV6": 128, "localPref": 0})],
            json!({}),
        ),
        (
            vec![
                json!({"aggregationLength": 24, "localPref": 7, "peers": ["tor-b", "tor-a"],
                "communities": ["no-export", "64512:1", "big"], "nodeSelectors": nodes("1")}),
            ],
            json!({"aggregationLength": 24, "localPreference": 7, "peers": ["tor-a", "tor-b"],
                "communities": ["64512:1", "65535:65281", "large:64512:1:2"],
                "nodeSelector": {"matchLabels": {"rack": "1"}}}),
        ),
        // They differ in the peers alone, or in the nodes alone.
        (
            vec![json!({"peers": ["tor-a"]}), json!({"peers": ["tor-b"]})],
            json!({"peers": ["tor-a", "tor-b"]}),
        ),
        (vec![json!({"peers": ["tor-a"]}), json!({})], json!({})),
        (
            vec![
                json!({"nodeSelectors": nodes("1")}),
                json!({"nodeSelectors": nodes("2")}),
            ],
            json!({"nodeSelector": {"matchExpressions":
                [{"key": "rack", "operator": "In", "values": ["1", "2"]}]}}),
        ),
    ];
    for (advertisements, wanted) in table {
        let (bgp, imported) = all_peers(&advertisements);
        assert_eq!(bgp, wanted, "{advertisements:?}");
        assert!(imported.warnings.is_empty(), "{:?}", imported.warnings);
    }
    // What can't be said is not told to anybody.
    for (advertisements, why) in [
        (
            vec![json!({"communities": ["64512:1"]}), json!({})],
            "they differ in more than their peers",
        ),
        (
            vec![json!({"communities": ["unknown"]})],
            "no Community says what 'unknown' is",
        ),
        (
            vec![json!({"communities": ["64512:70000"]})],
            "spec.announce.bgp.communities[0]",
        ),
        (vec![json!({"aggregationLength": 99})], "aggregationLength"),
        (
            vec![
                json!({"nodeSelectors": [{"matchLabels": {"a": "1"}}, {"matchLabels": {"b": "1"}}]}),
            ],
            "nodeSelectors are alternatives",
        ),
    ] {
        let (bgp, imported) = all_peers(&advertisements);
        assert_eq!(bgp, Value::Null, "{advertisements:?}");
        says(&imported.warnings, &["can't be carried over", why]);
        assert_eq!(imported.warnings.len(), 1, "{:?}", imported.warnings);
    }
    let (bgp, imported) = all_peers(&[json!({"peers": ["tor-c"], "serviceSelectors": [{}]})]);
    assert_eq!(bgp, json!({"peers": ["tor-c"]}));
    says(
        &imported.warnings,
        &["names the BGPPeer tor-c", "not carried over"],
    );
    says(
        &imported.warnings,
        &["this is not carried over: serviceSelectors."],
    );
}
