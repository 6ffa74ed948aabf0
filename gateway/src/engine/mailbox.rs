//! What a worker is told by others, and how it is woken for it.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fairway_config::net::ListenAddr;

use super::poll::{Poll, Token, Watch};
use crate::part::Part;
use crate::slot::Slot;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum WorkerCommand {
    /// Accept there, by that number.
    Listen(u32, Box<Listening>),
    /// Take datagrams there, by that number.
    Receive(u32, Box<Receiving>),
    /// The Service behind a UDP listener changed: end the flows whose endpoint is not eligible any
    /// more.
    Sweep(Arc<Slot>),
    /// Connections that are steered from that place are for that one.
    Steer(Box<Steered>),
    /// Accept what was steered from that place; there is no more.
    Unsteer(ListenAddr),
    /// Accept what waits there, and close it.
    Close(u32),
    /// End the connections whose time to drain is over.
    Cut(Cut),
    /// Nothing is accepted any more: when the last connection has ended, say so.
    Drain,
    /// End, whatever is still open.
    Stop,
}

/// Which connections have had their time: no others are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Those of the port of that number, or of some of its endpoints.
    Port(u32),
    /// Those that came in at the place of that number.
    Place(u32),
    /// All.
    All,
}

/// A socket that listens, and for whom.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The socket.
    pub(crate) socket: TcpListener,
    /// Whom it serves; none where what arrives is [steered](crate::steering).
    pub(crate) slot: Option<Arc<Slot>>,
    /// Until this is dropped the socket counts as open.
    pub(crate) _part: Option<Part>,
}

/// A place whose connections are steered, and for whom.
#[derive(Debug)]
pub(crate) struct Steered {
    /// Whom it serves.
    pub(crate) slot: Arc<Slot>,
    /// Until this is dropped the place counts as open.
    pub(crate) _part: Part,
}

/// A socket that takes datagrams, and for whom.
#[derive(Debug)]
pub(crate) struct Receiving {
    /// The socket.
    pub(crate) socket: OwnedFd,
    /// Whom it serves.
    pub(crate) slot: Arc<Slot>,
    /// Until this is dropped the socket counts as open.
    pub(crate) part: Part,
}

/// A worker, as those see it who have something for it.
#[derive(Debug)]
pub(crate) struct Mailbox {
    poll: Poll,
    commands: Mutex<Vec<WorkerCommand>>,
    /// How often the worker has looked what there is to do.
    turns: AtomicU64,
}

impl Mailbox {
    /// # Errors
    /// As [`Poll::new`].
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Poll::new()?,
            commands: Mutex::default(),
            turns: AtomicU64::new(0),
        })
    }

    /// Makes a socket one that the worker waits for; who does so is told of a failure at once.
    /// [`WorkerCommand::Listen`] is to follow.
    ///
    /// # Errors
    /// As [`Poll::add`].
    pub(crate) fn register_tcp(&self, socket: &TcpListener, number: u32) -> io::Result<()> {
        self.poll.add(socket, Token::Listener(number), Watch::Level)
    }

    /// The same for datagrams; [`WorkerCommand::Receive`] is to follow.
    ///
    /// # Errors
    /// As [`Poll::add`].
    pub(crate) fn register_udp(&self, socket: &OwnedFd, number: u32) -> io::Result<()> {
        self.poll
            .add(socket, Token::Datagrams(number), Watch::Level)
    }

    /// Gives the worker a command.
    pub(crate) fn send(&self, command: WorkerCommand) {
        let mut commands = self.lock();
        commands.push(command);
        if commands.len() == 1 {
            self.poll.wake();
        }
    }

    /// Wakes the worker.
    pub(crate) fn wake(&self) {
        self.poll.wake();
    }

    /// How often the worker has looked what there is to do, and wakes it to do so once more.
    pub(crate) fn turns(&self) -> u64 {
        let turns = self.turns.load(Ordering::Relaxed);
        self.wake();
        turns
    }

    /// The worker looks what there is to do.
    pub(super) fn turned(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn poll(&self) -> &Poll {
        &self.poll
    }

    pub(super) fn take(&self) -> Vec<WorkerCommand> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<WorkerCommand>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
