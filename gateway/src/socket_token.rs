//! The token of a listening socket: the socket counts as open until its token is dropped.

use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::hops::HopFilter;

/// Belongs to one socket of a listener, which counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct SocketToken {
    hop_filter: HopFilter,
    _open: TaskTrackerToken,
}

impl SocketToken {
    /// The token of a socket with this hop filter, counted by `open`.
    pub(crate) fn new(hop_filter: HopFilter, open: TaskTrackerToken) -> Self {
        Self {
            hop_filter,
            _open: open,
        }
    }

    /// The hop filter of the socket.
    pub(crate) fn hop_filter(&self) -> HopFilter {
        self.hop_filter
    }
}
