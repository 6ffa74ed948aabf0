//! What it takes to make calls together, and whose messages they carry.

use std::sync::Once;

use super::poll::{EventFlags, Token};
use super::ring::{Ring, SLOTS};

/// What it takes to make calls together.
pub(super) struct Exchange {
    pub(super) ring: Ring,
    /// Whose messages they are, by slot.
    pub(super) speakers: Vec<Speaker>,
}

/// A side of a connection that has something to say.
pub(super) struct Speaker {
    pub(super) token: Token,
    pub(super) flags: EventFlags,
    /// What it said and has yet to be written.
    pub(super) said: Option<usize>,
}

impl Exchange {
    /// None where the kernel does not make calls together, which is said once.
    pub(super) fn new() -> Option<Self> {
        static SAID: Once = Once::new();
        match Ring::new() {
            Ok(ring) => Some(Self {
                ring,
                speakers: Vec::with_capacity(SLOTS),
            }),
            Err(error) => {
                SAID.call_once(|| {
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
