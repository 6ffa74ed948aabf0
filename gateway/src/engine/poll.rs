//! epoll(7): the sockets that a worker waits for, and the tokens of their events.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, CreateFlags, Event, EventData};
use rustix::event::{EventfdFlags, Timespec, eventfd};

pub(super) use rustix::event::epoll::EventFlags;

/// The events of a socket that is watched edge-triggered.
const EDGES: EventFlags = EventFlags::IN
    .union(EventFlags::OUT)
    .union(EventFlags::RDHUP)
    .union(EventFlags::PRI)
    .union(EventFlags::ET);

/// The most events of one wait.
const EVENTS: usize = 256;

/// Events taken at once from a [`SubEpoll`].
const SUB_EVENTS: usize = 64;

/// What an event is about. The numbers are those of this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// Another thread has woken the worker: it has sent a command, or has given back file descriptors.
    Wake,
    /// A TCP socket that listens.
    Listener(u32),
    /// A UDP socket that takes datagrams of clients.
    Datagrams(u32),
    /// The socket of a UDP flow to its endpoint.
    Flow(u32),
    /// Sockets of flows of a UDP listener, in a [`SubEpoll`].
    Flows(u32),
    /// The client's side of a connection.
    Client(u32),
    /// The endpoint's side of one.
    Endpoint(u32),
    /// The client's side of a connection that is carried by request.
    HttpClient(u32),
    /// A connection to an endpoint that carries requests.
    HttpEndpoint(u32),
}

impl Token {
    /// The number of the connection that it is about.
    pub(super) fn connection(self) -> Option<u32> {
        match self {
            Self::Client(number) | Self::Endpoint(number) => Some(number),
            Self::Wake
            | Self::Listener(_)
            | Self::Datagrams(_)
            | Self::Flow(_)
            | Self::Flows(_)
            | Self::HttpClient(_)
            | Self::HttpEndpoint(_) => None,
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
            Self::Flows(number) => (6, number),
            Self::HttpClient(number) => (7, number),
            Self::HttpEndpoint(number) => (8, number),
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
            6 => Self::Flows(number),
            7 => Self::HttpClient(number),
            8 => Self::HttpEndpoint(number),
            _ => Self::Wake,
        }
    }
}

/// How a socket is watched (epoll(7), "Level-triggered and edge-triggered").
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trigger {
    /// Each wait reports the socket again as long as it is readable.
    Level,
    /// The same, once [`Epoll::listen`] says so.
    Later,
    /// Each change is reported once.
    Edge,
}

/// The epoll instance of a worker. Any thread may add sockets. A socket that is closed leaves it (epoll(7),
/// "Will closing a file descriptor cause it to be removed").
#[derive(Debug)]
pub(crate) struct Epoll {
    epoll: OwnedFd,
    wake: OwnedFd,
}

impl Epoll {
    /// An instance that watches nothing yet; [`Self::wake`] ends its waits.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        };
        // Edge-triggered, so that the event counter need not be read.
        poll.add(&poll.wake, Token::Wake, Trigger::Edge)?;
        Ok(poll)
    }

    /// Watches this socket, too.
    ///
    /// # Errors
    /// The kernel has no memory for it, or the user watches too many (`fs.epoll.max_user_watches`).
    pub(crate) fn add(&self, socket: impl AsFd, token: Token, watch: Trigger) -> io::Result<()> {
        let flags = match watch {
            Trigger::Later => EventFlags::empty(),
            Trigger::Level => EventFlags::IN,
            Trigger::Edge => EDGES,
        };
        Ok(epoll::add(&self.epoll, socket, token.data(), flags)?)
    }

    /// Watches this socket no more, if it did. One that is closed leaves by itself.
    pub(super) fn remove(&self, socket: impl AsFd) {
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Has a level-triggered socket report nothing for a while, or report again.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub(super) fn listen(&self, socket: impl AsFd, token: Token, listen: bool) -> io::Result<()> {
        let flags = if listen {
            EventFlags::IN
        } else {
            EventFlags::empty()
        };
        Ok(epoll::modify(&self.epoll, socket, token.data(), flags)?)
    }

    /// Has an edge-triggered socket report the end of its stream alone for a while, or all events again. In
    /// the second case its present state is reported at once.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub(super) fn mute(&self, socket: impl AsFd, token: Token, mute: bool) -> io::Result<()> {
        let flags = if mute {
            EventFlags::RDHUP | EventFlags::ET
        } else {
            EDGES
        };
        Ok(epoll::modify(&self.epoll, socket, token.data(), flags)?)
    }

    /// The events of an edge-triggered socket have this token from now on. Its present state is reported at once.
    ///
    /// # Errors
    /// As epoll_ctl(2).
    pub(super) fn rename(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, token.data(), EDGES)?)
    }

    /// Ends the worker's wait. May be called from any thread.
    pub(crate) fn wake(&self) {
        // This fails where the counter is full: then the worker has been woken already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// An epoll within that of a worker, for the many sockets of one listener: they have one turn in a round
/// together, however many of them are ready. The kernel gives ready sockets in turn, so thousands of them
/// would be waited for by all others.
#[derive(Debug)]
pub(super) struct SubEpoll(OwnedFd);

impl SubEpoll {
    /// # Errors
    /// The process has no file descriptors left.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Waits for this socket too, by level.
    ///
    /// # Errors
    /// As [`Epoll::add`].
    pub(super) fn add(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.0, socket, token.data(), EventFlags::IN)?)
    }

    /// Waits for this socket no more, if it did.
    pub(super) fn remove(&self, socket: impl AsFd) {
        let _ = epoll::delete(&self.0, socket);
    }

    /// Puts into `ready` what some of the sockets have to tell, and does not wait.
    ///
    /// # Errors
    /// None of those of epoll_wait(2) can be met here.
    pub(super) fn take(&self, ready: &mut Vec<(Token, EventFlags)>) -> io::Result<()> {
        ready.clear();
        let mut room = [const { MaybeUninit::uninit() }; SUB_EVENTS];
        let (events, _) = epoll::wait(&self.0, &mut room, Some(&Timespec::default()))?;
        ready.extend(
            events
                .iter()
                .map(|event| (Token::of(event.data), event.flags)),
        );
        Ok(())
    }
}

impl AsFd for SubEpoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The events of one wait.
pub(super) struct Events(Vec<Event>);

impl Events {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(EVENTS))
    }

    /// Waits for events, at most for `timeout`.
    ///
    /// # Errors
    /// As epoll_wait(2), but for EINTR.
    pub(super) fn wait(&mut self, poll: &Epoll, timeout: Option<Duration>) -> io::Result<()> {
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

    /// Keeps the events for which `keep` returns true.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(Token, EventFlags) -> bool) {
        self.0
            .retain(|event| keep(Token::of(event.data), event.flags));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn get(&self, at: usize) -> Option<(Token, EventFlags)> {
        let event = self.0.get(at)?;
        Some((Token::of(event.data), event.flags))
    }
}
