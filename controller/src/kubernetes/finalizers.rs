//! Repairs finalizers and annotations that a crash left behind, or that a person removed.

use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::Change;
use fairway_config::object::ObjectKey;

use super::object_cache::ObjectCache;
use super::repair_queue::{LONGEST, PATIENCE};
use super::service_requests;
use super::settings::key_of;
use super::store_context::StoreContext;
use crate::feed::lock;
use crate::retry_queue::doubled;
use crate::store::WriteOutcome;

impl StoreContext {
    /// Looks at finalizer and annotation of a Service that changed.
    pub(super) fn queue_repair(&self, cache: &ObjectCache, change: &Change) {
        let Change::Service(name, Some(_)) = change else {
            return;
        };
        let key = key_of(name);
        if cache.needs_repair(&key) {
            self.repairs.push(key, PATIENCE);
        }
    }

    /// Queues the repairs when their time comes, for ever.
    pub(super) async fn clean_up(&self) {
        loop {
            let (key, waited) = self.repairs.next().await;
            self.write_queue.repair(key, waited);
        }
    }

    /// Repairs one Service. Where that fails it is tried again after twice the wait.
    pub(super) async fn repair(&self, key: ObjectKey, waited: Duration) {
        let (record, class) = {
            let cache = lock(&self.cache);
            let record = cache.service(&key).filter(|_| cache.needs_repair(&key));
            (record.cloned(), Arc::clone(cache.class()))
        };
        let Some(record) = record else { return };
        let addresses = match record.wants_claim() {
            true => record.stored.held.addresses.clone(),
            false => Vec::new(),
        };
        let steps = service_requests::steps(&record, &class, &addresses, &record.stored.status);
        let outcome = self
            .send_requests(&key, &record, &addresses, steps, None)
            .await;
        if let WriteOutcome::Failed(error)
        | WriteOutcome::HeldUp(error)
        | WriteOutcome::Rejected(error) = outcome
        {
            tracing::warn!(service = %key, error, "the finalizer of a Service can't be put right");
            self.repairs.push(key, doubled(waited, LONGEST));
        }
    }
}
