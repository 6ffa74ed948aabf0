//! The API server is away, or hangs: gateways go on with what they know, and start with what they
//! last knew.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::{Cluster, Component};
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::Installed;
use fairway_integration::lab::Served;
use fairway_integration::servers::named;
use fairway_integration::site::server;
use fairway_integration::{clients, tests, wait};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

tests![
    a_gateway_serves_on_and_starts_again_while_the_api_server_is_away,
    traffic_goes_on_while_etcd_hangs,
    without_a_snapshot_a_gateway_says_what_it_waits_for,
    a_full_disk_is_told_and_ends_nothing,
    a_snapshot_has_one_owner,
];

fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn who(installed: &Installed<'_>, to: SocketAddr) -> Option<String> {
    installed.site.client.run(|| clients::who(to).ok())
}

/// The Service `shop/web` on port 80 with one endpoint, `a`, and a controller that has given it an
/// address.
struct Shop {
    to: SocketAddr,
    _controller: Fairway,
    _server: Served,
}

impl Shop {
    fn open(it: &Installed<'_>) -> Result<Self> {
        let server_named = named(&it.site.farm, &[("a", at(server(0), 80))])?;
        let controller = it.controller("controller-1", &["--default-class"])?;
        it.pool("edge", &["203.0.113.1-203.0.113.9"])?;
        it.cluster.node("node-a", &[server(9)], &[])?;
        it.service("web", "ports: [{port: 80, targetPort: http}]")?;
        it.pod("web", 0, server(0), "node-a")?;
        it.cluster.wait_for_endpoints("shop", "web", &[server(0)])?;
        Ok(Self {
            to: at(it.address("web")?, 80),
            _controller: controller,
            _server: server_named,
        })
    }

    fn answers(&self, it: &Installed<'_>) -> bool {
        who(it, self.to).as_deref() == Some("a")
    }

    fn until_it_answers(&self, it: &Installed<'_>) -> Result<()> {
        wait::until("the address answers", || self.answers(it))
    }

    fn connect(&self, it: &Installed<'_>) -> Result<TcpStream> {
        let mut open = it.site.client.run(|| clients::connect_tcp(self.to))?;
        clients::ask(&mut open, "who")?;
        Ok(open)
    }

    /// For so long, `open` and every new connection answer.
    fn goes_on(&self, it: &Installed<'_>, open: &mut TcpStream, span: Duration) -> Result<()> {
        wait::always(span, "old and new connections answer", || {
            clients::ask(open, "who").is_ok() && self.answers(it)
        })
    }

    /// Changes the port to `port` and waits until the gateway follows.
    fn moves_to(&self, it: &Installed<'_>, port: u16) -> Result<()> {
        let patch =
            format!(r#"[{{"op": "replace", "path": "/spec/ports/0/port", "value": {port}}}]"#);
        it.cluster.kubectl(&[
            "patch",
            "service",
            "web",
            "-n",
            "shop",
            "--type=json",
            "-p",
            &patch,
        ])?;
        wait::until("the gateway follows", || {
            who(it, at(self.to.ip(), port)).as_deref() == Some("a") && who(it, self.to).is_none()
        })
    }
}

fn gateway(it: &Installed<'_>, state: &Path) -> Result<Fairway> {
    let state = state.to_str().context("no UTF-8")?;
    it.gateway(&["--default-class", "--state", state])
}

/// Waits until the snapshot has the Service with its address, and its endpoint.
fn until_written(state: &Path, shop: &Shop) -> Result<()> {
    let (vip, endpoint) = (shop.to.ip().to_string(), server(0).to_string());
    wait::until_some("the snapshot has it", || {
        let text = fs::read_to_string(state.join("memory.jsonl"))?;
        let has = |key: &str, word: &str| {
            let mut lines = text.lines().rev();
            let last = lines.find(|line| line.starts_with(key));
            last.is_some_and(|line| line.contains(word))
        };
        ensure!(state.join("snapshot.json").exists());
        ensure!(
            has("Service shop/web\t", &format!("\"ip\":\"{vip}\"")),
            "{text}"
        );
        ensure!(has("EndpointSlice shop/web-", &endpoint), "{text}");
        ensure!(!text.contains("managedFields"), "{text}");
        Ok(())
    })
}

fn a_gateway_serves_on_and_starts_again_while_the_api_server_is_away() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let state = TempDir::with_prefix("fairway-state-")?;
    let shop = Shop::open(&it)?;
    let mut gateway = gateway(&it, state.path())?;
    shop.until_it_answers(&it)?;
    until_written(state.path(), &shop)?;
    let mut open = shop.connect(&it)?;
    cluster.stop_component(Component::ApiServer)?;
    gateway.problem(&["services can't be watched"])?;
    shop.goes_on(&it, &mut open, Duration::from_secs(5))?;
    gateway.ready()?;

    gateway.kill();
    gateway.restart()?;
    shop.until_it_answers(&it)?;
    let addresses = gateway.external_ips("shop/web")?;
    ensure!(addresses == [shop.to.ip().to_string()], "{addresses:?}");
    gateway.logs(&["a snapshot of what was known stands in"])?;
    gateway.problem(&[
        "has not been heard yet",
        "services",
        "written down until 20",
    ])?;
    let mut open = shop.connect(&it)?;
    shop.goes_on(&it, &mut open, Duration::from_secs(3))?;
    gateway.ready()?;

    cluster.start_component(Component::ApiServer)?;
    shop.moves_to(&it, 8080)?;
    wait::until("there is no problem any more", || {
        gateway
            .get("/api/v1/problems")
            .is_ok_and(|response| !response.body.contains("API server"))
    })
}

fn traffic_goes_on_while_etcd_hangs() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let state = TempDir::with_prefix("fairway-state-")?;
    let shop = Shop::open(&it)?;
    let mut gateway = gateway(&it, state.path())?;
    shop.until_it_answers(&it)?;
    until_written(state.path(), &shop)?;
    let mut open = shop.connect(&it)?;
    cluster.pause_component(Component::Etcd)?;
    shop.goes_on(&it, &mut open, Duration::from_secs(30))?;
    gateway.kill();
    gateway.restart()?;
    shop.until_it_answers(&it)?;
    let mut open = shop.connect(&it)?;
    cluster.resume_component(Component::Etcd)?;
    cluster.wait_until_ready(Component::ApiServer)?;
    shop.goes_on(&it, &mut open, Duration::from_secs(3))?;
    shop.moves_to(&it, 8080)
}

fn without_a_snapshot_a_gateway_says_what_it_waits_for() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let shop = Shop::open(&it)?;
    let account = it.account("fairway-gateway")?;
    cluster.stop_component(Component::ApiServer)?;
    let mut gateway = Fairway::member(&it.site.edge, "gateway", &account)?.arguments(&[
        "--node-name",
        "edge-1",
        "--default-class",
    ]);
    gateway.launch()?;
    for plural in ["nodes", "addresspools", "services", "endpointslices"] {
        wait::until_some(&format!("it says that it waits for {plural}"), || {
            let response = gateway.get("/readyz")?;
            let words = format!("{plural} can't be watched");
            ensure!(
                response.status == 503 && response.body.contains(&words),
                "{response:?}"
            );
            Ok(())
        })?;
    }
    ensure!(!shop.answers(&it));
    cluster.start_component(Component::ApiServer)?;
    gateway.ready()?;
    shop.until_it_answers(&it)
}

/// A file system that goes with this.
struct Mounted(TempDir);

impl Mounted {
    fn new() -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-state-")?;
        let options = c"size=1m";
        mount(
            "tmpfs",
            folder.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(options),
        )?;
        Ok(Self(folder))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

fn a_full_disk_is_told_and_ends_nothing() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let mounted = Mounted::new()?;
    let state = mounted.0.path();
    let shop = Shop::open(&it)?;
    let mut gateway = gateway(&it, state)?;
    shop.until_it_answers(&it)?;
    until_written(state, &shop)?;
    let ballast = state.join("ballast");
    // As much as there is room for.
    ensure!(fs::write(&ballast, vec![0; 2 << 20]).is_err());
    // More than is left of the last page of the file.
    let large = format!("large={}", "x".repeat(10_000));
    cluster.kubectl(&["annotate", "service", "web", "-n", "shop", &large])?;
    gateway.problem(&["snapshot", "can't be written", "No space left"])?;
    ensure!(gateway.metric("fairway_store_errors_total", &["operation=\"snapshot\""])? > 0.0);
    shop.moves_to(&it, 8080)?;
    gateway.ready()?;
    fs::remove_file(ballast)?;
    wait::until_some("what was not written is written", || {
        let text = fs::read_to_string(state.join("memory.jsonl"))?;
        ensure!(text.contains(&large[6..]), "{} bytes", text.len());
        let problems = gateway.get("/api/v1/problems")?.body;
        ensure!(!problems.contains("can't be written"), "{problems}");
        Ok(())
    })
}

fn a_snapshot_has_one_owner() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let state = TempDir::with_prefix("fairway-state-")?;
    let mut gateway = gateway(&it, state.path())?;
    let account = it.account("fairway-gateway")?;
    let output = gateway.cli(&[
        "gateway",
        "--kubeconfig",
        account.to_str().context("no UTF-8")?,
        "--admin",
        "127.0.0.1:9902",
        "--state",
        state.path().to_str().context("no UTF-8")?,
    ])?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2), "{}", output.status);
    let owner = format!("belongs to process {}", gateway.process()?.id());
    ensure!(said.contains(&owner), "{said}");
    Ok(())
}
