//! Puts right finalizers and annotations that were left behind, or taken away.

use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::Change;
use fairway_config::object::ObjectKey;

use super::known::ObjectCache;
use super::settings::key_of;
use super::shared::Shared;
use super::strays::{LONGEST, PATIENCE};
use super::write;
use crate::feed::lock;
use crate::retry_queue::doubled;
use crate::store::WriteOutcome;

impl Shared {
    /// Looks at finalizer and annotation of a Service that changed.
    pub(super) fn note_stray(&self, known: &ObjectCache, change: &Change) {
        let Change::Service(name, Some(_)) = change else {
            return;
        };
        let key = key_of(name);
        if known.is_stray(&key) {
            self.strays.push(key, PATIENCE);
        }
    }

    /// Has them put right when their time comes, for ever.
    pub(super) async fn clean_up(&self) {
        loop {
            let (key, waited) = self.strays.next().await;
            self.write_queue.repair(key, waited);
        }
    }

    /// Puts one right, and tries again after twice as long where that can't be done.
    pub(super) async fn put_right(&self, key: ObjectKey, waited: Duration) {
        let (record, class) = {
            let known = lock(&self.known);
            let record = known.service(&key).filter(|_| known.is_stray(&key));
            (record.cloned(), Arc::clone(known.class()))
        };
        let Some(record) = record else { return };
        let addresses = match record.wants_claim() {
            true => record.stored.held.addresses.clone(),
            false => Vec::new(),
        };
        let steps = write::steps(&record, &class, &addresses, &record.stored.status);
        let outcome = self.go(&key, &record, &addresses, steps, None).await;
        if let WriteOutcome::Failed(error)
        | WriteOutcome::HeldUp(error)
        | WriteOutcome::Rejected(error) = outcome
        {
            tracing::warn!(service = %key, error, "the finalizer of a Service can't be put right");
            self.strays.push(key, doubled(waited, LONGEST));
        }
    }
}
