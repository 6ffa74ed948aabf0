//! One Service's route from everything that it depends on, as a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use fairway_config::endpoints::EndpointSlice;
use fairway_config::exchange::{ClaimKind, RefusedEndpoint, StoredService};
use fairway_config::net::{EndpointAddr, ListenAddr, Protocol};
use fairway_config::service::{
    ExternalTrafficPolicy, ForwardTo, Notice, PortKey, Service, ServicePort,
};
use fairway_config::view::EndpointRow;

use super::SliceKey;
use super::candidates::{Gatherer, first_family};
use super::claims::Claims;
use super::surroundings::Surroundings;
use crate::eligible::{Candidate, Eligible, Policy, eligible};
use crate::guard::Refusal;
use crate::route::{Claim, EndpointSet, HealthCheck, Resolved, Route, RoutePort, Sources, Why};

/// What a route depends on.
pub(super) struct Parts<'a> {
    pub(super) stored: &'a StoredService,
    pub(super) slices: &'a [(SliceKey, Arc<EndpointSlice>)],
    /// The route until now: parts of it that stay the same are shared.
    pub(super) before: Option<&'a Route>,
    pub(super) around: &'a Surroundings,
    pub(super) claims: &'a Claims,
    pub(super) resolved: Resolved<'a>,
}

/// A route, and what it depends on besides the Service and its slices.
#[derive(Debug, Default)]
pub(super) struct Composed {
    /// None: the Service carries no traffic here.
    pub(super) route: Option<Route>,
    /// DNS names.
    pub(super) names: BTreeSet<Arc<str>>,
    /// Endpoints on the host itself.
    pub(super) on_host: BTreeSet<SocketAddr>,
    /// Depends on the Nodes.
    pub(super) on_nodes: bool,
}

/// Makes the route of one Service.
pub(super) fn compose(parts: &Parts<'_>) -> Composed {
    let service = &parts.stored.service;
    let around = parts.around;
    let carried = around.is_ours(service) || around.has_node_ports(service);
    if !carried {
        return Composed::default();
    }
    let forward_to = around.forward_to(service);
    let local = service.external_traffic_policy == ExternalTrafficPolicy::Local;
    let mut gatherer = Gatherer {
        stored: parts.stored,
        slices: parts.slices,
        around,
        resolved: parts.resolved,
        names: BTreeSet::new(),
        notices: notices(parts),
    };
    let mut claims = claims(parts, &mut gatherer.notices);
    let before = parts.before.into_iter().flat_map(|route| &route.ports);
    let before: BTreeMap<_, _> = before.map(|port| (port.key, port)).collect();
    let mut on_host = BTreeSet::new();
    let mut ready = BTreeSet::new();
    let mut ports = Vec::with_capacity(service.ports.len());
    for port in service
        .ports
        .iter()
        .filter(|port| port.protocol != Protocol::Sctp)
    {
        let candidates = match forward_to {
            ForwardTo::Endpoints => gatherer.endpoints(port),
            ForwardTo::NodePorts => gatherer.node_ports(port),
        };
        if around.settings.allow_loopback {
            let addresses = candidates.iter().map(|candidate| candidate.addr.0);
            on_host.extend(addresses.filter(|addr| around.guard.is_host(addr.ip())));
        }
        let chosen = choose(parts, port.protocol, candidates);
        if !chosen.fallback {
            ready.extend(
                chosen
                    .set
                    .eligible
                    .iter()
                    .map(|endpoint| endpoint.addr.0.ip()),
            );
        }
        let mut listen = claims.ports.remove(&port.key()).unwrap_or_default();
        listen.shrink_to_fit();
        let before = before.get(&port.key()).copied();
        ports.push(route_port(parts, port, before, listen, chosen.set));
    }
    let refused: BTreeSet<_> = ports
        .iter()
        .flat_map(|port| refused(&port.endpoints))
        .collect();
    let health_check = (!claims.health_check.is_empty()).then(|| HealthCheck {
        listen: claims
            .health_check
            .iter()
            .map(|claim| claim.listen)
            .collect(),
        local_endpoints: ready.len(),
    });
    Composed {
        route: Some(Route {
            service: service.name.clone(),
            ports,
            health_check,
            notices: gatherer.notices.into_iter().collect(),
            refused: refused.into_iter().collect(),
        }),
        names: gatherer.names,
        on_host,
        on_nodes: local || forward_to == ForwardTo::NodePorts,
    }
}

/// Every endpoint of a route and how it is.
pub(super) fn explain(route: &Route) -> Vec<EndpointRow> {
    let mut rows = Vec::new();
    for port in &route.ports {
        let row =
            |addr: EndpointAddr, node: Option<&Arc<str>>, state: &str, why: String| EndpointRow {
                namespace: route.service.namespace.to_string(),
                service: route.service.name.to_string(),
                port: port.key.port,
                protocol: port.key.protocol,
                endpoint: addr,
                state: state.to_owned(),
                why: format!("{addr} {why}"),
                node: node.map(|node| node.to_string()),
                active: 0,
            };
        let from = rows.len();
        rows.extend(port.endpoints.eligible.iter().map(|endpoint| {
            let why = match endpoint.weight {
                1 => "gets traffic".to_owned(),
                weight => format!("gets traffic with weight {weight}"),
            };
            row(endpoint.addr, endpoint.node.as_ref(), "eligible", why)
        }));
        rows.extend(port.endpoints.excluded.iter().map(|excluded| {
            row(
                excluded.addr,
                excluded.node.as_ref(),
                excluded.why.state(),
                excluded.why.to_string(),
            )
        }));
        rows[from..].sort_by_key(|row| row.endpoint);
    }
    rows
}

/// What is to be said before any endpoint is looked at.
fn notices(parts: &Parts<'_>) -> BTreeSet<Notice> {
    let service = &parts.stored.service;
    let around = parts.around;
    let mut notices = BTreeSet::new();
    if service.external_traffic_policy == ExternalTrafficPolicy::Local
        && around.forward_to(service) == ForwardTo::Endpoints
        && around.own_node().is_none()
    {
        notices.insert(Notice {
            reason: "LocalWithoutNode".into(),
            message: format!(
                "gateway {} is no node of the cluster and has no local endpoints, so \
                 externalTrafficPolicy: Local leaves all endpoints in",
                around.settings.gateway
            ),
        });
    }
    if around.has_node_ports(service) && around.would_loop(service) {
        notices.insert(Notice {
            reason: "NodePortsNotServed".into(),
            message: format!(
                "gateway {} runs on a node that it forwards this Service to, so it leaves the node \
                 ports to the node's own proxy: serving them would close a loop",
                around.settings.gateway
            ),
        });
    }
    notices
}

/// What a Service has claimed.
#[derive(Default)]
struct Listens {
    ports: BTreeMap<PortKey, Vec<Claim>>,
    health_check: Vec<Claim>,
}

/// What a Service has of what it wants; a notice for each thing that another one has.
fn claims(parts: &Parts<'_>, notices: &mut BTreeSet<Notice>) -> Listens {
    let name = &parts.stored.service.name;
    let mut listens = Listens::default();
    for (want, owner) in parts.claims.of(name) {
        if owner == name {
            match want.port {
                Some(key) => listens.ports.entry(key).or_default().push(want.claim),
                None => listens.health_check.push(want.claim),
            }
        } else {
            let what = match want.claim.kind {
                ClaimKind::Vip => "external address",
                ClaimKind::NodePort => "node port",
                ClaimKind::HealthCheck => "health check port",
            };
            notices.insert(Notice {
                reason: "ClaimHeld".into(),
                message: format!(
                    "{what} {}/{} is held by Service {owner}, which is older",
                    want.claim.listen, want.claim.protocol
                ),
            });
        }
    }
    listens
}

/// Applies every rule to the endpoints of one port.
fn choose(parts: &Parts<'_>, protocol: Protocol, candidates: Vec<Candidate<'_>>) -> Eligible {
    let service: &Service = &parts.stored.service;
    let around = parts.around;
    let check = |addr: EndpointAddr| check(parts, addr, protocol);
    let straight = around.forward_to(service) == ForwardTo::Endpoints;
    let node = around.own_node().map(|node| &*node.name);
    let local = service.external_traffic_policy == ExternalTrafficPolicy::Local;
    let policy = Policy {
        publish_not_ready: service.publish_not_ready_addresses,
        only_node: node.filter(|_| straight && local),
        node: node.filter(|_| straight),
        zone: around.zone().filter(|_| straight),
        family: (straight && service.has_selector).then(|| first_family(service)),
        check: &check,
    };
    eligible(candidates, &policy)
}

/// Whether an endpoint may be dialled. Where loopback is allowed it may be on the host itself, but
/// not be a listener of this process.
fn check(parts: &Parts<'_>, addr: EndpointAddr, protocol: Protocol) -> Result<(), Refusal> {
    let around = parts.around;
    around.guard.check(addr.0.ip())?;
    if around.settings.allow_loopback && around.guard.is_host(addr.0.ip()) {
        let listens = (ListenAddr(addr.0), protocol);
        let is_admin = around.settings.admin.iter().any(|admin| {
            admin.port() == addr.0.port()
                && (admin.ip().is_unspecified() || admin.ip() == addr.0.ip())
        });
        if is_admin || parts.claims.owner(listens).is_some() {
            return Err(Refusal::OwnListener);
        }
    }
    Ok(())
}

/// One port, sharing with the route until now what is the same.
fn route_port(
    parts: &Parts<'_>,
    port: &ServicePort,
    before: Option<&Arc<RoutePort>>,
    claims: Vec<Claim>,
    endpoints: EndpointSet,
) -> Arc<RoutePort> {
    let service = &parts.stored.service;
    let around = parts.around;
    let endpoints = match before {
        Some(before) if *before.endpoints == endpoints => before.endpoints.clone(),
        _ => Arc::new(endpoints),
    };
    let loop_guard = match around.forward_to(service) {
        ForwardTo::Endpoints => Vec::new(),
        ForwardTo::NodePorts => around.internal_ips.clone(),
    };
    let now = RoutePort {
        service: service.name.clone(),
        key: port.key(),
        name: port.name.clone(),
        app: port.app,
        claims,
        sources: Sources {
            allow: service.source_ranges.clone(),
            deny: service.asks.deny_source_ranges.clone(),
        },
        affinity: service.client_ip_affinity,
        endpoints,
        loop_guard,
    };
    match before {
        Some(before) if **before == now => before.clone(),
        _ => Arc::new(now),
    }
}

fn refused(endpoints: &EndpointSet) -> impl Iterator<Item = RefusedEndpoint> {
    endpoints
        .excluded
        .iter()
        .filter_map(|excluded| match &excluded.why {
            Why::Refused(why) => Some(RefusedEndpoint {
                endpoint: excluded.addr,
                why: why.clone(),
            }),
            _ => None,
        })
}
