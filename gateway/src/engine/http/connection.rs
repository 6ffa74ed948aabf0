//! The state machine of a client's connection that is carried by request.
//!
//! This file has its events, its timers and what becomes of it after each step. `head` reads requests; `dialling` finds
//! a connection to an endpoint; `carrying` moves bytes between the two; `losing` decides what follows when an endpoint
//! breaks off; `ending` delivers the last bytes; `leaving` hands the connection to who carries it on otherwise.

use std::os::fd::OwnedFd;

use fairway_config::net::{ClientAddr, ListenAddr};
use fairway_gateway_core::http1::{AfterAnswer, HeadScan};

use super::end_state::Ending;
use super::environment::{HttpEnvironment, HttpNext};
use super::exchange::{EndpointLink, Exchange};
use super::pool::EndpointPool;
use super::step::CarryStep;
use super::timer::HttpTimer;
use crate::client_origin::ClientOrigin;
use crate::counters::ConnectionTimeout;
use crate::delivery;
use crate::descriptors::Permit;
use crate::engine::owners::ConnectionOwner;
use crate::engine::poll::{EventFlags, Token, Trigger};
use crate::engine::side::Side;
use crate::hops::Hops;
use crate::open_connection::OpenConnection;
use crate::socket;
use crate::socket::silence::silence;

/// How many steps a connection makes before others go on.
const STEPS_PER_ROUND: u32 = 8;

/// A connection of a client, from its accept until the client has the last byte.
pub(crate) struct HttpConnection {
    pub(super) client: Side,
    pub(super) stage: HttpStage,
    /// What has come of the client and is not used yet: the beginning of a head, or requests that follow.
    pub(super) input: Vec<u8>,
    pub(super) scan: HeadScan,
    /// The connection is in the list of those that go on in the next round.
    queued: bool,
    /// No byte has come yet.
    pub(super) is_new: bool,
    /// The last request did not get its endpoint's answer. Counts as the connection's result.
    pub(super) has_failed: bool,
    pub(super) origin: ClientOrigin,
    pub(super) listen: ListenAddr,
    /// The hops that its connections to endpoints start with.
    pub(super) hops: Option<Hops>,
    /// Declared after the socket, so it is dropped after it: a reset needs the local route of the VIP, which stays while
    /// the connection is counted.
    pub(super) port: OpenConnection,
    /// Given back when all sockets are closed.
    pub(super) permit: Permit,
}

/// What a connection does now.
pub(super) enum HttpStage {
    /// A request may come, or has begun to.
    Waiting,
    /// A request is being carried.
    Busy(Box<Exchange>),
    /// No more requests are taken.
    Ending(Box<Ending>),
}

impl HttpConnection {
    /// A connection of a client that was let in.
    pub(crate) fn new(
        socket: OwnedFd,
        origin: ClientOrigin,
        listen: ListenAddr,
        hops: Option<Hops>,
        port: OpenConnection,
        permit: Permit,
    ) -> Self {
        port.counters.touch();
        Self {
            client: Side::of_client(socket),
            stage: HttpStage::Waiting,
            input: Vec::new(),
            scan: HeadScan::default(),
            queued: false,
            is_new: true,
            has_failed: false,
            origin,
            listen,
            hops,
            port,
            permit,
        }
    }

    /// Whose it is.
    pub(crate) fn owner(&self) -> ConnectionOwner {
        ConnectionOwner {
            port: self.port.number,
            place: self.port.slot_number(),
        }
    }

    /// Begins: the first request may be there already. The timer for a head runs.
    pub(crate) fn begin(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        let next = self.read_head(environment);
        if matches!(next, HttpNext::Over | HttpNext::Hand) {
            return next;
        }
        let token = Token::HttpClient(environment.base.number);
        if let Err(error) = environment
            .base
            .poll
            .add(&self.client.socket, token, Trigger::Edge)
        {
            return self.abort(&error, environment.pool);
        }
        self.client.watched = true;
        next
    }

    /// Handles an event of the client's socket.
    pub(crate) fn client_event(
        &mut self,
        flags: EventFlags,
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        let news = self.client.note(flags);
        match &self.stage {
            HttpStage::Waiting => self.read_head(environment),
            HttpStage::Busy(_) if news => self.carry(environment),
            HttpStage::Busy(_) => {
                if !self.queued {
                    let token = Token::HttpClient(environment.base.number);
                    self.client.mute(token, environment.base.poll);
                }
                HttpNext::Stay
            }
            HttpStage::Ending(_) => self.end(environment),
        }
    }

    /// Handles an event of the socket to the endpoint.
    pub(crate) fn endpoint_event(
        &mut self,
        flags: EventFlags,
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return HttpNext::Stay;
        };
        match &mut exchange.link {
            EndpointLink::None => HttpNext::Stay,
            EndpointLink::Dialling { side, .. } => {
                side.note(flags);
                self.dial_event(flags, environment)
            }
            EndpointLink::Connected(connection) => {
                if connection.side.note(flags) {
                    return self.carry(environment);
                }
                if !self.queued {
                    let token = Token::HttpEndpoint(connection.number);
                    connection.side.mute(token, environment.base.poll);
                }
                HttpNext::Stay
            }
        }
    }

    /// A timer has run out.
    pub(crate) fn due(
        &mut self,
        timer: HttpTimer,
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        match (timer, &self.stage) {
            (HttpTimer::Head, HttpStage::Waiting) => self.miss_head(environment),
            (HttpTimer::KeepAlive, HttpStage::Waiting) => HttpNext::Over,
            (HttpTimer::Look, HttpStage::Waiting) => self.look_idle(environment),
            (HttpTimer::Look, HttpStage::Busy(_)) => self.look(environment),
            (
                HttpTimer::ConnectDoubtful | HttpTimer::ConnectWithOthers | HttpTimer::ConnectLast,
                HttpStage::Busy(_),
            ) => self.not_reached(std::io::ErrorKind::TimedOut.into(), environment),
            (HttpTimer::SocketRetry, HttpStage::Busy(_)) => self.dial(environment),
            (
                HttpTimer::Delivery | HttpTimer::SlowDelivery | HttpTimer::Look,
                HttpStage::Ending(_),
            ) => self.end(environment),
            _ => HttpNext::Stay,
        }
    }

    /// Marks the connection as queued for the next round. Returns whether it was not queued before.
    pub(crate) fn queue(&mut self) -> bool {
        !std::mem::replace(&mut self.queued, true)
    }

    /// Goes on with what the last round left over.
    pub(crate) fn more(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        self.queued = false;
        match &self.stage {
            HttpStage::Waiting => self.read_head(environment),
            HttpStage::Busy(exchange) if matches!(exchange.link, EndpointLink::Connected(_)) => {
                self.carry(environment)
            }
            HttpStage::Busy(_) => HttpNext::Stay,
            HttpStage::Ending(_) => self.end(environment),
        }
    }

    /// Whether the time to drain is over for its port, its endpoint or its listener.
    pub(crate) fn is_cut(&self) -> bool {
        let active = match &self.stage {
            HttpStage::Busy(exchange) => exchange.active.as_ref(),
            HttpStage::Waiting | HttpStage::Ending(_) => None,
        };
        self.port.is_cut() || active.is_some_and(|active| active.state().cut.is_cancelled())
    }

    /// Ends the connection because its time to drain is over.
    pub(crate) fn cut(&mut self) {
        self.has_failed = true;
        if delivery::unacknowledged(&self.client.socket) > 0
            || matches!(self.stage, HttpStage::Busy(_))
        {
            socket::reset_on_close(&self.client.socket);
        }
    }

    /// The process accepts nothing any more: a connection without request ends.
    pub(crate) fn finish(&mut self) -> HttpNext {
        match &self.stage {
            HttpStage::Waiting if self.input.is_empty() => HttpNext::Over,
            _ => HttpNext::Stay,
        }
    }

    /// Its port has another idle time now.
    pub(crate) fn review(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        match &self.stage {
            HttpStage::Waiting if self.input.is_empty() && !self.is_new => {
                self.look_idle(environment)
            }
            // Others look in any case.
            _ => HttpNext::Stay,
        }
    }

    /// Counts the connection, and closes that to its endpoint. To be called once, at its end.
    pub(crate) fn close(mut self, pool: &mut EndpointPool) {
        if let HttpStage::Busy(exchange) = &mut self.stage {
            exchange.unlink(pool);
        }
        if self.has_failed {
            self.port.counters.failed.increment();
        } else {
            self.port.counters.completed.increment();
        }
    }

    /// Carries what has come, both ways, and does what follows.
    pub(super) fn carry(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        for _ in 0..STEPS_PER_ROUND {
            match self.carry_step(environment) {
                CarryStep::Again => {}
                CarryStep::Waits => {
                    return match self.listen(environment) {
                        Ok(()) => HttpNext::Stay,
                        Err(error) => self.abort(&error, environment.pool),
                    };
                }
                CarryStep::Answered(after) => return self.answered(after, environment),
                CarryStep::Own(why) => return self.answer(why, environment),
                CarryStep::EndpointLost(error) => return self.endpoint_lost(error, environment),
                CarryStep::ClientLost(error) => return self.client_lost(&error),
                CarryStep::Abandoned => {
                    self.note_end(None);
                    self.has_failed = true;
                    return HttpNext::Over;
                }
                CarryStep::Upgrade => return HttpNext::Upgrade,
            }
        }
        HttpNext::More
    }

    /// Has epoll report all events again of sides that are read from.
    pub(super) fn listen(&mut self, environment: &HttpEnvironment<'_>) -> std::io::Result<()> {
        let poll = environment.base.poll;
        let token = Token::HttpClient(environment.base.number);
        self.client.listen(token, poll)?;
        if let HttpStage::Busy(exchange) = &mut self.stage
            && let EndpointLink::Connected(connection) = &mut exchange.link
        {
            let token = Token::HttpEndpoint(connection.number);
            connection.side.listen(token, poll)?;
        }
        Ok(())
    }

    /// The whole answer has gone to the client.
    fn answered(&mut self, after: AfterAnswer, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        self.has_failed = false;
        self.note_end(None);
        let HttpStage::Busy(exchange) = std::mem::replace(&mut self.stage, HttpStage::Waiting)
        else {
            return HttpNext::Stay;
        };
        let has_come = exchange.has_come();
        self.put_back(exchange, environment);
        if after == AfterAnswer::Close || environment.draining || self.client.failed {
            return self.begin_ending(
                Ending::after_answer(!has_come, environment.now),
                environment,
            );
        }
        if !self.input.is_empty() || (self.client.readable && !self.client.ended) {
            return HttpNext::More;
        }
        if self.client.ended {
            return self.begin_ending(Ending::after_answer(false, environment.now), environment);
        }
        if let Err(error) = self.listen(environment) {
            return self.abort(&error, environment.pool);
        }
        self.wait_for_request()
    }

    /// The timer between two requests.
    pub(super) fn wait_for_request(&self) -> HttpNext {
        match self.port.route().limits.idle {
            None => HttpNext::Wait(HttpTimer::KeepAlive),
            Some(_) => HttpNext::Wait(HttpTimer::Look),
        }
    }

    /// The connection to the endpoint waits for other requests, or is closed.
    fn put_back(&mut self, mut exchange: Box<Exchange>, environment: &mut HttpEnvironment<'_>) {
        let may_be_used = !exchange.closes
            && !exchange.is_refused
            && exchange.has_gone()
            && exchange
                .answer
                .as_ref()
                .is_some_and(|answer| answer.facts.keeps && !answer.has_excess)
            && exchange
                .endpoint()
                .is_some_and(|side| !side.ended && !side.failed && !side.readable)
            && !environment.draining;
        match std::mem::replace(&mut exchange.link, EndpointLink::None) {
            EndpointLink::Connected(connection) if may_be_used => {
                environment.pool.give(connection, environment.now);
            }
            link => {
                exchange.link = link;
                exchange.unlink(environment.pool);
            }
        }
    }

    /// A look at a connection between two requests, whose port has a time to be idle.
    fn look_idle(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        let Some(silent) = silence(&self.client.socket) else {
            return HttpNext::Wait(HttpTimer::KeepAlive);
        };
        if silent >= environment.base.shared.http_times.keep_alive {
            return HttpNext::Over;
        }
        match self.port.route().limits.idle {
            None => HttpNext::Wait(HttpTimer::KeepAlive),
            Some(idle) if silent >= idle => {
                self.port.counters.timed_out(ConnectionTimeout::Idle);
                HttpNext::Over
            }
            Some(_) => HttpNext::Wait(HttpTimer::Look),
        }
    }

    /// Resets the connection: there is nobody to tell, or no way to.
    pub(super) fn abort(
        &mut self,
        error: &dyn std::fmt::Display,
        pool: &mut EndpointPool,
    ) -> HttpNext {
        self.has_failed = true;
        self.log(error);
        if let HttpStage::Busy(exchange) = &mut self.stage {
            exchange.unlink(pool);
        }
        socket::reset_on_close(&self.client.socket);
        HttpNext::Over
    }

    pub(super) fn log(&self, why: &dyn std::fmt::Display) {
        tracing::debug!(client = %self.origin.client, listen = %self.listen, %why, "connection reset");
    }

    /// The client's address as connections know it.
    pub(super) fn client_addr(&self) -> ClientAddr {
        self.origin.client
    }
}
