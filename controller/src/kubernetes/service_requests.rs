//! The requests that write a decision on a Service, and their order.
//!
//! A Service gets the finalizer, and the annotation that says which controller has taken it, before
//! its first address and its status after it; it loses the status before them
//! (k8s.io/cloud-provider). Every request names the version of the
//! object that it was made from, so that a race is lost and never won by accident.

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

/// One request about a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ServiceRequest {
    /// Set `metadata.finalizers` to these, and the annotation that says which controller has taken the
    /// Service to this name; nothing takes it away.
    Claim(Vec<String>, Option<Arc<str>>),
    /// Write the status, and beside it the conditions that are no part of it.
    Status(Status, Vec<Value>),
}

impl ServiceRequest {
    /// The merge patch of the object in this version, and whether it is one of `status`.
    pub(super) fn patch(&self, resource_version: &str) -> (Value, bool) {
        match self {
            Self::Claim(finalizers, identity) => {
                let metadata = json!({
                    "resourceVersion": resource_version,
                    "finalizers": finalizers,
                    "annotations": {CONTROLLER: identity},
                });
                (json!({"metadata": metadata}), false)
            }
            Self::Status(status, others) => (status::patch(resource_version, status, others), true),
        }
    }
}

/// The requests by which the controller of this name brings a Service to where it holds these addresses
/// and has this status.
///
/// The annotation that says whose the Service is comes with the finalizer before everything else,
/// and goes with it after everything else. So the next controller knows after a crash what is left
/// to be done, and a controller of another class knows that it has to leave the Service alone.
pub(super) fn steps(
    record: &ServiceRecord,
    identity: &Arc<str>,
    addresses: &[IpAddr],
    wanted: &Status,
    now: Timestamp,
) -> Vec<ServiceRequest> {
    let mut steps = Vec::new();
    let others = record.finalizers.iter().filter(|it| ***it != *FINALIZER);
    let mut finalizers: Vec<String> = others.map(|it| it.to_string()).collect();
    let wants_claim = record.wants_claim();
    if wants_claim && !record.is_claimed() {
        finalizers.push(FINALIZER.to_owned());
        steps.push(ServiceRequest::Claim(
            std::mem::take(&mut finalizers),
            Some(Arc::clone(identity)),
        ));
    }
    let is_said = record.names(identity) && !record.is_contested_by(identity);
    if record.stored.status != *wanted || (wants_claim && !is_said) {
        let beside = conditions_beside(record, identity, wanted, now);
        steps.push(ServiceRequest::Status(wanted.clone(), beside));
    }
    if !wants_claim && record.owner == ServiceOwner::Us && addresses.is_empty() {
        steps.push(ServiceRequest::Claim(finalizers, None));
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

/// The JSON patch (RFC 6902) of the status by which the controller of this name says that it would take a
/// Service that another one has; or takes that back, where it would not. What the other has written stays
/// as it is.
pub(super) fn contest(record: &ServiceRecord, identity: &str, now: Timestamp) -> Option<Value> {
    let version = json!({
        "op": "replace", "path": "/metadata/resourceVersion", "value": record.resource_version,
    });
    match (&record.owner, &record.contested) {
        (ServiceOwner::Other(owner), None) if record.is_lost => {
            let value = status::contested_condition(identity, owner, now);
            Some(json!([version, {"op": "add", "path": "/status/conditions/-", "value": value}]))
        }
        (_, Some(said)) if !record.is_lost && record.is_contested_by(identity) => {
            let path = format!("/status/conditions/{}", said.index);
            Some(json!([version, {"op": "remove", "path": path}]))
        }
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
