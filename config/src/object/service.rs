//! v1 Service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::annotations::asks::{Merged, Sources, merge};
use crate::annotations::parse;
use crate::field::{Cursor, Shown};
use crate::names::NamespacedName;
use crate::net::{IpFamily, Protocol};
use crate::service::{
    AppProtocol, ExternalTrafficPolicy, IpFamilyPolicy, Notice, Service, ServicePort, ServiceType,
    TargetPort,
};

/// `sessionAffinityConfig.clientIP.timeoutSeconds` where it is not said (Kubernetes: three hours).
const DEFAULT_AFFINITY: i64 = 10_800;

/// Reads a Service; nothing where it is malformed, which then is among the problems.
pub(super) fn service(root: &Cursor<'_, '_>, name: NamespacedName) -> Option<Service> {
    let metadata = root.field("metadata");
    let spec = root.field("spec");
    if !spec.is_present() {
        spec.missing("a Service says there what it wants");
        return None;
    }
    spec.mapping();

    let mut notices = Vec::new();
    let kind = spec
        .field("type")
        .one_of(&[
            ("ClusterIP", ServiceType::ClusterIP),
            ("NodePort", ServiceType::NodePort),
            ("LoadBalancer", ServiceType::LoadBalancer),
            ("ExternalName", ServiceType::ExternalName),
        ])
        .unwrap_or(ServiceType::ClusterIP);
    let (cluster_ips, headless) = cluster_ips(&spec);
    let external_name = external_name(&spec, kind);
    let ports = ports(&spec, &mut notices);
    if ports.is_empty()
        && !headless
        && kind != ServiceType::ExternalName
        && spec
            .field("ports")
            .value()
            .as_array()
            .is_none_or(Vec::is_empty)
    {
        let field = spec.field("ports");
        if field.value().is_null() || field.value().is_array() {
            field.missing("a Service that is neither headless nor an ExternalName has ports");
        }
    }

    let external_ips = texts(&spec.field("externalIPs"));
    if !external_ips.is_empty() {
        notices.push(notice(
            "ExternalIPsIgnored",
            "spec.externalIPs is not honoured, since with it anyone who may write a Service can take traffic to any address (CVE-2020-8554): ask for an address of a pool by fairway.dev/addresses instead",
        ));
    }

    let annotations: BTreeMap<&str, &str> = metadata.field("annotations").text_pairs().collect();
    let source_ranges = texts(&spec.field("loadBalancerSourceRanges"));
    let source_ranges: Vec<&str> = source_ranges.iter().map(String::as_str).collect();
    let Merged {
        asks,
        source_ranges,
        notices: asked,
    } = merge(&Sources {
        annotations: &annotations,
        load_balancer_ip: spec.field("loadBalancerIP").nonempty_text(),
        source_ranges: &source_ranges,
    });
    notices.extend(asked);

    let ip_families = ip_families(&spec);
    Some(Service {
        name,
        uid: metadata.field("uid").nonempty_text().map(Arc::from),
        // A creation time that can't be read is none: it decides about age only.
        created: metadata
            .field("creationTimestamp")
            .nonempty_text()
            .and_then(|text| text.parse().ok()),
        deleting: metadata.field("deletionTimestamp").is_present(),
        labels: metadata.field("labels").text_map(),
        kind,
        class: spec
            .field("loadBalancerClass")
            .nonempty_text()
            .map(Arc::from),
        external_name,
        has_selector: spec
            .field("selector")
            .mapping()
            .is_some_and(|selector| !selector.is_empty()),
        external_traffic_policy: spec
            .field("externalTrafficPolicy")
            .one_of(&[
                ("Cluster", ExternalTrafficPolicy::Cluster),
                ("Local", ExternalTrafficPolicy::Local),
            ])
            .unwrap_or(ExternalTrafficPolicy::Cluster),
        client_ip_affinity: affinity(&spec),
        source_ranges,
        ip_family_policy: spec
            .field("ipFamilyPolicy")
            .one_of(&[
                ("SingleStack", IpFamilyPolicy::SingleStack),
                ("PreferDualStack", IpFamilyPolicy::PreferDualStack),
                ("RequireDualStack", IpFamilyPolicy::RequireDualStack),
            ])
            // As the API server fills it in.
            .unwrap_or(if ip_families.len() > 1 || cluster_ips.len() > 1 {
                IpFamilyPolicy::RequireDualStack
            } else {
                IpFamilyPolicy::SingleStack
            }),
        ip_families,
        allocate_node_ports: spec
            .field("allocateLoadBalancerNodePorts")
            .boolean()
            .unwrap_or(true),
        health_check_node_port: node_port(&spec.field("healthCheckNodePort"), &mut notices),
        publish_not_ready_addresses: spec
            .field("publishNotReadyAddresses")
            .boolean()
            .unwrap_or(false),
        status_addresses: status_addresses(root),
        ports,
        cluster_ips,
        headless,
        external_ips,
        asks,
        notices,
    })
}

fn notice(reason: &str, message: impl Into<String>) -> Notice {
    Notice {
        reason: Arc::from(reason),
        message: message.into(),
    }
}

fn texts(field: &Cursor<'_, '_>) -> Vec<String> {
    field
        .items()
        .filter_map(|item| item.text().map(str::to_owned))
        .collect()
}

/// `clusterIPs`, else `clusterIP`; and whether the Service is headless.
fn cluster_ips(spec: &Cursor<'_, '_>) -> (Vec<IpAddr>, bool) {
    let single = spec.field("clusterIP");
    let several = spec.field("clusterIPs");
    let mut headless = false;
    let mut read = |field: &Cursor<'_, '_>| -> Option<IpAddr> {
        if field.value() == "None" {
            headless = true;
            return None;
        }
        field.parsed("an IP address or None")
    };
    let first = read(&single);
    let mut addresses: Vec<IpAddr> = several.items().filter_map(|item| read(&item)).collect();
    if addresses.is_empty() {
        addresses.extend(first);
    }
    if headless {
        addresses.clear();
    }
    (addresses, headless)
}

fn external_name(spec: &Cursor<'_, '_>, kind: ServiceType) -> Option<Arc<str>> {
    let field = spec.field("externalName");
    let text = field.nonempty_text();
    if kind != ServiceType::ExternalName {
        return None;
    }
    match text {
        Some(text) if parse::is_hostname(text) => Some(Arc::from(text)),
        Some(_) => {
            field.wrong("a DNS name");
            None
        }
        None => {
            if !field.is_present() || field.value() == "" {
                field.missing("a Service of type ExternalName has one");
            }
            None
        }
    }
}

fn ports(spec: &Cursor<'_, '_>, notices: &mut Vec<Notice>) -> Vec<ServicePort> {
    let list = spec.field("ports");
    let count = list.value().as_array().map_or(0, Vec::len);
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let mut keys: BTreeMap<(String, u16), usize> = BTreeMap::new();
    let mut ports = Vec::with_capacity(count.min(64));
    for (index, entry) in list.items().enumerate() {
        entry.mapping();
        let name_field = entry.field("name");
        let name = name_field.nonempty_text();
        match name {
            Some(name) if !parse::is_dns_label(name) => name_field.wrong(
                "at most 63 lower-case letters, digits and dashes, with no dash at the ends",
            ),
            Some(name) => {
                if let Some(other) = names.insert(name, index) {
                    name_field.problem(format!(
                        "is '{name}', as that of spec.ports[{other}]: each port has a name of its own"
                    ));
                }
            }
            None if count > 1 && (!name_field.is_present() || name_field.value() == "") => {
                name_field.missing("where there are several ports, each has a name");
            }
            None => {}
        }
        let port_field = entry.field("port");
        if !port_field.is_present() {
            port_field.missing("a whole number from 1 to 65535");
        }
        let port = port_field.port();
        let word = entry.field("protocol").nonempty_text().unwrap_or("TCP");
        let target = target(&entry, port);
        let node_port = node_port(&entry.field("nodePort"), notices);
        let app = app_protocol(&entry.field("appProtocol"));
        let Some(port) = port else { continue };
        if let Some(other) = keys.insert((word.to_owned(), port), index) {
            port_field.problem(format!(
                "is {port}/{}, as that of spec.ports[{other}]: protocol and port stand once in a Service",
                Shown(word)
            ));
        }
        let Some(protocol) = carried(word, port, notices) else {
            continue;
        };
        let Some(target) = target else { continue };
        ports.push(ServicePort {
            name: name.map(Arc::from),
            protocol,
            port,
            target,
            node_port,
            app,
        });
    }
    ports
}

/// The protocol, where Fairway carries it.
fn carried(word: &str, port: u16, notices: &mut Vec<Notice>) -> Option<Protocol> {
    match word {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => {
            notices.push(notice(
                "UnsupportedProtocol",
                format!("port {port} is SCTP; Fairway carries TCP and UDP: the port is left out"),
            ));
            None
        }
        other => {
            notices.push(notice(
                "UnknownProtocol",
                format!(
                    "port {port} has the protocol '{}', which is none that Kubernetes knows (TCP, UDP): the port is left out",
                    Shown(other)
                ),
            ));
            None
        }
    }
}

/// `targetPort`: a number, a number in quotes, or a name; the port itself where not given.
fn target(entry: &Cursor<'_, '_>, port: Option<u16>) -> Option<TargetPort> {
    let field = entry.field("targetPort");
    match field.value() {
        serde_json::Value::String(text) => match text.parse::<u16>() {
            Ok(0) => {
                field.wrong("a port number from 1 to 65535 or the name of a port");
                None
            }
            Ok(number) => Some(TargetPort::Number(number)),
            Err(_) if text.is_empty() => port.map(TargetPort::Number),
            Err(_) if parse::is_dns_label(text) && !text.bytes().all(|b| b.is_ascii_digit()) => {
                Some(TargetPort::Name(Arc::from(text.as_str())))
            }
            Err(_) => {
                field.wrong("a port number from 1 to 65535 or the name of a port");
                None
            }
        },
        // What an API server shows for "not given".
        serde_json::Value::Number(number) if number.as_i64() == Some(0) => {
            port.map(TargetPort::Number)
        }
        serde_json::Value::Null => port.map(TargetPort::Number),
        serde_json::Value::Number(_) => field.port().map(TargetPort::Number),
        _ => {
            field.wrong("a port number from 1 to 65535 or the name of a port");
            None
        }
    }
}

/// A node port as it is asked for. 0 stands for none, as in Kubernetes; a number that is no port is
/// said so and left out.
fn node_port(field: &Cursor<'_, '_>, notices: &mut Vec<Notice>) -> Option<u16> {
    let number = field.integer()?;
    match u16::try_from(number) {
        Ok(0) => None,
        Ok(port) => Some(port),
        Err(_) => {
            notices.push(notice(
                "NodePortOutOfRange",
                format!(
                    "{} is {number}, which is no port number: another one is given where one is needed",
                    field.path()
                ),
            ));
            None
        }
    }
}

/// `appProtocol`, on Services and EndpointSlices alike.
pub(super) fn app_protocol(field: &Cursor<'_, '_>) -> AppProtocol {
    match field.nonempty_text() {
        Some("http" | "kubernetes.io/ws") => AppProtocol::Http,
        Some("kubernetes.io/h2c" | "grpc") => AppProtocol::H2c,
        // https and kubernetes.io/wss too: TLS passes through as it is.
        _ => AppProtocol::Opaque,
    }
}

fn affinity(spec: &Cursor<'_, '_>) -> Option<Duration> {
    let on = spec
        .field("sessionAffinity")
        .one_of(&[("None", false), ("ClientIP", true)])
        .unwrap_or(false);
    let config = spec.field("sessionAffinityConfig");
    config.mapping();
    let client_ip = config.field("clientIP");
    client_ip.mapping();
    let seconds = client_ip
        .field("timeoutSeconds")
        .integer_within(1..=86_400)
        .unwrap_or(DEFAULT_AFFINITY);
    on.then(|| Duration::from_secs(seconds.unsigned_abs()))
}

fn ip_families(spec: &Cursor<'_, '_>) -> Vec<IpFamily> {
    let mut families = Vec::new();
    for item in spec.field("ipFamilies").items() {
        let family = item.one_of(&[("IPv4", IpFamily::IPv4), ("IPv6", IpFamily::IPv6)]);
        if let Some(family) = family {
            if families.contains(&family) {
                item.problem(format!("is {family}, which stands there already"));
            } else {
                families.push(family);
            }
        }
    }
    families
}

/// What the author's copy says the Service holds. It is a wish: what can't be read is none.
fn status_addresses(root: &Cursor<'_, '_>) -> Vec<IpAddr> {
    root.value()
        .pointer("/status/loadBalancer/ingress")
        .and_then(serde_json::Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.get("ip")?.as_str()?.parse().ok())
        .collect()
}
