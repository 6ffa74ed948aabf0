//! Where the endpoints of a Service are.

use std::net::IpAddr;
use std::sync::Arc;

use crate::names::{ClusterName, NamespacedName, ServiceName};
use crate::net::Protocol;
use crate::service::{AppProtocol, Notice};

/// A discovery.k8s.io/v1 EndpointSlice, or a v1 Endpoints turned into the same shape.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// The slice's own name; that of the Service for a v1 Endpoints.
    pub name: NamespacedName,
    /// The Service, from the label `kubernetes.io/service-name`; none: it belongs to no Service.
    pub service: Option<ServiceName>,
    /// Whether it comes from a v1 Endpoints, which counts only for a Service that no EndpointSlice
    /// names.
    pub from_endpoints: bool,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<SliceEndpoint>,
    /// `fairway.dev/weight`, 1 where not said; 0 takes the slice's endpoints out (maintenance).
    pub weight: u16,
    /// What could not be read and is left out.
    pub notices: Vec<Notice>,
}

impl EndpointSlice {
    /// A slice without ports and endpoints.
    pub fn new(name: NamespacedName, service: ServiceName) -> Self {
        Self {
            name,
            service: Some(service),
            from_endpoints: false,
            ports: Vec::new(),
            endpoints: Vec::new(),
            weight: 1,
            notices: Vec::new(),
        }
    }
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// `name`: that of the Service's port, empty for the only one.
    pub name: Arc<str>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`; none stands for every port (the Service's target port is used).
    pub port: Option<u16>,
    /// `appProtocol`.
    pub app: AppProtocol,
}

/// One entry of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// `addresses`: all of them stand for the same endpoint; consumers take the first.
    pub address: EndpointHost,
    /// `conditions.ready`; unknown counts as true (EndpointSlice API).
    pub ready: bool,
    /// `conditions.serving`; `ready` where not said.
    pub serving: bool,
    /// `conditions.terminating`; false where not said.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<ClusterName>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints.forZones`.
    pub for_zones: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub for_nodes: Vec<ClusterName>,
    /// `targetRef.name` or `hostname`, for people.
    pub target: Option<Arc<str>>,
}

impl SliceEndpoint {
    /// An endpoint that is ready or not, of which nothing else is said.
    pub fn new(address: EndpointHost, ready: bool) -> Self {
        Self {
            address,
            ready,
            serving: ready,
            terminating: false,
            node: None,
            zone: None,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
            target: None,
        }
    }
}

/// An endpoint's address, or the name it is found under (addressType FQDN).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointHost {
    /// An address.
    Ip(IpAddr),
    /// A DNS name, to be resolved by the gateway.
    Name(Arc<str>),
}
