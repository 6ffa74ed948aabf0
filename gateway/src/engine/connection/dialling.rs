//! Dialling: from one endpoint to the next, until one answers.

use std::io;

use fairway_gateway_core::relay::RelayAnswer;

use super::{Stage, TcpConnection};
use crate::counters::Rejection;
use crate::engine::dial::DialOutcome;
use crate::engine::next::{Environment, Next};
use crate::engine::timer::Timer;
use crate::socket;
use crate::transparent::answer_to;

impl TcpConnection {
    /// Tries the next endpoint.
    pub(in crate::engine) fn dial(&mut self, environment: &mut Environment<'_>) -> Next {
        let Stage::Dialling(dial) = &mut self.stage else {
            return Next::Stay;
        };
        // It no longer counts as a connection of the endpoint that was tried last.
        self.active = None;
        match dial.next(
            self.origin.client,
            &self.port,
            &self.client,
            &mut self.up,
            environment,
        ) {
            DialOutcome::Trying(endpoint, active) => {
                self.endpoint = Some(endpoint);
                self.active = Some(active);
                Next::Wait(Timer::ConnectGrace)
            }
            DialOutcome::Exhausted => Next::Wait(Timer::SocketRetry),
            DialOutcome::Failed(error) if dial.is_relayed() => {
                self.answer(answer_to(&error));
                Next::Over
            }
            DialOutcome::Failed(error) => self.fail(&error),
            DialOutcome::NoEndpoint => {
                self.port.counters.reject(Rejection::NoEndpoint);
                self.log("there is no endpoint");
                socket::reset_on_close(&self.client.socket);
                Next::Over
            }
        }
    }

    /// The endpoint that is being tried could not be reached: tries the next one.
    pub(super) fn not_reached(
        &mut self,
        error: io::Error,
        environment: &mut Environment<'_>,
    ) -> Next {
        self.endpoint = None;
        if let Stage::Dialling(dial) = &mut self.stage {
            dial.not_reached(error, &self.port, self.active.as_ref(), environment.shared);
        }
        self.dial(environment)
    }

    /// The gateway that dials the endpoint has said something.
    pub(super) fn ask_relay(&mut self, environment: &mut Environment<'_>) -> Next {
        let (Stage::Dialling(dial), Some(relay)) = (&mut self.stage, &self.endpoint) else {
            return Next::Stay;
        };
        let client = self.origin.client;
        match dial.ask_relay(&relay.socket, client, environment.shared) {
            Ok(None) => Next::Stay,
            Ok(Some(())) => self.reached(environment),
            Err(error) => self.not_reached(error, environment),
        }
    }

    /// The endpoint has accepted the connection: carries what the client has sent meanwhile.
    pub(super) fn reached(&mut self, environment: &mut Environment<'_>) -> Next {
        let (mut early, mut is_relayed) = (false, false);
        if let (Stage::Dialling(dial), Some(active)) = (&mut self.stage, &self.active) {
            early = dial.early;
            is_relayed = dial.is_relayed();
            if !dial.reached(&self.port, active, environment.shared) {
                self.endpoint = None;
                return self.dial(environment);
            }
            self.transparent = dial.in_use.take();
        }
        if is_relayed {
            self.answer(RelayAnswer::Connected);
        }
        self.stage = Stage::Carrying(None);
        if self.up.holds_header_alone() {
            // What the client has said meanwhile goes in the same packet.
            self.up.read_early(&self.client, &mut environment.tools);
        }
        let step = self.carry(environment);
        if step == Next::Over {
            return step;
        }
        if let Some(endpoint) = &self.endpoint
            && early
        {
            socket::acknowledge_at_once(&endpoint.socket, true);
        }
        // Most short connections have ended by now. Only the others need epoll for the client.
        match self.watch_client(environment) {
            Err(error) => self.fail(&error),
            Ok(()) if step == Next::Stay => self.begin_carrying(),
            Ok(()) => step,
        }
    }
}
