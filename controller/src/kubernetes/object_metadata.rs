//! What is read of an object's metadata.

use serde_json::Value;

/// The texts of a list at a place (RFC 6901); what is no text is left out.
pub(super) fn list_of_texts(document: &Value, pointer: &str) -> Box<[Box<str>]> {
    let list = document.pointer(pointer).and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(Box::from).collect()
}

/// Its `metadata.resourceVersion`, a number that grows (KEP-5504). Where it is no number the answer
/// is one that no gateway has applied.
pub(super) fn version(document: &Value) -> u64 {
    let version = document.pointer("/metadata/resourceVersion");
    let version = version.and_then(Value::as_str);
    version.and_then(|it| it.parse().ok()).unwrap_or(u64::MAX)
}
