//! A connection's part in a batch: small messages of several connections are read by one system call and
//! written by another (`engine/batch_io.rs`).

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::{Stage, TcpConnection};
use crate::counters::Counter;
use crate::engine::direction::Direction;
use crate::engine::poll::Token;
use crate::engine::ring::SLOT;
use crate::engine::side::Side;

/// The outcome of a read that was made together with those of other connections.
pub(in crate::engine) enum ReadOutcome {
    /// A message of so many bytes, to be written to the other side as it is.
    Message(usize),
    /// Nothing has come.
    Nothing,
    /// Something else. The connection reads again by itself.
    Other,
    /// The connection is broken.
    Failed(io::Error),
}

impl TcpConnection {
    /// Whether the message of that side may go through the kernel together with those of other connections:
    /// only where nothing else is under way. If so, the connection is claimed until [`Self::end_batch`].
    pub(in crate::engine) fn can_batch(&mut self, token: Token) -> bool {
        if self.claimed || self.queued || !matches!(self.stage, Stage::Carrying(_)) {
            return false;
        }
        if !(self.up.is_brief() && self.down.is_brief()) {
            return false;
        }
        let Some((_, reader, writer, _)) = self.path(token) else {
            return false;
        };
        if !(reader.can_batch() && writer.can_take()) {
            return false;
        }
        self.claimed = true;
        true
    }

    /// An event about the connection is left for later in this round.
    pub(in crate::engine) fn claim(&mut self) {
        self.claimed = true;
    }

    /// The batch has no message of this connection any more.
    pub(in crate::engine) fn end_batch(&mut self) {
        self.claimed = false;
    }

    /// The socket that is read from.
    pub(in crate::engine) fn reader(&mut self, token: Token) -> Option<&OwnedFd> {
        self.path(token).map(|(_, reader, _, _)| &reader.socket)
    }

    /// The socket of the other side, which is written to.
    pub(in crate::engine) fn writer(&mut self, token: Token) -> Option<&OwnedFd> {
        self.path(token).map(|(_, _, writer, _)| &writer.socket)
    }

    /// Takes the result of a read from that side; none where the read was not made.
    pub(in crate::engine) fn batch_read(
        &mut self,
        token: Token,
        result: Option<Result<usize, Errno>>,
    ) -> ReadOutcome {
        let Some((direction, reader, writer, _)) = self.path(token) else {
            return ReadOutcome::Nothing;
        };
        match result {
            Some(Ok(read)) if direction.batch_read(read, SLOT, reader, writer) => {
                ReadOutcome::Message(read)
            }
            Some(Err(Errno::AGAIN)) => ReadOutcome::Nothing,
            // An error of the socket itself. The kernel reports it once, and the end of the stream afterwards.
            Some(Err(error)) if !is_of_the_call(error) => ReadOutcome::Failed(error.into()),
            // The connection reads again by itself.
            None | Some(_) => {
                reader.readable = true;
                ReadOutcome::Other
            }
        }
    }

    /// Takes the result of a write to the other side; none where the write was not made. Returns whether the
    /// connection has more to do.
    pub(in crate::engine) fn batch_written(
        &mut self,
        token: Token,
        bytes: &[u8],
        result: Option<Result<usize, Errno>>,
    ) -> bool {
        let Some((direction, reader, writer, counter)) = self.path(token) else {
            return false;
        };
        direction.batch_written(bytes, result, reader, writer, counter)
    }

    /// For bytes that come from that side: the direction, who is read from, who is written to, and the counter
    /// of bytes.
    fn path(&mut self, from: Token) -> Option<(&mut Direction, &mut Side, &mut Side, &Counter)> {
        let endpoint = self.endpoint.as_mut()?;
        let (client, counters) = (&mut self.client, &self.port.counters);
        Some(match from {
            Token::Client(_) => (&mut self.up, client, endpoint, &counters.received),
            _ => (&mut self.down, endpoint, client, &counters.transmitted),
        })
    }
}

/// Whether an error is one of the call alone and says nothing of the socket: the call can be made again.
fn is_of_the_call(error: Errno) -> bool {
    matches!(
        error,
        Errno::INTR | Errno::NOMEM | Errno::NOBUFS | Errno::INVAL | Errno::CANCELED
    )
}
