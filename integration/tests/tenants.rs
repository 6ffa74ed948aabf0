//! A tenant who may write Services in one namespace, and nothing else, against the real API server.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::hostile::{self, Aims, Random};
use fairway_integration::in_cluster::Installed;
use fairway_integration::servers::named;
use fairway_integration::site::{server, vip};
use fairway_integration::{tests, wait};
use serde_json::{Value, json};

tests![two_hundred_services_of_a_hostile_tenant_leave_the_others_alone];

const MANY: usize = 200;

/// Any will do; tests/annotations.rs goes through hundreds.
const SEED: u64 = 4;

const AIMS: Aims<'_> = Aims {
    addresses: &[
        "203.0.113.1",
        "203.0.113.2",
        "203.0.113.3",
        "203.0.113.40",
        "203.0.113.65",
        "198.51.100.1",
        "192.0.2.20",
        "198.18.0.1",
        "10.96.0.1",
    ],
    words: &["k", "edge", "staff", "shop", "tenant", "*"],
};

const ROLE: &str = "\
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role,
 metadata: {name: tenant, namespace: tenant},
 rules: [{apiGroups: [''], resources: [services], verbs: ['*']}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding,
 metadata: {name: tenant, namespace: tenant},
 roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tenant},
 subjects: [{kind: User, name: tenant, apiGroup: rbac.authorization.k8s.io}]}
---
{apiVersion: fairway.dev/v1alpha1, kind: AddressPool, metadata: {name: staff},
 spec: {addresses: [203.0.113.64/28], namespaceSelector:
  {matchLabels: {kubernetes.io/metadata.name: shop}}}}
";

/// What of a Service a tenant can't have touched: all but what counts writes.
fn essence(service: &Value) -> Value {
    json!([
        service["spec"],
        service["status"],
        service["metadata"]["annotations"],
        service["metadata"]["finalizers"],
    ])
}

fn two_hundred_services_of_a_hostile_tenant_leave_the_others_alone() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _servers = named(&it.site.farm, &[("a", (server(0), 80).into())])?;
    it.pool("edge", &["203.0.113.0/27"])?;
    cluster.namespace("tenant")?;
    cluster.apply(ROLE)?;
    let mut controller = it.controller("controller-1", &["--default-class"])?;
    let mut gateway = it.gateway(&["--default-class"])?;
    cluster.node("node-a", &[server(9)], &[])?;
    it.asking(
        ("shop", "web"),
        json!({"fairway.dev/addresses": "203.0.113.1"}),
        json!({}),
    )?;
    it.asking(
        ("shop", "shares"),
        json!({"fairway.dev/addresses": "203.0.113.2", "fairway.dev/sharing-key": "k"}),
        json!({"selector": {"app": "web"}}),
    )?;
    it.asking(
        ("shop", "staff"),
        json!({"fairway.dev/pool": "staff", "fairway.dev/addresses": "203.0.113.65"}),
        json!({"selector": {"app": "web"}}),
    )?;
    let others = ["web", "shares", "staff"]
        .into_iter()
        .zip([vip(1), vip(2), vip(65)]);
    let others: Vec<(&str, IpAddr)> = others.collect();
    it.pod("web", 0, server(0), "node-a")?;
    let mut before = Vec::new();
    for (name, address) in &others {
        it.answers(*address, 80, Some("a"))?;
        it.says(name, "Programmed", &["True"])?;
        before.push(essence(&it.get(name)?));
    }

    let mut random = Random::new(SEED);
    let mut items = Vec::new();
    for n in 0..MANY {
        let mut service = hostile::service(&mut random, &format!("mine-{n}"), &AIMS);
        service["metadata"]["namespace"] = "tenant".into();
        items.push(service);
    }
    let tenant = cluster.kubeconfig_of_user("tenant", None)?;
    let mut made = 0;
    it.served_while((vip(1), 80).into(), "a", || {
        // In several goes: what a request may be is limited.
        for items in items.chunks(20) {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
            let arguments = ["create", "-f", "-", "-o", "name"];
            let output = cluster.kubectl_as(&tenant, &arguments, &list.to_string())?;
            // Some are nothing that the API server takes; the others are made.
            made += String::from_utf8_lossy(&output.stdout).lines().count();
        }
        ensure!(made > MANY / 2, "seed {SEED}: only {made} were taken");
        // What is asked for last is answered last.
        it.asking(
            ("shop", "next"),
            json!({"fairway.dev/pool": "staff"}),
            json!({}),
        )?;
        it.address("next")?;
        controller.ready()?;
        gateway.ready()
    })?;

    for ((name, address), before) in others.iter().zip(&before) {
        let now = essence(&it.get(name)?);
        ensure!(now == *before, "seed {SEED}: {before} is {now}");
        it.answers(*address, 80, Some("a"))?;
    }
    let holders = cluster.holders("tenant")?;
    ensure!(!holders.is_empty(), "seed {SEED}: nobody has an address");
    for (name, addresses) in &holders {
        for address in addresses {
            let address: IpAddr = address.parse()?;
            let free = (0..32).any(|n| address == vip(n) && n != 1 && n != 2);
            ensure!(free, "seed {SEED}: {name} has {address}");
        }
    }
    for process in [&mut controller, &mut gateway] {
        ensure!(process.process()?.ended()?.is_none(), "seed {SEED}");
    }
    // What they had is given back.
    let all = ["delete", "--raw", "/api/v1/namespaces/tenant/services"];
    let output = cluster.kubectl_as(&tenant, &all, "")?;
    ensure!(output.status.success(), "seed {SEED}: {output:?}");
    wait::until_some("the pool has them again", || {
        let used = cluster.get_json("AddressPool", "", "edge")?["status"]["ipv4"]["used"].clone();
        ensure!(used == 2, "{used}");
        Ok(())
    })
}
