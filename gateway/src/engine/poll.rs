//! epoll(7), and what its events are about.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData};
use rustix::event::{EventfdFlags, Timespec, eventfd};

pub(super) use rustix::event::epoll::EventFlags;

/// What is said of a socket that is watched by edge.
const EDGES: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::RDHUP)
    .union(EventFlags::PRI)
    .union(EventFlags::ET);

/// Events taken at once.
const EVENTS: usize = 256;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Someone else has something for the worker.
    Wake,
    /// A socket that listens.
    Listener(u32),
    /// A socket that takes datagrams.
    Datagrams(u32),
    /// The socket of a UDP flow.
    Flow(u32),
    /// The client's side of a connection.
    Client(u32),
    /// The endpoint's side of one.
    Endpoint(u32),
}

impl Token {
    /// The connection that it is about.
    pub(super) fn connection(self) -> Option<u32> {
        match self {
            Self::Client(number) | Self::Endpoint(number) => Some(number),
            Self::Wake | Self::Listener(_) | Self::Datagrams(_) | Self::Flow(_) => None,
        }
    }

    fn data(self) -> EventData {
        let (kind, number) = match self {
            Self::Wake => (0, 0),
            Self::Listener(number) => (1, number),
            Self::Client(number) => (2, number),
            Self::Endpoint(number) => (3, number),
            Self::Datagrams(number) => (4, number),
            Self::Flow(number) => (5, number),
        };
        EventData::new_u64((kind << 32) | u64::from(number))
    }

    fn of(data: EventData) -> Self {
        let data = data.u64();
        // The lower half.
        let number = data as u32;
        match data >> 32 {
            1 => Self::Listener(number),
            2 => Self::Client(number),
            3 => Self::Endpoint(number),
            4 => Self::Datagrams(number),
            5 => Self::Flow(number),
            _ => Self::Wake,
        }
    }
}

/// How a socket is watched.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Watch {
    /// As long as there is something to accept or to take, it is said again.
    Level,
    /// What changes is said once.
    Edge,
}

/// What a worker waits for. Sockets may be added by any thread; one that is closed is no longer in
/// it (epoll(7), "Will closing a file descriptor cause it to be removed").
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
    wake: OwnedFd,
}

impl Poll {
    /// Waits for nothing yet but to be woken.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        // By edge: then nothing is to be read from it.
        poll.add(&poll.wake, Token::Wake, Watch::Edge)?;
        Ok(poll)
    }

    /// Waits for this socket too.
    ///
    /// # Errors
    /// The kernel has no memory for it, or the user watches too many (`fs.epoll.max_user_watches`).
    pub(crate) fn add(&self, socket: impl AsFd, token: Token, watch: Watch) -> io::Result<()> {
        let flags = match watch {
            Watch::Level => EventFlags::IN,
            Watch::Edge => EDGES,
        };
        Ok(epoll::add(&self.epoll, socket, token.data(), flags)?)
    }

    /// A socket that is watched by level is not listened to for a while, or is again.
    pub(super) fn listen(&self, socket: impl AsFd, token: Token, listen: bool) -> io::Result<()> {
        let flags = if listen {
            EventFlags::IN
        } else {
            EventFlags::empty()
        };
        Ok(epoll::modify(&self.epoll, socket, token.data(), flags)?)
    }

    /// Of a socket that is watched by edge nothing is said for a while but its end, or all is again: then
    /// at once how it stands.
    pub(super) fn hush(&self, socket: impl AsFd, token: Token, hush: bool) -> io::Result<()> {
        let flags = if hush {
            EventFlags::RDHUP | EventFlags::ET
        } else {
            EDGES
        };
        Ok(epoll::modify(&self.epoll, socket, token.data(), flags)?)
    }

    /// Ends a wait, from any thread.
    pub(crate) fn wake(&self) {
        // It fails where it was woken 2^64 times and never looked: it will.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// What a wait brings.
pub(super) struct Events(Vec<Event>);

impl Events {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(EVENTS))
    }

    /// Waits until something is to be said, or `timeout` is over.
    pub(super) fn wait(&mut self, poll: &Poll, timeout: Option<Duration>) -> io::Result<()> {
        self.0.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let room = rustix::buffer::spare_capacity(&mut self.0);
        match epoll::wait(&poll.epoll, room, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Leaves those of which that is true.
    pub(super) fn retain(&mut self, mut left: impl FnMut(Token, EventFlags) -> bool) {
        self.0
            .retain(|event| left(Token::of(event.data), event.flags));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, at: usize) -> Option<(Token, EventFlags)> {
        let event = self.0.get(at)?;
        Some((Token::of(event.data), event.flags))
    }
}
