//! The end of a connection: the last bytes are delivered, or the client is found to take nothing any more.

use std::io;
use std::time::Instant;

use super::{DeliveryChecks, Stage, TcpConnection};
use crate::counters::ConnectionTimeout;
use crate::delivery::{self, Delivery, DeliveryProgress};
use crate::engine::direction::Direction;
use crate::engine::next::{Environment, Next};
use crate::engine::poll::Token;
use crate::engine::timer::Timer;
use crate::shared::GatewayShared;

/// How many checks are made at the short interval, [`delivery::SOON`].
const SOON_CHECKS: u8 = 10;

impl TcpConnection {
    /// The stall check, once the endpoint has sent its end: a client that takes none of the remaining bytes is
    /// reset. Otherwise it would hold the connection without end.
    pub(super) fn check_for_stall(&mut self, shared: &GatewayShared) -> Next {
        self.guard_endpoint(shared);
        let left = delivery::unacknowledged(&self.client.socket) as u64;
        if left == 0 && self.down.has_ended() {
            return self.check_idle(shared);
        }
        let got = self.down.written().saturating_sub(left) + self.up.written();
        if matches!(self.stage, Stage::Carrying(Some(before)) if before == got) {
            self.port.counters.timed_out(ConnectionTimeout::Client);
            return self.fail(&io::ErrorKind::TimedOut.into());
        }
        self.stage = Stage::Carrying(Some(got));
        Next::Wait(Timer::StallCheck)
    }

    /// Closes the endpoint's socket: the endpoint has sent all, and has received all or takes no more.
    pub(super) fn leave_endpoint(&mut self, environment: &mut Environment<'_>) -> Next {
        self.note_answer(environment.shared);
        self.endpoint = None;
        self.active = None;
        if self.down.has_ended() {
            if delivery::unacknowledged(&self.client.socket) == 0 {
                self.port.counters.completed.increment();
                return Next::Over;
            }
            Direction::shut(&self.client);
        }
        self.stage = Stage::Delivering(DeliveryChecks {
            count: 0,
            progress: DeliveryProgress::new(Instant::now()),
        });
        self.deliver(environment)
    }

    /// Writes the remaining bytes, and checks whether the client has acknowledged all. The socket stays open
    /// until then: the kernel sends the rest of a closed socket only while its address is local, and the local
    /// route of a VIP is removed when no connection is counted any more.
    pub(super) fn deliver(&mut self, environment: &mut Environment<'_>) -> Next {
        let Stage::Delivering(checks) = &mut self.stage else {
            return Next::Stay;
        };
        if !self.down.has_ended() {
            let counter = &self.port.counters.transmitted;
            let written = self.down.write_held(&mut self.client, counter);
            let token = Token::Client(environment.number);
            match written.and_then(|all| self.client.listen(token, environment.poll).map(|()| all))
            {
                Ok(true) => Direction::shut(&self.client),
                Ok(false) => {}
                Err(error) => return self.fail(&error),
            }
        }
        let left = delivery::unacknowledged(&self.client.socket) as u64;
        let delivered = self.down.written().saturating_sub(left);
        let stall_timeout = environment.shared.stall_timeout;
        if (checks.progress).is_stalled(delivered, Instant::now(), stall_timeout) {
            self.port.counters.timed_out(ConnectionTimeout::Client);
            return self.fail(&io::ErrorKind::TimedOut.into());
        }
        checks.count = checks.count.saturating_add(1);
        let wait = if checks.count < SOON_CHECKS {
            Timer::DeliveryCheck
        } else {
            Timer::SlowDeliveryCheck
        };
        if !self.down.has_ended() {
            return Next::Wait(wait);
        }
        match delivery::state(&self.client.socket) {
            Delivery::UnderWay => Next::Wait(wait),
            Delivery::Done => {
                self.port.counters.completed.increment();
                Next::Over
            }
            Delivery::Lost => self.fail(&io::ErrorKind::ConnectionReset.into()),
        }
    }
}
