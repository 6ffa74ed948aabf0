//! Who serves a Service, as the cluster is told: on evidence, whatever happens to gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::{ADDRESSES, AtWork, DEFAULT_CLASS, Installed};
use fairway_integration::lab::Host;
use fairway_integration::manifest::{all, pool, service, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{Site, at, server};
use fairway_integration::{tests, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

tests![
    may run beside others;
    a_service_is_programmed_only_while_a_gateway_lives_that_serves_it,
    a_gateway_that_is_frozen_counts_until_its_lease_has_run_out,
    a_gateway_that_stops_says_so_before_its_connections_have_ended,
    what_the_controller_has_taken_is_what_gateways_serve_whatever_its_class,
    a_gateway_whose_watch_has_ended_does_not_vouch_for_what_changes,
    without_endpoints_a_service_is_not_programmed,
    one_of_two_gateways_is_enough,
    people_see_who_owns_an_address_that_is_announced_on_layer_2,
    one_cause_for_all_services_is_a_line_of_the_log_and_an_event_of_each_service,
];

const PROGRAMMED: &str = "fairway.dev/Programmed";

/// The columns SERVING and ENDPOINTS of `get services`, and the first word of STATUS, for the Service
/// `shop/web`.
fn shown(controller: &Fairway) -> Result<[String; 3]> {
    let table = controller.cli_output(&["get", "services", "-n", "shop", "-o", "wide"])?;
    let mut lines = table.lines();
    let heading: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let row = lines.find(|line| line.starts_with("web "));
    let row: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
    let cell = |name: &str| {
        let at = heading.iter().position(|it| *it == name);
        let cell = at.and_then(|at| row.get(at));
        cell.map_or_else(|| table.clone(), |it| (*it).to_owned())
    };
    Ok(["SERVING", "ENDPOINTS", "STATUS"].map(cell))
}

fn shows(controller: &Fairway, wanted: [&str; 3]) -> Result<()> {
    wait::until_some(&format!("get services shows {wanted:?}"), || {
        let now = shown(controller)?;
        ensure!(now == wanted, "{now:?}");
        Ok::<_, anyhow::Error>(())
    })
}

fn a_service_is_programmed_only_while_a_gateway_lives_that_serves_it() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let controller = it.controlled()?;
    let web = it.web()?;
    it.says("web", PROGRAMMED, &["False NoGateway"])?;
    it.tells("web", "NoGateway", &["fairway get gateways"])?;
    shows(&controller, ["0/0", "-", "NoGateway:"])?;

    let mut gateway = it.gateway(&[])?;
    it.says("web", PROGRAMMED, &["True"])?;
    it.answers(web.ip, 80, Some("a"))?;
    shows(&controller, ["1/1", "1", "OK"])?;

    gateway.kill();
    it.says("web", PROGRAMMED, &["False NoGateway"])?;
    shows(&controller, ["0/0", "-", "NoGateway:"])?;
    let rows = controller.list("gateways")?;
    ensure!(rows.len() == 1 && rows[0]["ready"] == false, "{rows:?}");
    let silent = [
        "No gateway is alive",
        "edge-1 does not count",
        "not been heard of",
    ];
    controller.explains("shop/web", &silent)?;
    counts(&controller, ("NoGateway", "silent"))?;

    gateway.launch()?;
    it.says("web", PROGRAMMED, &["True"])?;
    it.tells("web", "Programmed", &["takes traffic for every port"])?;
    controller.explains("shop/web", &["Gateway edge-1 serves it."])?;
    counts(&controller, ("Programmed", "ready"))?;

    // One that is stopped is gone as one that is dead is, and that is no fault of it.
    gateway.stop()?;
    it.says("web", PROGRAMMED, &["False NoGateway"])?;
    counts(&controller, ("NoGateway", "stopped"))
}

/// The one Service and the one gateway are counted so, and not otherwise.
fn counts(controller: &Fairway, wanted: (&str, &str)) -> Result<()> {
    wait::until_some(&format!("the metrics say {wanted:?}"), || {
        let metrics = controller.get("/metrics")?.body;
        for (series, wanted) in [
            ("fairway_services_programmed{reason=", wanted.0),
            ("fairway_gateways{state=", wanted.1),
        ] {
            let those = metrics.lines().filter(|line| line.starts_with(series));
            let counted: Vec<&str> = those.filter(|line| !line.ends_with(" 0")).collect();
            ensure!(
                counted == [format!("{series}\"{wanted}\"}} 1")],
                "{counted:?}"
            );
        }
        Ok::<_, anyhow::Error>(())
    })
}

fn a_gateway_that_is_frozen_counts_until_its_lease_has_run_out() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut it = AtWork::begin(&cluster)?;
    let _web = it.web()?;
    it.says("web", PROGRAMMED, &["True"])?;
    it.gateway.process()?.signal(Signal::STOP)?;
    // What is new it can't serve, and that is known at once.
    it.service("next", "ports: [{port: 80}]")?;
    it.says("next", PROGRAMMED, &["False GatewayBehind", "edge-1"])?;
    it.says("web", PROGRAMMED, &["False NoGateway"])?;
    it.says("next", PROGRAMMED, &["False NoGateway"])?;
    it.gateway.process()?.signal(Signal::CONT)?;
    it.says("web", PROGRAMMED, &["True"])
}

fn a_gateway_that_stops_says_so_before_its_connections_have_ended() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let controller = it.controlled()?;
    let web = it.web()?;
    let mut gateway = it.gateway(&["--drain-timeout", "80s"])?;
    it.says("web", PROGRAMMED, &["True"])?;
    let _held = it.site.client.run(|| TcpStream::connect(web.to))?;
    gateway.process()?.signal(Signal::TERM)?;
    // Sooner than its Lease runs out.
    let soon = Duration::from_secs(20);
    wait::until_some_within(soon, "there is no gateway", || {
        let said = it.condition("web", PROGRAMMED)?;
        ensure!(said.starts_with("False NoGateway"), "{said}");
        Ok::<_, anyhow::Error>(())
    })?;
    shows(&controller, ["0/0", "-", "NoGateway:"])?;
    ensure!(gateway.process()?.ended()?.is_none(), "it drains no more");
    Ok(())
}

fn what_the_controller_has_taken_is_what_gateways_serve_whatever_its_class() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", ADDRESSES)?;
    it.cluster
        .node("node-a", &[fairway_integration::site::server(18)], &[])?;
    let _controller = it.controller("controller-1", &["--class", "example.com/edge"])?;
    let gateway = it.gateway(&[])?;
    let web = it.web_with("loadBalancerClass: example.com/edge, ports: [{port: 80}]")?;
    it.says("web", PROGRAMMED, &["True"])?;
    it.answers(web.ip, 80, Some("a"))?;
    // A flag of its own could only differ.
    for flag in ["--default-class", "--class=example.com/edge"] {
        let refused = gateway.cli(&["gateway", flag])?;
        ensure!(refused.status.code() == Some(2), "{refused:?}");
    }
    Ok(())
}

fn a_gateway_whose_watch_has_ended_does_not_vouch_for_what_changes() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let _web = it.web()?;
    it.says("web", PROGRAMMED, &["True"])?;
    // Its watch of Services ends within a minute, and can't begin again; its Lease is renewed.
    let rules = "clusterrole/fairway-gateway";
    let rights: serde_json::Value =
        serde_json::from_str(&cluster.kubectl(&["get", rules, "-o", "json"])?)?;
    let without: Vec<_> = rights["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|rule| rule["resources"] != json!(["services"]))
        .map(|rule| {
            let mut rule = rule.clone();
            if let Some(resources) = rule["resources"].as_array_mut() {
                resources.retain(|it| it != "services");
            }
            rule
        })
        .collect();
    let patch = json!({"rules": without}).to_string();
    cluster.kubectl(&["patch", rules, "--type=merge", "-p", &patch])?;
    it.gateway.logs(&["services", "can't be"])?;
    it.service("next", "ports: [{port: 80}]")?;
    it.says("next", PROGRAMMED, &["False GatewayBehind"])?;
    // And what it vouched for it does no longer, as it is not known whether it has changed.
    it.says("web", PROGRAMMED, &["False GatewayBehind"])?;
    let patch = json!({"rules": rights["rules"]}).to_string();
    cluster.kubectl(&["patch", rules, "--type=merge", "-p", &patch])?;
    it.says("web", PROGRAMMED, &["True"])?;
    Ok(())
}

fn without_endpoints_a_service_is_not_programmed() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    it.service("web", "ports: [{port: 80}]")?;
    it.says("web", PROGRAMMED, &["False NoEndpoints", "80/TCP"])?;
    shows(&it.controller, ["0/1", "0", "NoEndpoints:"])?;
    it.pod("web", 0, fairway_integration::site::server(0), "node-a")?;
    it.says("web", PROGRAMMED, &["True"])?;
    shows(&it.controller, ["1/1", "1", "OK"])
}

fn one_of_two_gateways_is_enough() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = AtWork::begin(&cluster)?;
    let web = it.web()?;
    let host = Host::new("edge-2")?;
    cluster.attach(&host)?;
    let mut second = it.gateway_on(&host, "edge-2", &[])?;
    shows(&it.controller, ["2/2", "1", "OK"])?;
    second.kill();
    shows(&it.controller, ["1/1", "1", "OK"])?;
    it.says("web", PROGRAMMED, &["True"])?;
    it.answers(web.ip, 80, Some("a"))
}

/// The lines of the log about this reason, and how many Services they are about.
fn logged(controller: &mut Fairway, reason: &str) -> Result<(usize, usize)> {
    let said = controller.process()?.said();
    let reason = format!("reason=\"{reason}\"");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(&reason)).collect();
    let counted = lines.iter().map(|line| {
        let (before, _) = line.split_once(" Service").unwrap_or_default();
        let count = before.rsplit(' ').next().and_then(|it| it.parse().ok());
        // A line about one Service, which it names.
        count.unwrap_or(1)
    });
    Ok((lines.len(), counted.sum()))
}

fn one_cause_for_all_services_is_a_line_of_the_log_and_an_event_of_each_service() -> Result<()> {
    const COUNT: usize = 200;
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.0/24"])?;
    cluster.node("node-a", &[server(18)], &[])?;
    let mut controller = it.controller("controller-1", &[DEFAULT_CLASS])?;
    it.pod("web", 0, server(0), "node-a")?;
    let all: Vec<Value> = (0..COUNT)
        .map(|n| {
            json!({"metadata": {"name": format!("web-{n}")}, "spec": {
                "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "selector": {"app": "web"}, "ports": [{"port": 80}],
            }})
        })
        .collect();
    cluster.create_all("Service", "shop", &all)?;
    let mut is_logged = |reason: &str| {
        wait::until_some(&format!("{reason} of all is logged"), || {
            let (lines, services) = logged(&mut controller, reason)?;
            ensure!(services >= COUNT, "{lines} lines about {services} Services");
            Ok(lines)
        })
    };
    // A batch lasts five seconds at most, and this machine may be slow.
    let lines = is_logged("NoGateway")?;
    ensure!(lines < 10, "{lines} lines");
    wait::until_some("each Service has its Event", || {
        let events = cluster.list("events.events.k8s.io", "shop", "")?;
        let about = events.iter().filter(|it| it["reason"] == "NoGateway");
        // The namespace has Events of the Services of other tests, too.
        let about: BTreeSet<&str> = about
            .filter_map(|it| it["regarding"]["name"].as_str())
            .filter(|it| it.starts_with("web-"))
            .collect();
        ensure!(about.len() == COUNT, "{}", about.len());
        Ok(())
    })?;
    let _gateway = it.gateway(&[])?;
    let lines = is_logged("Programmed")?;
    ensure!(lines < 10, "{lines} lines");
    let said = controller.process()?.said();
    let back = said
        .lines()
        .filter(|it| it.contains("a gateway is alive again"));
    ensure!(back.count() == 1, "{said}");
    let begins = said.lines().find(|it| it.contains("no gateway is alive"));
    let begins = begins.context("nobody said so")?;
    let names = begins.contains("WARN") && begins.contains("shop/web-");
    ensure!(names, "{begins}");
    Ok(())
}

/// The rows of a table of two lines, by heading.
fn cells(table: &str) -> Result<BTreeMap<String, String>> {
    let mut lines = table.lines();
    let (heading, row) = (lines.next().context("no heading")?, lines.next());
    let row = row.with_context(|| table.to_owned())?;
    let columns: Vec<&str> = heading.split_whitespace().collect();
    let at = columns.iter().map(|column| heading.find(column));
    let at: Option<Vec<usize>> = at.collect();
    let at = at.context("no column")?;
    let mut all = BTreeMap::new();
    for (n, column) in columns.iter().enumerate() {
        let end = at.get(n + 1).copied().unwrap_or(row.len()).min(row.len());
        let cell = row.get(at[n].min(end)..end).unwrap_or_default();
        all.insert((*column).to_owned(), cell.trim().to_owned());
    }
    Ok(all)
}

fn people_see_who_owns_an_address_that_is_announced_on_layer_2() -> Result<()> {
    let site = Site::new()?;
    let _web = named(&site.farm, &[("web", at(server(0), 80))])?;
    let announced = |interface: &str| {
        pool("edge", &["203.0.113.1-203.0.113.8"]).replace(
            "spec: {",
            &format!("spec: {{announce: {{layer2: {{interfaces: [{interface}]}}}}, "),
        )
    };
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--node-name", "edge-1"]);
    fairway.write("pool.yaml", &announced("front"))?;
    let web = service("web", "type: LoadBalancer, ports: [{port: 80}]");
    fairway.write("web.yaml", &all(&[&web, &slice("web", 80, &[server(0)])]))?;
    fairway.launch()?;
    fairway.ready()?;

    let announces = "announcing from node \"edge-1\" with protocol \"layer2\"";
    fairway.says(
        "default/web",
        &["fairway.dev/Announced=True", announces, "Programmed=True"],
    )?;
    let owned = "203.0.113.1 is owned by edge-1 since";
    fairway.explains("default/web", &[owned, ", because"])?;
    let tables = [
        ("services", "OWNER", "edge-1"),
        ("services", "STATUS", "OK"),
        ("gateways", "ADDRESSES", "1"),
        ("addresses", "ADDRESS", "203.0.113.1"),
        ("addresses", "OWNER", "edge-1"),
        ("addresses", "STATE", "owned"),
        ("addresses", "INTERFACES", "front"),
    ];
    for (what, column, wanted) in tables {
        let table = fairway.cli_output(&["get", what, "-o", "wide"])?;
        let cells = cells(&table)?;
        ensure!(
            cells.get(column).is_some_and(|it| it == wanted),
            "{column}: {table}"
        );
    }
    let page = fairway.get("/")?.body;
    ensure!(page.contains("203.0.113.1 on edge-1"), "{page}");
    let address = ["address=\"203.0.113.1\""];
    let counted =
        |state: &str| fairway.metric("fairway_addresses", &[&format!("state=\"{state}\"")]);
    ensure!(fairway.metric("fairway_vip_owned", &address)? == 1.0);
    ensure!(fairway.metric("fairway_vip_transitions_total", &address)? == 1.0);
    ensure!(counted("owned")? == 1.0 && counted("unowned")? == 0.0);

    // An interface that is not there: nobody can find the address.
    fairway.write("pool.yaml", &announced("nowhere"))?;
    fairway.says(
        "default/web",
        &[
            "Programmed=False AddressNotAnnounced",
            "203.0.113.1 is owned by no gateway",
        ],
    )?;
    let gone = fairway.conditions("default/web")?;
    ensure!(!gone.contains("Announced=True"), "{gone}");
    ensure!(fairway.metric("fairway_vip_owned", &address)? == 0.0);
    ensure!(fairway.metric("fairway_vip_transitions_total", &address)? == 2.0);
    ensure!(counted("owned")? == 0.0 && counted("unowned")? == 1.0);
    fairway.write("pool.yaml", &announced("front"))?;
    fairway.says("default/web", &["Programmed=True", announces])
}
