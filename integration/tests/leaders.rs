//! Who decides when there are several controllers, and who may write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::{Installed, NAMESPACE};
use fairway_integration::{tests, wait};
use serde_json::{Value, json};

tests![
    one_controller_leads_and_another_goes_on_where_it_stops,
    a_leader_killed_in_the_middle_gives_no_address_twice_and_loses_none,
    the_accounts_may_do_what_they_have_to_and_no_more,
];

const LEASE: &str = "fairway-controller";

/// The name of whoever leads; none where nobody does.
fn leader(cluster: &Cluster) -> Result<Option<String>> {
    let lease = cluster.get("Lease", NAMESPACE, LEASE)?;
    let holder = lease.and_then(|lease| Some(lease["spec"]["holderIdentity"].as_str()?.to_owned()));
    let name = |holder: String| Some(holder.rsplit_once('_')?.0.to_owned());
    Ok(holder.and_then(name))
}

/// Two controllers; the one that leads is the first.
fn two(it: &Installed<'_>) -> Result<(Fairway, Fairway)> {
    let one = it.controller("one", &["--default-class"])?;
    wait::until_some("the first leads", || {
        let leader = leader(it.cluster)?;
        ensure!(leader.as_deref() == Some("one"), "{leader:?}");
        Ok(())
    })?;
    let other = it.controller("other", &["--default-class"])?;
    Ok((one, other))
}

/// What each Service of the namespace `shop` holds.
fn held(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let services = cluster.list("Service", "shop", "")?;
    let holds = |service: &Value| {
        let name = service["metadata"]["name"].as_str()?;
        let ip = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?;
        Some((name.to_owned(), ip.to_owned()))
    };
    Ok(services.iter().filter_map(holds).collect())
}

/// Services that have no node ports, of which there are fewer than of these.
fn services(names: impl Iterator<Item = String>) -> Vec<Value> {
    let service = |name| {
        json!({"metadata": {"name": name}, "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "selector": {"app": "web"}, "ports": [{"port": 80}],
        }})
    };
    names.map(service).collect()
}

fn one_controller_leads_and_another_goes_on_where_it_stops() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    let (mut one, other) = two(&it)?;
    let all = services((0..20).map(|n| format!("web-{n}")));
    cluster.create_all("Service", "shop", &all)?;
    wait::until_some("all have addresses", || {
        let held = held(&cluster)?.len();
        ensure!(held == 20, "{held}");
        Ok(())
    })?;
    let before = held(&cluster)?;
    // Whoever stands by knows nothing, and is ready.
    ensure!(other.list("services")?.is_empty());
    one.stop()?;
    let stopped = Instant::now();
    it.service("next", "ports: [{port: 80}]")?;
    it.address("next")?;
    let took = stopped.elapsed();
    ensure!(took < Duration::from_secs(8), "handed over after {took:?}");
    ensure!(leader(&cluster)?.as_deref() == Some("other"));
    let mut after = held(&cluster)?;
    after.remove("next").context("it was there")?;
    ensure!(after == before, "{before:?} {after:?}");
    Ok(())
}

fn a_leader_killed_in_the_middle_gives_no_address_twice_and_loses_none() -> Result<()> {
    const ALL: usize = 500;
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["10.20.0.0/22"])?;
    let (mut one, _other) = two(&it)?;
    let all = services((0..ALL).map(|n| format!("web-{n}")));
    let first = std::thread::scope(|scope| {
        let making = scope.spawn(|| cluster.create_all("Service", "shop", &all));
        wait::until_some("some have addresses", || {
            let held = held(&cluster)?.len();
            ensure!(held >= 20, "{held}");
            Ok(())
        })?;
        one.kill();
        let first = held(&cluster)?;
        making
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))??;
        Ok::<_, anyhow::Error>(first)
    })?;
    ensure!(first.len() < ALL, "all {} were there", first.len());
    wait::until_some("all have addresses", || {
        let held = held(&cluster)?.len();
        ensure!(held == ALL, "{held}");
        Ok(())
    })?;
    let after = held(&cluster)?;
    let different: BTreeSet<&String> = after.values().collect();
    ensure!(
        different.len() == ALL,
        "{} addresses for {ALL}",
        different.len()
    );
    for (name, address) in &first {
        ensure!(
            after.get(name) == Some(address),
            "{name} had {address}: {:?}",
            after.get(name)
        );
    }
    // They are given without gaps: none is lost.
    let pool = || {
        Ok::<_, anyhow::Error>(
            cluster.get_json("AddressPool", "", "edge")?["status"]["ipv4"].clone(),
        )
    };
    wait::until_some("the pool counts what is there", || {
        let counts = pool()?;
        ensure!(
            counts == json!({"total": 1024, "used": ALL, "available": 1024 - ALL}),
            "{counts}"
        );
        Ok(())
    })?;
    cluster.kubectl(&["delete", "services", "--all", "-n", "shop", "--wait=false"])?;
    wait::until_some("everything is taken back", || {
        let counts = pool()?;
        ensure!(counts["used"] == 0, "{counts}");
        let left = cluster.list("Service", "shop", "")?.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
}

fn the_accounts_may_do_what_they_have_to_and_no_more() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let may = |account: &str, question: &str| {
        let kubeconfig = it.account(account)?;
        let mut arguments = vec!["auth", "can-i"];
        arguments.extend(question.split(' '));
        let output = cluster.kubectl_as(&kubeconfig, &arguments, "")?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&output.stdout).trim() == "yes")
    };
    for (account, question, wanted) in [
        ("fairway-gateway", "watch services -A", true),
        (
            "fairway-gateway",
            "watch endpointslices.discovery.k8s.io -A",
            true,
        ),
        ("fairway-gateway", "patch services -A", false),
        (
            "fairway-gateway",
            "patch services --subresource=status -A",
            false,
        ),
        ("fairway-gateway", "update services -n shop", false),
        (
            "fairway-gateway",
            "patch addresspools.fairway.dev --subresource=status",
            false,
        ),
        ("fairway-gateway", "get secrets -A", false),
        ("fairway-gateway", "create events -n shop", false),
        (
            "fairway-gateway",
            "patch leases.coordination.k8s.io -n fairway-system",
            true,
        ),
        (
            "fairway-gateway",
            "patch leases.coordination.k8s.io -n kube-system",
            false,
        ),
        ("fairway-controller", "patch services -A", true),
        (
            "fairway-controller",
            "patch services --subresource=status -A",
            true,
        ),
        ("fairway-controller", "delete services -A", false),
        ("fairway-controller", "create services -A", false),
        (
            "fairway-controller",
            "patch addresspools.fairway.dev",
            false,
        ),
        ("fairway-controller", "get secrets -A", false),
        ("fairway-controller", "get pods -A", false),
    ] {
        ensure!(
            may(account, question)? == wanted,
            "{account} {question}: not {wanted}"
        );
    }
    Ok(())
}
