//! API servers on several hosts, over one etcd: the control plane of a cluster that is only to be.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use super::addresses::API_PORT;
use super::certificates::{Authority, Identity};
use super::component::{self, Files};
use super::folder::Folder;
use crate::lab::{Host, Process};
use crate::{clients, programs, wait};

/// One API server on each of these hosts. They end when this is dropped.
#[derive(Debug)]
pub struct ApiServers {
    servers: BTreeMap<String, (Host, Process)>,
    _etcd: Process,
    visitor: Visitor,
    // Last: it goes after the programs that use it.
    folder: Folder,
}

impl ApiServers {
    /// Starts etcd at that address of its host, and an API server on each of the others, with its address. All are
    /// known by `name`, too. Returns when they answer.
    pub fn start(etcd: (&Host, IpAddr), hosts: &[(&Host, IpAddr)], name: IpAddr) -> Result<Self> {
        let folder = Folder::new()?;
        let authority = Authority::new(folder.path())?;
        let (etcd_host, etcd_ip) = etcd;
        let mut command = component::program("etcd", folder.path())?;
        command.args(component::etcd(folder.path(), etcd_ip));
        let etcd = etcd_host.spawn(command)?;
        let mut names = component::server_names();
        names.push(name.to_string());
        names.extend(hosts.iter().map(|(_, ip)| ip.to_string()));
        let files = Files {
            folder: folder.path().to_owned(),
            server: authority.server("api-server", &names)?,
            controller_manager: PathBuf::new(),
            admin: PathBuf::new(),
        };
        let visitor = Visitor {
            authority: authority.certificate(),
            // kubectl wants to be somebody.
            identity: authority.client("visitor", "visitor", None)?,
        };
        let mut servers = BTreeMap::new();
        for (host, ip) in hosts {
            // Each for itself, as it finds its certificates where it is started.
            let mut command = component::program("kube-apiserver", folder.path())?;
            command.args(component::api_server(&files, &authority, etcd_ip, *ip));
            servers.insert(
                host.name().to_owned(),
                ((*host).clone(), host.spawn(command)?),
            );
            // The first one makes what all of them need.
            if servers.len() == 1 {
                is_ready(host, *ip, &visitor)?;
            }
        }
        for (host, ip) in hosts {
            is_ready(host, *ip, &visitor)?;
        }
        Ok(Self {
            servers,
            _etcd: etcd,
            visitor,
            folder,
        })
    }

    /// What `/readyz` says to somebody on that host who checks the certificate.
    pub fn readyz(&self, from: &Host, at: IpAddr) -> Result<String> {
        readyz(from, at, &self.visitor)
    }

    /// Kills the API server on that host.
    pub fn kill(&mut self, host: &Host) -> Result<()> {
        let server = self.servers.remove(host.name());
        drop(server.with_context(|| format!("none runs on {}", host.name()))?);
        Ok(())
    }

    /// Sends a signal to the API server on that host.
    pub fn signal(&self, host: &Host, signal: Signal) -> Result<()> {
        let server = self.servers.get(host.name());
        let (_, process) = server.with_context(|| format!("none runs on {}", host.name()))?;
        process.signal(signal)
    }

    /// Where files may be put that have to go with them.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

/// Who asks, and checks whom it asks.
#[derive(Debug)]
struct Visitor {
    authority: PathBuf,
    identity: Identity,
}

fn is_ready(host: &Host, ip: IpAddr, visitor: &Visitor) -> Result<()> {
    wait::until_some_within(
        super::START,
        &format!("the API server at {ip} is ready"),
        || match readyz(host, ip, visitor)? {
            it if it == "ok" => Ok(()),
            other => bail!("{other}"),
        },
    )
}

fn readyz(from: &Host, at: IpAddr, visitor: &Visitor) -> Result<String> {
    let kubectl = programs::tool("kubectl")?.display().to_string();
    let server = format!("--server=https://{at}:{API_PORT}");
    let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
    let authority = flag("certificate-authority", &visitor.authority);
    let certificate = flag("client-certificate", &visitor.identity.certificate);
    let key = flag("client-key", &visitor.identity.key);
    let arguments = [
        "--kubeconfig=/dev/null",
        &server,
        &authority,
        &certificate,
        &key,
    ];
    let arguments = [&arguments[..], &["get", "--raw", "/readyz"]].concat();
    from.run(|| clients::output(&kubectl, &arguments))
}
