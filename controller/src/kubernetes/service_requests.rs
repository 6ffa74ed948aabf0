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
use serde_json::{Value, json};

use super::service_record::{FINALIZER, ServiceOwner, ServiceRecord};
use super::status;

/// One request about a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ServiceRequest {
    /// Set `metadata.finalizers` to these, and the annotation that says which controller has taken the
    /// Service to this class; nothing takes it away.
    Claim(Vec<String>, Option<Arc<str>>),
    /// Write the status.
    Status(Status),
}

impl ServiceRequest {
    /// The merge patch of the object in this version, and whether it is one of `status`.
    pub(super) fn patch(&self, resource_version: &str, foreign: &[Value]) -> (Value, bool) {
        match self {
            Self::Claim(finalizers, class) => {
                let metadata = json!({
                    "resourceVersion": resource_version,
                    "finalizers": finalizers,
                    "annotations": {CONTROLLER: class},
                });
                (json!({"metadata": metadata}), false)
            }
            Self::Status(status) => (status::patch(resource_version, status, foreign), true),
        }
    }
}

/// The requests by which the controller of `class` gives a Service these addresses and this status.
///
/// The annotation that says whose the Service is comes with the finalizer before everything else,
/// and goes with it after everything else. So the next controller knows after a crash what is left
/// to be done, and a controller of another class knows that it has to leave the Service alone.
pub(super) fn steps(
    record: &ServiceRecord,
    class: &Arc<str>,
    addresses: &[IpAddr],
    wanted: &Status,
) -> Vec<ServiceRequest> {
    let mut steps = Vec::new();
    let others = record.finalizers.iter().filter(|it| ***it != *FINALIZER);
    let mut finalizers: Vec<String> = others.map(|it| it.to_string()).collect();
    let wants_claim = record.wants_claim();
    if wants_claim && !record.is_claimed() {
        finalizers.push(FINALIZER.to_owned());
        steps.push(ServiceRequest::Claim(
            std::mem::take(&mut finalizers),
            Some(Arc::clone(class)),
        ));
    }
    if record.stored.status != *wanted {
        steps.push(ServiceRequest::Status(wanted.clone()));
    }
    if !wants_claim && record.owner == ServiceOwner::Us && addresses.is_empty() {
        steps.push(ServiceRequest::Claim(finalizers, None));
    }
    steps
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
