//! One side of a connection: a socket, and what is known of its state.

use std::io;
use std::os::fd::OwnedFd;

use super::poll::{Epoll, EventFlags, Token};
use crate::handed::HandedSide;

/// One side of a connection, with the state that epoll (edge-triggered) and the last system calls have
/// reported.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) socket: OwnedFd,
    /// There may be bytes to read.
    pub(super) readable: bool,
    /// There may be room to write.
    pub(super) writable: bool,
    /// The end of its stream has arrived, or it was reset.
    pub(super) ended: bool,
    /// It was reset, or the socket has another error.
    pub(super) failed: bool,
    /// It has sent urgent data (TCP's URG): a read may stop before the urgent byte although there are more
    /// bytes.
    pub(super) urgent: bool,
    /// `TCP_NODELAY` is set: small segments leave at once.
    pub(super) prompt: bool,
    /// The kernel asks a silent peer whether it is there (`SO_KEEPALIVE`), and gives up one that takes no bytes.
    pub(super) guarded: bool,
    /// epoll watches the socket.
    pub(super) watched: bool,
    /// epoll reports the end of the stream alone. All other events are known already.
    muted: bool,
    /// `SO_OOBINLINE` is set: an urgent byte is read at its place in the stream.
    in_line: bool,
}

impl Side {
    /// The side of a client that was just accepted. A read or a write will show its state.
    pub(super) fn of_client(socket: OwnedFd) -> Self {
        Self {
            socket,
            readable: true,
            writable: true,
            ended: false,
            failed: false,
            urgent: false,
            // Inherited from the listening socket.
            prompt: true,
            guarded: true,
            watched: false,
            muted: false,
            // Inherited, too.
            in_line: true,
        }
    }

    /// The side of an endpoint that is being connected. epoll will report its state.
    pub(super) fn of_endpoint(socket: OwnedFd) -> Self {
        Self {
            socket,
            readable: false,
            writable: false,
            ended: false,
            failed: false,
            urgent: false,
            prompt: false,
            guarded: false,
            watched: true,
            muted: false,
            in_line: false,
        }
    }

    /// What another process needs of it.
    pub(super) fn handed(&self) -> HandedSide {
        HandedSide {
            ended: self.ended,
            urgent: self.urgent,
            prompt: self.prompt,
            in_line: self.in_line,
            guarded: self.guarded,
        }
    }

    /// A side that another process has handed over. epoll does not watch it yet.
    pub(super) fn taken(socket: OwnedFd, says: HandedSide) -> Self {
        Self {
            ended: says.ended,
            urgent: says.urgent,
            prompt: says.prompt,
            in_line: says.in_line,
            guarded: says.guarded,
            ..Self::of_client(socket)
        }
    }

    /// What is known of the socket may be out of date: epoll did not watch it for a while, and is about to do so again.
    pub(super) fn look_again(&mut self) {
        (self.readable, self.writable) = (true, true);
        (self.watched, self.muted) = (true, false);
    }

    /// Takes an event of epoll. Returns whether it says anything new.
    pub(super) fn note(&mut self, flags: EventFlags) -> bool {
        let news = (flags.contains(EventFlags::IN) && !self.readable)
            || (flags.contains(EventFlags::OUT) && !self.writable)
            || !flags
                .difference(EventFlags::IN | EventFlags::OUT)
                .is_empty();
        self.ended |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
        self.failed |= flags.contains(EventFlags::ERR);
        self.urgent |= flags.contains(EventFlags::PRI);
        self.readable |=
            flags.intersects(EventFlags::IN | EventFlags::PRI | EventFlags::ERR) || self.ended;
        self.writable |= flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP);
        news
    }

    /// Whether a message that has come is the only news of this side: all before was read, its socket has room
    /// to write, and has no error.
    pub(super) fn can_batch(&self) -> bool {
        self.writable && !(self.readable || self.ended || self.failed || self.urgent)
    }

    /// Whether the socket is known to have room to write, and epoll reports when that changes.
    pub(super) fn can_take(&self) -> bool {
        self.writable && !self.failed && !self.muted
    }

    /// More bytes have come that can't be read yet, because the other side takes none. From now on epoll does
    /// not wake the worker for every further segment. (The kernel wakes for urgent data as for any other.)
    pub(super) fn mute(&mut self, token: Token, poll: &Epoll) {
        if self.readable && self.writable && !self.muted {
            // Where this fails, epoll wakes the worker as before.
            self.muted = poll.mute(&self.socket, token, true).is_ok();
            self.inline_urgent();
        }
    }

    /// Sets `SO_OOBINLINE`: without it a read leaves an urgent byte out. Only a read that no event of epoll
    /// announced can meet an unknown urgent byte, and short connections make none.
    pub(super) fn inline_urgent(&mut self) {
        if !self.in_line {
            self.in_line = true;
            // It can't fail on a TCP socket.
            let _ = rustix::net::sockopt::set_socket_oobinline(&self.socket, true);
        }
    }

    /// Has epoll report all events again, where the bytes were read meanwhile or the socket is full.
    ///
    /// # Errors
    /// As [`Epoll::mute`].
    pub(super) fn listen(&mut self, token: Token, poll: &Epoll) -> io::Result<()> {
        if self.muted && !(self.readable && self.writable) {
            poll.mute(&self.socket, token, false)?;
            self.muted = false;
        }
        Ok(())
    }
}
