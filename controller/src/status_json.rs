//! The JSON of what Fairway adds to a Service: `status` as the v1 API has it, and what a Service
//! holds in a format of Fairway's own.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{
    Condition, ConditionMap, Held, Ingress, IngressPort, IpMode, PoolCount, PoolStatus, Status,
};
use fairway_config::net::{IpFamily, Protocol};
use fairway_config::service::PortKey;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// [`Held`].
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HeldShape {
    addresses: Vec<IpAddr>,
    node_ports: Vec<NodePortShape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check_node_port: Option<u16>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodePortShape {
    protocol: Protocol,
    port: u16,
    node_port: u16,
}

/// `status` of a v1 Service.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct StatusShape {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<ConditionShape>,
    load_balancer: BalancerShape,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct BalancerShape {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<IngressShape>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IngressShape {
    ip: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hostname: Option<Arc<str>>,
    ip_mode: IpMode,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortShape>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PortShape {
    port: u16,
    protocol: Protocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Arc<str>>,
}

/// An entry of `status.conditions` (metav1.Condition).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConditionShape {
    #[serde(rename = "type")]
    kind: Arc<str>,
    status: String,
    reason: Arc<str>,
    message: String,
    last_transition_time: String,
}

impl From<&Held> for HeldShape {
    fn from(held: &Held) -> Self {
        Self {
            addresses: held.addresses.clone(),
            node_ports: held
                .node_ports
                .iter()
                .map(|(key, number)| NodePortShape {
                    protocol: key.protocol,
                    port: key.port,
                    node_port: *number,
                })
                .collect(),
            health_check_node_port: held.health_check_node_port,
        }
    }
}

impl From<HeldShape> for Held {
    fn from(shape: HeldShape) -> Self {
        Self {
            addresses: shape.addresses,
            node_ports: shape
                .node_ports
                .into_iter()
                .map(|port| {
                    let key = PortKey {
                        protocol: port.protocol,
                        port: port.port,
                    };
                    (key, port.node_port)
                })
                .collect(),
            health_check_node_port: shape.health_check_node_port,
        }
    }
}

impl From<&Status> for StatusShape {
    fn from(status: &Status) -> Self {
        let ingress = status.ingress.iter().map(|ingress| IngressShape {
            ip: ingress.ip,
            hostname: ingress.hostname.clone(),
            ip_mode: ingress.ip_mode,
            ports: ingress
                .ports
                .iter()
                .map(|port| PortShape {
                    port: port.key.port,
                    protocol: port.key.protocol,
                    error: port.error.clone(),
                })
                .collect(),
        });
        Self {
            conditions: conditions(&status.conditions),
            load_balancer: BalancerShape {
                ingress: ingress.collect(),
            },
        }
    }
}

/// Conditions as a list, as the API has them.
pub(crate) fn conditions(conditions: &ConditionMap) -> Vec<ConditionShape> {
    conditions
        .iter()
        .map(|(kind, condition)| ConditionShape {
            kind: Arc::clone(kind),
            status: if condition.status { "True" } else { "False" }.to_owned(),
            reason: Arc::clone(&condition.reason),
            message: condition.message.clone(),
            last_transition_time: condition.since.to_string(),
        })
        .collect()
}

/// `status` of an AddressPool.
pub(crate) fn pool_status(status: &PoolStatus) -> Value {
    let mut shape = Map::new();
    shape.insert(
        "conditions".to_owned(),
        json!(conditions(&status.conditions)),
    );
    for (family, count) in &status.counts {
        let name = match family {
            IpFamily::IPv4 => "ipv4",
            IpFamily::IPv6 => "ipv6",
        };
        // Kubernetes' integers have 63 bits; an IPv6 prefix can have more addresses.
        let whole = |count: u128| i64::try_from(count).unwrap_or(i64::MAX);
        shape.insert(
            name.to_owned(),
            json!({
                "total": whole(count.total),
                "used": whole(count.used),
                "available": whole(count.available),
            }),
        );
    }
    shape.into()
}

/// What the `status` of an AddressPool says.
pub(crate) fn read_pool(object: &Value) -> PoolStatus {
    let conditions = object.pointer("/status/conditions");
    let conditions = conditions.and_then(Value::as_array).into_iter().flatten();
    let conditions =
        conditions.filter_map(|it| Some((text(it, "type")?.into(), read_condition(it))));
    let count = |name: &str| {
        let counts = object.pointer("/status")?.get(name)?;
        let number = |field: &str| Some(u128::from(counts.get(field)?.as_u64()?));
        Some(PoolCount {
            total: number("total")?,
            used: number("used")?,
            available: number("available")?,
        })
    };
    let families = [(IpFamily::IPv4, "ipv4"), (IpFamily::IPv6, "ipv6")];
    PoolStatus {
        conditions: conditions.collect(),
        counts: families
            .into_iter()
            .filter_map(|(family, name)| Some((family, count(name)?)))
            .collect(),
    }
}

/// A condition of any type.
pub(crate) fn read_condition(entry: &Value) -> Condition {
    Condition {
        status: text(entry, "status") == Some("True"),
        reason: text(entry, "reason").unwrap_or_default().into(),
        message: text(entry, "message").unwrap_or_default().to_owned(),
        since: text(entry, "lastTransitionTime")
            .and_then(|time| time.parse().ok())
            .unwrap_or_default(),
    }
}

/// A field that is a text.
pub(crate) fn text<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get(key).and_then(Value::as_str)
}

impl From<StatusShape> for Status {
    fn from(shape: StatusShape) -> Self {
        let ingress = shape
            .load_balancer
            .ingress
            .into_iter()
            .map(|ingress| Ingress {
                ip: ingress.ip,
                hostname: ingress.hostname,
                ip_mode: ingress.ip_mode,
                ports: ingress
                    .ports
                    .into_iter()
                    .map(|port| IngressPort {
                        key: PortKey {
                            protocol: port.protocol,
                            port: port.port,
                        },
                        error: port.error,
                    })
                    .collect(),
            });
        let conditions = shape.conditions.into_iter().map(|condition| {
            let it = Condition {
                status: condition.status == "True",
                reason: condition.reason,
                message: condition.message,
                since: condition.last_transition_time.parse().unwrap_or_default(),
            };
            (condition.kind, it)
        });
        Self {
            conditions: conditions.collect(),
            ingress: ingress.collect(),
            has_foreign_ingress: false,
        }
    }
}
