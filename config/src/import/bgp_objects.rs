//! MetalLB's objects that are about routers: BGPPeers, BFDProfiles and Communities.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::documents::{metadata, other_fields, part};
use crate::field::Shown;

/// A BGPPeer of MetalLB.
#[derive(Debug)]
pub(super) struct MetalLbPeer {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) spec: MetalLbPeerSpec,
    /// Fields with something in them that mean nothing to Fairway.
    pub(super) others: Vec<String>,
}

impl fmt::Display for MetalLbPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, name) = (Shown(&self.namespace), Shown(&self.name));
        write!(f, "BGPPeer {namespace}/{name} of MetalLB")
    }
}

/// Its `spec`. No number is 0 there: that is what Go writes for one that is not given.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct MetalLbPeerSpec {
    #[serde(rename = "myASN")]
    pub(super) my_asn: i64,
    #[serde(rename = "peerASN")]
    pub(super) peer_asn: i64,
    #[serde(rename = "dynamicASN")]
    pub(super) dynamic_asn: String,
    pub(super) peer_address: String,
    pub(super) interface: String,
    pub(super) source_address: String,
    pub(super) peer_port: i32,
    pub(super) hold_time: String,
    pub(super) keepalive_time: String,
    pub(super) connect_time: String,
    #[serde(rename = "routerID")]
    pub(super) router_id: String,
    pub(super) node_selectors: Vec<LabelSelector>,
    pub(super) password: String,
    pub(super) password_secret: SecretReference,
    pub(super) bfd_profile: String,
    pub(super) enable_graceful_restart: bool,
    pub(super) ebgp_multi_hop: bool,
}

const PLACED: &[&str] = &[
    "myASN",
    "peerASN",
    "dynamicASN",
    "peerAddress",
    "interface",
    "sourceAddress",
    "peerPort",
    "holdTime",
    "keepaliveTime",
    "connectTime",
    "routerID",
    "nodeSelectors",
    "password",
    "passwordSecret",
    "bfdProfile",
    "enableGracefulRestart",
    "ebgpMultiHop",
    // One session of Fairway's carries both families.
    "dualStackAddressFamily",
];

/// Where a Secret is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SecretReference {
    pub(super) name: String,
    pub(super) namespace: String,
}

/// A BFDProfile.
#[derive(Debug)]
pub(super) struct BfdProfile {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) spec: BfdProfileSpec,
    /// Fields with something in them that mean nothing to Fairway.
    pub(super) others: Vec<String>,
}

/// Its `spec`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct BfdProfileSpec {
    pub(super) receive_interval: Option<i32>,
    pub(super) transmit_interval: Option<i32>,
    pub(super) detect_multiplier: Option<i32>,
}

/// A Community: names for communities.
#[derive(Debug)]
pub(super) struct CommunityNames {
    pub(super) namespace: String,
    pub(super) values: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CommunitySpec {
    communities: Vec<CommunityAlias>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CommunityAlias {
    name: String,
    value: String,
}

pub(super) fn peer(document: &Value) -> Result<MetalLbPeer, String> {
    let metadata = metadata(document)?;
    Ok(MetalLbPeer {
        namespace: metadata.namespace,
        name: metadata.name,
        spec: part(document, "spec")?.ok_or("has no spec")?,
        others: other_fields(document, &[PLACED]),
    })
}

pub(super) fn bfd_profile(document: &Value) -> Result<BfdProfile, String> {
    const PLACED: &[&str] = &["receiveInterval", "transmitInterval", "detectMultiplier"];
    let metadata = metadata(document)?;
    Ok(BfdProfile {
        namespace: metadata.namespace,
        name: metadata.name,
        spec: part(document, "spec")?.unwrap_or_default(),
        others: other_fields(document, &[PLACED]),
    })
}

pub(super) fn communities(document: &Value) -> Result<CommunityNames, String> {
    let metadata = metadata(document)?;
    let spec: CommunitySpec = part(document, "spec")?.unwrap_or_default();
    let values = spec.communities.into_iter();
    Ok(CommunityNames {
        namespace: metadata.namespace,
        values: values.map(|it| (it.name, it.value)).collect(),
    })
}
