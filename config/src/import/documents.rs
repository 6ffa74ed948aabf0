//! Fields of a document that an API server has checked, or a person has written.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::field::Shown;

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// What an object is called, and what is written on it.
pub(super) struct Named {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// The names, or why there are none.
pub(super) fn metadata(document: &Value) -> Result<Named, String> {
    let metadata: Metadata = part(document, "metadata")?.unwrap_or_default();
    if metadata.name.is_empty() {
        return Err("has no name".to_owned());
    }
    Ok(Named {
        namespace: metadata
            .namespace
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
        name: metadata.name,
        labels: metadata.labels,
        annotations: metadata.annotations,
    })
}

/// One field of the document, or why it can't be read.
pub(super) fn part<T: DeserializeOwned>(document: &Value, name: &str) -> Result<Option<T>, String> {
    match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => decode(value.clone())
            .map(Some)
            .map_err(|why| format!("can't be read: {name}: {why}")),
    }
}

/// A value as what it should be, or why it is none.
pub(super) fn decode<T: DeserializeOwned>(mut value: Value) -> Result<T, String> {
    without_nulls(&mut value);
    serde_json::from_value(value).map_err(|error| Shown(&error.to_string()).to_string())
}

/// A field that is null counts as absent.
fn without_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(without_nulls);
    } else if let Value::Array(items) = value {
        items.iter_mut().for_each(without_nulls);
    }
}

/// The fields of `spec` that say something and are none of these.
pub(super) fn other_fields(document: &Value, placed: &[&[&str]]) -> Vec<String> {
    let fields = document.get("spec").and_then(Value::as_object);
    let said = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let is_placed = |name: &str| placed.iter().any(|names| names.contains(&name));
    let fields = fields.into_iter().flat_map(Map::iter);
    fields
        .filter(|(name, value)| !is_placed(name) && said(value))
        .map(|(name, _)| Shown(name).to_string())
        .collect()
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}
