//! Hashes whose seed nobody outside knows, so that nobody can choose addresses that meet in one bucket.

use std::hash::BuildHasher;

use siphasher::sip::SipHasher13;

/// Builds hashers of one seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HashSeed(pub(crate) u64);

impl BuildHasher for HashSeed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, !self.0)
    }
}
