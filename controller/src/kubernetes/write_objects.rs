//! Sends the requests that write decisions, and classes the answers.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::exchange::{self, Held};
use fairway_config::names::ServiceName;
use fairway_config::object::{Kind, ObjectKey};
use fairway_config::service::PortKey;
use fairway_controller_core::events;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview};
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Status;
use serde_json::Value;

use super::answers::Answer;
use super::api_document::{ApiDocument, resource};
use super::leader_rights;
use super::service_record::ServiceRecord;
use super::service_requests::{self, ServiceRequest};
use super::settings::{REQUEST, key_of, now};
use super::store_context::StoreContext;
use crate::feed::lock;
use crate::store::WriteOutcome;

/// An API server that has renewed the Lease within this time works: the Lease is renewed every two
/// seconds, and a request takes four at most.
const ALIVE: Duration = Duration::from_secs(6);

impl StoreContext {
    pub(super) async fn write_service(
        &self,
        name: ServiceName,
        version: u64,
        held: Held,
        status: exchange::Status,
        since: Option<Instant>,
    ) -> WriteOutcome {
        let key = key_of(&name);
        let (record, identity) = {
            let cache = lock(&self.cache);
            (cache.service(&key).cloned(), Arc::clone(cache.identity()))
        };
        let Some(record) = record.filter(|record| record.stored.version == version) else {
            return WriteOutcome::Refused;
        };
        let steps = service_requests::steps(&record, &identity, &held.addresses, &status, now());
        let outcome = self
            .send_requests(&key, &record, &held.addresses, steps, since)
            .await;
        if outcome == WriteOutcome::Written {
            let wanted = record.wants_claim();
            let before = &record.stored;
            let events = events::events(&before.status, &before.held.addresses, &status, wanted);
            self.event_recorder.tell(&record, events);
        }
        outcome
    }

    /// Sends requests about a Service, one after the other.
    pub(super) async fn send_requests(
        &self,
        key: &ObjectKey,
        record: &ServiceRecord,
        addresses: &[IpAddr],
        steps: Vec<ServiceRequest>,
        since: Option<Instant>,
    ) -> WriteOutcome {
        let namespace = key.namespace.clone().unwrap_or_default();
        let services: Api<ApiDocument> =
            Api::namespaced_with(self.client.clone(), &namespace, &resource(Kind::Service));
        let mut resource_version = record.resource_version.to_string();
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            let (patch, is_status) = step.patch(&resource_version);
            let asked = Asked {
                kind: Kind::Service,
                subresource: is_status.then_some("status"),
                namespace: Some(&namespace),
                name: &key.name,
            };
            let (patch, parameters) = (Patch::Merge(patch), PatchParams::default());
            let answer = self.request(&namespace, || async {
                if is_status {
                    services.patch_status(&key.name, &parameters, &patch).await
                } else {
                    services.patch(&key.name, &parameters, &patch).await
                }
            });
            let Some(answer) = answer.await else {
                return not_leading();
            };
            let document = match self.judge(answer, &asked).await {
                Ok(document) => document,
                Err(outcome) => {
                    if let WriteOutcome::Rejected(error) | WriteOutcome::HeldUp(error) = &outcome {
                        self.event_recorder
                            .tell(record, vec![events::rejected(error)]);
                    }
                    return outcome;
                }
            };
            resource_version = document.resource_version().to_owned();
            let document = document.into_value(Kind::Service);
            let mut cache = lock(&self.cache);
            let change = cache.wrote(key, &record.uid, addresses.to_vec(), &document, now());
            let is_claimed = cache.service(key).is_some_and(ServiceRecord::is_claimed);
            if let Some(claim) = step.claim_alone().filter(|_| !is_claimed) {
                steps.push_front(claim);
            }
            self.feed
                .publish(change.into_iter().collect(), false, since);
        }
        WriteOutcome::Written
    }

    /// Changes one thing in the status of a Service that another controller has.
    pub(super) async fn patch_status(
        &self,
        key: &ObjectKey,
        record: &ServiceRecord,
        patch: Value,
    ) -> WriteOutcome {
        let patch: Patch<()> = match serde_json::from_value(patch).map(Patch::Json) {
            Ok(patch) => patch,
            Err(error) => return WriteOutcome::Rejected(error.to_string()),
        };
        let namespace = key.namespace.clone().unwrap_or_default();
        let services: Api<ApiDocument> =
            Api::namespaced_with(self.client.clone(), &namespace, &resource(Kind::Service));
        let parameters = PatchParams::default();
        let answer = self.request(&namespace, || async {
            services.patch_status(&key.name, &parameters, &patch).await
        });
        let Some(answer) = answer.await else {
            return not_leading();
        };
        let asked = Asked {
            kind: Kind::Service,
            subresource: Some("status"),
            namespace: Some(&namespace),
            name: &key.name,
        };
        let document = match self.judge(answer, &asked).await {
            Ok(document) => document.into_value(Kind::Service),
            Err(outcome) => return outcome,
        };
        let mut cache = lock(&self.cache);
        let held = record.stored.held.addresses.clone();
        let change = cache.wrote(key, &record.uid, held, &document, now());
        if let Some(change) = &change {
            self.queue_repair(&cache, change);
        }
        self.feed.publish(change.into_iter().collect(), false, None);
        WriteOutcome::Written
    }

    /// Asks the API server for node ports. It is the allocator: what it gives is in its answer.
    pub(super) async fn write_node_ports(
        &self,
        name: ServiceName,
        version: u64,
        numbers: &BTreeMap<PortKey, u16>,
    ) -> WriteOutcome {
        let key = key_of(&name);
        let record = lock(&self.cache).service(&key).cloned();
        let Some(record) = record.filter(|record| record.stored.version == version) else {
            return WriteOutcome::Refused;
        };
        let patch =
            serde_json::from_value(service_requests::node_ports(&record, numbers)).map(Patch::Json);
        let patch: Patch<()> = match patch {
            Ok(patch) => patch,
            Err(error) => return WriteOutcome::Rejected(error.to_string()),
        };
        let services: Api<ApiDocument> = Api::namespaced_with(
            self.client.clone(),
            &name.namespace,
            &resource(Kind::Service),
        );
        let parameters = PatchParams::default();
        let answer = self.request(&name.namespace, || async {
            services.patch(&name.name, &parameters, &patch).await
        });
        let Some(answer) = answer.await else {
            return not_leading();
        };
        let asked = Asked {
            kind: Kind::Service,
            subresource: None,
            namespace: Some(&name.namespace),
            name: &name.name,
        };
        let taken =
            matches!(&answer, Ok(Err(kube::Error::Api(status))) if blames_node_port(status));
        let document = match self.judge(answer, &asked).await {
            Ok(document) => document.into_value(Kind::Service),
            Err(WriteOutcome::Rejected(error)) if taken => return WriteOutcome::Taken(error),
            Err(outcome) => return outcome,
        };
        let mut cache = lock(&self.cache);
        let held = record.stored.held.addresses.clone();
        let change = cache.wrote(&key, &record.uid, held, &document, now());
        self.feed.publish(change.into_iter().collect(), false, None);
        WriteOutcome::Written
    }

    /// Writes the status of an object that is in no namespace.
    pub(super) async fn write_status(&self, key: &ObjectKey, patch: Value) -> WriteOutcome {
        let (kind, name) = (key.kind, &key.name);
        let objects: Api<ApiDocument> = Api::all_with(self.client.clone(), &resource(kind));
        let (patch, parameters) = (Patch::Merge(patch), PatchParams::default());
        let nowhere: Arc<str> = Arc::default();
        let answer = self.request(&nowhere, || async {
            objects.patch_status(name, &parameters, &patch).await
        });
        let Some(answer) = answer.await else {
            return not_leading();
        };
        let asked = Asked {
            kind,
            subresource: Some("status"),
            namespace: None,
            name,
        };
        match self.judge(answer, &asked).await {
            Ok(document) => {
                // What was written before is known when the next one is.
                lock(&self.cache).put_status(kind, &document.into_value(kind));
                WriteOutcome::Written
            }
            Err(outcome) => outcome,
        }
    }

    /// The outcome of a request.
    async fn judge<T>(&self, answer: Answer<T>, asked: &Asked<'_>) -> Result<T, WriteOutcome> {
        let (class, error) = match outcome(answer) {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        Err(match class {
            AnswerClass::Refused => WriteOutcome::Refused,
            AnswerClass::Rejected => WriteOutcome::Rejected(error),
            AnswerClass::Forbidden => match self.may(asked).await {
                Some(true) => WriteOutcome::Rejected(error),
                Some(false) => WriteOutcome::Failed(format!("RBAC does not allow it: {error}")),
                None => WriteOutcome::Failed(error),
            },
            // The API server works otherwise: a webhook that it asks about this object fails.
            AnswerClass::Unanswered if self.settings.leadership.renewed_within(ALIVE) => {
                WriteOutcome::HeldUp(error)
            }
            AnswerClass::Unanswered | AnswerClass::Failed => WriteOutcome::Failed(error),
        })
    }

    /// Whether our role allows a request; nothing where there is no answer. Admission and RBAC
    /// forbid with the same answer (403), and only what admission forbids is the state of one
    /// object.
    async fn may(&self, asked: &Asked<'_>) -> Option<bool> {
        let ask = || async {
            let reviews: Api<SelfSubjectAccessReview> = Api::all(self.client.clone());
            let (parameters, review) = (PostParams::default(), asked.review());
            let answer = tokio::time::timeout(REQUEST, reviews.create(&parameters, &review)).await;
            Some(answer.ok()?.ok()?.status?.allowed)
        };
        self.rights.of((asked.kind, asked.subresource), ask).await
    }
}

fn not_leading() -> WriteOutcome {
    WriteOutcome::Failed("another controller leads".to_owned())
}

/// A patch, as RBAC sees it.
struct Asked<'a> {
    kind: Kind,
    subresource: Option<&'static str>,
    namespace: Option<&'a str>,
    name: &'a str,
}

impl Asked<'_> {
    fn review(&self) -> SelfSubjectAccessReview {
        let resource = resource(self.kind);
        leader_rights::review(ResourceAttributes {
            group: Some(resource.group),
            resource: Some(resource.plural),
            subresource: self.subresource.map(str::to_owned),
            namespace: self.namespace.map(str::to_owned),
            name: Some(self.name.to_owned()),
            verb: Some("patch".to_owned()),
            ..ResourceAttributes::default()
        })
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerClass {
    /// The object has changed or is gone: what the watch brings decides.
    Refused,
    /// The object would not be valid, or a rule of the cluster is against it.
    Rejected,
    /// Either such a rule, or our role.
    Forbidden,
    /// The API server, or a webhook that it asks, gave no answer or has a fault.
    Unanswered,
    /// Anything else: it may work in a moment.
    Failed,
}

impl AnswerClass {
    /// Of an answer with this HTTP status.
    fn of(code: u16) -> Self {
        match code {
            404 | 409 => Self::Refused,
            400 | 413 | 422 => Self::Rejected,
            403 => Self::Forbidden,
            500..600 => Self::Unanswered,
            _ => Self::Failed,
        }
    }
}

/// Whether an object was rejected because of a node port. The allocator names the field; a quota, a
/// webhook or a patch that does not apply names none or another.
fn blames_node_port(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.field.starts_with("spec.ports") && cause.field.ends_with(".nodePort"))
}

fn outcome<T>(answer: Answer<T>) -> Result<T, (AnswerClass, String)> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => {
            Err((AnswerClass::of(status.code), status.message.clone()))
        }
        Ok(Err(error)) => Err((AnswerClass::Failed, error.to_string())),
        Err(_) => Err((
            AnswerClass::Unanswered,
            format!(
                "the API server did not answer within {} s",
                REQUEST.as_secs()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_port_is_blamed_where_the_answer_names_it() {
        let answer = |details| {
            let text =
                json!({"code": 422, "message": "no", "reason": "Invalid", "details": details});
            serde_json::from_value::<Status>(text)
        };
        let cause = |field| json!({"causes": [{"reason": "FieldValueInvalid", "field": field}]});
        for (details, blames) in [
            (cause("spec.ports[1].nodePort"), true),
            (cause("spec.ports[0].port"), false),
            (cause("spec.healthCheckNodePort"), false),
            (json!({"name": "shop"}), false),
            (json!(null), false),
        ] {
            let status = answer(details.clone());
            let found = status.map(|it| blames_node_port(&it));
            assert!(matches!(found, Ok(found) if found == blames), "{details}");
        }
    }

    #[test]
    fn an_answer_is_classed_by_what_it_says_of_one_object_or_of_all() {
        for (class, codes) in [
            (AnswerClass::Refused, &[404, 409][..]),
            (AnswerClass::Rejected, &[400, 413, 422]),
            (AnswerClass::Forbidden, &[403]),
            (AnswerClass::Unanswered, &[500, 503, 504]),
            (AnswerClass::Failed, &[401, 408, 410, 429]),
        ] {
            for code in codes {
                assert_eq!(AnswerClass::of(*code), class, "{code}");
            }
        }
    }
}
