//! Makes objects as an API server would return them.

use fairway_config::exchange::{PoolStatus, StoredService};
use fairway_config::net::IpFamily;
use fairway_config::service::{ServicePort, ServiceType};
use fairway_config::time::Timestamp;
use serde_json::{Map, Value, json};

use crate::status_json::{StatusShape, pool_status};

/// The whole v1 Service: the author's document with every
/// field it has (managedFields alone are never read), the defaults an API server
/// fills in (pkg/apis/core/v1/defaults.go), what the Service holds, and its status.
pub(super) fn service(manifest: Value, stored: &StoredService, uid: &str) -> Value {
    let mut document = map(manifest);
    document.insert("apiVersion".to_owned(), "v1".into());
    document.insert("kind".to_owned(), "Service".into());
    let mut metadata = map(document.remove("metadata").unwrap_or_default());
    let name = &stored.service.name;
    metadata.insert("namespace".to_owned(), name.namespace.as_ref().into());
    metadata.insert("name".to_owned(), name.name.as_ref().into());
    default(&mut metadata, "uid", || uid.into());
    default(&mut metadata, "creationTimestamp", || {
        stored.first_seen.to_string().into()
    });
    metadata.insert(
        "resourceVersion".to_owned(),
        stored.version.to_string().into(),
    );
    document.insert("metadata".to_owned(), metadata.into());
    let spec = map(document.remove("spec").unwrap_or_default());
    document.insert("spec".to_owned(), self::spec(spec, stored));
    document.insert(
        "status".to_owned(),
        json!(StatusShape::from(&stored.status)),
    );
    document.into()
}

fn spec(mut spec: Map<String, Value>, stored: &StoredService) -> Value {
    let service = &stored.service;
    default(&mut spec, "type", || service.kind.as_str().into());
    default(&mut spec, "sessionAffinity", || "None".into());
    if let Some(timeout) = service.client_ip_affinity {
        default(
            &mut spec,
            "sessionAffinityConfig",
            || json!({"clientIP": {"timeoutSeconds": timeout.as_secs()}}),
        );
    }
    if service.kind != ServiceType::ExternalName {
        default(&mut spec, "internalTrafficPolicy", || "Cluster".into());
        let families = families(stored);
        default(&mut spec, "ipFamilyPolicy", || {
            json!(service.ip_family_policy)
        });
        default(&mut spec, "ipFamilies", || {
            families.iter().map(|family| family.as_str()).collect()
        });
    }
    if matches!(
        service.kind,
        ServiceType::NodePort | ServiceType::LoadBalancer
    ) {
        default(&mut spec, "externalTrafficPolicy", || {
            json!(service.external_traffic_policy)
        });
    }
    if service.kind == ServiceType::LoadBalancer {
        default(&mut spec, "allocateLoadBalancerNodePorts", || {
            service.allocate_node_ports.into()
        });
    }
    if let Some(Value::Array(ports)) = spec.get_mut("ports") {
        // The reader leaves out ports of protocols that Fairway does not carry.
        for document in ports {
            let found = service.ports.iter().find(|port| is_of(document, port));
            if let Some(port) = found {
                fill_port(document, port, stored.held.node_ports.get(&port.key()));
            }
        }
    }
    match stored.held.health_check_node_port {
        Some(number) => spec.insert("healthCheckNodePort".to_owned(), number.into()),
        None => spec.remove("healthCheckNodePort"),
    };
    spec.into()
}

/// Whether a port of the document is this one: protocol and port stand once in a Service.
fn is_of(document: &Value, port: &ServicePort) -> bool {
    let protocol = document["protocol"].as_str().filter(|it| !it.is_empty());
    let number = document["port"].as_f64();
    number == Some(f64::from(port.port)) && protocol.unwrap_or("TCP") == port.protocol.as_str()
}

fn fill_port(document: &mut Value, port: &ServicePort, node_port: Option<&u16>) {
    let Value::Object(document) = document else {
        return;
    };
    default(document, "protocol", || port.protocol.as_str().into());
    default(document, "targetPort", || port.port.into());
    match node_port {
        Some(number) => document.insert("nodePort".to_owned(), (*number).into()),
        // A requested node port that was not granted is in a condition; here is what the Service has.
        None => document.remove("nodePort"),
    };
}

/// The author's choice, else the families of what the Service holds, else IPv4.
fn families(stored: &StoredService) -> Vec<IpFamily> {
    let mut families = stored.service.ip_families.clone();
    let addresses = stored.held.addresses.iter();
    for address in addresses.chain(&stored.service.cluster_ips) {
        let family = IpFamily::of(*address);
        if stored.service.ip_families.is_empty() && !families.contains(&family) {
            families.push(family);
        }
    }
    if families.is_empty() {
        families.push(IpFamily::IPv4);
    }
    families
}

/// The whole AddressPool, with its status.
pub(super) fn pool(manifest: Value, created: Timestamp, status: &PoolStatus) -> Value {
    let mut document = map(manifest);
    let mut metadata = map(document.remove("metadata").unwrap_or_default());
    default(&mut metadata, "creationTimestamp", || {
        created.to_string().into()
    });
    document.insert("metadata".to_owned(), metadata.into());
    document.insert("status".to_owned(), pool_status(status));
    document.into()
}

/// A document as YAML, with a line that says who wrote it.
pub(super) fn yaml(document: &Value) -> Result<Vec<u8>, String> {
    let yaml = serde_saphyr::to_string(document).map_err(|error| error.to_string())?;
    Ok(format!("# Written by Fairway. Changes made here are overwritten.\n{yaml}").into_bytes())
}

fn default(map: &mut Map<String, Value>, key: &str, value: impl FnOnce() -> Value) {
    let missing = match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if missing {
        map.insert(key.to_owned(), value());
    }
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;

    use fairway_config::exchange::Held;
    use fairway_config::object::{Object, read};

    use super::*;

    #[test]
    fn a_port_that_is_left_out_does_not_shift_the_others() {
        let manifest = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "shop", "namespace": "web"},
        "spec": {"type": "NodePort", "ports": [
            {"name": "s", "port": 80, "protocol": "SCTP"},
            {"name": "a", "port": 80, "targetPort": 8080},
            {"name": "b", "port": 81, "protocol": ""},
        ]}});
        let Object::Service(service) = read(&manifest).unwrap().object else {
            panic!("no Service");
        };
        let numbers = service.ports.iter().zip(30_080..);
        let held = Held {
            node_ports: numbers.map(|(port, number)| (port.key(), number)).collect(),
            ..Held::default()
        };
        let stored = StoredService {
            held,
            ..StoredService::new(Arc::clone(&service))
        };
        let shown = super::service(manifest, &stored, "u")["spec"]["ports"].clone();
        assert_eq!(
            shown,
            json!([
                {"name": "s", "port": 80, "protocol": "SCTP"},
                {"name": "a", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30_080},
                {"name": "b", "port": 81, "protocol": "TCP", "targetPort": 81, "nodePort": 30_081},
            ])
        );
    }
}
