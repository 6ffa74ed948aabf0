//! The end of a connection: the last bytes are delivered, or the client is found to take nothing any more.

use super::connection::{HttpConnection, HttpStage};
use super::end_state::Ending;
use super::environment::{HttpEnvironment, HttpNext};
use super::io::{self, ReadResult};
use super::timer::HttpTimer;
use crate::counters::ConnectionTimeout;
use crate::delivery::{self, Delivery};
use crate::engine::direction::Direction;
use crate::socket;

/// How many checks are made at the short interval, [`delivery::SOON`].
const SOON_CHECKS: u8 = 10;

/// How many reads of bytes that nobody wants are made in a round.
const READS_PER_ROUND: u32 = 4;

impl HttpConnection {
    /// Takes no more requests, and ends when the client has all bytes.
    pub(super) fn begin_ending(
        &mut self,
        ending: Ending,
        environment: &mut HttpEnvironment<'_>,
    ) -> HttpNext {
        self.input = Vec::new();
        self.stage = HttpStage::Ending(Box::new(ending));
        self.end(environment)
    }

    /// Writes what is left, and looks whether the client has all.
    pub(super) fn end(&mut self, environment: &mut HttpEnvironment<'_>) -> HttpNext {
        let HttpStage::Ending(ending) = &mut self.stage else {
            return HttpNext::Stay;
        };
        if !ending.held.is_empty() {
            let Ok(written) = io::write(&mut self.client, &ending.held, &[]) else {
                self.has_failed = true;
                return HttpNext::Over;
            };
            self.port.counters.transmitted.add(written as u64);
            ending.held.drain(..written);
        }
        let shared = environment.base.shared;
        let left = delivery::unacknowledged(&self.client.socket);
        let may_end = !ending.lingers || self.client.ended;
        if ending.held.is_empty() && left == 0 && !ending.is_shut && may_end {
            return self.ended();
        }
        if ending.held.is_empty() && !ending.is_shut && !ending.resets {
            Direction::shut(&self.client);
            ending.is_shut = true;
        }
        if ending.lingers && !self.discard(environment) {
            return HttpNext::Over;
        }
        let HttpStage::Ending(ending) = &mut self.stage else {
            return HttpNext::Stay;
        };
        let stall_timeout = shared.http_times.client;
        let amount = (ending.held.len() + left) as u64;
        if ending
            .progress
            .is_stalled(amount, environment.now, stall_timeout)
            && amount > 0
        {
            self.port.counters.timed_out(ConnectionTimeout::Client);
            return self.abort(&"the client takes no bytes", environment.pool);
        }
        ending.checks = ending.checks.saturating_add(1);
        let wait = match ending.checks < SOON_CHECKS {
            true => HttpTimer::Delivery,
            false => HttpTimer::SlowDelivery,
        };
        if !ending.held.is_empty() {
            return HttpNext::Wait(wait);
        }
        match delivery::state(&self.client.socket) {
            Delivery::UnderWay => HttpNext::Wait(wait),
            Delivery::Done if ending.lingers && !self.client.ended => {
                let lingered = environment.now.saturating_duration_since(ending.since);
                match lingered < shared.http_times.linger {
                    true => HttpNext::Wait(HttpTimer::SlowDelivery),
                    false => HttpNext::Over,
                }
            }
            Delivery::Done => self.ended(),
            Delivery::Lost => self.abort(&"the client is gone", environment.pool),
        }
    }

    /// The client has all.
    fn ended(&mut self) -> HttpNext {
        if let HttpStage::Ending(ending) = &self.stage
            && ending.resets
        {
            socket::reset_on_close(&self.client.socket);
        }
        HttpNext::Over
    }

    /// Reads what nobody wants. False: the client is gone.
    fn discard(&mut self, environment: &mut HttpEnvironment<'_>) -> bool {
        for _ in 0..READS_PER_ROUND {
            match io::read(&mut self.client, environment.base.tools.buffer) {
                ReadResult::Bytes(read) => self.port.counters.received.add(read as u64),
                ReadResult::Nothing => return true,
                ReadResult::End => {
                    self.client.readable = false;
                    return true;
                }
                ReadResult::Failed(_) => return false,
            }
        }
        true
    }
}
