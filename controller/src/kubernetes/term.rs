//! Whether this process leads.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::feed::lock;

/// Whether this process leads, at this moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Term(Arc<Mutex<Option<Instant>>>);

impl Term {
    /// Whether a write may begin now.
    pub fn holds(&self) -> bool {
        lock(&self.0).is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn set(&self, until: Option<Instant>) {
        *lock(&self.0) = until;
    }
}
