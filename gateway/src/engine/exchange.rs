//! Small messages of several connections at once: all that came is read by one system call, and written
//! by another.
//!
//! It is a shorter way for what most events are about: one side has said something, the other takes
//! it, and there is nothing else to it. Whatever is not so simple goes the way that a connection by itself
//! goes, from where it stands then.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Engine;
use super::connection::{ReadOutcome, TcpConnection};
use super::poll::{EventFlags, Events, Token};
use super::ring::SLOTS;
use super::speakers::{Exchange, Speaker};

/// Messages that were written together with others, over the whole process. A test holds it above zero.
static EXCHANGED: AtomicU64 = AtomicU64::new(0);

/// How many messages were written together with others.
pub(crate) fn exchanged() -> u64 {
    EXCHANGED.load(Ordering::Relaxed)
}

impl Engine {
    /// Deals with those of the events that are about small messages.
    pub(super) fn exchange(&mut self, events: &mut Events) {
        let Some(mut exchange) = self.exchange.take() else {
            return;
        };
        let mut works = Ok(());
        events.retain(|token, flags| {
            if works.is_err() || !self.may_speak(token, flags) {
                return true;
            }
            exchange.speakers.push(Speaker {
                token,
                flags,
                said: None,
            });
            if exchange.speakers.len() == SLOTS {
                works = self.pass(&mut exchange);
            }
            false
        });
        match works.and_then(|()| self.pass(&mut exchange)) {
            Ok(()) => self.exchange = Some(exchange),
            Err(error) => {
                tracing::warn!(%error, "io_uring fails: from now on each system call is made by itself");
            }
        }
    }

    /// Whether an event is about a message that may go together with others, which it does then. None
    /// goes before an event about the same connection that came first: where an endpoint has answered and
    /// was reset, a write to it would find that out before the answer is read.
    fn may_speak(&mut self, token: Token, flags: EventFlags) -> bool {
        let Some(connection) = self.speaking(token) else {
            return false;
        };
        let simple = EventFlags::IN | EventFlags::OUT;
        if flags.contains(EventFlags::IN) && simple.contains(flags) && connection.may_speak(token) {
            return true;
        }
        connection.claim();
        false
    }

    /// Carries what the speakers say.
    fn pass(&mut self, exchange: &mut Exchange) -> io::Result<()> {
        let Exchange { ring, speakers } = exchange;
        if let [alone] = speakers.as_slice() {
            // By itself it is no less work this way.
            let (token, flags) = (alone.token, alone.flags);
            speakers.clear();
            if let Some(connection) = self.speaking(token) {
                connection.has_spoken();
            }
            self.event(token, flags);
            return Ok(());
        }
        for (slot, speaker) in speakers.iter().enumerate() {
            if let Some(connection) = self.speaking(speaker.token)
                && let Some(socket) = connection.reader(speaker.token)
            {
                ring.receive(slot, socket);
            }
        }
        let received = ring.run();
        for (slot, speaker) in speakers.iter_mut().enumerate() {
            let Some(connection) = self.speaking(speaker.token) else {
                continue;
            };
            match connection.heard(speaker.token, ring.result(slot)) {
                ReadOutcome::Message(length) => {
                    speaker.said = Some(length);
                    if let Some(socket) = connection.writer(speaker.token)
                        && received.is_ok()
                    {
                        ring.send(slot, socket, length);
                    }
                }
                ReadOutcome::Nothing => connection.has_spoken(),
                ReadOutcome::Other => {
                    connection.has_spoken();
                    self.more(speaker.token);
                }
                ReadOutcome::Failed(error) => {
                    if let Some(number) = speaker.token.connection() {
                        self.step(number, |connection, _| connection.fail(&error));
                    }
                }
            }
        }
        let was_read = received.is_ok();
        let sent = received.and_then(|()| ring.run());
        let mut exchanged = 0;
        for (slot, speaker) in speakers.iter().enumerate() {
            let Some(length) = speaker.said else {
                continue;
            };
            let Some(connection) = self.speaking(speaker.token) else {
                continue;
            };
            connection.has_spoken();
            // Where nothing was written, what stands there is of the read.
            let result = if was_read { ring.result(slot) } else { None };
            let bytes = ring.bytes(slot, length);
            exchanged += 1;
            if connection.said(speaker.token, bytes, result) {
                self.more(speaker.token);
            }
        }
        EXCHANGED.fetch_add(exchanged, Ordering::Relaxed);
        speakers.clear();
        sent
    }

    fn speaking(&mut self, token: Token) -> Option<&mut TcpConnection> {
        self.connections.get(token.connection()?)
    }

    fn more(&mut self, token: Token) {
        if let Some(number) = token.connection() {
            self.step(number, TcpConnection::more);
        }
    }
}
