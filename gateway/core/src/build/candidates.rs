//! The endpoint candidates of one port of a Service, before any rule is applied: from EndpointSlices, from DNS,
//! or the Nodes' addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_config::endpoints::{EndpointHost, EndpointSlice, SliceEndpoint, SlicePort};
use fairway_config::exchange::StoredService;
use fairway_config::net::{EndpointAddr, IpFamily};
use fairway_config::service::{
    ExternalTrafficPolicy, Notice, Service, ServicePort, ServiceType, TargetPort,
    TrafficDistribution,
};

use super::cluster_state::ClusterState;
use crate::eligible::EndpointCandidate;
use crate::route::Resolved;

/// Collects endpoint candidates, and what there is to report about them.
pub(super) struct Gatherer<'a> {
    pub(super) stored: &'a StoredService,
    pub(super) slices: &'a [Arc<EndpointSlice>],
    pub(super) cluster: &'a ClusterState,
    pub(super) resolved: Resolved<'a>,
    /// DNS names that were asked for.
    pub(super) names: Vec<Arc<str>>,
    /// Notices for the report.
    pub(super) notices: Vec<Notice>,
}

impl<'a> Gatherer<'a> {
    /// The endpoints of a port, which are dialled directly.
    pub(super) fn endpoints(&mut self, port: &'a ServicePort) -> Vec<EndpointCandidate<'a>> {
        let service: &'a Service = &self.stored.service;
        match external_name(service) {
            Some(name) => self.external(name, port),
            None => self.listed(port, self.hints_to_follow()),
        }
    }

    /// The endpoints of a port that EndpointSlices list, with the topology hints that are written there: as a Node's
    /// own proxy has them.
    pub(super) fn of_slices(&mut self, port: &'a ServicePort) -> Vec<EndpointCandidate<'a>> {
        self.listed(port, None)
    }

    /// What hints are to be made from. In a cluster the EndpointSlice controller writes them; where no slice of the
    /// Service has any, as in standalone mode, they follow from its `trafficDistribution` by that controller's rules.
    fn hints_to_follow(&self) -> Option<TrafficDistribution> {
        let preferred = self.stored.service.traffic_distribution?;
        let mut endpoints = slices(self.slices).flat_map(|slice| &slice.endpoints);
        let is_without = |it: &SliceEndpoint| it.for_zones.is_empty() && it.for_nodes.is_empty();
        endpoints.all(is_without).then_some(preferred)
    }

    /// The endpoints of a port that EndpointSlices list, with hints that follow from `preferred` in place of those
    /// that are written there.
    fn listed(
        &mut self,
        port: &'a ServicePort,
        preferred: Option<TrafficDistribution>,
    ) -> Vec<EndpointCandidate<'a>> {
        let service: &'a Service = &self.stored.service;
        let mut found = Vec::new();
        let mut port_found = false;
        for slice in slices(self.slices) {
            let Some(number) = slice.ports.iter().find_map(|listed| resolve(listed, port)) else {
                continue;
            };
            port_found = true;
            self.notices.extend(slice.notices.iter().cloned());
            found.reserve(slice.endpoints.len());
            for endpoint in &slice.endpoints {
                let candidate = |ip| {
                    let written = candidate(ip, number, endpoint, slice.weight);
                    preferred.map_or(written, |preferred| hinted(written, endpoint, preferred))
                };
                match &endpoint.address {
                    EndpointHost::Ip(ip) => found.push(candidate(*ip)),
                    EndpointHost::Name(name) => {
                        let addresses = self.addresses(name).into_iter();
                        found.extend(addresses.map(candidate));
                    }
                }
            }
        }
        if !port_found && slices(self.slices).any(|slice| !slice.endpoints.is_empty()) {
            self.notices.push(no_such_port(service, port));
        }
        found
    }

    /// One candidate for each Node: its InternalIP and the port's node port.
    pub(super) fn node_ports(&mut self, port: &'a ServicePort) -> Vec<EndpointCandidate<'a>> {
        let Some(number) = self.stored.held.node_ports.get(&port.key()) else {
            self.notices.push(Notice {
                reason: "NoNodePort".into(),
                message: format!(
                    "port {} is to be forwarded to a node port and has none: allocate one, or \
                     forward to endpoints",
                    port.key()
                ),
            });
            return Vec::new();
        };
        let family = first_family(&self.stored.service);
        let node_proxies = self.node_proxies(port);
        let nodes = self.cluster.nodes.values();
        nodes
            .filter_map(|node| {
                let ips = &node.internal_ips;
                let of_family = ips.iter().find(|ip| IpFamily::of(**ip) == family);
                let ip = of_family.or(ips.first())?.to_canonical();
                let (state, without) = node_proxies.of(&node.name);
                let barred = (state == NodeEndpointState::Away).then_some(without);
                Some(EndpointCandidate {
                    addr: EndpointAddr(SocketAddr::new(ip, *number)),
                    ready: state == NodeEndpointState::Ready,
                    serving: true,
                    terminating: state == NodeEndpointState::Ending,
                    node: Some(&node.name),
                    for_zones: &[],
                    for_nodes: &[],
                    weight: 1,
                    target: Some(&node.name),
                    barred: node.excluded.or(barred),
                })
            })
            .collect()
    }

    /// The endpoints that the Nodes' own proxies have for the port.
    fn node_proxies(&self, port: &ServicePort) -> NodeProxyEndpoints<'a> {
        let service: &'a Service = &self.stored.service;
        if self.slices.is_empty() && !self.cluster.settings.slices_are_known {
            return NodeProxyEndpoints::Unknown;
        }
        let listed = slices(self.slices)
            .filter(|slice| slice.ports.iter().any(|it| resolve(it, port).is_some()))
            .flat_map(|slice| &slice.endpoints)
            .map(|endpoint| {
                let state = if endpoint.ready || service.publish_not_ready_addresses {
                    NodeEndpointState::Ready
                } else if endpoint.serving && endpoint.terminating {
                    NodeEndpointState::Ending
                } else {
                    NodeEndpointState::Away
                };
                (endpoint.node.as_deref(), state)
            });
        match service.external_traffic_policy {
            ExternalTrafficPolicy::Cluster => {
                let best = listed.map(|(_, state)| state).max();
                NodeProxyEndpoints::EveryNode(best.unwrap_or(NodeEndpointState::Away))
            }
            ExternalTrafficPolicy::Local => {
                let mut best = BTreeMap::new();
                for (node, state) in listed.filter_map(|(node, it)| Some((node?, it))) {
                    let of_node = best.entry(node).or_insert(state);
                    *of_node = state.max(*of_node);
                }
                NodeProxyEndpoints::Each(best)
            }
        }
    }

    /// The addresses of the name in `fairway.dev/external-name`.
    fn external(&mut self, name: &'a Arc<str>, port: &ServicePort) -> Vec<EndpointCandidate<'a>> {
        let TargetPort::Number(number) = port.target else {
            self.notices.push(Notice {
                reason: "TargetPortNotANumber".into(),
                message: format!(
                    "port {} has a named targetPort, which the annotation \
                     fairway.dev/external-name can't resolve: give its number",
                    port.key()
                ),
            });
            return Vec::new();
        };
        let addresses = self.addresses(name);
        let candidates = addresses.into_iter().map(|ip| EndpointCandidate {
            addr: EndpointAddr(SocketAddr::new(ip, number)),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            for_zones: &[],
            for_nodes: &[],
            weight: 1,
            target: Some(name),
            barred: None,
        });
        candidates.collect()
    }

    /// The addresses of a DNS name, as far as they are known.
    fn addresses(&mut self, name: &Arc<str>) -> Vec<IpAddr> {
        self.names.push(name.clone());
        let addresses = (self.resolved)(&EndpointHost::Name(name.clone()));
        if addresses.is_empty() {
            self.notices.push(Notice {
                reason: "NameNotResolved".into(),
                message: format!("the name {name} has no address that is known yet"),
            });
        }
        addresses
    }
}

/// The best endpoint that a Node's own proxy has for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NodeEndpointState {
    /// None: the proxy refuses or drops the traffic.
    Away,
    /// One that is serving and terminating. The proxy uses it where it has no other, but may lose it before the
    /// EndpointSlice says so.
    Ending,
    /// A ready endpoint.
    Ready,
}

/// The endpoints that the Nodes' own proxies have for a port.
enum NodeProxyEndpoints<'a> {
    /// The slices are not known here. Every Node is taken to have an endpoint.
    Unknown,
    /// `externalTrafficPolicy: Cluster`: all Nodes have the same.
    EveryNode(NodeEndpointState),
    /// `externalTrafficPolicy: Local`: each Node has its own.
    Each(BTreeMap<&'a str, NodeEndpointState>),
}

impl NodeProxyEndpoints<'_> {
    /// What that Node has, and the reason to show where it has none.
    fn of(&self, node: &str) -> (NodeEndpointState, &'static str) {
        match self {
            Self::Unknown => (NodeEndpointState::Ready, ""),
            Self::EveryNode(state) => (*state, "no endpoint of the Service is ready"),
            Self::Each(states) => (
                states.get(node).copied().unwrap_or(NodeEndpointState::Away),
                "it has no endpoint of the Service, which has externalTrafficPolicy: Local",
            ),
        }
    }
}

/// The DNS name that a Service uses in place of endpoints, if it has one.
fn external_name(service: &Service) -> Option<&Arc<str>> {
    let may_have = matches!(
        service.kind,
        ServiceType::LoadBalancer | ServiceType::NodePort
    ) && !service.has_selector;
    service.asks.external_name.as_ref().filter(|_| may_have)
}

/// The slices that count. A v1 Endpoints counts only where there is no EndpointSlice.
fn slices(all: &[Arc<EndpointSlice>]) -> impl Iterator<Item = &EndpointSlice> {
    let from_endpoints = all.iter().all(|slice| slice.from_endpoints);
    let all = all.iter().map(Arc::as_ref);
    all.filter(move |slice| slice.from_endpoints == from_endpoints)
}

/// The port number of a slice for a Service's port, if the slice has that port. Ports are matched by name alone,
/// as in kube-proxy: a slice has the names of the Service's ports, not those of the containers'.
fn resolve(listed: &SlicePort, port: &ServicePort) -> Option<u16> {
    if listed.protocol != port.protocol || *listed.name != *port.name.as_deref().unwrap_or("") {
        return None;
    }
    listed.port.or(match port.target {
        TargetPort::Number(number) => Some(number),
        TargetPort::Name(_) => None,
    })
}

fn no_such_port(service: &Service, port: &ServicePort) -> Notice {
    let wanted = match port.name.as_deref() {
        None | Some("") => "no EndpointSlice has an unnamed port".to_owned(),
        Some(name) => format!("no EndpointSlice has a port named '{name}'"),
    };
    Notice {
        reason: "PortNotInEndpointSlices".into(),
        message: format!(
            "port {} of {} has no endpoints: {wanted} for {}; an EndpointSlice names the Service's \
             ports, not the containers'",
            port.key(),
            service.name,
            port.protocol
        ),
    }
}

fn candidate<'a>(
    ip: IpAddr,
    port: u16,
    endpoint: &'a SliceEndpoint,
    weight: u16,
) -> EndpointCandidate<'a> {
    EndpointCandidate {
        addr: EndpointAddr(SocketAddr::new(ip.to_canonical(), port)),
        ready: endpoint.ready,
        serving: endpoint.serving,
        terminating: endpoint.terminating,
        node: endpoint.node.as_ref(),
        for_zones: &endpoint.for_zones,
        for_nodes: &endpoint.for_nodes,
        weight,
        target: endpoint.target.as_ref(),
        barred: None,
    }
}

/// The same with the hints that Kubernetes' EndpointSlice controller would write.
fn hinted<'a>(
    candidate: EndpointCandidate<'a>,
    endpoint: &'a SliceEndpoint,
    preferred: TrafficDistribution,
) -> EndpointCandidate<'a> {
    let zone = endpoint.zone.as_ref();
    let node = endpoint.node.as_ref();
    let node = node.filter(|_| preferred == TrafficDistribution::PreferSameNode);
    EndpointCandidate {
        for_zones: zone.map_or(&[], std::slice::from_ref),
        for_nodes: node.map_or(&[], std::slice::from_ref),
        ..candidate
    }
}

/// The first address family of a Service; IPv4 where it has none.
pub(super) fn first_family(service: &Service) -> IpFamily {
    let of_cluster_ip = service.cluster_ips.first().map(|ip| IpFamily::of(*ip));
    service
        .ip_families
        .first()
        .copied()
        .or(of_cluster_ip)
        .unwrap_or(IpFamily::IPv4)
}
