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
mod metadata;
mod pool;
mod service;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;

use crate::cluster::{Namespace, Node, TlsSecret};
use crate::endpoints::EndpointSlice;
use crate::field::{Cursor, FieldProblem, Problems, Shown};
use crate::names::NamespacedName;
use crate::pool::AddressPool;
use crate::service::Service;

pub use pool::POOL_SPEC_FIELDS;

/// The kinds that are read, in the order in which a store should apply them: what others refer to
/// comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// v1 Namespace.
    Namespace,
    /// v1 Node.
    Node,
    /// fairway.dev/v1alpha1 AddressPool.
    AddressPool,
    /// v1 Secret.
    Secret,
    /// v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// v1 Endpoints.
    Endpoints,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::AddressPool,
        Self::Secret,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
    ];

    /// `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::AddressPool => "AddressPool",
            Self::Secret => "Secret",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
        }
    }

    /// `apiVersion`.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Node | Self::Secret | Self::Service | Self::Endpoints => "v1",
            Self::AddressPool => "fairway.dev/v1alpha1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }

    /// Whether its objects are in namespaces.
    pub fn is_namespaced(self) -> bool {
        match self {
            Self::Namespace | Self::Node | Self::AddressPool => false,
            Self::Secret | Self::Service | Self::EndpointSlice | Self::Endpoints => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object it is. Printed as `Service web/shop` and `Node a`, and read back from that.
///
/// Both names are DNS-1123 subdomains: they can be parts of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; none for kinds that are in none.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// Namespace and name; nothing for kinds that are in no namespace.
    pub fn namespaced_name(&self) -> Option<NamespacedName> {
        self.namespace.as_ref().map(|namespace| NamespacedName {
            namespace: Arc::clone(namespace),
            name: Arc::clone(&self.name),
        })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// Not of the form `KIND NAMESPACE/NAME` or `KIND NAME`.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not of the form KIND NAMESPACE/NAME or KIND NAME")]
pub struct NotObjectKey(String);

impl FromStr for ObjectKey {
    type Err = NotObjectKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || NotObjectKey(text.to_owned());
        let (kind, name) = text.split_once(' ').ok_or_else(refuse)?;
        let kind = Kind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or_else(refuse)?;
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, name),
        };
        let legal = namespace.is_some() == kind.is_namespaced()
            && namespace.is_none_or(metadata::is_name)
            && metadata::is_name(name);
        if !legal {
            return Err(refuse());
        }
        Ok(Self {
            kind,
            namespace: namespace.map(Arc::from),
            name: Arc::from(name),
        })
    }
}

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
