//! Who gets which address in a cluster, and what people are told of it.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::Installed;
use fairway_integration::site::{vip, vip6};
use fairway_integration::{fairway::text, tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    an_address_that_is_asked_for_in_any_dialect_is_given,
    a_full_pool_and_a_quota_are_said_and_end_when_an_address_is_free,
    a_pool_in_use_that_is_edited_or_deleted_takes_no_address_away,
    a_pool_that_is_wrong_is_refused_with_a_sentence_that_helps,
    a_peer_that_is_wrong_is_refused_with_a_sentence_that_helps,
    kubectl_shows_how_a_pool_is,
];

fn an_address_that_is_asked_for_in_any_dialect_is_given() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool(
        "edge",
        &["203.0.113.1-203.0.113.30", "2001:db8:f::1-2001:db8:f::9"],
    )?;
    it.pool("other", &["203.0.113.40-203.0.113.49"])?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    let dual = json!({"ipFamilyPolicy": "RequireDualStack"});
    let none = json!({});
    let asked: [(&str, Value, Value, Vec<IpAddr>); 7] = [
        (
            "core",
            json!({}),
            json!({"loadBalancerIP": "203.0.113.11"}),
            vec![vip(11)],
        ),
        (
            "ours",
            json!({"fairway.dev/addresses": "203.0.113.12,2001:db8:f::2"}),
            dual.clone(),
            vec![vip(12), vip6(2)],
        ),
        (
            "metallb",
            json!({"metallb.io/loadBalancerIPs": "203.0.113.13,2001:db8:f::3"}),
            dual,
            vec![vip(13), vip6(3)],
        ),
        (
            "metallb-old",
            json!({"metallb.universe.tf/loadBalancerIPs": "203.0.113.14"}),
            none.clone(),
            vec![vip(14)],
        ),
        (
            "cilium",
            json!({"lbipam.cilium.io/ips": "203.0.113.15"}),
            none.clone(),
            vec![vip(15)],
        ),
        (
            "cilium-old",
            json!({"io.cilium/lb-ipam-ips": "203.0.113.16"}),
            none.clone(),
            vec![vip(16)],
        ),
        (
            "kube-vip",
            json!({"kube-vip.io/loadbalancerIPs": "203.0.113.17"}),
            none.clone(),
            vec![vip(17)],
        ),
    ];
    for (name, asks, spec, _) in &asked {
        it.asking(("shop", name), asks.clone(), spec.clone())?;
    }
    for (name, _, _, wanted) in &asked {
        it.has(name, wanted)?;
    }
    // Of a pool the lowest that is free: one after the other, for which of two is older is counted
    // in seconds.
    for (name, asks, wanted) in [
        ("pool", "fairway.dev/pool", vip(40)),
        ("metallb-pool", "metallb.io/address-pool", vip(41)),
    ] {
        it.asking(("shop", name), json!({ asks: "other" }), none.clone())?;
        let has = it.address(name)?;
        ensure!(has == wanted, "{name}: {has}");
    }

    // Sharing: the same key and other ports.
    let key = |port: u16| {
        (
            json!({"metallb.io/allow-shared-ip": "k", "fairway.dev/addresses": "203.0.113.20"}),
            json!({"ports": [{"port": port}]}),
        )
    };
    for (name, port) in [("share-a", 80), ("share-b", 81)] {
        let (asks, spec) = key(port);
        it.asking(("shop", name), asks, spec)?;
        ensure!(it.address(name)? == vip(20));
    }
    let (asks, spec) = key(80);
    it.asking(("shop", "share-c"), asks, spec)?;
    it.says(
        "share-c",
        "fairway.dev/AddressAssigned",
        &["False", "SharingPortClash", "203.0.113.20"],
    )?;

    // What can't be given is said, and nothing else is given instead.
    for (name, asks, reason) in [
        (
            "outside",
            json!({"fairway.dev/addresses": "192.0.2.77"}),
            "AddressInNoPool",
        ),
        (
            "taken",
            json!({"fairway.dev/addresses": "203.0.113.11"}),
            "AddressHeld",
        ),
        (
            "no-pool",
            json!({"fairway.dev/pool": "nowhere"}),
            "NoSuchPool",
        ),
        (
            "not-in",
            json!({"metallb.io/address-pool": "other", "metallb.io/loadBalancerIPs": "203.0.113.18"}),
            "AddressNotInPool",
        ),
    ] {
        it.asking(("shop", name), asks, none.clone())?;
        it.says(name, "fairway.dev/AddressAssigned", &["False", reason])?;
        it.tells(name, "SyncLoadBalancerFailed", &[reason])?;
        ensure!(it.addresses(name)?.is_empty());
    }
    // Another wish on a live Service is granted.
    it.change("core", json!({"spec": {"loadBalancerIP": "203.0.113.19"}}))?;
    it.has("core", &[vip(19)])?;
    it.tells(
        "core",
        "UpdatedLoadBalancer",
        &["203.0.113.19", "203.0.113.11"],
    )?;
    ensure!(it.address("taken")? == vip(11));
    Ok(())
}

fn a_full_pool_and_a_quota_are_said_and_end_when_an_address_is_free() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.2"])?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    for name in ["a", "b"] {
        it.service(name, "ports: [{port: 80}]")?;
        it.address(name)?;
    }
    it.service("late", "ports: [{port: 80}]")?;
    let words = ["PoolExhausted", "'edge'", "all 2 IPv4 addresses are held"];
    it.says("late", "fairway.dev/AddressAssigned", &words)?;
    let condition = it.condition("late", "fairway.dev/AddressAssigned")?;
    let message = condition
        .strip_prefix("False PoolExhausted ")
        .context("another form")?;
    it.tells(
        "late",
        "SyncLoadBalancerFailed",
        &["PoolExhausted", message],
    )?;
    // Whoever waits has the finalizer: an address may come at any time.
    ensure!(it.finalizers("late")? == it.finalizers("a")?);
    let free = it.address("a")?;
    cluster.delete("Service", "shop", "a")?;
    ensure!(it.address("late")? == free);
    it.tells("late", "EnsuredLoadBalancer", &[&free.to_string()])?;

    // A quota counts for each namespace.
    it.pool_of("fair", "addresses: [203.0.113.16/28], quotaPerNamespace: 1")?;
    cluster.namespace("yard")?;
    let asks = json!({"fairway.dev/pool": "fair"});
    it.asking(("shop", "first"), asks.clone(), json!({}))?;
    it.address("first")?;
    it.asking(("shop", "second"), asks.clone(), json!({}))?;
    it.says(
        "second",
        "fairway.dev/AddressAssigned",
        &["QuotaExceeded", "quota of 1"],
    )?;
    it.tells(
        "second",
        "SyncLoadBalancerFailed",
        &["QuotaExceeded", "quota of 1"],
    )?;
    it.asking(("yard", "first"), asks, json!({}))?;
    cluster.wait_for(
        ("Service", "yard", "first"),
        "another namespace has one",
        |it| it["status"]["loadBalancer"]["ingress"][0]["ip"].is_string(),
    )?;
    cluster.delete("Service", "shop", "first")?;
    it.address("second")?;
    Ok(())
}

fn a_pool_in_use_that_is_edited_or_deleted_takes_no_address_away() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
    let mut controller = it.controller("controller-1", &["--default-class"])?;
    it.service("web", "ports: [{port: 80}]")?;
    let address = it.address("web")?;
    ensure!(address == vip(1));
    it.pool("edge", &["203.0.113.5-203.0.113.9"])?;
    it.says("web", "fairway.dev/OutOfPool", &["True", "203.0.113.1"])?;
    it.tells("web", "OutOfPool", &["203.0.113.1"])?;
    cluster.kubectl(&["delete", "apool", "edge", "--timeout=60s"])?;
    it.service("next", "ports: [{port: 80}]")?;
    it.says("next", "fairway.dev/AddressAssigned", &["False", "NoPools"])?;
    it.says("web", "fairway.dev/OutOfPool", &["True", "203.0.113.1"])?;
    // Nor does a new controller.
    controller.restart()?;
    it.pool("fresh", &["203.0.113.8"])?;
    ensure!(it.address("next")? == vip(8));
    ensure!(it.addresses("web")? == [address.to_string()]);
    it.pool("edge", &["203.0.113.1-203.0.113.2"])?;
    wait::until_some("the condition goes when the pool is back", || {
        let service = it.get("web")?;
        let conditions = service["status"]["conditions"].as_array();
        let there = conditions
            .is_some_and(|all| all.iter().any(|it| it["type"] == "fairway.dev/OutOfPool"));
        ensure!(!there, "{service}");
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(it.addresses("web")? == [address.to_string()]);
    Ok(())
}

fn a_pool_that_is_wrong_is_refused_with_a_sentence_that_helps() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    for (spec, words) in [
        (
            "addresses: [203.0.113.0/33]",
            &["spec.addresses[0]", "must be a CIDR like 203.0.113.0/28"][..],
        ),
        (
            "addresses: [203.0.113.300]",
            &["spec.addresses[0]", "must be a CIDR like"],
        ),
        (
            "addresses: [2001:db8::/120, garden]",
            &["spec.addresses[1]", "a range like"],
        ),
        (
            "addresses: ['203.0.113.1-2001:db8::1']",
            &["within one family"],
        ),
        ("addresses: [0.0.0.0/0]", &["must not hold 0.0.0.0"]),
        ("addresses: []", &["spec.addresses", "at least 1"]),
        ("priority: 1", &["spec.addresses", "Required"]),
        (
            "addresses: [203.0.113.1], forwarding: Both",
            &["spec.forwarding", "Proxy"],
        ),
        (
            "addresses: [203.0.113.1], quotaPerNamespace: -1",
            &["spec.quotaPerNamespace"],
        ),
        (
            "addresses: [203.0.113.1], serviceSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}",
            &["spec.serviceSelector.matchExpressions[0].operator", "NotIn"],
        ),
        (
            "addresses: [203.0.113.1], namespaceSelector: {matchExpressions: [{key: a, operator: In, values: []}]}",
            &[
                "spec.namespaceSelector.matchExpressions[0]",
                "must have values for In and NotIn",
            ],
        ),
        (
            "addresses: [203.0.113.1], namespaceSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}",
            &["must have values for In and NotIn, and none for Exists"],
        ),
        (
            "addresses: [203.0.113.1], serviceSelector: {matchExpressions: [{key: '', operator: Exists}]}",
            &["spec.serviceSelector.matchExpressions[0].key"],
        ),
        (
            "addresses: [203.0.113.1], announce: {layer2: {interfaces: [eth0/1]}}",
            &["spec.announce.layer2.interfaces[0]"],
        ),
        (
            "addresses: [203.0.113.1], announce: {layer2: {interfaces: [eth0, eth0]}}",
            &["spec.announce.layer2.interfaces[1]", "Duplicate"],
        ),
        (
            "addresses: [203.0.113.1], announce: {layer2: {nodeSelector: {matchExpressions: [{key: a, operator: In}]}}}",
            &["spec.announce.layer2.nodeSelector", "must have values"],
        ),
        (
            "addresses: [203.0.113.1], announce: {bgp: {communities: ['64512:70000']}}",
            &["communities[0]", "must be two numbers from 0 to 65535"],
        ),
        (
            "addresses: [203.0.113.1], announce: {bgp: {communities: ['large:1:2:4294967296']}}",
            &["communities[0]", "must be three numbers"],
        ),
        (
            "addresses: [203.0.113.1], announce: {bgp: {communities: [no-export]}}",
            &["spec.announce.bgp.communities[0]"],
        ),
        (
            "addresses: [203.0.113.1], announce: {bgp: {peers: [Tor]}}",
            &["spec.announce.bgp.peers[0]"],
        ),
        (
            "addresses: [203.0.113.1], announce: {bgp: {aggregationLength: 33}}",
            &["spec.announce.bgp.aggregationLength"],
        ),
        (
            "addresses: [203.0.113.1], announce: {routes: table}",
            &["spec.announce.routes", "kernel"],
        ),
    ] {
        let Err(why) = it.pool_of("bad", spec) else {
            anyhow::bail!("{spec} is taken");
        };
        let why = format!("{why:#}");
        for word in words {
            ensure!(why.contains(word), "{spec}: '{word}' is not in {why}");
        }
    }
    // Good ones of every kind.
    it.pool(
        "edge",
        &[
            "203.0.113.0/28",
            "203.0.113.32-203.0.113.40",
            "203.0.113.64",
            "2001:db8:f::/120",
        ],
    )?;
    it.pool_of(
        "picky",
        "addresses: [203.0.113.80], serviceSelector: {matchLabels: {a: b}, matchExpressions: \
         [{key: a, operator: In, values: [b]}, {key: c, operator: DoesNotExist}]}",
    )?;
    it.pool_of(
        "announced",
        "addresses: [203.0.113.90], announce: {layer2: {interfaces: [eth0, bond0.7], nodeSelector: \
         {matchLabels: {a: b}}}, bgp: {peers: [tor-a, tor-b.rack], communities: ['64512:100', \
         'large:4294967295:0:7'], localPreference: 4294967295, aggregationLength: 32, \
         aggregationLengthV6: 128}, routes: kernel}",
    )
}

fn a_peer_that_is_wrong_is_refused_with_a_sentence_that_helps() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let peer = |name: &str, fields: &str| {
        it.cluster.apply(&format!(
            "{{apiVersion: fairway.dev/v1alpha1, kind: BGPPeer, metadata: {{name: {name}}}, \
             spec: {{{fields}}}}}"
        ))
    };
    let whole = "myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1";
    for (fields, words) in [
        (
            "peerASN: 64513, peerAddress: 192.0.2.1",
            &["spec.myASN"][..],
        ),
        (
            "myASN: 0, peerASN: 64513, peerAddress: 192.0.2.1",
            &["spec.myASN"],
        ),
        (
            "myASN: 64512, peerASN: 23456, peerAddress: 192.0.2.1",
            &["spec.peerASN", "AS_TRANS"],
        ),
        (
            "myASN: 64512, peerAddress: 192.0.2.1",
            &["must have one of peerASN and dynamicASN"],
        ),
        (
            "myASN: 64512, peerASN: 64513",
            &["must have peerAddress, or interface"],
        ),
        (
            "myASN: 64512, peerASN: 64513, peerAddress: 'fe80::1'",
            &["must have interface beside a peerAddress that is link-local"],
        ),
        (
            "myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.300",
            &["spec.peerAddress", "must be an IP address"],
        ),
    ] {
        let Err(why) = peer("bad", fields) else {
            anyhow::bail!("{fields} is taken");
        };
        let why = format!("{why:#}");
        for word in words {
            ensure!(why.contains(word), "{fields}: '{word}' is not in {why}");
        }
    }
    for (fields, word) in [
        (
            "dynamicASN: internal",
            "must have one of peerASN and dynamicASN",
        ),
        ("interface: eth0", "must have interface beside"),
        (
            "sourceAddress: '2001:db8::1'",
            "of the family of peerAddress",
        ),
        ("peerPort: 0", "spec.peerPort"),
        ("routerID: '2001:db8::1'", "must be four numbers"),
        ("holdTime: 2s", "must be 0s, or from 3s to 65535s"),
        ("holdTime: 100000s", "must be 0s, or from 3s to 65535s"),
        ("holdTime: 90", "spec.holdTime"),
        ("holdTime: 1.5s", "spec.holdTime"),
        ("keepaliveTime: 90s", "that is shorter than holdTime"),
        ("connectTime: 0s", "must be from 1s to 65535s"),
        ("password: hush", "put it into a Secret"),
        (
            "passwordSecret: {name: tor}",
            "spec.passwordSecret.namespace",
        ),
        ("bfd: {receiveInterval: 5}", "spec.bfd.receiveInterval"),
        ("bfd: {detectMultiplier: 1}", "spec.bfd.detectMultiplier"),
        (
            "nodeSelectors: [{matchExpressions: [{key: a, operator: In}]}]",
            "must have values for In",
        ),
        ("nextHop: self", "spec.nextHop"),
    ] {
        let Err(why) = peer("bad", &format!("{whole}, {fields}")) else {
            anyhow::bail!("{fields} is taken");
        };
        let why = format!("{why:#}");
        ensure!(why.contains(word), "{fields}: '{word}' is not in {why}");
    }
    // Good ones of every kind.
    peer("plain", whole)?;
    peer(
        "whole",
        "myASN: 4200000000, dynamicASN: external, peerAddress: 'fe80::1', interface: eth1, peerPort: 1179, \
         sourceAddress: 'fe80::2', routerID: 192.0.2.7, holdTime: 1m30s, keepaliveTime: 10s, \
         connectTime: 1s, passwordSecret: {name: tor, namespace: fairway-system}, bfd: {receiveInterval: 50}, \
         ebgpMultiHop: true, enableGracefulRestart: true, nodeSelectors: [{matchLabels: {rack: a}}, {}], \
         nextHop: '2001:db8::9'",
    )?;
    peer(
        "unnumbered",
        "myASN: 64512, dynamicASN: internal, interface: eth1, holdTime: 0s, ttlSecurity: true",
    )?;
    let peer = cluster.get_json("bgppeers.fairway.dev", "", "plain")?;
    ensure!(
        peer["spec"]["holdTime"] == "90s" && peer["spec"]["peerPort"] == 179,
        "{peer}"
    );
    let table = cluster.kubectl(&["get", "bgpp"])?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    ensure!(
        rows[0] == ["NAME", "ADDRESS", "ASN", "MY-ASN", "READY", "AGE"],
        "{table}"
    );
    ensure!(
        rows[1][..4] == ["plain", "192.0.2.1", "64513", "64512"],
        "{table}"
    );
    Ok(())
}

/// Waits until a pool's condition has each of `words`.
fn pool_says(cluster: &Cluster, name: &str, kind: &str, words: &[&str]) -> Result<()> {
    wait::until_some(&format!("{kind} of the pool {name} says {words:?}"), || {
        let pool = cluster.get_json("AddressPool", "", name)?;
        let conditions = pool["status"]["conditions"].as_array().cloned();
        let conditions = conditions.unwrap_or_default();
        let found = conditions.iter().find(|it| text(it, "type") == kind);
        let found = found.with_context(|| format!("{pool}"))?;
        let said = ["status", "reason", "message"]
            .map(|field| text(found, field))
            .join(" ");
        ensure!(words.iter().all(|word| said.contains(word)), "{said}");
        Ok(())
    })
}

fn kubectl_shows_how_a_pool_is() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controller("controller-1", &["--default-class"])?;
    it.pool("edge", &["203.0.113.0/28", "2001:db8:f::1-2001:db8:f::9"])?;
    it.asking(
        ("shop", "web"),
        json!({}),
        json!({"ipFamilyPolicy": "RequireDualStack"}),
    )?;
    it.address("web")?;
    pool_says(&cluster, "edge", "Ready", &["True"])?;
    wait::until_some("the counters are right", || {
        let status = cluster.get_json("AddressPool", "", "edge")?["status"].clone();
        ensure!(
            status["ipv4"] == json!({"total": 16, "used": 1, "available": 15}),
            "{status}"
        );
        ensure!(
            status["ipv6"] == json!({"total": 9, "used": 1, "available": 8}),
            "{status}"
        );
        Ok(())
    })?;
    let table = cluster.kubectl(&["get", "apool"])?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|row| row.split_whitespace().collect())
        .collect();
    ensure!(
        rows[0]
            == [
                "NAME",
                "TOTAL",
                "USED",
                "AVAILABLE",
                "AUTO-ASSIGN",
                "READY",
                "AGE"
            ],
        "{table}"
    );
    ensure!(
        rows[1][..6] == ["edge", "16", "1", "15", "true", "True"],
        "{table}"
    );
    // Two that have addresses in common say so, and nothing is given out twice.
    it.pool("twin", &["203.0.113.8/29"])?;
    for (name, other) in [("edge", "twin"), ("twin", "edge")] {
        pool_says(&cluster, name, "Overlaps", &["True", other])?;
    }
    cluster.kubectl(&["delete", "apool", "twin", "--timeout=60s"])?;
    wait::until_some("nothing overlaps", || {
        let pool = cluster.get_json("AddressPool", "", "edge")?;
        let conditions = pool["status"]["conditions"].to_string();
        let overlaps = pool["status"]["conditions"].as_array().is_some_and(|all| {
            all.iter()
                .any(|it| text(it, "type") == "Overlaps" && text(it, "status") == "True")
        });
        ensure!(!overlaps, "{conditions}");
        Ok(())
    })?;
    cluster.delete("Service", "shop", "web")?;
    wait::until_some("nothing is used", || {
        let status = cluster.get_json("AddressPool", "", "edge")?["status"].clone();
        ensure!(
            status["ipv4"]["used"] == 0 && status["ipv6"]["used"] == 0,
            "{status}"
        );
        Ok(())
    })
}
