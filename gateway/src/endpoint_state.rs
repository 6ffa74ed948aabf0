//! The state of one endpoint of one port.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use fairway_gateway_core::available::LiveEndpoint;
use fairway_gateway_core::balance::presence::Presence;
use fairway_gateway_core::endpoint_health::{EndpointHealth, ShownHealth};
use fairway_gateway_core::route::Tick;
use tokio_util::sync::CancellationToken;

use crate::counters::Gauge;

/// The state of one endpoint of one port, which a new route must not reset.
#[derive(Debug)]
pub struct EndpointState {
    /// What is known of its health.
    pub(crate) health: EndpointHealth,
    /// Connections and UDP flows to it now.
    pub active: Gauge,
    /// Since when it gets traffic, where a slow start asks for it.
    pub(crate) presence: Presence,
    /// Cancelled when the endpoint, or the whole port, is gone and its time to drain is over: its connections end.
    pub cut: CancellationToken,
    /// When its time to drain is over, where the route no longer lists it.
    pub(crate) leaving: Mutex<Option<Instant>>,
}

impl EndpointState {
    /// The state of an endpoint of which nothing is known.
    pub(crate) fn new(cut: CancellationToken) -> Self {
        Self {
            health: EndpointHealth::default(),
            active: Gauge::default(),
            presence: Presence::default(),
            cut,
            leaving: Mutex::default(),
        }
    }

    /// What is known of its health.
    pub fn health(&self) -> ShownHealth {
        self.health.shown()
    }
}

impl LiveEndpoint for EndpointState {
    fn active(&self) -> u64 {
        self.active.get()
    }

    fn claim_trial(&self, now: Tick) -> bool {
        self.health.claim_trial(now)
    }

    fn returned(&self) -> Option<Tick> {
        self.presence.returned()
    }
}

/// Counts as a connection, a request or a UDP flow of an endpoint until it is dropped.
#[derive(Debug)]
pub(crate) struct Active(Arc<EndpointState>);

impl Active {
    /// Counts one more.
    pub(crate) fn new(state: Arc<EndpointState>) -> Self {
        state.active.increment();
        Self(state)
    }

    /// The endpoint's state.
    pub(crate) fn state(&self) -> &Arc<EndpointState> {
        &self.0
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.decrement();
    }
}
