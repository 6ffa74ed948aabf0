//! The parts of every long-running command: a store, what works on it, and the admin address.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use fairway_config::port_limits::LimitsInForce;
use fairway_config::service::ForwardTo;
use fairway_config::view::{Readiness, ServiceRow};
use fairway_controller::{DirectoryStore, Store};
use fairway_gateway::Gateway;
use fairway_gateway::admin::{self, Views as _};
use fairway_gateway::fleet::FleetSettings;
use fairway_gateway::icmp::IcmpSockets;
use fairway_gateway::layer2::Layer2;
use fairway_gateway::metrics::Recorder;
use fairway_gateway::take_over::successor::HandingProcess;
use fairway_gateway_core::build::ServeNodePorts;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin_listeners::AdminListeners;
use crate::args::TrafficArgs;
use crate::drained::EndpointDrains;
use crate::launch::{Anew, Launcher};
use crate::outcome::WrongConfiguration;
use crate::peers;
use crate::probe::ProbeSocket;
use crate::signals::{OtherSignals, StopSignal};
use crate::systemd::{self, Observe, Observed};
use crate::take_over::{self, HandedState, HandingOver, SucceededBy, TakeOverPlan};
use crate::views::{ProcessViews, ServiceViews};

/// How often the histograms of the metrics recorder are folded.
const UPKEEP: Duration = Duration::from_secs(5);

/// How often it is looked which drained endpoints no Service has any more.
const SWEEP: Duration = Duration::from_mins(10);

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
    /// What holds for TCP ports and for UDP ports whose Services do not say otherwise.
    pub(crate) limits: [LimitsInForce; 2],
    /// How long a peer may take none of the bytes that wait for it; none: for any time.
    pub(crate) reader_timeout: Option<Duration>,
    pub(crate) icmp_sockets: IcmpSockets,
    pub(crate) layer2: Layer2,
    pub(crate) fleet: FleetSettings,
    pub(crate) relay_port: u16,
    pub(crate) transparent_mark: Option<u32>,
    pub(crate) udp_offload: bool,
    pub(crate) io_uring: bool,
    pub(crate) allow_loopback: bool,
    pub(crate) host_endpoint_port: Option<u16>,
    pub(crate) name_server: Option<SocketAddr>,
}

impl Traffic {
    /// The settings that the flags name.
    pub(crate) fn new(
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
            limits: args.limits.defaults(),
            reader_timeout: args.limits.reader_timeout(),
            icmp_sockets,
            layer2,
            fleet,
            relay_port: args.transparent.relay_port,
            transparent_mark: Some(args.transparent.transparent_mark),
            udp_offload: !args.no_udp_offload,
            io_uring: !args.no_io_uring,
            allow_loopback: args.allow_loopback_endpoints,
            host_endpoint_port: None,
            name_server: args.name_server,
        })
    }

    /// Adds to what a process that takes over has to agree about.
    pub(crate) fn agree(&self, mut plan: TakeOverPlan) -> TakeOverPlan {
        plan.agreed.extend([
            ("--node-name".to_owned(), self.name.to_string()),
            // A connection stays with its worker, and each has its own listening sockets.
            ("--workers".to_owned(), self.workers.to_string()),
            ("--no-steering".to_owned(), (!self.steering).to_string()),
        ]);
        plan
    }

    /// Starts a gateway over a store.
    pub(crate) fn start<S: Store>(
        self,
        store: &Arc<S>,
        base: &mut ProcessBase,
    ) -> anyhow::Result<Gateway> {
        let [tcp_limits, udp_limits] = self.limits;
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
            tcp_limits,
            udp_limits,
        };
        let settings = fairway_gateway::GatewaySettings {
            workers: self.workers,
            pin_workers: self.pin_workers,
            steering: self.steering,
            max_flows: self.udp_flows.map(|flows| flows as usize),
            icmp_sockets: self.icmp_sockets,
            layer2: self.layer2,
            fleet: self.fleet,
            relay_port: self.relay_port,
            transparent_mark: self.transparent_mark,
            udp_offload: self.udp_offload,
            io_uring: self.io_uring,
            drain_timeout: self.drain_timeout,
            reader_timeout: self.reader_timeout,
            drained: base.drains.as_ref().map(|it| it.now()).unwrap_or_default(),
            name_server: self.name_server,
            ..fairway_gateway::GatewaySettings::new(self.name.clone(), core)
        };
        let reports = {
            let (store, name) = (store.clone(), self.name.clone());
            Arc::new(move |said| store.report(&name, said))
        };
        let drain = base.stop.drain.clone();
        let handing = base.handing.as_mut();
        let inherited = handing.and_then(HandingProcess::inherited);
        let objects = store.subscribe();
        Ok(Gateway::start_with(
            settings, inherited, objects, reports, drain,
        )?)
    }
}

/// The tokens by which a process is stopped.
#[derive(Clone)]
pub(crate) struct Stop {
    /// Cancelled first: no new connections, no new decisions.
    pub(crate) drain: CancellationToken,
    /// Cancelled when all of that has ended: stops the rest of the process.
    pub(crate) rest: CancellationToken,
    /// Cancelled with `rest`, or earlier when another process shows what there is: stops the admin address.
    pub(crate) admin: CancellationToken,
}

impl Default for Stop {
    fn default() -> Self {
        let rest = CancellationToken::new();
        Self {
            drain: CancellationToken::new(),
            admin: rest.child_token(),
            rest,
        }
    }
}

/// What every process has before it does anything.
pub(crate) struct ProcessBase {
    addresses: AdminListeners,
    recorder: Recorder,
    /// Which endpoints are drained, where there is no cluster.
    pub(crate) drains: Option<Arc<EndpointDrains>>,
    pub(crate) stop: Stop,
    /// The process that hands over to this one.
    pub(crate) handing: Option<HandingProcess>,
    /// None: it neither takes over nor hands over.
    pub(crate) plan: Option<TakeOverPlan>,
    /// It was to take over, and nobody was there who could hand over: one that was may be just ending.
    pub(crate) is_late: bool,
    pub(crate) launcher: Option<Launcher>,
    /// Cancelled when all that another process had is this one's.
    pub(crate) taken: CancellationToken,
}

impl ProcessBase {
    /// Installs the metrics recorder.
    pub(crate) fn new(addresses: AdminListeners) -> anyhow::Result<Self> {
        let recorder = Recorder::install().context("metrics can't be recorded")?;
        Ok(Self {
            addresses,
            recorder,
            drains: None,
            stop: Stop::default(),
            handing: None,
            plan: None,
            is_late: false,
            launcher: None,
            taken: CancellationToken::new(),
        })
    }

    /// Whether another process hands over to this one.
    pub(crate) fn takes_over(&self) -> bool {
        self.handing.is_some()
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
        let views = Arc::new(ProcessViews::new(
            known,
            gateway.clone(),
            self.drains,
            self.recorder,
        ));
        let (rest, stop) = (&self.stop.rest, &self.stop.admin);
        let taken = self.taken;
        if self.handing.is_none() {
            taken.cancel();
        }
        let listeners = self.addresses.copies()?;
        let admin = listener(self.addresses.admin)?;
        let serving = admin::serve(admin, views.clone(), stop.clone());
        tasks.spawn(take_over::once(taken.clone(), stop.clone(), serving));
        if let Some(metrics) = self.addresses.metrics {
            let metrics = listener(metrics)?;
            let serving = admin::serve_metrics(metrics, views.clone(), stop.clone());
            tasks.spawn(take_over::once(taken.clone(), stop.clone(), serving));
        }
        tasks.spawn(upkeep(views.clone(), rest.clone()));
        tasks.spawn(sweep_drains(views.clone(), rest.clone()));
        Ok(RunningProcess {
            views,
            gateway,
            stop: self.stop,
            work,
            tasks,
            store: None,
            state: None,
            handing: self.handing,
            plan: self.plan,
            launcher: self.launcher,
            listeners,
            taken,
            over: CancellationToken::new(),
            succeeded_by: Arc::default(),
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
    /// The store whose state directory may pass to another process.
    state: Option<Arc<dyn HandedState>>,
    /// The process that hands over to this one.
    handing: Option<HandingProcess>,
    plan: Option<TakeOverPlan>,
    launcher: Option<Launcher>,
    /// The listeners of `--admin` and `--metrics`, for a process that takes over.
    listeners: Vec<(&'static str, TcpListener)>,
    /// Cancelled when all that another process had is this one's.
    taken: CancellationToken,
    /// Cancelled when another process has everything.
    over: CancellationToken,
    /// The process that has it then.
    succeeded_by: Arc<SucceededBy>,
}

/// How a process has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// It ends.
    Ended,
    /// Another Pod's process has taken over, and this one begins anew.
    Anew(Anew),
}

/// Says how taking over went.
type TakingOver = oneshot::Receiver<anyhow::Result<()>>;

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
        self.state = Some(store.clone());
        self.store = Some(store);
        self
    }

    /// Sets the store whose state directory passes to a process that takes over.
    pub(crate) fn handing(mut self, state: Arc<dyn HandedState>) -> Self {
        self.state = Some(state);
        self
    }

    /// Has the kubelet told how the process is. One that has handed over is as ready as its successor.
    pub(crate) fn tell(&self, probe: &ProbeSocket) {
        let (views, over) = (self.views.clone(), self.over.clone());
        let succeeded_by = self.succeeded_by.clone();
        probe.set(move || match over.is_cancelled() {
            true => succeeded_by.readiness(),
            false => views.readiness(),
        });
    }

    /// Answers systemd, and signals that do not stop the process.
    pub(crate) fn answer(&mut self, signals: OtherSignals) {
        let observer = Observer {
            views: self.views.clone(),
            gateway: self.gateway.clone(),
            store: self.store.clone(),
        };
        let draining = self.stop.drain.clone();
        self.tasks.spawn(systemd::tell(observer, draining));
        let store = self.store.clone();
        let launcher = self.launcher.clone();
        let reload = move || match &store {
            _ if launcher.as_ref().is_some_and(Launcher::start_replaced) => {}
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

    /// Takes over from another process where one hands over. From then on another one can take over from this one.
    fn take_over(&mut self) -> anyhow::Result<Option<TakingOver>> {
        let plan = self.plan.clone();
        let (Some(plan), Some(gateway), Some(state)) = (plan, &self.gateway, &self.state) else {
            return Ok(None);
        };
        let handing_over = HandingOver {
            plan,
            gateway: gateway.clone(),
            state: state.clone(),
            listeners: std::mem::take(&mut self.listeners),
            admin: self.stop.admin.clone(),
            over: self.over.clone(),
            views: self.views.clone(),
        };
        match self.handing.take() {
            None => {
                handing_over.begin(false);
                Ok(None)
            }
            Some(handing) => {
                let outcome = handing_over.take_over(handing, self.taken.clone());
                Ok(Some(outcome.context("a thread can't be started")?))
            }
        }
    }

    /// Runs until SIGTERM or SIGINT, or until another process has taken over, and then stops. A second signal does not
    /// wait for connections to end, but for routes to be removed; a third one waits for nothing.
    ///
    /// # Errors
    /// It was to take over from another process, and could not.
    pub(crate) async fn run(mut self, signals: &mut StopSignal) -> anyhow::Result<RunEnd> {
        let taking = self.take_over()?;
        let failed = async {
            match taking {
                Some(taking) => match taking.await {
                    Ok(Err(error)) => error,
                    Ok(Ok(())) | Err(_) => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        };
        let is_pod = self.plan.as_ref().is_some_and(|plan| plan.pod.is_some());
        let mut is_told = true;
        let outcome = tokio::select! {
            () = signals.recv() => {
                let is_over = match &self.plan {
                    Some(plan) if self.taken.is_cancelled() => {
                        take_over::let_another_first(plan, &self.over, signals).await
                    }
                    _ => false,
                };
                tracing::info!(is_over, "stopping: connections drain");
                if let (Some(gateway), false) = (&self.gateway, self.taken.is_cancelled()) {
                    // All is another process's still.
                    gateway.leave_to_another();
                }
                Ok(())
            }
            () = self.over.cancelled() => {
                // The kubelet ends it: a container that ends by itself is started again.
                is_told = !is_pod;
                Ok(())
            }
            error = failed => {
                tracing::error!(%error, "this process must not serve: it ends");
                Err(error)
            }
        };
        let end = self.end(signals, is_told).await;
        outcome.map(|()| end)
    }

    /// Stops, as [`Self::run`] says. `is_told`: it has been told to, or needs not be.
    async fn end(self, signals: &mut StopSignal, mut is_told: bool) -> RunEnd {
        let gateway = self.gateway.clone();
        let (succeeded_by, plan) = (self.succeeded_by.clone(), self.plan.clone());
        let is_over = self.over.is_cancelled();
        let watching = async {
            match &plan {
                Some(plan) if is_over => succeeded_by.watch(plan).await,
                _ => std::future::pending().await,
            }
        };
        let mut watching = std::pin::pin!(watching);
        let mut anew = None;
        let mut stopping = std::pin::pin!(self.stop());
        loop {
            tokio::select! {
                () = &mut stopping => {
                    tracing::info!("stopped");
                    return match is_told {
                        true => RunEnd::Ended,
                        false => RunEnd::Anew(anew.unwrap_or(Anew::StandsBy)),
                    };
                }
                how = &mut watching, if anew.is_none() => {
                    anew = Some(how);
                    if is_told {
                        continue;
                    }
                    tracing::warn!("this process is to serve again: what is left here is cut");
                    if let Some(gateway) = &gateway {
                        gateway.cut();
                    }
                }
                () = signals.recv() => {
                    if std::mem::replace(&mut is_told, true) {
                        break;
                    }
                    tracing::info!("told to stop: what is left here drains");
                }
            }
        }
        tracing::warn!("told to stop twice: connections are cut");
        if let Some(gateway) = gateway {
            gateway.cut();
        }
        tokio::select! {
            () = stopping => tracing::info!("stopped"),
            () = signals.recv() => tracing::warn!("told to stop three times: local routes may stay"),
        }
        RunEnd::Ended
    }
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

async fn sweep_drains(views: Arc<ProcessViews>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let views = views.clone();
        // It writes to a disk, and waits for the gateway.
        let _ = tokio::task::spawn_blocking(move || views.sweep_drains()).await;
    }
}

fn listener(listener: TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
