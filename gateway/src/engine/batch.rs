//! A batch: small messages of several connections that go through the kernel together.

use std::sync::Once;

use super::poll::{EventFlags, Token};
use super::ring::{Ring, SLOTS};

/// The ring, and the messages of the batch that is being made.
pub(super) struct RingBatch {
    pub(super) ring: Ring,
    /// By slot of the ring.
    pub(super) messages: Vec<BatchedMessage>,
}

/// A side of a connection from which a message is read and then written to the other side.
pub(super) struct BatchedMessage {
    pub(super) token: Token,
    pub(super) flags: EventFlags,
    /// How many bytes were read and are to be written.
    pub(super) length: Option<usize>,
}

impl RingBatch {
    /// None where the kernel has no io_uring for this process, which is logged once.
    pub(super) fn new() -> Option<Self> {
        static LOGGED: Once = Once::new();
        match Ring::new() {
            Ok(ring) => Some(Self {
                ring,
                messages: Vec::with_capacity(SLOTS),
            }),
            Err(error) => {
                LOGGED.call_once(|| {
                    tracing::info!(
                        %error,
                        "no io_uring: each system call is made by itself (see --no-io-uring)"
                    );
                });
                None
            }
        }
    }
}
