//! The API server is away, or hangs: gateways go on with what they know, and start with what they
//! last knew.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::{Cluster, Component};
use fairway_integration::fairway::Fairway;
use fairway_integration::in_cluster::{Installed, Web};
use fairway_integration::site::server;
use fairway_integration::{clients, tests, wait};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::json;
use tempfile::TempDir;

tests![
    may run beside others;
    a_gateway_serves_on_and_starts_again_while_the_api_server_is_away,
    traffic_goes_on_while_etcd_hangs,
    without_a_snapshot_a_gateway_says_what_it_waits_for,
    a_full_disk_is_told_and_ends_nothing,
    a_snapshot_has_one_owner,
];

/// [`Web`], with a controller that looks after it and a gateway that keeps what it knows in a folder.
struct Shop<'a> {
    gateway: Fairway,
    web: Web,
    _controller: Fairway,
    it: Installed<'a>,
    // Last: the gateway writes there.
    state: Folder,
}

impl<'a> Shop<'a> {
    fn open(cluster: &'a Cluster) -> Result<Self> {
        Self::open_in(cluster, Folder::new(None)?)
    }

    /// Waits until the address answers and the snapshot has all that it takes.
    fn open_in(cluster: &'a Cluster, state: Folder) -> Result<Self> {
        let it = Installed::new(cluster)?;
        let controller = it.controlled()?;
        let web = it.web()?;
        let folder = state.path().to_str().context("no UTF-8")?;
        let gateway = it.gateway(&["--state", folder])?;
        it.answers(web.ip, 80, Some("a"))?;
        until_written(state.path(), &web)?;
        Ok(Self {
            gateway,
            web,
            _controller: controller,
            it,
            state,
        })
    }

    fn answers(&self) -> Result<()> {
        self.it.answers(self.web.ip, 80, Some("a"))
    }

    fn connect(&self) -> Result<TcpStream> {
        let connect = || clients::connect_tcp(self.web.to);
        let mut open = self.it.site.client.run(connect)?;
        clients::ask(&mut open, "who")?;
        Ok(open)
    }

    /// For so long, `open` and every new connection answer.
    fn goes_on(&self, open: &mut TcpStream, span: Duration) -> Result<()> {
        wait::always(span, "old and new connections answer", || {
            clients::ask(open, "who").is_ok() && self.it.who(self.web.to).as_deref() == Some("a")
        })
    }

    /// Changes the port to `port` and waits until the gateway follows.
    fn moves_to(&self, port: u16) -> Result<()> {
        let ports = json!([{"port": port, "targetPort": 80}]);
        self.it.change("web", json!({"spec": {"ports": ports}}))?;
        self.it.answers(self.web.ip, port, Some("a"))?;
        self.it.answers(self.web.ip, 80, None)
    }
}

/// Waits until the snapshot has the Service with its address, and its endpoint.
fn until_written(state: &Path, web: &Web) -> Result<()> {
    let (vip, endpoint) = (web.ip.to_string(), server(0).to_string());
    wait::until_some("the snapshot has it", || {
        let text = fs::read_to_string(state.join("memory.jsonl"))?;
        // An object's last line is how it is; a Service may have had other slices that are gone.
        let objects: HashMap<_, _> = text
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .collect();
        let has = |key: &str, word: &str| {
            let mut objects = objects.iter();
            objects.any(|(name, object)| name.starts_with(key) && object.contains(word))
        };
        ensure!(state.join("snapshot.json").exists());
        ensure!(
            has("Service shop/web", &format!("\"ip\":\"{vip}\"")),
            "{text}"
        );
        ensure!(has("EndpointSlice shop/web-", &endpoint), "{text}");
        ensure!(!text.contains("managedFields"), "{text}");
        Ok(())
    })
}

fn a_gateway_serves_on_and_starts_again_while_the_api_server_is_away() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut shop = Shop::open(&cluster)?;
    let mut open = shop.connect()?;
    cluster.stop_component(Component::ApiServer)?;
    shop.gateway.problem(&["services can't be watched"])?;
    shop.goes_on(&mut open, Duration::from_secs(5))?;
    shop.gateway.ready()?;

    shop.gateway.kill();
    shop.gateway.restart()?;
    shop.answers()?;
    let addresses = shop.gateway.external_ips("shop/web")?;
    ensure!(addresses == [shop.web.ip.to_string()], "{addresses:?}");
    shop.gateway
        .logs(&["a snapshot of what was known stands in"])?;
    shop.gateway.problem(&[
        "has not been heard yet",
        "services",
        "written down until 20",
    ])?;
    let mut open = shop.connect()?;
    shop.goes_on(&mut open, Duration::from_secs(3))?;
    shop.gateway.ready()?;

    cluster.start_component(Component::ApiServer)?;
    shop.moves_to(8080)?;
    wait::until_some("there is no problem any more", || {
        let problems = shop.gateway.get("/api/v1/problems")?.body;
        ensure!(!problems.contains("API server"), "{problems}");
        Ok(())
    })
}

fn traffic_goes_on_while_etcd_hangs() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut shop = Shop::open(&cluster)?;
    let mut open = shop.connect()?;
    cluster.pause_component(Component::Etcd)?;
    shop.goes_on(&mut open, Duration::from_secs(30))?;
    shop.gateway.kill();
    shop.gateway.restart()?;
    shop.answers()?;
    let mut open = shop.connect()?;
    cluster.resume_component(Component::Etcd)?;
    cluster.wait_until_ready(Component::ApiServer)?;
    shop.goes_on(&mut open, Duration::from_secs(3))?;
    shop.moves_to(8080)
}

fn without_a_snapshot_a_gateway_says_what_it_waits_for() -> Result<()> {
    let cluster = Cluster::shared()?;
    let it = Installed::new(&cluster)?;
    let _controller = it.controlled()?;
    let web = it.web()?;
    let account = it.account("fairway-gateway")?;
    cluster.stop_component(Component::ApiServer)?;
    let mut gateway =
        Fairway::member(&it.site.edge, "gateway", &account)?.arguments(&["--node-name", "edge-1"]);
    gateway.launch()?;
    for plural in [
        "nodes",
        "addresspools",
        "bgppeers",
        "services",
        "endpointslices",
    ] {
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
    ensure!(it.who(web.to).is_none());
    cluster.start_component(Component::ApiServer)?;
    gateway.ready()?;
    it.answers(web.ip, 80, Some("a"))
}

/// A folder that goes with this, on a file system of its own where it has a size.
struct Folder {
    folder: TempDir,
    mounted: bool,
}

impl Folder {
    fn new(options: Option<&CStr>) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-state-")?;
        if options.is_some() {
            let path = folder.path();
            mount("tmpfs", path, "tmpfs", MountFlags::empty(), options)?;
        }
        Ok(Self {
            folder,
            mounted: options.is_some(),
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.mounted {
            let _ = unmount(self.path(), UnmountFlags::DETACH);
        }
    }
}

fn a_full_disk_is_told_and_ends_nothing() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut shop = Shop::open_in(&cluster, Folder::new(Some(c"size=1m"))?)?;
    let ballast = shop.state.path().join("ballast");
    // As much as there is room for.
    ensure!(fs::write(&ballast, vec![0; 2 << 20]).is_err());
    // More than is left of the last page of the file.
    let large = "x".repeat(10_000);
    let annotations = json!({"annotations": {"large": large}});
    shop.it.change("web", json!({"metadata": annotations}))?;
    let gateway = &shop.gateway;
    gateway.problem(&["snapshot", "can't be written", "No space left"])?;
    ensure!(gateway.metric("fairway_store_errors_total", &["operation=\"snapshot\""])? > 0.0);
    shop.moves_to(8080)?;
    shop.gateway.ready()?;
    fs::remove_file(ballast)?;
    wait::until_some("what was not written is written", || {
        let text = fs::read_to_string(shop.state.path().join("memory.jsonl"))?;
        ensure!(text.contains(&large), "{} bytes", text.len());
        let problems = shop.gateway.get("/api/v1/problems")?.body;
        ensure!(!problems.contains("can't be written"), "{problems}");
        Ok(())
    })
}

fn a_snapshot_has_one_owner() -> Result<()> {
    let cluster = Cluster::shared()?;
    let mut shop = Shop::open(&cluster)?;
    let account = shop.it.account("fairway-gateway")?;
    let output = shop.gateway.cli(&[
        "gateway",
        "--kubeconfig",
        account.to_str().context("no UTF-8")?,
        "--admin",
        "127.0.0.1:9902",
        "--state",
        shop.state.path().to_str().context("no UTF-8")?,
    ])?;
    let said = String::from_utf8(output.stderr)?;
    ensure!(output.status.code() == Some(2), "{}", output.status);
    let owner = format!("belongs to process {}", shop.gateway.process()?.id());
    ensure!(said.contains(&owner), "{said}");
    Ok(())
}
