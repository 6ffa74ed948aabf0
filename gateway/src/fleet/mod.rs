//! Announcing on layer 2: which gateway of a fleet answers for an address on each network, decided by
//! `fairway_gateway_core::fleet`; here are its sockets, its clock and its thread.
//!
//! Reading order: `RunningFleet`, the handle that the control task has; `thread`, the loop over all segments;
//! `segment`, one of them; `sockets` and `crate::seal`, how messages come and go; `refused`, those that do not count;
//! `reports` and `seen`, what is said of each address; `shown`, what is said of other gateways; `wire_probes`, which addresses
//! another host uses; `owner_log`, the log.
//!
//! The thread is started with the first pool that announces on layer 2. Where none does there is no thread, no socket
//! and no rule of the kernel's packet filter.

mod owner_log;
mod refused;
mod reports;
mod seen;
mod segment;
mod settings;
mod shown;
mod sockets;
mod thread;
mod wire_probes;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use fairway_config::names::ClusterName;
use tokio::sync::watch;

pub(crate) use self::refused::REFUSED_FOR;
pub(crate) use self::reports::AddressReportOutbox;
pub use self::settings::{DEFAULT_PORT, FleetSettings};
pub(crate) use self::shown::ShownFleet;
use self::thread::{Departure, FleetSignals, FleetThread};
use crate::announcing::Announceable;
use crate::handed::HandedSegment;
use crate::layer2::Layer2;
use crate::network;
use crate::passing::Passing;
pub use crate::seal::fleet_key;
use crate::shared::GatewayShared;
use crate::stalls::WorkerLoops;

/// How long a gateway that stops waits for others to take its addresses.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long it goes on accepting once they are taken: some clients learn of it a little later.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// The time to drain of a gateway that stops begins so much later, at the most, than the term of its successor, and its
/// connections are cut so much later than it ends.
const HANDS_OVER: Duration = Duration::from_secs(4);

/// A fleet's thread, as the control task sees it.
#[derive(Debug)]
pub(crate) struct RunningFleet {
    signals: Arc<FleetSignals>,
    departure: watch::Receiver<Departure>,
    thread: Option<JoinHandle<Vec<HandedSegment>>>,
    watching: tokio::task::JoinHandle<()>,
}

/// What a fleet works with.
pub(crate) struct FleetInputs {
    pub(crate) own: ClusterName,
    pub(crate) port: u16,
    /// See [`FleetSettings::waits_for_key`].
    pub(crate) waits_for_key: bool,
    pub(crate) announceable: watch::Receiver<Arc<Announceable>>,
    /// The loops that carry traffic.
    pub(crate) loops: WorkerLoops,
    pub(crate) reports: Arc<AddressReportOutbox>,
    pub(crate) shared: Arc<GatewayShared>,
    pub(crate) layer2: Layer2,
    /// How long connections may go on at a gateway that has handed its addresses over.
    pub(crate) drain_timeout: Duration,
    /// What another process of this gateway had.
    pub(crate) continuations: Vec<HandedSegment>,
}

impl RunningFleet {
    /// Starts the thread. Needs a Tokio runtime.
    ///
    /// # Errors
    /// The process has no thread left.
    pub(crate) fn start(inputs: FleetInputs) -> io::Result<Self> {
        let (sender, network) = watch::channel(None);
        let (departing, departure) = watch::channel(Departure::default());
        let signals = Arc::new(FleetSignals::default());
        let refusals = inputs.shared.refusals.get();
        let inquiry = refusals.map(|refusals| refusals.inquiry());
        let fleet = FleetThread {
            own: inputs.own,
            port: inputs.port,
            waits_for_key: inputs.waits_for_key,
            announceable: inputs.announceable,
            network,
            layer2: inputs.layer2,
            passing: Passing::start(inquiry)?,
            passes_for: inputs.drain_timeout.saturating_add(HANDS_OVER),
            loops: inputs.loops,
            reports: inputs.reports,
            shared: inputs.shared,
            signals: signals.clone(),
            departure: departing,
            continuations: inputs.continuations,
        };
        let thread = std::thread::Builder::new()
            .name("fairway-fleet".to_owned())
            .spawn(move || fleet.run())?;
        Ok(Self {
            signals,
            departure,
            thread: Some(thread),
            watching: tokio::spawn(network::watch(sender)),
        })
    }

    /// Has other gateways take the addresses, and waits a moment for that. This one goes on answering for what
    /// nobody takes, until it [ends](Self::end).
    pub(crate) async fn leave(&mut self) {
        self.signals.is_leaving.store(true, Ordering::Relaxed);
        let left = self.departure.wait_for(|it| *it != Departure::Waiting);
        let left = tokio::time::timeout(PATIENCE, left).await;
        match left.map(|it| it.map_or(Departure::Idle, |it| *it)) {
            Ok(Departure::Idle) => {}
            Ok(Departure::Taken) => tokio::time::sleep(STRAGGLERS).await,
            Ok(Departure::Alone) => {
                tracing::info!("there is no other gateway to take the addresses");
            }
            Ok(Departure::Waiting) | Err(_) => {
                tracing::warn!(
                    "other gateways do not take all addresses: new connections are refused now"
                );
            }
        }
    }

    /// Ends the thread, and leaves all addresses to another process of this gateway. Returns what that one needs.
    pub(crate) async fn hand_over(mut self) -> Vec<HandedSegment> {
        self.signals.is_handed_over.store(true, Ordering::Relaxed);
        self.signals.is_ending.store(true, Ordering::Relaxed);
        self.watching.abort();
        let thread = self.thread.take();
        // It ends within a tick.
        let ended = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join));
        match ended.await {
            Ok(Some(Ok(segments))) => segments,
            _ => Vec::new(),
        }
    }

    /// Lets go of all addresses, and ends the thread. To be called when no address is local any more.
    pub(crate) async fn end(mut self) {
        self.signals.is_ending.store(true, Ordering::Relaxed);
        self.watching.abort();
        let thread = self.thread.take();
        // It ends within a tick.
        let ended = tokio::task::spawn_blocking(move || thread.map(JoinHandle::join));
        if let Ok(Some(Err(_))) = ended.await {
            tracing::error!("the thread of the fleet has panicked");
        }
    }
}

impl Drop for RunningFleet {
    fn drop(&mut self) {
        self.signals.is_ending.store(true, Ordering::Relaxed);
        self.watching.abort();
    }
}
