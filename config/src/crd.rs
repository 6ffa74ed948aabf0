//! The CustomResourceDefinitions of Fairway's own kinds, made from Rust types.
//!
//! The types here are the shape of the objects in an API server, schema and all. What Fairway works
//! with is [`crate::pool::AddressPool`], which [`crate::object::read`] makes of them, from files and
//! from an API server alike.
//!
//! The CEL rules use the IP and CIDR libraries, which API servers have from Kubernetes 1.31 on.
//! That a range's last address is not below its first can't be said in CEL: nothing is given out of
//! such a range, the other entries of the pool count, and its condition `Ready` says so.

// One `printcolumn` is like another to the lint.
#![allow(clippy::duplicated_attributes)]

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube_core::CustomResourceExt as _;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pool::Forwarding;

/// All of them, in the order in which they should be applied.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![AddressPoolResource::crd()]
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
    #[schemars(with = "PoolSelector")]
    pub service_selector: LabelSelector,
    /// Services of which namespaces may have one, by the namespaces' labels; empty selects all.
    #[serde(default)]
    #[schemars(with = "PoolSelector")]
    pub namespace_selector: LabelSelector,
    /// How many of its addresses the Services of one namespace may hold; not given: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub quota_per_namespace: Option<i64>,
    /// Proxy: the gateways carry the traffic (ipMode Proxy). Node: the nodes do, by kube-proxy;
    /// Fairway only announces (ipMode VIP). This version announces nothing and gives out no address
    /// of such a pool: its condition Ready says so.
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

/// The schema of a label selector. What Kubernetes' own takes and no selector can mean is refused
/// here: a pool with a selector that can't be read gives out nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolSelector {
    /// Labels that have to be there with these values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements, all of which have to hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub match_expressions: Vec<PoolRequirement>,
}

/// One entry of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(
    inline,
    extend("x-kubernetes-validations" = [
        {
            "rule": "self.operator in ['In', 'NotIn'] ? has(self.values) && self.values.size() > 0 : !has(self.values) || self.values.size() == 0",
            "message": "must have values for In and NotIn, and none for Exists and DoesNotExist"
        }
    ])
)]
pub struct PoolRequirement {
    /// The label's key.
    #[schemars(length(min = 1, max = 316))]
    pub key: String,
    /// What has to hold of its value.
    pub operator: PoolOperator,
    /// The values of In and NotIn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// `operator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum PoolOperator {
    /// The value is one of `values`.
    In,
    /// The value is none of `values`, or there is no such label.
    NotIn,
    /// There is such a label.
    Exists,
    /// There is no such label.
    DoesNotExist,
}

/// `spec.announce`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Announce {
    /// By ARP and NDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
    pub layer2: Option<serde_json::Map<String, serde_json::Value>>,
    /// By BGP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
    pub bgp: Option<serde_json::Map<String, serde_json::Value>>,
}

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
    use crate::object::POOL_SPEC_FIELDS;

    fn crd() -> Value {
        serde_json::to_value(AddressPoolResource::crd()).unwrap()
    }

    fn schema() -> Value {
        crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    #[test]
    fn it_is_called_as_the_design_says() {
        let crd = crd();
        assert_eq!(crd["metadata"]["name"], "addresspools.fairway.dev");
        assert_eq!(crd["spec"]["scope"], "Cluster");
        assert_eq!(crd["spec"]["names"]["kind"], "AddressPool");
        assert_eq!(crd["spec"]["names"]["shortNames"], json!(["apool"]));
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
        assert_eq!(
            shown(false),
            ["TOTAL", "USED", "AVAILABLE", "AUTO-ASSIGN", "READY", "AGE"]
        );
        assert_eq!(
            shown(true),
            [
                "IPV6-TOTAL",
                "IPV6-USED",
                "IPV6-AVAILABLE",
                "PRIORITY",
                "FORWARDING",
                "OVERLAPS",
                "ADDRESSES"
            ]
        );
    }

    #[test]
    fn the_schema_and_the_reader_know_the_same_fields() {
        let schema = schema();
        let spec = &schema["properties"]["spec"];
        let fields: BTreeSet<_> = spec["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(fields, POOL_SPEC_FIELDS.iter().copied().collect());
        assert_eq!(spec["required"], json!(["addresses"]));
    }

    #[test]
    fn the_schema_takes_no_selector_that_can_not_be_read() {
        let schema = schema();
        let fields = &schema["properties"]["spec"]["properties"];
        for field in ["serviceSelector", "namespaceSelector"] {
            let entry = &fields[field]["properties"]["matchExpressions"]["items"];
            let operators = json!(["In", "NotIn", "Exists", "DoesNotExist"]);
            assert_eq!(
                entry["properties"]["operator"]["enum"], operators,
                "{field}"
            );
            assert_eq!(entry["required"], json!(["key", "operator"]), "{field}");
            assert_eq!(entry["properties"]["key"]["minLength"], 1, "{field}");
            let rules = entry["x-kubernetes-validations"].as_array().unwrap();
            assert_eq!(rules.len(), 1, "{field}");
        }
    }

    #[test]
    fn the_schema_carries_defaults_bounds_and_rules() {
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
        assert_eq!(
            schema["properties"]["status"]["properties"]["conditions"]["x-kubernetes-list-type"],
            "map"
        );
    }

    /// An API server refuses a schema that is not structural: no `$ref`, and a type everywhere.
    #[test]
    fn the_schema_is_structural() {
        fn walk(path: &str, schema: &Value) {
            let schema = schema.as_object().unwrap();
            assert!(!schema.contains_key("$ref"), "{path}");
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
        walk("", &schema());
    }
}
