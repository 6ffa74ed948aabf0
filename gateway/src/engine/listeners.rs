//! The sockets that a worker accepts at, and which of them wait.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use fairway_config::net::ListenAddr;

use super::mailbox::{Listening, Steered};
use crate::slot::Slot;
use crate::tasks::Tasks;

/// The sockets that a worker accepts at.
pub(super) struct Listeners {
    pub(super) by_number: HashMap<u32, Listener>,
    /// Whom places serve whose connections are steered.
    pub(super) steered: HashMap<ListenAddr, Steered>,
    /// The sockets where those arrive.
    arrivals: Vec<u32>,
    /// Those that wait for leave, in the order in which they have their turn.
    pub(super) paused: VecDeque<u32>,
    /// When those are tried again, whatever is said.
    pub(super) retry: Option<Instant>,
    /// When they were tried last.
    pub(super) resumed: Instant,
    pub(super) tasks: Tasks,
}

pub(super) struct Listener {
    pub(super) listening: Listening,
    /// How many are accepted at once: so many as there were lately. One more would cost a system
    /// call that accepts nothing.
    pub(super) batch: u32,
    /// The round of the worker's loop in which so many were accepted.
    pub(super) round: u64,
    pub(super) paused: bool,
}

/// How accepting at a socket ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    /// For now; epoll tells when there is more.
    Enough,
    /// There is no leave for another connection.
    NoLeave,
}

impl Listeners {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            by_number: HashMap::new(),
            steered: HashMap::new(),
            arrivals: Vec::new(),
            paused: VecDeque::new(),
            retry: None,
            resumed: Instant::now(),
            tasks,
        }
    }

    pub(super) fn insert(&mut self, number: u32, listening: Listening) {
        if listening.slot.is_none() {
            self.arrivals.push(number);
        }
        let listener = Listener {
            listening,
            batch: 1,
            round: 0,
            paused: false,
        };
        self.by_number.insert(number, listener);
    }

    /// Connections that are steered from that place are for whom it serves.
    pub(super) fn steer(&mut self, steered: Steered) {
        self.steered.insert(steered.slot.listen, steered);
    }

    /// No connection is steered from these places any more.
    pub(super) fn unsteer(&mut self, places: &[ListenAddr]) {
        for place in places {
            self.steered.remove(place);
        }
    }

    /// The sockets where steered connections arrive.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = u32> {
        self.arrivals.iter().copied()
    }

    /// Whom a socket serves, if it is there; none in it where what arrives is steered.
    pub(super) fn slot(&self, number: u32) -> Option<Option<Arc<Slot>>> {
        let listener = self.by_number.get(&number)?;
        Some(listener.listening.slot.clone())
    }

    /// Closes a socket.
    pub(super) fn remove(&mut self, number: u32) {
        if self.by_number.remove(&number).is_some_and(|it| it.paused) {
            self.paused.retain(|paused| *paused != number);
        }
    }

    /// When those that wait for leave are tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.retry.is_some_and(|retry| retry <= now)
    }
}
