//! One document into one object.
//!
//! [`read`] knows the kinds that Fairway lives on; everything else is [`Object::Other`]. What can't
//! be decoded comes back as [`Unreadable`] with every problem in it and, wherever the document
//! still says so, with the [`ObjectKey`] of what it is about: a store holds back that object alone.
//!
//! Objects are taken as an API server hands them out, too: `managedFields`, `status` and fields of
//! other controllers are passed over. Only objects of Fairway's own kinds may hold no unknown
//! fields, for nobody else has checked them.

mod cluster;
mod endpoints;
mod key;
mod metadata;
mod pool;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

use crate::cluster::{Namespace, Node, TlsSecret};
use crate::endpoints::EndpointSlice;
use crate::field::{Cursor, FieldProblem, Problems, Shown};
use crate::pool::AddressPool;
use crate::service::Service;

pub use key::{Kind, NotObjectKey, ObjectKey};
pub use pool::POOL_SPEC_FIELDS;

/// An object that has been read.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A v1 Endpoints, one slice for each of its subsets, for each subset has ports of its own. The
    /// first is named as the Endpoints, the others have `#2`, `#3`… behind the name, which no
    /// object can be called; an Endpoints without subsets is one slice without endpoints. All carry
    /// `from_endpoints`. Who stores them has to remove those that a new form has no longer.
    Endpoints(Vec<Arc<EndpointSlice>>),
    /// A Node.
    Node(Arc<Node>),
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// A Secret of type kubernetes.io/tls.
    Secret(Arc<TlsSecret>),
    /// An AddressPool.
    Pool(Arc<AddressPool>),
    /// Of a kind that Fairway does not use, Secrets of other types among them.
    Other {
        /// `apiVersion`.
        api_version: String,
        /// `kind`.
        kind: String,
    },
}

/// An object and its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// Which object it is; nothing for [`Object::Other`].
    pub key: Option<ObjectKey>,
    /// The object.
    pub object: Object,
}

/// A document that should be one of our objects and can't be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Which object it is about, where that can be told.
    pub key: Option<ObjectKey>,
    /// The object for people: the key, or as much of it as there is.
    pub object: String,
    /// All that is wrong with it; never empty.
    pub problems: Vec<FieldProblem>,
}

/// Reads one document.
///
/// # Errors
/// With every problem there is, where it is malformed: a wrong type, a missing name, a port out of
/// range. What is well-formed and wrong is a notice on the object instead.
pub fn read(value: &Value) -> Result<Read, Unreadable> {
    let problems = Problems::default();
    let root = Cursor::root(value, &problems);
    let kind = match kind_of(&root) {
        Found::Ours(kind) => kind,
        Found::Other { api_version, kind } => {
            return Ok(Read {
                key: None,
                object: Object::Other { api_version, kind },
            });
        }
        Found::Nothing => {
            return Err(Unreadable {
                key: None,
                object: String::new(),
                problems: problems.into_vec(),
            });
        }
    };
    let key = metadata::key(&root, kind);
    let object = key.as_ref().and_then(|key| decode(&root, key));
    match object {
        Some(object) if problems.is_empty() => Ok(Read {
            key: (!matches!(object, Object::Other { .. }))
                .then_some(key)
                .flatten(),
            object,
        }),
        _ => {
            if key.is_none() {
                // The rest is read for its problems alone: all of them are to be seen at once.
                decode(&root, &metadata::nameless(kind));
            }
            Err(Unreadable {
                object: key
                    .as_ref()
                    .map_or_else(|| kind.to_string(), ToString::to_string),
                key,
                problems: problems.into_vec(),
            })
        }
    }
}

fn decode(root: &Cursor<'_, '_>, key: &ObjectKey) -> Option<Object> {
    let namespaced = || key.namespaced_name();
    match key.kind {
        Kind::Namespace => Some(Object::Namespace(Arc::new(cluster::namespace(
            root, &key.name,
        )))),
        Kind::Node => Some(Object::Node(Arc::new(cluster::node(root, &key.name)))),
        Kind::AddressPool => pool::pool(root, &key.name).map(|pool| Object::Pool(Arc::new(pool))),
        Kind::Secret => match cluster::secret(root, namespaced()?) {
            cluster::Secret::Tls(secret) => Some(Object::Secret(Arc::new(secret))),
            cluster::Secret::Unreadable => None,
            cluster::Secret::OfAnotherType => Some(Object::Other {
                api_version: key.kind.api_version().to_owned(),
                kind: key.kind.as_str().to_owned(),
            }),
        },
        Kind::Service => {
            service::service(root, namespaced()?).map(|service| Object::Service(Arc::new(service)))
        }
        Kind::EndpointSlice => endpoints::slice(root, namespaced()?)
            .map(|slice| Object::EndpointSlice(Arc::new(slice))),
        Kind::Endpoints => Some(Object::Endpoints(
            endpoints::endpoints(root, &namespaced()?)
                .into_iter()
                .map(Arc::new)
                .collect(),
        )),
    }
}

enum Found {
    Ours(Kind),
    Other { api_version: String, kind: String },
    Nothing,
}

/// What kind of object it says it is. One of ours in a version that is not read is a problem and
/// not passed over: its author counts on it.
fn kind_of(root: &Cursor<'_, '_>) -> Found {
    if root.value().as_object().is_none() {
        root.wrong("an object with apiVersion and kind");
        return Found::Nothing;
    }
    let api_version = root.field("apiVersion");
    let kind = root.field("kind");
    let (version, kind) = match (api_version.nonempty_text(), kind.nonempty_text()) {
        (Some(version), Some(kind)) => (version, kind),
        (version, kind_text) => {
            if version.is_none() && !api_version.is_present() {
                api_version.missing("every Kubernetes object has one");
            }
            if kind_text.is_none() && !kind.is_present() {
                kind.missing("every Kubernetes object has one");
            }
            if root.problems_so_far() == 0 {
                root.problem("has an empty apiVersion or kind");
            }
            return Found::Nothing;
        }
    };
    let group = |version: &str| match version.split_once('/') {
        Some((group, _)) => group.to_owned(),
        None => String::new(),
    };
    let known = Kind::ALL
        .into_iter()
        .find(|known| known.as_str() == kind && group(known.api_version()) == group(version));
    match known {
        Some(known) if known.api_version() == version => Found::Ours(known),
        Some(known) => {
            api_version.wrong(&format!("{} for {known}", known.api_version()));
            Found::Ours(known)
        }
        None if group(version) == "fairway.dev" => {
            let kind_field = root.field("kind");
            kind_field.problem(format!(
                "is '{}', which Fairway has no kind by the name of: known is AddressPool",
                Shown(kind)
            ));
            Found::Nothing
        }
        None => Found::Other {
            api_version: Shown(version).to_string(),
            kind: Shown(kind).to_string(),
        },
    }
}
