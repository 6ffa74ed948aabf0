//! Who stands before the endpoints: Fairway, HAProxy in its HTTP mode, nginx with connections to the endpoints that are
//! kept. Each has lanes: addresses with an endpoint of their own, so that cases of different lanes know nothing of each
//! other.

use std::fmt;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::Result;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::fairway::Fairway;
use crate::lab::{Host, Process};
use crate::manifest::{all, edge_pool, load_balancer, slice};
use crate::site::{EDGE, Site, at, server, vip};
use crate::{clients, programs, wait};

/// How many lanes each has.
pub const LANES: u8 = 8;

/// One that stands before endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CorpusProxy {
    /// HAProxy.
    HaProxy,
    /// nginx.
    Nginx,
    /// Fairway.
    Fairway,
}

impl CorpusProxy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HaProxy, Self::Nginx, Self::Fairway];

    /// Where clients of a lane ask.
    pub fn address(self, lane: u8) -> SocketAddr {
        match self {
            Self::HaProxy => at(EDGE, 8100 + u16::from(lane)),
            Self::Nginx => at(EDGE, 8200 + u16::from(lane)),
            Self::Fairway => at(vip(1 + lane), 80),
        }
    }

    /// Where the endpoint of a lane is.
    pub fn endpoint(self, lane: u8) -> SocketAddr {
        at(server(lane), self.endpoint_port())
    }

    fn endpoint_port(self) -> u16 {
        match self {
            Self::HaProxy => 8081,
            Self::Nginx => 8082,
            Self::Fairway => 8083,
        }
    }
}

impl fmt::Display for CorpusProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HaProxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Fairway => "Fairway",
        })
    }
}

/// All of them, while they run.
pub struct CorpusProxies {
    haproxy: Process,
    nginx: Process,
    fairway: Fairway,
    _folder: TempDir,
}

impl CorpusProxies {
    /// Starts them; their endpoints have to be there.
    pub fn start(site: &Site) -> Result<Self> {
        let folder = TempDir::with_prefix("fairway-corpus-")?;
        let proxies = Self {
            haproxy: haproxy(&site.edge, &folder)?,
            nginx: nginx(&site.edge, &folder)?,
            fairway: fairway(&site.edge)?,
            _folder: folder,
        };
        for proxy in CorpusProxy::ALL {
            for lane in 0..LANES {
                wait::until(&format!("{proxy} answers on lane {lane}"), || {
                    let answer = site
                        .client
                        .run(|| clients::http_get(proxy.address(lane), "/"));
                    answer.is_ok_and(|it| it.status == 200)
                })?;
            }
        }
        Ok(proxies)
    }

    /// Stops Fairway, which fails if it has panicked.
    pub fn stop(mut self) -> Result<()> {
        self.fairway.stop()
    }
}

impl Drop for CorpusProxies {
    /// Ends nginx with its workers, which a master that is killed leaves behind.
    fn drop(&mut self) {
        for process in [&mut self.nginx, &mut self.haproxy] {
            if process.signal(Signal::TERM).is_ok() {
                let _ = process.wait(wait::SOON);
            }
        }
    }
}

fn fairway(edge: &Host) -> Result<Fairway> {
    let mut documents = vec![edge_pool()];
    for lane in 0..LANES {
        let name = format!("lane-{lane}");
        let port = CorpusProxy::Fairway.endpoint_port();
        let service = load_balancer(&name, vip(1 + lane), 80, port);
        documents.push(service.replace("port: 80,", "port: 80, appProtocol: http,"));
        documents.push(slice(&name, port, &[server(lane)]));
    }
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let manifests = all(&documents);
    Fairway::start(edge, &[("corpus.yaml", &manifests)])
}

fn haproxy(edge: &Host, folder: &TempDir) -> Result<Process> {
    let mut text =
        "global\n  nbthread 2\n  no log\ndefaults\n  mode http\n  timeout connect 5s\n  \
        timeout client 60s\n  timeout server 60s\n  timeout http-request 60s\n"
            .to_owned();
    for lane in 0..LANES {
        let (own, endpoint) = (
            CorpusProxy::HaProxy.address(lane),
            CorpusProxy::HaProxy.endpoint(lane),
        );
        let _ = write!(
            text,
            "listen lane-{lane}\n  bind {own}\n  server endpoint {endpoint}\n"
        );
    }
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new(programs::find("haproxy")?);
    command.arg("-db").arg("-f").arg(&file);
    edge.spawn(command)
}

fn nginx(edge: &Host, folder: &TempDir) -> Result<Process> {
    let path = folder.path().display();
    let mut servers = String::new();
    for lane in 0..LANES {
        let (own, endpoint) = (
            CorpusProxy::Nginx.address(lane),
            CorpusProxy::Nginx.endpoint(lane),
        );
        // The path is passed on as it came, where proxy_pass names none.
        let _ = write!(
            servers,
            "upstream lane-{lane} {{ server {endpoint}; keepalive 32; }}\n\
             server {{ listen {own}; location / {{ proxy_pass http://lane-{lane}; proxy_http_version 1.1;\n\
               proxy_set_header Connection \"\"; proxy_set_header Host $http_host; }} }}\n"
        );
    }
    let text = format!(
        "daemon off; worker_processes 2; user root; pid {path}/pid; error_log stderr crit;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
           access_log off; client_max_body_size 0; client_body_temp_path {path}/body;\n\
           proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;\n\
           uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;\n\
           {servers}\
         }}\n"
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(programs::find("nginx")?);
    command.args(["-e", "stderr", "-c"]).arg(&file);
    command.arg("-p").arg(folder.path());
    edge.spawn(command)
}
