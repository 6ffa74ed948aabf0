//! Sends the requests that make a decision last.

use std::net::IpAddr;
use std::time::Instant;

use fairway_config::exchange::{Held, PoolStatus, Status};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::object::{Kind, ObjectKey};
use fairway_controller_core::events;
use kube::api::{Api, Patch, PatchParams};

use super::document::{Document, resource};
use super::known::Record;
use super::write::{self, Step};
use super::{REQUEST, Shared, key_of, now, status};
use crate::feed::lock;
use crate::store::WriteOutcome;

impl Shared {
    pub(super) async fn write_service(
        &self,
        name: ServiceName,
        version: u64,
        held: Held,
        status: Status,
        since: Option<Instant>,
    ) -> WriteOutcome {
        let key = key_of(&name);
        let record = lock(&self.known).service(&key).cloned();
        let Some(record) = record.filter(|record| record.stored.version == version) else {
            return WriteOutcome::Refused;
        };
        let steps = write::steps(&record, &held.addresses, &status);
        let outcome = self.go(&key, &record, &held.addresses, steps, since).await;
        if outcome == WriteOutcome::Written {
            let wanted = record.wants_finalizer();
            let events = events::events(&record.stored.status, &status, wanted);
            self.teller.tell(&record, events);
        }
        outcome
    }

    /// Takes steps, one after the other.
    pub(super) async fn go(
        &self,
        key: &ObjectKey,
        record: &Record,
        addresses: &[IpAddr],
        steps: Vec<Step>,
        since: Option<Instant>,
    ) -> WriteOutcome {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let services: Api<Document> =
            Api::namespaced_with(self.client.clone(), namespace, &resource(Kind::Service));
        let mut resource_version = record.resource_version.to_string();
        for step in steps {
            if !self.settings.term.holds() {
                return WriteOutcome::Failed("another controller leads".to_owned());
            }
            let (patch, is_status) = step.patch(&resource_version, &record.foreign);
            let (patch, parameters) = (Patch::Merge(patch), PatchParams::default());
            let answer = tokio::time::timeout(REQUEST, async {
                if is_status {
                    services.patch_status(&key.name, &parameters, &patch).await
                } else {
                    services.patch(&key.name, &parameters, &patch).await
                }
            });
            let document = match outcome(answer.await) {
                Ok(document) => document,
                Err(outcome) => return outcome,
            };
            resource_version = document.resource_version().to_owned();
            let document = document.into_value(Kind::Service);
            let mut known = lock(&self.known);
            let change = known.wrote(key, &record.uid, addresses.to_vec(), &document, now());
            self.feed
                .publish(change.into_iter().collect(), false, since);
        }
        WriteOutcome::Written
    }

    pub(super) async fn write_pool(&self, name: ClusterName, status: PoolStatus) -> WriteOutcome {
        if !self.settings.term.holds() {
            return WriteOutcome::Failed("another controller leads".to_owned());
        }
        let pools: Api<Document> = Api::all_with(self.client.clone(), &resource(Kind::AddressPool));
        let patch = Patch::Merge(status::pool_patch(&status));
        let parameters = PatchParams::default();
        let answer = tokio::time::timeout(REQUEST, pools.patch_status(&name, &parameters, &patch));
        match outcome(answer.await) {
            Ok(_) => WriteOutcome::Written,
            Err(outcome) => outcome,
        }
    }
}

/// What became of a request.
fn outcome<T>(
    answer: Result<kube::Result<T>, tokio::time::error::Elapsed>,
) -> Result<T, WriteOutcome> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        // Changed or gone meanwhile: what the watch shows decides.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
            Err(WriteOutcome::Refused)
        }
        Ok(Err(error)) => Err(WriteOutcome::Failed(error.to_string())),
        Err(_) => Err(WriteOutcome::Failed(format!(
            "the API server did not answer within {} s",
            REQUEST.as_secs()
        ))),
    }
}
