//! Controllers of different classes in one cluster keep apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::{DEFAULT_CLASS, Installed, NAMESPACE};
use fairway_integration::{tests, wait};
use serde_json::{Value, json};

tests![
    controllers_of_two_classes_take_each_its_own_and_write_nothing_when_all_is_settled,
    a_service_that_changes_its_class_goes_from_one_controller_to_the_other,
];

const OURS: &str = "fairway.dev/gateway";
const OTHER: &str = "example.com/other";
const MARK: &str = "fairway.dev/controller";

/// How long nothing may be written.
const QUIET: Duration = Duration::from_secs(3);

fn service(name: &str, class: Option<&str>) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {
        "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
        "selector": {"app": "web"}, "ports": [{"port": 80}],
    }});
    if let Some(class) = class {
        service["spec"]["loadBalancerClass"] = class.into();
    }
    service
}

/// Name and version of each Service, with the class that has it and its addresses.
type Settled = BTreeMap<String, (String, Option<String>, Vec<String>)>;

fn state(cluster: &Cluster) -> Result<Settled> {
    let services = cluster.list("Service", "shop", "")?;
    let of = |service: &Value| {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let ingress = service["status"]["loadBalancer"]["ingress"].as_array();
        let addresses = ingress.into_iter().flatten();
        Some((
            text(&service["metadata"]["name"])?,
            (
                text(&service["metadata"]["resourceVersion"])?,
                text(&service["metadata"]["annotations"][MARK]),
                addresses.filter_map(|it| text(&it["ip"])).collect(),
            ),
        ))
    };
    Ok(services.iter().filter_map(of).collect())
}

/// Waits until nothing is written any more, and says what there is then.
fn settled(cluster: &Cluster) -> Result<Settled> {
    wait::until_some("nothing is written any more", || {
        let before = state(cluster)?;
        let pools = || cluster.get_json("AddressPool", "", "edge");
        let pool = pools()?;
        let same = wait::always(QUIET, "all is as it was", || {
            state(cluster).is_ok_and(|it| it == before) && pools().is_ok_and(|it| it == pool)
        });
        same.map(|()| before)
    })
}

fn controllers_of_two_classes_take_each_its_own_and_write_nothing_when_all_is_settled() -> Result<()>
{
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    // Both would take Services without a class.
    let ours = it.controller("ours", &[DEFAULT_CLASS])?;
    let other = it.controller("other", &[DEFAULT_CLASS, "--class", OTHER])?;
    let classes = [None, Some(OURS), Some(OTHER)];
    let all: Vec<Value> = (0..30)
        .map(|n| service(&format!("web-{n}"), classes[n % 3]))
        .collect();
    cluster.create_all("Service", "shop", &all)?;
    wait::until_some("each has an address", || {
        let held = cluster.holders("shop")?;
        ensure!(held.len() == all.len(), "{held:?}");
        Ok(())
    })?;
    let settled = settled(&cluster)?;
    let addresses: BTreeSet<&String> = settled.values().flat_map(|it| &it.2).collect();
    ensure!(addresses.len() == all.len(), "{settled:?}");
    for (n, class) in (0..all.len()).map(|n| (n, classes[n % 3])) {
        let taken = &settled[&format!("web-{n}")].1;
        let taken = taken.as_deref().context("nobody has taken it")?;
        ensure!(class.is_none_or(|class| class == taken), "{n}: {settled:?}");
    }
    // Each leads by a Lease of its own.
    let leases = cluster.list("Lease", NAMESPACE, "")?.len();
    ensure!(leases == 2, "{leases}");
    // Whichever has not got it says who has.
    let taken = |class: &str| {
        let mut classless = settled.iter().filter(|(name, _)| {
            let number = name.trim_start_matches("web-").parse::<usize>();
            number.is_ok_and(|n| n % 3 == 0)
        });
        let found = classless.find(|(_, it)| it.1.as_deref() == Some(class));
        found.map(|(name, _)| name.clone())
    };
    for (loser, winner) in [(&ours, OTHER), (&other, OURS)] {
        let Some(name) = taken(winner) else { continue };
        loser.explains(&format!("shop/{name}"), &[winner, "has taken it"])?;
        let told = String::from_utf8(loser.cli(&["get", "services"])?.stderr)?;
        let problems = loser
            .get("/api/v1/problems")
            .map(|it| it.body)
            .unwrap_or(told);
        ensure!(problems.contains(winner), "{problems}");
    }
    Ok(())
}

fn a_service_that_changes_its_class_goes_from_one_controller_to_the_other() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    let _ours = it.controller("ours", &[])?;
    let _other = it.controller("other", &["--class", OTHER])?;
    cluster.create("Service", "shop", &service("web", Some(OURS)))?;
    let taken_by = |class: &str| {
        wait::until_some(&format!("{class} has it"), || {
            let all = state(&cluster)?;
            let (_, mark, addresses) = all.get("web").context("it is gone")?;
            ensure!(
                mark.as_deref() == Some(class) && addresses.len() == 1,
                "{all:?}"
            );
            Ok(())
        })
    };
    taken_by(OURS)?;
    // As the API server asks for it: a class is changed together with the type.
    for class in [OTHER, OURS, OTHER] {
        it.change(
            "web",
            json!({"spec": {"type": "ClusterIP", "loadBalancerClass": null}}),
        )?;
        it.change(
            "web",
            json!({"spec": {"type": "LoadBalancer", "loadBalancerClass": class}}),
        )?;
        taken_by(class)?;
    }
    it.change(
        "web",
        json!({"spec": {"type": "ClusterIP", "loadBalancerClass": null}}),
    )?;
    it.taken_back("web")?;
    wait::until_some("the annotation is gone", || {
        let web = it.get("web")?;
        ensure!(web["metadata"]["annotations"][MARK].is_null(), "{web}");
        Ok(())
    })?;
    settled(&cluster).map(drop)
}
