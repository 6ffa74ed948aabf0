//! The sockets that a worker accepts at, and which of them wait.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use fairway_config::net::ListenAddr;

use super::mailbox::{Listening, Steered};
use crate::tasks::Tasks;

/// The sockets that a worker accepts at.
pub(super) struct Listeners {
    pub(super) by_number: HashMap<u32, Listener>,
    /// Whom places serve whose connections are steered.
    pub(super) steered: HashMap<ListenAddr, Steered>,
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

impl Listeners {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self {
            by_number: HashMap::new(),
            steered: HashMap::new(),
            paused: VecDeque::new(),
            retry: None,
            resumed: Instant::now(),
            tasks,
        }
    }

    pub(super) fn insert(&mut self, number: u32, listening: Listening) {
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

    /// When those that wait for leave are tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.retry.is_some_and(|retry| retry <= now)
    }
}
