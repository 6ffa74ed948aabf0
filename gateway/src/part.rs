//! What goes with each socket of a listener.

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::hops::Guard;

/// Goes with one of the sockets of a listener: until it is dropped the socket counts as open.
#[derive(Debug)]
pub(crate) struct Part {
    guard: Guard,
    _open: TaskTrackerToken,
}

impl Part {
    /// With a socket that takes what `guard` says, counted by `open`.
    pub(crate) fn new(guard: Guard, open: TaskTrackerToken) -> Self {
        Self { guard, _open: open }
    }

    /// What the socket takes.
    pub(crate) fn guard(&self) -> Guard {
        self.guard
    }
}
