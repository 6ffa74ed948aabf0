//! What objects are called.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Namespace and name of a namespaced object. Ordered by namespace, then name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespacedName {
    /// The namespace; `default` where the document names none.
    pub namespace: Arc<str>,
    /// The object's name.
    pub name: Arc<str>,
}

/// The name of a Service.
pub type ServiceName = NamespacedName;

impl NamespacedName {
    /// A name from its two parts.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Not of the form `NAMESPACE/NAME`.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not of the form NAMESPACE/NAME")]
pub struct NotNamespacedName(String);

impl FromStr for NamespacedName {
    type Err = NotNamespacedName;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                Ok(Self::new(namespace, name))
            }
            _ => Err(NotNamespacedName(s.to_owned())),
        }
    }
}

impl Serialize for NamespacedName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NamespacedName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The name of an object without a namespace: a Node, a Namespace, an AddressPool, a BGPPeer.
pub type ClusterName = Arc<str>;
