//! A connection's side: a socket, and how it stands as far as that is known.

use std::io;
use std::os::fd::OwnedFd;

use super::poll::{EventFlags, Poll, Token};

/// One side of a connection, as far as it is known how it stands: what epoll says by edge, and what
/// the last system call said.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) socket: OwnedFd,
    /// There may be something to read.
    pub(super) readable: bool,
    /// There may be room to write.
    pub(super) writable: bool,
    /// Its last byte is here, or it was reset.
    pub(super) ended: bool,
    /// It was reset, or has another error.
    pub(super) failed: bool,
    /// It has sent urgent data: a read may end before it although there is more.
    pub(super) urgent: bool,
    /// Small segments leave at once.
    pub(super) prompt: bool,
    /// epoll has it.
    pub(super) watched: bool,
    /// epoll says nothing but the end: all else is known.
    hushed: bool,
    /// Its urgent bytes are read at their place.
    in_line: bool,
}

impl Side {
    /// A client's, that was just accepted: a read or a write will tell how it stands.
    pub(super) fn of_client(socket: OwnedFd) -> Self {
        Self {
            socket,
            readable: true,
            writable: true,
            ended: false,
            failed: false,
            urgent: false,
            // As the socket that listens.
            prompt: true,
            watched: false,
            hushed: false,
            // As the socket that listens.
            in_line: true,
        }
    }

    /// An endpoint's, that is being connected: epoll will tell.
    pub(super) fn of_endpoint(socket: OwnedFd) -> Self {
        Self {
            socket,
            readable: false,
            writable: false,
            ended: false,
            failed: false,
            urgent: false,
            prompt: false,
            watched: true,
            hushed: false,
            in_line: false,
        }
    }

    /// What epoll says. Returns whether any of it was not known.
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

    /// A message that comes is all that is new: it was read to its end before, it takes what there is, and
    /// is well.
    pub(super) fn may_speak(&self) -> bool {
        self.writable && !(self.readable || self.ended || self.failed || self.urgent)
    }

    /// What comes is taken, as far as is known, and it is said when it is not so any more.
    pub(super) fn may_be_told(&self) -> bool {
        self.writable && !self.failed && !self.hushed
    }

    /// More has come that can't be read yet, as the other side takes nothing: the rest of it is not to
    /// wake the worker segment by segment. (The kernel wakes for urgent data as for any.)
    pub(super) fn hush(&mut self, token: Token, poll: &Poll) {
        if self.readable && self.writable && !self.hushed {
            // Where it fails, it is woken as before.
            self.hushed = poll.hush(&self.socket, token, true).is_ok();
            self.put_in_line();
        }
    }

    /// A read that begins at an urgent byte is to read it: else it leaves it out. It matters where one
    /// begins that nobody was told for, which those of short connections never do.
    pub(super) fn put_in_line(&mut self) {
        if !self.in_line {
            self.in_line = true;
            // It can't fail on a TCP socket.
            let _ = rustix::net::sockopt::set_socket_oobinline(&self.socket, true);
        }
    }

    /// What was there is read, or there is no more room: it is to be said when there is again.
    pub(super) fn listen(&mut self, token: Token, poll: &Poll) -> io::Result<()> {
        if self.hushed && !(self.readable && self.writable) {
            poll.hush(&self.socket, token, false)?;
            self.hushed = false;
        }
        Ok(())
    }
}
