//! Puts right finalizers that were left behind, or taken away.

use std::time::Duration;

use fairway_config::exchange::Change;
use fairway_config::object::ObjectKey;
use futures::StreamExt as _;

use super::known::Known;
use super::settings::key_of;
use super::shared::Shared;
use super::strays::{LONGEST, PATIENCE};
use super::write;
use crate::feed::lock;
use crate::store::WriteOutcome;

/// So many are put right at a time: one for which the API server has no room holds up no other.
const CONCURRENT: usize = 4;

impl Shared {
    /// Looks at the finalizer of a Service that changed.
    pub(super) fn note_stray(&self, known: &Known, change: &Change) {
        let Change::Service(name, Some(_)) = change else {
            return;
        };
        let key = key_of(name);
        if known.is_stray(&key) {
            self.strays.push(key, PATIENCE);
        }
    }

    /// Puts finalizers right, for ever.
    pub(super) async fn clean_up(&self) {
        futures::stream::unfold((), |()| async { Some((self.strays.next().await, ())) })
            .for_each_concurrent(CONCURRENT, |(key, waited)| self.put_right(key, waited))
            .await;
    }

    async fn put_right(&self, key: ObjectKey, waited: Duration) {
        let record = {
            let known = lock(&self.known);
            known
                .service(&key)
                .filter(|_| known.is_stray(&key))
                .cloned()
        };
        let Some(record) = record else { return };
        let addresses = match record.wants_finalizer() {
            true => record.stored.held.addresses.clone(),
            false => Vec::new(),
        };
        let steps = write::steps(&record, &addresses, &record.stored.status);
        let outcome = self.go(&key, &record, &addresses, steps, None).await;
        if let WriteOutcome::Failed(error) | WriteOutcome::Rejected(error) = outcome {
            tracing::warn!(service = %key, error, "its finalizer can't be put right");
            self.strays.push(key, (waited * 2).min(LONGEST));
        }
    }
}
