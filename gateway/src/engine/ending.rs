//! What others have told a worker to end: sockets that listen, places that are steered, connections.
//!
//! Each is ended a few at a time, between two looks at what else there is to do: a thousand Services that
//! go, or a port with 20,000 connections, hold up nobody else's.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use fairway_config::net::ListenAddr;

use super::mailbox::WorkerCommand;
use crate::socket::BACKLOG;

/// Commands in one round, connections that are accepted at sockets that close, and connections that are
/// looked at because something is cut: so many each.
pub(super) const MOST: u32 = 64;

/// Connections that were looked at because something was cut, over the whole process. A test holds it to
/// those that belong to what was cut.
static EXAMINED: AtomicU64 = AtomicU64::new(0);

/// How many connections were looked at because something was cut.
pub(crate) fn examined() -> u64 {
    EXAMINED.load(Ordering::Relaxed)
}

/// One more.
pub(super) fn count_examined() {
    EXAMINED.fetch_add(1, Ordering::Relaxed);
}

/// What is yet to be done.
#[derive(Default)]
pub(super) struct Ending {
    pub(super) commands: VecDeque<WorkerCommand>,
    /// How many more are obeyed in this round.
    pub(super) budget: u32,
    pub(super) closing: VecDeque<Closing>,
    /// Connections to be looked at. One that has a number by now that another had is not cut for it.
    pub(super) cutting: VecDeque<u32>,
}

/// What is closed once all is accepted that waited there when it was told.
pub(super) enum Closing {
    /// A socket that listens.
    Listener(Backlog),
    /// Places whose connections are steered, and the sockets where those arrive.
    Steered {
        places: Vec<ListenAddr>,
        arrivals: Vec<Backlog>,
        begun: bool,
    },
}

/// A socket, and how many connections may have waited there: no more than the kernel queues. Others may
/// come without end.
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

impl Ending {
    /// Whether there is anything left to do.
    pub(super) fn is_done(&self) -> bool {
        self.commands.is_empty() && self.closing.is_empty() && self.cutting.is_empty()
    }

    /// A new round begins.
    pub(super) fn begin(&mut self) {
        self.budget = MOST;
    }

    /// A socket is to close.
    pub(super) fn close(&mut self, listener: u32) {
        let closing = Closing::Listener(Backlog::at(listener));
        self.closing.push_back(closing);
    }

    /// A place is steered no more: the kernel was told so before.
    pub(super) fn unsteer(&mut self, place: ListenAddr, arrivals: impl Iterator<Item = u32>) {
        if let Some(Closing::Steered { places, begun, .. }) = self.closing.back_mut()
            && !*begun
        {
            // What waits at those sockets is accepted once, for all of them.
            return places.push(place);
        }
        self.closing.push_back(Closing::Steered {
            places: vec![place],
            arrivals: arrivals.map(Backlog::at).collect(),
            begun: false,
        });
    }
}
