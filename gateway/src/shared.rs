//! What all workers share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use fairway_gateway_core::affinity::AffinityRoom;
use fairway_gateway_core::source_pool::SourcePool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::descriptors::Descriptors;
use crate::fleet::ShownFleet;
use crate::flow_pool::{self, FlowPool};
use crate::icmp::IcmpSockets;
use crate::settings::GatewaySettings;
use crate::steering::refusals::Refusals;

/// What all workers of a gateway share: settings, the clock, and the limits of the process.
#[derive(Debug)]
pub(crate) struct GatewayShared {
    /// One clock for all, so that affinity times are the same on every worker.
    pub(crate) clock: Clock,
    /// How long a client may take no byte once its endpoint has ended.
    pub(crate) stall_timeout: Duration,
    /// How long the last endpoint that is left to try may take to accept a connection.
    pub(crate) connect_timeout: Duration,
    /// The budget of file descriptors.
    pub(crate) descriptors: Arc<Descriptors>,
    /// Cancelled when the process is told to stop.
    pub(crate) stopping: CancellationToken,
    /// Whether somebody has asked this process to hand its addresses over.
    pub(crate) drain_asked: watch::Sender<bool>,
    /// Cancelled when it accepts nothing any more: connections are to end. That is a moment later where other gateways
    /// take its addresses first.
    pub(crate) draining: CancellationToken,
    /// Tracks every client connection: when none is left, the process may end.
    pub(crate) connections: TaskTracker,
    /// How many more clients the affinity tables of all ports may remember.
    pub(crate) affinity_room: Arc<AffinityRoom>,
    /// How many UDP flows all workers may have.
    pub(crate) flow_pool: FlowPool,
    /// By which UDP clients are told that no endpoint takes their datagrams.
    pub(crate) icmp_sockets: IcmpSockets,
    /// The source-address pool: the addresses that endpoints may be dialled from.
    pub(crate) source_pool: Arc<ArcSwap<SourcePool>>,
    /// Which other gateways are heard.
    pub(crate) fleet: ShownFleet,
    /// The addresses that the kernel refuses, where it steers.
    pub(crate) refusals: OnceLock<Arc<Refusals>>,
    /// Whether each worker stays on one processor.
    pub(crate) pin_workers: bool,
    /// Whether UDP GSO and GRO are used.
    pub(crate) udp_offload: bool,
    /// Whether io_uring is used.
    pub(crate) io_uring: bool,
}

impl GatewayShared {
    pub(crate) fn new(settings: &GatewaySettings, stopping: CancellationToken) -> Self {
        let descriptors = Descriptors::of_process(settings.workers);
        let flows = settings.max_flows;
        let flows = flows.unwrap_or_else(|| flow_pool::default_limit(descriptors.total()));
        Self {
            clock: Clock::start(),
            stall_timeout: settings.stall_timeout,
            connect_timeout: settings.connect_timeout,
            descriptors,
            stopping,
            drain_asked: watch::Sender::default(),
            draining: CancellationToken::new(),
            connections: TaskTracker::new(),
            affinity_room: Arc::default(),
            flow_pool: FlowPool::new(flows, settings.workers.max(1)),
            icmp_sockets: settings.icmp_sockets.clone(),
            source_pool: Arc::default(),
            fleet: ShownFleet::default(),
            refusals: OnceLock::new(),
            pin_workers: settings.pin_workers,
            udp_offload: settings.udp_offload,
            io_uring: settings.io_uring,
        }
    }
}
