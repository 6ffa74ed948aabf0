//! The ways from the client to the servers: directly, through Fairway, and through each peer.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::Result;
use fairway_integration::bench::backend::{CLOSES, ECHOES, KEEPS, SENDS};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::{Host, Process};
use fairway_integration::servers::nginx_stream_module;
use fairway_integration::site::{Site, server, vip};
use fairway_integration::{clients, programs, wait};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::http::{self, WEB};

/// Servers behind each path.
pub(crate) const SERVERS: u8 = 4;

/// The argument that makes this program a forwarder.
pub(crate) const LEAST: &str = "least";

/// Files that a process may have open here; see `ulimit -Hn`.
pub(crate) const FILES: u32 = 20_000;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// By routing alone: the limit of what client and servers can do.
    Direct,
    /// Fairway, as it is by default.
    Fairway,
    HaProxy,
    Nginx,
    /// A map of destinations in nftables, as kube-proxy has it: the kernel's own.
    Nftables,
    /// A forwarder that does nothing else: what sockets cost.
    Least,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Fairway => "Fairway",
            Self::HaProxy => "HAProxy",
            Self::Nginx => "nginx stream",
            Self::Nftables => "nftables DNAT",
            Self::Least => "least",
        })
    }
}

impl Way {
    pub(crate) const ALL: [Self; 6] = [
        Self::Direct,
        Self::Fairway,
        Self::HaProxy,
        Self::Nginx,
        Self::Nftables,
        Self::Least,
    ];

    /// Where a client finds the servers this way.
    pub(crate) fn address(self) -> IpAddr {
        match self {
            Self::Direct => server(0),
            Self::Fairway => vip(1),
            Self::HaProxy => vip(2),
            Self::Nginx => vip(3),
            Self::Nftables => vip(4),
            Self::Least => vip(5),
        }
    }

    /// Whether it is a process that carries bytes.
    pub(crate) fn is_process(self) -> bool {
        matches!(
            self,
            Self::Fairway | Self::HaProxy | Self::Nginx | Self::Least
        )
    }

    /// Who knows HTTP, and the servers themselves.
    pub(crate) fn carries_http(self) -> bool {
        matches!(
            self,
            Self::Direct | Self::Fairway | Self::HaProxy | Self::Nginx
        )
    }

    /// HAProxy has no UDP, nor has the least.
    pub(crate) fn carries_udp(self) -> bool {
        !matches!(self, Self::HaProxy | Self::Least)
    }
}

/// All of them, up at the same time; who is not asked is idle.
pub(crate) struct Paths {
    fairway: Fairway,
    haproxy: Process,
    nginx: Process,
    least: Process,
    edge: Host,
    has_rules: bool,
    _folder: TempDir,
}

impl Paths {
    pub(crate) fn start(site: &Site) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-peers-")?;
        for host in [&site.client, &site.edge, &site.farm] {
            host.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
            host.sysctl("ipv4/tcp_tw_reuse", "1")?;
            host.sysctl("core/somaxconn", "4096")?;
            host.sysctl("ipv4/tcp_max_syn_backlog", "8192")?;
        }
        site.edge.sysctl("ipv4/ip_forward", "1")?;
        site.client.ip("route add 192.0.2.0/24 via 198.51.100.1")?;
        site.farm.ip("route add 198.51.100.0/24 via 192.0.2.1")?;
        for way in [Way::HaProxy, Way::Nginx, Way::Least] {
            site.edge.addresses("lo", &[(way.address(), 32)])?;
        }
        let mut paths = Self {
            fairway: fairway(&site.edge)?,
            haproxy: haproxy(&site.edge, &folder)?,
            nginx: nginx(&site.edge, &folder)?,
            least: least(&site.edge)?,
            edge: site.edge.clone(),
            has_rules: false,
            _folder: folder,
        };
        for way in Way::ALL {
            paths.turn(way)?;
            for port in [KEEPS, CLOSES, SENDS, WEB] {
                if port == WEB && way == Way::Least {
                    continue;
                }
                let at = SocketAddr::new(way.address(), port);
                wait::until(&format!("{way} answers at {at}"), || {
                    site.client.run(|| clients::connect_tcp(at).is_ok())
                })?;
            }
        }
        Ok(paths)
    }

    /// The rules of nftables are there while it is their turn: where there are some, the kernel tracks
    /// every connection of the host, at the cost of whoever carries them.
    pub(crate) fn turn(&mut self, way: Way) -> Result<()> {
        if (way == Way::Nftables) != self.has_rules {
            self.has_rules = way == Way::Nftables;
            nft(
                &self.edge,
                if self.has_rules {
                    rules()
                } else {
                    "delete table ip bench\n".into()
                },
            )?;
        }
        Ok(())
    }

    /// The process that carries the bytes, its children included; none where the kernel does.
    pub(crate) fn process(&mut self, way: Way) -> Result<Option<u32>> {
        Ok(match way {
            Way::Direct | Way::Nftables => None,
            Way::Fairway => Some(self.fairway.process()?.id()),
            Way::HaProxy => Some(self.haproxy.id()),
            Way::Nginx => Some(self.nginx.id()),
            Way::Least => Some(self.least.id()),
        })
    }
}

impl Drop for Paths {
    fn drop(&mut self) {
        end(&mut self.nginx);
    }
}

/// Ends a process that has children, and these: whoever has its output waits for them, too.
pub(crate) fn end(process: &mut Process) {
    let id = process.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    // First itself: it would start others in their place.
    if process.signal(Signal::KILL).is_ok() {
        let _ = process.wait(wait::SOON);
    }
    for child in children.unwrap_or_default().split_whitespace() {
        if let Some(child) = child.parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(child, Signal::KILL);
        }
    }
}

fn servers() -> impl Iterator<Item = IpAddr> {
    (0..SERVERS).map(server)
}

fn fairway(edge: &Host) -> Result<Fairway> {
    let mut manifests = format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: edge}}\nspec: \
         {{addresses: [{0}-{0}]}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: bench, \
         namespace: bench}}\nspec:\n  type: LoadBalancer\n  allocateLoadBalancerNodePorts: \
         false\n  ports:\n",
        Way::Fairway.address()
    );
    let mut ports = String::new();
    for (port, protocol) in [
        (KEEPS, "TCP"),
        (CLOSES, "TCP"),
        (SENDS, "TCP"),
        (ECHOES, "UDP"),
        (WEB, "TCP"),
    ] {
        let app = if port == WEB {
            ", appProtocol: http"
        } else {
            ""
        };
        let line = format!("  - {{name: p{port}, port: {port}, protocol: {protocol}{app}}}\n");
        manifests += &line;
        ports += &line.replace("  - ", "- ");
    }
    let endpoints: Vec<String> = servers()
        .map(|server| format!("{{addresses: ['{server}']}}"))
        .collect();
    manifests += &format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: bench-1, \
         namespace: bench, labels: {{kubernetes.io/service-name: bench}}}}\naddressType: \
         IPv4\nports:\n{ports}endpoints: [{}]\n",
        endpoints.join(", ")
    );
    let mut fairway = Fairway::prepare(edge)?.log("warn");
    fairway.write("bench.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    Ok(fairway)
}

fn haproxy(edge: &Host, folder: &TempDir) -> Result<Process> {
    let mut text = format!(
        "global\n  nbthread 2\n  maxconn 9000\n  maxpipes 256\n  ulimit-n {FILES}\n  no log\ndefaults\n  mode tcp\n  \
         timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n  balance roundrobin\n"
    );
    for port in [KEEPS, CLOSES, SENDS] {
        // Forced splicing is its best for streams, and costs short ones two pipes.
        let splice = match port {
            SENDS => "  option splice-request\n  option splice-response\n",
            _ => "",
        };
        text += &format!(
            "listen p{port}\n  bind {}:{port}\n{splice}",
            Way::HaProxy.address()
        );
        for (n, server) in servers().enumerate() {
            text += &format!("  server s{n} {server}:{port}\n");
        }
    }
    text += &http::haproxy(Way::HaProxy.address(), SERVERS);
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new(programs::find("haproxy")?);
    command.arg("-db").arg("-f").arg(&file);
    edge.spawn(command)
}

fn nginx(edge: &Host, folder: &TempDir) -> Result<Process> {
    let path = folder.path().display();
    let module = nginx_stream_module()?;
    let mut text = format!(
        "load_module {module};\ndaemon off; user root; pid {path}/nginx.pid; error_log stderr \
         crit;\nworker_processes 2; worker_cpu_affinity auto; worker_rlimit_nofile {FILES};\nevents \
         {{ worker_connections 16000; }}\nstream {{\n  access_log off; proxy_timeout 1h;\n"
    );
    for (port, udp) in [(KEEPS, ""), (CLOSES, ""), (SENDS, ""), (ECHOES, " udp")] {
        text += &format!("  upstream p{port} {{\n");
        for server in servers() {
            text += &format!("    server {server}:{port};\n");
        }
        text += &format!(
            "  }}\n  server {{ listen {}:{port}{udp} reuseport backlog=4096; proxy_pass p{port}; }}\n",
            Way::Nginx.address()
        )
        .replace(" udp reuseport backlog=4096", " udp reuseport");
    }
    text += "}\n";
    text += &http::nginx(Way::Nginx.address(), SERVERS);
    let file = folder.path().join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(programs::find("nginx")?);
    command.args(["-e", "stderr", "-c"]).arg(&file);
    command.arg("-p").arg(folder.path());
    edge.spawn(command)
}

/// This program by another name; see [`fairway_integration::bench::least`].
fn least(edge: &Host) -> Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(LEAST).arg(Way::Least.address().to_string());
    command.args(servers().map(|server| server.to_string()));
    edge.spawn(command)
}

fn rules() -> String {
    let chosen: Vec<String> = servers()
        .enumerate()
        .map(|(n, server)| format!("{n} : {server}"))
        .collect();
    format!(
        "table ip bench {{\n  chain services {{\n    dnat to numgen random mod {SERVERS} map {{ {} \
         }}\n  }}\n  map services {{\n    type ipv4_addr : verdict\n    elements = {{ {} : goto \
         services }}\n  }}\n  chain prerouting {{\n    type nat hook prerouting priority dstnat\n    \
         ip daddr vmap @services\n  }}\n}}\n",
        chosen.join(", "),
        Way::Nftables.address(),
    )
}

fn nft(edge: &Host, script: String) -> Result<()> {
    let mut nft = Command::new(programs::find("nft")?);
    let file = tempfile::NamedTempFile::new()?;
    fs::write(&file, script)?;
    nft.arg("-f").arg(file.path());
    let output = edge.run(|| nft.output())?;
    anyhow::ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
