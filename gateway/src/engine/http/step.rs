//! What a step of a request has come to.

use std::io;

use fairway_gateway_core::http1::{AfterAnswer, OwnAnswer};

/// What a step has come to.
#[derive(Debug)]
pub(super) enum CarryStep {
    /// Something has moved, and more may.
    Again,
    /// The sockets have to say something.
    Waits,
    /// All of the answer is written.
    Answered(AfterAnswer),
    /// The client gets an answer of ours.
    Own(OwnAnswer),
    /// The endpoint has ended or broken off before its answer was whole.
    EndpointLost(io::Error),
    /// The client is gone.
    ClientLost(io::Error),
    /// The client is gone, and the endpoint has what it said.
    Abandoned,
    /// Both sides are bytes from here on.
    Upgrade,
}
