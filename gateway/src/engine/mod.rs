//! A worker's connections: one thread, one epoll, one loop.
//!
//! A TCP connection here is a number, two sockets and their state. An idle one holds no buffer, no timer of
//! its own and no task.
//!
//! Where things are:
//! - `poll`: epoll, edge-triggered; `slab`: the connections by number, and in lists by timer and by owner
//!   (`owners`);
//! - `listeners` and `accept`: how connections come in;
//! - [`connection`]: the state machine of one; `dial`: the search for an endpoint;
//!   `direction`, `side`: how its bytes go; `timer`;
//! - `batch_io`, `batch` and `ring`: small messages of several connections in two system calls (io_uring);
//! - `mailbox`, `commands` and `pending`: what other threads tell the worker, and what of it is left to do;
//! - `udp`: UDP flows;
//! - `handing`: what goes to another process, or comes from one, with the commands in `handover`;
//! - [`http`]: connections that are carried by request (HTTP/1), with `http_parts` and `http_steps`.
//!
//! What needs a runtime (h2, probes) is handed to the worker's [tasks](crate::tasks).
//!
//! Nothing here blocks, and a connection makes only a few reads before the others go on.

mod accept;
mod batch;
mod batch_io;
mod commands;
mod connection;
mod dial;
mod direction;
mod handing;
mod handover;
mod http;
mod http_parts;
mod http_steps;
mod listeners;
mod mailbox;
mod next;
mod owners;
mod pending;
mod poll;
mod ring;
mod side;
mod slab;

#[cfg(test)]
mod tests;
mod timer;
mod udp;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::task_tracker::TaskTrackerToken;

use self::batch::RingBatch;
pub(crate) use self::batch_io::batched_messages;
use self::connection::TcpConnection;
pub(crate) use self::direction::spliced;
use self::direction::{BUFFER, Tools};
pub(crate) use self::handover::{
    Admission, FrozenPart, HandoverCommand, OfferedPart, TakenConnection, TakenFlow,
};
use self::http_parts::HttpParts;
use self::listeners::Listeners;
pub(crate) use self::mailbox::{Cut, Listening, Mailbox, Receiving, Steered, WorkerCommand};
use self::next::{Environment, Next};
use self::pending::PendingWork;
pub(crate) use self::pending::examined;
use self::poll::{EventFlags, Events, Token};
use self::slab::Slab;
use self::timer::Timer;
use self::udp::{UdpContext, UdpProxy};
use crate::shared::GatewayShared;
use crate::source_address::SourceFallback;
use crate::tasks::Tasks;

/// How often idle UDP flows are removed.
const EXPIRY: Duration = Duration::from_secs(1);

/// The most connections of one timer that a round handles.
const MOST_DUE: usize = 64;

type Connections = Slab<TcpConnection, { Timer::COUNT }>;

/// A worker's connections.
pub(crate) struct Engine {
    shared: Arc<GatewayShared>,
    mailbox: Arc<Mailbox>,
    listeners: Listeners,
    connections: Connections,
    datagrams: UdpProxy,
    http: HttpParts,
    /// When idle UDP flows are removed next.
    expiry: Instant,
    /// The connections that go on in the next round.
    again: Vec<u32>,
    /// Connections that go to another process.
    frozen: Vec<TcpConnection>,
    source_fallback: SourceFallback,
    buffer: Box<[u8]>,
    /// The batch, where the process may use io_uring.
    batch: Option<RingBatch>,
    pending: PendingWork,
    /// Held as long as connections may come.
    open: Option<TaskTrackerToken>,
    /// How many rounds the loop has made.
    round: u64,
    draining: bool,
    stopped: bool,
}

impl Engine {
    /// An engine without connections.
    pub(crate) fn new(shared: Arc<GatewayShared>, mailbox: Arc<Mailbox>, tasks: Tasks) -> Self {
        // Nobody outside can know it, so nobody can choose addresses that fall into one bucket.
        let seed = RandomState::new().hash_one(0);
        Self {
            listeners: Listeners::new(tasks),
            connections: Slab::new(),
            datagrams: UdpProxy::new(seed, &shared),
            http: HttpParts::new(shared.descriptors.pooled()),
            expiry: Instant::now() + EXPIRY,
            again: Vec::new(),
            frozen: Vec::new(),
            source_fallback: SourceFallback::default(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            batch: shared.io_uring.then(RingBatch::new).flatten(),
            pending: PendingWork::default(),
            open: Some(shared.connections.token()),
            round: 0,
            draining: false,
            stopped: false,
            shared,
            mailbox,
        }
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut events = Events::new();
        while !self.stopped {
            let timeout = self.timeout();
            if let Err(error) = events.wait(self.mailbox.poll(), timeout) {
                // None of the other errors of epoll_wait(2) can occur here.
                tracing::error!(%error, "a worker can't wait for its sockets");
                return;
            }
            self.round += 1;
            self.pending.begin();
            self.mailbox.turned();
            // First: a number that was freed in the last round may be given to another connection in this one.
            for number in std::mem::take(&mut self.again) {
                self.step(number, TcpConnection::more);
            }
            self.go_on_http();
            self.batch(&mut events);
            for at in 0..events.len() {
                if let Some((token, flags)) = events.get(at) {
                    self.event(token, flags);
                }
            }
            self.do_pending();
            self.do_pending_http();
            self.expire();
            self.connections.reclaim();
            self.http.connections.reclaim();
            self.http.pool.reclaim();
            let is_empty = self.connections.len() == 0 && self.http.connections.len() == 0;
            if self.draining && is_empty {
                self.open = None;
            }
        }
    }

    fn event(&mut self, token: Token, flags: EventFlags) {
        match token {
            Token::Wake => {
                self.commands();
                self.resume_soon();
            }
            Token::Listener(number) => self.accept(number),
            Token::Datagrams(number) => {
                if !self.datagrams.knows(number) {
                    // The command that brings this socket has not been read yet.
                    self.commands();
                }
                if !self.mailbox.admission().datagrams {
                    return;
                }
                let context = UdpContext {
                    shared: &self.shared,
                    poll: self.mailbox.poll(),
                };
                self.datagrams.receive(number, &context);
            }
            Token::Flow(slot) => {
                let context = UdpContext {
                    shared: &self.shared,
                    poll: self.mailbox.poll(),
                };
                self.datagrams.answers(slot, flags, &context);
            }
            Token::Flows(number) => {
                let context = UdpContext {
                    shared: &self.shared,
                    poll: self.mailbox.poll(),
                };
                self.datagrams.answers_at(number, &context);
            }
            Token::Client(number) => {
                self.step(number, |connection, environment| {
                    connection.client_event(flags, environment)
                });
            }
            Token::HttpClient(number) => self.http_client_event(number, flags),
            Token::HttpEndpoint(number) => self.http_endpoint_event(number, flags),
            Token::Endpoint(number) => {
                self.step(number, |connection, environment| {
                    connection.endpoint_event(flags, environment)
                });
            }
        }
    }

    /// Lets a connection go on, and puts it into the list of its timer.
    fn step(
        &mut self,
        number: u32,
        act: impl FnOnce(&mut TcpConnection, &mut Environment<'_>) -> Next,
    ) {
        let Some(connection) = self.connections.get(number) else {
            return;
        };
        let mut environment = Environment {
            shared: &self.shared,
            poll: self.mailbox.poll(),
            source_fallback: &mut self.source_fallback,
            tools: Tools {
                buffer: &mut self.buffer,
                descriptors: &self.shared.descriptors,
            },
            number,
        };
        match act(connection, &mut environment) {
            Next::Stay => {}
            Next::Wait(wait) => {
                self.connections.enlist(number, wait as u8, Instant::now());
            }
            Next::Rest => self.connections.delist(number),
            Next::More if connection.queue() => self.again.push(number),
            Next::More => {}
            Next::Hand => self.hand(number),
            Next::Over => drop(self.connections.remove(number)),
        }
    }

    /// Hands a connection to those that are carried by request, or to the worker's tasks.
    fn hand(&mut self, number: u32) {
        let Some(connection) = self.connections.remove(number) else {
            return;
        };
        if connection.is_of_http1() {
            if let Some(connection) = connection.into_http(self.mailbox.poll()) {
                self.begin_http(connection);
            }
            return;
        }
        let open = self.shared.connections.token();
        if let Some((socket, permit, task)) = connection.into_task(open) {
            self.mailbox.poll().remove(&socket);
            self.listeners.tasks.hand(socket, permit, task);
        }
    }

    /// Handles the timers that have run out.
    fn expire(&mut self) {
        let now = Instant::now();
        for wait in self.running() {
            let after = wait.duration(&self.shared);
            // The rest is handled in the next round.
            for _ in 0..MOST_DUE {
                let Some(number) = self.connections.due(wait as u8, now, after) else {
                    break;
                };
                self.step(number, |connection, environment| {
                    connection.due(wait, environment)
                });
            }
        }
        self.expire_http(now);
        if self.listeners.is_due(now) {
            self.resume();
        }
        if self.expiry <= now {
            self.expiry = now + EXPIRY;
            self.datagrams.expire(self.shared.clock.now(), &self.shared);
        }
    }

    /// The timers that some connection waits for.
    fn running(&self) -> impl Iterator<Item = Timer> + use<> {
        let filled = self.connections.filled();
        let is_running = move |timer: &Timer| filled & 1 << *timer as u8 != 0;
        Timer::ALL.into_iter().filter(is_running)
    }

    /// How long the loop may wait for events.
    fn timeout(&mut self) -> Option<Duration> {
        let is_done = self.again.is_empty() && self.pending.is_done() && self.http.is_done();
        if !(is_done && self.datagrams.all_closed()) {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let due = self.running().filter_map(|wait| {
            let since = self.connections.since(wait as u8)?;
            Some(since + wait.duration(&self.shared))
        });
        let expiry = self.datagrams.has_flows().then_some(self.expiry);
        let due = due.chain(self.listeners.due()).chain(expiry).min();
        let due = due.into_iter().chain(self.http_due()).min()?;
        Some(due.saturating_duration_since(now))
    }
}
