//! Finds a connection to an endpoint for a request: one that waits, or a new one.

use std::io;

use fairway_gateway_core::http1::OwnAnswer;

use super::connection::{HttpConnection, HttpStage};
use super::environment::{HttpEnvironment, HttpNext};
use super::exchange::{self, EndpointLink};
use super::io::probe;
use super::pool::{EndpointConnection, PoolKey};
use super::timer::HttpTimer;
use crate::counters::Rejection;
use crate::engine::dial::DialOutcome;
use crate::engine::poll::{EventFlags, Token};
use crate::http::limits::TRIES;

impl HttpConnection {
    /// Chooses the next endpoint, and begins to connect to it, or takes a connection that waits.
    pub(super) fn dial(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        let client = self.client_addr();
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return HttpNext::Stay;
        };
        exchange.unlink(environment.pool);
        exchange.active = None;
        exchange.tries += 1;
        if exchange.tries > TRIES {
            let failure = exchange.failure.unwrap_or(OwnAnswer::ConnectFailed);
            return self.answer(failure, environment);
        }
        let user = environment.base.number;
        let now = environment.now;
        let may_share = !exchange.closes && !exchange.facts.is_upgrade;
        while let Some(candidate) =
            exchange
                .dial
                .choose(client, &self.port, environment.base.shared, now)
        {
            let key = PoolKey::new(self.port.number, candidate.addr, exchange.kind, self.hops);
            if may_share {
                let trusted_since = candidate.state().health.trusted_since();
                if let Some(connection) = environment.pool.take(&key, trusted_since, user) {
                    exchange.active = Some(candidate.into_active());
                    exchange.link = EndpointLink::Connected(connection);
                    return self.begin_to_carry(environment);
                }
            }
            let number = environment.pool.reserve(self.port.number, user);
            let token = Token::HttpEndpoint(number);
            let begun = exchange
                .dial
                .begin(candidate, token, &self.port, &mut environment.base);
            match begun {
                Some(DialOutcome::Trying(side, active)) => {
                    exchange.link = EndpointLink::Dialling { side, number, key };
                    exchange.active = Some(active);
                    return HttpNext::Wait(exchange.dial.may_take().into());
                }
                Some(DialOutcome::Exhausted) => {
                    environment.pool.release(number);
                    exchange.tries -= 1;
                    return HttpNext::Wait(HttpTimer::SocketRetry);
                }
                Some(DialOutcome::Failed(_) | DialOutcome::NoEndpoint) | None => {
                    environment.pool.release(number);
                }
            }
        }
        let why = match exchange.dial.outcome() {
            DialOutcome::Failed(error) => exchange::of_dial(&error),
            _ => exchange.failure.unwrap_or_else(|| {
                self.port.counters.reject(Rejection::NoEndpoint);
                OwnAnswer::NoEndpoint
            }),
        };
        self.answer(why, environment)
    }

    /// The socket that is being connected has an event.
    pub(super) fn dial_event(
        &mut self,
        flags: EventFlags,
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        let client = self.client_addr();
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return HttpNext::Stay;
        };
        let EndpointLink::Dialling { side, .. } = &exchange.link else {
            return HttpNext::Stay;
        };
        if flags.contains(EventFlags::ERR)
            && let Ok(Err(error)) | Err(error) = rustix::net::sockopt::socket_error(&side.socket)
        {
            return self.not_reached(error.into(), environment);
        }
        if exchange.dial.asks_relay() {
            let shared = environment.base.shared;
            return match exchange.dial.ask_relay(&side.socket, client, shared) {
                Ok(None) => HttpNext::Stay,
                Ok(Some(())) => self.reached(environment),
                Err(error) => self.not_reached(error, environment),
            };
        }
        match flags.contains(EventFlags::OUT) {
            true => self.reached(environment),
            false => HttpNext::Stay,
        }
    }

    /// The endpoint that is being tried could not be reached: tries the next one.
    pub(super) fn not_reached(
        &mut self,
        error: io::Error,
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return HttpNext::Stay;
        };
        if !matches!(exchange.link, EndpointLink::Dialling { .. }) {
            return HttpNext::Stay;
        }
        exchange.unlink(environment.pool);
        exchange.failure = Some(exchange::of_dial(&error));
        let shared = environment.base.shared;
        let active = exchange.active.as_ref();
        exchange.dial.not_reached(error, &self.port, active, shared);
        self.dial(environment)
    }

    /// The endpoint has accepted the connection.
    fn reached(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        let HttpStage::Busy(exchange) = &mut self.stage else {
            return HttpNext::Stay;
        };
        let Some(active) = &exchange.active else {
            return HttpNext::Stay;
        };
        let shared = environment.base.shared;
        if !exchange.dial.reached(&self.port, active, shared) {
            // It was removed meanwhile, and nothing was passed on to it.
            return self.dial(environment);
        }
        exchange.transparent = exchange.dial.in_use.take();
        let trusted_since = active.state().health.trusted_since();
        if let EndpointLink::Dialling { side, number, key } =
            std::mem::replace(&mut exchange.link, EndpointLink::None)
        {
            probe(&side, exchange.kind);
            exchange.link = EndpointLink::Connected(Box::new(EndpointConnection {
                side,
                number,
                key,
                trusted_since,
                is_reused: false,
            }));
        }
        self.begin_to_carry(environment)
    }

    /// There is a connection to the endpoint: the request goes there.
    fn begin_to_carry(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        if let HttpStage::Busy(exchange) = &mut self.stage {
            exchange.failure = None;
            exchange.times.endpoint_heard = environment.now;
            exchange.times.endpoint_took = environment.now;
        }
        match self.carry(environment) {
            HttpNext::Stay => HttpNext::Wait(HttpTimer::Look),
            HttpNext::More => HttpNext::WaitAndMore(HttpTimer::Look),
            next => next,
        }
    }
}
