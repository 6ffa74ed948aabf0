//! What follows when an endpoint or a client breaks off, or takes too long; and the gateway's own answers.

use std::io;

use fairway_gateway_core::http1::{AfterAnswer, OwnAnswer, VainAttempt, may_retry};

use super::connection::{HttpConnection, HttpStage};
use super::end_state::Ending;
use super::environment::{HttpEnvironment, HttpNext};
use super::exchange::{EndpointLink, Exchange};
use super::io as sides;
use super::timer::HttpTimer;
use crate::connection_use::{ConnectionUse, is_silence};
use crate::counters::ConnectionTimeout;
use crate::delivery;
use crate::socket::acknowledged::acknowledgements;
use crate::socket::silence::silence;

/// What has taken too long.
enum Overdue {
    Nothing,
    /// The client has not sent the rest of its request.
    Request,
    /// The client takes nothing of the answer.
    Reader,
    /// The endpoint does not answer, or takes nothing of the request.
    Endpoint,
    /// The endpoint's machine acknowledges nothing.
    Machine,
}

impl HttpConnection {
    /// The endpoint has ended or broken off before its answer was whole: another one is asked, or the client is told.
    pub(super) fn endpoint_lost(
        &mut self,
        error: io::Error,
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        let now = environment.tick();
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return HttpNext::Stay;
        };
        if exchange.is_abandoned {
            exchange.unlink(environment.pool);
            self.note_end(None);
            self.has_failed = true;
            return HttpNext::Over;
        }
        let EndpointLink::Connected(connection) = &exchange.link else {
            return HttpNext::Stay;
        };
        let (addr, is_reused) = (connection.key.endpoint, connection.is_reused);
        let attempt = VainAttempt {
            was_sent: exchange.up.has_begun() && !is_unheard(exchange),
            was_answered: exchange.status.is_some() || !exchange.partial.is_empty(),
            has_body: exchange.up.is_kept(),
        };
        let active = exchange.active.as_ref();
        let is_cut = active.is_some_and(|active| active.state().cut.is_cancelled());
        let is_silent = is_silence(error.kind()) && !is_cut;
        if let Some(active) = active {
            if is_silent {
                let took = environment
                    .now
                    .saturating_duration_since(exchange.times.began);
                self.port.went_silent(active.state(), took, now);
                exchange.dial.give_up(addr);
            } else if !is_reused && !is_cut && exchange.answer.is_none() {
                self.port.was_reset(active.state(), now);
                exchange.dial.give_up(addr);
            }
        }
        exchange.unlink(environment.pool);
        tracing::debug!(endpoint = %addr, %error, "an endpoint has broken off");
        if exchange.answer.is_some() {
            return self.break_off(environment);
        }
        let why = match is_silent {
            true => OwnAnswer::UpstreamTimeout,
            false => OwnAnswer::UpstreamReset,
        };
        if may_retry(&exchange.facts, attempt) && !is_cut {
            exchange.failure = Some(why);
            exchange.rewind();
            return self.dial(environment);
        }
        self.answer(why, environment)
    }

    /// The client is gone. What it has sent of its request is for the endpoint nevertheless.
    pub(super) fn client_lost(&mut self, error: &io::Error) -> HttpNext {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return HttpNext::Stay;
        };
        if error.kind() == io::ErrorKind::UnexpectedEof
            && exchange.answer.is_some()
            && !exchange.is_abandoned
        {
            // It gets the answer that has begun.
            exchange.is_refused = true;
            return HttpNext::More;
        }
        let is_read = exchange.is_abandoned || self.client.ended && !self.client.failed;
        exchange.down = Vec::new();
        exchange.is_abandoned = true;
        exchange.is_read |= is_read || exchange.has_come();
        if !exchange.is_read {
            // The kernel still has the bytes that came before the error.
            self.client.readable = true;
        }
        if matches!(exchange.link, EndpointLink::Connected(_)) {
            return HttpNext::More;
        }
        self.note_end(None);
        self.has_failed = true;
        HttpNext::Over
    }

    /// Answers the client for the endpoint, and ends the connection.
    pub(super) fn answer(
        &mut self,
        why: OwnAnswer,
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        let mut lingers = true;
        let mut facts = None;
        if let HttpStage::Busy(exchange) = &mut self.stage {
            exchange.unlink(environment.pool);
            if exchange.answer.is_some() {
                return self.break_off(environment);
            }
            lingers = !exchange.has_come();
            facts = Some(exchange.facts);
        }
        let mut answer = Vec::new();
        why.write(facts.as_ref(), AfterAnswer::Close, &mut answer);
        let before = match &mut self.stage {
            HttpStage::Busy(exchange) => std::mem::take(&mut exchange.down),
            HttpStage::Waiting | HttpStage::Ending(_) => Vec::new(),
        };
        let written = sides::write(&mut self.client, &before, &answer);
        self.note_end(Some(why));
        self.has_failed = true;
        let Ok(written) = written else {
            return HttpNext::Over;
        };
        self.port.counters.transmitted.add(written as u64);
        let held = sides::rest(&before, &answer, written);
        let ending = Ending::after_own_answer(held, lingers, environment.now);
        self.begin_ending(ending, environment)
    }

    /// Ends the connection in the midst of an answer. The client has what the endpoint said before, and learns that it is
    /// not all.
    pub(super) fn break_off(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        self.note_end(None);
        self.has_failed = true;
        let held = match &mut self.stage {
            HttpStage::Busy(exchange) => {
                exchange.unlink(environment.pool);
                std::mem::take(&mut exchange.down)
            }
            HttpStage::Waiting | HttpStage::Ending(_) => Vec::new(),
        };
        self.begin_ending(Ending::broken_off(held, environment.now), environment)
    }

    /// Looks whether something takes too long.
    pub(super) fn look(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        if let Some(idle) = self.port.route().limits.idle
            && silence(&self.client.socket).is_some_and(|silent| silent >= idle)
        {
            self.port.counters.timed_out(ConnectionTimeout::Idle);
            self.note_end(None);
            return self.abort(&"it was silent for too long", environment.pool);
        }
        let now = environment.tick();
        let overdue = self.overdue(environment);
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return HttpNext::Stay;
        };
        let has_vanished = exchange.kind == ConnectionUse::Long
            && match &exchange.link {
                EndpointLink::Connected(connection) => acknowledgements(&connection.side.socket)
                    .is_some_and(|state| exchange.watch.look(state, now)),
                EndpointLink::None | EndpointLink::Dialling { .. } => false,
            };
        let overdue = match has_vanished {
            true => Overdue::Machine,
            false => overdue,
        };
        match overdue {
            Overdue::Nothing => HttpNext::Wait(HttpTimer::Look),
            Overdue::Machine => self.endpoint_lost(io::ErrorKind::TimedOut.into(), environment),
            Overdue::Request => self.answer(OwnAnswer::RequestTimeout, environment),
            Overdue::Endpoint => {
                self.port.counters.timed_out(ConnectionTimeout::Endpoint);
                self.answer(OwnAnswer::UpstreamTimeout, environment)
            }
            Overdue::Reader => {
                self.port.counters.timed_out(ConnectionTimeout::Client);
                self.note_end(None);
                self.abort(&"the client takes nothing of the answer", environment.pool)
            }
        }
    }

    fn overdue(&self, environment: &HttpEnvironment<'_>) -> Overdue {
        let HttpStage::Busy(exchange) = &self.stage else {
            return Overdue::Nothing;
        };
        let now = environment.now;
        let (times, limits) = (&exchange.times, &environment.base.shared.http_times);
        if !exchange.down.is_empty()
            && now.saturating_duration_since(times.client_took) >= limits.client
        {
            return Overdue::Reader;
        }
        if !exchange.down.is_empty() {
            // The client holds the endpoint up.
            return Overdue::Nothing;
        }
        let endpoint_moved = times.endpoint_heard.max(times.endpoint_took);
        let is_late = now.saturating_duration_since(endpoint_moved) >= limits.endpoint;
        let waits_for_client =
            !exchange.has_come() && exchange.up.is_sent() && !exchange.is_refused;
        let waits_for_100 = exchange.facts.expects_continue && exchange.status.is_none();
        if waits_for_client && !(waits_for_100 && is_late) {
            return match now.saturating_duration_since(times.client_heard) >= limits.client {
                true => Overdue::Request,
                false => Overdue::Nothing,
            };
        }
        match is_late {
            true => Overdue::Endpoint,
            false => Overdue::Nothing,
        }
    }

    /// Counts a request that has ended, and says so in the log.
    pub(super) fn note_end(&mut self, own: Option<OwnAnswer>) {
        let exchange = match &self.stage {
            HttpStage::Busy(exchange) => Some(exchange),
            HttpStage::Waiting | HttpStage::Ending(_) => None,
        };
        let status = match own {
            Some(own) => Some(own.status()),
            None => exchange.and_then(|exchange| exchange.status),
        };
        self.port.counters.response(status);
        tracing::debug!(
            client = %self.origin.client,
            listen = %self.listen,
            method = exchange.map(|exchange| tracing::field::debug(exchange.facts.method)),
            status,
            failure = own.map(OwnAnswer::code),
            "request",
        );
    }
}

/// Whether the endpoint's machine has acknowledged no byte of the request. A connection that the endpoint has closed
/// before the request came there is reset, and the bytes are not acknowledged: nobody has read them.
fn is_unheard(exchange: &Exchange) -> bool {
    match &exchange.link {
        EndpointLink::Connected(connection) => {
            let sent = exchange.up.sent_bytes();
            sent > 0 && delivery::unacknowledged(&connection.side.socket) >= sent
        }
        EndpointLink::None | EndpointLink::Dialling { .. } => false,
    }
}
