//! v1 Node, Namespace and Secret.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::ByteString;
use serde::Deserialize;

use crate::annotations::labels;
use crate::cluster::{Namespace, Node, TlsSecret};
use crate::field::Cursor;
use crate::names::{ClusterName, NamespacedName};

/// Reads a Namespace.
pub(super) fn namespace(root: &Cursor<'_, '_>, name: &ClusterName) -> Namespace {
    Namespace {
        name: Arc::clone(name),
        labels: root.field("metadata").field("labels").text_map(),
    }
}

/// Reads a Node.
pub(super) fn node(root: &Cursor<'_, '_>, name: &ClusterName) -> Node {
    let metadata = root.field("metadata");
    let labels = metadata.field("labels").text_map();
    let status = root.field("status");
    status.mapping();
    let (mut internal_ips, mut external_ips) = (Vec::new(), Vec::new());
    for entry in status.field("addresses").items() {
        let ips = match entry.field("type").text() {
            Some("InternalIP") => &mut internal_ips,
            Some("ExternalIP") => &mut external_ips,
            _ => continue,
        };
        // An API server takes any text here.
        let address = entry.leniently("the address is left out", |entry| {
            entry.field("address").parsed::<IpAddr>("an IP address")
        });
        if let Some(address) = address.map(|it| it.to_canonical())
            && !ips.contains(&address)
        {
            ips.push(address);
        }
    }
    let tainted = root
        .field("spec")
        .field("taints")
        .items()
        .any(|taint| taint.field("key").text() == Some(labels::TO_BE_DELETED));
    // KEP-3458: Ready is deliberately not among the reasons.
    let excluded = if metadata.field("deletionTimestamp").is_present() {
        Some("it is being deleted")
    } else if labels
        .get(labels::EXCLUDE_NODE)
        .is_some_and(|value| !is_false(value))
    {
        Some("it has the label node.kubernetes.io/exclude-from-external-load-balancers")
    } else if tainted {
        Some("it has the taint ToBeDeletedByClusterAutoscaler")
    } else {
        None
    };
    Node {
        name: Arc::clone(name),
        internal_ips,
        external_ips,
        zone: labels
            .get(labels::ZONE)
            .filter(|zone| !zone.is_empty())
            .map(|zone| Arc::from(zone.as_str())),
        draining: excluded.or_else(|| draining(root)),
        labels,
        excluded,
    }
}

/// Why the gateway on a Node hands its addresses over, besides what keeps the Node out of all load balancing. A Node that
/// is cordoned still runs its pods, so endpoints on it go on having traffic.
fn draining(root: &Cursor<'_, '_>) -> Option<&'static str> {
    let annotations = root.field("metadata").field("annotations").text_map();
    if annotations
        .get(labels::DRAIN_NODE)
        .is_some_and(|value| !is_false(value))
    {
        return Some("it has the annotation fairway.dev/drain");
    }
    let is_cordoned = root.field("spec").field("unschedulable").value().as_bool();
    is_cordoned.unwrap_or(false).then_some("it is cordoned")
}

/// What Go's `strconv.ParseBool` takes for false; everything else, nonsense included, excludes.
fn is_false(value: &str) -> bool {
    matches!(value, "0" | "f" | "F" | "false" | "False" | "FALSE")
}

/// What a Secret turned out to be.
pub(super) enum Secret {
    Tls(TlsSecret),
    OfAnotherType,
    Unreadable,
}

/// Reads a Secret, where it is one for TLS. `stringData` wins over `data`, as in an API server.
pub(super) fn secret(root: &Cursor<'_, '_>, name: NamespacedName) -> Secret {
    if root.field("type").text() != Some("kubernetes.io/tls") {
        return Secret::OfAnotherType;
    }
    let certificate = entry(root, "tls.crt");
    let key = entry(root, "tls.key");
    let ca = entry(root, "ca.crt");
    for (name, found) in [("tls.crt", &certificate), ("tls.key", &key)] {
        let data = root.field("data");
        let field = data.field(name);
        if found.is_none() && !field.is_present() {
            field.missing("a Secret of type kubernetes.io/tls has it");
        }
    }
    match (certificate, key) {
        (Some(certificate), Some(key)) => Secret::Tls(TlsSecret {
            name,
            certificate,
            key,
            ca,
        }),
        _ => Secret::Unreadable,
    }
}

fn entry(root: &Cursor<'_, '_>, name: &str) -> Option<Vec<u8>> {
    if let Some(text) = root.field("stringData").field(name).text() {
        return Some(text.as_bytes().to_vec());
    }
    let data = root.field("data");
    let field = data.field(name);
    field.text()?;
    match ByteString::deserialize(field.value()) {
        Ok(ByteString(bytes)) => Some(bytes),
        Err(_) => {
            // Not what is there: it may be a key.
            field.problem("is not in base64; plain text goes under stringData");
            None
        }
    }
}
