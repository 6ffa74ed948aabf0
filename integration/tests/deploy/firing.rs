//! From a state of the real program to the alert that people get.
//!
//! What the program exports is given to Prometheus' own rule engine as it would have scraped it: one
//! scrape again and again, or two of them with what was counted in between counted once a minute.
//!
//! Three alerts have no such test, `tests.yaml` alone: `FairwayVersionsDiffer` needs a second build,
//! `FairwayProgrammingSlow` a machine on which a change takes more than a second, and
//! `FairwayDescriptorsNearlyGone` a limit of many thousands: with 2,048 a port pauses at 75 % of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::Cluster;
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::{DEFAULT_CLASS, Installed};
use fairway_integration::manifest::{all, pool, service, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, EDGE_INSIDE, Site, at, server, vip};
use fairway_integration::{clients, wait};
use serde_json::json;

use crate::metrics::{samples, series};
use crate::project::project;
use crate::promql::named as names_of;
use crate::watching::{promtool, rules};

/// How long the program is in a state, in minutes.
const LONG: usize = 30;

/// One scrape after the other, each held for so many minutes.
struct Timeline(Vec<(String, usize)>);

impl Timeline {
    /// A state that lasts.
    fn of(exposition: &str) -> Self {
        Self(vec![(exposition.to_owned(), LONG)])
    }

    /// What goes on each minute as it went on between the two.
    fn going_on(before: &str, after: &str) -> Self {
        Self(vec![(before.to_owned(), 5), (after.to_owned(), LONG)])
    }

    /// The series as promtool takes them.
    fn input(&self) -> Result<String> {
        let mut values: BTreeMap<&str, String> = BTreeMap::new();
        let mut begun = 0;
        let mut last: BTreeMap<&str, f64> = BTreeMap::new();
        for (exposition, minutes) in &self.0 {
            let mut now = BTreeMap::new();
            for line in samples(exposition) {
                let (series, value) = line.rsplit_once(' ').context(line.to_owned())?;
                let value: f64 = value.parse()?;
                let text = values.entry(series).or_insert_with(|| match begun {
                    0 => String::new(),
                    absent => format!("_x{absent}"),
                });
                let is_counter = series
                    .split('{')
                    .next()
                    .is_some_and(|it| it.ends_with("_total"));
                let step = match last.get(series) {
                    // A process that starts anew counts from zero.
                    Some(before) if is_counter => (value - before).max(0.0),
                    _ => 0.0,
                };
                // A step has one sign: 1+2x3, 1-2x3.
                write!(text, " {value}{step:+}x{}", minutes - 1)?;
                now.insert(series, value);
            }
            begun += minutes;
            last = now;
        }
        let mut input = String::new();
        for (series, values) in values {
            // Prometheus adds where it scraped it.
            let series = match series.split_once('{') {
                Some((name, labels)) => format!("{name}{{instance=\"edge\",{labels}"),
                None => format!("{series}{{instance=\"edge\"}}"),
            };
            writeln!(
                input,
                "      - {{series: '{series}', values: '{}'}}",
                values.trim()
            )?;
        }
        Ok(input)
    }

    /// Fails unless each of these alerts fires, with this label, and `calm` ones do not.
    fn fires(&self, alerts: &[(&str, &str)], calm: &[(&str, &str)]) -> Result<()> {
        let end: usize = self.0.iter().map(|(_, minutes)| minutes).sum();
        let mut tests = format!(
            "rule_files: [{}]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    \
             input_series:\n{}    promql_expr_test:\n",
            project("deploy/alerts/fairway.yaml").display(),
            self.input()?
        );
        let minute = end - 1;
        let expected = |(alert, label): &(&str, &str), samples: &str| {
            let comma = if label.is_empty() { "" } else { "," };
            format!(
                "      - expr: 'count(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"{comma}{label}}}) > bool 0'\n        \
                 eval_time: {minute}m\n        exp_samples: {samples}\n"
            )
        };
        for alert in alerts {
            tests += &expected(alert, "[{labels: '{}', value: 1}]");
        }
        for alert in calm {
            tests += &expected(alert, "[]");
        }
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("tests.yaml");
        fs::write(&path, &tests)?;
        let path = path.to_str().context("a path that is no text")?;
        promtool(&["test", "rules", path])
    }
}

/// Services of every kind that an alert is about: one without endpoints, one whose endpoints refuse, one
/// that answers, HTTP, UDP, node ports, one that gets no address, and a manifest with a mistake.
fn manifests() -> String {
    let port = "type: LoadBalancer, ports: [{port: 80}]";
    let http = "type: LoadBalancer, ports: [{port: 80, appProtocol: http}]";
    all(&[
        &pool("edge", &["203.0.113.1-203.0.113.8"]),
        &pool("own", &[&format!("{EDGE}-{EDGE}")]),
        &asks("empty", 1, port),
        &asks("dead", 2, port),
        &slice("dead", 80, &[server(5), server(6)]),
        &asks("web", 3, port),
        &slice("web", 80, &[server(0)]),
        &asks("shop", 4, http),
        &slice("shop", 80, &[server(7)]),
        &asks(
            "dns",
            5,
            "type: LoadBalancer, ports: [{port: 53, protocol: UDP}]",
        ),
        &asks("nodes", 6, port).replace(
            "fairway.dev/addresses",
            "fairway.dev/forward-to: node-ports, fairway.dev/addresses",
        ),
        &asks("late", 99, port),
        &asks("taken", 0, "type: LoadBalancer, ports: [{port: 22}]")
            .replace("203.0.113.0", &EDGE.to_string()),
        &slice("taken", 22, &[server(0)]),
        "apiVersion: v1\nkind: Node\nmetadata: {name: one}\n\
         status: {addresses: [{type: InternalIP, address: 192.0.2.21}]}\n",
    ])
}

/// A Service that asks for 203.0.113.`n`.
fn asks(name: &str, n: u8, spec: &str) -> String {
    let metadata = format!(
        "metadata: {{name: {name}, annotations: {{fairway.dev/addresses: \"{}\"}}}}",
        vip(n)
    );
    service(name, spec).replace(&format!("metadata: {{name: {name}}}"), &metadata)
}

fn scrape(fairway: &Fairway) -> Result<String> {
    Ok(fairway.get("/metrics")?.body)
}

/// A client that gets nothing, or an error.
fn turned_away(to: SocketAddr) {
    // How it learns of it is not what this is about.
    let _ = clients::http_get(to, "/");
}

pub(crate) fn what_an_alert_is_about_is_exported_before_the_first_traffic_and_after_a_restart()
-> Result<()> {
    let site = Site::new()?;
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests())])?;
    for round in ["at the start", "after a restart"] {
        let exposition = scrape(&fairway)?;
        let series = series(&exposition)?;
        for rule in rules()? {
            let alert = rule["alert"].as_str().context("no name")?;
            let expression = rule["expr"].as_str().context("no expr")?;
            for (name, asked) in names_of(expression)?.metrics {
                // Its buckets come with the first change: a quantile needs no zero to rise from.
                if name == "fairway_programming_duration_seconds_bucket" {
                    continue;
                }
                let all = series.get(&name).map(Vec::as_slice).unwrap_or_default();
                let found = all.iter().any(|labels| {
                    asked.iter().all(|it| match it.operator.as_str() {
                        "=" => labels.get(&it.label) == Some(&it.value),
                        _ => labels.contains_key(&it.label),
                    })
                });
                ensure!(
                    found,
                    "{round}, {alert}: there is no series {name} {asked:?}\n{exposition}"
                );
            }
        }
        fairway.restart()?;
    }
    Ok(())
}

pub(crate) fn an_alert_fires_in_the_state_that_it_is_about() -> Result<()> {
    let site = Site::new()?;
    let _sshd = named(&site.edge, &[("sshd", at(EDGE, 22))])?;
    let _web = named(&site.farm, &[("web", at(server(0), 80))])?;
    // As many node ports as Services take.
    let range = ["--node-port-range", "30000-30007"];
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&range);
    fairway.write("all.yaml", &manifests())?;
    fairway.write("broken.yaml", "apiVersion: v1\nkind: Service\nspec: {\n")?;
    fairway.launch()?;
    fairway.ready()?;
    fairway.problem(&["broken.yaml"])?;

    // Nobody has asked for anything yet.
    let before = scrape(&fairway)?;
    let empty = "service=\"empty\"";
    let at_rest: &[(&str, &str)] = &[
        ("FairwayNoEndpoint", empty),
        ("FairwayServicePending", ""),
        ("FairwayManifestErrors", ""),
        ("FairwayPoolNearlyFull", "pool=\"own\""),
        ("FairwayAddressNotServed", "address=\"198.51.100.1\""),
        ("FairwayNodePortsNearlyGone", ""),
    ];
    let calm: &[(&str, &str)] = &[
        ("FairwayNoEndpoint", "service=\"web\""),
        ("FairwayEndpointsUnreachable", ""),
        ("FairwayEndpointUnreachable", ""),
        ("FairwayConnectionsFail", ""),
        ("FairwayHttpErrors", ""),
        ("FairwayExhausted", ""),
        ("FairwayLoop", ""),
    ];
    Timeline::of(&before).fires(at_rest, calm)?;

    site.client.run(|| -> Result<()> {
        for _ in 0..5 {
            turned_away(at(vip(2), 80));
            turned_away(at(vip(4), 80));
            ensure!(clients::who(at(vip(3), 80))? == "web");
        }
        Ok(())
    })?;
    fairway.logs(&["WARN", "endpoint is not reached", "default/dead"])?;
    let after = scrape(&fairway)?;
    let dead = "service=\"dead\"";
    Timeline::going_on(&before, &after).fires(
        &[
            ("FairwayEndpointsUnreachable", dead),
            ("FairwayEndpointUnreachable", dead),
            ("FairwayConnectionsFail", dead),
            ("FairwayHttpErrors", "service=\"shop\""),
        ],
        &[
            ("FairwayEndpointsUnreachable", "service=\"web\""),
            ("FairwayEndpointsUnreachable", empty),
            ("FairwayConnectionsFail", "service=\"web\""),
        ],
    )?;

    // A node sends what it was sent back to the gateway, and the gateway has no ports left to dial from.
    let node_ports = fairway.node_ports("default/nodes")?;
    let node_port = *node_ports.first().context("no node port")?;
    for _ in 0..3 {
        let looping = || clients::connect_tcp_from(server(10), at(EDGE_INSIDE, node_port));
        // It is reset, before or after it is known to be connected.
        let _ = site.farm.run(looping);
    }
    site.edge
        .sysctl("ipv4/ip_local_port_range", "40000 40001")?;
    let held: Vec<_> = site.client.run(|| {
        let connect = |_| clients::connect_tcp(at(vip(3), 80));
        (0..6).map(connect).collect()
    });
    wait::until_some("the ports are used up", || {
        let exhausted = fairway.metric("fairway_dials_exhausted_total", &[])?;
        ensure!(exhausted > 0.0, "none was exhausted");
        Ok(())
    })?;
    let used_up = scrape(&fairway)?;
    Timeline::going_on(&after, &used_up).fires(
        &[
            ("FairwayLoop", "service=\"nodes\""),
            ("FairwayExhausted", ""),
        ],
        &[("FairwayLoop", "service=\"web\"")],
    )?;
    drop(held);

    // Whoever asks whether it is ready needs a port, too.
    site.edge
        .sysctl("ipv4/ip_local_port_range", "32768 60999")?;

    // A restart does not end what is still so, nor does it need a client.
    fairway.restart()?;
    let restarted = scrape(&fairway)?;
    Timeline(vec![(after, 10), (restarted, LONG)]).fires(at_rest, &[])
}

pub(crate) fn an_alert_fires_for_a_gateway_that_nobody_tells_anything() -> Result<()> {
    let site = Site::new()?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    // Nobody is there, neither an API server nor a controller.
    let nowhere = "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
                   clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]\n\
                   contexts: [{name: a, context: {cluster: a, user: a}}]\n\
                   users: [{name: a, user: {}}]\n";
    fs::write(&kubeconfig, nowhere)?;
    let mut gateway = Fairway::member(&site.edge, "gateway", &kubeconfig)?;
    let mut two_scrapes = || -> Result<[String; 2]> {
        gateway.launch()?;
        let first = wait::until_some("it is scraped", || scrape(&gateway))?;
        let failed = || gateway.metric("fairway_store_errors_total", &["operation=\"watch\""]);
        let before = failed()?;
        wait::until("it has asked again in vain", || {
            failed().is_ok_and(|now| now > before)
        })?;
        let later = scrape(&gateway)?;
        gateway.stop()?;
        Ok([first, later])
    };
    let fires = &[
        ("FairwayNoController", ""),
        ("FairwayStoreErrors", "operation=\"watch\""),
    ];
    let [first, later] = two_scrapes()?;
    let calm = &[("FairwayAbsent", ""), ("FairwayVersionsDiffer", "")];
    Timeline::going_on(&first, &later).fires(fires, calm)?;
    // It starts anew, and still nobody is there. What follows is the alert of before, or its like: an
    // alert on a rate begins at once, for the first failure comes at once.
    let [again, once_more] = two_scrapes()?;
    let restarted = vec![
        (first.clone(), 5),
        (later, 20),
        (again, 1),
        (once_more.clone(), LONG),
    ];
    Timeline(restarted).fires(fires, calm)?;
    // It is gone.
    Timeline(vec![(once_more, 10), (String::new(), LONG)]).fires(&[("FairwayAbsent", "")], fires)
}

pub(crate) fn an_alert_fires_when_file_descriptors_run_out() -> Result<()> {
    let site = Site::new()?;
    let _server = named(&site.farm, &[("web", at(server(0), 80))])?;
    let mut fairway = Fairway::prepare(&site.edge)?
        .open_files(2048)
        .arguments(&["--no-steering"]);
    let names = ["a", "b", "c"];
    let port = "type: LoadBalancer, ports: [{port: 80}]";
    let services: Vec<String> = names
        .iter()
        .zip(1..)
        .flat_map(|(name, n)| [asks(name, n, port), slice(name, 80, &[server(0)])])
        .chain([pool("edge", &["203.0.113.1-203.0.113.8"])])
        .collect();
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    fairway.write("all.yaml", &all(&services))?;
    fairway.launch()?;
    fairway.ready()?;
    let before = scrape(&fairway)?;
    let alerts = &[("FairwayAcceptPaused", "")];
    Timeline::of(&before).fires(&[], alerts)?;
    let held: Vec<_> = site.client.run(|| {
        let connect = |n| clients::connect_tcp(at(vip(n), 80));
        (0..400).flat_map(|_| [1, 2, 3].map(connect)).collect()
    });
    wait::until_some("accepting pauses", || {
        let pauses = fairway.metric("fairway_accept_pauses_total", &[])?;
        ensure!(pauses > 0.0, "{pauses} pauses");
        Ok(())
    })?;
    let after = scrape(&fairway)?;
    Timeline::going_on(&before, &after).fires(alerts, &[])?;
    drop(held);
    Ok(())
}

pub(crate) fn an_alert_fires_when_the_api_server_takes_no_status() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["203.0.113.1-203.0.113.8"])?;
    cluster.apply(GUARD)?;
    it.asking(("shop", "probe"), json!({}), json!({"type": "ClusterIP"}))?;
    wait::until("the rule is in force", || {
        it.change_status("probe", json!({"conditions": []}))
            .is_err()
    })?;
    let mut controller = it.controller("controller-1", &[DEFAULT_CLASS])?;
    let alert = &[("FairwayWritesRejected", "")];
    Timeline::of(&scrape(&controller)?).fires(&[], alert)?;
    it.service("web", "ports: [{port: 80}]")?;
    let rejected = |controller: &Fairway| {
        wait::until_some("a status is not taken", || {
            let count = controller.metric("fairway_rejected_writes", &[])?;
            ensure!(count > 0.0, "{count}");
            scrape(controller)
        })
    };
    let before = rejected(&controller)?;
    Timeline::of(&before).fires(alert, &[("FairwayNoController", "")])?;
    controller.restart()?;
    let after = rejected(&controller)?;
    Timeline(vec![(before, LONG), (after, LONG)]).fires(alert, &[])?;
    cluster.delete("ValidatingAdmissionPolicyBinding", "", "no-status")?;
    it.address("web").map(drop)
}

/// A rule of the cluster: nobody writes a status of a Service of the namespace `shop`.
const GUARD: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: no-status}
spec:
  failurePolicy: Fail
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}
    resourceRules:
    - {apiGroups: [''], apiVersions: [v1], operations: [UPDATE], resources: [services/status]}
  validations:
  - {expression: 'false', message: 'nobody writes here', reason: Forbidden}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: no-status}
spec: {policyName: no-status, validationActions: [Deny]}
";
