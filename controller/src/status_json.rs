//! The JSON of what Fairway adds to a Service: `status` as the v1 API has it, and what a Service
//! holds in a format of Fairway's own.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{
    BgpPeerStatus, Condition, ConditionMap, Held, Ingress, IngressPort, IpMode, PoolCount,
    PoolStatus, Status,
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

/// `status` of a v1 Service, to be written. It is read by [`read`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StatusShape {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<ConditionShape>,
    load_balancer: BalancerShape,
}

#[derive(Debug, Serialize)]
struct BalancerShape {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<IngressShape>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct IngressShape {
    ip: IpAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    hostname: Option<Arc<str>>,
    ip_mode: IpMode,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortShape>,
}

#[derive(Debug, Serialize)]
struct PortShape {
    port: u16,
    protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Arc<str>>,
}

/// An entry of `status.conditions` (metav1.Condition).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConditionShape {
    #[serde(rename = "type")]
    kind: Arc<str>,
    status: &'static str,
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
            status: if condition.status { "True" } else { "False" },
            reason: Arc::clone(&condition.reason),
            message: condition.message.clone(),
            last_transition_time: condition.since.to_string(),
        })
        .collect()
}

/// `status` of an AddressPool, but for what gateways are asked.
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

/// `status` of a BGPPeer.
pub(crate) fn bgp_peer_status(status: &BgpPeerStatus) -> Value {
    let mut conditions = json!(conditions(&status.conditions));
    for condition in conditions.as_array_mut().into_iter().flatten() {
        condition["observedGeneration"] = status.generation.into();
    }
    json!({"conditions": conditions})
}

/// What of a `status` could not be read: the first such place, as a path in it.
#[derive(Debug, Default)]
pub(crate) struct PassedOver(Option<String>);

impl PassedOver {
    fn note(&mut self, place: impl FnOnce() -> String) {
        self.0.get_or_insert_with(place);
    }
}

/// What the `status` of a v1 Service says.
#[derive(Debug, Default)]
pub(crate) struct ReadStatus<'a> {
    /// With the conditions that are ours.
    pub(crate) status: Status,
    /// The other conditions, each with its place in the list.
    pub(crate) others: Vec<(usize, &'a Value)>,
    /// Others write there, too, so what can't be read is passed over.
    pub(crate) passed_over: PassedOver,
}

/// Reads the `status` of a v1 Service. Conditions of these types are ours.
pub(crate) fn read(status: &Value, is_ours: impl Fn(&str) -> bool) -> ReadStatus<'_> {
    let mut read = ReadStatus::default();
    let passed_over = &mut read.passed_over;
    for place in ["", "/loadBalancer"] {
        if status.pointer(place).is_some_and(|it| !it.is_object()) {
            passed_over.note(|| place.to_owned());
        }
    }
    for (n, entry) in list(status, "/loadBalancer/ingress", passed_over) {
        match ingress(entry, n, passed_over) {
            Some(ingress) => read.status.ingress.push(ingress),
            None => read.status.has_foreign_ingress = true,
        }
    }
    for (n, entry) in list(status, "/conditions", passed_over) {
        match text(entry, "type").filter(|kind| is_ours(kind)) {
            Some(kind) => {
                let condition = read_condition(entry, n, passed_over);
                read.status.conditions.insert(kind.into(), condition);
            }
            None => read.others.push((n, entry)),
        }
    }
    read.status.conditions.shrink();
    read
}

/// Reads a `status` that Fairway alone writes. An error says where it can't be read.
pub(crate) fn read_own(status: &Value) -> Result<Status, String> {
    let read = read(status, |_| true);
    let place = match (read.passed_over.0, read.others.first()) {
        (Some(place), _) => place,
        (None, Some((n, _))) => format!("/conditions/{n}/type"),
        (None, None) => return Ok(read.status),
    };
    Err(format!(
        "holds a status that can't be read at /status{place}"
    ))
}

/// A list with the places of its entries; no entries where there is none.
fn list<'a>(
    status: &'a Value,
    pointer: &str,
    passed_over: &mut PassedOver,
) -> impl Iterator<Item = (usize, &'a Value)> + use<'a> {
    let value = status.pointer(pointer);
    let list = value.and_then(Value::as_array);
    if value.is_some() != list.is_some() {
        passed_over.note(|| pointer.to_owned());
    }
    list.into_iter().flatten().enumerate()
}

fn ingress(entry: &Value, n: usize, passed_over: &mut PassedOver) -> Option<Ingress> {
    let place = |field: &str| format!("/loadBalancer/ingress/{n}/{field}");
    let Some(ip) = text(entry, "ip").and_then(|ip| ip.parse().ok()) else {
        passed_over.note(|| place("ip"));
        return None;
    };
    let hostname = optional_text(entry, "hostname", passed_over, || place("hostname"));
    let ip_mode = match text(entry, "ipMode") {
        Some("Proxy") => IpMode::Proxy,
        Some("VIP") => IpMode::Vip,
        // KEP-1860: not given means VIP. Fairway always gives it.
        _ => {
            passed_over.note(|| place("ipMode"));
            IpMode::Vip
        }
    };
    let mut ports = Vec::new();
    if let Some(value) = entry.get("ports") {
        let list = value.as_array();
        if list.is_none() {
            passed_over.note(|| place("ports"));
        }
        for (port, entry) in list.into_iter().flatten().enumerate() {
            let Some(key) = port_key(entry) else {
                passed_over.note(|| place(&format!("ports/{port}")));
                continue;
            };
            let error = optional_text(entry, "error", passed_over, || {
                place(&format!("ports/{port}/error"))
            });
            ports.push(IngressPort { key, error });
        }
    }
    Some(Ingress {
        ip,
        hostname: hostname.filter(|it| !it.is_empty()),
        ip_mode,
        ports,
    })
}

fn port_key(entry: &Value) -> Option<PortKey> {
    Some(PortKey {
        protocol: match text(entry, "protocol")? {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            _ => return None,
        },
        port: entry.get("port")?.as_u64()?.try_into().ok()?,
    })
}

/// A text that need not be there.
fn optional_text(
    entry: &Value,
    key: &str,
    passed_over: &mut PassedOver,
    place: impl FnOnce() -> String,
) -> Option<Arc<str>> {
    match entry.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.as_str().into()),
        Some(_) => {
            passed_over.note(place);
            None
        }
    }
}

/// A condition of any type.
fn read_condition(entry: &Value, n: usize, passed_over: &mut PassedOver) -> Condition {
    let mut field = |key: &str| {
        let text = text(entry, key);
        if text.is_none() {
            passed_over.note(|| format!("/conditions/{n}/{key}"));
        }
        text.unwrap_or_default()
    };
    Condition {
        status: field("status") == "True",
        reason: field("reason").into(),
        message: field("message").to_owned(),
        since: field("lastTransitionTime").parse().unwrap_or_default(),
    }
}

/// The conditions of an object whose conditions Fairway alone writes, with the generation that they are about. What
/// can't be read is passed over.
pub(crate) fn read_conditions(status: &Value) -> (ConditionMap, i64) {
    let (mut conditions, mut generation) = (ConditionMap::default(), 0);
    let mut passed_over = PassedOver::default();
    for (n, entry) in list(status, "/conditions", &mut passed_over) {
        if let Some(kind) = text(entry, "type") {
            conditions.insert(kind.into(), read_condition(entry, n, &mut passed_over));
        }
        let observed = entry.get("observedGeneration").and_then(Value::as_i64);
        generation = observed.unwrap_or(generation);
    }
    conditions.shrink();
    (conditions, generation)
}

/// What the `status` of a BGPPeer says.
pub(crate) fn read_bgp_peer(object: &Value) -> BgpPeerStatus {
    let status = object.get("status").unwrap_or(&Value::Null);
    let (conditions, generation) = read_conditions(status);
    BgpPeerStatus {
        conditions,
        generation,
    }
}

/// What the `status` of an AddressPool says, but for what gateways are asked. What can't be read is passed over.
pub(crate) fn read_pool(object: &Value) -> PoolStatus {
    let status = object.get("status").unwrap_or(&Value::Null);
    let (conditions, _) = read_conditions(status);
    let count = |name: &str| {
        let counts = status.get(name)?;
        let number = |field: &str| Some(u128::from(counts.get(field)?.as_u64()?));
        Some(PoolCount {
            total: number("total")?,
            used: number("used")?,
            available: number("available")?,
        })
    };
    let families = [(IpFamily::IPv4, "ipv4"), (IpFamily::IPv6, "ipv6")];
    PoolStatus {
        conditions,
        counts: families
            .into_iter()
            .filter_map(|(family, name)| Some((family, count(name)?)))
            .collect(),
        probing: BTreeMap::new(),
    }
}

/// A field that is a text.
pub(crate) fn text<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get(key).and_then(Value::as_str)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({
            "loadBalancer": {"ingress": [{
                "ip": "203.0.113.1", "hostname": "shop.example", "ipMode": "Proxy",
                "ports": [{"port": 80, "protocol": "TCP", "error": "PortInUse"}],
            }]},
            "conditions": [{
                "type": "fairway.dev/AddressAssigned", "status": "True", "reason": "Assigned",
                "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        })
    }

    #[test]
    fn what_fairway_wrote_is_read_whole() {
        let read = read_own(&status()).unwrap();
        assert_eq!(json!(StatusShape::from(&read)), status());
        let nothing = read_own(&json!({"loadBalancer": {}})).unwrap();
        assert_eq!(nothing, Status::default());
    }

    #[test]
    fn of_an_own_status_nothing_is_passed_over() {
        let ingress = "/loadBalancer/ingress/0";
        for (place, value) in [
            (String::new(), json!(7)),
            ("/loadBalancer".to_owned(), Value::Null),
            ("/loadBalancer/ingress".to_owned(), Value::Null),
            (format!("{ingress}/ip"), json!("203.0.113")),
            (format!("{ingress}/hostname"), json!(7)),
            (format!("{ingress}/ipMode"), json!("proxy")),
            (format!("{ingress}/ports"), json!({})),
            (format!("{ingress}/ports/0"), json!({"port": 80})),
            (
                format!("{ingress}/ports/0"),
                json!({"port": 65_536, "protocol": "TCP"}),
            ),
            (format!("{ingress}/ports/0/error"), json!(7)),
            ("/conditions".to_owned(), json!("none")),
            ("/conditions/0/type".to_owned(), json!(7)),
            ("/conditions/0/status".to_owned(), json!(true)),
            ("/conditions/0/reason".to_owned(), Value::Null),
            ("/conditions/0/message".to_owned(), json!([])),
            ("/conditions/0/lastTransitionTime".to_owned(), json!(0)),
        ] {
            let mut changed = status();
            *changed.pointer_mut(&place).unwrap() = value;
            let why = read_own(&changed).unwrap_err();
            assert!(why.ends_with(&format!(" at /status{place}")), "{why}");
        }
    }
}
