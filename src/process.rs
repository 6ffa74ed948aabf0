//! Controller, gateway and admin address in one process, over a directory.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fairway_config::service::ForwardTo;
use fairway_config::view::{Readiness, ServiceRow};
use fairway_controller::{Controller, DirectorySettings, DirectoryStore, OpenError, Store as _};
use fairway_controller_core::NodePortRange;
use fairway_gateway::Gateway;
use fairway_gateway::admin::{self, Views as _};
use fairway_gateway::metrics::Recorder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::WrongConfiguration;
use crate::args::DEFAULT_CLASS;
use crate::views::Whole;

/// How often what the recorder's histograms collected is worked off.
const UPKEEP: Duration = Duration::from_secs(5);

/// How a process is set up.
pub(crate) struct Settings {
    pub(crate) manifests: PathBuf,
    pub(crate) state: PathBuf,
    pub(crate) admin: TcpListener,
    pub(crate) metrics: Option<TcpListener>,
    pub(crate) node_name: String,
    /// Empty: all addresses of the host that are in no pool.
    pub(crate) node_addresses: Vec<IpAddr>,
    pub(crate) forward_to: ForwardTo,
    pub(crate) node_ports: NodePortRange,
    pub(crate) drain_timeout: Duration,
    pub(crate) workers: usize,
    pub(crate) class: String,
    pub(crate) allow_loopback: bool,
    pub(crate) name_server: Option<SocketAddr>,
}

/// A process that runs.
pub(crate) struct Process {
    views: Arc<Whole>,
    gateway: Gateway,
    /// Told first: the gateway takes no new connections and drains.
    drain: CancellationToken,
    /// Told when the gateway is done: the controller, the admin address and the rest.
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Process {
    /// Starts everything. Needs a Tokio runtime.
    pub(crate) async fn start(settings: Settings) -> anyhow::Result<Self> {
        let recorder = Recorder::install().context("metrics can't be recorded")?;
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let store =
            DirectoryStore::open(DirectorySettings::new(settings.manifests, settings.state))
                .map_err(|error| match error {
                    OpenError::Locked { .. } | OpenError::State { .. } => anyhow::Error::from(
                        WrongConfiguration(format!("{:#}", anyhow::Error::from(error))),
                    ),
                    other => other.into(),
                })?;
        let store = Arc::new(store);
        let (controller, handle) = Controller::new(
            store.clone(),
            fairway_controller_core::Settings {
                class: settings.class.as_str().into(),
                default_class: true,
                node_ports: settings.node_ports,
                allocates_node_ports: true,
            },
        );
        let admin_addresses = [Some(&settings.admin), settings.metrics.as_ref()]
            .into_iter()
            .flatten()
            .map(TcpListener::local_addr)
            .collect::<Result<_, _>>()?;
        let name: Arc<str> = settings.node_name.into();
        let core = fairway_gateway_core::build::Settings {
            gateway: name.clone(),
            node_name: Some(name.clone()),
            zone: None,
            forward_to: settings.forward_to,
            class: settings.class.as_str().into(),
            default_class: true,
            allow_loopback: settings.allow_loopback,
            admin: admin_addresses,
            serve_node_ports: true,
            node_addresses: (!settings.node_addresses.is_empty())
                .then_some(settings.node_addresses),
        };
        let reports = {
            let store = store.clone();
            Arc::new(move |reports| store.report(reports))
        };
        let gateway = Gateway::start(
            fairway_gateway::Settings {
                workers: settings.workers,
                drain_timeout: settings.drain_timeout,
                name_server: settings.name_server,
                ..fairway_gateway::Settings::new(name, core)
            },
            store.subscribe(),
            reports,
            drain.clone(),
        )?;

        let mut tasks = JoinSet::new();
        tasks.spawn(controller.run(stop.clone()));
        let views = Arc::new(Whole::new(handle, store.clone(), gateway.clone(), recorder));
        tasks.spawn(admin::serve(
            listener(settings.admin)?,
            views.clone(),
            stop.clone(),
        ));
        if let Some(metrics) = settings.metrics {
            tasks.spawn(admin::serve_metrics(
                listener(metrics)?,
                views.clone(),
                stop.clone(),
            ));
        }
        tasks.spawn(upkeep(views.clone(), stop.clone()));
        Ok(Self {
            views,
            gateway,
            drain,
            stop,
            tasks,
        })
    }

    /// Whether everything that can stand stands.
    pub(crate) fn readiness(&self) -> Readiness {
        self.views.readiness()
    }

    /// What `get services` shows.
    pub(crate) fn services(&self) -> Vec<ServiceRow> {
        self.views.services()
    }

    /// Waits until it is ready, at most for `patience`. Whether it is.
    pub(crate) async fn wait_ready(&self, patience: Duration) -> bool {
        let ready = async {
            while !self.readiness().ready {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(patience, ready).await.is_ok()
    }

    /// Stops accepting, lets connections end for as long as the drain timeout, and ends the rest.
    pub(crate) async fn stop(mut self) {
        self.drain.cancel();
        self.gateway.finished().await;
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Settings {
    /// The defaults over two directories; the admin address is still to be set.
    pub(crate) fn new(manifests: &Path, state: &Path, admin: TcpListener) -> Self {
        Self {
            manifests: manifests.to_owned(),
            state: state.to_owned(),
            admin,
            metrics: None,
            node_name: String::new(),
            node_addresses: Vec::new(),
            forward_to: ForwardTo::Endpoints,
            node_ports: NodePortRange::default(),
            drain_timeout: Duration::from_secs(30),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            class: DEFAULT_CLASS.to_owned(),
            allow_loopback: false,
            name_server: None,
        }
    }
}

async fn upkeep(views: Arc<Whole>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(UPKEEP);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        views.upkeep();
    }
}

fn listener(listener: TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// The runtime of everything but traffic: a scrape or a large write must not hold up a connection,
/// so the gateway's threads are its own.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_name("fairway-admin")
        .enable_all()
        .build()
        .context("the runtime can't be started")
}

/// Binds an address that a flag names.
pub(crate) fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "; another process (another Fairway?) listens there: name another one"
            }
            std::io::ErrorKind::AddrNotAvailable => "; this host has no such address",
            _ => "",
        };
        WrongConfiguration(format!(
            "{flag} {address} can't be listened on: {error}{hint}"
        ))
        .into()
    })
}

/// SIGINT and SIGTERM.
pub(crate) struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

/// Begins to listen for the signals that stop a process. Needs a Tokio runtime.
pub(crate) fn stop_signal() -> anyhow::Result<StopSignal> {
    Ok(StopSignal {
        interrupt: signal(SignalKind::interrupt())?,
        terminate: signal(SignalKind::terminate())?,
    })
}

impl StopSignal {
    /// Waits for the next one.
    pub(crate) async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
