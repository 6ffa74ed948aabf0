//! Up to which `resourceVersion` all changes of Services are known.
//!
//! A watch tells changes in their order, so everything is known up to the newest version that it
//! brought (KEP-5504: versions of one kind are numbers that grow). A list tells objects in the
//! order of their names, so it says nothing until it has ended. Then its newest version counts,
//! also where that is older than before, as in a cluster that was restored from a backup.

/// How far the watch of Services is.
#[derive(Debug, Default)]
pub(super) struct RevisionReached {
    reached: u64,
    /// The newest version in the list that goes on.
    listing: Option<u64>,
}

impl RevisionReached {
    /// A list of all objects begins.
    pub(super) fn begin(&mut self) {
        self.listing = Some(0);
    }

    /// An object has this version.
    pub(super) fn meet(&mut self, version: u64) {
        match &mut self.listing {
            Some(newest) => *newest = version.max(*newest),
            None => self.reached = version.max(self.reached),
        }
    }

    /// The list has ended.
    pub(super) fn end(&mut self) {
        if let Some(newest) = self.listing.take() {
            self.reached = newest;
        }
    }

    /// A snapshot that has everything up to this version is used in place of the first list.
    pub(super) fn stand_in(&mut self, newest: u64) {
        self.reached = self.reached.max(newest);
    }

    /// Whether a list goes on: an object in it may have changed several times since it was last
    /// seen.
    pub(super) fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    /// Every change up to this version is known.
    pub(super) fn get(&self) -> u64 {
        self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_counts_when_it_has_ended_and_may_go_back() {
        let mut revision = RevisionReached::default();
        revision.begin();
        revision.meet(70);
        revision.meet(30);
        assert_eq!(revision.get(), 0);
        revision.end();
        assert_eq!(revision.get(), 70);
        revision.meet(80);
        revision.meet(75);
        assert_eq!(revision.get(), 80);
        // A watch that was cut off lists again: an object may be newer than one that is still to come.
        revision.begin();
        revision.meet(95);
        assert_eq!((revision.get(), revision.is_listing()), (80, true));
        revision.meet(90);
        revision.end();
        assert_eq!(revision.get(), 95);
        // A restored cluster.
        revision.begin();
        revision.meet(40);
        revision.end();
        assert_eq!(revision.get(), 40);
    }
}
