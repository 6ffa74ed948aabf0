//! Small messages of several connections at once: all that came is read by one system call, and written
//! by another.
//!
//! This is a short cut for most events: one side has sent a small message, the socket of the other side has
//! room for it, and nothing else is to be done. In all other cases the connection goes on by itself, from
//! the state that the batch has left it in.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Engine;
use super::batch::{BatchedMessage, RingBatch};
use super::connection::{ReadOutcome, TcpConnection};
use super::poll::{EventFlags, Events, Token};
use super::ring::SLOTS;

/// Messages that were written in a batch, over the whole process. A test checks that it grows.
static BATCHED: AtomicU64 = AtomicU64::new(0);

/// How many messages were written in a batch, over the whole process.
pub(crate) fn batched_messages() -> u64 {
    BATCHED.load(Ordering::Relaxed)
}

impl Engine {
    /// Handles those of the events that are about small messages, and takes them out of the list.
    pub(super) fn batch(&mut self, events: &mut Events) {
        let Some(mut batch) = self.batch.take() else {
            return;
        };
        let mut works = Ok(());
        events.retain(|token, flags| {
            if works.is_err() || !self.can_batch(token, flags) {
                return true;
            }
            batch.messages.push(BatchedMessage {
                token,
                flags,
                length: None,
            });
            if batch.messages.len() == SLOTS {
                works = self.pass(&mut batch);
            }
            false
        });
        match works.and_then(|()| self.pass(&mut batch)) {
            Ok(()) => self.batch = Some(batch),
            Err(error) => {
                tracing::warn!(%error, "io_uring fails: from now on each system call is made by itself");
            }
        }
    }

    /// Whether an event is about a message that may go into the batch. None overtakes an earlier event about
    /// the same connection: where an endpoint has answered and was reset, a write to it would find the error
    /// before the answer is read.
    fn can_batch(&mut self, token: Token, flags: EventFlags) -> bool {
        let Some(connection) = self.connection_of(token) else {
            return false;
        };
        let simple = EventFlags::IN | EventFlags::OUT;
        if flags.contains(EventFlags::IN) && simple.contains(flags) && connection.can_batch(token) {
            return true;
        }
        connection.claim();
        false
    }

    /// Reads the messages of the batch, and writes them.
    ///
    /// # Errors
    /// As [`Ring::run`](super::ring::Ring::run): io_uring does not work any more.
    fn pass(&mut self, batch: &mut RingBatch) -> io::Result<()> {
        let RingBatch { ring, messages } = batch;
        if let [alone] = messages.as_slice() {
            // For a single message a batch saves nothing.
            let (token, flags) = (alone.token, alone.flags);
            messages.clear();
            if let Some(connection) = self.connection_of(token) {
                connection.end_batch();
            }
            self.event(token, flags);
            return Ok(());
        }
        for (slot, message) in messages.iter().enumerate() {
            if let Some(connection) = self.connection_of(message.token)
                && let Some(socket) = connection.reader(message.token)
            {
                ring.receive(slot, socket);
            }
        }
        let received = ring.run();
        for (slot, message) in messages.iter_mut().enumerate() {
            let Some(connection) = self.connection_of(message.token) else {
                continue;
            };
            match connection.batch_read(message.token, ring.result(slot)) {
                ReadOutcome::Message(length) => {
                    message.length = Some(length);
                    if let Some(socket) = connection.writer(message.token)
                        && received.is_ok()
                    {
                        ring.send(slot, socket, length);
                    }
                }
                ReadOutcome::Nothing => connection.end_batch(),
                ReadOutcome::Other => {
                    connection.end_batch();
                    self.more(message.token);
                }
                ReadOutcome::Failed(error) => {
                    if let Some(number) = message.token.connection() {
                        let is_of_endpoint = matches!(message.token, Token::Endpoint(_));
                        self.step(number, |connection, environment| {
                            if is_of_endpoint {
                                connection.endpoint_failed(&error, environment.shared)
                            } else {
                                connection.fail(&error)
                            }
                        });
                    }
                }
            }
        }
        let was_read = received.is_ok();
        let sent = received.and_then(|()| ring.run());
        let mut batched_messages = 0;
        for (slot, message) in messages.iter().enumerate() {
            let Some(length) = message.length else {
                continue;
            };
            let Some(connection) = self.connection_of(message.token) else {
                continue;
            };
            connection.end_batch();
            // Where no write was made, the slot has the result of the read.
            let result = if was_read { ring.result(slot) } else { None };
            let bytes = ring.bytes(slot, length);
            batched_messages += 1;
            if connection.batch_written(message.token, bytes, result) {
                self.more(message.token);
            }
        }
        BATCHED.fetch_add(batched_messages, Ordering::Relaxed);
        messages.clear();
        sent
    }

    fn connection_of(&mut self, token: Token) -> Option<&mut TcpConnection> {
        self.connections.get(token.connection()?)
    }

    fn more(&mut self, token: Token) {
        if let Some(number) = token.connection() {
            self.step(number, TcpConnection::more);
        }
    }
}
