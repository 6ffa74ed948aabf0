//! The parts of every long-running command: a store, what works on it, and the admin address.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fairway_config::service::ForwardTo;
use fairway_config::view::{Readiness, ServiceRow};
use fairway_controller::{DirectoryStore, Store};
use fairway_gateway::Gateway;
use fairway_gateway::admin::{self, Views as _};
use fairway_gateway::fleet::FleetSettings;
use fairway_gateway::icmp::IcmpSockets;
use fairway_gateway::layer2::Layer2;
use fairway_gateway::metrics::Recorder;
use fairway_gateway_core::build::ServeNodePorts;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::{ProcessArgs, TrafficArgs};
use crate::outcome::WrongConfiguration;
use crate::peers;
use crate::signals::OtherSignals;
use crate::systemd::{self, Observe, Observed};
use crate::views::{ProcessViews, ServiceViews};

/// How often the histograms of the metrics recorder are folded.
const UPKEEP: Duration = Duration::from_secs(5);

/// The listeners of a process for `--admin` and `--metrics`.
pub(crate) struct AdminListeners {
    pub(crate) admin: TcpListener,
    pub(crate) metrics: Option<TcpListener>,
}

impl AdminListeners {
    /// Binds the addresses that the flags name.
    pub(crate) fn bind(args: &ProcessArgs) -> anyhow::Result<Self> {
        let metrics = args.metrics.map(|address| bind(address, "--metrics"));
        Ok(Self {
            admin: bind(args.admin, "--admin")?,
            metrics: metrics.transpose()?,
        })
    }

    /// All their addresses: no traffic may be sent there.
    pub(crate) fn all(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let all = [Some(&self.admin), self.metrics.as_ref()];
        let all = all.into_iter().flatten().map(TcpListener::local_addr);
        Ok(all.collect::<Result<_, _>>()?)
    }
}

/// The settings of the traffic.
pub(crate) struct Traffic {
    pub(crate) name: Arc<str>,
    /// Where its Node does not say so.
    pub(crate) zone: Option<Arc<str>>,
    /// Empty: all addresses of the host that are in no pool.
    pub(crate) node_addresses: Vec<IpAddr>,
    pub(crate) serve_node_ports: ServeNodePorts,
    pub(crate) forward_to: ForwardTo,
    pub(crate) slices_are_known: bool,
    pub(crate) drain_timeout: Duration,
    pub(crate) workers: usize,
    pub(crate) pin_workers: bool,
    pub(crate) steering: bool,
    pub(crate) udp_flows: Option<u32>,
    pub(crate) icmp_sockets: IcmpSockets,
    pub(crate) layer2: Layer2,
    pub(crate) fleet: FleetSettings,
    pub(crate) udp_offload: bool,
    pub(crate) io_uring: bool,
    pub(crate) allow_loopback: bool,
    pub(crate) host_endpoint_port: Option<u16>,
    pub(crate) name_server: Option<SocketAddr>,
}

impl Traffic {
    /// The settings that the flags name.
    fn new(
        args: TrafficArgs,
        icmp_sockets: IcmpSockets,
        layer2: Layer2,
    ) -> Result<Self, WrongConfiguration> {
        let name = args.node_name.unwrap_or_else(host_name);
        let key_file = args.peers_key_file.as_deref();
        let fleet = peers::fleet(&name, &args.peers, key_file, args.fleet_port)?;
        Ok(Self {
            name: name.into(),
            zone: args.zone.map(Arc::from),
            node_addresses: args.node_address,
            serve_node_ports: ServeNodePorts::Always,
            forward_to: args.forward_to.into(),
            slices_are_known: false,
            drain_timeout: args.drain_timeout,
            workers: args.workers.map_or_else(cores, usize::from),
            pin_workers: args.pin_workers,
            steering: !args.no_steering,
            udp_flows: args.udp_flows,
            icmp_sockets,
            layer2,
            fleet,
            udp_offload: !args.no_udp_offload,
            io_uring: !args.no_io_uring,
            allow_loopback: args.allow_loopback_endpoints,
            host_endpoint_port: None,
            name_server: args.name_server,
        })
    }

    /// Starts a gateway over a store.
    pub(crate) fn start<S: Store>(
        self,
        store: &Arc<S>,
        base: &ProcessBase,
    ) -> anyhow::Result<Gateway> {
        let core = fairway_gateway_core::build::RouteSettings {
            gateway: self.name.clone(),
            node_name: Some(self.name.clone()),
            zone: self.zone,
            forward_to: self.forward_to,
            slices_are_known: self.slices_are_known,
            allow_loopback: self.allow_loopback,
            host_endpoint_port: self.host_endpoint_port,
            admin: base.addresses.all()?,
            serve_node_ports: self.serve_node_ports,
            node_addresses: (!self.node_addresses.is_empty()).then_some(self.node_addresses),
        };
        let settings = fairway_gateway::GatewaySettings {
            workers: self.workers,
            pin_workers: self.pin_workers,
            steering: self.steering,
            max_flows: self.udp_flows.map(|flows| flows as usize),
            icmp_sockets: self.icmp_sockets,
            layer2: self.layer2,
            fleet: self.fleet,
            udp_offload: self.udp_offload,
            io_uring: self.io_uring,
            drain_timeout: self.drain_timeout,
            name_server: self.name_server,
            ..fairway_gateway::GatewaySettings::new(self.name.clone(), core)
        };
        let reports = {
            let (store, name) = (store.clone(), self.name.clone());
            Arc::new(move |said| store.report(&name, said))
        };
        let drain = base.stop.drain.clone();
        Ok(Gateway::start(settings, store.subscribe(), reports, drain)?)
    }
}

/// The tokens by which a process is stopped.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    /// Cancelled first: no new connections, no new decisions.
    pub(crate) drain: CancellationToken,
    /// Cancelled when all of that has ended: stops the rest of the process.
    pub(crate) rest: CancellationToken,
}

/// What every process has before it does anything.
pub(crate) struct ProcessBase {
    addresses: AdminListeners,
    recorder: Recorder,
    pub(crate) stop: Stop,
}

impl ProcessBase {
    /// Installs the metrics recorder.
    pub(crate) fn new(addresses: AdminListeners) -> anyhow::Result<Self> {
        let recorder = Recorder::install().context("metrics can't be recorded")?;
        Ok(Self {
            addresses,
            recorder,
            stop: Stop::default(),
        })
    }

    /// The address of `--admin`.
    pub(crate) fn admin(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.addresses.admin.local_addr()?)
    }

    /// Serves the admin address and metrics. Needs a Tokio runtime. `work` ends at `stop.drain`,
    /// `tasks` at `stop.rest`.
    pub(crate) fn serve(
        self,
        known: Arc<dyn ServiceViews>,
        gateway: Option<Gateway>,
        work: JoinSet<()>,
        mut tasks: JoinSet<()>,
    ) -> anyhow::Result<RunningProcess> {
        let views = Arc::new(ProcessViews::new(known, gateway.clone(), self.recorder));
        let rest = &self.stop.rest;
        let admin = listener(self.addresses.admin)?;
        tasks.spawn(admin::serve(admin, views.clone(), rest.clone()));
        if let Some(metrics) = self.addresses.metrics {
            let metrics = listener(metrics)?;
            tasks.spawn(admin::serve_metrics(metrics, views.clone(), rest.clone()));
        }
        tasks.spawn(upkeep(views.clone(), rest.clone()));
        Ok(RunningProcess {
            views,
            gateway,
            stop: self.stop,
            work,
            tasks,
            store: None,
        })
    }
}

/// The tasks of a running command, and how to stop them.
pub(crate) struct RunningProcess {
    views: Arc<ProcessViews>,
    gateway: Option<Gateway>,
    stop: Stop,
    /// Tasks that end at `stop.drain`.
    work: JoinSet<()>,
    tasks: JoinSet<()>,
    /// The store, where it is a directory.
    store: Option<Arc<DirectoryStore>>,
}

/// What the watchdog of systemd looks at.
struct Observer {
    views: Arc<ProcessViews>,
    gateway: Option<Gateway>,
    store: Option<Arc<DirectoryStore>>,
}

impl Observe for Observer {
    fn observed(&self) -> Observed {
        let store = self.store.iter();
        let store = store.map(|store| ("the store".to_owned(), store.turns()));
        let gateway = self.gateway.iter().flat_map(Gateway::turns);
        // In this order, as for the readiness.
        let done = self.views.done();
        Observed {
            turns: store.chain(gateway).collect(),
            done,
            told: self.views.told(),
        }
    }

    fn readiness(&self) -> Readiness {
        self.views.readiness()
    }
}

impl RunningProcess {
    /// Sets the directory that is read again when the process is told to reload (SIGHUP).
    pub(crate) fn over(mut self, store: Arc<DirectoryStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Answers systemd, and signals that do not stop the process.
    fn answer(&mut self, signals: OtherSignals) {
        let observer = Observer {
            views: self.views.clone(),
            gateway: self.gateway.clone(),
            store: self.store.clone(),
        };
        let draining = self.stop.drain.clone();
        self.tasks.spawn(systemd::tell(observer, draining));
        let store = self.store.clone();
        let reload = move || match &store {
            Some(store) => {
                tracing::info!("told to reload: all manifests are looked at");
                systemd::reload(|| store.rescan());
            }
            None => {
                tracing::info!(
                    "told to reload: there is nothing to read, all comes from the API server"
                );
                systemd::reload(|| {});
            }
        };
        let rest = self.stop.rest.clone();
        self.tasks.spawn(signals.answer(reload, rest));
    }

    /// Whether the process is ready, as `/readyz` says.
    pub(crate) fn readiness(&self) -> Readiness {
        self.views.readiness()
    }

    /// The rows of `get services`.
    pub(crate) fn services(&self) -> Vec<ServiceRow> {
        self.views.services()
    }

    /// Waits until it is ready, for `patience` at most. True: it is ready.
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
        self.stop.drain.cancel();
        if let Some(gateway) = self.gateway {
            gateway.finished().await;
        }
        while self.work.join_next().await.is_some() {}
        self.stop.rest.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// Runs until SIGTERM or SIGINT and then stops. A second one does not wait for connections to end, but
    /// for routes to be removed; a third one waits for nothing.
    pub(crate) async fn run(self, mut signals: StopSignal) {
        signals.recv().await;
        tracing::info!("stopping: connections drain");
        let gateway = self.gateway.clone();
        let mut stopping = std::pin::pin!(self.stop());
        tokio::select! {
            () = &mut stopping => return tracing::info!("stopped"),
            () = signals.recv() => tracing::warn!("told to stop twice: connections are cut"),
        }
        if let Some(gateway) = gateway {
            gateway.cut();
        }
        tokio::select! {
            () = stopping => tracing::info!("stopped"),
            () = signals.recv() => tracing::warn!("told to stop three times: local routes may stay"),
        }
    }
}

/// Runs a long-running command until SIGTERM or SIGINT; a second one does not wait for connections
/// to end. The listeners of the process are bound before anything else, so that a person who starts
/// a second process gets the error at once.
pub(crate) fn run(
    args: &ProcessArgs,
    start: impl AsyncFnOnce(ProcessBase) -> anyhow::Result<RunningProcess>,
) -> anyhow::Result<ExitCode> {
    let _rest_of_log = crate::logs::start(args.log_format, "info")?;
    runtime()?.block_on(async {
        let (signals, others) = (stop_signal()?, OtherSignals::listen()?);
        let base = ProcessBase::new(AdminListeners::bind(args)?)?;
        let mut process = start(base).await?;
        process.answer(others);
        process.run(signals).await;
        Ok(ExitCode::SUCCESS)
    })
}

/// The same for a process that carries traffic.
pub(crate) fn run_with_traffic(
    args: &ProcessArgs,
    traffic: TrafficArgs,
    start: impl AsyncFnOnce(ProcessBase, Traffic) -> anyhow::Result<RunningProcess>,
) -> anyhow::Result<ExitCode> {
    // Both before the process starts other threads, which then have no CAP_NET_RAW. A thread of the responder keeps
    // it, for interfaces come and go.
    let layer2 = Layer2::start().context("the threads that answer ARP can't be started")?;
    let icmp_sockets = IcmpSockets::open();
    let traffic = Traffic::new(traffic, icmp_sockets, layer2.clone())?;
    let code = run(args, async |base| start(base, traffic).await);
    layer2.stop();
    code
}

/// The number of cores.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The name the kernel has for this host.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

async fn upkeep(views: Arc<ProcessViews>, stop: CancellationToken) {
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

/// SIGINT, SIGTERM and SIGQUIT.
pub(crate) struct StopSignal {
    quit: Signal,
    interrupt: Signal,
    terminate: Signal,
}

/// Begins to listen for the signals that stop a process. Needs a Tokio runtime.
pub(crate) fn stop_signal() -> anyhow::Result<StopSignal> {
    Ok(StopSignal {
        quit: signal(SignalKind::quit())?,
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
            _ = self.quit.recv() => {}
        }
    }
}
