//! The mailbox of a worker: the commands of other threads, and how they wake it.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fairway_config::net::ListenAddr;

use super::handover::{Admission, HandoverCommand};
use super::poll::{Epoll, Token, Trigger};
use crate::slot::Slot;
use crate::socket_token::SocketToken;

/// A command for a worker.
#[derive(Debug)]
pub(crate) enum WorkerCommand {
    /// Accept at this socket, which has that number.
    Listen(u32, Box<Listening>),
    /// Take datagrams at this socket, which has that number.
    Receive(u32, Box<Receiving>),
    /// The Service behind a UDP listener changed: end the flows whose endpoint is not eligible any
    /// more.
    Sweep(Arc<Slot>),
    /// Connections that the kernel steers are for this slot, if their listen address is the slot's.
    Steer(Box<Steered>),
    /// The kernel steers no more connections of that listen address. Accept those that still wait.
    Unsteer(ListenAddr),
    /// Accept the connections that wait at the socket of that number, and close it.
    Close(u32),
    /// Reset the connections whose time to drain is over.
    Cut(Cut),
    /// The port of that number has another idle time now: look at its connections.
    Review(u32),
    /// Do a part of handing over to another process, or of taking over from one.
    HandOver(Box<HandoverCommand>),
    /// No listener is left. Give up the task tracker's token when the last connection has ended.
    Drain,
    /// End the thread, whatever is still open.
    Stop,
}

/// The connections that may have to be cut. No others are looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cut {
    /// Those of the port of that number, or of some of its endpoints.
    Port(u32),
    /// Those that came in at the slot of that number.
    Slot(u32),
    /// All.
    All,
}

/// A TCP socket that listens, and its slot.
#[derive(Debug)]
pub(crate) struct Listening {
    /// The socket.
    pub(crate) socket: TcpListener,
    /// The slot that it serves; none where [steered](crate::steering) connections arrive.
    pub(crate) slot: Option<Arc<Slot>>,
    /// The kind of such sockets, there.
    pub(crate) arrival: Option<u32>,
    /// Until this is dropped the socket counts as open.
    pub(crate) _token: Option<SocketToken>,
}

/// A slot whose connections are steered.
#[derive(Debug)]
pub(crate) struct Steered {
    /// The slot.
    pub(crate) slot: Arc<Slot>,
    /// Until this is dropped the slot counts as open.
    pub(crate) _token: SocketToken,
}

/// A UDP socket that takes datagrams, and its slot.
#[derive(Debug)]
pub(crate) struct Receiving {
    /// The socket.
    pub(crate) socket: OwnedFd,
    /// The slot that it serves.
    pub(crate) slot: Arc<Slot>,
    /// Until this is dropped the socket counts as open.
    pub(crate) token: SocketToken,
}

/// A worker as other threads see it.
#[derive(Debug)]
pub(crate) struct Mailbox {
    poll: Epoll,
    commands: Mutex<Vec<WorkerCommand>>,
    /// How many rounds the worker's loop has made.
    turns: AtomicU64,
    /// What comes in at the listening sockets.
    admits_connections: AtomicBool,
    admits_datagrams: AtomicBool,
}

impl Mailbox {
    /// # Errors
    /// As [`Epoll::new`].
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            poll: Epoll::new()?,
            commands: Mutex::default(),
            turns: AtomicU64::new(0),
            admits_connections: AtomicBool::new(true),
            admits_datagrams: AtomicBool::new(true),
        })
    }

    /// Has the worker's epoll watch a socket, so that the caller sees a failure at once.
    /// [`WorkerCommand::Listen`] has to follow.
    ///
    /// # Errors
    /// As [`Epoll::add`].
    pub(crate) fn register_tcp(&self, socket: &TcpListener, number: u32) -> io::Result<()> {
        let trigger = trigger(self.admission().connections);
        self.poll.add(socket, Token::Listener(number), trigger)
    }

    /// The same for datagrams. [`WorkerCommand::Receive`] has to follow.
    ///
    /// # Errors
    /// As [`Epoll::add`].
    pub(crate) fn register_udp(&self, socket: &OwnedFd, number: u32) -> io::Result<()> {
        let trigger = trigger(self.admission().datagrams);
        self.poll.add(socket, Token::Datagrams(number), trigger)
    }

    /// What comes in at the listening sockets.
    pub(crate) fn admission(&self) -> Admission {
        Admission {
            connections: self.admits_connections.load(Ordering::Acquire),
            datagrams: self.admits_datagrams.load(Ordering::Acquire),
        }
    }

    /// Sets it for sockets that come from now on. [`HandoverCommand::Accept`] sets it for those that are there.
    pub(crate) fn set_admission(&self, admission: Admission) {
        self.admits_connections
            .store(admission.connections, Ordering::Release);
        self.admits_datagrams
            .store(admission.datagrams, Ordering::Release);
    }

    /// Sends the worker a command.
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

    /// How many rounds the worker's loop has made. Wakes it for one more.
    pub(crate) fn turns(&self) -> u64 {
        let turns = self.turns.load(Ordering::Relaxed);
        self.wake();
        turns
    }

    /// Counts a round of the worker's loop.
    pub(super) fn turned(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn poll(&self) -> &Epoll {
        &self.poll
    }

    pub(super) fn take(&self) -> Vec<WorkerCommand> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<WorkerCommand>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a socket is watched where that is admitted, or not yet.
fn trigger(is_admitted: bool) -> Trigger {
    match is_admitted {
        true => Trigger::Level,
        false => Trigger::Later,
    }
}
