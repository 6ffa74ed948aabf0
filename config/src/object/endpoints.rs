//! discovery.k8s.io/v1 EndpointSlice, and v1 Endpoints in its shape.

use std::net::IpAddr;
use std::sync::Arc;

use super::service::app_protocol;
use crate::annotations::{self, labels, parse};
use crate::endpoints::{EndpointHost, EndpointSlice, SliceEndpoint, SlicePort};
use crate::field::{Cursor, Shown};
use crate::names::NamespacedName;
use crate::net::{IpFamily, Protocol};

/// Reads an EndpointSlice; nothing where it is malformed.
pub(super) fn slice(root: &Cursor<'_, '_>, name: NamespacedName) -> Option<EndpointSlice> {
    let metadata = root.field("metadata");
    let labels_field = metadata.field("labels");
    let service = labels_field
        .text_pairs()
        .find(|(key, _)| *key == labels::SERVICE_NAME)
        .map(|(_, service)| service)
        .filter(|service| !service.is_empty())
        .map(|service| NamespacedName {
            namespace: Arc::clone(&name.namespace),
            name: Arc::from(service),
        });
    let type_field = root.field("addressType");
    if !type_field.is_present() {
        type_field.missing("IPv4, IPv6 or FQDN");
    }
    let address_type = type_field.one_of(&[
        ("IPv4", AddressType::Ip(IpFamily::IPv4)),
        ("IPv6", AddressType::Ip(IpFamily::IPv6)),
        ("FQDN", AddressType::Name),
    ]);
    let weight = weight(&metadata);
    let ports = ports(&root.field("ports"));
    let endpoints = root
        .field("endpoints")
        .items()
        .filter_map(|entry| entry.leniently(ENDPOINT, |entry| endpoint(entry, address_type)))
        .collect();
    address_type?;
    Some(EndpointSlice {
        name,
        service,
        from_endpoints: false,
        ports,
        endpoints,
        weight,
        notices: Vec::new(),
    })
}

/// What becomes of an endpoint that can't be read.
const ENDPOINT: &str = "the endpoint is left out";

#[derive(Clone, Copy)]
enum AddressType {
    Ip(IpFamily),
    Name,
}

/// `fairway.dev/weight`. One that can't be read is left out: were the slice held back, the
/// endpoints that have gone meanwhile would be dialled on.
fn weight(metadata: &Cursor<'_, '_>) -> u16 {
    let field = metadata.field("annotations");
    let Some((_, text)) = field
        .text_pairs()
        .filter(|(key, _)| *key == annotations::WEIGHT)
        .last()
    else {
        return 1;
    };
    text.trim().parse().unwrap_or_else(|_| {
        field.field(annotations::WEIGHT).warn(format!(
            "is '{}', must be a whole number from 0 to 65535: it is left out, and the weight is 1",
            Shown(text)
        ));
        1
    })
}

/// `ports`; those of a protocol that Fairway does not carry are left out, as on the Service.
fn ports(list: &Cursor<'_, '_>) -> Vec<SlicePort> {
    list.items()
        .filter_map(|entry| entry.leniently("the port is left out", port))
        .collect()
}

fn port(entry: &Cursor<'_, '_>) -> Option<SlicePort> {
    if entry.mapping().is_none() && !entry.is_present() {
        entry.wrong("a mapping");
    }
    let name = entry.field("name").text().unwrap_or_default();
    let port = entry.field("port").port();
    let app = app_protocol(&entry.field("appProtocol"));
    let protocol = match entry.field("protocol").nonempty_text().unwrap_or("TCP") {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    Some(SlicePort {
        name: Arc::from(name),
        protocol,
        port,
        app,
    })
}

fn endpoint(entry: &Cursor<'_, '_>, address_type: Option<AddressType>) -> Option<SliceEndpoint> {
    entry.mapping();
    let addresses = entry.field("addresses");
    if addresses.value().as_array().is_none_or(Vec::is_empty) {
        if addresses.value().is_null() || addresses.value().is_array() {
            addresses.missing("an endpoint has an address");
        } else {
            addresses.wrong("a list");
        }
    }
    // All of them stand for the same endpoint, which the first is enough to reach.
    let address = addresses
        .items()
        .next()
        .and_then(|address| host(&address, address_type?));
    let conditions = entry.field("conditions");
    conditions.mapping();
    // Without it the endpoint would count as ready.
    refuse_misspelt(entry, ENDPOINT_FIELDS, "conditions");
    for condition in CONDITIONS {
        refuse_misspelt(&conditions, CONDITIONS, condition);
    }
    let ready = conditions.field("ready").boolean().unwrap_or(true);
    let hints = entry.field("hints");
    hints.mapping();
    let endpoint = SliceEndpoint {
        ready,
        serving: conditions.field("serving").boolean().unwrap_or(ready),
        terminating: conditions.field("terminating").boolean().unwrap_or(false),
        node: entry.field("nodeName").nonempty_text().map(Arc::from),
        zone: entry.field("zone").nonempty_text().map(Arc::from),
        for_zones: hinted(&hints.field("forZones")),
        for_nodes: hinted(&hints.field("forNodes")),
        target: target(entry),
        address: address?,
    };
    Some(endpoint)
}

const ENDPOINT_FIELDS: &[&str] = &[
    "addresses",
    "conditions",
    "deprecatedTopology",
    "hints",
    "hostname",
    "nodeName",
    "targetRef",
    "zone",
];

const CONDITIONS: &[&str] = &["ready", "serving", "terminating"];

/// A field that was probably meant to be `what`, and is not, is a problem.
fn refuse_misspelt(mapping: &Cursor<'_, '_>, known: &[&'static str], what: &str) {
    for (key, meant) in mapping.misspelt(known).filter(|(_, meant)| *meant == what) {
        mapping.key_problem(
            key,
            format!("is no field of this object; is {meant} meant?"),
        );
    }
}

fn hinted(list: &Cursor<'_, '_>) -> Vec<Arc<str>> {
    list.items()
        .filter_map(|entry| entry.field("name").nonempty_text().map(Arc::from))
        .collect()
}

fn host(field: &Cursor<'_, '_>, address_type: AddressType) -> Option<EndpointHost> {
    if field.value().is_null() || field.value() == "" {
        field.wrong("an address");
        return None;
    }
    match address_type {
        AddressType::Ip(family) => {
            let must = match family {
                IpFamily::IPv4 => "an IPv4 address, as addressType says",
                IpFamily::IPv6 => "an IPv6 address, as addressType says",
            };
            // `::ffff:192.0.2.1` is an IPv4 address, as it is to the nodes' own proxy.
            let address = field.parsed::<IpAddr>(must)?.to_canonical();
            if IpFamily::of(address) != family {
                field.wrong(must);
                return None;
            }
            Some(EndpointHost::Ip(address))
        }
        AddressType::Name => {
            let text = field.nonempty_text()?;
            if !parse::is_hostname(text) {
                field.wrong("a DNS name, as addressType says");
                return None;
            }
            Some(EndpointHost::Name(Arc::from(text)))
        }
    }
}

/// Reads a v1 Endpoints: one slice for each subset, since each has ports of its own.
pub(super) fn endpoints(root: &Cursor<'_, '_>, name: &NamespacedName) -> Vec<EndpointSlice> {
    let metadata = root.field("metadata");
    let weight = weight(&metadata);
    let subsets = root.field("subsets");
    let mut slices: Vec<EndpointSlice> = subsets
        .items()
        .enumerate()
        .map(|(index, subset)| {
            subset.mapping();
            let mut endpoints = Vec::new();
            for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                let list = subset.field(list);
                endpoints.extend(list.items().filter_map(|entry| {
                    entry.leniently(ENDPOINT, |entry| subset_address(entry, ready))
                }));
            }
            EndpointSlice {
                from_endpoints: true,
                ports: ports(&subset.field("ports")),
                endpoints,
                weight,
                ..EndpointSlice::new(slice_name(name, index), name.clone())
            }
        })
        .collect();
    if slices.is_empty() {
        slices.push(EndpointSlice {
            from_endpoints: true,
            weight,
            ..EndpointSlice::new(name.clone(), name.clone())
        });
    }
    slices
}

/// `#` is in no name that Kubernetes allows, so that no other object is called so.
fn slice_name(name: &NamespacedName, index: usize) -> NamespacedName {
    if index == 0 {
        return name.clone();
    }
    NamespacedName {
        namespace: Arc::clone(&name.namespace),
        name: Arc::from(format!("{}#{}", name.name, index + 1)),
    }
}

fn subset_address(entry: &Cursor<'_, '_>, ready: bool) -> Option<SliceEndpoint> {
    entry.mapping();
    let ip = entry.field("ip");
    if ip.value().is_null() || ip.value() == "" {
        ip.missing("an endpoint has an address");
    }
    let target = target(entry);
    let node = entry.field("nodeName").nonempty_text().map(Arc::from);
    let ip = ip.parsed::<IpAddr>("an IP address")?.to_canonical();
    Some(SliceEndpoint {
        node,
        target,
        ..SliceEndpoint::new(EndpointHost::Ip(ip), ready)
    })
}

/// The object that an endpoint stands for, for people.
fn target(entry: &Cursor<'_, '_>) -> Option<Arc<str>> {
    let target = entry.field("targetRef").field("name").nonempty_text();
    let target = target.or_else(|| entry.field("hostname").nonempty_text());
    target.map(Arc::from)
}
