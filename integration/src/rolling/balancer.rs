//! Who balances over backends that come and go, and how each is told of it.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use tempfile::TempDir;

use super::backends::{BACKENDS, ListedAs, PORT};
use crate::fairway::Fairway;
use crate::lab::{Host, Process};
use crate::manifest::{all, edge_pool, load_balancer, slice_with};
use crate::servers::nginx_stream_module;
use crate::site::{EDGE, Site, at, server, vip};
use crate::{clients, programs, wait};

/// Who balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RollingWay {
    /// By an EndpointSlice, which is written again.
    Fairway,
    /// By its runtime API, as its ingress controllers do it: what ends drains, what is gone is in maintenance.
    HaProxy,
    /// By a new configuration and a reload.
    Nginx,
}

impl RollingWay {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fairway, Self::HaProxy, Self::Nginx];

    /// Where clients ask.
    pub fn address(self) -> SocketAddr {
        match self {
            Self::Fairway => at(vip(1), 80),
            Self::HaProxy | Self::Nginx => at(EDGE, 81),
        }
    }
}

impl fmt::Display for RollingWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fairway => "Fairway",
            Self::HaProxy => "HAProxy",
            Self::Nginx => "nginx",
        })
    }
}

/// What balances, while it runs.
pub(super) enum RollingBalancer {
    Fairway(Box<Fairway>),
    HaProxy(RuntimeHaProxy),
    Nginx(ReloadedNginx),
}

impl RollingBalancer {
    pub(super) fn start(
        way: RollingWay,
        site: &Site,
        is_http: bool,
        listed: &[(IpAddr, ListedAs)],
    ) -> Result<Self> {
        let balancer = match way {
            RollingWay::Fairway => Self::Fairway(Box::new(fairway(site, is_http, listed)?)),
            RollingWay::HaProxy => {
                Self::HaProxy(RuntimeHaProxy::start(&site.edge, is_http, listed)?)
            }
            RollingWay::Nginx => Self::Nginx(ReloadedNginx::start(&site.edge, is_http, listed)?),
        };
        wait::until(&format!("{way} answers"), || {
            site.client.run(|| match is_http {
                true => clients::http_get(way.address(), "/").is_ok_and(|it| it.status == 200),
                false => clients::who(way.address()).is_ok(),
            })
        })?;
        Ok(balancer)
    }

    /// Tells it what there is now.
    pub(super) fn list(&self, listed: &[(IpAddr, ListedAs)]) -> Result<()> {
        match self {
            Self::Fairway(fairway) => fairway.write("slice.yaml", &slice(listed)),
            Self::HaProxy(haproxy) => haproxy.list(listed),
            Self::Nginx(nginx) => nginx.list(listed),
        }
    }

    pub(super) fn stop(self) -> Result<()> {
        match self {
            Self::Fairway(mut fairway) => fairway.stop(),
            Self::HaProxy(_) | Self::Nginx(_) => Ok(()),
        }
    }
}

/// A Service whose slice is written again and again.
fn fairway(site: &Site, is_http: bool, listed: &[(IpAddr, ListedAs)]) -> Result<Fairway> {
    let service = load_balancer("shop", vip(1), 80, PORT);
    let service = match is_http {
        true => service.replace("port: 80,", "port: 80, appProtocol: http,"),
        false => service,
    };
    let manifests = all(&[&edge_pool(), &service]);
    let slice = slice(listed);
    let files = [("all.yaml", &*manifests), ("slice.yaml", &*slice)];
    let fairway = Fairway::start(&site.edge, &files)?;
    fairway.says("default/shop", &["fairway.dev/Programmed=True"])?;
    Ok(fairway)
}

fn slice(listed: &[(IpAddr, ListedAs)]) -> String {
    let endpoints: Vec<String> = listed
        .iter()
        .map(|(ip, listing)| {
            let conditions = match listing {
                ListedAs::Ready => "ready: true",
                ListedAs::Terminating => "ready: false, serving: true, terminating: true",
            };
            format!("{{addresses: [\"{ip}\"], conditions: {{{conditions}}}}}")
        })
        .collect();
    slice_with("shop", &[("", "TCP", PORT)], &endpoints)
}

/// HAProxy with a place for each server, whose states are set at its socket.
pub(super) struct RuntimeHaProxy {
    _process: Process,
    folder: TempDir,
}

impl RuntimeHaProxy {
    fn start(edge: &Host, is_http: bool, listed: &[(IpAddr, ListedAs)]) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-haproxy-")?;
        // The time of a dial, and what is tried again elsewhere, are as with Fairway.
        let (mode, retry) = match is_http {
            true => (
                "http",
                "  retry-on all-retryable-errors\n  http-request disable-l7-retry if METH_POST\n",
            ),
            false => ("tcp", ""),
        };
        let mut text = format!(
            "global\n  nbthread 2\n  no log\n  stats socket {} level admin\ndefaults\n  mode {mode}\n  \
             timeout connect 1500ms\n  timeout client 60s\n  timeout server 60s\n  retries 3\n  option redispatch 1\n  \
             balance roundrobin\nlisten shop\n  bind {EDGE}:81\n{retry}",
            folder.path().join("socket").display()
        );
        for number in 0..2 * BACKENDS {
            let ip = server(number);
            let state = match listed.iter().any(|(it, _)| *it == ip) {
                true => "",
                false => " disabled",
            };
            let _ = writeln!(text, "  server {} {ip}:{PORT}{state}", place(ip));
        }
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, text)?;
        let mut command = Command::new(programs::find("haproxy")?);
        command.arg("-db").arg("-f").arg(&file);
        Ok(Self {
            _process: edge.spawn(command)?,
            folder,
        })
    }

    fn list(&self, listed: &[(IpAddr, ListedAs)]) -> Result<()> {
        // Those that come first, so that there is always one.
        let states = [ListedAs::Ready, ListedAs::Terminating].into_iter();
        let mut commands: Vec<String> = states
            .flat_map(|state| listed.iter().filter(move |(_, it)| *it == state))
            .map(|(ip, it)| match it {
                ListedAs::Ready => format!("set server shop/{} state ready", place(*ip)),
                ListedAs::Terminating => format!("set server shop/{} state drain", place(*ip)),
            })
            .collect();
        let all = (0..2 * BACKENDS).map(server);
        let gone = all.filter(|ip| !listed.iter().any(|(it, _)| it == ip));
        commands.extend(gone.map(|ip| format!("set server shop/{} state maint", place(ip))));
        let socket = self.folder.path().join("socket");
        let mut stream = UnixStream::connect(&socket).context("HAProxy's socket")?;
        stream.write_all(format!("{}\n", commands.join(";")).as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.trim().is_empty(), "HAProxy: {answer}");
        Ok(())
    }
}

/// The name of a server's place.
fn place(ip: IpAddr) -> String {
    format!("s-{ip}")
}

/// nginx with workers that a reload replaces.
pub(super) struct ReloadedNginx {
    process: Process,
    is_http: bool,
    folder: TempDir,
}

impl ReloadedNginx {
    fn start(edge: &Host, is_http: bool, listed: &[(IpAddr, ListedAs)]) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-nginx-")?;
        let file = configuration(&folder);
        fs::write(&file, text(&folder, is_http, listed)?)?;
        let mut command = Command::new(programs::find("nginx")?);
        command.args(["-e", "stderr", "-c"]).arg(&file);
        command.arg("-p").arg(folder.path());
        Ok(Self {
            process: edge.spawn(command)?,
            is_http,
            folder,
        })
    }

    fn list(&self, listed: &[(IpAddr, ListedAs)]) -> Result<()> {
        let text = text(&self.folder, self.is_http, listed)?;
        fs::write(configuration(&self.folder), text)?;
        self.process.signal(Signal::HUP)?;
        // A reload says nothing when it is done. Its workers are new within this time.
        thread::sleep(Duration::from_millis(100));
        Ok(())
    }
}

impl Drop for ReloadedNginx {
    /// Ends it with its workers, which a master that is killed leaves behind.
    fn drop(&mut self) {
        if self.process.signal(Signal::TERM).is_ok() {
            let _ = self.process.wait(wait::SOON);
        }
    }
}

fn configuration(folder: &TempDir) -> PathBuf {
    folder.path().join("nginx.conf")
}

fn text(folder: &TempDir, is_http: bool, listed: &[(IpAddr, ListedAs)]) -> Result<String> {
    let path = folder.path().display();
    let ready = listed.iter().filter(|(_, it)| *it == ListedAs::Ready);
    let servers: String = ready
        .map(|(ip, _)| format!("server {ip}:{PORT};\n"))
        .collect();
    let events = "events { worker_connections 4096; }";
    let head = format!(
        "daemon off; worker_processes 2; user root; pid {path}/pid; error_log stderr crit;\n{events}\n"
    );
    Ok(match is_http {
        true => format!(
            "{head}http {{\n\
               access_log off; client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;\n\
               fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
               upstream shop {{ {servers} keepalive 32; }}\n\
               server {{ listen {EDGE}:81; location / {{ proxy_pass http://shop; proxy_http_version 1.1;\n\
                 proxy_connect_timeout 1500ms; proxy_set_header Connection \"\"; }} }}\n\
             }}\n"
        ),
        false => format!(
            "load_module {};\n{head}stream {{\n\
               upstream shop {{ {servers} }}\n\
               server {{ listen {EDGE}:81; proxy_connect_timeout 1500ms; proxy_pass shop; }}\n\
             }}\n",
            nginx_stream_module()?
        ),
    })
}
