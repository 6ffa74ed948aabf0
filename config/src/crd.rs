//! The CustomResourceDefinitions of Fairway's own kinds, made from Rust types.
//!
//! The types here are the shape of the objects in an API server, schema and all. What Fairway works
//! with is [`crate::pool::AddressPool`] and [`crate::bgp_peer::BgpPeer`], which
//! [`crate::object::read`] makes of them, from files and from an API server alike.
//!
//! The CEL rules use the IP and CIDR libraries, which API servers have from Kubernetes 1.31 on.
//! That a range's last address is not below its first can't be said in CEL: nothing is given out of
//! such a range, the other entries of the pool count, and its condition `Ready` says so.

// One `printcolumn` is like another to the lint.
#![allow(clippy::duplicated_attributes)]

mod announce;
mod bgp_peer;
mod selector;

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube_core::CustomResourceExt as _;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::announce::{
    Announce, AnnounceBgp, AnnounceLayer2, CommunityText, InterfaceText, PeerNameText,
};
pub use self::bgp_peer::{
    AddressText, AsNumberField, BfdSpec, BgpPeerResource, BgpPeerResourceStatus, BgpPeerSpec,
    ConnectTimeText, DurationText, HoldTimeText, RouterIdText, SecretPlace,
};
pub use self::selector::{OperatorSchema, RequirementSchema, SelectorSchema};
use crate::pool::Forwarding;

/// All of them, in the order in which they should be applied.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![AddressPoolResource::crd(), BgpPeerResource::crd()]
}

/// Addresses that Services of type LoadBalancer get, and who gets them.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "fairway.dev",
    version = "v1alpha1",
    kind = "AddressPool",
    root = "AddressPoolResource",
    plural = "addresspools",
    singular = "addresspool",
    shortname = "apool",
    category = "fairway",
    doc = "Addresses that Services of type LoadBalancer get, and who gets them.",
    derive = "PartialEq",
    status = "AddressPoolResourceStatus",
    printcolumn(name = "TOTAL", type_ = "integer", json_path = ".status.ipv4.total"),
    printcolumn(name = "USED", type_ = "integer", json_path = ".status.ipv4.used"),
    printcolumn(
        name = "AVAILABLE",
        type_ = "integer",
        json_path = ".status.ipv4.available"
    ),
    printcolumn(
        name = "AUTO-ASSIGN",
        type_ = "boolean",
        json_path = ".spec.autoAssign"
    ),
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
        name = "IPV6-TOTAL",
        type_ = "integer",
        json_path = ".status.ipv6.total",
        priority = 1
    ),
    printcolumn(
        name = "IPV6-USED",
        type_ = "integer",
        json_path = ".status.ipv6.used",
        priority = 1
    ),
    printcolumn(
        name = "IPV6-AVAILABLE",
        type_ = "integer",
        json_path = ".status.ipv6.available",
        priority = 1
    ),
    printcolumn(
        name = "PRIORITY",
        type_ = "integer",
        json_path = ".spec.priority",
        priority = 1
    ),
    printcolumn(
        name = "FORWARDING",
        type_ = "string",
        json_path = ".spec.forwarding",
        priority = 1
    ),
    printcolumn(
        name = "OVERLAPS",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Overlaps\")].status",
        priority = 1
    ),
    printcolumn(
        name = "ADDRESSES",
        type_ = "string",
        json_path = ".spec.addresses",
        priority = 1
    ),
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolSpec {
    /// CIDRs (203.0.113.0/28), ranges (203.0.113.32-203.0.113.40) and single addresses, of both
    /// families.
    #[schemars(length(min = 1, max = 256))]
    pub addresses: Vec<AddressEntry>,
    /// Whether Services get an address from here without asking for the pool or the address.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// Leaves .0 and .255, and the first and last address of a CIDR, alone. Not of a /31, a /32, a
    /// /127, a /128 or a range.
    #[serde(default)]
    pub avoid_ends: bool,
    /// Lower goes first, then the name.
    #[serde(default = "hundred")]
    pub priority: i32,
    /// Which Services may have an address from here, by their labels; empty selects all.
    #[serde(default)]
    #[schemars(with = "SelectorSchema")]
    pub service_selector: LabelSelector,
    /// Services of which namespaces may have one, by the namespaces' labels; empty selects all.
    #[serde(default)]
    #[schemars(with = "SelectorSchema")]
    pub namespace_selector: LabelSelector,
    /// How many of its addresses the Services of one namespace may hold; not given: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub quota_per_namespace: Option<i64>,
    /// Proxy: the gateways carry the traffic (ipMode Proxy). Node: the nodes do, by kube-proxy;
    /// Fairway only announces (ipMode VIP). Without a cluster such a pool gives out no address: its
    /// condition Ready says so.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// How the addresses are announced.
    #[serde(default)]
    pub announce: Announce,
}

/// A CIDR, a range FIRST-LAST or an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(
    inline,
    extend("maxLength" = 87),
    extend("x-kubernetes-validations" = [
        {
            "rule": "self.contains('/') ? isCIDR(self) : self.contains('-') ? self.split('-').size() == 2 && self.split('-').all(end, isIP(end.trim())) : isIP(self)",
            "message": "must be a CIDR like 203.0.113.0/28, a range like 203.0.113.32-203.0.113.40 or an address"
        },
        {
            "rule": "!self.contains('-') || self.split('-').size() != 2 || !self.split('-').all(end, isIP(end.trim())) || ip(self.split('-')[0].trim()).family() == ip(self.split('-')[1].trim()).family()",
            "message": "must be a range within one family, IPv4 or IPv6"
        },
        {
            "rule": "!isCIDR(self) || !cidr(self).masked().ip().isUnspecified()",
            "message": "must not hold 0.0.0.0 or ::, which stand for no host"
        }
    ])
)]
pub struct AddressEntry(pub String);

/// `status`, as Fairway writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolResourceStatus {
    /// `Ready`, `Overlaps`.
    #[serde(default)]
    #[schemars(extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["type"]
    ))]
    pub conditions: Vec<Condition>,
    /// Counts of IPv4 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<AddressCounts>,
    /// Counts of IPv6 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<AddressCounts>,
    /// The controller that writes conditions and counts, as NAMESPACE/CLASS: the first one, until it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// Addresses that each controller is about to give out: gateways ask on their networks whether another host uses
    /// them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub probing: BTreeMap<String, Vec<ProbingEntry>>,
}

/// An address that gateways ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProbingEntry {
    /// Which.
    pub address: String,
    /// The number of the question, by which an answer is known.
    pub number: u64,
}

/// How many addresses of one family there are; 2⁶³−1 where there are more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AddressCounts {
    /// In the pool, without those that `avoidEnds` leaves alone.
    pub total: i64,
    /// Held by a Service.
    pub used: i64,
    /// Neither.
    pub available: i64,
}

fn yes() -> bool {
    true
}

fn hundred() -> i32 {
    100
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::object::{
        ANNOUNCE_FIELDS, BGP_FIELDS, BGP_PEER_SPEC_FIELDS, LAYER2_FIELDS, POOL_SPEC_FIELDS,
    };

    fn definition(index: usize) -> Value {
        serde_json::to_value(&crds()[index]).unwrap()
    }

    fn schema_of(index: usize) -> Value {
        definition(index)["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    fn schema() -> Value {
        schema_of(0)
    }

    /// The fields of `spec` of a BGPPeer.
    fn peer_fields() -> Value {
        schema_of(1)["properties"]["spec"].clone()
    }

    fn names(properties: &Value) -> BTreeSet<&str> {
        let fields = properties["properties"].as_object().unwrap();
        fields.keys().map(String::as_str).collect()
    }

    #[test]
    fn they_are_called_as_the_design_says() {
        let pool_columns = [
            &["TOTAL", "USED", "AVAILABLE", "AUTO-ASSIGN", "READY", "AGE"][..],
            &[
                "IPV6-TOTAL",
                "IPV6-USED",
                "IPV6-AVAILABLE",
                "PRIORITY",
                "FORWARDING",
                "OVERLAPS",
                "ADDRESSES",
            ],
        ];
        let peer_columns = [
            &["ADDRESS", "ASN", "MY-ASN", "READY", "AGE"][..],
            &["DYNAMIC-ASN", "INTERFACE", "PORT", "HOLD-TIME"],
        ];
        for (index, name, kind, short, wanted) in [
            (0, "addresspools", "AddressPool", "apool", pool_columns),
            (1, "bgppeers", "BGPPeer", "bgpp", peer_columns),
        ] {
            let crd = definition(index);
            assert_eq!(crd["metadata"]["name"], format!("{name}.fairway.dev"));
            assert_eq!(crd["spec"]["scope"], "Cluster");
            assert_eq!(crd["spec"]["names"]["kind"], kind);
            assert_eq!(crd["spec"]["names"]["shortNames"], json!([short]));
            let version = &crd["spec"]["versions"][0];
            assert_eq!(version["name"], "v1alpha1");
            assert_eq!(version["served"], true);
            assert_eq!(version["storage"], true);
            assert_eq!(version["subresources"], json!({"status": {}}));
            let columns = version["additionalPrinterColumns"].as_array().unwrap();
            let shown = |wide: bool| -> Vec<&str> {
                let columns = columns.iter();
                let columns = columns.filter(|column| (column["priority"] == 1) == wide);
                columns
                    .filter_map(|column| column["name"].as_str())
                    .collect()
            };
            assert_eq!([shown(false), shown(true)], wanted);
        }
        assert_eq!(crds().len(), 2);
    }

    #[test]
    fn the_schemas_and_the_readers_know_the_same_fields() {
        let known = |fields: &[&'static str]| fields.iter().copied().collect::<BTreeSet<_>>();
        let schema = schema();
        let spec = &schema["properties"]["spec"];
        assert_eq!(names(spec), known(POOL_SPEC_FIELDS));
        assert_eq!(spec["required"], json!(["addresses"]));
        let announce = &spec["properties"]["announce"];
        assert_eq!(names(announce), known(ANNOUNCE_FIELDS));
        for (part, fields) in [("layer2", LAYER2_FIELDS), ("bgp", BGP_FIELDS)] {
            let part = &announce["properties"][part];
            assert_eq!(names(part), known(fields));
            assert_eq!(part["required"], Value::Null);
        }
        let peer = peer_fields();
        assert_eq!(names(&peer), known(BGP_PEER_SPEC_FIELDS));
        assert_eq!(peer["required"], json!(["myASN"]));
    }

    #[test]
    fn the_schemas_take_no_selector_that_can_not_be_read() {
        let schema = schema();
        let fields = &schema["properties"]["spec"]["properties"];
        let announce = &fields["announce"]["properties"];
        let peer = peer_fields();
        for selector in [
            &fields["serviceSelector"],
            &fields["namespaceSelector"],
            &announce["layer2"]["properties"]["nodeSelector"],
            &announce["bgp"]["properties"]["nodeSelector"],
            &peer["properties"]["nodeSelectors"]["items"],
        ] {
            let entry = &selector["properties"]["matchExpressions"]["items"];
            let operators = json!(["In", "NotIn", "Exists", "DoesNotExist"]);
            assert_eq!(entry["properties"]["operator"]["enum"], operators);
            assert_eq!(entry["required"], json!(["key", "operator"]));
            assert_eq!(entry["properties"]["key"]["minLength"], 1);
            let rules = entry["x-kubernetes-validations"].as_array().unwrap();
            assert_eq!(rules.len(), 1);
        }
    }

    #[test]
    fn the_schemas_carry_defaults_bounds_and_rules() {
        let schema = schema();
        let fields = &schema["properties"]["spec"]["properties"];
        assert_eq!(fields["autoAssign"]["default"], true);
        assert_eq!(fields["avoidEnds"]["default"], false);
        assert_eq!(fields["priority"]["default"], 100);
        assert_eq!(fields["forwarding"]["default"], "Proxy");
        assert_eq!(fields["forwarding"]["enum"], json!(["Proxy", "Node"]));
        assert_eq!(fields["addresses"]["minItems"], 1);
        assert_eq!(fields["addresses"]["maxItems"], crate::pool::MAX_ENTRIES);
        let entry = &fields["addresses"]["items"];
        assert_eq!(entry["type"], "string");
        assert_eq!(entry["maxLength"], 87);
        let rules = entry["x-kubernetes-validations"].as_array().unwrap();
        assert_eq!(rules.len(), 3);
        for rule in rules {
            assert!(rule["message"].as_str().unwrap().starts_with("must "));
        }
        let announce = &fields["announce"]["properties"];
        assert_eq!(announce["routes"]["enum"], json!(["kernel"]));
        let bgp = &announce["bgp"]["properties"];
        for list in [
            &announce["layer2"]["properties"]["interfaces"],
            &bgp["peers"],
            &bgp["communities"],
        ] {
            assert_eq!(list["maxItems"], crate::announce::MAX_ANNOUNCE_ENTRIES);
            assert_eq!(list["x-kubernetes-list-type"], "set");
            assert!(list["items"]["pattern"].is_string(), "{list}");
            assert!(list["items"]["maxLength"].is_number(), "{list}");
        }
        assert_eq!(bgp["aggregationLength"]["maximum"], 32.0);
        assert_eq!(bgp["aggregationLengthV6"]["maximum"], 128.0);

        let peer = peer_fields();
        let fields = &peer["properties"];
        assert_eq!(fields["peerPort"]["default"], 179);
        assert_eq!(fields["holdTime"]["default"], "90s");
        assert_eq!(fields["myASN"]["minimum"], 1.0);
        assert_eq!(fields["myASN"]["maximum"], 4_294_967_295.0);
        assert_eq!(
            fields["dynamicASN"]["enum"],
            json!(["internal", "external"])
        );
        assert_eq!(fields["nodeSelectors"]["maxItems"], 64);
        let bfd = &fields["bfd"]["properties"];
        assert_eq!(bfd["receiveInterval"]["default"], 100);
        assert_eq!(bfd["detectMultiplier"]["default"], 3);
        let rules = peer["x-kubernetes-validations"].as_array().unwrap();
        assert_eq!(rules.len(), 7);
        for index in 0..2 {
            let status = &schema_of(index)["properties"]["status"]["properties"];
            assert_eq!(status["conditions"]["x-kubernetes-list-type"], "map");
        }
    }

    /// An API server refuses a schema that is not structural: no `$ref`, and a type everywhere.
    #[test]
    fn the_schemas_are_structural() {
        fn walk(path: &str, schema: &Value) {
            let schema = schema.as_object().unwrap();
            for key in ["$ref", "const", "anyOf", "oneOf"] {
                assert!(!schema.contains_key(key), "{key} in {path}");
            }
            assert!(
                schema.contains_key("type")
                    || schema.contains_key("x-kubernetes-preserve-unknown-fields")
                    || schema.contains_key("x-kubernetes-int-or-string"),
                "{path} has no type"
            );
            for (name, field) in schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                walk(&format!("{path}.{name}"), field);
            }
            if let Some(items) = schema.get("items") {
                walk(&format!("{path}[]"), items);
            }
        }
        for index in 0..crds().len() {
            walk("", &schema_of(index));
        }
    }
}
