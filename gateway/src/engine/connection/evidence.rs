//! What a connection that was made says of its endpoint's health.

use std::io;

use super::TcpConnection;
use crate::engine::next::Next;
use crate::shared::GatewayShared;

impl TcpConnection {
    /// The endpoint has reset the connection, or takes no more: both sockets are reset. It counts against the
    /// endpoint where it has not said anything. A client that has ended its side may have no answer to wait for.
    pub(in crate::engine) fn endpoint_failed(
        &mut self,
        error: &io::Error,
        shared: &GatewayShared,
    ) -> Next {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        let is_reset = matches!(error.kind(), ConnectionReset | BrokenPipe);
        if is_reset
            && !self.down.has_begun()
            && !self.up.has_read_all()
            && let Some(active) = &self.active
        {
            self.port.was_reset(active.state(), shared.clock.now());
        }
        self.fail(error)
    }

    /// Notes that the endpoint has said something, where anybody waits to know that.
    pub(super) fn note_answer(&self, shared: &GatewayShared) {
        if let Some(active) = &self.active
            && active.state().health.is_noted()
            && self.down.has_begun()
        {
            self.port.spoke(active.state(), shared.clock.now());
        }
    }
}
