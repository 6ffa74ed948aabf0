//! A real Kubernetes control plane: etcd, kube-apiserver and kube-controller-manager on a host of
//! their own, and kube-proxy on hosts that a test chooses.
//!
//! ```text
//!   control-plane                      any host of a test that is attached
//!   198.18.0.1, 2001:db8:a::1 ──────── 198.18.0.2…, 2001:db8:a::2…   (interface `api`)
//!   (bridge `nodes`)
//! ```
//!
//! Authorization is RBAC, the EndpointSlices come from the real controllers, tokens and certificates
//! are checked. Only kubelets are missing: Nodes and Pods are objects whose addresses are real
//! servers in the lab, and their status says what the test says ([`Cluster::node`],
//! [`Cluster::pod`]).
//!
//! Most tests take [`Cluster::shared`]: the tests of a program that do so run one after the other on
//! one control plane, because a start takes 3 to 5 s and half a gigabyte; what a test has made is
//! taken away after it, in half a second. [`Cluster::start`] is for tests that need one of their own.
//!
//! Reading order:
//! - this module: the programs, and what happens to them.
//! - `access`: kubeconfigs, `kubectl`, `helm`.
//! - `objects`: reading, writing and waiting for objects, Nodes and Pods that stand for servers.
//! - `watching`: watches of objects.
//! - `proxy`: kube-proxy.
//! - `api_servers`: several API servers, on hosts of a LAN.
//! - `witness`: every state that Services went through.
//! - `shared`: one control plane for the tests of a program, and the clean-up after each.
//! - `addresses`, `component`, `certificates`, `kubeconfig`, `folder`, `request`, `kinds`: what these stand on.
//!
//! Lessons:
//! - A Pod is refused until its namespace has the ServiceAccount `default`
//!   ([`Cluster::namespace`] waits for it), and a new Node is tainted `not-ready`.
//! - The namespace controller waits five seconds before it looks at a namespace that is to go;
//!   the clean-up empties and finalizes it itself.
//! - In a namespace kube-proxy can't set the size of the conntrack table and ends if it is to.
//! - A JSON merge patch of a status replaces the whole list of conditions.

mod access;
mod addresses;
mod api_servers;
mod certificates;
mod component;
mod folder;
mod kinds;
mod kubeconfig;
mod objects;
mod proxy;
mod request;
mod shared;
mod watching;
mod witness;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::Signal;

use crate::lab::{Host, Process, wire};
use crate::{clients, wait};
pub use addresses::{API_ADDRESS, API_ADDRESS_6, API_PORT};
pub use api_servers::ApiServers;
use certificates::Authority;
pub use component::Component;
use component::Files;
use folder::Folder;
use kinds::ClusterKind;
use kubeconfig::{Credentials, write_kubeconfig};
pub use objects::{Pod, service_without_node_ports};
pub use proxy::KubeProxy;
pub use shared::{SharedCluster, end};
pub use watching::WatchEvent;
pub use witness::{Holders, Witness};

/// How long a component may take to start: generous, because several tests and compilers may share
/// two cores.
const START: Duration = Duration::from_secs(120);

/// A control plane. It ends, and its files go, when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    running: Mutex<BTreeMap<Component, Running>>,
    kinds: Mutex<Vec<ClusterKind>>,
    attached: AtomicU16,
    host: Host,
    authority: Authority,
    files: Files,
    // Last: it goes after the programs that use it.
    folder: Folder,
}

#[derive(Debug)]
struct Running {
    process: Process,
    /// Without arguments of a test's own.
    as_usual: bool,
    paused: bool,
    /// How much of what it said has been noted.
    noted: usize,
}

impl Cluster {
    /// A control plane that is ready, its own namespaces and their accounts included.
    pub fn start() -> Result<Self> {
        let host = Host::new("control-plane")?;
        host.ip("link add nodes type bridge mcast_snooping 0\nlink set nodes up")?;
        host.addresses(
            "nodes",
            &[(API_ADDRESS.into(), 16), (API_ADDRESS_6.into(), 64)],
        )?;
        let folder = Folder::new()?;
        let authority = Authority::new(folder.path())?;
        let files = files(&folder, &authority)?;
        let cluster = Self {
            running: Mutex::default(),
            kinds: Mutex::default(),
            attached: AtomicU16::new(0),
            host,
            authority,
            files,
            folder,
        };
        for component in Component::ALL {
            cluster.start_component(component)?;
        }
        for namespace in ["default", "kube-node-lease", "kube-public", "kube-system"] {
            for (kind, name) in [
                ("ServiceAccount", "default"),
                ("ConfigMap", "kube-root-ca.crt"),
            ] {
                let what = format!("{namespace} has its {name}");
                wait::until_within(START, &what, || {
                    matches!(cluster.get(kind, namespace, name), Ok(Some(_)))
                })?;
            }
        }
        Ok(cluster)
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Where files may be put that have to go with it.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Lays a wire from `host` to the control plane: an interface `api` with an address of each
    /// family, by which the host reaches the API server and every other attached host. A host can be
    /// attached to one cluster, once.
    pub fn attach(&self, host: &Host) -> Result<(Ipv4Addr, Ipv6Addr)> {
        // The API server has the first.
        let n = self.attached.fetch_add(1, Ordering::Relaxed) + 2;
        let [high, low] = n.to_be_bytes();
        let four = Ipv4Addr::new(198, 18, high, low);
        let six = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, n);
        let port = format!("node{n}");
        wire((host, "api"), (&self.host, &port))?;
        self.host.ip(&format!("link set dev {port} master nodes"))?;
        host.addresses("api", &[(IpAddr::from(four), 16), (IpAddr::from(six), 64)])?;
        Ok((four, six))
    }

    /// Starts a component that does not run, and waits until it answers.
    pub fn start_component(&self, component: Component) -> Result<()> {
        self.start_component_with(component, &[])
    }

    /// Starts it with more arguments than usual: an API server that takes few requests at a time or
    /// forgets soon what a watch could ask for.
    pub fn start_component_with(&self, component: Component, arguments: &[&str]) -> Result<()> {
        let mut command = component::command(component, &self.files, &self.authority)?;
        command.args(arguments);
        let process = self.host.spawn(command)?;
        let running = Running {
            process,
            as_usual: arguments.is_empty(),
            paused: false,
            noted: 0,
        };
        if locked(&self.running).insert(component, running).is_some() {
            bail!("{} ran already", component.name());
        }
        self.wait_until_ready(component)
    }

    /// Ends a component at once, as SIGKILL does; it can be started again.
    pub fn stop_component(&self, component: Component) -> Result<()> {
        let running = locked(&self.running).remove(&component);
        drop(running.with_context(|| format!("{} does not run", component.name()))?);
        Ok(())
    }

    /// Stops a component's work without closing what it has open: whoever asks it waits.
    pub fn pause_component(&self, component: Component) -> Result<()> {
        self.signal(component, true)
    }

    /// Lets a paused component go on.
    pub fn resume_component(&self, component: Component) -> Result<()> {
        self.signal(component, false)
    }

    /// Waits until a component that was started or resumed answers.
    pub fn wait_until_ready(&self, component: Component) -> Result<()> {
        let name = component.name();
        let at = SocketAddr::from(([127, 0, 0, 1], component.port()));
        wait::until_some_within(START, &format!("{name} answers"), || {
            if let Some(running) = locked(&self.running).get_mut(&component)
                && let Some(status) = running.process.ended()?
            {
                return Ok(Err(anyhow!("{name} ended with {status}")));
            }
            self.host.run(|| clients::connect_tcp(at)).map(drop)?;
            if component != Component::ApiServer {
                return Ok(Ok(()));
            }
            match self.request("GET", "/readyz", None)? {
                (200, _) => Ok(Ok(())),
                (status, _) => bail!("{status}"),
            }
        })?
    }

    /// The process id of a component that runs.
    pub fn process_id(&self, component: Component) -> Result<u32> {
        locked(&self.running)
            .get(&component)
            .map(|running| running.process.id())
            .with_context(|| format!("{} does not run", component.name()))
    }

    fn signal(&self, component: Component, pause: bool) -> Result<()> {
        let mut running = locked(&self.running);
        let running = running
            .get_mut(&component)
            .with_context(|| format!("{} does not run", component.name()))?;
        running
            .process
            .signal(if pause { Signal::STOP } else { Signal::CONT })?;
        running.paused = pause;
        Ok(())
    }

    /// Gets every component to run as usual, whatever a test has done to them.
    fn mend(&self) -> Result<()> {
        for component in Component::ALL {
            let (unusable, paused) = match locked(&self.running).get_mut(&component) {
                Some(running) => (
                    !running.as_usual || running.process.ended()?.is_some(),
                    running.paused,
                ),
                None => (true, false),
            };
            if unusable {
                drop(locked(&self.running).remove(&component));
                self.start_component(component)?;
            } else if paused {
                self.resume_component(component)?;
            }
        }
        self.wait_until_ready(Component::ApiServer)
    }

    /// What the components have said since this was last asked.
    fn news(&self) -> String {
        let mut news = String::new();
        for (component, running) in locked(&self.running).iter_mut() {
            let said = running.process.said();
            let fresh = said.get(running.noted..).unwrap_or_default();
            if !fresh.is_empty() {
                news += &format!("--- {} says\n{}", component.name(), last_lines(fresh));
            }
            running.noted = said.len();
        }
        news
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Clients before their servers, which would complain of them.
        let mut running = locked(&self.running);
        while running.pop_last().is_some() {}
    }
}

/// How many lines of a component are shown when a test has failed.
const SHOWN: usize = 60;

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let left_out = lines.len().saturating_sub(SHOWN);
    let mut shown = lines.get(left_out..).unwrap_or_default().join("\n");
    if left_out > 0 {
        shown = format!("({left_out} lines are left out)\n{shown}");
    }
    shown + "\n"
}

fn files(folder: &Folder, authority: &Authority) -> Result<Files> {
    let folder = folder.path();
    let kubeconfig = |file: &str, user: &str, group: Option<&str>, server: Ipv4Addr| {
        let identity = authority.client(file, user, group)?;
        let path = folder.join(format!("{file}.kubeconfig"));
        write_kubeconfig(
            &path,
            &authority.certificate(),
            server,
            &Credentials::Certificate(&identity),
        )?;
        anyhow::Ok(path)
    };
    Ok(Files {
        folder: folder.to_owned(),
        server: authority.server("api-server", &component::server_names())?,
        controller_manager: kubeconfig(
            "controller-manager",
            "system:kube-controller-manager",
            None,
            Ipv4Addr::LOCALHOST,
        )?,
        admin: kubeconfig("admin", "admin", Some("system:masters"), API_ADDRESS)?,
    })
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
