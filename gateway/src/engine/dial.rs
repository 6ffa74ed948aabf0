//! Dialling: the endpoints that are tried for one connection, one after the other.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use fairway_config::net::{ClientAddr, EndpointAddr};
use fairway_gateway_core::attempts::{Attempts, Patience};
use fairway_gateway_core::dial_failure::DialFailure;

use super::direction::Direction;
use super::next::Environment;
use super::poll::{Token, Trigger};
use super::side::Side;
use crate::connecting::{self, ConnectOptions};
use crate::endpoint_state::Active;
use crate::hops::Hops;
use crate::open_connection::OpenConnection;
use crate::shared::GatewayShared;
use crate::socket;

/// The dialling of one connection.
pub(super) struct Dial {
    hops: Option<Hops>,
    /// The client's first bytes were read already.
    pub(super) early: bool,
    /// The endpoint that is being tried, and when that began.
    pub(super) trying: Option<(EndpointAddr, Instant)>,
    /// How long it may take.
    pub(super) patience: Patience,
    attempts: Attempts,
    error: Option<io::Error>,
}

/// The outcome of [`Dial::next`].
pub(super) enum DialOutcome {
    /// An endpoint is being connected to.
    Trying(Side, Active),
    /// The kernel has no socket just now (no file descriptor or no memory).
    Exhausted,
    /// No endpoint is left to try. The error is that of the last one.
    Failed(io::Error),
    /// The port has no endpoint.
    NoEndpoint,
}

impl Dial {
    /// No endpoint was tried yet. Connections to endpoints start with `hops`, where that is given.
    pub(super) fn new(hops: Option<Hops>) -> Self {
        Self {
            hops,
            early: false,
            trying: None,
            patience: Patience::Last,
            attempts: Attempts::default(),
            error: None,
        }
    }

    /// Tries the next endpoint for a client, whose bytes go by the direction `up`.
    pub(super) fn next(
        &mut self,
        from: ClientAddr,
        port: &OpenConnection,
        client: &Side,
        up: &mut Direction,
        environment: &mut Environment<'_>,
    ) -> DialOutcome {
        loop {
            let now = Instant::now();
            let tick = environment.shared.clock.at(now);
            let route = port.route();
            let picked = self
                .attempts
                .may_try(tick)
                .then(|| port.pick(&route, from.0.ip(), tick, self.attempts.tried()))
                .flatten();
            let Some(picked) = picked else {
                break;
            };
            let addr = picked.at.endpoint.addr;
            self.patience = self.attempts.patience(&picked);
            // Counted from here on, so that choices by load see connections that are being made.
            let active = Active::new(picked.at.state.clone());
            drop(route);
            // The client's first bytes go in one packet with the last step of the handshake.
            let is_first = self.attempts.tried().is_empty();
            self.early |= is_first && up.read_early(client, &mut environment.tools);
            match connect(addr, self, environment) {
                Ok(socket) => {
                    self.trying = Some((addr, now));
                    return DialOutcome::Trying(Side::of_endpoint(socket), active);
                }
                Err(error) if socket::is_exhausted(&error) => {
                    environment.shared.descriptors.exhausted(&error);
                    self.error = Some(error);
                    return DialOutcome::Exhausted;
                }
                Err(error) => {
                    unreached(port, Some(&active), (addr, now), &error, environment.shared);
                    self.attempts.failed(addr);
                    self.error = Some(error);
                }
            }
        }
        match self.error.take() {
            Some(error) => DialOutcome::Failed(error),
            None => DialOutcome::NoEndpoint,
        }
    }

    /// Notes that the endpoint that is being tried could not be reached.
    pub(super) fn not_reached(
        &mut self,
        error: io::Error,
        port: &OpenConnection,
        active: Option<&Active>,
        shared: &GatewayShared,
    ) {
        if let Some((addr, began)) = self.trying.take() {
            unreached(port, active, (addr, began), &error, shared);
            self.attempts.failed(addr);
            self.error = Some(error);
        }
    }

    /// Notes that the endpoint that is being tried has accepted the connection. Returns whether it may have it: it may
    /// have been removed meanwhile, and then nobody would cut its connections.
    pub(super) fn reached(
        &mut self,
        port: &OpenConnection,
        active: &Active,
        shared: &GatewayShared,
    ) -> bool {
        let Some((addr, began)) = self.trying.take() else {
            return false;
        };
        let now = Instant::now();
        let took = now.saturating_duration_since(began);
        port.dial_worked(active.state(), took, shared.clock.at(now));
        port.route().endpoints.lists(addr)
    }
}

/// Begins to connect to an endpoint. The connection's permit covers the socket.
fn connect(
    addr: EndpointAddr,
    dial: &Dial,
    environment: &mut Environment<'_>,
) -> io::Result<OwnedFd> {
    let options = ConnectOptions {
        hops: dial.hops,
        speaks_first: dial.early,
    };
    let pool = environment.shared.source_pool.load();
    let socket = environment.source_fallback.dial(addr, &pool, |source| {
        connecting::begin(addr, source, options)
    })?;
    let token = Token::Endpoint(environment.number);
    environment.poll.add(&socket, token, Trigger::Edge)?;
    Ok(socket)
}

/// Counts that an endpoint, which was dialled at `began`, could not be reached.
fn unreached(
    port: &OpenConnection,
    active: Option<&Active>,
    (addr, began): (EndpointAddr, Instant),
    error: &io::Error,
    shared: &GatewayShared,
) {
    let why = DialFailure::of(error);
    if let Some(active) = active {
        let took: Duration = began.elapsed();
        port.dial_failed(active.state(), why, took, shared.clock.now());
    }
    tracing::debug!(endpoint = %addr, reason = why.as_str(), %error, "endpoint not reached");
}
