//! Connections that are silent: their endpoint is asked whether it is there, and those that are silent for longer than
//! their port allows are reset.
//!
//! How long one has been silent is the kernel's to know ([`silence`]), so carrying bytes costs nothing for it. A
//! connection waits in a list of checks ([`Timer::until_idle`]) and no list is searched.

use std::io;
use std::time::Duration;

use super::{Stage, TcpConnection};
use crate::counters::ConnectionTimeout;
use crate::engine::next::{Environment, Next};
use crate::engine::timer::Timer;
use crate::shared::GatewayShared;
use crate::socket;
use crate::socket::silence::silence;

impl TcpConnection {
    /// Begins the timer of a connection that carries bytes from now on.
    pub(super) fn begin_carrying(&self) -> Next {
        Next::Wait(Timer::while_carrying(self.port.route().limits.idle))
    }

    /// Resets the connection where it has been silent for too long; else says when to look again.
    pub(super) fn check_idle(&mut self, shared: &GatewayShared) -> Next {
        self.guard_endpoint(shared);
        let Some(idle) = self.port.route().limits.idle else {
            return Next::Rest;
        };
        let left = silence(&self.client.socket).map(|silent| idle.saturating_sub(silent));
        match left {
            None => Next::Rest,
            Some(Duration::ZERO) => {
                self.port.counters.timed_out(ConnectionTimeout::Idle);
                self.fail(&io::ErrorKind::TimedOut.into())
            }
            Some(left) => Next::Wait(Timer::until_idle(left)),
        }
    }

    /// Its port has another idle time now.
    pub(in crate::engine) fn review(&mut self, environment: &mut Environment<'_>) -> Next {
        match self.stage {
            Stage::Carrying(None) => self.check_idle(environment.shared),
            // Others have deadlines of their own. What is dialled looks when it has an endpoint.
            Stage::Carrying(Some(_))
            | Stage::Dialling(_)
            | Stage::Delivering(_)
            | Stage::Header(_)
            | Stage::Relay(_) => Next::Stay,
        }
    }

    /// Has the kernel find out that a silent endpoint is gone, and give up one that takes no bytes. The client's socket
    /// has that from the socket that it was accepted at.
    pub(super) fn guard_endpoint(&mut self, shared: &GatewayShared) {
        if let Some(endpoint) = &mut self.endpoint
            && !std::mem::replace(&mut endpoint.guarded, true)
        {
            socket::keep_alive(&endpoint.socket);
            socket::set_reader_timeout(&endpoint.socket, shared.reader_timeout);
        }
    }

    /// Counts an error that says that a peer took no bytes, or answered nothing, for too long.
    pub(super) fn note_timeout(&self, error: &io::Error, side: ConnectionTimeout) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.port.counters.timed_out(side);
        }
    }
}
