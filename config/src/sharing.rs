//! The rule of which Services may share an address, for the controller and for `validate`.
//!
//! Two Services share an address where both name the same sharing key, have no port in common, and,
//! if they are of different namespaces, each names the namespace of the other.

use std::fmt;
use std::sync::Arc;

use crate::field::Shown;
use crate::service::{PortKey, Service, ServicePort, SharingNamespaces};

/// Why two Services can't share an address. Displays as the end of a sentence, from the side of the
/// one that comes second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharingClash {
    /// They do not name the same sharing key: the key of the second Service, and that of the
    /// holder.
    Keys(Option<Arc<str>>, Option<Arc<str>>),
    /// Not both name the other's namespace: the namespaces that have to be named.
    Namespaces(Arc<str>, Arc<str>),
    /// Both have this port.
    Port(PortKey),
}

/// Why `service` can't share an address with `other`.
pub fn clash(service: &Service, other: &Service) -> Option<SharingClash> {
    keys_differ(service, other)
        .or_else(|| no_consent(service, other))
        .or_else(|| {
            let keys = service.ports.iter().map(ServicePort::key);
            let has = |key: &PortKey| other.ports.iter().any(|port| port.key() == *key);
            keys.into_iter().find(has).map(SharingClash::Port)
        })
}

/// Why two Services can't share where they do not name the same sharing key. A Service without a
/// key shares with none.
pub fn keys_differ(service: &Service, other: &Service) -> Option<SharingClash> {
    let (own, others) = (&service.asks.sharing_key, &other.asks.sharing_key);
    if own.is_some() && own == others {
        return None;
    }
    Some(SharingClash::Keys(own.clone(), others.clone()))
}

/// Why two Services of different namespaces can't share where not both name the other's namespace.
pub fn no_consent(service: &Service, other: &Service) -> Option<SharingClash> {
    let (own, others) = (&service.name.namespace, &other.name.namespace);
    let agrees = |service: &Service, with: &Arc<str>| match &service.asks.sharing_namespaces {
        SharingNamespaces::Own => false,
        SharingNamespaces::Listed(listed) => listed.contains(with),
        SharingNamespaces::All => true,
    };
    if own == others || (agrees(service, others) && agrees(other, own)) {
        return None;
    }
    Some(SharingClash::Namespaces(
        Arc::clone(own),
        Arc::clone(others),
    ))
}

impl SharingClash {
    /// The CamelCase word for conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Keys(..) => "AddressHeld",
            Self::Namespaces(..) => "SharingWithoutConsent",
            Self::Port(_) => "SharingPortClash",
        }
    }
}

impl fmt::Display for SharingClash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(own, others) => {
                f.write_str("the two have no sharing key in common (fairway.dev/sharing-key): ")?;
                match (own, others) {
                    (None, None) => f.write_str("neither has one"),
                    (Some(own), None) => {
                        write!(f, "this one has '{}', the other has none", Shown(own))
                    }
                    (None, Some(others)) => {
                        write!(f, "this one has none, the other has '{}'", Shown(others))
                    }
                    (Some(own), Some(others)) => {
                        let (own, others) = (Shown(own), Shown(others));
                        write!(f, "this one has '{own}', the other has '{others}'")
                    }
                }
            }
            Self::Namespaces(own, others) => write!(
                f,
                "both have the same sharing key, but the namespaces {own} and {others} do not both name each other in fairway.dev/sharing-namespaces"
            ),
            Self::Port(key) => write!(f, "both have the same sharing key and use port {key}"),
        }
    }
}
