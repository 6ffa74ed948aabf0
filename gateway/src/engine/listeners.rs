//! The listening sockets of a worker, and which of them are paused.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use fairway_config::net::ListenAddr;

use super::mailbox::{Listening, Steered};
use crate::descriptors::PausedSocket;
use crate::slot::Slot;
use crate::tasks::Tasks;

/// The listening sockets of a worker.
pub(super) struct Listeners {
    pub(super) by_number: HashMap<u32, Listener>,
    /// The listen addresses whose connections are steered.
    pub(super) steered: HashMap<ListenAddr, Steered>,
    /// The sockets where steered connections arrive.
    arrivals: Vec<u32>,
    /// The listeners that wait for file descriptors, in the order in which they are tried.
    pub(super) paused: VecDeque<u32>,
    /// When paused listeners are tried again, at the latest.
    pub(super) retry: Option<Instant>,
    /// When paused listeners were tried last.
    pub(super) resumed: Instant,
    pub(super) tasks: Tasks,
}

pub(super) struct Listener {
    pub(super) listening: Listening,
    /// How many connections are accepted at once: as many as there were lately. One more try would cost a
    /// system call that accepts nothing.
    pub(super) batch: u32,
    /// The round of the worker's loop that accepted last.
    pub(super) round: u64,
    /// It waits for file descriptors.
    pub(super) paused: Option<PausedSocket>,
}

/// Why accepting at a socket stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    /// No connection waits, or enough were accepted. epoll reports when there are more.
    Enough,
    /// The file descriptors are used up, or the port's share of them.
    NoDescriptors,
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
            paused: None,
        };
        self.by_number.insert(number, listener);
    }

    /// Begins to steer: connections to that listen address are for this slot.
    pub(super) fn steer(&mut self, steered: Steered) {
        self.steered.insert(steered.slot.listen, steered);
    }

    /// No connection to these listen addresses is steered any more.
    pub(super) fn unsteer(&mut self, places: &[ListenAddr]) {
        for place in places {
            self.steered.remove(place);
        }
    }

    /// The sockets where steered connections arrive.
    pub(super) fn arrivals(&self) -> impl Iterator<Item = u32> {
        self.arrivals.iter().copied()
    }

    /// The slot of a socket, if the socket is there. The inner value is none where steered connections arrive.
    pub(super) fn slot(&self, number: u32) -> Option<Option<Arc<Slot>>> {
        let listener = self.by_number.get(&number)?;
        Some(listener.listening.slot.clone())
    }

    /// Closes a socket.
    pub(super) fn remove(&mut self, number: u32) {
        if self
            .by_number
            .remove(&number)
            .is_some_and(|it| it.paused.is_some())
        {
            self.paused.retain(|paused| *paused != number);
        }
    }

    /// When paused listeners are tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.retry.is_some_and(|retry| retry <= now)
    }
}
