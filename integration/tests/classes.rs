//! Controllers of different classes, and of different installs, in one cluster keep apart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::{Cluster, service_without_node_ports};
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::in_cluster::{DEFAULT_CLASS, Installed, MANIFESTS, NAMESPACE};
use fairway_integration::lab::Host;
use fairway_integration::{tests, wait};
use serde_json::{Value, json};

tests![
    may run beside others;
    controllers_of_two_classes_take_each_its_own_and_write_nothing_when_all_is_settled,
    a_service_that_changes_its_class_goes_from_one_controller_to_the_other,
    gateways_serve_what_a_controller_of_their_own_namespace_has_taken,
    two_controllers_of_one_class_in_two_namespaces_do_not_contend_and_an_install_can_move,
    what_a_controller_has_said_of_anothers_services_goes_with_it,
];

const OURS: &str = "fairway.dev/gateway";
const OTHER: &str = "example.com/other";
const MARK: &str = "fairway.dev/controller";

/// The namespace of a second install.
const SECOND: &str = "second-system";

const CONTESTED: &str = "fairway.dev/Contested";
const PROGRAMMED: &str = "fairway.dev/Programmed";

/// How long nothing may be written.
const QUIET: Duration = Duration::from_secs(3);

fn service(name: &str, class: Option<&str>) -> Value {
    let mut service = service_without_node_ports(name);
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

/// The status of the pool when it says that so many addresses are used: one controller writes it.
fn pool_status(cluster: &Cluster, used: usize) -> Result<Value> {
    let what = format!("{used} addresses of the pool are used");
    wait::until_some_within(Duration::from_secs(90), &what, || {
        let pool = cluster.get_json("addresspools", "", "edge")?;
        let status = pool["status"].clone();
        ensure!(status["ipv4"]["used"] == used, "{status}");
        Ok(status)
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
    cluster.wait_for_holders("shop", all.len())?;
    let settled = settled(&cluster)?;
    let addresses: BTreeSet<&String> = settled.values().flat_map(|it| &it.2).collect();
    ensure!(addresses.len() == all.len(), "{settled:?}");
    for (n, class) in (0..all.len()).map(|n| (n, classes[n % 3])) {
        let taken = &settled[&format!("web-{n}")].1;
        let taken = taken.as_deref().context("nobody has taken it")?;
        let is_right = class.is_none_or(|class| taken == format!("{NAMESPACE}/{class}"));
        ensure!(is_right, "{n}: {settled:?}");
    }
    // Each leads by a Lease of its own.
    let leases = cluster.list("Lease", NAMESPACE, "")?.len();
    ensure!(leases == 2, "{leases}");
    let pool = pool_status(&cluster, all.len())?;
    let writers = [OURS, OTHER].map(|class| format!("{NAMESPACE}/{class}"));
    let writer = text(&pool, "controller").to_owned();
    ensure!(writers.contains(&writer), "{pool}");
    // Whichever has not got it says who has.
    let taken = |class: &str| {
        let mut classless = settled.iter().filter(|(name, _)| {
            let number = name.trim_start_matches("web-").parse::<usize>();
            number.is_ok_and(|n| n % 3 == 0)
        });
        let mark = format!("{NAMESPACE}/{class}");
        let found = classless.find(|(_, it)| it.1.as_ref() == Some(&mark));
        found.map(|(name, _)| name.clone())
    };
    for (loser, winner) in [(&ours, OTHER), (&other, OURS)] {
        let Some(name) = taken(winner) else { continue };
        loser.explains(&format!("shop/{name}"), &[winner, "has taken it"])?;
        it.says(
            &name,
            CONTESTED,
            &["TwoControllers", winner, "--default-class"],
        )?;
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
            let wanted = format!("{NAMESPACE}/{class}");
            ensure!(
                mark.as_ref() == Some(&wanted) && addresses.len() == 1,
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

/// A process of the second install on a host of its own, running. What is of the whole cluster has other
/// names there.
fn second(
    it: &Installed<'_>,
    command: &'static str,
    host: &Host,
    arguments: &[&str],
) -> Result<Fairway> {
    let account = it
        .cluster
        .kubeconfig_of_service_account(SECOND, &format!("second-{command}"))?;
    let mut process = Fairway::member(host, command, &account)?
        .arguments(&["--namespace", SECOND, "--node-name", host.name()])
        .arguments(arguments);
    process.launch()?;
    process.ready()?;
    Ok(process)
}

/// Applies the manifests of a second install, and answers with a host for its controller and one for its
/// gateway.
fn install_second(it: &Installed<'_>) -> Result<[Host; 2]> {
    let manifests = MANIFESTS
        .replace(NAMESPACE, SECOND)
        .replace("fairway-controller", "second-controller")
        .replace("fairway-gateway", "second-gateway")
        // What the names of gateways' Leases begin with.
        .replace("second-gateway-", "fairway-gateway-");
    it.cluster.apply(&manifests)?;
    let hosts = [Host::new("second-control")?, Host::new("second-edge")?];
    for host in &hosts {
        it.cluster.attach(host)?;
    }
    Ok(hosts)
}

/// The places at which a gateway listens for a Service.
fn listeners(gateway: &Fairway, name: &str) -> Result<usize> {
    let table = gateway.cli_output(&["get", "listeners", "-n", "shop"])?;
    Ok(table
        .lines()
        .filter(|line| line.split_whitespace().next() == Some(name))
        .count())
}

fn gateways_serve_what_a_controller_of_their_own_namespace_has_taken() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    let [control, edge] = install_second(&it)?;
    let ours = it.controller("ours", &[])?;
    let mut theirs = second(&it, "controller", &control, &["--class", OTHER])?;
    let our_gateway = it.gateway(&[])?;
    let mut their_gateway = second(&it, "gateway", &edge, &[])?;
    let names = [("web", OURS), ("other", OTHER)];
    for (name, class) in names {
        cluster.create("Service", "shop", &service(name, Some(class)))?;
        it.address(name)?;
        // Without endpoints it is served, too: clients are refused.
        it.says(name, PROGRAMMED, &["False NoEndpoints"])?;
    }
    let apart = |theirs: &Fairway| -> Result<()> {
        wait::until_some("each gateway has the Service of its own controller", || {
            for (gateway, has, has_not) in
                [(&our_gateway, "web", "other"), (theirs, "other", "web")]
            {
                let (one, none) = (listeners(gateway, has)?, listeners(gateway, has_not)?);
                ensure!(one == 1 && none == 0, "{has}: {one}, {has_not}: {none}");
            }
            Ok(())
        })
    };
    apart(&their_gateway)?;
    for (controller, name, gateway) in [(&ours, "web", "edge-1"), (&theirs, "other", edge.name())] {
        let services = controller.cli_output(&["get", "services", name])?;
        ensure!(services.contains("0/1"), "{services}");
        let gateways = controller.cli_output(&["get", "gateways"])?;
        ensure!(
            gateways.lines().count() == 2 && gateways.contains(gateway),
            "{gateways}"
        );
    }
    // Whatever its owner writes into the annotation: no other gateway serves it.
    for mark in [
        json!(format!("{SECOND}/{OTHER}")),
        json!("x/y"),
        Value::Null,
    ] {
        it.change("web", json!({"metadata": {"annotations": {MARK: mark}}}))?;
        wait::until_some("the annotation is put right", || {
            let all = state(&cluster)?;
            let (_, mark, addresses) = all.get("web").context("it is gone")?;
            ensure!(
                mark.as_deref() == Some("fairway-system/fairway.dev/gateway")
                    && addresses.len() == 1,
                "{all:?}"
            );
            Ok(())
        })?;
        apart(&their_gateway)?;
    }
    // No controller, and the gateway starts anew: what it was told stands.
    theirs.stop()?;
    their_gateway.restart()?;
    apart(&their_gateway)?;
    // The last gateway of one install is gone: those of the other one do not count.
    their_gateway.stop()?;
    theirs.launch()?;
    theirs.ready()?;
    it.says("other", PROGRAMMED, &["False NoGateway"])?;
    it.says("web", PROGRAMMED, &["False NoEndpoints"])
}

fn two_controllers_of_one_class_in_two_namespaces_do_not_contend_and_an_install_can_move()
-> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    let mut ours = it.controller("ours", &[DEFAULT_CLASS])?;
    let all: Vec<Value> = (0..20)
        .map(|n| service(&format!("web-{n}"), (n % 2 == 0).then_some(OURS)))
        .collect();
    cluster.create_all("Service", "shop", &all)?;
    cluster.wait_for_holders("shop", all.len())?;
    let before = settled(&cluster)?;
    let pool = pool_status(&cluster, all.len())?;
    ensure!(
        pool["controller"] == format!("{NAMESPACE}/{OURS}"),
        "{pool}"
    );
    let [control, _edge] = install_second(&it)?;
    let mut theirs = second(&it, "controller", &control, &[DEFAULT_CLASS])?;
    for name in before.keys() {
        let words = ["True TwoControllers", SECOND, NAMESPACE, "--default-class"];
        it.says(name, CONTESTED, &words)?;
    }
    // It has said so once, and has changed nothing else.
    let contested = settled(&cluster)?;
    for (name, (version, mark, addresses)) in &contested {
        let (before_version, before_mark, before_addresses) = &before[name];
        ensure!(
            (mark, addresses) == (before_mark, before_addresses),
            "{contested:?}"
        );
        let versions: [u64; 2] = [before_version.parse()?, version.parse()?];
        ensure!(versions[0] < versions[1], "{name}: {versions:?}");
    }
    theirs.explains("shop/web-0", &[NAMESPACE, "has taken it"])?;
    // The status of the pool is the first one's.
    let unchanged = pool_status(&cluster, all.len())?;
    ensure!(unchanged == pool, "{unchanged} was {pool}");
    // The first one goes. Its Services stay with it until its Lease goes, too.
    ours.stop()?;
    ensure!(settled(&cluster)? == contested);
    cluster.kubectl(&["delete", "lease", "-n", NAMESPACE, "fairway-controller"])?;
    let moved = format!("{SECOND}/{OURS}");
    wait::until_some_within(Duration::from_secs(90), "the second one has them", || {
        let all = state(&cluster)?;
        for (name, (_, mark, addresses)) in &all {
            ensure!(mark.as_ref() == Some(&moved), "{name}: {mark:?}");
            ensure!(*addresses == before[name].2, "{name} has another address");
            ensure!(it.condition(name, CONTESTED).is_err(), "{name}");
        }
        Ok(())
    })?;
    it.says("web-0", "fairway.dev/Taken", &[&moved])?;
    cluster.create("Service", "shop", &service("late", Some(OURS)))?;
    let pool = pool_status(&cluster, all.len() + 1)?;
    ensure!(pool["controller"] == moved, "{pool}");
    // One cause, in few lines.
    theirs.logs(&["TakenOver", "that controller is gone"])?;
    let said = theirs.process()?.said();
    let lines = said.lines().filter(|line| line.contains("TakenOver"));
    let lines = lines.count();
    ensure!(lines < before.len(), "{lines} lines");
    Ok(())
}

fn what_a_controller_has_said_of_anothers_services_goes_with_it() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    let _ours = it.controller("ours", &[DEFAULT_CLASS])?;
    let all = ["web-0", "web-1"].map(|name| service(name, None));
    cluster.create_all("Service", "shop", &all)?;
    it.address("web-0")?;
    it.address("web-1")?;
    let mut other = it.controller("other", &[DEFAULT_CLASS, "--class", OTHER])?;
    for name in ["web-0", "web-1"] {
        it.says(name, CONTESTED, &["True TwoControllers", OTHER])?;
    }
    let before = settled(&cluster)?;
    // It is uninstalled.
    other.stop()?;
    let leases = cluster.list("Lease", NAMESPACE, "")?;
    let names = leases.iter().map(|it| text(&it["metadata"], "name"));
    let theirs = names.filter(|it| it.starts_with("fairway-controller-"));
    let theirs: Vec<&str> = theirs.collect();
    ensure!(theirs.len() == 1, "{theirs:?}");
    cluster.delete("Lease", NAMESPACE, theirs[0])?;
    let within = Duration::from_secs(90);
    wait::until_some_within(within, "nothing is contested any more", || {
        for name in ["web-0", "web-1"] {
            ensure!(it.condition(name, CONTESTED).is_err(), "{name}");
        }
        Ok(())
    })?;
    // Nothing else has changed.
    let after = settled(&cluster)?;
    for (name, (_, mark, addresses)) in &after {
        let (_, before_mark, before_addresses) = &before[name];
        let is_same = (mark, addresses) == (before_mark, before_addresses);
        ensure!(is_same, "{name}: {after:?}");
    }
    // It is back.
    other.launch()?;
    other.ready()?;
    it.says("web-0", CONTESTED, &["True TwoControllers", OTHER])
}
