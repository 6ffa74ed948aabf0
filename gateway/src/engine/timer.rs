//! What a connection waits for that comes with time alone.

use std::time::Duration;

use crate::shared::Shared;

/// How long an endpoint has for its answer while there are others to try: more than the one second
/// after which TCP repeats a SYN that was lost (RFC 6298).
const IMPATIENT: Duration = Duration::from_millis(1500);

/// Most endpoints answer within this. Only where one does not, it is looked meanwhile whether the
/// client goes away.
const FRESH: Duration = Duration::from_millis(50);

/// How long to wait where the kernel has no file or no memory for another socket just now.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Connections that live this long are worth the system calls that make the kernel find out whether
/// the endpoint is still there.
const YOUNG: Duration = Duration::from_secs(10);

/// How soon it is looked again whether the client has all. Most have it a round trip later.
const SOON: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_millis(500);

/// What a connection waits for that comes with time alone: the list that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Timer {
    /// For an endpoint's answer, a moment.
    Fresh,
    /// The same, while there are others to try.
    Impatient,
    /// The same of the last that is tried.
    Patient,
    /// Until the kernel has a socket.
    Exhausted,
    /// Until it is old enough for keep-alive probes.
    Young,
    /// Until it is looked whether a client takes what its endpoint has said before it ended.
    Stalled,
    /// Until its client has all.
    Soon,
    /// The same, of a client that takes its time.
    Seldom,
}

impl Timer {
    pub(super) const COUNT: usize = 8;
    pub(super) const ALL: [Self; Self::COUNT] = [
        Self::Fresh,
        Self::Impatient,
        Self::Patient,
        Self::Exhausted,
        Self::Young,
        Self::Stalled,
        Self::Soon,
        Self::Seldom,
    ];

    /// How long.
    pub(super) fn duration(self, shared: &Shared) -> Duration {
        match self {
            Self::Fresh => FRESH,
            Self::Impatient => IMPATIENT.min(shared.connect_timeout).saturating_sub(FRESH),
            Self::Patient => shared.connect_timeout.saturating_sub(FRESH),
            Self::Exhausted => EXHAUSTED,
            Self::Young => YOUNG,
            Self::Stalled => shared.stall_timeout,
            Self::Soon => SOON,
            Self::Seldom => SELDOM,
        }
    }
}
