//! From a state of the real program to the alert that people get.
//!
//! What the program exports is given to Prometheus' own rule engine as it would have scraped it: one
//! scrape again and again, or two of them with what was counted in between counted once a minute.
//!
//! `FairwayProgrammingSlow` has no such test, `tests.yaml` alone: a change is dated by the moment at which it
//! is noticed, so that a process that stands still makes none that takes more than a second.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Host;
use fairway_integration::manifest::{all, pool, service, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, EDGE_INSIDE, Site, at, server, vip};
use fairway_integration::{clients, programs, wait};
use rustix::process::Signal;

use crate::metrics::{samples, series};
use crate::promql::named as names_of;
use crate::timeline::{LONG, Timeline};
use crate::watching::rules;

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
        // A router that is not there.
        "apiVersion: fairway.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor}\n\
         spec: {myASN: 64512, peerASN: 64513, peerAddress: 198.51.100.11}\n",
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

pub(crate) fn scrape(fairway: &Fairway) -> Result<String> {
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
                // Prometheus itself says whether it was answered.
                if name == "up" {
                    continue;
                }
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
        ("FairwayBgpSessionDown", "peer=\"tor\""),
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
    // While it starts nobody knows.
    let states = [(Some(&*after), LONG), (None, 2), (Some(&*restarted), LONG)];
    Timeline::states(&states).fires_throughout(LONG + 5, at_rest)
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
    let restarted = [
        (Some(&*first), 5),
        (Some(&*later), 20),
        (Some(&*again), 1),
        (Some(&*once_more), LONG),
    ];
    Timeline::states(&restarted).fires(fires, calm)?;
    // It is dead, and then gone.
    let dead = [(Some(&*once_more), 10), (None, LONG)];
    let says = &[("FairwayAbsent", ""), ("FairwayDown", "instance=\"edge\"")];
    Timeline::states(&dead).fires(says, fires)?;
    let gone = vec![(vec![("edge", Some(&*once_more))], 10), (Vec::new(), LONG)];
    Timeline::several(gone).fires(&says[..1], &says[1..])
}

pub(crate) fn an_alert_fires_while_clients_wait_for_file_descriptors() -> Result<()> {
    let alerts = &[
        ("FairwayDescriptorsNearlyGone", ""),
        ("FairwayAcceptPaused", ""),
    ];
    for limit in [256, 2048] {
        let site = Site::new()?;
        let _server = named(&site.farm, &[("web", at(server(0), 80))])?;
        let mut fairway = Fairway::prepare(&site.edge)?.open_files(limit).arguments(&[
            "--no-steering",
            "--workers",
            "2",
        ]);
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
        Timeline::of(&before).fires(&[], alerts)?;
        let held: Vec<_> = site.client.run(|| {
            let connect = |n| clients::connect_tcp(at(vip(n), 80));
            (0..400).flat_map(|_| [1, 2, 3].map(connect)).collect()
        });
        let (full, later) = wait::until_some("accepting pauses, and goes on no more", || {
            let [full, later] = [scrape(&fairway)?, scrape(&fairway)?];
            for pauses in [&full, &later].map(|it| value(it, "fairway_accept_pauses_total")) {
                ensure!(pauses? > 0.0, "it accepts");
            }
            let active = "fairway_connections_active";
            ensure!(
                value(&full, active)? == value(&later, active)?,
                "it goes on"
            );
            Ok::<_, anyhow::Error>((full, later))
        })?;
        // Nothing is counted while they wait.
        let states = [
            (Some(&*before), 5),
            (Some(&*full), 1),
            (Some(&*later), LONG),
            (Some(&*later), LONG),
        ];
        Timeline::states(&states).fires(alerts, &[])?;
        // A restart under the same load: the first scrape has the pause already.
        let restarted = [(None, 2), (Some(&*later), LONG)];
        Timeline::states(&restarted).fires(alerts, &[])?;
        drop(held);
        let calm = wait::until_some("its clients are gone", || {
            let now = scrape(&fairway)?;
            // Clients that are gone, too, may wait in a queue yet when those that were accepted have ended.
            for name in ["fairway_connections_active", "fairway_accept_paused"] {
                let left = value(&now, name)?;
                ensure!(left == 0.0, "{name} {left}");
            }
            Ok::<_, anyhow::Error>(now)
        })?;
        let over = [
            (Some(&*later), LONG),
            (Some(&*calm), 1),
            (Some(&*calm), LONG),
        ];
        Timeline::states(&over).fires(&[], alerts)?;
    }
    Ok(())
}

/// The sum of a metric's series.
fn value(exposition: &str, name: &str) -> Result<f64> {
    let mut sum = 0.0;
    for line in samples(exposition) {
        let (series, value) = line.rsplit_once(' ').context(line.to_owned())?;
        if series.split('{').next() == Some(name) {
            sum += value.parse::<f64>()?;
        }
    }
    Ok(sum)
}

pub(crate) fn an_alert_fires_when_one_of_two_does_not_answer() -> Result<()> {
    let site = Site::new()?;
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests())])?;
    let before = scrape(&fairway)?;
    fairway.process()?.signal(Signal::STOP)?;
    let frozen = scrape(&fairway);
    ensure!(frozen.is_err(), "it answers: {frozen:?}");
    // Another Fairway is scraped, so it is not that there is none.
    let states = vec![
        (
            vec![("edge-1", Some(&*before)), ("edge-2", Some(&*before))],
            10,
        ),
        (vec![("edge-1", Some(&*before)), ("edge-2", None)], LONG),
    ];
    let down = |instance| ("FairwayDown", instance);
    let calm = &[down("instance=\"edge-1\""), ("FairwayAbsent", "")];
    Timeline::several(states).fires(&[down("instance=\"edge-2\"")], calm)
}

pub(crate) fn an_alert_fires_while_two_builds_run() -> Result<()> {
    let host = Host::new("edge")?;
    let ours = build_info(&host, None)?;
    let revision = ours.split("revision=\"").nth(1).context(ours.clone())?;
    let revision = revision.split('"').next().context("no revision")?;
    let version = env!("CARGO_PKG_VERSION");
    let alert = &[("FairwayVersionsDiffer", "")];
    let two = |of_other: &str, minutes| {
        let up = [("edge-1", Some(&*ours)), ("edge-2", Some(of_other))];
        Timeline::several(vec![(up.to_vec(), minutes)]).fires(&[], alert)?;
        // The new one crashes and is started again, for ever.
        let down = [("edge-1", Some(&*ours)), ("edge-2", None)];
        let crashes = [(up.to_vec(), 2), (down.to_vec(), 3)];
        let states = (0..30).flat_map(|_| crashes.clone()).collect();
        Timeline::several(states).fires(alert, &[])?;
        let upgraded = vec![(up.to_vec(), 90), (down.to_vec(), LONG)];
        Timeline::several(upgraded).fires(&[], alert)
    };
    for part in [version, revision] {
        let other = build_info(&host, Some(part))?;
        ensure!(other != ours, "{other}");
        two(&other, LONG)?;
    }
    let same = vec![(vec![("edge-1", Some(&*ours)), ("edge-2", Some(&*ours))], 90)];
    Timeline::several(same).fires(&[], alert)
}

/// What a scrape says of the build. With `part` the program is another build, that differs in that part
/// of its version or revision: the same one with other letters in it.
fn build_info(host: &Host, part: Option<&str>) -> Result<String> {
    let mut fairway = Fairway::prepare(host)?;
    if let Some(part) = part {
        // The last letter is another digit.
        let digit = if part.ends_with('9') { "8" } else { "9" };
        let other = format!("{}{digit}", &part[..part.len() - 1]);
        let path = fairway.folder().join("fairway");
        fs::copy(programs::fairway()?, &path)?;
        let changed = Command::new("sed")
            .env("LC_ALL", "C")
            .arg("--in-place")
            .arg(format!("s/{}/{other}/g", part.replace('.', "[.]")))
            .arg(&path)
            .status()?;
        ensure!(changed.success(), "sed: {changed}");
        fairway = fairway.program(path);
    }
    fairway.launch()?;
    fairway.ready()?;
    let exposition = scrape(&fairway)?;
    fairway.stop()?;
    let lines = samples(&exposition).filter(|line| line.starts_with("fairway_build_info{"));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}
