//! What is left of a connection that takes no more requests.

use std::time::Instant;

use crate::delivery::DeliveryProgress;

/// The end of a connection.
pub(super) struct Ending {
    /// What the client gets yet.
    pub(super) held: Vec<u8>,
    /// The client's connection is reset at the end, for what it got is not all.
    pub(super) resets: bool,
    /// The client may still be sending. Where a socket with unread bytes is closed, the kernel resets it, and the
    /// client may lose the answer (RFC 9112, section 9.6). So what it sends is read and dropped for a while.
    pub(super) lingers: bool,
    pub(super) is_shut: bool,
    pub(super) checks: u8,
    pub(super) progress: DeliveryProgress,
    pub(super) since: Instant,
}

impl Ending {
    fn new(held: Vec<u8>, now: Instant) -> Self {
        Self {
            held,
            resets: false,
            lingers: false,
            is_shut: false,
            checks: 0,
            progress: DeliveryProgress::new(now),
            since: now,
        }
    }

    /// After an answer that is written.
    pub(super) fn after_answer(lingers: bool, now: Instant) -> Self {
        Self {
            lingers,
            ..Self::new(Vec::new(), now)
        }
    }

    /// After an answer of ours, of which this is left to write.
    pub(super) fn after_own_answer(held: Vec<u8>, lingers: bool, now: Instant) -> Self {
        Self {
            lingers,
            ..Self::new(held, now)
        }
    }

    /// After the beginning of an answer, of which this is left to write.
    pub(super) fn broken_off(held: Vec<u8>, now: Instant) -> Self {
        Self {
            resets: true,
            ..Self::new(held, now)
        }
    }
}
