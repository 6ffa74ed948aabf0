use super::*;

#[test]
fn nodes_are_left_out_by_kubernetes_rules() {
    for (metadata, spec, excluded) in [
        (json!({}), json!({}), false),
        (
            json!({"deletionTimestamp": "2026-03-02T08:14:03Z"}),
            json!({}),
            true,
        ),
        (
            json!({"labels": {crate::annotations::labels::EXCLUDE_NODE: ""}}),
            json!({}),
            true,
        ),
        (
            json!({"labels": {crate::annotations::labels::EXCLUDE_NODE: "nonsense"}}),
            json!({}),
            true,
        ),
        (
            json!({"labels": {crate::annotations::labels::EXCLUDE_NODE: "false"}}),
            json!({}),
            false,
        ),
        (
            json!({}),
            json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}),
            true,
        ),
        (
            json!({}),
            json!({"taints": [{"key": "node.kubernetes.io/not-ready"}]}),
            false,
        ),
    ] {
        let mut metadata = metadata;
        metadata["name"] = json!("a");
        let object =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec});
        match read(&object).unwrap().object {
            Object::Node(node) => assert_eq!(node.excluded.is_some(), excluded, "{object}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_gateway_of_a_node_that_is_to_leave_drains() {
    let labelled =
        |value: &str| json!({"labels": {crate::annotations::labels::EXCLUDE_NODE: value}});
    let annotated = |value: &str| json!({"annotations": {"fairway.dev/drain": value}});
    for (metadata, spec, wanted) in [
        (json!({}), json!({}), None),
        (labelled(""), json!({}), Some("label")),
        (labelled("false"), json!({}), None),
        (
            json!({}),
            json!({"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}),
            Some("taint"),
        ),
        (
            json!({"deletionTimestamp": "2026-11-01T00:00:00Z"}),
            json!({}),
            Some("deleted"),
        ),
        (json!({}), json!({"unschedulable": true}), Some("cordoned")),
        (json!({}), json!({"unschedulable": false}), None),
        (json!({}), json!({"unschedulable": "yes"}), None),
        (annotated(""), json!({}), Some("annotation")),
        (annotated("true"), json!({}), Some("annotation")),
        (annotated("false"), json!({}), None),
        // The one that a person has asked for comes first.
        (
            annotated("true"),
            json!({"unschedulable": true}),
            Some("annotation"),
        ),
    ] {
        let mut metadata = metadata;
        metadata["name"] = json!("a");
        let object =
            json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec});
        let Object::Node(node) = read(&object).unwrap().object else {
            panic!("{object}");
        };
        match (node.draining, wanted) {
            (Some(said), Some(wanted)) => assert!(said.contains(wanted), "{said}: {object}"),
            (said, wanted) => assert_eq!(said, wanted, "{object}"),
        }
    }
}
