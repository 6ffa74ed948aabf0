//! How long things take in a fleet.

use std::time::Duration;

/// How often a member speaks; [`super::Fleet::tick`] is called as often.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

/// How long after a tick an owner may answer.
pub const RIGHT: Duration = Duration::from_millis(300);

/// A member that nobody has heard for so long is gone.
pub const SILENT: Duration = Duration::from_millis(500);

/// So long after the first candidate the next one takes an address that nobody owns.
pub const STEP: Duration = Duration::from_millis(100);

/// A member listens for no longer than this, or it is slow: then nobody waits for it.
pub(super) const LISTENS: Duration = Duration::from_millis(800);

/// An address that is new is left for so long to whom the spread names, while others have not said that they know the
/// same addresses as we: the store tells some sooner than others, and Services that come at once get their listeners one
/// after the other.
pub const LEARNS: Duration = Duration::from_secs(3);

/// So long the one that is to take a new address first may need until it knows that no other host uses it: it asks for
/// 800 ms, perhaps a moment later than we would.
pub(super) const ASKS: Duration = Duration::from_millis(1200);

/// Time since the machine started, with the time that it slept (CLOCK_BOOTTIME, clock_gettime(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// So much later.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// So much earlier.
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }

    /// How long after `other` it is.
    pub fn since(self, other: Self) -> Duration {
        self.0.saturating_sub(other.0)
    }
}
