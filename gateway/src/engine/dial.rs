//! Dialling: the endpoints that are tried for one connection, one after the other.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use fairway_config::net::{ClientAddr, EndpointAddr};
use fairway_gateway_core::reachability::DialFailure;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::direction::Direction;
use super::next::Environment;
use super::poll::{Token, Trigger};
use super::side::Side;
use super::source_address;
use crate::hops::Hops;
use crate::open_connection::OpenConnection;
use crate::port::Active;
use crate::shared::GatewayShared;
use crate::socket;

/// The most endpoints that are tried for one connection.
const TRIES: usize = 4;

/// After this time no further endpoint is tried.
const DIAL_TIME: Duration = Duration::from_secs(10);

/// The dialling of one connection.
pub(super) struct Dial {
    hops: Option<Hops>,
    /// The client's first bytes were read already.
    pub(super) early: bool,
    /// The endpoint that is being tried, and when that began.
    pub(super) trying: Option<(EndpointAddr, Instant)>,
    /// There is no other endpoint to try after it.
    pub(super) last: bool,
    tried: Vec<EndpointAddr>,
    deadline: Instant,
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
            last: false,
            tried: Vec::new(),
            deadline: Instant::now() + DIAL_TIME,
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
            let route = port.route();
            let picked = if self.tried.len() < TRIES && now < self.deadline {
                let tick = environment.shared.clock.now();
                port.pick(&route, from.0.ip(), tick, &self.tried)
            } else {
                None
            };
            let Some(endpoint) = picked else {
                break;
            };
            let addr = endpoint.addr;
            self.last = self.tried.len() + 1 == TRIES
                || route.endpoints.eligible.len() <= self.tried.len() + 1;
            drop(route);
            // The client's first bytes go in one packet with the last step of the handshake.
            self.early |= self.tried.is_empty() && up.read_early(client, &mut environment.tools);
            // Counted from here on, so that choices by load see connections that are being made.
            let active = Active::new(port.endpoint(addr));
            // The endpoint may have been removed meanwhile: then nobody would cut its connections.
            if !port.route().endpoints.lists(addr) {
                continue;
            }
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
                    self.tried.push(addr);
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
            self.tried.push(addr);
            self.error = Some(error);
        }
    }
}

/// Begins to connect to an endpoint. The connection's permit covers the socket.
fn connect(
    addr: EndpointAddr,
    dial: &Dial,
    environment: &mut Environment<'_>,
) -> io::Result<OwnedFd> {
    let pool = environment.shared.source_pool.load();
    let socket = environment
        .source_fallback
        .dial(addr, &pool, |source| dial_from(source, addr, dial))?;
    let token = Token::Endpoint(environment.number);
    environment.poll.add(&socket, token, Trigger::Edge)?;
    Ok(socket)
}

fn dial_from(source: Option<IpAddr>, addr: EndpointAddr, dial: &Dial) -> io::Result<OwnedFd> {
    let family = if addr.0.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if let Some(hops) = dial.hops {
        hops.set(&socket, addr.0.is_ipv4())?;
    }
    if dial.early {
        // Else the last step of the handshake would be a packet of its own.
        socket::acknowledge_at_once(&socket, false);
    }
    if let Some(source) = source {
        source_address::bind(&socket, source)?;
    }
    match rustix::net::connect(&socket, &addr.0) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
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
        port.dial_failed(active.state(), why, began.elapsed(), shared.clock.now());
    }
    tracing::debug!(endpoint = %addr, reason = why.as_str(), %error, "endpoint not reached");
}
