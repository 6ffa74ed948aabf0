//! The systemd unit, run by systemd, and the signals that Fairway takes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::{Host, Served};
use fairway_integration::manifest::{edge_pool, load_balancer, slice};
use fairway_integration::routers::noticed::{BirdKnows, RouteWatch};
use fairway_integration::routers::routed::{OURS, THEIRS, peer};
use fairway_integration::routers::{Bird, kernel_table};
use fairway_integration::servers::named;
use fairway_integration::site::{EDGE, Site, at, client, server, vip};
use fairway_integration::systemd::{Systemd, UnitSettings};
use fairway_integration::{clients, tests, wait};
use rustix::process::Signal;

tests![
    the_unit_is_well_formed_and_everything_that_fairway_needs_works_under_it,
    the_units_drop_ins_give_fairway_what_they_are_for,
    the_unit_starts_fairway_anew_however_it_ends,
    a_fairway_that_is_stuck_is_started_anew_by_the_watchdog,
    the_unit_reloads_and_stops_fairway,
    a_reload_with_a_new_program_takes_over_without_a_trace,
    a_reload_with_a_new_program_ends_no_session_with_a_router_and_removes_no_route,
    signals_that_mean_nothing_are_ignored_and_sighup_looks_at_the_manifests,
    every_signal_that_stops_fairway_lets_connections_drain,
];

/// A UDP Service whose endpoint, the first server, refuses: nobody is at that port.
const REFUSING: &str = "
apiVersion: v1
kind: Service
metadata: {name: dns, annotations: {fairway.dev/addresses: \"203.0.113.3\"}}
spec: {type: LoadBalancer, selector: {app: dns}, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns-1, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: \"\", protocol: UDP, port: 53}]
endpoints: [{addresses: [\"192.0.2.11\"]}]
";

/// The unit as it is delivered, and a site.
struct Appliance {
    systemd: Systemd,
    site: Site,
    _server: Served,
}

impl Appliance {
    fn start(settings: &UnitSettings) -> Result<Self> {
        let site = Site::new()?;
        let server_of_farm = named(&site.farm, &[("a", at(server(0), 8080))])?;
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/fairway.service");
        let manifests = [
            ("pool.yaml", &*edge_pool()),
            ("shop.yaml", &load_balancer("shop", vip(1), 80, 8080)),
            ("slice.yaml", &slice("shop", 8080, &[server(0)])),
            ("dns.yaml", REFUSING),
        ];
        let systemd = Systemd::start(&site.edge, &unit, &manifests, settings)?;
        let it = Self {
            systemd,
            site,
            _server: server_of_farm,
        };
        wait::until_some("systemd answers", || it.systemd.property("Type"))?;
        it.systemd.is("ActiveState", "active")?;
        it.answers()?;
        Ok(it)
    }

    /// Waits until the Service answers at its external address.
    fn answers(&self) -> Result<()> {
        wait::until_some("the Service answers", || {
            let who = self.site.client.run(|| clients::who(at(vip(1), 80)))?;
            ensure!(who == "a", "{who} answers");
            Ok(())
        })
    }

    /// A UDP client whose endpoints refuse is told so.
    fn is_told_that_a_port_is_unreachable(&self) -> Result<()> {
        self.site.farm.sysctl("ipv4/icmp_ratelimit", "0")?;
        wait::until_some("a client is told that the port is unreachable", || {
            let asked = self
                .site
                .client
                .run(|| clients::who_udp(None, at(vip(3), 53)));
            let error = asked.err().context("it is answered")?;
            ensure!(
                error.kind() == std::io::ErrorKind::ConnectionRefused,
                "{error}"
            );
            Ok(())
        })
    }

    /// Whether the address is local to the host by a route of Fairway's.
    fn has_route(&self) -> Result<bool> {
        let routes = self
            .site
            .edge
            .run(|| clients::output("ip", &["route", "show", "table", "local", "proto", "70"]))?;
        Ok(routes.contains("203.0.113.1"))
    }

    /// A new program, and a reload.
    fn upgrade(&self) -> Result<()> {
        let before = self.systemd.property("MainPID")?;
        // As a package does it: the new file takes the place of the old one in one step.
        let copied = self.systemd.run(
            "sh",
            &[
                "-c",
                "cp /mnt/fairway /usr/local/bin/fairway.new && \
                 mv /usr/local/bin/fairway.new /usr/local/bin/fairway",
            ],
        )?;
        ensure!(copied.status.success(), "{copied:?}");
        self.systemd.systemctl(&["reload", "fairway"])?;
        wait::until_some("the new process is the main one", || {
            let now = self.systemd.property("MainPID")?;
            ensure!(now != before && now != "0", "{now}: {}", self.systemd.log());
            Ok(())
        })?;
        self.systemd.is("ActiveState", "active")?;
        self.systemd.is("NRestarts", "0")?;
        self.systemd.is("StatusText", "Ready.")
    }

    /// systemd finds nothing wrong with the unit.
    fn is_well_formed(&self) -> Result<()> {
        let verified = self
            .systemd
            .run("systemd-analyze", &["verify", "fairway.service"])?;
        let said = String::from_utf8_lossy(&verified.stderr);
        ensure!(
            verified.status.success() && !said.contains("fairway.service:"),
            "{said}"
        );
        Ok(())
    }
}

fn the_unit_is_well_formed_and_everything_that_fairway_needs_works_under_it() -> Result<()> {
    let it = Appliance::start(&UnitSettings::default())?;
    it.is_well_formed()?;
    // Ports below 1024 and local routes were needed to answer. Steering, and what takes small messages
    // together, are done without where they can't be had: so the log is asked.
    let log = it.systemd.log();
    ensure!(log.contains("are steered by the kernel"), "{log}");
    for lacking in [
        "io_uring",
        "not made local",
        "no netlink",
        "can't write state",
        "Permission denied",
        "CAP_NET_RAW",
    ] {
        ensure!(!log.contains(lacking), "{lacking}: {log}");
    }
    ensure!(it.has_route()?);
    let pid = it.systemd.fairway()?.as_raw_nonzero();
    let rings = fs::read_dir(format!("/proc/{pid}/fd"))?
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter(|link| link.to_string_lossy().contains("io_uring"));
    ensure!(rings.count() > 0, "no io_uring");
    // The sandbox is there: a filter, no new privileges, three capabilities, nobody's user. A fourth one,
    // CAP_NET_RAW, is one thread's alone.
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim_start_matches(':').trim().to_owned())
            .with_context(|| format!("no {name}"))
    };
    ensure!(
        field("Seccomp")? == "2" && field("NoNewPrivs")? == "1",
        "{status}"
    );
    let capabilities = u64::from_str_radix(&field("CapEff")?, 16)?;
    // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_BPF.
    ensure!(
        capabilities == 1 << 10 | 1 << 12 | 1 << 39,
        "{capabilities:x}"
    );
    ensure!(field("CapPrm")? == field("CapEff")?, "{status}");
    one_thread_keeps_the_right_to_packet_sockets(&pid)?;
    // What has to be in time may have the priority for it. Where systemd itself may not raise limits, as in a container,
    // there is nothing more to be seen of it.
    it.systemd.is("LimitRTPRIO", "1")?;
    it.systemd.is("RestrictRealtime", "no")?;
    it.is_told_that_a_port_is_unreachable()?;
    ensure!(!field("Uid")?.starts_with("0\t"), "{status}");
    wait::until_some("the state is written", || {
        let view = it
            .systemd
            .run("cat", &["/var/lib/fairway/services/default/shop.yaml"])?;
        let view = String::from_utf8_lossy(&view.stdout).into_owned();
        ensure!(view.contains("203.0.113.1"), "{view}");
        Ok(())
    })?;
    // What it says of itself.
    it.systemd.is("StatusText", "Ready.")
}

/// What answers ARP has no capability; what opens sockets for it has CAP_NET_RAW and CAP_NET_ADMIN; no other thread
/// has CAP_NET_RAW.
fn one_thread_keeps_the_right_to_packet_sockets(pid: &impl std::fmt::Display) -> Result<()> {
    let (admin, raw) = (1 << 12, 1 << 13);
    let mut seen = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let name = status.lines().find_map(|line| line.strip_prefix("Name:"));
        let sets = status.lines().filter(|line| line.starts_with("Cap"));
        for line in sets.filter(|line| !line.starts_with("CapBnd")) {
            let (set, value) = line.split_once(':').context("a set")?;
            let has = u64::from_str_radix(value.trim(), 16)?;
            let wanted = match (name.map(str::trim), set) {
                (Some("fairway-links"), "CapEff" | "CapPrm") => admin | raw,
                (Some("fairway-links" | "fairway-layer2"), _) => 0,
                // It starts the process that takes over, which needs all of them.
                (Some("fairway-start"), _) => has,
                // The allocator starts it before Fairway begins, and it runs nothing else.
                (Some("jemalloc_bg_thd"), _) => has,
                _ => has & !raw,
            };
            ensure!(has == wanted, "{status}");
        }
        seen += i32::from(status.starts_with("Name:\tfairway-l"));
    }
    ensure!(seen == 2, "{seen} threads");
    Ok(())
}

fn the_units_drop_ins_give_fairway_what_they_are_for() -> Result<()> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let it = Appliance::start(&UnitSettings {
        drop_ins: vec![
            deploy.join("systemd/kernel-routes.conf"),
            deploy.join("examples/api-server/systemd.conf"),
        ],
        key: "a key that nobody guesses",
        ..UnitSettings::default()
    })?;
    it.is_well_formed()?;
    // It runs, so the key is read and the flags are right.
    let pid = it.systemd.fairway()?.as_raw_nonzero();
    let variables = fs::read_to_string(format!("/proc/{pid}/environ"))?;
    for wanted in [
        "FAIRWAY_NODE_NAME=cp-1\0",
        "FAIRWAY_HOST_ENDPOINT_PORT=6443\0",
        "FAIRWAY_PEERS=cp-1=203.0.113.11,cp-2=203.0.113.12,cp-3=203.0.113.13\0",
        "FAIRWAY_PEERS_KEY_FILE=/run/credentials/fairway.service/key\0",
    ] {
        ensure!(variables.contains(wanted), "{wanted}: {variables}");
    }
    // Routes in the kernel need a device.
    let pool = edge_pool().replace("spec: {", "spec: {announce: {routes: kernel}, ");
    fs::write(it.systemd.manifests().join("pool.yaml"), pool)?;
    wait::until_some("there is a route in the kernel's table", || {
        let explained = it
            .systemd
            .run("fairway", &["explain", "service", "default/shop"])?;
        let said = String::from_utf8_lossy(&explained.stdout).into_owned();
        ensure!(
            said.contains("table 251 has a route to 203.0.113.1"),
            "{said}"
        );
        Ok(())
    })
}

fn the_unit_starts_fairway_anew_however_it_ends() -> Result<()> {
    let it = Appliance::start(&UnitSettings::default())?;
    for (n, signal) in [Signal::KILL, Signal::TERM, Signal::ABORT, Signal::INT]
        .into_iter()
        .enumerate()
    {
        it.systemd.signal(signal)?;
        it.systemd.is("NRestarts", &(n + 1).to_string())?;
        it.systemd.is("ActiveState", "active")?;
        it.answers()?;
    }
    Ok(())
}

fn a_fairway_that_is_stuck_is_started_anew_by_the_watchdog() -> Result<()> {
    let it = Appliance::start(&UnitSettings {
        watchdog: Some("4s"),
        ..UnitSettings::default()
    })?;
    // As long as it goes on nothing happens.
    wait::always(Duration::from_secs(6), "it goes on", || {
        it.systemd.property("NRestarts").is_ok_and(|n| n == "0")
    })?;
    it.systemd.signal(Signal::STOP)?;
    it.systemd.is("NRestarts", "1")?;
    it.systemd.is("ActiveState", "active")?;
    it.answers()
}

fn the_unit_reloads_and_stops_fairway() -> Result<()> {
    let it = Appliance::start(&UnitSettings::default())?;
    it.systemd.systemctl(&["reload", "fairway"])?;
    it.systemd.is("ActiveState", "active")?;
    ensure!(
        it.systemd.log().contains("told to reload"),
        "{}",
        it.systemd.log()
    );
    let other = [
        load_balancer("other", vip(2), 80, 8080),
        slice("other", 8080, &[server(0)]),
    ];
    fs::write(
        it.systemd.manifests().join("other.yaml"),
        other.join("---\n"),
    )?;
    wait::until_some("the other Service answers", || {
        it.site.client.run(|| clients::who(at(vip(2), 80)))
    })?;
    it.systemd.systemctl(&["stop", "fairway"])?;
    ensure!(it.systemd.property("ActiveState")? == "inactive");
    ensure!(it.systemd.property("Result")? == "success");
    ensure!(!it.has_route()?, "a route is left behind");
    Ok(())
}

fn a_reload_with_a_new_program_takes_over_without_a_trace() -> Result<()> {
    let it = Appliance::start(&UnitSettings::default())?;
    let (mut old, seen) = it.site.client.run(|| {
        let mut stream = clients::connect_tcp(at(vip(1), 80))?;
        let seen = clients::ask(&mut stream, "who")?;
        anyhow::Ok((stream, seen))
    })?;
    for round in 1..=2 {
        it.upgrade()?;
        let again = it.site.client.run(|| clients::ask(&mut old, "who"))?;
        ensure!(again == seen, "round {round}: {again} is not {seen}");
        it.answers()?;
        // It is the unit's still: the next one is started by it, and it has what it needs.
        let pid = it.systemd.fairway()?.as_raw_nonzero();
        one_thread_keeps_the_right_to_packet_sockets(&pid)?;
    }
    it.systemd.systemctl(&["stop", "fairway"])?;
    ensure!(it.systemd.property("Result")? == "success");
    ensure!(!it.has_route()?, "a route is left behind");
    Ok(())
}

fn a_reload_with_a_new_program_ends_no_session_with_a_router_and_removes_no_route() -> Result<()> {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let it = Appliance::start(&UnitSettings {
        drop_ins: vec![deploy.join("systemd/kernel-routes.conf")],
        ..UnitSettings::default()
    })?;
    let router = client(0);
    let session = format!(
        "protocol bgp edge from fairway {{ local {router} as {THEIRS}; neighbor {EDGE} as {OURS}; bfd on; }}\n"
    );
    let bird = Bird::start(&it.site.client, &router.to_string(), &session)?;
    let tor = peer("tor", THEIRS, router, "bfd: {}");
    fs::write(it.systemd.manifests().join("peers.yaml"), tor)?;
    let pool = edge_pool().replace("spec: {", "spec: {announce: {routes: kernel, bgp: {}}, ");
    fs::write(it.systemd.manifests().join("pool.yaml"), pool)?;
    bird.established("edge")?;
    let settled = || {
        wait::until_some("all is announced", || {
            let knows = bird.ask(&["show", "route", "for", "203.0.113.1"])?;
            let bfd = bird.ask(&["show", "bfd", "sessions"])?;
            let table = kernel_table(&it.site.edge)?;
            let is_all = knows.contains("203.0.113.1/32") && bfd.contains(" Up ");
            ensure!(is_all && table.len() == 2, "{knows} {bfd} {table:?}");
            Ok(())
        })
    };
    settled()?;
    let before = BirdKnows::ask(&bird, &["edge"])?;
    let routes = RouteWatch::start(&it.site.edge)?;
    for _ in 0..2 {
        it.upgrade()?;
        settled()?;
        before.same(&BirdKnows::ask(&bird, &["edge"])?)?;
        let changes = routes.changes();
        ensure!(!changes.iter().any(|it| it.contains("251")), "{changes:?}");
    }
    it.systemd.systemctl(&["stop", "fairway"])?;
    ensure!(it.systemd.property("Result")? == "success");
    ensure!(kernel_table(&it.site.edge)?.is_empty());
    Ok(())
}

fn signals_that_mean_nothing_are_ignored_and_sighup_looks_at_the_manifests() -> Result<()> {
    let host = Host::new("alone")?;
    let mut fairway = Fairway::prepare(&host)?;
    fairway.write("pool.yaml", &edge_pool())?;
    fairway.launch()?;
    fairway.ready()?;
    for (signal, name) in [(Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        fairway.process()?.signal(signal)?;
        fairway.logs(&["ignored", name])?;
    }
    fairway.process()?.signal(Signal::PIPE)?;
    let passes = fairway.metric("fairway_manifest_passes_total", &[])?;
    fairway.process()?.signal(Signal::HUP)?;
    fairway.logs(&["told to reload"])?;
    wait::until("the manifests are looked at", || {
        fairway
            .metric("fairway_manifest_passes_total", &[])
            .is_ok_and(|now| now > passes)
    })?;
    ensure!(fairway.process()?.ended()?.is_none());
    fairway.ready()
}

fn every_signal_that_stops_fairway_lets_connections_drain() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let host = Host::new("alone")?;
        let mut fairway = Fairway::prepare(&host)?;
        fairway.write("pool.yaml", &edge_pool())?;
        fairway.launch()?;
        fairway.ready()?;
        fairway.process()?.signal(signal)?;
        let status = fairway.process()?.wait(wait::SOON)?;
        ensure!(status.code() == Some(0), "{signal:?}: {status}");
        fairway.logs(&["connections drain"])?;
    }
    Ok(())
}
