//! The gateway as the rest of the program sees it: it is started, asked for its state, and waited for.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fairway_config::drained::DrainedEndpoints;
use fairway_config::exchange::{Batch, ClaimKind, ListenerState, Report};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::service::PortKey;
use fairway_config::time::Timestamp;
use fairway_config::view::{BgpPeerRow, EndpointRow, GatewayRow, ListenerRow, Section};
use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::balancing;
use crate::bgp::shown::BgpShown;
use crate::clock::{Clock, boot_time, wall_time};
use crate::control::{ControlTask, HandoverRequest};
use crate::endpoint_rows::endpoint_rows;
use crate::engine::{Admission, HandoverCommand, Mailbox, WorkerCommand};
use crate::heartbeat::Heartbeat;
use crate::inherited::Inherited;
use crate::layer2::Layer2;
use crate::limits_shown;
use crate::metrics::FLEET_MEMBERS;
use crate::node_proxy::NODE_PROXY_NOT_READY;
use crate::port::Port;
use crate::published::Published;
use crate::reports::ReportSink;
use crate::settings::GatewaySettings;
use crate::shared::GatewayShared;
use crate::stalls::{WorkerLoops, turns};
use crate::steering::Steering;
use crate::worker::WorkerThreads;

/// So many gateways that are not heard are named.
const NAMED: usize = 5;

/// How long it is waited for the routes without endpoints that are to be drained.
const DRAINED: Duration = Duration::from_secs(5);

/// Routes are not made anew yet.
#[derive(Debug, thiserror::Error)]
#[error(
    "the gateway has other things to do, and new connections may still come to the endpoint: ask again"
)]
pub struct NotDrainedYet;

/// A gateway that runs.
#[derive(Clone, Debug)]
pub struct Gateway {
    name: ClusterName,
    started: Timestamp,
    drain_timeout: Duration,
    shared: Arc<GatewayShared>,
    published: Arc<Published>,
    bgp: Arc<BgpShown>,
    /// Of each worker: its mailbox, and the heartbeat of its runtime.
    loops: WorkerLoops,
    /// The heartbeat of the control task.
    control: Heartbeat,
    /// Cancelled when the last connection and every thread has ended.
    ended: CancellationToken,
    /// Cancelled when connections are to end without their time to drain.
    cut: CancellationToken,
    layer2: Layer2,
    /// By which the control task is told that a process takes over.
    handover: mpsc::Sender<HandoverRequest>,
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or its runtime could not be started.
    #[error("{what} could not be started: {source}")]
    Thread {
        /// What could not be started.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Gateway {
    /// Starts the workers and the control task. They take objects from `objects`, and send reports that have
    /// changed to `reports`, until `shutdown`.
    ///
    /// # Errors
    /// The system has no threads or file descriptors left. What is wrong with one listener is no error here, but
    /// the state of that listener.
    pub fn start(
        settings: GatewaySettings,
        objects: mpsc::Receiver<Batch>,
        reports: ReportSink,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        Self::start_with(settings, None, objects, reports, shutdown)
    }

    /// The same with what another process hands over. Nothing comes in before [`take_over`](crate::take_over) says so.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        settings: GatewaySettings,
        inherited: Option<Inherited>,
        objects: mpsc::Receiver<Batch>,
        reports: ReportSink,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        // Clients and endpoints are remembered by it.
        let clock = inherited.as_ref().and_then(|it| it.clock);
        let clock = clock.unwrap_or_else(Clock::start);
        let shared = GatewayShared::new(&settings, clock, shutdown.child_token());
        let shared = Arc::new(shared);
        shared.icmp_sockets.say_what_is_lacking();
        let published = Arc::new(Published::default());
        let bgp = Arc::<BgpShown>::default();
        let (ended, cut) = (CancellationToken::new(), CancellationToken::new());
        let count = settings.workers.max(1);
        let workers: io::Result<Vec<WorkerThreads>> = (0..count)
            .map(|number| WorkerThreads::start(number, shared.clone()))
            .collect();
        let workers = workers.map_err(|source| StartError::Thread {
            what: "a worker",
            source,
        })?;
        if let Some(inherited) = &inherited {
            // They are open when this process is to answer on them.
            let interfaces = inherited.interfaces.iter();
            let interfaces = interfaces.map(|name| name.as_str().into());
            settings.layer2.set_interfaces(interfaces.collect());
            shared.taking_over.store(true, Ordering::Release);
            for worker in &workers {
                worker.mailbox().set_admission(Admission::NONE);
            }
        }
        let (handover, handover_requests) = mpsc::channel(1);
        let wakers = workers.iter().map(|worker| {
            let mailbox = worker.mailbox().clone();
            Box::new(move || mailbox.wake()) as _
        });
        shared.descriptors.wake(wakers.collect());
        let loops = workers.iter();
        let loops = loops.map(|worker| (worker.mailbox().clone(), worker.beat().clone()));
        let beat = Heartbeat::default();
        let gateway = Self {
            name: settings.name.clone(),
            started: wall_time(),
            drain_timeout: settings.drain_timeout,
            shared: shared.clone(),
            published: published.clone(),
            bgp: bgp.clone(),
            loops: loops.collect(),
            control: beat.clone(),
            ended: ended.clone(),
            cut: cut.clone(),
            layer2: settings.layer2.clone(),
            handover,
        };
        let failed = |source| StartError::Thread {
            what: "the control task",
            source,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        std::thread::Builder::new()
            .name("fairway-control".to_owned())
            .spawn(move || {
                // Also where the task panics: `finished` must return then, too.
                let _ended = ended.drop_guard();
                runtime.spawn(beat.answer());
                runtime.block_on(async {
                    let workers = (workers, inherited);
                    let control =
                        ControlTask::new(settings, shared, published, bgp, workers, cut).await;
                    control
                        .run(objects, handover_requests, reports, shutdown)
                        .await;
                });
                runtime.shutdown_background();
            })
            .map_err(failed)?;
        Ok(gateway)
    }

    /// The mailboxes of the workers.
    pub(crate) fn mailboxes(&self) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.loops.iter().map(|(mailbox, _)| mailbox)
    }

    /// Asks the control task for its part in a take-over. Returns whether it is there. Not to be called on a thread of a
    /// runtime.
    pub(crate) fn hand_over(&self, request: HandoverRequest) -> bool {
        self.handover.blocking_send(request).is_ok()
    }

    /// Another process has what this one has done for its addresses, and the listening sockets: this one takes nothing
    /// back when it ends.
    pub fn leave_to_another(&self) {
        // Before the control task hears of it: the process may be told to stop.
        self.shared.handed_over.store(true, Ordering::Release);
        self.layer2.leave();
        for worker in self.mailboxes() {
            // Nobody waits for it: what a worker that does not turn has still open ends with the process.
            let (reply, _) = std::sync::mpsc::channel();
            let command = HandoverCommand::LetGo(reply);
            worker.send(WorkerCommand::HandOver(Box::new(command)));
        }
    }

    /// Whether [`Self::leave_to_another`] was called.
    pub(crate) fn has_left(&self) -> bool {
        self.shared.handed_over.load(Ordering::Acquire)
    }

    /// The same as [`Self::leave_to_another`], and this process ends with its last connection. Not to be called on a thread of a runtime.
    pub(crate) fn end_for_another(&self) {
        self.leave_to_another();
        self.hand_over(HandoverRequest::End);
    }

    /// While it takes over: whether it lacks something that others have still to tell, and that comes soon if at all.
    pub(crate) fn lacks_answers(&self) -> bool {
        self.shared.lacks_answers.load(Ordering::Acquire)
    }

    /// What answers for addresses.
    pub(crate) fn layer2(&self) -> &Layer2 {
        &self.layer2
    }

    /// The clock that clients and endpoints are remembered by.
    pub(crate) fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// A port of a Service.
    pub(crate) fn port(&self, service: &ServiceName, key: PortKey) -> Option<Arc<Port>> {
        let shown = self.published.get(service)?;
        let (_, port) = shown.ports.iter().find(|(it, _)| *it == key)?;
        Some(port.clone())
    }

    /// Whether all objects of the start are programmed.
    pub(crate) fn is_synced(&self) -> bool {
        self.published.is_synced()
    }

    /// The steering, where the kernel steers.
    pub(crate) fn steering(&self) -> Option<&Arc<Steering>> {
        Some(self.shared.refusals.get()?.steering())
    }

    /// Waits until the gateway has ended: after `shutdown`, with the last connection or the time to drain.
    pub async fn finished(self) {
        self.ended.cancelled().await;
    }

    /// Ends connections that drain after `shutdown` at once. The gateway still removes its routes before
    /// [`Self::finished`] returns.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// A count of each thread's loop, which makes one more round after this call. A count that stays the same shows
    /// a loop that is stuck. The counts are local to this process.
    pub fn turns(&self) -> Vec<(String, u64)> {
        let control = ("the gateway's control task".to_owned(), self.control.ask());
        let bgp = self.bgp.beat();
        let bgp = bgp.map(|beat| ("BGP".to_owned(), beat.ask()));
        let routes = self.published.kernel_routes.beat();
        let routes = routes.map(|beat| ("routes".to_owned(), beat.ask()));
        let rest = [control].into_iter().chain(bgp).chain(routes);
        turns(&self.loops).chain(rest).collect()
    }

    /// How long connections may go on after `shutdown`.
    pub fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }

    /// Every listener, in the order of Services.
    pub fn listeners(&self) -> Vec<ListenerRow> {
        let rows = self
            .published
            .all()
            .into_iter()
            .flat_map(|(service, shown)| {
                let row = move |listener| ListenerRow {
                    namespace: service.namespace.to_string(),
                    service: service.name.to_string(),
                    listener,
                };
                shown
                    .report
                    .listeners
                    .clone()
                    .into_iter()
                    .map(row)
                    .collect::<Vec<_>>()
            });
        rows.collect()
    }

    /// How many addresses are routes in a kernel table; none: no pool asks for it.
    pub fn kernel_routes(&self) -> Option<usize> {
        self.published.kernel_routes.count()
    }

    /// The routers that external addresses are announced to, and the sessions with them.
    pub fn peers(&self) -> Vec<BgpPeerRow> {
        self.bgp.rows()
    }

    /// Every endpoint of every port, those that get no traffic included, in the order of Services.
    pub fn endpoints(&self) -> Vec<EndpointRow> {
        let drained = self.published.drained();
        self.published
            .all()
            .iter()
            .flat_map(|(service, shown)| {
                endpoint_rows(service, shown, &drained, &self.shared.clock)
            })
            .collect()
    }

    /// The sections `Listeners` and `Endpoints` of `explain`, `Balancing` where the Service says something of it, `Limits` where
    /// there are some or somebody was turned away, and `BGP`
    /// where routers are told. Empty where the gateway does not serve the Service.
    pub fn explain(&self, service: &ServiceName) -> Vec<Section> {
        let Some(shown) = self.published.get(service) else {
            return Vec::new();
        };
        let listeners = shown.report.listeners.iter().map(|listener| {
            let (listen, protocol) = (listener.listen, listener.protocol);
            match &listener.state {
                ListenerState::Listening => format!("{listen} ({protocol}) takes traffic."),
                ListenerState::Forwarded => {
                    format!("{listen} ({protocol}) is forwarded by this node's kube-proxy.")
                }
                ListenerState::Refusing => {
                    format!("{listen} ({protocol}) refuses connections: there is no endpoint.")
                }
                ListenerState::Unreachable { message } => {
                    format!("{listen} ({protocol}) takes connections, but {message}.")
                }
                ListenerState::Failed { reason, message } if reason == NODE_PROXY_NOT_READY => {
                    format!("{listen} ({protocol}) is not announced: {message}.")
                }
                ListenerState::Failed { message, .. } => {
                    format!("{listen} ({protocol}) does not listen: {message}.")
                }
            }
        });
        let drained = self.published.drained();
        let endpoints = endpoint_rows(service, &shown, &drained, &self.shared.clock);
        let mut sentences: Vec<String> = endpoints
            .iter()
            .map(|row| {
                let (port, protocol) = (row.port, row.protocol);
                format!("{} (for port {port}/{protocol}) {}.", row.endpoint, row.why)
            })
            .collect();
        if sentences.is_empty() {
            sentences.push("There are none.".to_owned());
        }
        sentences.extend(shown.route.ports.iter().filter_map(|port| {
            let check = port.options.health_check.as_ref()?;
            let (key, kind, interval) = (port.key, &check.kind, check.interval);
            Some(format!(
                "Those of port {key} are checked by {kind}, every {interval:?}."
            ))
        }));
        sentences.extend(
            shown
                .report
                .notices
                .iter()
                .map(|notice| notice.message.clone()),
        );
        let draining = self.published.draining().map(|why| Section {
            title: "Gateway".to_owned(),
            sentences: vec![format!(
                "{} drains, because {why}: it hands over the addresses that it owns, and keeps what no other gateway \
                 takes.",
                self.name
            )],
        });
        let mut sections: Vec<Section> = draining.into_iter().collect();
        sections.extend([
            Section {
                title: "Listeners".to_owned(),
                sentences: listeners.collect(),
            },
            Section {
                title: "Endpoints".to_owned(),
                sentences,
            },
        ]);
        let vips = shown.report.listeners.iter();
        let vips = vips.filter(|it| it.kind == ClaimKind::Vip);
        let vips: BTreeSet<IpAddr> = vips.map(|it| it.listen.0.ip()).collect();
        let told = vips.iter().flat_map(|it| self.bgp.sentences(*it));
        let routes = vips.iter();
        let routes = routes.filter_map(|it| self.published.kernel_routes.sentence(*it));
        let ports = shown.route.ports.iter();
        let balancing = ports.filter_map(|port| balancing::sentence(port));
        let limits = shown.ports.iter().flat_map(|(key, port)| {
            let refused = limits_shown::refused(port, self.shared.clock.now()).into_iter();
            let refused = refused.map(move |it| format!("Port {key} has {it}."));
            limits_shown::sentence(&port.route())
                .into_iter()
                .chain(refused)
        });
        for (title, sentences) in [
            ("Balancing", balancing.collect()),
            ("Limits", limits.collect()),
            ("BGP", told.collect()),
            ("Routes", routes.collect()),
        ] {
            let sentences: Vec<String> = sentences;
            if !sentences.is_empty() {
                let title = title.to_owned();
                sections.push(Section { title, sentences });
            }
        }
        sections
    }

    /// Whom a Service has turned away in the last minute, as the rest of a sentence; none where it has nobody.
    pub fn refused(&self, service: &ServiceName) -> Option<String> {
        let shown = self.published.get(service)?;
        let now = self.shared.clock.now();
        let ports = shown.ports.iter();
        let refused = ports.flat_map(|(_, port)| limits_shown::refused(port, now));
        let refused: Vec<String> = refused.collect();
        (!refused.is_empty()).then(|| refused.join("; "))
    }

    /// The report of a Service; none where the gateway does not serve it.
    pub fn report(&self, service: &ServiceName) -> Option<Arc<Report>> {
        Some(self.published.get(service)?.report.clone())
    }

    /// The ports that are served, each with its Service, for metrics.
    pub fn ports(&self) -> Vec<(ServiceName, Arc<Port>)> {
        let all = self.published.all();
        let ports = all.iter().flat_map(|(service, shown)| {
            shown
                .ports
                .iter()
                .map(|(_, port)| (service.clone(), port.clone()))
        });
        ports.collect()
    }

    /// The addresses at which others may reach this host, with their prefixes.
    pub fn host_addresses(&self) -> Vec<IpNet> {
        self.published.host().to_vec()
    }

    /// The [sequence](Batch::sequence) of the last batch that is programmed and reported.
    pub fn done(&self) -> u64 {
        self.published.done()
    }

    /// What keeps the gateway from being ready, as sentences. A failed listener does not: it is tried again, and
    /// shown.
    pub fn missing(&self) -> Vec<String> {
        if self.shared.stopping.is_cancelled() {
            vec!["The gateway is stopping.".to_owned()]
        } else if !self.published.is_synced() {
            vec!["Services and their listeners are still being set up.".to_owned()]
        } else if self.shared.taking_over.load(Ordering::Acquire) {
            vec!["It takes over from the process that has served so far.".to_owned()]
        } else if self.shared.fleet.is_joining() {
            vec!["It listens to the other gateways before it takes addresses from them.".to_owned()]
        } else {
            Vec::new()
        }
    }

    /// Has this gateway hand over the addresses that it owns, or ends that. It goes on with those that no other gateway
    /// takes. That lasts until the process ends.
    pub fn set_asked_to_drain(&self, is_asked: bool) {
        self.shared.drain_asked.send_replace(is_asked);
    }

    /// Keeps new connections away from these endpoints, and from no others. Waits until that is so.
    ///
    /// # Errors
    /// It was not so in time.
    pub fn set_drained(&self, drained: Arc<DrainedEndpoints>) -> Result<(), NotDrainedYet> {
        self.shared.drained.send_replace(drained.clone());
        match self.published.wait_drained(&drained, DRAINED) {
            true => Ok(()),
            false => Err(NotDrainedYet),
        }
    }

    /// The row of `get gateways`.
    pub fn row(&self) -> GatewayRow {
        let missing = self.missing();
        let all = self.published.all();
        let listeners = || all.iter().flat_map(|(_, shown)| &shown.report.listeners);
        let is_failed = |state: &ListenerState| matches!(state, ListenerState::Failed { .. });
        let failed = listeners()
            .filter(|listener| is_failed(&listener.state))
            .count();
        let stands = |state: &ListenerState| {
            matches!(
                state,
                ListenerState::Listening
                    | ListenerState::Forwarded
                    | ListenerState::Unreachable { .. }
            )
        };
        let listening = listeners()
            .filter(|listener| stands(&listener.state))
            .count();
        let counters = || {
            all.iter()
                .flat_map(|(_, shown)| shown.ports.iter())
                .map(|(_, port)| &port.counters)
        };
        let members = self.shared.fleet.members(boot_time());
        let silent = members.iter().filter(|(_, is_heard)| !**is_heard);
        let silent: Vec<ClusterName> = silent.map(|(name, _)| name.clone()).collect();
        GatewayRow {
            members: members.len(),
            heard: members.len() - silent.len(),
            silent: silent.into_iter().take(NAMED).collect(),
            name: self.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: missing.is_empty(),
            why: missing.join(" "),
            listening,
            failed,
            // Those who show it know them from the store.
            addresses: 0,
            connections: counters().map(|counters| counters.active.get()).sum(),
            flows: counters().map(|counters| counters.flows.get()).sum(),
            started: self.started.to_string(),
            omitted: 0,
            draining: self.published.draining(),
        }
    }

    /// Brings those metrics up to date that are not counted as they change.
    pub fn observe(&self) {
        self.shared.descriptors.observe();
        let members = self.shared.fleet.members(boot_time());
        let heard = members.values().filter(|is_heard| **is_heard).count();
        for (state, count) in [("heard", heard), ("silent", members.len() - heard)] {
            metrics::gauge!(FLEET_MEMBERS, "state" => state).set(count as f64);
        }
        if let Some(refusals) = self.shared.refusals.get() {
            refusals.collect(self.shared.clock.now());
        }
    }

    /// How often accepting has paused because the process or a port had no file descriptors left.
    pub fn accept_pauses(&self) -> u64 {
        self.shared.descriptors.pauses.get()
    }

    /// Bytes that were spliced from socket to socket, over the whole process.
    pub fn spliced_bytes(&self) -> u64 {
        crate::engine::spliced()
    }

    /// TCP connections that were looked at because the time to drain of a port, an endpoint or an address was over,
    /// over the whole process. (HTTP connections are not counted.)
    pub fn examined_connections(&self) -> u64 {
        crate::engine::examined()
    }

    /// Messages that were written in a batch (io_uring), over the whole process.
    pub fn batched_messages(&self) -> u64 {
        crate::engine::batched_messages()
    }
}
