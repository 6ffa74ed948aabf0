//! Who decides when there are several controllers, and who may write.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::{Cluster, service_without_node_ports};
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::{Installed, NAMESPACE};
use fairway_integration::{tests, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

tests![
    may run beside others;
    one_controller_leads_and_another_goes_on_where_it_stops,
    a_pools_conditions_keep_their_time_when_another_controller_leads,
    a_leader_killed_in_the_middle_gives_no_address_twice_and_loses_none,
    a_leader_that_hangs_in_the_middle_and_goes_on_gives_no_address_twice,
    the_accounts_may_do_what_they_have_to_and_no_more,
    a_gateway_writes_its_own_lease_and_no_other,
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

fn services(count: usize) -> Vec<Value> {
    let names = (0..count).map(|n| format!("web-{n}"));
    names
        .map(|name| service_without_node_ports(&name))
        .collect()
}

fn one_controller_leads_and_another_goes_on_where_it_stops() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    let (mut one, other) = two(&it)?;
    let witness = cluster.witness("shop")?;
    let all = services(20);
    cluster.create_all("Service", "shop", &all)?;
    cluster.wait_for_holders("shop", all.len())?;
    let before = cluster.holders("shop")?;
    // Whoever stands by knows nothing, and is ready.
    ensure!(other.list("services")?.is_empty());
    let words =
        "This controller stands by and knows of nothing: ask the one that kubectl get lease";
    other.explains("shop/web-0", &[words])?;
    let told = String::from_utf8(other.cli(&["get", "services"])?.stderr)?;
    ensure!(told.contains(words), "{told}");
    one.stop()?;
    // It gave back what it had, so that nobody has to wait for its end.
    ensure!(leader(&cluster)?.as_deref() != Some("one"));
    it.service("next", "ports: [{port: 80}]")?;
    it.address("next")?;
    ensure!(leader(&cluster)?.as_deref() == Some("other"));
    let mut after = witness.testifies(true)?;
    after.remove("next").context("it was there")?;
    ensure!(after == before, "{before:?} {after:?}");
    Ok(())
}

fn a_pools_conditions_keep_their_time_when_another_controller_leads() -> Result<()> {
    const LONG_AGO: &str = "2020-01-01T00:00:00Z";
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    let (mut one, _other) = two(&it)?;
    let status = || -> Result<(String, String, u64)> {
        let pool = cluster.get_json("AddressPool", "", "edge")?;
        let ready = &pool["status"]["conditions"][0];
        let text = |field: &str| {
            ready[field]
                .as_str()
                .map(str::to_owned)
                .context(field.to_owned())
        };
        let used = pool["status"]["ipv4"]["used"].as_u64();
        Ok((
            text("status")?,
            text("lastTransitionTime")?,
            used.unwrap_or_default(),
        ))
    };
    let said = wait::until_some("the pool is said to be ready", status)?;
    ensure!(said.0 == "True", "{said:?}");
    // As if it had been so for long.
    let mut pool = cluster.get_json("AddressPool", "", "edge")?;
    let conditions = pool["status"]["conditions"].take();
    let mut conditions = conditions.as_array().context("no list")?.clone();
    conditions[0]["lastTransitionTime"] = LONG_AGO.into();
    cluster.patch(
        ("AddressPool", "", "edge"),
        "status",
        &json!({"status": {"conditions": conditions}}),
    )?;
    one.stop()?;
    it.service("next", "ports: [{port: 80}]")?;
    it.address("next")?;
    ensure!(leader(&cluster)?.as_deref() == Some("other"));
    wait::until_some("the new leader counts the address", || {
        let said = status()?;
        ensure!(
            said == ("True".to_owned(), LONG_AGO.to_owned(), 1),
            "{said:?}"
        );
        Ok(())
    })
}

fn a_leader_killed_in_the_middle_gives_no_address_twice_and_loses_none() -> Result<()> {
    const ALL: usize = 500;
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["10.20.0.0/22"])?;
    let (mut one, _other) = two(&it)?;
    let witness = cluster.witness("shop")?;
    let all = services(ALL);
    // The last ones are made when it is dead, so that it can't have been through with them.
    let (earlier, later) = all.split_at(ALL * 3 / 5);
    let first = std::thread::scope(|scope| {
        let making = scope.spawn(|| cluster.create_all("Service", "shop", earlier));
        cluster.wait_for_holders("shop", 20)?;
        one.kill();
        let first = cluster.holders("shop")?;
        making
            .join()
            .map_err(|_| anyhow::anyhow!("it panicked"))??;
        Ok::<_, anyhow::Error>(first)
    })?;
    cluster.create_all("Service", "shop", later)?;
    cluster.wait_for_holders("shop", ALL)?;
    let after = witness.testifies(true)?;
    for (name, addresses) in &first {
        ensure!(after.get(name) == Some(addresses), "{name}: {addresses:?}");
    }
    let different: BTreeSet<&String> = after.values().flatten().collect();
    ensure!(
        different.len() == ALL,
        "{} addresses for {ALL}",
        different.len()
    );
    // None is lost either: what the pool counts is what there is.
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
    let mut left = ALL;
    while left > 0 {
        left = wait::until_some(&format!("fewer than {left} are left"), || {
            let now = cluster.list("Service", "shop", "")?.len();
            ensure!(now < left, "{now}");
            Ok::<_, anyhow::Error>(now)
        })?;
    }
    wait::until_some("everything is taken back", || {
        let counts = pool()?;
        ensure!(counts["used"] == 0, "{counts}");
        Ok(())
    })
}

fn a_leader_that_hangs_in_the_middle_and_goes_on_gives_no_address_twice() -> Result<()> {
    const ALL: usize = 300;
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["10.20.0.0/22"])?;
    let (mut one, other) = two(&it)?;
    let witness = cluster.witness("shop")?;
    let all = services(ALL);
    std::thread::scope(|scope| {
        let making = scope.spawn(|| cluster.create_all("Service", "shop", &all));
        cluster.wait_for_holders("shop", 20)?;
        one.process()?.signal(Signal::STOP)?;
        making.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    })?;
    // Another leads, decides on what is left, and gives what was let go of to somebody else.
    cluster.wait_for_holders("shop", ALL)?;
    ensure!(leader(&cluster)?.as_deref() == Some("other"));
    let freed = cluster.holders("shop")?["web-0"].clone();
    cluster.delete("Service", "shop", "web-0")?;
    cluster.wait_gone("Service", "shop", "web-0")?;
    it.service("next", "ports: [{port: 80}]")?;
    ensure!(it.address("next")?.to_string() == freed[0]);
    // What the first had decided is not written any more, whatever it has under way.
    one.process()?.signal(Signal::CONT)?;
    one.logs(&["no longer leading"])?;
    it.service("last", "ports: [{port: 80}]")?;
    it.address("last")?;
    ensure!(leader(&cluster)?.as_deref() == Some("other"));
    ensure!(other.list("services")?.len() > ALL);
    let held = witness.testifies(true)?;
    let different: BTreeSet<&String> = held.values().flatten().collect();
    ensure!(different.len() == ALL + 1, "{} addresses", different.len());
    Ok(())
}

/// What each account may do, and what not: the words after `kubectl auth can-i`.
const MAY: &[(&str, &[&str])] = &[
    (
        "fairway-gateway",
        &[
            "watch services -A",
            "watch endpointslices.discovery.k8s.io -A",
            "patch leases.coordination.k8s.io -n fairway-system",
            "watch leases.coordination.k8s.io -n fairway-system",
            "watch secrets/fairway-fleet -n fairway-system",
        ],
    ),
    (
        "fairway-controller",
        &[
            "patch services -A",
            "patch services --subresource=status -A",
            "create events.events.k8s.io -n shop",
            "update leases.coordination.k8s.io -n fairway-system",
            "patch secrets/fairway-fleet -n fairway-system",
        ],
    ),
];
const MAY_NOT: &[(&str, &[&str])] = &[
    (
        "fairway-gateway",
        &[
            "create services -n shop",
            "delete services -A",
            "patch services -A",
            "patch services --subresource=status -A",
            "update services -n shop",
            "update services --subresource=status -n shop",
            "patch addresspools.fairway.dev --subresource=status",
            "get secrets -A",
            "watch secrets -n fairway-system",
            "patch secrets/fairway-fleet -n fairway-system",
            "watch leases.coordination.k8s.io -n kube-system",
            "create events.events.k8s.io -n shop",
            "get leases.coordination.k8s.io -n fairway-system",
            "update leases.coordination.k8s.io -n fairway-system",
            "patch leases.coordination.k8s.io -n kube-system",
        ],
    ),
    (
        "fairway-controller",
        &[
            "create services -A",
            "delete services -A",
            "patch addresspools.fairway.dev",
            "get secrets -A",
            "get secrets -n fairway-system",
            "create secrets -n fairway-system",
            "get pods -A",
            "patch leases.coordination.k8s.io -n fairway-system",
            "update leases.coordination.k8s.io -n kube-system",
        ],
    ),
];

fn the_accounts_may_do_what_they_have_to_and_no_more() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    for (account, questions) in MAY {
        let kubeconfig = it.account(account)?;
        for question in *questions {
            // The API server reads roles in its own time.
            wait::until_some(&format!("{account} may {question}"), || {
                ensure!(cluster.may(&kubeconfig, question)?);
                Ok(())
            })?;
        }
    }
    for (account, questions) in MAY_NOT {
        let kubeconfig = it.account(account)?;
        for question in *questions {
            ensure!(
                !cluster.may(&kubeconfig, question)?,
                "{account} may {question}"
            );
        }
    }
    // And it is so when it is tried.
    it.service("web", "ports: [{port: 80}]")?;
    let before = it.get("web")?;
    let gateway = it.account("fairway-gateway")?;
    for change in [
        &["annotate", "service", "web", "-n", "shop", "a=b"][..],
        &["delete", "service", "web", "-n", "shop"],
    ] {
        let output = cluster.kubectl_as(&gateway, change, "")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("orbidden"), "{output:?}");
    }
    ensure!(it.get("web")? == before);
    Ok(())
}

fn a_gateway_writes_its_own_lease_and_no_other() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    cluster.node("edge-1", &[], &[])?;
    let _controller = it.controller("controller-1", &[])?;
    let apply = |kubeconfig: &Path, name: &str| -> Result<String> {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"holderIdentity": "me"},
        });
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        let output = cluster.kubectl_as(kubeconfig, &arguments, &lease.to_string())?;
        ensure!(output.status.success() || !output.stderr.is_empty());
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let outside = it.account("fairway-gateway")?;
    let bound = cluster.kubeconfig_on_node(NAMESPACE, "fairway-gateway", "edge-1")?;
    // The API server takes policies in in its own time.
    wait::until_some("the controllers' Lease is not a gateway's to write", || {
        let said = apply(&outside, "fairway-controllers")?;
        ensure!(said.contains("a gateway writes no Lease but"), "{said}");
        Ok(())
    })?;
    for kubeconfig in [&outside, &bound] {
        for name in ["fairway-controller", "other"] {
            let said = apply(kubeconfig, name)?;
            ensure!(said.contains("a gateway writes no Lease but"), "{said}");
        }
    }
    ensure!(leader(&cluster)?.as_deref() == Some("controller-1"));
    // One in a Pod has a token of its node, and its node's Lease; one outside has its own name.
    for (kubeconfig, name, wanted) in [
        (&bound, "edge-1", ""),
        (&bound, "edge-2", "its own Lease alone: that of node edge-1"),
        (&outside, "edge-2", ""),
    ] {
        let said = apply(kubeconfig, &format!("fairway-gateway-{name}"))?;
        ensure!(
            said.contains(wanted) && said.is_empty() == wanted.is_empty(),
            "{name}: {said}"
        );
    }
    Ok(())
}
