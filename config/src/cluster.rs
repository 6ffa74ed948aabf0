//! Objects beside Services: nodes, namespaces, TLS secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::names::{ClusterName, NamespacedName};

/// A v1 Node, as far as traffic is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: ClusterName,
    /// `status.addresses` of type InternalIP, in order.
    pub internal_ips: Vec<IpAddr>,
    /// `status.addresses` of type ExternalIP, in order.
    pub external_ips: Vec<IpAddr>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Left out of load balancing: being deleted, labelled
    /// `node.kubernetes.io/exclude-from-external-load-balancers` (an empty or unparsable value
    /// excludes, "false" includes) or tainted `ToBeDeletedByClusterAutoscaler`. Ready is
    /// deliberately not a condition (KEP-3458). Holds the reason.
    pub excluded: Option<&'static str>,
    /// Why the gateway on it is to own no address that another one can own: `excluded`, or cordoned, or asked for by
    /// `fairway drain`. Holds the reason.
    pub draining: Option<&'static str>,
}

/// A v1 Namespace: labels for pool selectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: ClusterName,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A v1 Secret of type kubernetes.io/tls.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsSecret {
    /// Namespace and name.
    pub name: NamespacedName,
    /// `data["tls.crt"]`, PEM.
    pub certificate: Vec<u8>,
    /// `data["tls.key"]`, PEM.
    pub key: Vec<u8>,
    /// `data["ca.crt"]`, PEM.
    pub ca: Option<Vec<u8>>,
}

impl fmt::Debug for TlsSecret {
    /// Without the key: debug output may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSecret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
