//! Turns one document into one object.
//!
//! [`read`] knows the kinds that Fairway uses; everything else is [`Object::Other`]. What can't be
//! decoded comes back as [`Unreadable`] with every problem in it and, wherever the document still
//! says so, with the [`ObjectKey`] of what it is about: a store holds back that object alone.
//!
//! One odd value does not take a whole list along: an endpoint, a port of an EndpointSlice or an
//! address of a Node that can't be read is left out alone, with a warning. An AddressPool is
//! always there, for a cluster has to show what is wrong with it: one with an error gives nothing
//! out ([`AddressPool::problems`]). So is a BGPPeer: one with an error has no session.
//!
//! Objects are taken as an API server hands them out, too: `managedFields`, `status` and fields of
//! other controllers are passed over. Only objects of Fairway's own kinds may hold no unknown
//! fields; for the others [`crate::lint`] says what nobody else has checked.

mod announce;
mod bgp_peer;
mod choice;
mod cluster;
mod endpoints;
mod key;
mod metadata;
mod pool;
mod selectors;
mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::Value;

use crate::bgp_peer::BgpPeer;
use crate::cluster::{Namespace, Node, TlsSecret};
use crate::endpoints::EndpointSlice;
use crate::field::{Cursor, FieldProblem, Findings, Shown, nearest};
use crate::pool::AddressPool;
use crate::service::{Notice, Service};

pub use announce::{ANNOUNCE_FIELDS, BGP_FIELDS, LAYER2_FIELDS};
pub use bgp_peer::BGP_PEER_SPEC_FIELDS;
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
    /// A BGPPeer.
    BgpPeer(Arc<BgpPeer>),
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
pub struct ReadObject {
    /// Which object it is; nothing for [`Object::Other`].
    pub key: Option<ObjectKey>,
    /// The object.
    pub object: Object,
    /// What was left out of it.
    pub warnings: Vec<FieldProblem>,
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
pub fn read(value: &Value) -> Result<ReadObject, Unreadable> {
    let findings = Findings::default();
    let root = Cursor::root(value, &findings);
    let kind = match kind_of(&root) {
        DeclaredKind::Ours(kind) => kind,
        DeclaredKind::Other { api_version, kind } => {
            return Ok(ReadObject {
                key: None,
                object: Object::Other { api_version, kind },
                warnings: findings.into_parts().1,
            });
        }
        DeclaredKind::Nothing => {
            return Err(Unreadable {
                key: None,
                object: String::new(),
                problems: findings.into_parts().0,
            });
        }
    };
    let key = metadata::key(&root, kind);
    let is_known = !findings.has_errors();
    let object = match &key {
        Some(key) => decode(&root, key),
        // The rest is read for its problems alone: all of them are to be seen at once.
        None => decode(&root, &metadata::nameless(kind)).filter(|_| false),
    };
    let (errors, warnings) = findings.into_parts();
    match (key, object) {
        (Some(key), Some(mut object)) if is_known && object.has_own_problems() => {
            if let Some(problems) = object.own_problems() {
                problems.splice(0..0, errors);
            }
            Ok(ReadObject {
                key: Some(key),
                object,
                warnings,
            })
        }
        (key, Some(mut object)) if errors.is_empty() => {
            for warning in &warnings {
                object.note(warning);
            }
            Ok(ReadObject {
                key: key.filter(|_| !matches!(object, Object::Other { .. })),
                object,
                warnings,
            })
        }
        (key, _) => Err(Unreadable {
            object: key
                .as_ref()
                .map_or_else(|| kind.to_string(), ToString::to_string),
            key,
            problems: errors,
        }),
    }
}

impl Object {
    /// The problems of an object that is there in spite of them: of an AddressPool or a BGPPeer.
    pub fn problems(&self) -> &[FieldProblem] {
        match self {
            Self::Pool(pool) => &pool.problems,
            Self::BgpPeer(peer) => &peer.problems,
            _ => &[],
        }
    }

    /// Whether it is there with whatever problems it has: an API server may have taken it, and people
    /// have to see what is wrong with it.
    fn has_own_problems(&self) -> bool {
        matches!(self, Self::Pool(_) | Self::BgpPeer(_))
    }

    fn own_problems(&mut self) -> Option<&mut Vec<FieldProblem>> {
        match self {
            Self::Pool(pool) => Some(&mut Arc::make_mut(pool).problems),
            Self::BgpPeer(peer) => Some(&mut Arc::make_mut(peer).problems),
            _ => None,
        }
    }

    /// Has the object itself say what was left out of it, where it has room for that.
    fn note(&mut self, warning: &FieldProblem) {
        let slices = match self {
            Self::EndpointSlice(slice) => std::slice::from_mut(slice),
            Self::Endpoints(slices) => slices.as_mut_slice(),
            _ => return,
        };
        // Those of an Endpoints are of one object: the first speaks for all.
        if let Some(slice) = slices.first_mut() {
            let slice = Arc::make_mut(slice);
            if slice.notices.len() < MOST_NOTICES {
                let kind = match slice.from_endpoints {
                    true => Kind::Endpoints,
                    false => Kind::EndpointSlice,
                };
                let message = format!("{kind} {}, {warning}", slice.name);
                slice.notices.push(Notice::new("LeftOut", message));
            }
        }
    }
}

/// Notices of one EndpointSlice, at most: a thousand endpoints may be odd in the same way.
const MOST_NOTICES: usize = 5;

fn decode(root: &Cursor<'_, '_>, key: &ObjectKey) -> Option<Object> {
    let namespaced = || key.namespaced_name();
    match key.kind {
        Kind::Namespace => Some(Object::Namespace(Arc::new(cluster::namespace(
            root, &key.name,
        )))),
        Kind::Node => Some(Object::Node(Arc::new(cluster::node(root, &key.name)))),
        Kind::AddressPool => Some(Object::Pool(Arc::new(pool::pool(root, &key.name)))),
        Kind::BgpPeer => Some(Object::BgpPeer(Arc::new(bgp_peer::bgp_peer(
            root, &key.name,
        )))),
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

/// What kind of object a document says that it is.
enum DeclaredKind {
    Ours(Kind),
    Other { api_version: String, kind: String },
    Nothing,
}

/// What kind of object it says it is. One of ours in a version that is not read is a problem and
/// not passed over: its author counts on it.
fn kind_of(root: &Cursor<'_, '_>) -> DeclaredKind {
    if root.value().as_object().is_none() {
        root.wrong("an object with apiVersion and kind");
        return DeclaredKind::Nothing;
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
            return DeclaredKind::Nothing;
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
        Some(known) if known.api_version() == version => DeclaredKind::Ours(known),
        Some(known) => {
            api_version.wrong(&format!("{} for {known}", known.api_version()));
            DeclaredKind::Ours(known)
        }
        None if group(version) == "fairway.dev" => {
            let kind_field = root.field("kind");
            kind_field.problem(format!(
                "is '{}', which Fairway has no kind by the name of: known are AddressPool and BGPPeer",
                Shown(kind)
            ));
            DeclaredKind::Nothing
        }
        None => {
            misspelt(root, version, kind);
            DeclaredKind::Other {
                api_version: Shown(version).to_string(),
                kind: Shown(kind).to_string(),
            }
        }
    }
}

/// Says where a kind that is passed over was probably meant to be one of ours: `kind: Servce`, or
/// the right kind with another's `apiVersion`.
fn misspelt(root: &Cursor<'_, '_>, version: &str, kind: &str) {
    if let Some(meant) = Kind::ALL.into_iter().find(|known| known.as_str() == kind) {
        // A kind of another API group may have the same name.
        let meant = meant.api_version();
        if nearest(version, [meant]).is_some() || !version.contains('.') {
            let field = root.field("apiVersion");
            field.warn(format!("is '{}'; is {meant} meant?", Shown(version)));
        }
        return;
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let kinds = Kind::ALL.into_iter().filter(|known| {
        let of_known = known.api_version().split_once('/');
        of_known
            .map_or("", |(group, _)| group)
            .eq_ignore_ascii_case(group)
    });
    if let Some(meant) = nearest(kind, kinds.map(Kind::as_str)) {
        let field = root.field("kind");
        field.warn(format!(
            "is '{}', which Fairway passes over; is {meant} meant?",
            Shown(kind)
        ));
    }
}
