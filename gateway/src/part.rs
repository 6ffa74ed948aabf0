//! What goes with each socket of a listener.

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::hops::HopFilter;

/// Goes with one of the sockets of a listener: until it is dropped the socket counts as open.
#[derive(Debug)]
pub(crate) struct Part {
    hop_filter: HopFilter,
    _open: TaskTrackerToken,
}

impl Part {
    /// With a socket that takes what `hop_filter` says, counted by `open`.
    pub(crate) fn new(hop_filter: HopFilter, open: TaskTrackerToken) -> Self {
        Self {
            hop_filter,
            _open: open,
        }
    }

    /// What the socket takes.
    pub(crate) fn hop_filter(&self) -> HopFilter {
        self.hop_filter
    }
}
