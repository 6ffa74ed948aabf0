//! What other providers' annotations ask for beside addresses and pools, and what Fairway leaves undone
//! on purpose.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::AtWork;
use fairway_integration::site::{at, client, vip};
use fairway_integration::{clients, tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    two_namespaces_share_an_address_where_both_say_so,
    source_ranges_keep_out_where_cilium_says_deny,
    a_host_name_stands_beside_the_address,
    what_contradicts_itself_is_told,
    external_ips_are_not_served,
];

/// Waits until the Services of a namespace that have an address have these.
fn holds(cluster: &Cluster, namespace: &str, wanted: &[(&str, IpAddr)]) -> Result<()> {
    wait::until_some(&format!("{namespace} has {wanted:?}"), || {
        let held = cluster.holders(namespace)?;
        let wanted = wanted
            .iter()
            .map(|(name, ip)| ((*name).to_owned(), vec![ip.to_string()]));
        ensure!(held == wanted.collect(), "{held:?}");
        Ok(())
    })
}

fn two_namespaces_share_an_address_where_both_say_so() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    cluster.namespace("yard")?;
    for (n, (key, namespaces)) in [
        ("fairway.dev/sharing-key", "fairway.dev/sharing-namespaces"),
        (
            "lbipam.cilium.io/sharing-key",
            "lbipam.cilium.io/sharing-cross-namespace",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let port = |port: u16| json!({"ports": [{"port": port}]});
        let with = |other: &str| json!({key: format!("k{n}"), namespaces: other});
        let (one, other) = (format!("one-{n}"), format!("other-{n}"));
        it.asking(("shop", &one), with("yard"), port(80))?;
        let ip = it.address(&one)?;
        let mut asks = with("elsewhere");
        asks["fairway.dev/addresses"] = json!(ip);
        it.asking(("yard", &other), asks, port(81))?;
        let service = ("Service", "yard", other.as_str());
        let refused = |it: &Value| {
            let said = it["status"]["conditions"].to_string();
            said.contains("\"fairway.dev/AddressAssigned\"") && said.contains("Sharing")
        };
        cluster.wait_for(service, "one side alone is not enough", refused)?;
        let patch = json!({"metadata": {"annotations": {namespaces: "shop"}}});
        cluster.patch(service, "", &patch)?;
        holds(&cluster, "yard", &[(&other, ip)])?;
        it.has(&one, &[ip])?;
        cluster.delete("Service", "yard", &other)?;
    }
    Ok(())
}

fn source_ranges_keep_out_where_cilium_says_deny() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web()?;
    it.answers(web.ip, 80, Some("a"))?;
    let let_in = |wanted: [bool; 2]| {
        wait::until_some(&format!("clients are let in: {wanted:?}"), || {
            let from = |n: u8| clients::who_from(client(n), at(web.ip, 80)).is_ok();
            let are = it.site.client.run(|| [from(0), from(1)]);
            ensure!(are == wanted, "{are:?}");
            Ok(())
        })
    };
    let ranges = json!([format!("{}/32", client(0))]);
    it.change("web", json!({"spec": {"loadBalancerSourceRanges": ranges}}))?;
    let_in([true, false])?;
    for (policy, wanted) in [
        (json!("deny"), [false, true]),
        (json!("allow"), [true, false]),
        (json!(null), [true, false]),
    ] {
        let asks = json!({"service.cilium.io/src-ranges-policy": policy});
        it.change("web", json!({"metadata": {"annotations": asks}}))?;
        let_in(wanted)?;
    }
    // Fairway's own list keeps out whoever is let in.
    let asks = json!({"fairway.dev/deny-source-ranges": format!("{}/32", client(0))});
    it.change("web", json!({"metadata": {"annotations": asks}}))?;
    let_in([false, false])?;
    it.change("web", json!({"spec": {"loadBalancerSourceRanges": null}}))?;
    let_in([false, true])
}

fn a_host_name_stands_beside_the_address() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web()?;
    let shows = |name: Value| {
        wait::until_some(&format!("the status shows {name}"), || {
            let ingress = it.get("web")?["status"]["loadBalancer"]["ingress"].take();
            ensure!(
                ingress[0]["hostname"] == name && ingress[1].is_null(),
                "{ingress}"
            );
            ensure!(ingress[0]["ip"] == json!(web.ip), "{ingress}");
            Ok(())
        })
    };
    for name in [
        json!("lb.example.com"),
        json!("other.example.com"),
        json!(null),
    ] {
        let asks = json!({"kube-vip.io/loadbalancerHostname": name});
        it.change("web", json!({"metadata": {"annotations": asks}}))?;
        shows(name)?;
    }
    it.answers(web.ip, 80, Some("a"))
}

fn what_contradicts_itself_is_told() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let field = json!({"loadBalancerIP": "203.0.113.4"});
    for (name, asks, spec, wanted, words) in [
        (
            "both",
            json!({"metallb.io/loadBalancerIPs": "203.0.113.5"}),
            field.clone(),
            vip(5),
            ["ConflictingAnnotations", "which MetalLB refuses"],
        ),
        (
            "two",
            json!({"fairway.dev/addresses": "203.0.113.6", "lbipam.cilium.io/ips": "203.0.113.7"}),
            json!({}),
            vip(6),
            ["ConflictingAnnotations", "lbipam.cilium.io/ips"],
        ),
        (
            "old",
            json!({"metallb.io/loadBalancerIPs": "203.0.113.8",
                "metallb.universe.tf/loadBalancerIPs": "203.0.113.9"}),
            json!({}),
            vip(8),
            [
                "ConflictingAnnotations",
                "metallb.universe.tf/loadBalancerIPs",
            ],
        ),
    ] {
        it.asking(("shop", name), asks, spec)?;
        it.has(name, &[wanted])?;
        it.tells(name, words[0], &words[1..])?;
    }
    Ok(())
}

fn external_ips_are_not_served() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web()?;
    // Of the pool, and so with a way that leads to the edge (CVE-2020-8554).
    let other = vip(9);
    it.change("web", json!({"spec": {"externalIPs": [other]}}))?;
    it.service("next", "ports: [{port: 80}], externalIPs: [203.0.113.8]")?;
    let next = it.address("next")?;
    wait::until("the gateway has heard of both", || {
        it.gateway
            .external_ips("shop/next")
            .is_ok_and(|ips| ips == [next.to_string()])
    })?;
    it.answers(web.ip, 80, Some("a"))?;
    for listener in it.gateway.list("listeners")? {
        let listen = listener["listen"].as_str().unwrap_or_default();
        let served = [other, vip(8)]
            .iter()
            .any(|ip| listen.starts_with(&format!("{ip}:")));
        ensure!(!served, "{listener}");
    }
    ensure!(it.who(at(other, 80)).is_none());
    Ok(())
}
