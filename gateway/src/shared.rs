//! What all workers share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use fairway_gateway_core::source_pool::SourcePool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::descriptors::Descriptors;
use crate::flow_pool::{self, FlowPool};
use crate::icmp::IcmpSockets;
use crate::settings::Settings;
use crate::steering::refusals::Refusals;

/// What all workers share: settings, a clock, and the bounds of the process.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The one clock, so that affinity means the same on every worker.
    pub(crate) clock: Clock,
    /// How long a client may take nothing of what its endpoint has said before it ended.
    pub(crate) stall_timeout: Duration,
    /// How long the last endpoint that is left to try has for answering a connect.
    pub(crate) connect_timeout: Duration,
    /// Leave to open sockets.
    pub(crate) descriptors: Arc<Descriptors>,
    /// Cancelled when the process is told to stop.
    pub(crate) stopping: CancellationToken,
    /// Every client connection; empty, the process may go.
    pub(crate) connections: TaskTracker,
    /// How many UDP flows all workers may have.
    pub(crate) flow_pool: FlowPool,
    /// By which UDP clients are told that no endpoint takes their datagrams.
    pub(crate) icmp_sockets: IcmpSockets,
    /// Which addresses endpoints may be dialled from.
    pub(crate) source_pool: ArcSwap<SourcePool>,
    /// Whom the kernel refuses for us, where it steers.
    pub(crate) refusals: OnceLock<Arc<Refusals>>,
    /// Each worker stays on a processor.
    pub(crate) pin_workers: bool,
    /// The kernel may take and give rows of datagrams as one.
    pub(crate) udp_offload: bool,
    /// System calls of several connections may be made together.
    pub(crate) io_uring: bool,
}

impl Shared {
    pub(crate) fn new(settings: &Settings, stopping: CancellationToken) -> Self {
        let descriptors = Descriptors::of_process(settings.workers);
        let flows = settings.max_flows;
        let flows = flows.unwrap_or_else(|| flow_pool::default_limit(descriptors.total()));
        Self {
            clock: Clock::start(),
            stall_timeout: settings.stall_timeout,
            connect_timeout: settings.connect_timeout,
            descriptors,
            stopping,
            connections: TaskTracker::new(),
            flow_pool: FlowPool::new(flows, settings.workers.max(1)),
            icmp_sockets: settings.icmp_sockets.clone(),
            source_pool: ArcSwap::default(),
            refusals: OnceLock::new(),
            pin_workers: settings.pin_workers,
            udp_offload: settings.udp_offload,
            io_uring: settings.io_uring,
        }
    }
}
