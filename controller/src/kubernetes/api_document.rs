//! An object as the API server sends it.

use std::borrow::Cow;

use fairway_config::object::Kind;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::ApiResource;
use kube::core::DynamicResourceScope;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// An object as a tree, as `fairway-config` reads it, with as much of its metadata decoded as a
/// watch needs. With `META` the API server is asked for the metadata alone.
#[derive(Clone, Debug, Default)]
pub(super) struct ApiDocument<const META: bool = false> {
    metadata: ObjectMeta,
    value: Value,
}

impl<const META: bool> ApiDocument<META> {
    /// The object, with the `apiVersion` and `kind` that are left out in lists.
    pub(super) fn into_value(mut self, kind: Kind) -> Value {
        if let Value::Object(object) = &mut self.value {
            object.insert("apiVersion".to_owned(), kind.api_version().into());
            object.insert("kind".to_owned(), kind.as_str().into());
        }
        self.value
    }

    /// `metadata.resourceVersion`.
    pub(super) fn resource_version(&self) -> &str {
        self.metadata
            .resource_version
            .as_deref()
            .unwrap_or_default()
    }
}

impl<'de, const META: bool> Deserialize<'de> for ApiDocument<META> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let mut metadata = ObjectMeta::default();
        if let Some(Value::Object(found)) = value.get_mut("metadata") {
            // These are half of an object's bytes, and nothing here reads them.
            found.remove("managedFields");
            let text = |key: &str| found.get(key).and_then(Value::as_str).map(str::to_owned);
            metadata.name = text("name");
            metadata.namespace = text("namespace");
            metadata.uid = text("uid");
            metadata.resource_version = text("resourceVersion");
        }
        Ok(Self { metadata, value })
    }
}

impl<const META: bool> Serialize for ApiDocument<META> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<const META: bool> Resource for ApiDocument<META> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn metadata_api() -> bool {
        META
    }

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn api_version(resource: &ApiResource) -> Cow<'_, str> {
        resource.api_version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The group, version and plural of a kind.
pub(super) fn resource(kind: Kind) -> ApiResource {
    let (group, version) = match kind.api_version().split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", kind.api_version()),
    };
    let plural = match kind {
        Kind::Namespace => "namespaces",
        Kind::Node => "nodes",
        Kind::AddressPool => "addresspools",
        Kind::BgpPeer => "bgppeers",
        Kind::Secret => "secrets",
        Kind::Service => "services",
        Kind::EndpointSlice => "endpointslices",
        Kind::Endpoints => "endpoints",
    };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: kind.api_version().to_owned(),
        kind: kind.as_str().to_owned(),
        plural: plural.to_owned(),
    }
}
