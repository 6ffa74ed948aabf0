//! What kinds of object the API server knows.

use anyhow::{Context, Result};
use serde_json::Value;

use super::request;
use crate::lab::Host;

/// A kind and where its objects are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClusterKind {
    /// `/api/v1` or `/apis/GROUP/VERSION`.
    pub(super) prefix: String,
    /// The last part of the path: `services`.
    pub(super) plural: String,
    /// What people call it, in lower case: singular, kind, short names, `PLURAL.GROUP`.
    names: Vec<String>,
    /// Whether its objects are in namespaces.
    pub(super) namespaced: bool,
    /// What can be done: `list`, `delete`, …
    pub(super) verbs: Vec<String>,
}

impl ClusterKind {
    /// Whether people call it `name`.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.plural == name || self.names.contains(&name)
    }

    /// The path of an object, or of all where `name` is empty. `namespace` counts where the kind has
    /// namespaces; empty stands for all of them.
    pub(super) fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = self.prefix.clone();
        if self.namespaced && !namespace.is_empty() {
            path += &format!("/namespaces/{namespace}");
        }
        path += &format!("/{}", self.plural);
        if !name.is_empty() {
            path += &format!("/{name}");
        }
        path
    }
}

/// The media type of KEP-3352's aggregated discovery: one request instead of one a group.
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// All kinds, each in the version that the API server likes best; the core group first, as kubectl
/// has it where a name stands for several kinds.
pub(super) fn discover(host: &Host) -> Result<Vec<ClusterKind>> {
    let mut kinds = Vec::new();
    for root in ["/api", "/apis"] {
        kinds.extend(read(root, &request::get(host, root, DISCOVERY)?)?);
    }
    Ok(kinds)
}

fn read(root: &str, list: &Value) -> Result<Vec<ClusterKind>> {
    let mut kinds = Vec::new();
    for group in list["items"].as_array().context("no groups")? {
        let group_name = text(&group["metadata"]["name"]);
        let first = kinds.len();
        for version in group["versions"].as_array().into_iter().flatten() {
            let version_name = text(&version["version"]);
            let prefix = match group_name {
                "" => format!("{root}/{version_name}"),
                _ => format!("{root}/{group_name}/{version_name}"),
            };
            for resource in version["resources"].as_array().into_iter().flatten() {
                let plural = text(&resource["resource"]).to_owned();
                let mut of_group = kinds.iter().skip(first);
                if of_group.any(|it: &ClusterKind| it.plural == plural) {
                    // A version that the API server likes better has it.
                    continue;
                }
                let mut names = vec![
                    text(&resource["singularResource"]).to_lowercase(),
                    text(&resource["responseKind"]["kind"]).to_lowercase(),
                    format!("{plural}.{group_name}"),
                ];
                names.extend(words(&resource["shortNames"]));
                kinds.push(ClusterKind {
                    prefix: prefix.clone(),
                    plural,
                    names,
                    namespaced: text(&resource["scope"]) == "Namespaced",
                    verbs: words(&resource["verbs"]),
                });
            }
        }
    }
    Ok(kinds)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn words(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|word| text(word).to_owned())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kinds_are_found_by_what_people_call_them() {
        let list = json!({"items": [{
            "metadata": {"name": "discovery.k8s.io"},
            "versions": [{"version": "v1", "resources": [{
                "resource": "endpointslices",
                "responseKind": {"kind": "EndpointSlice"},
                "scope": "Namespaced",
                "singularResource": "endpointslice",
                "verbs": ["get", "list"],
            }]}, {"version": "v1beta1", "resources": []}],
        }]});
        let kinds = read("/apis", &list).unwrap();
        let [slices] = &kinds[..] else {
            unreachable!("{kinds:?}")
        };
        for name in [
            "EndpointSlice",
            "endpointslices",
            "endpointslices.discovery.k8s.io",
        ] {
            assert!(slices.is_called(name), "{name}");
        }
        assert!(!slices.is_called("endpoints"));
        let table = [
            ("shop", "web", "/namespaces/shop/endpointslices/web"),
            ("shop", "", "/namespaces/shop/endpointslices"),
            ("", "", "/endpointslices"),
        ];
        for (namespace, name, wanted) in table {
            let path = slices.path(namespace, name);
            assert_eq!(path, format!("/apis/discovery.k8s.io/v1{wanted}"));
        }
    }
    #[test]
    fn a_kind_has_the_best_of_its_versions() {
        let resource = |plural: &str| {
            json!({"resource": plural, "responseKind": {"kind": plural},
                "scope": "Cluster", "singularResource": "", "verbs": []})
        };
        let list = json!({"items": [{"metadata": {"name": "metallb.io"}, "versions": [
            {"version": "v1beta2", "resources": [resource("bgppeers")]},
            {"version": "v1beta1", "resources": [resource("bgppeers"), resource("ipaddresspools")]},
        ]}]});
        let kinds = read("/apis", &list).unwrap();
        let paths: Vec<String> = kinds.iter().map(|it| it.path("", "")).collect();
        let wanted = ["v1beta2/bgppeers", "v1beta1/ipaddresspools"];
        assert_eq!(paths, wanted.map(|it| format!("/apis/metallb.io/{it}")));
    }
}
