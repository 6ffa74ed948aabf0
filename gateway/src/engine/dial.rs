//! Dialling: the endpoints that are tried for one connection, one after the other.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::net::{ClientAddr, EndpointAddr};
use fairway_gateway_core::attempts::{Attempts, Patience};
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::route::Tick;
use fairway_gateway_core::way_back::AddressLoss;

use super::direction::Direction;
use super::next::Environment;
use super::poll::{Token, Trigger};
use super::side::Side;
use crate::connecting::{self, ConnectOptions};
use crate::endpoint_state::{Active, EndpointState};
use crate::hops::Hops;
use crate::open_connection::OpenConnection;
use crate::shared::GatewayShared;
use crate::socket;
use crate::transparent::handshake::{RelayHandshake, TransparentFailure};
use crate::transparent::{AfterFailure, Doubt, TransparentDial, TransparentUse};

/// The dialling of one connection.
pub(super) struct Dial {
    hops: Option<Hops>,
    /// The client's first bytes were read already.
    pub(super) early: bool,
    trying: Option<Trying>,
    /// How long it may take.
    pub(super) patience: Patience,
    attempts: Attempts,
    error: Option<io::Error>,
    /// The endpoint that is tried next, where it can't be reached from the client's address.
    again: Option<Again>,
    /// For the connection, when the endpoint was reached.
    pub(super) in_use: Option<TransparentUse>,
    /// The one endpoint that is dialled, for another gateway.
    relayed: Option<EndpointAddr>,
}

/// The endpoint that is being tried.
struct Trying {
    addr: EndpointAddr,
    began: Instant,
    from: TryingFrom,
}

/// From which address.
enum TryingFrom {
    /// The gateway's own.
    Gateway(Option<Box<LostAddress>>),
    /// The client's.
    Client(Box<DialFromClient>),
}

/// A dial from the client's address.
struct DialFromClient {
    dial: TransparentDial,
    /// How far the other gateway is that has been asked to dial, if one is.
    handshake: Option<RelayHandshake>,
}

/// Why an endpoint does not see the client's address, though its Service asks for that.
struct LostAddress {
    loss: AddressLoss,
    /// What is known by that, if the dial works.
    doubt: Option<(TransparentDial, Doubt)>,
}

/// An endpoint that is tried once more.
struct Again {
    addr: EndpointAddr,
    patience: Patience,
    lost: Box<LostAddress>,
}

/// An endpoint that was chosen and is not tried yet. It counts as a connection of the endpoint already.
pub(super) struct Candidate {
    pub(super) addr: EndpointAddr,
    active: Active,
    from: TryingFrom,
    chosen: Instant,
}

impl Candidate {
    /// What is known of the endpoint.
    pub(super) fn state(&self) -> &Arc<EndpointState> {
        self.active.state()
    }

    /// It is not dialled: there is a connection to it.
    pub(super) fn into_active(self) -> Active {
        self.active
    }
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
            again: None,
            in_use: None,
            relayed: None,
        }
    }

    /// The same, of this endpoint alone and from the client's address, for another gateway.
    pub(super) fn relayed(endpoint: EndpointAddr) -> Self {
        Self {
            relayed: Some(endpoint),
            ..Self::new(None)
        }
    }

    /// Whether it is for another gateway.
    pub(super) fn is_relayed(&self) -> bool {
        self.relayed.is_some()
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
        let token = Token::Endpoint(environment.number);
        while let Some(candidate) = self.choose(from, port, environment.shared, Instant::now()) {
            // The client's first bytes go in one packet with the last step of the handshake.
            let is_first = self.attempts.tried().is_empty() && !self.is_relayed();
            self.early |= is_first && up.read_early(client, &mut environment.tools);
            if let Some(outcome) = self.begin(candidate, token, port, environment) {
                return outcome;
            }
        }
        self.outcome()
    }

    /// The endpoint that is to be tried next.
    pub(super) fn choose(
        &mut self,
        from: ClientAddr,
        port: &OpenConnection,
        shared: &GatewayShared,
        now: Instant,
    ) -> Option<Candidate> {
        let tick = shared.clock.at(now);
        let (addr, active, from) = self.candidate(from, port, shared, tick)?;
        Some(Candidate {
            addr,
            active,
            from,
            chosen: now,
        })
    }

    /// Begins to connect to an endpoint, whose events have this token. None: it can't be reached, and another one may
    /// be tried.
    pub(super) fn begin(
        &mut self,
        candidate: Candidate,
        token: Token,
        port: &OpenConnection,
        environment: &mut Environment<'_>,
    ) -> Option<DialOutcome> {
        let Candidate {
            addr,
            active,
            from,
            chosen,
        } = candidate;
        let connected = connect(addr, &from, self, token, environment);
        self.trying = Some(Trying {
            addr,
            began: chosen,
            from,
        });
        match connected {
            Ok(socket) => Some(DialOutcome::Trying(Side::of_endpoint(socket), active)),
            Err(error) if socket::is_exhausted(&error) => {
                environment.shared.descriptors.exhausted(&error);
                self.trying = None;
                self.error = Some(error);
                Some(DialOutcome::Exhausted)
            }
            Err(error) => {
                self.not_reached(error, port, Some(&active), environment.shared);
                None
            }
        }
    }

    /// What has come of it, where no endpoint is left to try.
    pub(super) fn outcome(&mut self) -> DialOutcome {
        match self.error.take() {
            Some(error) => DialOutcome::Failed(error),
            None => DialOutcome::NoEndpoint,
        }
    }

    /// Notes that an endpoint was reached and has failed nevertheless: it is not tried again.
    pub(super) fn give_up(&mut self, addr: EndpointAddr) {
        self.attempts.failed(addr);
    }

    /// Chooses the endpoint that is tried next, and from which address. It counts as a connection of the endpoint from
    /// here on, so that choices by load see connections that are being made.
    fn candidate(
        &mut self,
        client: ClientAddr,
        port: &OpenConnection,
        shared: &GatewayShared,
        now: Tick,
    ) -> Option<(EndpointAddr, Active, TryingFrom)> {
        if let Some(again) = self.again.take() {
            self.patience = again.patience;
            let active = Active::new(port.endpoint(again.addr));
            return Some((again.addr, active, TryingFrom::Gateway(Some(again.lost))));
        }
        if let Some(addr) = self.relayed {
            if !self.attempts.tried().is_empty() {
                return None;
            }
            let plan = shared.transparency.plan_relayed(addr.0, client.0.ip());
            let active = Active::new(port.endpoint(addr));
            let from = DialFromClient {
                dial: plan.ok()?,
                handshake: None,
            };
            return Some((addr, active, TryingFrom::Client(Box::new(from))));
        }
        let route = port.route();
        let picked = self
            .attempts
            .may_try(now)
            .then(|| port.pick(&route, client.0.ip(), now, self.attempts.tried()))
            .flatten()?;
        let endpoint = &picked.at.endpoint;
        self.patience = self.attempts.patience(&picked);
        let active = Active::new(picked.at.state.clone());
        if !route.options.transparent {
            return Some((endpoint.addr, active, TryingFrom::Gateway(None)));
        }
        let from = match shared.transparency.plan(endpoint, client.0.ip(), now) {
            Ok(dial) => {
                let handshake = dial.relay.map(|_| RelayHandshake::default());
                TryingFrom::Client(Box::new(DialFromClient { dial, handshake }))
            }
            Err(loss) => TryingFrom::Gateway(Some(Box::new(LostAddress { loss, doubt: None }))),
        };
        Some((endpoint.addr, active, from))
    }

    /// How long the endpoint that is tried may take.
    pub(super) fn may_take(&self) -> Patience {
        match &self.trying {
            Some(Trying {
                from: TryingFrom::Client(from),
                ..
            }) if !self.is_relayed() => self.patience.from_client(from.dial.is_proven),
            _ => self.patience,
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
        let Some(trying) = self.trying.take() else {
            return;
        };
        let addr = trying.addr;
        if let TryingFrom::Client(from) = trying.from
            && self.relayed.is_none()
        {
            let DialFromClient { dial, handshake } = *from;
            let failure = match &handshake {
                Some(handshake) => handshake.failure(&error),
                None => TransparentFailure::Endpoint(&error),
            };
            let now = shared.clock.now();
            if let AfterFailure::Plain { loss, doubt } =
                shared.transparency.failed(&dial, &failure, now)
            {
                tracing::debug!(endpoint = %addr, %error, "not reached from the client's address");
                let patience = self.patience.after_client(dial.is_proven);
                let doubt = doubt.map(|doubt| (dial, doubt));
                let lost = Box::new(LostAddress { loss, doubt });
                self.again = Some(Again {
                    addr,
                    patience,
                    lost,
                });
                return;
            }
        }
        unreached(port, active, (addr, trying.began), &error, shared);
        self.attempts.failed(addr);
        self.error = Some(error);
    }

    /// Notes that the endpoint that is being tried has accepted the connection. Returns whether it may have it: it may
    /// have been removed meanwhile, and then nobody would cut its connections.
    pub(super) fn reached(
        &mut self,
        port: &OpenConnection,
        active: &Active,
        shared: &GatewayShared,
    ) -> bool {
        let Some(trying) = self.trying.take() else {
            return false;
        };
        let now = Instant::now();
        let took = now.saturating_duration_since(trying.began);
        let tick = shared.clock.at(now);
        match trying.from {
            TryingFrom::Gateway(None) => {}
            TryingFrom::Gateway(Some(lost)) => {
                port.counters.lose_address(lost.loss);
                if let Some((dial, doubt)) = lost.doubt {
                    shared.transparency.plain_worked(&dial, doubt, tick);
                }
            }
            TryingFrom::Client(from) => {
                shared.transparency.worked(&from.dial, tick);
                self.in_use = from.dial.in_use();
            }
        }
        port.dial_worked(active.state(), took, tick);
        port.route().endpoints.lists(trying.addr)
    }

    /// Whether another gateway is being asked to dial.
    pub(super) fn asks_relay(&self) -> bool {
        match self.trying.as_ref().map(|trying| &trying.from) {
            Some(TryingFrom::Client(from)) => from.handshake.is_some(),
            Some(TryingFrom::Gateway(_)) | None => false,
        }
    }

    /// Goes on asking the other gateway, as far as it has answered. None: it has not said yet what came of it.
    ///
    /// # Errors
    /// It has broken off, or the endpoint could not be reached.
    pub(super) fn ask_relay(
        &mut self,
        socket: &OwnedFd,
        client: ClientAddr,
        shared: &GatewayShared,
    ) -> io::Result<Option<()>> {
        let Some(Trying {
            addr,
            from: TryingFrom::Client(from),
            ..
        }) = &mut self.trying
        else {
            return Ok(None);
        };
        let DialFromClient { dial, handshake } = &mut **from;
        let Some(handshake) = handshake else {
            return Ok(None);
        };
        handshake.go_on(socket, |greeting| {
            let transparency = &shared.transparency;
            transparency.request(dial, greeting, client.0, addr.0)
        })
    }
}

/// Begins to connect to an endpoint. The connection's permit covers the socket.
fn connect(
    addr: EndpointAddr,
    from: &TryingFrom,
    dial: &Dial,
    token: Token,
    environment: &mut Environment<'_>,
) -> io::Result<OwnedFd> {
    let options = ConnectOptions {
        hops: dial.hops,
        speaks_first: dial.early,
        transparent: false,
    };
    let mut from_gateway = |to: EndpointAddr, options: ConnectOptions| {
        let pool = environment.shared.source_pool.load();
        let fallback = &mut environment.source_fallback;
        fallback.dial(to, &pool, |source| connecting::begin(to, source, options))
    };
    let socket = match from {
        TryingFrom::Gateway(_) => from_gateway(addr, options)?,
        TryingFrom::Client(from) => match from.dial.relay {
            // The other gateway speaks first.
            Some(relay) => from_gateway(EndpointAddr(relay), ConnectOptions::default())?,
            None => from.dial.begin(addr, options)?,
        },
    };
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
