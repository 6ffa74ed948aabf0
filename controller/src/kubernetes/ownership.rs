//! Which controller has a Service.
//!
//! A controller is known by its namespace and its class, written `NAMESPACE/CLASS`. It writes that into
//! the annotation [`CONTROLLER`] when it takes a Service, and into the condition `fairway.dev/Taken` with
//! the first address. Who owns a Service may write its annotations, but not its status: so where the
//! status names a controller, the annotation can give the Service to no other one.

use std::fmt;
use std::sync::Arc;

use fairway_config::annotations::CONTROLLER;
use fairway_config::class::ClassFilter;
use fairway_config::service::Service;
use serde_json::Value;

use super::service_record::ServiceOwner;

/// A label's key: a DNS subdomain, a slash, and a name.
const LONGEST_CLASS: usize = 253 + 1 + 63;

/// A controller: which Services it takes, and its name among the controllers of the cluster.
#[derive(Clone, Debug)]
pub(super) struct ControllerIdentity {
    class: ClassFilter,
    /// Fairway's own namespace.
    namespace: Arc<str>,
    identity: Arc<str>,
}

impl ControllerIdentity {
    pub(super) fn new(namespace: &str, class: ClassFilter) -> Self {
        Self {
            identity: format!("{namespace}/{}", class.name).into(),
            namespace: namespace.into(),
            class,
        }
    }

    /// Whether the controller takes this Service.
    pub(super) fn takes(&self, service: &Service) -> bool {
        self.class.takes(service)
    }

    /// The controller's name among the controllers of the cluster.
    pub(super) fn identity(&self) -> &Arc<str> {
        &self.identity
    }

    /// Whether a controller of that name is of the same namespace: its gateways are ours.
    pub(super) fn is_of_our_namespace(&self, identity: &str) -> bool {
        split(identity).is_some_and(|(namespace, _)| *namespace == *self.namespace)
    }

    /// Another controller of the same class, in another namespace.
    pub(super) fn namesake<'a>(&self, identity: &'a str) -> Option<ControllerName<'a>> {
        let name = self.another(identity)?;
        (name.class == &*self.class.name).then_some(name)
    }

    /// Another controller, of any class.
    pub(super) fn another<'a>(&self, identity: &'a str) -> Option<ControllerName<'a>> {
        let name = ControllerName::read(identity)?;
        (*identity != *self.identity).then_some(name)
    }

    /// Which controller a Service's annotation names.
    pub(super) fn marked(&self, document: &Value) -> ServiceOwner {
        let annotations = document.pointer("/metadata/annotations");
        let identity = annotations.and_then(|it| it.get(CONTROLLER)?.as_str());
        self.owner(identity.unwrap_or_default())
    }

    /// The owner of that name.
    pub(super) fn owner(&self, identity: &str) -> ServiceOwner {
        match identity {
            "" => ServiceOwner::Nobody,
            identity if *identity == *self.identity => ServiceOwner::Us,
            other => ServiceOwner::Other(other.into()),
        }
    }
}

/// The name of a controller, as somebody has written it into a Service. It goes into the path of a request and
/// is remembered, so nothing else than what can be such a name is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ControllerName<'a> {
    pub(super) namespace: &'a str,
    pub(super) class: &'a str,
}

impl fmt::Display for ControllerName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.class)
    }
}

impl<'a> ControllerName<'a> {
    fn read(identity: &'a str) -> Option<Self> {
        let (namespace, class) = split(identity)?;
        let name = Self { namespace, class };
        (is_namespace(namespace) && is_class(class)).then_some(name)
    }
}

/// Whether an API server would take this for a `loadBalancerClass` (a label's key).
fn is_class(class: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/".contains(&byte);
    (1..=LONGEST_CLASS).contains(&class.len()) && class.bytes().all(is_inner)
}

/// Whether an API server would take this for the name of a namespace (a label of RFC 1123).
fn is_namespace(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(is_inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Namespace and class of a controller.
fn split(identity: &str) -> Option<(&str, &str)> {
    identity.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_namespace_is_asked_for() {
        let class = ClassFilter {
            name: "example.com/edge".into(),
            is_default: false,
        };
        let us = ControllerIdentity::new("ours", class);
        for (identity, namesake) in [
            ("theirs/example.com/edge", Some("theirs")),
            ("a-1/example.com/edge", Some("a-1")),
            ("ours/example.com/edge", None),
            ("theirs/example.com/other", None),
            ("ours/example.com/other", None),
            ("/example.com/edge", None),
            ("../example.com/edge", None),
            ("a?b/example.com/edge", None),
            ("a%2fb/example.com/edge", None),
            ("Theirs/example.com/edge", None),
            ("-a/example.com/edge", None),
            ("theirs", None),
        ] {
            let found = us.namesake(identity).map(|it| it.namespace);
            assert_eq!(found, namesake, "{identity}");
        }
        let long = format!("{}/example.com/edge", "a".repeat(64));
        assert_eq!(us.namesake(&long), None);
        // Of another class.
        let long = format!("theirs/{}", "a".repeat(LONGEST_CLASS + 1));
        for (identity, another) in [
            (
                "ours/example.com/other",
                Some(("ours", "example.com/other")),
            ),
            (
                "theirs/example.com/edge",
                Some(("theirs", "example.com/edge")),
            ),
            ("theirs/internal", Some(("theirs", "internal"))),
            ("ours/example.com/edge", None),
            ("../example.com/edge", None),
            ("theirs/", None),
            ("theirs/a b", None),
            ("theirs/a?b", None),
            ("", None),
            (&*long, None),
        ] {
            let found = us.another(identity).map(|it| (it.namespace, it.class));
            assert_eq!(found, another, "{identity}");
        }
    }
}
