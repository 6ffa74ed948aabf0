//! Whatever comes in, reading ends, and it ends without a panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use fairway_config::document::documents;
use fairway_config::lint::warnings;
use fairway_config::object::{Kind, Object, read};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// The fields that readers look at, so that what is generated goes deep.
const FIELDS: &[&str] = &[
    "spec",
    "metadata",
    "status",
    "name",
    "namespace",
    "labels",
    "annotations",
    "type",
    "ports",
    "port",
    "targetPort",
    "nodePort",
    "protocol",
    "appProtocol",
    "clusterIP",
    "clusterIPs",
    "externalName",
    "externalIPs",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "sessionAffinity",
    "sessionAffinityConfig",
    "clientIP",
    "timeoutSeconds",
    "ipFamilies",
    "ipFamilyPolicy",
    "healthCheckNodePort",
    "loadBalancer",
    "ingress",
    "ip",
    "addressType",
    "endpoints",
    "addresses",
    "conditions",
    "ready",
    "hints",
    "forZones",
    "subsets",
    "notReadyAddresses",
    "taints",
    "key",
    "data",
    "stringData",
    "tls.crt",
    "tls.key",
    "autoAssign",
    "avoidEnds",
    "priority",
    "serviceSelector",
    "matchLabels",
    "matchExpressions",
    "operator",
    "values",
    "forwarding",
    "announce",
    "quotaPerNamespace",
    "layer2",
    "bgp",
    "routes",
    "interfaces",
    "nodeSelector",
    "peers",
    "communities",
    "aggregationLength",
    "aggregationLengthV6",
    "myASN",
    "peerASN",
    "dynamicASN",
    "peerAddress",
    "sourceAddress",
    "interface",
    "holdTime",
    "keepaliveTime",
    "password",
    "passwordSecret",
    "bfd",
    "receiveInterval",
    "nodeSelectors",
    "creationTimestamp",
    "deletionTimestamp",
    "selector",
    "items",
    "fairway.dev/weight",
    "fairway.dev/addresses",
    "kubernetes.io/service-name",
    "kind",
];

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2_i64..70_000).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[0-9a-f.:/-]{0,30}".prop_map(Value::from),
        proptest::sample::select(vec![
            "TCP",
            "UDP",
            "SCTP",
            "None",
            "ClientIP",
            "LoadBalancer",
            "ExternalName",
            "IPv4",
            "IPv6",
            "FQDN",
            "203.0.113.0/28",
            "0.0.0.0/1",
            "255.255.255.250-255.255.255.255",
            "::/0",
            "ffff::-ffff::1",
            "0.0.0.0",
            "kubernetes.io/tls",
            "In",
            "Exists",
            "web",
            "64512:100",
            "large:64512:1:2",
            "kernel",
            "fe80::1",
            "1m30s",
            "external",
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec(
                (
                    prop_oneof![
                        9 => proptest::sample::select(FIELDS).prop_map(str::to_owned),
                        1 => any::<String>(),
                    ],
                    inner
                ),
                0..8
            )
            .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_read_to_its_end(text in prop_oneof![
        any::<String>(),
        "[-a-c:&*\\[\\]{}#|>!?%@`'\", \n\t0-9~<]{0,120}",
    ]) {
        for document in documents(&text).unwrap_or_default() {
            let _ = read(&document.value);
        }
    }

    #[test]
    fn any_object_is_read_or_says_why_not(
        kind in proptest::sample::select(Kind::ALL.to_vec()),
        mut value in any_value(),
        spec in any_value(),
        named in any::<bool>(),
    ) {
        if let Value::Object(fields) = &mut value {
            fields.insert("kind".into(), json!(kind.as_str()));
            fields.insert("apiVersion".into(), json!(kind.api_version()));
            if named {
                fields.insert("metadata".into(), json!({"name": "a"}));
                fields.insert("spec".into(), spec);
            }
        }
        match read(&value) {
            Ok(read) => {
                // All of it again from the text that it would stand in.
                let text = value.to_string();
                prop_assert_eq!(documents(&text).map(|d| d.len()), Ok(1));
                for problem in &read.warnings {
                    prop_assert!(!problem.to_string().chars().any(char::is_control));
                }
                let odd = read.key.as_ref().map(|key| warnings(&value, key.kind));
                for problem in odd.iter().flatten() {
                    prop_assert!(!problem.to_string().chars().any(char::is_control));
                }
                if let Object::Pool(pool) = &read.object {
                    for block in &pool.blocks {
                        prop_assert!(block.total() <= block.range.len());
                        let first = block.next_usable(block.range.first());
                        prop_assert_eq!(first.is_some(), block.total() > 0);
                    }
                }
            }
            Err(unreadable) => {
                prop_assert!(!unreadable.problems.is_empty());
                for problem in &unreadable.problems {
                    prop_assert!(!problem.message.is_empty());
                    prop_assert!(!problem.to_string().chars().any(char::is_control));
                }
                if named && value.is_object() {
                    prop_assert!(unreadable.key.is_some());
                }
            }
        }
    }
}
