//! A place to listen and whom it serves just now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use fairway_config::exchange::ClaimKind;
use fairway_config::names::ServiceName;
use fairway_config::net::{ListenAddr, Protocol};
use tokio_util::sync::CancellationToken;

use crate::counters::Gauge;
use crate::descriptors::Share;
use crate::hops::HopFilter;
use crate::own_http::OwnConnections;
use crate::port::Port;

/// A place to listen. Its sockets stay while the Service behind it changes.
#[derive(Debug)]
pub(crate) struct Slot {
    /// Tells those of this process apart.
    pub(crate) number: u32,
    /// Where.
    pub(crate) listen: ListenAddr,
    /// Whom it serves: swapped in one step.
    pub(crate) target: ArcSwap<Target>,
    /// Connections that came in here.
    pub(crate) active: Gauge,
    /// Ends them: nobody claims the place any more, and they have had their time to drain.
    pub(crate) cut: CancellationToken,
}

impl Slot {
    /// A place that serves that one from now on.
    pub(crate) fn new(listen: ListenAddr, target: Target) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            // As the numbers of ports.
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            listen,
            target: ArcSwap::from_pointee(target),
            active: Gauge::default(),
            cut: CancellationToken::new(),
        }
    }
}

/// Where, and which protocol: what tells listeners apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BindKey {
    /// Where.
    pub(crate) listen: ListenAddr,
    /// Which protocol.
    pub(crate) protocol: Protocol,
}

/// Whom a listener serves.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A port of a Service.
    Port {
        /// Which.
        port: Arc<Port>,
        /// What for.
        kind: ClaimKind,
    },
    /// A Service's `healthCheckNodePort`.
    Health(Arc<Health>),
}

impl Target {
    /// Whether anything would come of a connection: without an endpoint it is better refused.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Port { port, .. } => !port.route().endpoints.eligible.is_empty(),
            Self::Health(_) => true,
        }
    }

    /// What the listener's sockets must take.
    pub(crate) fn hop_filter(&self) -> HopFilter {
        match self {
            Self::Port { port, .. } => HopFilter::of(&port.route()),
            Self::Health(_) => HopFilter::TakeAll,
        }
    }

    /// Whose share of the file descriptors a connection comes out of.
    pub(crate) fn share(&self) -> Option<&Arc<Share>> {
        match self {
            Self::Port { port, .. } => Some(&port.share),
            Self::Health(health) => Some(&health.share),
        }
    }

    /// What the listener is for.
    pub(crate) fn kind(&self) -> ClaimKind {
        match self {
            Self::Port { kind, .. } => *kind,
            Self::Health(_) => ClaimKind::HealthCheck,
        }
    }
}

/// What a `healthCheckNodePort` answers.
#[derive(Debug)]
pub(crate) struct Health {
    /// Whose it is.
    pub(crate) service: ServiceName,
    /// How many endpoints count as local.
    pub(crate) local_endpoints: AtomicUsize,
    /// Those who ask.
    pub(crate) connections: Arc<OwnConnections>,
    /// The file descriptors that they hold.
    pub(crate) share: Arc<Share>,
}
