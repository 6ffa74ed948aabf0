//! Puts right what a Service has besides addresses and conditions: finalizers and annotations that were
//! left behind, or taken away; and says so where two controllers would take one Service.

use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::Change;
use fairway_config::object::ObjectKey;
use fairway_controller_core::events::Event;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use tokio::time::Instant;

use super::lease::lease_name;
use super::object_cache::ObjectCache;
use super::other_controllers::LOOK_AGAIN;
use super::ownership::{ControllerIdentity, ControllerName};
use super::repair_queue::{LONGEST, PATIENCE};
use super::service_record::{ServiceOwner, ServiceRecord};
use super::service_requests::{self, ServiceClaim, ServiceRequest};
use super::settings::{REQUEST, key_of, now};
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
        let is_lost = cache.service(&key).is_some_and(|it| it.is_lost);
        if is_lost || cache.needs_repair(&key) {
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
            let record = cache.service(&key).filter(|record| {
                // Whoever has lost a Service looks again whether the other is gone, and so does who has one that
                // another would take.
                record.is_lost
                    || record.contender(cache.identity()).is_some()
                    || record.needs_repair(cache.identity())
            });
            (record.cloned(), cache.controller().clone())
        };
        let Some(record) = record else { return };
        let outcome = match record.owner.clone() {
            ServiceOwner::Us if self.has_gone_contender(&record, &class) => {
                self.end_contest(&key, &record).await
            }
            ServiceOwner::Us => self.restore_claim(&key, &record, class.identity()).await,
            ServiceOwner::Nobody if record.ours => {
                self.restore_claim(&key, &record, class.identity()).await
            }
            ServiceOwner::Other(owner) if self.is_gone(class.namesake(&owner)).await => {
                let message = format!("taken over from {owner}: that controller is gone");
                self.log(&record, "TakenOver", false, message);
                self.take_over(&key, &record, class.identity()).await
            }
            ServiceOwner::Other(owner) => {
                let outcome = self.contest(&key, &record, class.identity()).await;
                if record.is_lost && class.namesake(&owner).is_some() {
                    self.repairs.push(key.clone(), LOOK_AGAIN);
                }
                outcome
            }
            ServiceOwner::Nobody => self.contest(&key, &record, class.identity()).await,
        };
        if let WriteOutcome::Failed(error)
        | WriteOutcome::HeldUp(error)
        | WriteOutcome::Rejected(error) = outcome
        {
            let message = format!("its finalizer can't be put right: {error}");
            self.log(&record, "FinalizerNotRepaired", true, message);
            self.repairs.push(key, doubled(waited, LONGEST));
        }
    }

    fn log(&self, record: &ServiceRecord, reason: &str, is_warning: bool, message: String) {
        let event = Event {
            reason: reason.to_owned(),
            is_warning,
            is_of_traffic: false,
            message,
        };
        self.event_recorder.log(record, &event);
    }

    /// Takes a Service over: where its status names who has it, the status first, for that counts. What
    /// else is to be changed is put right after that.
    async fn take_over(
        &self,
        key: &ObjectKey,
        record: &ServiceRecord,
        identity: &Arc<str>,
    ) -> WriteOutcome {
        if let Some(patch) = service_requests::take_over(record, identity, now()) {
            return self.patch_status(key, record, patch).await;
        }
        let claim = ServiceRequest::Claim(ServiceClaim::of(record, identity));
        let addresses = &record.stored.held.addresses;
        self.send_requests(key, record, addresses, vec![claim], None)
            .await
    }

    /// Says that another controller has what this one would take, or takes that back.
    async fn contest(
        &self,
        key: &ObjectKey,
        record: &ServiceRecord,
        identity: &str,
    ) -> WriteOutcome {
        match service_requests::contest(record, identity, now()) {
            Some(patch) => self.patch_status(key, record, patch).await,
            None => WriteOutcome::Superseded,
        }
    }

    /// Whether a controller that would take the Service, too, was found to be gone.
    fn has_gone_contender(&self, record: &ServiceRecord, us: &ControllerIdentity) -> bool {
        let contender = record.contender(us.identity());
        let contender = contender.and_then(|it| us.another(it));
        contender.is_some_and(|it| lock(&self.other_controllers).is_gone(it))
    }

    /// Takes away what it has said.
    async fn end_contest(&self, key: &ObjectKey, record: &ServiceRecord) -> WriteOutcome {
        match service_requests::end_contest(record) {
            Some(patch) => self.patch_status(key, record, patch).await,
            None => WriteOutcome::Superseded,
        }
    }

    async fn restore_claim(
        &self,
        key: &ObjectKey,
        record: &ServiceRecord,
        identity: &Arc<str>,
    ) -> WriteOutcome {
        let addresses = match record.wants_claim() {
            true => record.stored.held.addresses.clone(),
            false => Vec::new(),
        };
        let steps =
            service_requests::steps(record, identity, &addresses, &record.stored.status, now());
        self.send_requests(key, record, &addresses, steps, None)
            .await
    }

    /// Whether this controller is gone. Its Lease is asked for where that was not done a moment ago.
    pub(super) async fn is_gone(&self, controller: Option<ControllerName<'_>>) -> bool {
        let Some(controller) = controller else {
            return false;
        };
        if lock(&self.other_controllers).is_due(controller, Instant::now()) {
            let leases: Api<Lease> = Api::namespaced(self.client.clone(), controller.namespace);
            let name = lease_name(controller.class);
            let asked = tokio::time::timeout(REQUEST, leases.get_opt(&name)).await;
            // Where nobody says it is not gone.
            let Ok(Ok(lease)) = asked else { return false };
            let version = lease.map(|it| it.metadata.resource_version.unwrap_or_default());
            lock(&self.other_controllers).note(controller, version, Instant::now());
        }
        lock(&self.other_controllers).is_gone(controller)
    }
}
