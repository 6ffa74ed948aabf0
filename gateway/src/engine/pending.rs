//! The work of a worker that may be long: commands, listeners to close, connections to cut.
//!
//! A round of the worker's loop does only a part of it. So a thousand Services that are removed, or a port
//! with 20,000 connections, do not delay the connections of other Services.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use fairway_config::net::ListenAddr;

use super::mailbox::WorkerCommand;
use crate::socket::BACKLOG;

/// The most that one round does of each: commands, connections that are accepted at closing sockets, and
/// connections that are looked at because something is cut.
pub(super) const PER_ROUND: u32 = 64;

/// Connections that were looked at because something was cut, over the whole process. A test checks that only
/// connections of what was cut are looked at.
static EXAMINED: AtomicU64 = AtomicU64::new(0);

/// How many connections were looked at because something was cut, over the whole process.
pub(crate) fn examined() -> u64 {
    EXAMINED.load(Ordering::Relaxed)
}

/// Counts one connection that was looked at.
pub(super) fn count_examined() {
    EXAMINED.fetch_add(1, Ordering::Relaxed);
}

/// The work that is left for later rounds.
#[derive(Default)]
pub(super) struct PendingWork {
    pub(super) commands: VecDeque<WorkerCommand>,
    /// How many more commands this round carries out.
    pub(super) budget: u32,
    pub(super) closing: VecDeque<Closing>,
    /// The numbers of connections to be looked at. A number may belong to another connection by then, so each
    /// is checked again before it is cut.
    pub(super) cutting: VecDeque<u32>,
    /// The same of connections whose port has another idle time now.
    pub(super) reviewing: VecDeque<u32>,
}

/// Something that is closed once the connections are accepted that waited there when the command came.
pub(super) enum Closing {
    /// A socket that listens.
    Listener(Backlog),
    /// Listen addresses whose connections are steered, and the sockets where these arrive.
    Steered {
        places: Vec<ListenAddr>,
        arrivals: Vec<Backlog>,
        begun: bool,
    },
}

/// A listening socket, and how many of the connections that waited there may be left. The kernel's queue bounds
/// them; without a bound, new connections could keep the socket open without end.
#[derive(Clone, Copy)]
pub(super) struct Backlog {
    pub(super) listener: u32,
    pub(super) left: u32,
}

impl Backlog {
    fn at(listener: u32) -> Self {
        Self {
            listener,
            left: BACKLOG.unsigned_abs(),
        }
    }
}

impl PendingWork {
    /// Whether no work is left.
    pub(super) fn is_done(&self) -> bool {
        self.commands.is_empty()
            && self.closing.is_empty()
            && self.cutting.is_empty()
            && self.reviewing.is_empty()
    }

    /// Begins a new round.
    pub(super) fn begin(&mut self) {
        self.budget = PER_ROUND;
    }

    /// Closes a listening socket, when what waits there is accepted.
    pub(super) fn close(&mut self, listener: u32) {
        let closing = Closing::Listener(Backlog::at(listener));
        self.closing.push_back(closing);
    }

    /// Ends the steering of a listen address; the kernel was told so before.
    pub(super) fn unsteer(&mut self, place: ListenAddr, arrivals: impl Iterator<Item = u32>) {
        if let Some(Closing::Steered { places, begun, .. }) = self.closing.back_mut()
            && !*begun
        {
            // The waiting connections are accepted once, for all these addresses.
            return places.push(place);
        }
        self.closing.push_back(Closing::Steered {
            places: vec![place],
            arrivals: arrivals.map(Backlog::at).collect(),
            begun: false,
        });
    }
}
