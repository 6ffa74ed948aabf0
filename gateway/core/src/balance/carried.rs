//! What an endpoint carries.

use std::cmp::Ordering;

/// What an endpoint carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Carried {
    /// Its share, not 0.
    pub(super) weight: u32,
    /// The connections that it has.
    pub(super) connections: u64,
}

impl Carried {
    /// The one with fewer connections for its weight is less.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        let mine = u128::from(self.connections) * u128::from(other.weight);
        let theirs = u128::from(other.connections) * u128::from(self.weight);
        mine.cmp(&theirs)
    }
}
