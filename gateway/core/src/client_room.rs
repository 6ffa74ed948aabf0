//! How many clients all tables of one kind may remember together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many more clients the tables that share it may remember. A table may hold as many as there is room for more, so
/// that a thousand ports leave some to one that comes later (as dynamic thresholds share out the buffer of a switch).
#[derive(Debug)]
pub struct ClientRoom(AtomicUsize);

impl ClientRoom {
    /// Room for so many clients.
    pub fn new(clients: usize) -> Self {
        Self(AtomicUsize::new(clients))
    }

    /// For how many more clients there is room.
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes the room of one client, if there is room for more than `held`.
    pub(crate) fn take(&self, held: usize) -> bool {
        let less = |left: usize| left.checked_sub(1).filter(|_| left > held);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    pub(crate) fn give(&self, count: usize) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
