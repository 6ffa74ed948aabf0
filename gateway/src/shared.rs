//! What all workers share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use fairway_config::drained::DrainedEndpoints;
use fairway_gateway_core::affinity;
use fairway_gateway_core::client_room::ClientRoom;
use fairway_gateway_core::limits;
use fairway_gateway_core::source_pool::SourcePool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::descriptors::Descriptors;
use crate::fleet::ShownFleet;
use crate::flow_pool::{self, FlowPool};
use crate::http::limits::HttpTimes;
use crate::icmp::IcmpSockets;
use crate::refusal_log::RefusalLog;
use crate::settings::GatewaySettings;
use crate::steering::refusals::Refusals;
use crate::transparent::Transparency;

/// What all workers of a gateway share: settings, the clock, and the limits of the process.
#[derive(Debug)]
pub(crate) struct GatewayShared {
    /// One clock for all, so that affinity times are the same on every worker.
    pub(crate) clock: Clock,
    /// How long a client may take no byte once its endpoint has ended.
    pub(crate) stall_timeout: Duration,
    /// How long a peer may take none of the bytes that wait for it; none: for any time.
    pub(crate) reader_timeout: Option<Duration>,
    /// How long the last endpoint that is left to try may take to accept a connection.
    pub(crate) connect_timeout: Duration,
    /// The time-outs of HTTP/1 connections.
    pub(crate) http_times: HttpTimes,
    /// The budget of file descriptors.
    pub(crate) descriptors: Arc<Descriptors>,
    /// Cancelled when the process is told to stop.
    pub(crate) stopping: CancellationToken,
    /// Whether somebody has asked this process to hand its addresses over.
    pub(crate) drain_asked: watch::Sender<bool>,
    /// What an operator drains.
    pub(crate) drained: watch::Sender<Arc<DrainedEndpoints>>,
    /// Cancelled when it accepts nothing any more: connections are to end. That is a moment later where other gateways
    /// take its addresses first.
    pub(crate) draining: CancellationToken,
    /// Tracks every client connection: when none is left, the process may end.
    pub(crate) connections: TaskTracker,
    /// How many more clients the affinity tables of all ports may remember.
    pub(crate) affinity_room: Arc<ClientRoom>,
    /// How many more clients the limits of all ports may remember that have no connection.
    pub(crate) limit_room: Arc<ClientRoom>,
    /// How often the log says that ports refuse clients.
    pub(crate) refusal_log: Arc<RefusalLog>,
    /// How many UDP flows all workers may have.
    pub(crate) flow_pool: FlowPool,
    /// By which UDP clients are told that no endpoint takes their datagrams.
    pub(crate) icmp_sockets: IcmpSockets,
    /// The source-address pool: the addresses that endpoints may be dialled from.
    pub(crate) source_pool: Arc<ArcSwap<SourcePool>>,
    /// Whether endpoints can be dialled from their clients' addresses.
    pub(crate) transparency: Arc<Transparency>,
    /// Which other gateways are heard.
    pub(crate) fleet: ShownFleet,
    /// The addresses that the kernel refuses, where it steers.
    pub(crate) refusals: OnceLock<Arc<Refusals>>,
    /// Whether this process takes over from another one, and has not got everything yet.
    pub(crate) taking_over: AtomicBool,
    /// While it takes over: whether names or passwords have not been asked for with success or without.
    pub(crate) lacks_answers: AtomicBool,
    /// Whether another process has taken everything over. What this host does for its addresses is that one's now.
    pub(crate) handed_over: AtomicBool,
    /// Whether each worker stays on one processor.
    pub(crate) pin_workers: bool,
    /// Whether UDP GSO and GRO are used.
    pub(crate) udp_offload: bool,
    /// Whether io_uring is used.
    pub(crate) io_uring: bool,
}

impl GatewayShared {
    pub(crate) fn new(
        settings: &GatewaySettings,
        clock: Clock,
        stopping: CancellationToken,
    ) -> Self {
        let descriptors = Descriptors::of_process(settings.workers);
        let flows = settings.max_flows;
        let flows = flows.unwrap_or_else(|| flow_pool::default_limit(descriptors.total()));
        Self {
            clock,
            stall_timeout: settings.stall_timeout,
            reader_timeout: settings.reader_timeout,
            connect_timeout: settings.connect_timeout,
            http_times: HttpTimes::default(),
            descriptors,
            stopping,
            drain_asked: watch::Sender::default(),
            drained: watch::Sender::new(settings.drained.clone()),
            draining: CancellationToken::new(),
            connections: TaskTracker::new(),
            affinity_room: Arc::new(ClientRoom::new(affinity::ROOM)),
            refusal_log: Arc::default(),
            limit_room: Arc::new(ClientRoom::new(limits::QUIET_ROOM)),
            flow_pool: FlowPool::new(flows, settings.workers.max(1)),
            icmp_sockets: settings.icmp_sockets.clone(),
            source_pool: Arc::default(),
            transparency: Arc::default(),
            fleet: ShownFleet::default(),
            refusals: OnceLock::new(),
            taking_over: AtomicBool::new(false),
            lacks_answers: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            pin_workers: settings.pin_workers,
            udp_offload: settings.udp_offload,
            io_uring: settings.io_uring,
        }
    }
}
