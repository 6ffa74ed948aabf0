//! `metadata`: what every object has.

use std::sync::Arc;

use super::key::{Kind, ObjectKey, is_name};
use crate::annotations::parse;
use crate::field::Cursor;

/// The namespace of an object that names none, as `kubectl apply` has it.
const DEFAULT_NAMESPACE: &str = "default";

/// Namespace and name, or nothing where they are missing or can't be names.
pub(super) fn key(root: &Cursor<'_, '_>, kind: Kind) -> Option<ObjectKey> {
    let metadata = root.field("metadata");
    metadata.mapping();
    // What stands there would be passed over, or the object be another one.
    for (key, meant) in metadata.misspelt(FIELDS) {
        if ["annotations", "labels", "namespace"].contains(&meant) {
            metadata.key_problem(key, format!("is no field of metadata; is {meant} meant?"));
        }
    }
    let name = name(&metadata.field("name"), kind);
    let namespace_field = metadata.field("namespace");
    let namespace = if kind.is_namespaced() {
        match namespace_field.nonempty_text() {
            None if namespace_field.value().is_null() || namespace_field.value() == "" => {
                Some(DEFAULT_NAMESPACE)
            }
            None => None,
            Some(text) if parse::is_dns_label(text) => Some(text),
            Some(_) => {
                namespace_field.wrong(LABEL);
                None
            }
        }
        .map(Some)
    } else {
        Some(None)
    };
    Some(ObjectKey {
        kind,
        namespace: namespace?.map(Arc::from),
        name: Arc::from(name?),
    })
}

/// The fields of `metadata`.
const FIELDS: &[&str] = &[
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

const LABEL: &str = "at most 63 lower-case letters, digits and dashes, with no dash at the ends";
const SUBDOMAIN: &str =
    "at most 253 lower-case letters, digits, dashes and dots, with a letter or digit at the ends";

fn name<'v>(field: &Cursor<'v, '_>, kind: Kind) -> Option<&'v str> {
    if !field.is_present() {
        field.missing("every object has a name");
        return None;
    }
    let text = field.text()?;
    let (legal, must) = match kind {
        Kind::Service | Kind::Namespace => (parse::is_dns_label(text), LABEL),
        _ => (is_name(text), SUBDOMAIN),
    };
    if !legal {
        field.wrong(must);
    }
    legal.then_some(text)
}

/// Stands in for the key of an object that has none, while the rest of it is read for its problems.
pub(super) fn nameless(kind: Kind) -> ObjectKey {
    ObjectKey {
        kind,
        namespace: kind.is_namespaced().then(|| Arc::from(DEFAULT_NAMESPACE)),
        name: Arc::from("nameless"),
    }
}
