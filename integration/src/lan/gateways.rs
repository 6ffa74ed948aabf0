//! Fairway on every edge: a fleet without a cluster.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tempfile::TempDir;

use super::announcers::Announcers;
use super::network::{INTERFACE, Lan, LanEdge};
use crate::fairway::{ADMIN, Fairway};
use crate::manifest;
use crate::site;

/// Where gateways send their heartbeats.
pub const FLEET_PORT: u16 = 9902;

/// The port of every Service of [`services`].
pub const PORT: u16 = 80;

/// Where their endpoint answers.
pub const TARGET: u16 = 7000;

/// How long a gateway that was asked to stop may take before it is started anew.
const ENDS: Duration = Duration::from_secs(2);

/// `fairway standalone` on each edge, each with the others as its peers and the same manifests.
#[derive(Debug)]
pub struct LanGateways {
    gateways: BTreeMap<u8, Fairway>,
    // Last: the key goes after those that read it.
    _key: TempDir,
}

/// A pool of these addresses, which is announced on layer 2.
pub fn announced_pool(addresses: &[&str]) -> String {
    format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: lan}}\n\
         spec: {{addresses: {addresses:?}, announce: {{layer2: {{interfaces: [{INTERFACE}]}}}}}}\n"
    )
}

/// A Service for each of the addresses, and its endpoint on the farm. Who allots addresses is each gateway by itself,
/// so each Service asks for the one that it is to have.
pub fn services(addresses: &[IpAddr]) -> String {
    let documents = addresses.iter().enumerate().map(|(n, address)| {
        let name = format!("s{n}");
        let endpoint = match address {
            IpAddr::V4(_) => site::server(0),
            IpAddr::V6(_) => site::server6(0),
        };
        let family = match address {
            IpAddr::V4(_) => "IPv4",
            IpAddr::V6(_) => "IPv6",
        };
        let service = manifest::load_balancer(&name, *address, PORT, TARGET);
        let families = format!("ipFamilies: [{family}], ipFamilyPolicy: SingleStack, selector:");
        let service = service.replace("selector:", &families);
        [service, manifest::slice(&name, TARGET, &[endpoint])].join("---\n")
    });
    documents.collect::<Vec<_>>().join("---\n")
}

/// The servers that the endpoints of [`services`] are.
pub fn endpoints() -> [(&'static str, SocketAddr); 2] {
    [
        ("farm", SocketAddr::new(site::server(0), TARGET)),
        ("farm", SocketAddr::new(site::server6(0), TARGET)),
    ]
}

impl LanGateways {
    /// Prepared on each edge of the LAN and not started; `arrange` may change each.
    pub fn prepare(
        lan: &Lan,
        manifests: &str,
        arrange: impl Fn(&LanEdge, Fairway) -> Fairway,
    ) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-key-")?;
        let key = key_file(&folder, "a key that only these gateways know")?;
        let gateways: Result<BTreeMap<u8, Fairway>> = lan
            .edges
            .iter()
            .map(|edge| {
                let others = lan.edges.iter().filter(|it| it.number != edge.number);
                let peers = others.map(|it| format!("{}={}", it.name, it.ip()));
                let peers = peers.collect::<Vec<_>>().join(",");
                let gateway = Fairway::prepare(&edge.host)?;
                let mut gateway = gateway.arguments(&["--node-name", &edge.name]);
                if !peers.is_empty() {
                    let key = key.to_string_lossy();
                    gateway = gateway.arguments(&["--peers", &peers, "--peers-key-file", &key]);
                }
                gateway.write("all.yaml", manifests)?;
                Ok((edge.number, arrange(edge, gateway)))
            })
            .collect();
        Ok(Self {
            gateways: gateways?,
            _key: folder,
        })
    }

    /// Started on each edge of the LAN, and ready.
    pub fn start(lan: &Lan, manifests: &str) -> Result<Self> {
        let mut all = Self::prepare(lan, manifests, |_, gateway| gateway)?;
        all.launch()?;
        Ok(all)
    }

    /// Starts all of them, and waits until they are ready.
    pub fn launch(&mut self) -> Result<()> {
        for gateway in self.gateways.values_mut() {
            gateway.launch()?;
        }
        for gateway in self.gateways.values_mut() {
            gateway.ready()?;
        }
        Ok(())
    }

    /// The one on that edge.
    pub fn on(&mut self, edge: &LanEdge) -> Result<&mut Fairway> {
        let gateway = self.gateways.get_mut(&edge.number);
        gateway.with_context(|| format!("no gateway is on {}", edge.name))
    }
}

impl Announcers for LanGateways {
    fn signal(&mut self, edge: &LanEdge, signal: Signal) -> Result<()> {
        let gateway = self.on(edge)?;
        match signal {
            Signal::KILL => {
                gateway.kill();
                Ok(())
            }
            other => gateway.process()?.signal(other),
        }
    }

    fn drain(&mut self, edge: &LanEdge, is_over: bool) -> Result<()> {
        let more: &[&str] = if is_over { &["--undo"] } else { &[] };
        let admin = ADMIN.to_string();
        let arguments = [&["drain", &edge.name, "--admin", &admin], more].concat();
        self.on(edge)?.cli_output(&arguments)?;
        Ok(())
    }

    fn revive(&mut self, edge: &LanEdge) -> Result<()> {
        let gateway = self.on(edge)?;
        if let Ok(process) = gateway.process() {
            // One with connections that nobody ends waits for them for half a minute; what is left of it is killed.
            let _ = process.wait(ENDS);
        }
        gateway.restart()
    }

    fn has_served(&self, edge: &LanEdge, line: &str) -> bool {
        // The farm says whom it saw.
        let seen = line.split_whitespace().nth(1);
        let seen: Option<SocketAddr> = seen.and_then(|text| text.parse().ok());
        seen.is_some_and(|seen| edge.is_seen_as(seen.ip()))
    }
}

/// A file with a key, which nobody else may read.
pub fn key_file(folder: &TempDir, key: &str) -> Result<PathBuf> {
    let path = folder.path().join("key");
    fs::write(&path, key)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(path)
}
