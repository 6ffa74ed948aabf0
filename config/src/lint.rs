//! Checks of objects in files that an API server makes in a cluster: it refuses or drops fields
//! that it does not know, but files are read by Fairway alone.
//!
//! All of these are warnings: the object works without the field. Where a misspelt field was
//! probably meant to restrict something, the reader refuses instead ([`crate::object`]).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::annotations::asks::typing_error;
use crate::annotations::{self, dialects};
use crate::field::{Cursor, FieldProblem, Findings, Shown, nearest};
use crate::object::Kind;

/// The warnings for a document that was read as an object of this kind.
pub fn warnings(document: &Value, kind: Kind) -> Vec<FieldProblem> {
    let findings = Findings::default();
    let root = Cursor::root(document, &findings);
    if let Some(shape) = SHAPES.get(&kind) {
        unknown_fields(&root, shape);
    }
    if kind == Kind::Service {
        foreign_annotations(&root);
    }
    if matches!(kind, Kind::EndpointSlice | Kind::Endpoints) {
        annotations_of_slices(&root);
    }
    findings.into_parts().1
}

/// Which fields there are, as Kubernetes' own types have them.
enum Shape {
    /// A value whose fields are not checked.
    Any,
    /// A mapping with these fields.
    Fields(BTreeMap<String, Shape>),
    /// A list.
    Items(Box<Shape>),
}

/// AddressPools are not among them: their reader refuses what it does not know.
static SHAPES: LazyLock<BTreeMap<Kind, Shape>> = LazyLock::new(|| {
    BTreeMap::from([
        (Kind::Namespace, shape_of::<Namespace>()),
        (Kind::Node, shape_of::<Node>()),
        (Kind::Secret, shape_of::<Secret>()),
        (Kind::Service, shape_of::<Service>()),
        (Kind::EndpointSlice, shape_of::<EndpointSlice>()),
        (Kind::Endpoints, shape_of::<Endpoints>()),
    ])
});

fn shape_of<T: JsonSchema>() -> Shape {
    let mut settings = SchemaSettings::default();
    settings.inline_subschemas = true;
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut shape = Shape::of(schema.as_value());
    if let Shape::Fields(fields) = &mut shape {
        // Servers write it, each version other things.
        fields.insert("status".to_owned(), Shape::Any);
    }
    shape
}

impl Shape {
    fn of(schema: &Value) -> Self {
        if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
            let fields = fields.iter();
            return Self::Fields(
                fields
                    .map(|(name, schema)| (name.clone(), Self::of(schema)))
                    .collect(),
            );
        }
        match schema.get("items") {
            Some(items) => Self::Items(Box::new(Self::of(items))),
            None => Self::Any,
        }
    }
}

fn unknown_fields(at: &Cursor<'_, '_>, shape: &Shape) {
    match shape {
        Shape::Any => {}
        Shape::Items(shape) => {
            if at.value().is_array() {
                at.items().for_each(|item| unknown_fields(&item, shape));
            }
        }
        Shape::Fields(known) => {
            for key in at.value().as_object().into_iter().flat_map(|it| it.keys()) {
                let field = at.field(key);
                match known.get(key) {
                    Some(shape) => unknown_fields(&field, shape),
                    None => {
                        let meant = nearest(key, known.keys().map(String::as_str));
                        let hint = meant
                            .map(|meant| format!("; is {meant} meant?"))
                            .unwrap_or_default();
                        field.warn(format!("is no field that Kubernetes knows here{hint}"));
                    }
                }
            }
        }
    }
}

/// Prefixes of annotations of the load balancers whose dialects Fairway reads.
const DIALECTS: [&str; 5] = [
    "metallb.io/",
    "metallb.universe.tf/",
    "lbipam.cilium.io/",
    "io.cilium/",
    "kube-vip.io/",
];

/// Prefixes of annotations of load balancers whose dialects Fairway does not read.
const FOREIGN: [&str; 12] = [
    "service.beta.kubernetes.io/",
    "cloud.google.com/",
    "networking.gke.io/",
    "load-balancer.hetzner.cloud/",
    "loadbalancer.openstack.org/",
    "oci.oraclecloud.com/",
    "oci-network-load-balancer.oraclecloud.com/",
    "service.cilium.io/",
    "purelb.io/",
    "loxilb.io/",
    "eip.openelb.kubesphere.io/",
    "svccontroller.k3s.cattle.io/",
];

/// Annotations that other controllers write themselves and leave behind.
const LEFT_BEHIND: [&str; 3] = [
    "metallb.io/ip-allocated-from-pool",
    "metallb.universe.tf/ip-allocated-from-pool",
    "kube-vip.io/vipHost",
];

fn foreign_annotations(root: &Cursor<'_, '_>) {
    let metadata = root.field("metadata");
    let all = metadata.field("annotations");
    let known = || {
        let ours = annotations::FAIRWAY.iter().map(|(name, _)| *name);
        dialects::ALL.iter().copied().chain(ours)
    };
    for name in all.value().as_object().into_iter().flat_map(|it| it.keys()) {
        let begins = |prefix: &&str| {
            name.get(..prefix.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
        };
        let is_left_behind = LEFT_BEHIND.contains(&name.as_str());
        if dialects::ALL.contains(&name.as_str()) || is_left_behind || begins(&annotations::PREFIX)
        {
            continue;
        }
        let of_dialect = DIALECTS.iter().any(&begins);
        let of_others = FOREIGN.iter().any(&begins);
        // The reader itself refuses and reports an annotation that is nearly a request.
        if (!of_dialect && !of_others) || typing_error(name).is_some() {
            continue;
        }
        let hint = nearest(name, known())
            .map(|meant| format!("; is {meant} meant?"))
            .unwrap_or_default();
        let entry = all.field(name);
        entry.warn(format!(
            "'{}' does nothing here: Fairway does not act on it{hint}",
            Shown(name)
        ));
    }
}

/// The annotation that belongs there is the weight alone.
fn annotations_of_slices(root: &Cursor<'_, '_>) {
    let metadata = root.field("metadata");
    let all = metadata.field("annotations");
    for name in all.value().as_object().into_iter().flat_map(|it| it.keys()) {
        let is_ours = name
            .get(..annotations::PREFIX.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(annotations::PREFIX));
        if !is_ours || name == annotations::WEIGHT {
            continue;
        }
        let hint = nearest(name, [annotations::WEIGHT])
            .map(|meant| format!("; is {meant} meant?"))
            .unwrap_or_default();
        let entry = all.field(name);
        entry.warn(format!("does nothing on an EndpointSlice{hint}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;

    fn said(kind: Kind, document: Value) -> Vec<String> {
        let all = warnings(&document, kind);
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn fields_that_kubernetes_does_not_know_are_named_with_what_was_meant() {
        let service = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "a", "Name": "b", "annotations": {"x": "y"}},
            "spec": {"Type": "NodePort", "zzzzzz": 1, "selector": {"anything": "goes"},
                "ports": [{"port": 80, "targetport": 8080}]},
            "status": {"whatever": true}});
        assert_eq!(
            said(Kind::Service, service),
            [
                "metadata.Name: is no field that Kubernetes knows here; is name meant?",
                "spec.Type: is no field that Kubernetes knows here; is type meant?",
                "spec.ports[0].targetport: is no field that Kubernetes knows here; is targetPort meant?",
                "spec.zzzzzz: is no field that Kubernetes knows here",
            ]
        );
        let slice = json!({"metadata": {"name": "a"}, "adressType": "IPv4", "endpoints": [
            {"adresses": ["192.0.2.1"], "conditions": {"Ready": true},
             "hints": {"forNodes": [{"name": "a"}]}}]});
        assert_eq!(
            said(Kind::EndpointSlice, slice),
            [
                "adressType: is no field that Kubernetes knows here; is addressType meant?",
                "endpoints[0].adresses: is no field that Kubernetes knows here; is addresses meant?",
                "endpoints[0].conditions.Ready: is no field that Kubernetes knows here; is ready meant?",
            ]
        );
    }

    #[test]
    fn annotations_of_others_are_named() {
        let service = |name: &str| {
            said(
                Kind::Service,
                json!({"metadata": {"name": "a", "annotations": {name: "x"}}}),
            )
        };
        for silent in [
            "metallb.io/loadBalancerIPs",
            "metallb.universe.tf/ip-allocated-from-pool",
            "kubectl.kubernetes.io/last-applied-configuration",
            "example.org/pool",
        ] {
            assert!(
                service(silent).is_empty(),
                "{silent}: {:?}",
                service(silent)
            );
        }
        for (name, meant) in [
            (
                "metallb.io/allow-shared-ips",
                "is metallb.io/allow-shared-ip meant?",
            ),
            (
                "Lbipam.cilium.io/sharing-key",
                "is lbipam.cilium.io/sharing-key meant?",
            ),
            (
                "service.beta.kubernetes.io/aws-load-balancer-type",
                "does nothing here",
            ),
        ] {
            let said = service(name);
            assert!(
                said.len() == 1 && said[0].contains(meant),
                "{name}: {said:?}"
            );
        }
        let slice = json!({"metadata": {"name": "a", "annotations": {"fairway.dev/wieght": "0"}}});
        let said = said(Kind::EndpointSlice, slice);
        assert!(said[0].contains("is fairway.dev/weight meant?"), "{said:?}");
    }

    /// The kinds' own types are what objects are held to: none of their fields is unknown.
    #[test]
    fn what_an_api_server_prints_is_known() {
        let text = include_str!("../tests/fixtures/kubectl-list.yaml");
        for document in crate::document::documents(text).unwrap() {
            let read = crate::object::read(&document.value).unwrap();
            let kind = read.key.unwrap().kind;
            let said = said(kind, document.value);
            assert!(said.is_empty(), "{said:?}");
        }
    }
}
