//! Planned moves: a gateway that is to leave hands its addresses over, while clients go on. Without a cluster it is asked
//! by its admin address, in a cluster by its Node.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::in_cluster::{DEFAULT_CLASS, Installed};
use fairway_integration::lan::announcers::Announcers as _;
use fairway_integration::lan::gateways::{self, LanGateways};
use fairway_integration::lan::network::{INTERFACE, Lan, LanEdge, Snooping, vip, vip6};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::lan::outage::figures;
use fairway_integration::lan::prober::Prober;
use fairway_integration::servers::named;
use fairway_integration::standstill::unless_the_machine_stands_still;
use fairway_integration::{programs, tests, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

tests![
    a_gateway_without_a_cluster_is_drained_while_clients_go_on,
    a_node_that_is_to_leave_moves_its_addresses,
];

/// How long each address must have had one owner and no other one.
const SETTLED: Duration = Duration::from_secs(1);

/// So many attempts must have been answered after a move.
const AFTER: usize = 30;

/// The admin address of every gateway, on its own host.
const ADMIN: &str = ":9901";

/// What the command printed, and how it ended.
fn said(output: &Output, code: i32, words: &[&str]) -> Result<String> {
    let said = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it));
    let said = said.join("");
    ensure!(output.status.code() == Some(code), "not {code}: {output:?}");
    for word in words {
        ensure!(said.contains(word), "no {word:?} in {said}");
    }
    Ok(said)
}

/// What `get gateways` shows of a gateway.
fn gateway_row(asked: &Fairway, name: &str) -> Result<Value> {
    let rows = asked.list("gateways")?;
    let row = rows.into_iter().find(|row| row["name"] == name);
    row.with_context(|| format!("no row of {name}"))
}

/// Waits until a gateway is shown to drain for such a reason; with none, to drain no more.
fn drains(asked: &Fairway, name: &str, reason: Option<&str>) -> Result<()> {
    wait::until_some(&format!("{name} drains: {reason:?}"), || {
        let row = gateway_row(asked, name)?;
        let is_so = match (row["draining"].as_str(), reason) {
            (Some(said), Some(reason)) => said.contains(reason),
            (said, reason) => said == reason,
        };
        ensure!(is_so, "{row}");
        Ok::<_, anyhow::Error>(())
    })
}

fn names(lan: &Lan, owners: &BTreeMap<IpAddr, [u8; 6]>) -> Result<BTreeMap<IpAddr, String>> {
    let named = owners
        .iter()
        .map(|(address, hardware)| Ok((*address, lan.edge_with(*hardware)?.name.clone())));
    named.collect()
}

/// Who owns the first of these addresses: it owns the most, or as many as the others.
fn busiest(owners: &BTreeMap<IpAddr, String>) -> Result<String> {
    let count = |name: &&String| owners.values().filter(|it| it == name).count();
    let name = owners.values().max_by_key(count);
    name.cloned().context("nobody owns anything")
}

fn edge<'a>(lan: &'a Lan, name: &str) -> Result<&'a LanEdge> {
    let edge = lan.edges.iter().find(|it| it.name == name);
    edge.with_context(|| format!("no edge {name}"))
}

fn a_gateway_without_a_cluster_is_drained_while_clients_go_on() -> Result<()> {
    unless_the_machine_stands_still(drained_without_a_cluster)
}

fn drained_without_a_cluster() -> Result<()> {
    let addresses: Vec<IpAddr> = (1..=3).flat_map(|n| [vip(n), vip6(n)]).collect();
    let lan = Lan::new(3, Snooping::Mld)?;
    let _farm = named(&lan.farm, &gateways::endpoints())?;
    let pool = gateways::announced_pool(&["198.19.1.0/24", "2001:db8:c::f:0/112"]);
    let manifests = [pool, gateways::services(&addresses)].join("---\n");
    let mut all = LanGateways::start(&lan, &manifests)?;
    let observer = lan.observe(&addresses, ASKED_EVERY)?;
    let owners = || names(&lan, &observer.settled(&addresses, SETTLED)?);
    let before = owners()?;
    let name = busiest(&before)?;
    let leaves = edge(&lan, &name)?;
    let its: Vec<IpAddr> = before
        .keys()
        .filter(|it| before[*it] == name)
        .copied()
        .collect();
    let drain = ["drain", &*name, "--admin", ADMIN];

    // A simulation changes nothing, and a name that is not its own is refused.
    let gateway = all.on(leaves)?;
    let table = said(
        &gateway.cli(&[&drain[..], &["--simulate"]].concat())?,
        0,
        &["WOULD-GO-TO"],
    )?;
    let wrong = gateway.cli(&["drain", "edge-9", "--admin", ADMIN])?;
    said(&wrong, 1, &[&*name, "not edge-9"])?;
    ensure!(owners()? == before, "a simulation has moved something");
    drains(gateway, &name, None)?;

    // Clients of an address of it see nothing of the move.
    let client = *its.first().context("it has none")?;
    let prober = Prober::start_patient(&lan.client, (client, gateways::PORT).into())?;
    wait::until("attempts are answered", || prober.ended().len() > AFTER)?;
    let moved = said(
        &gateway.cli(&drain)?,
        0,
        &[&format!("The gateway on {name} is drained")],
    )?;
    let ended = prober.ended().len();
    wait::until("attempts go on", || prober.ended().len() > ended + AFTER)?;
    let seen = figures(&prober.finish()?);
    println!("a drain, seen by a client: {seen:?}");
    // Those under way at the moment of the move are passed on, and no packet is lost.
    ensure!(seen.failed == 0, "{seen:?}");
    let during = owners()?;
    for address in &addresses {
        let (was, is) = (&before[address], &during[address]);
        if !its.contains(address) {
            ensure!(was == is, "{address} moved from {was} to {is}");
            continue;
        }
        ensure!(*is != name, "{address} stays");
        let line = format!("{address} has moved to {is}\n");
        ensure!(moved.contains(&line), "no {line:?} in {moved}");
        let predicted = table
            .lines()
            .find(|line| line.starts_with(&format!("{address} ")));
        ensure!(
            predicted.is_some_and(|line| line.contains(&**is)),
            "{address} to {is}: {table}"
        );
    }
    drains(gateway, &name, Some("fairway drain has asked it to"))?;
    said(&gateway.cli(&["get", "gateways"])?, 0, &["True,Draining"])?;
    gateway.explains(
        "default/s0",
        &[&format!("{name} drains, because fairway drain")],
    )?;
    ensure!(
        gateway.get("/")?.body.contains("ready; drains, because"),
        "the status page"
    );

    // Its end moves nothing back.
    let undone = gateway.cli(&[&drain[..], &["--undo"]].concat())?;
    said(&undone, 0, &["may take addresses again"])?;
    drains(gateway, &name, None)?;
    ensure!(owners()? == during, "something moved back");

    // Where there is nobody else it keeps all, and says why.
    for other in lan.edges.iter().filter(|it| it.name != name) {
        all.signal(other, Signal::KILL)?;
    }
    wait::until_some("it has all", || {
        let now = names(&lan, &observer.settled(&addresses, SETTLED)?)?;
        ensure!(now.values().all(|it| *it == name), "{now:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    let gateway = all.on(leaves)?;
    let nobody = format!("no other gateway is heard of on {INTERFACE}");
    let simulated = gateway.cli(&[&drain[..], &["--simulate"]].concat())?;
    said(&simulated, 1, &["<none>", &nobody])?;
    let kept = gateway.cli(&[&drain[..], &["--timeout", "2s"]].concat())?;
    let stays = format!("{client} stays: {nobody}");
    let owned = format!("{client} is still owned by the gateway on {name}: {nobody}");
    said(&kept, 1, &[&stays, &owned])?;
    ensure!(
        owners()?.values().all(|it| *it == name),
        "it has let something go"
    );

    // One that is dead is not taken for drained.
    all.signal(leaves, Signal::KILL)?;
    let dead = all.on(leaves)?.cli(&drain)?;
    said(&dead, 1, &["no Fairway answers"])?;
    Ok(())
}

/// A LoadBalancer Service in the cluster with one endpoint, which need not be there: who owns an address is asked.
fn service(cluster: &Cluster, name: &str, spec: Value) -> Result<()> {
    let mut all = json!({"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": 7000}]});
    if let (Some(all), Some(spec)) = (all.as_object_mut(), spec.as_object()) {
        all.extend(spec.clone());
    }
    cluster.create(
        "Service",
        "shop",
        &json!({"metadata": {"name": name}, "spec": all}),
    )?;
    let slice = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": 7000, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["192.0.2.11"], "conditions": {"ready": true}, "nodeName": "edge-1"},
            {"addresses": ["192.0.2.12"], "conditions": {"ready": true}, "nodeName": "edge-2"},
        ],
    });
    cluster.create("EndpointSlice", "shop", &slice).map(drop)
}

/// The gateways that own these addresses, as the one that leads is told; all of them have to have one.
fn told_owners(controller: &Fairway, count: usize) -> Result<BTreeMap<String, String>> {
    let rows = controller.list("addresses")?;
    let owned = rows.iter().filter(|row| text(row, "state") == "owned");
    let owners: BTreeMap<String, String> = owned
        .map(|row| {
            (
                text(row, "address").to_owned(),
                text(row, "gateway").to_owned(),
            )
        })
        .collect();
    ensure!(owners.len() == count, "{rows:?}");
    Ok(owners)
}

/// A kubeconfig of the cluster whose API server does not answer.
fn away(cluster: &Cluster) -> Result<PathBuf> {
    let text = fs::read_to_string(cluster.admin())?;
    let (head, rest) = text.split_once("https://").context("no API server")?;
    let end = rest.find(['"', '\n']).unwrap_or(rest.len());
    let tail = rest.get(end..).unwrap_or_default();
    let path = cluster.folder().join("away.kubeconfig");
    fs::write(&path, format!("{head}https://127.0.0.1:1{tail}"))?;
    Ok(path)
}

/// Waits until all addresses are owned by that gateway.
fn all_at(controller: &Fairway, name: &str, count: usize) -> Result<()> {
    wait::until_some(&format!("all is owned by {name}"), || {
        let owners = told_owners(controller, count)?;
        ensure!(owners.values().all(|it| it == name), "{owners:?}");
        Ok::<_, anyhow::Error>(())
    })
}

fn a_node_that_is_to_leave_moves_its_addresses() -> Result<()> {
    const COUNT: usize = 2;
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let lan = Lan::new(2, Snooping::Off)?;
    let [one, two] = [lan.edge(1)?, lan.edge(2)?];
    for edge in [one, two] {
        cluster.attach(&edge.host)?;
        cluster.node(&edge.name, &[edge.ip()], &[])?;
    }
    let announce = format!(
        "addresses: [198.19.1.1-198.19.1.9], announce: {{layer2: {{interfaces: [{INTERFACE}]}}}}"
    );
    it.pool_of("lan", &announce)?;
    let controller = it.controller("controller-1", &[DEFAULT_CLASS])?;
    service(&cluster, "web", json!({}))?;
    service(&cluster, "near", json!({"externalTrafficPolicy": "Local"}))?;
    let first = it.gateway_on(&one.host, &one.name, &[])?;
    all_at(&controller, &one.name, COUNT)?;
    let mut second = it.gateway_on(&two.host, &two.name, &[])?;
    let patch = |node: &str, patch: Value| cluster.patch(("Node", "", node), "", &patch).map(drop);
    let drain = |arguments: &[&str]| -> Result<Output> {
        let mut command = Command::new(programs::fairway()?);
        command.arg("drain").args(arguments);
        command.arg("--kubeconfig").arg(cluster.admin());
        Ok(cluster.host().run(|| command.output())?)
    };

    // By its Node, one after the other; what ends it moves nothing back.
    let label = "node.kubernetes.io/exclude-from-external-load-balancers";
    let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    let unmarked = [
        json!({"spec": {"unschedulable": null}}),
        json!({"metadata": {"labels": {label: null}}}),
        json!({"spec": {"taints": null}}),
    ];
    let marked = [
        (json!({"spec": {"unschedulable": true}}), "it is cordoned"),
        (json!({"metadata": {"labels": {label: ""}}}), label),
        (
            json!({"spec": {"taints": taint}}),
            "ToBeDeletedByClusterAutoscaler",
        ),
    ];
    let (mut has, mut other) = (one, two);
    for ((mark, reason), unmark) in marked.into_iter().zip(unmarked) {
        patch(&has.name, mark)?;
        all_at(&controller, &other.name, COUNT)?;
        drains(&controller, &has.name, Some(reason))?;
        controller.explains(
            "shop/web",
            &[&format!("Gateway {} drains", has.name), reason],
        )?;
        patch(&has.name, unmark)?;
        drains(&controller, &has.name, None)?;
        ensure!(
            told_owners(&controller, COUNT)?
                .values()
                .all(|it| *it == other.name)
        );
        (has, other) = (other, has);
    }
    ensure!(has.name == two.name, "{}", has.name);

    // By the command.
    wait::until_some("the owner says who would take its addresses", || {
        let simulated = drain(&[&has.name, "--simulate"])?;
        said(&simulated, 0, &["198.19.1.1", &other.name, "shop/near"])
    })?;
    ensure!(
        told_owners(&controller, COUNT)?
            .values()
            .all(|it| *it == has.name)
    );
    let moved = drain(&[&has.name])?;
    let drained = format!("The gateway on {} is drained", has.name);
    let to = format!("198.19.1.1 has moved to {}", other.name);
    said(&moved, 0, &[&drained, &to])?;
    all_at(&controller, &other.name, COUNT)?;
    drains(
        &controller,
        &has.name,
        Some("the annotation fairway.dev/drain"),
    )?;
    said(
        &drain(&[&has.name, "--undo"])?,
        0,
        &["drains no more: it may take addresses again"],
    )?;
    // It says so when the gateway has said so.
    drains(&controller, &has.name, None)?;

    // Two at once: one of them takes all, or keeps it.
    let both = std::thread::scope(|scope| {
        let drain = &drain;
        let both = [one, two].map(|edge| scope.spawn(|| drain(&[&edge.name, "--timeout", "8s"])));
        both.map(|it| {
            it.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    });
    let [first_end, second_end] = both.map(|it| it.map(|it| (it.status.code(), it)));
    let (first_end, second_end) = (first_end?, second_end?);
    let (done, kept) = match first_end.0 {
        Some(0) => (first_end.1, second_end.1),
        _ => (second_end.1, first_end.1),
    };
    said(&done, 0, &["is drained: it owns no address"])?;
    said(
        &kept,
        1,
        &["is still owned", "the other gateways drain, too"],
    )?;
    for edge in [one, two] {
        said(&drain(&[&edge.name, "--undo"])?, 0, &["drains no more"])?;
    }

    // What is not there.
    said(&drain(&["edge-9"])?, 1, &["there is no Node edge-9"])?;
    cluster.node("edge-3", &["192.0.2.13".parse()?], &[])?;
    for more in ["--simulate", "--timeout=1s"] {
        let nobody = drain(&["edge-3", more])?;
        said(
            &nobody,
            1,
            &["no gateway runs on edge-3: it has no Lease in the namespace"],
        )?;
    }
    let unreachable = away(&cluster)?;
    for more in ["--simulate", "--undo", "--timeout=1s"] {
        let mut command = Command::new(programs::fairway()?);
        command.args(["drain", &one.name, more]);
        command.arg("--kubeconfig").arg(&unreachable);
        let output = cluster.host().run(|| command.output())?;
        said(
            &output,
            1,
            &["the API server can't be reached", "Connection refused"],
        )?;
    }

    // All to the second one, which dies then.
    said(&drain(&[&one.name])?, 0, &["is drained"])?;
    said(&drain(&[&one.name, "--undo"])?, 0, &["drains no more"])?;
    all_at(&controller, &two.name, COUNT)?;

    // Of one that is dead nobody knows; the last one keeps what it has.
    second.kill();
    let dead = drain(&[&two.name, "--timeout", "3s"])?;
    said(&dead, 1, &["has said nothing since it was asked to drain"])?;
    let undone = drain(&[&two.name, "--undo", "--timeout", "2s"])?;
    said(
        &undone,
        1,
        &["asked to drain no more, and has said nothing since"],
    )?;
    wait::until_some("the other one is heard of no more", || {
        let row = drain(&[&one.name, "--simulate"])?;
        said(&row, 1, &["no other gateway is heard of"])
    })?;
    let kept = drain(&[&one.name, "--timeout", "15s"])?;
    said(
        &kept,
        1,
        &["198.19.1.1 stays: no other gateway is heard of"],
    )?;
    ensure!(
        told_owners(&controller, COUNT)?
            .values()
            .all(|it| *it == one.name)
    );
    drop(first);
    Ok(())
}
