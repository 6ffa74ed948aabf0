//! BFD: whether a router can be reached, within a few hundred milliseconds (RFC 5880), in asynchronous mode, over one
//! hop (RFC 5881) or several (RFC 5883).
//!
//! Both sides send a packet now and then; who has heard none for a detection time is told to be down. Here that is
//! done by the process that carries the traffic: when it dies or freezes, the router hears nothing any more.
//!
//! Without I/O: time comes in as an argument, and packets go in and out as values. [`packet`] has their bytes.
//!
//! ```text
//!            Down heard           Init or Up heard
//!   Down ───────────────► Init ───────────────────► Up
//!     │ Init heard                                   ▲
//!     └──────────────────────────────────────────────┘
//!   Init, Up: nothing heard, or AdminDown heard: Down. Up: Down heard: Down.
//! ```

mod continuation;
pub mod packet;

use std::time::Duration;

pub use self::continuation::BfdContinuation;
use self::packet::{BfdDiagnostic, BfdPacket, BfdState};
use crate::fleet::BootTime;
use crate::jitter::Jitter;

/// While a session is not up, packets are at least so far apart (RFC 5880, section 6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// The settings of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BfdTiming {
    /// Packets of the router may be so close.
    pub receive_interval: Duration,
    /// Packets are sent so close, if the router takes them.
    pub transmit_interval: Duration,
    /// After the loss of so many packets a side takes the other one for gone.
    pub detect_multiplier: u8,
}

/// See the module.
#[derive(Debug)]
pub struct BfdSession {
    timing: BfdTiming,
    jitter: Jitter,
    own: u32,
    state: BfdState,
    since: BootTime,
    diagnostic: BfdDiagnostic,
    /// What the router says of itself; nothing before it was heard, or after it was not heard any more.
    remote: Option<BfdPacket>,
    /// Whether the router has stopped the session by itself: then it is not unreachable.
    is_stopped_by_router: bool,
    /// How far apart packets are sent that say so.
    transmit_interval: Duration,
    /// The router is asked to confirm the new interval.
    polls: bool,
    sends_at: BootTime,
    gone_at: Option<BootTime>,
    is_stopped: bool,
}

impl BfdSession {
    /// A session that has heard nothing. `discriminator` is a number that no other session has, and not 0; `seed`
    /// spreads packets.
    pub fn new(timing: BfdTiming, discriminator: u32, seed: u64, now: BootTime) -> Self {
        Self {
            timing,
            jitter: Jitter::new(seed),
            own: discriminator,
            state: BfdState::Down,
            since: now,
            diagnostic: BfdDiagnostic::None,
            remote: None,
            is_stopped_by_router: false,
            transmit_interval: timing.transmit_interval.max(SLOW),
            polls: false,
            sends_at: now,
            gone_at: None,
            is_stopped: false,
        }
    }

    /// Its state, and since when.
    pub fn state(&self) -> (BfdState, BootTime) {
        (self.state, self.since)
    }

    /// Its discriminator: the router's packets carry it.
    pub fn discriminator(&self) -> u32 {
        self.own
    }

    /// Whether the router has stopped the session by itself. That says nothing of whether it can be reached.
    pub fn is_stopped_by_router(&self) -> bool {
        self.is_stopped_by_router
    }

    /// When [`Self::tick`] has to be called, at the latest.
    pub fn next_deadline(&self) -> BootTime {
        self.gone_at
            .map_or(self.sends_at, |gone| gone.min(self.sends_at))
    }

    /// Time has gone on. Answers with the packet that is to be sent, if it is time for one.
    pub fn tick(&mut self, now: BootTime) -> Option<BfdPacket> {
        if self.gone_at.is_some_and(|at| now >= at) {
            self.gone_at = None;
            self.remote = None;
            if matches!(self.state, BfdState::Init | BfdState::Up) {
                self.set(BfdState::Down, BfdDiagnostic::TimeExpired, now);
            }
        }
        if now < self.sends_at {
            return None;
        }
        // A router that wants none gets none (RFC 5880, section 6.8.7).
        let wants = self.remote.as_ref().map(|it| it.required_min_rx);
        let interval = self.transmit_interval.max(wants.unwrap_or_default());
        self.sends_at = now.after(self.jittered(interval));
        let wants_none = wants.is_some_and(|it| it.is_zero());
        (!wants_none).then(|| self.packet(false))
    }

    /// Takes a packet of the router. Answers with a packet that is to be sent at once.
    pub fn receive(&mut self, now: BootTime, packet: &BfdPacket) -> Option<BfdPacket> {
        // RFC 5880, section 6.8.6.
        let is_known = packet.your_discriminator == self.own
            || (packet.your_discriminator == 0
                && matches!(packet.state, BfdState::Down | BfdState::AdminDown));
        if !is_known || self.is_stopped {
            return None;
        }
        if packet.is_final {
            self.polls = false;
        }
        self.remote = Some(*packet);
        self.gone_at = Some(now.after(self.detection_time(packet)));
        self.is_stopped_by_router = packet.state == BfdState::AdminDown;
        match (self.state, packet.state) {
            (BfdState::AdminDown, _) => {}
            (BfdState::Down, BfdState::Down) => self.set(BfdState::Init, self.diagnostic, now),
            (BfdState::Down, BfdState::Init) | (BfdState::Init, BfdState::Init | BfdState::Up) => {
                self.set(BfdState::Up, BfdDiagnostic::None, now);
            }
            (BfdState::Init | BfdState::Up, BfdState::AdminDown)
            | (BfdState::Up, BfdState::Down) => {
                self.set(BfdState::Down, BfdDiagnostic::NeighborDown, now);
            }
            _ => {}
        }
        // The router's interval may have become shorter.
        let wants = packet.required_min_rx;
        let latest = now.after(self.transmit_interval.max(wants));
        self.sends_at = self.sends_at.min(latest);
        packet.is_poll.then(|| self.packet(true))
    }

    /// Ends it: the router is told that it is not to conclude anything from silence. Answers with the packet that
    /// tells it.
    pub fn stop(&mut self, now: BootTime) -> BfdPacket {
        self.set(BfdState::AdminDown, BfdDiagnostic::AdminDown, now);
        self.is_stopped = true;
        self.gone_at = None;
        self.packet(false)
    }

    fn set(&mut self, state: BfdState, diagnostic: BfdDiagnostic, now: BootTime) {
        let had = std::mem::replace(&mut self.state, state);
        self.diagnostic = diagnostic;
        if had == state {
            return;
        }
        self.since = now;
        let interval = match state {
            BfdState::Up => self.timing.transmit_interval,
            _ => self.timing.transmit_interval.max(SLOW),
        };
        // A change of the interval is confirmed while the session is up (section 6.8.3).
        self.polls = state == BfdState::Up && interval != self.transmit_interval;
        self.transmit_interval = interval;
        // The router hears of it at once.
        self.sends_at = now;
    }

    /// After so long a silence a router that sends such packets is gone.
    fn detection_time(&self, packet: &BfdPacket) -> Duration {
        let interval = packet.desired_min_tx.max(self.timing.receive_interval);
        interval.saturating_mul(packet.detect_multiplier.into())
    }

    fn packet(&self, is_final: bool) -> BfdPacket {
        BfdPacket {
            diagnostic: self.diagnostic,
            state: self.state,
            is_poll: self.polls && !is_final,
            is_final,
            detect_multiplier: self.timing.detect_multiplier.max(1),
            my_discriminator: self.own,
            your_discriminator: self.remote.map_or(0, |it| it.my_discriminator),
            desired_min_tx: self.transmit_interval,
            required_min_rx: self.timing.receive_interval,
        }
    }

    /// Three to four quarters of it, and not all of it where one lost packet is enough (section 6.8.7).
    fn jittered(&mut self, time: Duration) -> Duration {
        let most = if self.timing.detect_multiplier <= 1 {
            900
        } else {
            1000
        };
        self.jitter.shorten(time, most)
    }
}

#[cfg(test)]
mod tests;
