//! A worker's connections: one thread, one epoll, one loop.
//!
//! A connection whose bytes nobody looks at is a number, two sockets and what is known of them: an
//! idle one holds no buffer, no timer of its own and no task. `slab` keeps them, `poll` waits for
//! their sockets, by edge, `accept` lets them in at its `listeners`, [`connection`] is what one does, `direction` how
//! its bytes go, `exchange` how small messages of several (`speakers`) go together, `obey` what it does that others have told
//! it, and `ending` what of that is left to do. What needs a runtime (HTTP, health checks) is handed to the worker's
//! [tasks](crate::tasks).
//!
//! Nothing here blocks, and no connection reads more than a few times before the others have their
//! turn.

mod accept;
mod connection;
mod dial;
mod direction;
mod ending;
mod exchange;
mod listeners;
mod mailbox;
mod next;
mod obey;
mod owners;
mod poll;
mod ring;
mod side;
mod slab;
mod source;
mod speakers;
#[cfg(test)]
mod tests;
mod timer;
mod udp;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::task::task_tracker::TaskTrackerToken;

use self::connection::TcpConnection;
pub(crate) use self::direction::spliced;
use self::direction::{BUFFER, Tools};
use self::ending::Ending;
pub(crate) use self::ending::examined;
pub(crate) use self::exchange::exchanged;
use self::listeners::Listeners;
pub(crate) use self::mailbox::{Cut, Listening, Mailbox, Receiving, Steered, WorkerCommand};
use self::next::{Environment, Next};
use self::poll::{EventFlags, Events, Token};
use self::slab::Slab;
use self::source::StandIns;
use self::speakers::Exchange;
use self::timer::Timer;
use self::udp::{UdpContext, UdpProxy};
use crate::shared::Shared;
use crate::tasks::Tasks;

/// How often UDP flows that are idle for too long are looked for.
const EXPIRY: Duration = Duration::from_secs(1);

/// Connections that are looked after in one round because their time has come, at most.
const MOST_DUE: usize = 64;

type Connections = Slab<TcpConnection, { Timer::COUNT }>;

/// A worker's connections.
pub(crate) struct Engine {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    listeners: Listeners,
    connections: Connections,
    datagrams: UdpProxy,
    /// When UDP flows that are idle for too long are looked for.
    expiry: Instant,
    /// Those that have more to do.
    again: Vec<u32>,
    stand_ins: StandIns,
    buffer: Box<[u8]>,
    /// Where calls are made together.
    exchange: Option<Exchange>,
    ending: Ending,
    /// Held as long as connections may come.
    open: Option<TaskTrackerToken>,
    /// How often it was looked what there is to do.
    round: u64,
    draining: bool,
    stopped: bool,
}

impl Engine {
    /// The connections of a worker: none yet.
    pub(crate) fn new(shared: Arc<Shared>, mailbox: Arc<Mailbox>, tasks: Tasks) -> Self {
        // Nobody can know it: so nobody can choose addresses that meet in one bucket.
        let seed = RandomState::new().hash_one(0);
        Self {
            listeners: Listeners::new(tasks),
            connections: Slab::new(),
            datagrams: UdpProxy::new(seed, &shared),
            expiry: Instant::now() + EXPIRY,
            again: Vec::new(),
            stand_ins: StandIns::default(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            exchange: shared.io_uring.then(Exchange::new).flatten(),
            ending: Ending::default(),
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
                // None of the errors of epoll_wait(2) can be met here.
                tracing::error!(%error, "a worker can't wait for its sockets");
                return;
            }
            self.round += 1;
            self.ending.begin();
            self.mailbox.turned();
            // First: a number that was given back in the last round may be given out in this one.
            for number in std::mem::take(&mut self.again) {
                self.step(number, TcpConnection::more);
            }
            self.exchange(&mut events);
            for at in 0..events.len() {
                if let Some((token, flags)) = events.get(at) {
                    self.event(token, flags);
                }
            }
            self.go_on_ending();
            self.expire();
            self.connections.reclaim();
            if self.draining && self.connections.len() == 0 {
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
                    // Its command is on its way.
                    self.commands();
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
            Token::Client(number) => {
                self.step(number, |connection, environment| {
                    connection.client_event(flags, environment)
                });
            }
            Token::Endpoint(number) => {
                self.step(number, |connection, environment| {
                    connection.endpoint_event(flags, environment)
                });
            }
        }
    }

    /// Lets a connection do what it can, and files it under what it waits for then.
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
            stand_ins: &mut self.stand_ins,
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
            Next::Over => drop(self.connections.remove(number)),
        }
    }

    /// Looks after those whose time has come.
    fn expire(&mut self) {
        let now = Instant::now();
        for wait in Timer::ALL {
            let after = wait.duration(&self.shared);
            // Those that are left are the first of the next round.
            for _ in 0..MOST_DUE {
                let Some(number) = self.connections.due(wait as u8, now, after) else {
                    break;
                };
                self.step(number, |connection, environment| {
                    connection.due(wait, environment)
                });
            }
        }
        if self.listeners.is_due(now) {
            self.resume();
        }
        if self.expiry <= now {
            self.expiry = now + EXPIRY;
            self.datagrams.expire(self.shared.clock.now(), &self.shared);
        }
    }

    /// How long nothing has to be done without an event.
    fn timeout(&mut self) -> Option<Duration> {
        if !(self.again.is_empty() && self.ending.is_done()) {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let due = Timer::ALL.into_iter().filter_map(|wait| {
            let since = self.connections.since(wait as u8)?;
            Some(since + wait.duration(&self.shared))
        });
        let expiry = self.datagrams.has_flows().then_some(self.expiry);
        let due = due.chain(self.listeners.due()).chain(expiry).min()?;
        Some(due.saturating_duration_since(now))
    }
}
