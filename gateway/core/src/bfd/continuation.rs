//! A session goes on in another process, with the same discriminators and intervals, and from the same socket. The last
//! packet of each side says all that is known of it.
//!
//! Two processes may send packets of one session for a moment: who hears them can't tell them apart. So the first one
//! sends until the other one has the session, and there is no time in which nobody sends.

use super::packet::{BfdPacket, BfdState};
use super::{BfdSession, BfdTiming};
use crate::fleet::BootTime;

/// What another process needs to go on with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdContinuation {
    /// What is said of this side.
    pub said: BfdPacket,
    /// What the router says; none: it is not heard.
    pub heard: Option<BfdPacket>,
    /// Since when the session is in its state.
    pub since: BootTime,
}

impl BfdSession {
    /// What another process needs to go on.
    pub fn continuation(&self) -> BfdContinuation {
        BfdContinuation {
            said: self.packet(false),
            heard: self.remote,
            since: self.since,
        }
    }

    /// A session that goes on. Its next packet is due at once; the router has a whole detection time to be heard, for
    /// the other process has heard it so far.
    pub fn go_on(timing: BfdTiming, from: BfdContinuation, seed: u64, now: BootTime) -> Self {
        let BfdContinuation { said, heard, since } = from;
        let mut session = Self::new(timing, said.my_discriminator, seed, now);
        session.state = said.state;
        session.since = since;
        session.diagnostic = said.diagnostic;
        session.transmit_interval = said.desired_min_tx;
        session.polls = said.is_poll;
        session.remote = heard;
        session.is_stopped_by_router = heard.is_some_and(|it| it.state == BfdState::AdminDown);
        session.gone_at = heard.map(|heard| now.after(session.detection_time(&heard)));
        session
    }
}
