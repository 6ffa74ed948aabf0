//! A tenant who may write Services in one namespace, and nothing else, against the real API server.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::hostile::{self, Aims, Random};
use fairway_integration::in_cluster::AtWork;
use fairway_integration::servers::named;
use fairway_integration::site::{at, server, vip};
use fairway_integration::{tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    two_hundred_services_of_a_hostile_tenant_leave_the_others_alone,
];

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

/// Whether a Service has its answer: an address, or why it has none. One that we are to leave alone, or
/// that says that another controller has it, has none to wait for.
fn is_decided(service: &Value) -> bool {
    let controller = &service["metadata"]["annotations"]["fairway.dev/controller"];
    let of_another = controller.is_string() && controller != "fairway.dev/gateway";
    let conditions = service["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|it| it["type"] == "fairway.dev/AddressAssigned")
        || service["metadata"]["annotations"]["kube-vip.io/ignore"] == "true"
        || of_another
}

fn two_hundred_services_of_a_hostile_tenant_leave_the_others_alone() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut it = AtWork::begin_with(&cluster, &["203.0.113.0/27"], &[])?;
    let _servers = named(&it.site.farm, &[("a", at(server(0), 80))])?;
    cluster.namespace("tenant")?;
    cluster.apply(ROLE)?;
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
        it.says(name, "fairway.dev/Programmed", &["True"])?;
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
        // Every one of them is looked at, and then somebody else is served as ever.
        wait::until_some("all of the tenant's are decided", || {
            let all = cluster.list("Service", "tenant", "")?;
            ensure!(all.len() == made, "{} of {made}", all.len());
            let open: Vec<&Value> = all.iter().filter(|it| !is_decided(it)).collect();
            ensure!(open.is_empty(), "seed {SEED}: {open:?}");
            Ok(())
        })?;
        it.asking(
            ("shop", "next"),
            json!({"fairway.dev/pool": "staff"}),
            json!({}),
        )?;
        it.address("next").map(drop)
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
    for process in [&mut it.controller, &mut it.gateway] {
        process.ready()?;
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
