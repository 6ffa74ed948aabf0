//! The schema of `spec.announce` of an AddressPool.

// One extension is like another to the lint.
#![allow(clippy::duplicated_attributes)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::selector::SelectorSchema;

/// `spec.announce`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Announce {
    /// By ARP and NDP, on the networks that the gateways are in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer2: Option<AnnounceLayer2>,
    /// To routers, by BGP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<AnnounceBgp>,
    /// kernel: as routes in table 251 of the gateway's kernel, for a routing daemon on the same host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["kernel"]))]
    pub routes: Option<String>,
}

/// `spec.announce.layer2`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnnounceLayer2 {
    /// On which interfaces of a gateway; empty: on those with a subnet that has the address in it,
    /// and where there is none on that of the default route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64, "x-kubernetes-list-type" = "set"))]
    pub interfaces: Vec<InterfaceText>,
    /// By the gateways on which Nodes; empty selects all.
    #[serde(default, skip_serializing_if = "selects_all")]
    #[schemars(with = "SelectorSchema")]
    pub node_selector: LabelSelector,
}

/// `spec.announce.bgp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnnounceBgp {
    /// To which BGPPeers, by their names; empty: to all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64, "x-kubernetes-list-type" = "set"))]
    pub peers: Vec<PeerNameText>,
    /// Communities (64512:100) and large communities (large:64512:1:2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64, "x-kubernetes-list-type" = "set"))]
    pub communities: Vec<CommunityText>,
    /// For peers of the same AS: higher goes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub local_preference: Option<i64>,
    /// How long the announced IPv4 prefixes are; not given: 32, each address by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub aggregation_length: Option<i32>,
    /// How long the announced IPv6 prefixes are; not given: 128.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "aggregationLengthV6"
    )]
    #[schemars(range(min = 1, max = 128))]
    pub aggregation_length_v6: Option<i32>,
    /// By the gateways on which Nodes; empty selects all.
    #[serde(default, skip_serializing_if = "selects_all")]
    #[schemars(with = "SelectorSchema")]
    pub node_selector: LabelSelector,
}

/// The name of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend("minLength" = 1, "maxLength" = 15, "pattern" = "^[^/:\\s]+$")
)]
pub struct InterfaceText(pub String);

/// The name of a BGPPeer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend(
        "minLength" = 1,
        "maxLength" = 253,
        "pattern" = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
    )
)]
pub struct PeerNameText(pub String);

/// A community, large or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend(
        "maxLength" = 38,
        "pattern" = "^([0-9]{1,5}:[0-9]{1,5}|large(:[0-9]{1,10}){3})$"
    ),
    extend("x-kubernetes-validations" = [
        {
            "rule": "self.startsWith('large:') || self.split(':').all(n, !n.matches('^[0-9]{1,5}$') || int(n) <= 65535)",
            "message": "must be two numbers from 0 to 65535, as in 64512:100"
        },
        {
            "rule": "!self.startsWith('large:') || self.split(':').all(n, !n.matches('^[0-9]{1,10}$') || int(n) <= 4294967295)",
            "message": "must be three numbers from 0 to 4294967295, as in large:64512:1:2"
        }
    ])
)]
pub struct CommunityText(pub String);

fn selects_all(selector: &LabelSelector) -> bool {
    *selector == LabelSelector::default()
}
