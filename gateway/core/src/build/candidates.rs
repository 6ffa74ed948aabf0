//! The endpoints of one port of a Service before any rule: from EndpointSlices, from DNS, or the
//! Nodes' own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_config::endpoints::{EndpointHost, EndpointSlice, SliceEndpoint, SlicePort};
use fairway_config::exchange::StoredService;
use fairway_config::net::{EndpointAddr, IpFamily};
use fairway_config::service::{
    ExternalTrafficPolicy, Notice, Service, ServicePort, ServiceType, TargetPort,
};

use super::surroundings::Surroundings;
use crate::eligible::EndpointCandidate;
use crate::route::Resolved;

/// What endpoints are gathered from, and what comes to light on the way.
pub(super) struct Gatherer<'a> {
    pub(super) stored: &'a StoredService,
    pub(super) slices: &'a [Arc<EndpointSlice>],
    pub(super) around: &'a Surroundings,
    pub(super) resolved: Resolved<'a>,
    /// DNS names that were asked for.
    pub(super) names: Vec<Arc<str>>,
    /// What to tell people.
    pub(super) notices: Vec<Notice>,
}

impl<'a> Gatherer<'a> {
    /// The endpoints of a port, straight to them.
    pub(super) fn endpoints(&mut self, port: &'a ServicePort) -> Vec<EndpointCandidate<'a>> {
        let service: &'a Service = &self.stored.service;
        if let Some(name) = external_name(service) {
            return self.external(name, port);
        }
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
                match &endpoint.address {
                    EndpointHost::Ip(ip) => {
                        found.push(candidate(*ip, number, endpoint, slice.weight));
                    }
                    EndpointHost::Name(name) => {
                        let addresses = self.addresses(name).into_iter();
                        let each = |ip| candidate(ip, number, endpoint, slice.weight);
                        found.extend(addresses.map(each));
                    }
                }
            }
        }
        if !port_found && slices(self.slices).any(|slice| !slice.endpoints.is_empty()) {
            self.notices.push(no_such_port(service, port));
        }
        found
    }

    /// The Nodes' InternalIPs and the port's node port: one candidate for a Node.
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
        let behind = self.behind(port);
        let nodes = self.around.nodes.values();
        nodes
            .filter_map(|node| {
                let ips = &node.internal_ips;
                let of_family = ips.iter().find(|ip| IpFamily::of(**ip) == family);
                let ip = of_family.or(ips.first())?.to_canonical();
                let (standing, without) = behind.of(&node.name);
                let barred = (standing == NodeEndpointState::Away).then_some(without);
                Some(EndpointCandidate {
                    addr: EndpointAddr(SocketAddr::new(ip, *number)),
                    ready: standing == NodeEndpointState::Ready,
                    serving: true,
                    terminating: standing == NodeEndpointState::Ending,
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

    /// What the Nodes' own proxies have to send the port's traffic to.
    fn behind(&self, port: &ServicePort) -> Behind<'a> {
        let service: &'a Service = &self.stored.service;
        if self.slices.is_empty() && !self.around.settings.slices_are_known {
            return Behind::Unknown;
        }
        let listed = slices(self.slices)
            .filter(|slice| slice.ports.iter().any(|it| resolve(it, port).is_some()))
            .flat_map(|slice| &slice.endpoints)
            .map(|endpoint| {
                let standing = if endpoint.ready || service.publish_not_ready_addresses {
                    NodeEndpointState::Ready
                } else if endpoint.serving && endpoint.terminating {
                    NodeEndpointState::Ending
                } else {
                    NodeEndpointState::Away
                };
                (endpoint.node.as_deref(), standing)
            });
        match service.external_traffic_policy {
            ExternalTrafficPolicy::Cluster => {
                let best = listed.map(|(_, standing)| standing).max();
                Behind::EveryNode(best.unwrap_or(NodeEndpointState::Away))
            }
            ExternalTrafficPolicy::Local => {
                let mut best = BTreeMap::new();
                for (node, standing) in listed.filter_map(|(node, it)| Some((node?, it))) {
                    let of_node = best.entry(node).or_insert(standing);
                    *of_node = standing.max(*of_node);
                }
                Behind::Each(best)
            }
        }
    }

    /// What `fairway.dev/external-name` stands for.
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

    /// What a DNS name stands for just now.
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

/// The best that a Node's own proxy has for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum NodeEndpointState {
    /// Nothing: it refuses or drops what comes.
    Away,
    /// Endpoints that are serving and terminating: it uses them where it has no others, but may
    /// lose them before the EndpointSlice says so.
    Ending,
    /// A ready endpoint.
    Ready,
}

/// What the Nodes' own proxies have for a port.
enum Behind<'a> {
    /// The slices are not known here: every Node has something.
    Unknown,
    /// `externalTrafficPolicy: Cluster`: all have the same.
    EveryNode(NodeEndpointState),
    /// `externalTrafficPolicy: Local`: each has its own.
    Each(BTreeMap<&'a str, NodeEndpointState>),
}

impl Behind<'_> {
    /// What that Node has, and what is said of it where that is nothing.
    fn of(&self, node: &str) -> (NodeEndpointState, &'static str) {
        match self {
            Self::Unknown => (NodeEndpointState::Ready, ""),
            Self::EveryNode(standing) => (*standing, "no endpoint of the Service is ready"),
            Self::Each(standings) => (
                standings
                    .get(node)
                    .copied()
                    .unwrap_or(NodeEndpointState::Away),
                "it has no endpoint of the Service, which has externalTrafficPolicy: Local",
            ),
        }
    }
}

/// The name that stands in for a Service's endpoints, if it has one.
fn external_name(service: &Service) -> Option<&Arc<str>> {
    let may_have = matches!(
        service.kind,
        ServiceType::LoadBalancer | ServiceType::NodePort
    ) && !service.has_selector;
    service.asks.external_name.as_ref().filter(|_| may_have)
}

/// The slices that count: a v1 Endpoints does where there is no EndpointSlice.
fn slices(all: &[Arc<EndpointSlice>]) -> impl Iterator<Item = &EndpointSlice> {
    let from_endpoints = all.iter().all(|slice| slice.from_endpoints);
    let all = all.iter().map(Arc::as_ref);
    all.filter(move |slice| slice.from_endpoints == from_endpoints)
}

/// The number that a slice's port gives for a Service's port, if it is that port's. They belong
/// together by name alone, as in kube-proxy: a slice names the Service's ports, not the target's.
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

/// The family that a Service puts first, IPv4 where it says nothing.
pub(super) fn first_family(service: &Service) -> IpFamily {
    let of_cluster_ip = service.cluster_ips.first().map(|ip| IpFamily::of(*ip));
    service
        .ip_families
        .first()
        .copied()
        .or(of_cluster_ip)
        .unwrap_or(IpFamily::IPv4)
}
