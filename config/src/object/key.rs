//! Which object it is: its kind, its namespace and its name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::annotations::parse;
use crate::names::NamespacedName;

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
    /// fairway.dev/v1alpha1 BGPPeer.
    BgpPeer,
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
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::Node,
        Self::AddressPool,
        Self::BgpPeer,
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
            Self::BgpPeer => "BGPPeer",
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
            Self::AddressPool | Self::BgpPeer => "fairway.dev/v1alpha1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }

    /// Whether its objects are in namespaces.
    pub fn is_namespaced(self) -> bool {
        match self {
            Self::Namespace | Self::Node | Self::AddressPool | Self::BgpPeer => false,
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
            && namespace.is_none_or(is_name)
            && is_name(name);
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

/// Whether an object can be called so: a part of a path that leads nowhere else.
pub(super) fn is_name(text: &str) -> bool {
    parse::is_dns_subdomain(text)
}
