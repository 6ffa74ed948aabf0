//! The state machine of a TCP connection, from its accept until its client has the last byte.
//!
//! This file has its events, its timers and the carrying of bytes. `header` reads whose connection it is, where
//! its peer has to say so; `dialling` looks for an endpoint that answers; `closing` delivers the last bytes to the
//! client; `idle` ends what is silent for too long; `evidence` tells what a connection says of its endpoint's health;
//! `batched` is for small messages that the kernel takes together with those of other connections; `relayed` is a
//! connection that another gateway has made; `upgraded` one that has begun as HTTP.

mod batched;
mod closing;
mod dialling;
mod evidence;
mod handed;
mod header;
mod idle;
mod relayed;
mod upgraded;

use std::io;
use std::os::fd::OwnedFd;

use fairway_config::exchange::ClaimKind;
use fairway_config::net::{ClientAddr, ListenAddr};
use fairway_config::port_options::ProxyVersion;
use fairway_gateway_core::relay::GREETING;

pub(super) use self::batched::ReadOutcome;
pub(super) use self::upgraded::UpgradedConnection;
use super::dial::Dial;
use super::direction::{CarryProgress, Direction, SideError};
use super::next::{Environment, Next};
use super::poll::{EventFlags, Token, Trigger};
use super::side::Side;
use super::timer::Timer;
use crate::client_origin::ClientOrigin;
use crate::counters::ConnectionTimeout;
use crate::delivery::DeliveryProgress;
use crate::descriptors::Permit;
use crate::endpoint_state::Active;
use crate::hops::Hops;
use crate::open_connection::OpenConnection;
use crate::socket;
use crate::transparent::TransparentUse;
use crate::transparent::half_open::HalfOpen;

/// A connection: two sockets, and a direction of bytes each way.
pub(super) struct TcpConnection {
    client: Side,
    endpoint: Option<Side>,
    /// From the client to the endpoint.
    up: Direction,
    /// From the endpoint to the client.
    down: Direction,
    stage: Stage,
    /// The connection is in the list of those that go on in the next round.
    queued: bool,
    /// An earlier event of this round about this connection is not handled yet. Later events wait for it.
    claimed: bool,
    origin: ClientOrigin,
    listen: ListenAddr,
    /// Counts as a connection of the endpoint while it is here.
    active: Option<Active>,
    /// Held where the endpoint sees the client's address.
    transparent: Option<TransparentUse>,
    /// Declared after the sockets, so it is dropped after them: a reset needs the local route of the VIP,
    /// which stays while the connection is counted.
    port: OpenConnection,
    /// Given back when both sockets are closed.
    permit: Permit,
}

/// What a connection does now. Each connection has room for the largest stage, so what is large and short is in a box.
enum Stage {
    /// Its peer has to say whose connection it is.
    Header(HeaderWait),
    /// Another gateway has to say whom it is to be connected with.
    Relay(Box<RelayWait>),
    /// It looks for an endpoint that answers.
    Dialling(Box<Dial>),
    /// It carries bytes. When the endpoint has sent its end: how many bytes had been delivered at the last
    /// stall check.
    Carrying(Option<u64>),
    /// The endpoint's socket is closed. The client does not have all bytes yet.
    Delivering(DeliveryChecks),
}

/// What a connection is judged by when its header has come.
struct HeaderWait {
    kind: ClaimKind,
    hops: Option<Hops>,
}

/// What a connection of another gateway was greeted with, until it has said what it is for.
struct RelayWait {
    greeting: [u8; GREETING],
    _half_open: HalfOpen,
}

/// The checks whether a client has all bytes.
struct DeliveryChecks {
    count: u8,
    progress: DeliveryProgress,
}

impl TcpConnection {
    /// A connection that was just accepted and admitted.
    pub(super) fn new(
        socket: OwnedFd,
        from: ClientAddr,
        listen: ListenAddr,
        hops: Option<Hops>,
        port: OpenConnection,
        permit: Permit,
    ) -> Self {
        port.counters.touch();
        Self {
            client: Side::of_client(socket),
            endpoint: None,
            up: Direction::default(),
            down: Direction::default(),
            stage: Stage::Dialling(Box::new(Dial::new(hops))),
            queued: false,
            claimed: false,
            origin: ClientOrigin::of_peer(from),
            listen,
            active: None,
            transparent: None,
            port,
            permit,
        }
    }

    /// The endpoint is told whose connection it is, before the client's bytes.
    pub(super) fn tell_endpoint(&mut self, version: ProxyVersion) {
        let header = self.origin.header(version, self.listen);
        self.up.begin_with(header);
    }

    /// Handles an event of the client's socket.
    pub(super) fn client_event(
        &mut self,
        flags: EventFlags,
        environment: &mut Environment<'_>,
    ) -> Next {
        self.claimed = false;
        let news = self.client.note(flags);
        match self.stage {
            Stage::Header(_) => return self.read_header(environment),
            Stage::Relay(_) => return self.read_request(environment),
            Stage::Dialling(_) | Stage::Carrying(_) | Stage::Delivering(_) => {}
        }
        if flags.contains(EventFlags::ERR)
            && let Some(error) = failure(&self.client)
        {
            // The kernel still has the bytes that came before the error.
            if let (Stage::Carrying(_), Some(endpoint)) = (&self.stage, &mut self.endpoint) {
                let received = &self.port.counters.received;
                let client = &mut self.client;
                let _ = self
                    .up
                    .carry(client, endpoint, received, &mut environment.tools);
            }
            self.note_timeout(&error, ConnectionTimeout::Client);
            return self.fail(&error);
        }
        if matches!(self.stage, Stage::Delivering(_)) && news && !self.down.has_ended() {
            return self.deliver(environment);
        }
        match self.stage {
            Stage::Carrying(_) if news => self.carry(environment),
            Stage::Carrying(_) if !self.queued => {
                self.client
                    .mute(Token::Client(environment.number), environment.poll);
                Next::Stay
            }
            Stage::Carrying(_)
            | Stage::Dialling(_)
            | Stage::Delivering(_)
            | Stage::Header(_)
            | Stage::Relay(_) => Next::Stay,
        }
    }

    /// Handles an event of the endpoint's socket.
    pub(super) fn endpoint_event(
        &mut self,
        flags: EventFlags,
        environment: &mut Environment<'_>,
    ) -> Next {
        self.claimed = false;
        let Some(endpoint) = &mut self.endpoint else {
            return Next::Stay;
        };
        let news = endpoint.note(flags);
        let error = if flags.intersects(EventFlags::ERR) {
            failure(endpoint)
        } else {
            None
        };
        match (&self.stage, error) {
            (Stage::Dialling(_), Some(error)) => self.not_reached(error, environment),
            (Stage::Dialling(dial), None) if dial.asks_relay() => self.ask_relay(environment),
            (Stage::Dialling(_), None) if flags.contains(EventFlags::OUT) => {
                self.reached(environment)
            }
            // All bytes of the endpoint were read, or can still be read: EPIPE is how the kernel reports a
            // reset after the end of the stream (tcp_reset in net/ipv4/tcp_input.c).
            (Stage::Carrying(_), Some(error))
                if self.down.has_read_all() || error.kind() == io::ErrorKind::BrokenPipe =>
            {
                self.carry(environment)
            }
            (Stage::Carrying(_), Some(error)) => {
                // The kernel still has the bytes that came before the error.
                let transmitted = &self.port.counters.transmitted;
                let client = &mut self.client;
                let _ = self
                    .down
                    .carry(endpoint, client, transmitted, &mut environment.tools);
                self.note_timeout(&error, ConnectionTimeout::Endpoint);
                self.endpoint_failed(&error, environment.shared)
            }
            (Stage::Carrying(_), None) if news => self.carry(environment),
            (Stage::Carrying(_), None) if !self.queued => {
                endpoint.mute(Token::Endpoint(environment.number), environment.poll);
                Next::Stay
            }
            (
                Stage::Carrying(_)
                | Stage::Dialling(_)
                | Stage::Delivering(_)
                | Stage::Header(_)
                | Stage::Relay(_),
                _,
            ) => Next::Stay,
        }
    }

    /// A timer has run out.
    pub(super) fn due(&mut self, wait: Timer, environment: &mut Environment<'_>) -> Next {
        match (wait, &mut self.stage) {
            (Timer::ProxyHeader, Stage::Header(_)) => self.miss_header(),
            (Timer::ProxyHeader, Stage::Relay(_)) => self.miss_request(),
            (Timer::ConnectGrace, Stage::Dialling(dial)) => {
                let patience = dial.may_take();
                if let Err(error) = self.watch_client(environment) {
                    return self.fail(&error);
                }
                Next::Wait(patience.into())
            }
            (
                Timer::ConnectDoubtful | Timer::ConnectWithOthers | Timer::ConnectLast,
                Stage::Dialling(_),
            ) => self.not_reached(io::ErrorKind::TimedOut.into(), environment),
            (Timer::SocketRetry, Stage::Dialling(_)) => self.dial(environment),
            // The endpoint answered meanwhile. The timer was set while it was dialled.
            (
                Timer::ConnectGrace
                | Timer::ConnectDoubtful
                | Timer::ConnectWithOthers
                | Timer::ConnectLast,
                Stage::Carrying(_),
            ) => self.begin_carrying(),
            (
                Timer::KeepAliveStart
                | Timer::Idle1
                | Timer::Idle4
                | Timer::Idle16
                | Timer::Idle64
                | Timer::Idle256
                | Timer::Idle1024
                | Timer::Idle4096,
                Stage::Carrying(_),
            ) => self.check_idle(environment.shared),
            (Timer::StallCheck, Stage::Carrying(_)) => self.check_for_stall(environment.shared),
            (Timer::DeliveryCheck | Timer::SlowDeliveryCheck, Stage::Delivering(_)) => {
                self.deliver(environment)
            }
            _ => Next::Rest,
        }
    }

    /// Marks the connection as queued for the next round. Returns whether it was not queued before.
    pub(super) fn queue(&mut self) -> bool {
        !std::mem::replace(&mut self.queued, true)
    }

    /// Goes on with what the last round left over.
    pub(super) fn more(&mut self, environment: &mut Environment<'_>) -> Next {
        self.queued = false;
        match self.stage {
            Stage::Carrying(_) => self.carry(environment),
            Stage::Dialling(_) | Stage::Delivering(_) | Stage::Header(_) | Stage::Relay(_) => {
                Next::Stay
            }
        }
    }

    /// Whether the time to drain is over for its port, its endpoint or its listener.
    pub(super) fn is_cut(&self) -> bool {
        self.port.is_cut()
            || self
                .active
                .as_ref()
                .is_some_and(|active| active.state().cut.is_cancelled())
    }

    /// Resets the connection because its time to drain is over.
    pub(super) fn cut(&mut self) {
        self.fail(&io::ErrorKind::ConnectionAborted.into());
    }

    /// Carries the bytes that have come, both ways.
    fn carry(&mut self, environment: &mut Environment<'_>) -> Next {
        let Some(endpoint) = &mut self.endpoint else {
            return Next::Stay;
        };
        let client = &mut self.client;
        let counters = &self.port.counters;
        let (up, down) = (&mut self.up, &mut self.down);
        let was = (up.has_ended(), down.has_ended());
        let was_silent = !down.has_begun();
        // This direction first: a write to an endpoint that was reset would find the error before its last
        // bytes are read.
        let down = match down.carry(
            endpoint,
            client,
            &counters.transmitted,
            &mut environment.tools,
        ) {
            Ok(down) => down,
            Err(SideError::Reader(error)) => {
                return self.endpoint_failed(&error, environment.shared);
            }
            Err(SideError::Writer(error)) => return self.fail(&error),
        };
        if down == CarryProgress::Ended && !was.1 && !was.0 {
            Direction::shut(client);
        }
        if endpoint.failed && self.down.has_read_all() {
            return self.leave_endpoint(environment);
        }
        let up = if endpoint.failed {
            // The endpoint takes no more bytes, but some of its own are not read yet.
            Ok(CarryProgress::Waits)
        } else {
            up.carry(client, endpoint, &counters.received, &mut environment.tools)
        };
        let up = match up {
            Ok(up) => up,
            Err(SideError::Reader(error)) => return self.fail(&error),
            // The endpoint takes no more bytes. All that it sent was read, so the client still gets that.
            Err(SideError::Writer(_)) if self.down.has_read_all() => {
                return self.leave_endpoint(environment);
            }
            Err(SideError::Writer(error)) => {
                return self.endpoint_failed(&error, environment.shared);
            }
        };
        // The last bytes may be unread because the client's socket is full.
        let endpoint_ended = endpoint.ended || self.down.has_read_all();
        let listens = client
            .listen(Token::Client(environment.number), environment.poll)
            .and_then(|()| endpoint.listen(Token::Endpoint(environment.number), environment.poll));
        if let Err(error) = listens {
            return self.fail(&error);
        }
        if up == CarryProgress::Ended && !was.0 && down != CarryProgress::Ended {
            Direction::shut(endpoint);
        }
        if was_silent {
            self.note_answer(environment.shared);
        }
        match (up, down) {
            (CarryProgress::Ended, CarryProgress::Ended) => self.leave_endpoint(environment),
            (CarryProgress::More, _) | (_, CarryProgress::More) => Next::More,
            _ if matches!(self.stage, Stage::Carrying(None)) && endpoint_ended => {
                self.stage = Stage::Carrying(Some(u64::MAX));
                Next::Wait(Timer::StallCheck)
            }
            _ => Next::Stay,
        }
    }
}

impl TcpConnection {
    /// Ends the connection with an error: both sockets are reset.
    pub(super) fn fail(&mut self, error: &io::Error) -> Next {
        self.port.counters.failed.increment();
        self.log(error);
        for side in std::iter::once(&self.client).chain(&self.endpoint) {
            socket::reset_on_close(&side.socket);
        }
        Next::Over
    }

    fn log(&self, why: impl std::fmt::Display) {
        tracing::debug!(client = %self.origin.client, listen = %self.listen, %why, "connection reset");
    }

    /// Has epoll report events of the client's socket, if it does not yet.
    ///
    /// # Errors
    /// As [`Epoll::add`](super::poll::Epoll::add).
    fn watch_client(&mut self, environment: &Environment<'_>) -> io::Result<()> {
        if !self.client.watched {
            let token = Token::Client(environment.number);
            environment
                .poll
                .add(&self.client.socket, token, Trigger::Edge)?;
            self.client.watched = true;
        }
        Ok(())
    }
}

/// The error of a side's socket (`SO_ERROR`), if it has one. Reading it clears it.
fn failure(side: &Side) -> Option<io::Error> {
    match rustix::net::sockopt::socket_error(&side.socket) {
        Ok(Ok(())) => None,
        Ok(Err(error)) | Err(error) => Some(error.into()),
    }
}
