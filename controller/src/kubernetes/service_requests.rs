//! The requests that write a decision on a Service, and their order.
//!
//! A Service gets the finalizer, and the annotation that says which controller has taken it, with its
//! first status, in one request: an API server takes metadata of a Service together with its status
//! (`pkg/registry/core/service/strategy.go`). Where one does not, they follow in a request of their own.
//! A Service loses the status first (k8s.io/cloud-provider), and then finalizer and annotation, by a
//! request to the object itself: an API server frees the cluster IP and the node ports of a Service that
//! goes with its last finalizer there, and not where only a status is written.
//!
//! Every request names the version of the object that it was made from, so that a race is lost and never
//! won by accident.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::annotations::CONTROLLER;
use fairway_config::exchange::Status;
use fairway_config::service::PortKey;
use fairway_config::time::Timestamp;
use serde_json::{Value, json};

use super::service_record::{FINALIZER, ServiceOwner, ServiceRecord};
use super::status;

/// What the metadata say of who has taken a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServiceClaim {
    /// `metadata.finalizers`.
    pub(super) finalizers: Vec<String>,
    /// The annotation that names the controller; nothing takes it away.
    pub(super) identity: Option<Arc<str>>,
}

impl ServiceClaim {
    /// That of the controller of this name, beside the finalizers of others.
    pub(super) fn of(record: &ServiceRecord, identity: &Arc<str>) -> Self {
        let mut claim = Self::given_up(record);
        claim.finalizers.push(FINALIZER.to_owned());
        claim.identity = Some(Arc::clone(identity));
        claim
    }

    /// None: the finalizers of others stay.
    fn given_up(record: &ServiceRecord) -> Self {
        let others = record.finalizers.iter().filter(|it| ***it != *FINALIZER);
        Self {
            finalizers: others.map(|it| it.to_string()).collect(),
            identity: None,
        }
    }

    fn metadata(&self) -> Value {
        json!({"finalizers": self.finalizers, "annotations": {CONTROLLER: self.identity}})
    }
}

/// One request about a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ServiceRequest {
    /// Set or take away finalizer and annotation.
    Claim(ServiceClaim),
    /// Write the status.
    Status {
        status: Status,
        /// The conditions that are no part of it.
        beside: Vec<Value>,
        /// Finalizer and annotation, where they are not there yet.
        claim: Option<ServiceClaim>,
    },
}

impl ServiceRequest {
    /// The merge patch of the object in this version, and whether it is one of `status`.
    pub(super) fn patch(&self, resource_version: &str) -> (Value, bool) {
        let (mut patch, claim, is_status) = match self {
            Self::Claim(claim) => (json!({}), Some(claim), false),
            Self::Status {
                status,
                beside,
                claim,
            } => (status::patch(status, beside), claim.as_ref(), true),
        };
        patch["metadata"] = claim.map_or_else(|| json!({}), ServiceClaim::metadata);
        patch["metadata"]["resourceVersion"] = resource_version.into();
        (patch, is_status)
    }

    /// What is to be sent after this request where the API server passed over its metadata.
    pub(super) fn claim_alone(self) -> Option<Self> {
        match self {
            Self::Status { claim, .. } => claim.map(Self::Claim),
            Self::Claim(_) => None,
        }
    }
}

/// The requests by which the controller of this name brings a Service to where it holds these addresses
/// and has this status.
///
/// The annotation that says whose the Service is comes with the finalizer and the first status, and goes
/// with the finalizer after everything else. So the next controller knows after a crash what is left to be
/// done, and a controller of another class knows that it has to leave the Service alone.
pub(super) fn steps(
    record: &ServiceRecord,
    identity: &Arc<str>,
    addresses: &[IpAddr],
    wanted: &Status,
    now: Timestamp,
) -> Vec<ServiceRequest> {
    let wants_claim = record.wants_claim();
    let claim = (wants_claim && !record.is_claimed()).then(|| ServiceClaim::of(record, identity));
    let is_said = record.names(identity) && !record.is_contested_by(identity);
    let mut steps = Vec::new();
    if record.stored.status != *wanted || (wants_claim && !is_said) {
        steps.push(ServiceRequest::Status {
            status: wanted.clone(),
            beside: conditions_beside(record, identity, wanted, now),
            claim,
        });
    } else {
        steps.extend(claim.map(ServiceRequest::Claim));
    }
    if !wants_claim && record.owner == ServiceOwner::Us && addresses.is_empty() {
        steps.push(ServiceRequest::Claim(ServiceClaim::given_up(record)));
    }
    steps
}

/// The conditions beside the status that is wanted: those of others, and who has taken the Service.
fn conditions_beside(
    record: &ServiceRecord,
    identity: &str,
    wanted: &Status,
    now: Timestamp,
) -> Vec<Value> {
    let is_ours = record.wants_claim();
    // Nobody contends for what is given back, nor does the one that has it.
    let is_over = !is_ours || record.is_contested_by(identity);
    let foreign = record.foreign.iter();
    let foreign = foreign.filter(|it| !(is_over && status::is_contested(it)));
    let mut others: Vec<Value> = foreign.cloned().collect();
    if is_ours && *wanted != Status::default() {
        others.push(status::taken_condition(
            identity,
            record.taken.as_ref(),
            now,
        ));
    }
    others
}

/// The JSON patch (RFC 6902) of the status by which the controller of this name takes over a Service
/// whose status names another one; nothing where it names none.
pub(super) fn take_over(record: &ServiceRecord, identity: &str, now: Timestamp) -> Option<Value> {
    let taken = record.taken.as_ref()?;
    let path = format!("/status/conditions/{}", taken.index);
    let value = status::taken_condition(identity, None, now);
    Some(json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": record.resource_version},
        {"op": "replace", "path": path, "value": value},
    ]))
}

/// The JSON patch (RFC 6902) of the status by which who has a Service takes away what a controller that is gone
/// has said of it.
pub(super) fn end_contest(record: &ServiceRecord) -> Option<Value> {
    let said = record.contested.as_ref()?;
    let path = format!("/status/conditions/{}", said.index);
    Some(json!([
        {"op": "replace", "path": "/metadata/resourceVersion", "value": record.resource_version},
        {"op": "remove", "path": path},
    ]))
}

/// The JSON patch (RFC 6902) of the status by which the controller of this name says that it would take a
/// Service that another one has; or takes that back, where it would not. What the other has written stays
/// as it is.
pub(super) fn contest(record: &ServiceRecord, identity: &str, now: Timestamp) -> Option<Value> {
    match (&record.owner, &record.contested) {
        (ServiceOwner::Other(owner), None) if record.is_lost => {
            let value = status::contested_condition(identity, owner, now);
            let version = &record.resource_version;
            Some(json!([
                {"op": "replace", "path": "/metadata/resourceVersion", "value": version},
                {"op": "add", "path": "/status/conditions/-", "value": value},
            ]))
        }
        (_, Some(_)) if !record.is_lost && record.is_contested_by(identity) => end_contest(record),
        _ => None,
    }
}

/// The JSON patch (RFC 6902) that asks for node ports, and touches nothing else of the Service.
pub(super) fn node_ports(record: &ServiceRecord, numbers: &BTreeMap<PortKey, u16>) -> Value {
    let mut operations = vec![json!({
        // Where the object has another version the API server answers with a conflict.
        "op": "replace", "path": "/metadata/resourceVersion", "value": record.resource_version,
    })];
    for (index, port) in record.stored.service.ports.iter().enumerate() {
        if let Some(number) = numbers.get(&port.key()) {
            let path = format!("/spec/ports/{index}");
            // The reader leaves out a port that it can't read, so the index may be of another port.
            operations.extend([
                json!({"op": "test", "path": format!("{path}/port"), "value": port.port}),
                json!({"op": "add", "path": format!("{path}/nodePort"), "value": number}),
            ]);
        }
    }
    operations.into()
}
