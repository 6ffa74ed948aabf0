//! A slot: a listen address, and what its listener serves at the moment.

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

/// A listen address with what it serves. The sockets stay open while it passes from one Service to another.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The number of the slot, local to this process.
    pub(crate) number: u32,
    /// The listen address.
    pub(crate) listen: ListenAddr,
    /// What it serves; swapped in one step.
    pub(crate) target: ArcSwap<Target>,
    /// The number of the port whose blocked clients the kernel refuses here, plus one; 0: it looks for nobody's.
    pub(crate) owner: AtomicU32,
    /// The connections that came in here.
    pub(crate) active: Gauge,
    /// Cancelled when nobody claims the address any more and the time to drain is over: these connections end.
    pub(crate) cut: CancellationToken,
}

impl Slot {
    /// A slot that serves this target.
    pub(crate) fn new(listen: ListenAddr, target: Target) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            // It wraps around as the numbers of ports do.
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            listen,
            target: ArcSwap::from_pointee(target),
            owner: AtomicU32::new(0),
            active: Gauge::default(),
            cut: CancellationToken::new(),
        }
    }
}

/// The key of a listener: a listen address and a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BindKey {
    /// The listen address.
    pub(crate) listen: ListenAddr,
    /// The protocol.
    pub(crate) protocol: Protocol,
}

/// What a listener serves.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A port of a Service.
    Port {
        /// The port.
        port: Arc<Port>,
        /// What the listener is for.
        kind: ClaimKind,
    },
    /// A Service's `healthCheckNodePort`.
    Health(Arc<Health>),
    /// Other gateways, which ask for endpoints of this node. The port is none of a Service.
    Relay(Arc<Port>),
}

impl Target {
    /// Whether connections can be served. Without an endpoint they are refused.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Port { port, .. } => !port.route().endpoints.eligible.is_empty(),
            Self::Health(_) | Self::Relay(_) => true,
        }
    }

    /// Whether both are the same port of the same Service.
    pub(crate) fn is_same_port(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Port { port, .. }, Self::Port { port: other, .. }) => Arc::ptr_eq(port, other),
            _ => false,
        }
    }

    /// The hop filter of the listener's sockets.
    pub(crate) fn hop_filter(&self) -> HopFilter {
        match self {
            Self::Port { port, .. } => HopFilter::of(&port.route()),
            Self::Health(_) | Self::Relay(_) => HopFilter::TakeAll,
        }
    }

    /// The share of the file descriptors that a connection counts for.
    pub(crate) fn share(&self) -> Option<&Arc<Share>> {
        match self {
            Self::Port { port, .. } => Some(&port.share),
            Self::Health(health) => Some(&health.share),
            Self::Relay(port) => Some(&port.share),
        }
    }

    /// What the listener is for.
    pub(crate) fn kind(&self) -> ClaimKind {
        match self {
            Self::Port { kind, .. } => *kind,
            Self::Health(_) => ClaimKind::HealthCheck,
            // At an address of the host's own, too.
            Self::Relay(_) => ClaimKind::NodePort,
        }
    }
}

/// A Service's `healthCheckNodePort`.
#[derive(Debug)]
pub(crate) struct Health {
    /// The Service.
    pub(crate) service: ServiceName,
    /// How many endpoints count as local.
    pub(crate) local_endpoints: AtomicUsize,
    /// The connections of those that ask.
    pub(crate) connections: Arc<OwnConnections>,
    /// Their share of the file descriptors.
    pub(crate) share: Arc<Share>,
}
