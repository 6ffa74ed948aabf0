//! The CustomResourceDefinition of BGPPeers.

// One `printcolumn` is like another to the lint.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::announce::InterfaceText;
use super::selector::SelectorSchema;

/// A router to which the gateways announce addresses by BGP.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fairway.dev",
    version = "v1alpha1",
    kind = "BGPPeer",
    root = "BgpPeerResource",
    plural = "bgppeers",
    singular = "bgppeer",
    shortname = "bgpp",
    category = "fairway",
    doc = "A router to which the gateways announce addresses by BGP.",
    derive = "PartialEq",
    status = "BgpPeerResourceStatus",
    printcolumn(name = "ADDRESS", type_ = "string", json_path = ".spec.peerAddress"),
    printcolumn(name = "ASN", type_ = "integer", json_path = ".spec.peerASN"),
    printcolumn(name = "MY-ASN", type_ = "integer", json_path = ".spec.myASN"),
    printcolumn(
        name = "READY",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "AGE",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    // Those of `-o wide`.
    printcolumn(
        name = "DYNAMIC-ASN",
        type_ = "string",
        json_path = ".spec.dynamicASN",
        priority = 1
    ),
    printcolumn(
        name = "INTERFACE",
        type_ = "string",
        json_path = ".spec.interface",
        priority = 1
    ),
    printcolumn(
        name = "PORT",
        type_ = "integer",
        json_path = ".spec.peerPort",
        priority = 1
    ),
    printcolumn(
        name = "HOLD-TIME",
        type_ = "string",
        json_path = ".spec.holdTime",
        priority = 1
    ),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.peerASN) != has(self.dynamicASN)",
        "message": "must have one of peerASN and dynamicASN"
    },
    {
        "rule": "has(self.peerAddress) || has(self.interface)",
        "message": "must have peerAddress, or interface for a peer without an address"
    },
    {
        "rule": "!has(self.peerAddress) || !isIP(self.peerAddress) || has(self.interface) == (ip(self.peerAddress).family() == 6 && ip(self.peerAddress).isLinkLocalUnicast())",
        "message": "must have interface beside a peerAddress that is link-local (fe80::/10), and beside no other"
    },
    {
        "rule": "!has(self.peerAddress) || !has(self.sourceAddress) || !isIP(self.peerAddress) || !isIP(self.sourceAddress) || ip(self.peerAddress).family() == ip(self.sourceAddress).family()",
        "message": "must have a sourceAddress of the family of peerAddress"
    },
    {
        "rule": "!has(self.keepaliveTime) || duration(self.holdTime) == duration('0s') || duration(self.keepaliveTime) > duration('0s') && duration(self.keepaliveTime) < duration(self.holdTime)",
        "message": "must have a keepaliveTime of at least 1s that is shorter than holdTime"
    },
    {
        "rule": "!self.ttlSecurity || !self.ebgpMultiHop",
        "message": "must not have ttlSecurity beside ebgpMultiHop: it is for a peer on the same link"
    },
    {
        "rule": "!has(self.password)",
        "message": "must not have the password itself, which everybody could read who may read BGPPeers: put it into a Secret of type kubernetes.io/basic-auth and name that in passwordSecret"
    }
]))]
pub struct BgpPeerSpec {
    /// The number of the AS that the gateways are in.
    #[serde(rename = "myASN")]
    pub my_asn: AsNumberField,
    /// The number of the peer's AS.
    #[serde(default, rename = "peerASN", skip_serializing_if = "Option::is_none")]
    pub peer_asn: Option<AsNumberField>,
    /// In place of peerASN. internal: the peer is of the gateways' AS; external: of any other.
    #[serde(
        default,
        rename = "dynamicASN",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(extend("enum" = ["internal", "external"]))]
    pub dynamic_asn: Option<String>,
    /// The router's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_address: Option<AddressText>,
    /// The interface of a gateway on whose link the peer is, where it has no address or a link-local
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<InterfaceText>,
    /// The router's port.
    #[serde(default = "bgp_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub peer_port: i32,
    /// The address of the gateway from which the session is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_address: Option<AddressText>,
    /// The BGP identifier of the gateways that have this session, like an IPv4 address.
    #[serde(default, rename = "routerID", skip_serializing_if = "Option::is_none")]
    pub router_id: Option<RouterIdText>,
    /// How long a session lasts in which nothing is heard; 0s: for ever. The shorter one of both
    /// sides counts.
    #[serde(default = "HoldTimeText::usual")]
    pub hold_time: HoldTimeText,
    /// How often something is said; not given: a third of the hold time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<DurationText>,
    /// The pause between two attempts to connect; not given: 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_time: Option<ConnectTimeText>,
    /// Not in a cluster: see passwordSecret. In manifests of `fairway standalone`, the password for
    /// TCP MD5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub password: Option<String>,
    /// The Secret of type kubernetes.io/basic-auth whose key `password` is the password for TCP MD5: in
    /// Fairway's own namespace, and one that gateways may read (gateway.passwordSecrets of the chart).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretPlace>,
    /// BFD (RFC 5880, RFC 5881) with this peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd: Option<BfdSpec>,
    /// A peer of another AS may be more than one hop away.
    #[serde(default)]
    pub ebgp_multi_hop: bool,
    /// The peer is on the same link, and only what has a TTL of 255 is taken of it: nobody farther away can send
    /// that (GTSM, RFC 5082). The router has to do the same, or to send with that TTL. Fairway always does.
    #[serde(default)]
    pub ttl_security: bool,
    /// The router keeps the routes of a gateway that is gone until it is back (RFC 4724). Traffic is
    /// lost meanwhile where it does not come back.
    #[serde(default)]
    pub enable_graceful_restart: bool,
    /// Gateways on which Nodes have the session: those that one of these selects; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<SelectorSchema>", extend("maxItems" = 64))]
    pub node_selectors: Vec<LabelSelector>,
    /// What is announced as next hop; not given: the gateway's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<AddressText>,
}

/// The number of an AS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend("minimum" = 1, "maximum" = 4_294_967_295_i64),
    extend("x-kubernetes-validations" = [
        {
            "rule": "self != 23456",
            "message": "must not be 23456 (AS_TRANS), which no AS has"
        }
    ])
)]
pub struct AsNumberField(pub i64);

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend("maxLength" = 45),
    extend("x-kubernetes-validations" = [
        {
            "rule": "isIP(self) && !ip(self).isUnspecified()",
            "message": "must be an IP address"
        }
    ])
)]
pub struct AddressText(pub String);

/// A BGP identifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend("maxLength" = 15),
    extend("x-kubernetes-validations" = [
        {
            "rule": "isIP(self) && ip(self).family() == 4 && !ip(self).isUnspecified()",
            "message": "must be four numbers like 192.0.2.1, and not 0.0.0.0"
        }
    ])
)]
pub struct RouterIdText(pub String);

/// A duration in whole seconds, as 90s or 1m30s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend(
        "minLength" = 2,
        "maxLength" = 16,
        "pattern" = "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$"
    )
)]
pub struct DurationText(pub String);

/// `holdTime`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend(
        "minLength" = 2,
        "maxLength" = 16,
        "pattern" = "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$"
    ),
    extend("x-kubernetes-validations" = [
        {
            "rule": "duration(self) == duration('0s') || duration(self) >= duration('3s') && duration(self) <= duration('65535s')",
            "message": "must be 0s, or from 3s to 65535s"
        }
    ])
)]
pub struct HoldTimeText(pub String);

/// `connectTime`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend(
        "minLength" = 2,
        "maxLength" = 16,
        "pattern" = "^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$"
    ),
    extend("x-kubernetes-validations" = [
        {
            "rule": "duration(self) >= duration('1s') && duration(self) <= duration('65535s')",
            "message": "must be from 1s to 65535s"
        }
    ])
)]
pub struct ConnectTimeText(pub String);

/// Where a Secret is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretPlace {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
}

/// `spec.bfd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BfdSpec {
    /// How often packets can be received, in milliseconds.
    #[serde(default = "bfd_interval")]
    #[schemars(range(min = 10, max = 60000))]
    pub receive_interval: i32,
    /// How often packets are sent, in milliseconds.
    #[serde(default = "bfd_interval")]
    #[schemars(range(min = 10, max = 60000))]
    pub transmit_interval: i32,
    /// After how many packets that did not come the session is down.
    #[serde(default = "bfd_multiplier")]
    #[schemars(range(min = 2, max = 255))]
    pub detect_multiplier: i32,
}

/// `status`, as Fairway writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerResourceStatus {
    /// Conditions by type.
    #[serde(default)]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,
    /// The controller that writes them, as NAMESPACE/CLASS: the first one, until it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
}

impl HoldTimeText {
    /// The one where none is given.
    pub fn usual() -> Self {
        Self(format!("{}s", crate::bgp_peer::HOLD_TIME.as_secs()))
    }
}

fn bgp_port() -> i32 {
    i32::from(crate::bgp_peer::BGP_PORT)
}

fn bfd_interval() -> i32 {
    let milliseconds = crate::bgp_peer::BFD_INTERVAL.as_millis();
    i32::try_from(milliseconds).unwrap_or(i32::MAX)
}

fn bfd_multiplier() -> i32 {
    i32::from(crate::bgp_peer::BFD_MULTIPLIER)
}
