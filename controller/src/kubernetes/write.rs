//! What is asked of the API server to make a decision last, and in which order.
//!
//! A Service gets the finalizer before its first address and its status after it; it loses the
//! status before the finalizer (k8s.io/cloud-provider). Every request names the version of the
//! object that it was made from, so that a race is lost and never won by accident.

use std::collections::BTreeMap;
use std::net::IpAddr;

use fairway_config::conditions;
use fairway_config::exchange::Status;
use fairway_config::service::PortKey;
use serde_json::{Value, json};

use super::known::{FINALIZER, Record};
use super::status;

/// One request about a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Set `metadata.finalizers` to these.
    Finalizers(Vec<String>),
    /// Write the status.
    Status(Status),
}

impl Step {
    /// The merge patch of the object in this version, and whether it is one of `status`.
    pub(super) fn patch(&self, resource_version: &str, foreign: &[Value]) -> (Value, bool) {
        match self {
            Self::Finalizers(finalizers) => {
                let metadata =
                    json!({"resourceVersion": resource_version, "finalizers": finalizers});
                (json!({"metadata": metadata}), false)
            }
            Self::Status(status) => (status::patch(resource_version, status, foreign), true),
        }
    }
}

/// The requests that bring a Service to where it holds these addresses and has this status.
pub(super) fn steps(record: &Record, addresses: &[IpAddr], wanted: &Status) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut others: Vec<String> = record
        .finalizers
        .iter()
        .filter(|it| ***it != *FINALIZER)
        .map(|it| it.to_string())
        .collect();
    let differs = record.stored.status != *wanted;
    if record.wants_finalizer() {
        if !record.has_finalizer() {
            others.push(FINALIZER.to_owned());
            steps.push(Step::Finalizers(others));
        }
        if differs {
            steps.push(Step::Status(wanted.clone()));
        }
        return steps;
    }
    let gives_up = record.has_finalizer() && addresses.is_empty();
    if !gives_up {
        if differs {
            steps.push(Step::Status(wanted.clone()));
        }
        return steps;
    }
    // The condition is what tells a Service that was ours: it goes last, so that whoever takes over
    // in between finds what is left to be done. One that is being deleted goes with its finalizer.
    let mut between = wanted.clone();
    let mark = conditions::ADDRESS_ASSIGNED;
    if !record.stored.service.deleting
        && let Some((kind, condition)) = record.stored.status.conditions.get_key_value(mark)
        && !between.conditions.contains_key(mark)
    {
        between.conditions.insert(kind.clone(), condition.clone());
    }
    if record.stored.status != between {
        steps.push(Step::Status(between.clone()));
    }
    steps.push(Step::Finalizers(others));
    if between != *wanted {
        steps.push(Step::Status(wanted.clone()));
    }
    steps
}

/// The JSON patch (RFC 6902) that asks for node ports, and touches nothing else of the Service.
pub(super) fn node_ports(record: &Record, numbers: &BTreeMap<PortKey, u16>) -> Value {
    let mut operations = vec![json!({
        // Another version there is a conflict, as for every patch that names one.
        "op": "replace", "path": "/metadata/resourceVersion", "value": record.resource_version,
    })];
    for (index, port) in record.stored.service.ports.iter().enumerate() {
        if let Some(number) = numbers.get(&port.key()) {
            let path = format!("/spec/ports/{index}");
            // A port that can't be read is left out when a Service is, and moves the others up.
            operations.extend([
                json!({"op": "test", "path": format!("{path}/port"), "value": port.port}),
                json!({"op": "add", "path": format!("{path}/nodePort"), "value": number}),
            ]);
        }
    }
    operations.into()
}
