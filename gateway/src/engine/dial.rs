//! The search for an endpoint that answers.

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
use super::poll::{Token, Watch};
use super::side::Side;
use super::source;
use crate::hops::Hops;
use crate::open::Open;
use crate::port::Active;
use crate::shared::Shared;
use crate::socket;

/// How many endpoints are tried for one connection.
const TRIES: usize = 4;

/// No endpoint is tried any more when this has passed since the first.
const BOUND: Duration = Duration::from_secs(10);

/// The search for an endpoint.
pub(super) struct Dial {
    hops: Option<Hops>,
    /// The client has said something already.
    pub(super) early: bool,
    /// The endpoint that is being tried, and since when.
    pub(super) trying: Option<(EndpointAddr, Instant)>,
    /// There is no other after it.
    pub(super) last: bool,
    tried: Vec<EndpointAddr>,
    bound: Instant,
    error: Option<io::Error>,
}

/// How looking for the next endpoint ended.
pub(super) enum DialOutcome {
    /// One is being connected to.
    Trying(Side, Active),
    /// The kernel has no socket just now.
    Exhausted,
    /// None is left, and this is why the last one was not reached.
    Failed(io::Error),
    /// There was none.
    NoEndpoint,
}

impl Dial {
    /// None was tried yet. Connections to endpoints have so many hops.
    pub(super) fn new(hops: Option<Hops>) -> Self {
        Self {
            hops,
            early: false,
            trying: None,
            last: false,
            tried: Vec::new(),
            bound: Instant::now() + BOUND,
            error: None,
        }
    }

    /// Tries the next endpoint for a client: `said` is the way of what it says.
    pub(super) fn next(
        &mut self,
        from: ClientAddr,
        port: &Open,
        client: &Side,
        said: &mut Direction,
        environment: &mut Environment<'_>,
    ) -> DialOutcome {
        loop {
            let now = Instant::now();
            let route = port.route();
            let picked = if self.tried.len() < TRIES && now < self.bound {
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
            // What the client has said already goes with the last step of the handshake.
            self.early |= self.tried.is_empty() && said.read_early(client, &mut environment.tools);
            // Counted from here on, so that choices by load see connections that are being made.
            let active = Active::new(port.endpoint(addr));
            // It may have gone since, and nobody would look after its connections any more.
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

    /// The endpoint that is being tried could not be reached.
    pub(super) fn not_reached(
        &mut self,
        error: io::Error,
        port: &Open,
        active: Option<&Active>,
        shared: &Shared,
    ) {
        if let Some((addr, began)) = self.trying.take() {
            unreached(port, active, (addr, began), &error, shared);
            self.tried.push(addr);
            self.error = Some(error);
        }
    }
}

/// Begins to connect to an endpoint. The connection's leave to open a socket holds for it.
fn connect(
    addr: EndpointAddr,
    dial: &Dial,
    environment: &mut Environment<'_>,
) -> io::Result<OwnedFd> {
    let pool = environment.shared.source_pool.load();
    let socket = environment
        .stand_ins
        .dial(addr, &pool, |source| dial_from(source, addr, dial))?;
    let token = Token::Endpoint(environment.number);
    environment.poll.add(&socket, token, Watch::Edge)?;
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
        // Else the handshake would end with a packet of its own.
        socket::acknowledge_at_once(&socket, false);
    }
    if let Some(source) = source {
        source::bind(&socket, source)?;
    }
    match rustix::net::connect(&socket, &addr.0) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(socket)
}

/// An endpoint that was tried since `began` could not be reached.
fn unreached(
    port: &Open,
    active: Option<&Active>,
    (addr, began): (EndpointAddr, Instant),
    error: &io::Error,
    shared: &Shared,
) {
    let why = DialFailure::of(error);
    if let Some(active) = active {
        port.dial_failed(active.state(), why, began.elapsed(), shared.clock.now());
    }
    tracing::debug!(endpoint = %addr, reason = why.as_str(), %error, "endpoint not reached");
}
