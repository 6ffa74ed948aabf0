//! v1 Service.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::choice::{affinity, traffic_distribution};
use crate::annotations::asks::{Merged, RequestTexts, merge};
use crate::annotations::options::set_options;
use crate::annotations::parse;
use crate::field::{Cursor, Shown};
use crate::names::NamespacedName;
use crate::net::{IpFamily, Protocol};
use crate::port_options::PortOptions;
use crate::service::{
    AppProtocol, ExternalTrafficPolicy, IpFamilyPolicy, Notice, PortKey, RequestKind, Service,
    ServicePort, ServiceType, TargetPort, UnreadableRequest,
};

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
    let mut unreadable = Vec::new();
    let kind = spec
        .field("type")
        .one_of_or_default(&[
            ("ClusterIP", ServiceType::ClusterIP),
            ("NodePort", ServiceType::NodePort),
            ("LoadBalancer", ServiceType::LoadBalancer),
            ("ExternalName", ServiceType::ExternalName),
        ])
        .unwrap_or(ServiceType::ClusterIP);
    let (cluster_ips, headless) = cluster_ips(&spec);
    let external_name = external_name(&spec, kind);
    let mut ports = ports(&spec, &mut notices, &mut unreadable);
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
        notices.push(Notice::new(
            "ExternalIPsIgnored",
            "spec.externalIPs is not honoured, since with it anyone who may write a Service can take traffic to any address (CVE-2020-8554): ask for an address of a pool by fairway.dev/addresses instead",
        ));
    }

    let annotations: BTreeMap<&str, &str> = metadata.field("annotations").text_pairs().collect();
    let source_ranges = texts(&spec.field("loadBalancerSourceRanges"));
    let source_ranges: Vec<&str> = source_ranges.iter().map(String::as_str).collect();
    let Merged {
        mut asks,
        mut source_ranges,
        notices: asked,
    } = merge(&RequestTexts {
        annotations: &annotations,
        load_balancer_ip: spec.field("loadBalancerIP").nonempty_text(),
        source_ranges: &source_ranges,
    });
    notices.extend(asked);
    notices.extend(set_options(&annotations, &mut ports));
    let class = class(&spec, &mut notices, &mut unreadable);
    let misspelt = misspelt(&spec);
    notices.extend(misspelt.notices);
    unreadable.extend(misspelt.unreadable);
    if misspelt.nobody_is_let_in {
        source_ranges = parse::nobody();
    }
    let health_check_node_port = match node_port(&spec.field("healthCheckNodePort")) {
        Ok(port) => port,
        Err(message) => {
            notices.push(Notice::new("NodePortOutOfRange", message.clone()));
            unreadable.push(UnreadableRequest {
                what: RequestKind::HealthCheckNodePort,
                message,
            });
            None
        }
    };
    asks.unreadable.extend(unreadable);

    let ip_families = ip_families(&spec);
    let ip_family_policy = spec
        .field("ipFamilyPolicy")
        .one_of_or_default(&[
            ("SingleStack", IpFamilyPolicy::SingleStack),
            ("PreferDualStack", IpFamilyPolicy::PreferDualStack),
            ("RequireDualStack", IpFamilyPolicy::RequireDualStack),
        ])
        // As the API server fills it in.
        .unwrap_or(if ip_families.len() > 1 || cluster_ips.len() > 1 {
            IpFamilyPolicy::RequireDualStack
        } else {
            IpFamilyPolicy::SingleStack
        });
    notices.extend(refused_family(
        &source_ranges,
        &ip_families,
        ip_family_policy,
    ));
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
        class,
        external_name,
        has_selector: spec
            .field("selector")
            .mapping()
            .is_some_and(|selector| !selector.is_empty()),
        external_traffic_policy: spec
            .field("externalTrafficPolicy")
            .one_of_or_default(&[
                ("Cluster", ExternalTrafficPolicy::Cluster),
                ("Local", ExternalTrafficPolicy::Local),
            ])
            .unwrap_or(ExternalTrafficPolicy::Cluster),
        traffic_distribution: traffic_distribution(&spec, &mut notices),
        client_ip_affinity: affinity(&spec),
        source_ranges,
        ip_family_policy,
        ip_families,
        allocate_node_ports: spec
            .field("allocateLoadBalancerNodePorts")
            .boolean()
            .unwrap_or(!misspelt.no_new_node_ports),
        health_check_node_port,
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

/// The entries of a list of texts. One that is null is the empty text, as in Kubernetes: it is not
/// passed over, for a list of ranges without its only entry would let everybody in.
fn texts(field: &Cursor<'_, '_>) -> Vec<String> {
    field
        .items()
        .filter_map(|item| match item.value() {
            serde_json::Value::Null => Some(String::new()),
            _ => item.text().map(str::to_owned),
        })
        .collect()
}

/// `loadBalancerClass`. The empty one is none that an API server takes, so it is not the default
/// class.
fn class(
    spec: &Cursor<'_, '_>,
    notices: &mut Vec<Notice>,
    unreadable: &mut Vec<UnreadableRequest>,
) -> Option<Arc<str>> {
    let field = spec.field("loadBalancerClass");
    let text = field.text()?;
    if text.is_empty() {
        let message = "spec.loadBalancerClass is empty, must be a class: leave it out to have the default one";
        refuse(RequestKind::Other, message.to_owned(), notices, unreadable);
        return None;
    }
    Some(Arc::from(text))
}

fn refuse(
    what: RequestKind,
    message: String,
    notices: &mut Vec<Notice>,
    unreadable: &mut Vec<UnreadableRequest>,
) {
    notices.push(Notice::new("InvalidField", message.clone()));
    unreadable.push(UnreadableRequest { what, message });
}

/// The fields of `spec`.
const SPEC_FIELDS: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "ports",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
    "type",
];

/// What misspelt fields of `spec` that were probably meant to restrict something lead to: they are
/// not done without. An API server would have refused or dropped them; what else is misspelt is
/// [`crate::lint`]'s to say.
#[derive(Default)]
struct Misspelt {
    notices: Vec<Notice>,
    unreadable: Vec<UnreadableRequest>,
    nobody_is_let_in: bool,
    no_new_node_ports: bool,
}

fn misspelt(spec: &Cursor<'_, '_>) -> Misspelt {
    let mut found = Misspelt::default();
    for (key, meant) in spec.misspelt(SPEC_FIELDS) {
        let message = format!(
            "spec has the field {}, which is none of a Service; is {meant} meant?",
            Shown(key)
        );
        let what = match meant {
            "loadBalancerSourceRanges" => {
                found.nobody_is_let_in = true;
                let message = message + " Nobody is let in until it is put right";
                found
                    .notices
                    .push(Notice::new("InvalidSourceRange", message));
                continue;
            }
            "allocateLoadBalancerNodePorts" => {
                found.no_new_node_ports = true;
                let message = message + " No node port is given until it is put right";
                found.notices.push(Notice::new("InvalidField", message));
                continue;
            }
            "healthCheckNodePort" => RequestKind::HealthCheckNodePort,
            "loadBalancerIP" => RequestKind::Addresses,
            "ipFamilies" | "ipFamilyPolicy" | "loadBalancerClass" => RequestKind::Other,
            _ => continue,
        };
        refuse(what, message, &mut found.notices, &mut found.unreadable);
    }
    found
}

/// Ranges say who is let in of both families: a list that names none of one keeps all of it out.
fn refused_family(
    ranges: &[IpNet],
    families: &[IpFamily],
    policy: IpFamilyPolicy,
) -> Option<Notice> {
    let has = |family: IpFamily| {
        let mut of_family = ranges.iter().filter(|it| IpFamily::of(it.addr()) == family);
        of_family.next().is_some()
    };
    let wanted = |family: &IpFamily| {
        policy != IpFamilyPolicy::SingleStack || families.first() == Some(family)
    };
    let closed = IpFamily::ALL
        .into_iter()
        .find(|it| wanted(it) && !has(*it))?;
    if ranges.is_empty() {
        return None;
    }
    let all = match closed {
        IpFamily::IPv4 => "0.0.0.0/0",
        IpFamily::IPv6 => "::/0",
    };
    Some(Notice::new(
        "SourceRangesOfOneFamily",
        format!(
            "the source ranges have none of {closed}, so every {closed} client is refused: add {all} to let all of them in"
        ),
    ))
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
        let address: IpAddr = field.parsed("an IP address or None")?;
        Some(address.to_canonical())
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

fn ports(
    spec: &Cursor<'_, '_>,
    notices: &mut Vec<Notice>,
    unreadable: &mut Vec<UnreadableRequest>,
) -> Vec<ServicePort> {
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
        let node_port = node_port(&entry.field("nodePort"));
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
        let key = PortKey { protocol, port };
        let node_port = match misspelt_in_port(&entry) {
            Some(("nodePort", message)) => Err(message),
            Some((_, message)) => {
                notices.push(Notice::new(
                    "InvalidField",
                    message + " The port is left out",
                ));
                continue;
            }
            None => node_port,
        };
        let node_port = node_port.unwrap_or_else(|message| {
            notices.push(Notice::new("NodePortOutOfRange", message.clone()));
            let what = RequestKind::NodePort(key);
            unreadable.push(UnreadableRequest { what, message });
            None
        });
        ports.push(ServicePort {
            name: name.map(Arc::from),
            protocol,
            port,
            target,
            node_port,
            app,
            options: PortOptions::default(),
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
            notices.push(Notice::new(
                "UnsupportedProtocol",
                format!("port {port} is SCTP; Fairway carries TCP and UDP: the port is left out"),
            ));
            None
        }
        other => {
            notices.push(Notice::new(
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

/// A node port as it is asked for. 0 stands for none, as in Kubernetes.
///
/// # Errors
/// With a sentence where the number is no port.
fn node_port(field: &Cursor<'_, '_>) -> Result<Option<u16>, String> {
    let Some(number) = field.integer() else {
        return Ok(None);
    };
    match u16::try_from(number) {
        Ok(0) => Ok(None),
        Ok(port) => Ok(Some(port)),
        Err(_) => Err(format!(
            "{} is {number}, which is no port number: none is given until it is put right",
            field.path()
        )),
    }
}

const PORT_FIELDS: &[&str] = &[
    "appProtocol",
    "name",
    "nodePort",
    "port",
    "protocol",
    "targetPort",
];

/// A field of a port that is probably a misspelt one: what was meant, and what to say. A port would
/// be opened, or led to, that nobody meant.
fn misspelt_in_port(entry: &Cursor<'_, '_>) -> Option<(&'static str, String)> {
    let (key, meant) = entry.misspelt(PORT_FIELDS).next()?;
    let message = format!(
        "{} has the field {}, which is none of a port; is {meant} meant?",
        entry.path(),
        Shown(key)
    );
    Some((meant, message))
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
        .filter_map(|entry| entry.get("ip")?.as_str()?.parse::<IpAddr>().ok())
        .collect()
}
