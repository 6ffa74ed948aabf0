//! The route of one Service, as a pure function of everything that it depends on.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use fairway_config::balance::BalanceAlgorithm;
use fairway_config::exchange::{
    ClaimKind, ListenerReport, ListenerState, RefusedEndpoint, StoredService,
};
use fairway_config::names::ClusterName;
use fairway_config::net::{EndpointAddr, ListenAddr, Protocol};
use fairway_config::service::{
    ExternalTrafficPolicy, ForwardTo, Notice, PortKey, Service, ServicePort,
};
use ipnet::IpNet;

use super::candidates::{Gatherer, first_family};
use super::claim_requests::ClaimRequest;
use super::claims::Claims;
use super::cluster_state::ClusterState;
use super::forwarded::{self, forwarded_addresses, of_node_proxy, without_node};
use super::services::{Id, ServiceEntry, ServiceIndex};
use super::settings::RouteSettings;
use crate::balance::maglev::MaglevTable;
use crate::checks::targets::asked_at;
use crate::eligible::{Eligible, EndpointCandidate, Policy, eligible};
use crate::guard::{Refusal, unwrap_embedded};
use crate::route::{
    Claim, EndpointSet, Exclusion, HealthCheck, Resolved, Route, RoutePort, SourceRanges,
};

/// Everything that a route depends on.
pub(super) struct Parts<'a> {
    pub(super) id: Id,
    /// The Service with its previous route, of which unchanged parts are shared.
    pub(super) entry: &'a ServiceEntry,
    pub(super) stored: &'a StoredService,
    pub(super) services: &'a ServiceIndex,
    pub(super) cluster: &'a ClusterState,
    pub(super) claims: &'a Claims,
    pub(super) resolved: Resolved<'a>,
}

/// A route, and what to index it by.
#[derive(Debug, Default)]
pub(super) struct Composed {
    /// None: the Service carries no traffic here.
    pub(super) route: Option<Route>,
    /// The DNS names that it depends on, ordered.
    pub(super) names: Box<[Arc<str>]>,
    /// Its endpoints on the host itself, ordered.
    pub(super) on_host: Box<[SocketAddr]>,
    /// Whether it depends on the Nodes.
    pub(super) on_nodes: bool,
}

/// Makes the route of one Service.
pub(super) fn compose(parts: &Parts<'_>) -> Composed {
    let service = &parts.stored.service;
    let cluster = parts.cluster;
    let carried = cluster.is_taken(parts.stored) || cluster.has_node_ports(service);
    if !carried {
        return Composed::default();
    }
    let forward_to = cluster.forward_to(service);
    let local = service.external_traffic_policy == ExternalTrafficPolicy::Local;
    let mut gatherer = Gatherer {
        stored: parts.stored,
        slices: &parts.entry.slices,
        cluster,
        resolved: parts.resolved,
        names: Vec::new(),
        notices: notices(parts),
    };
    let mut lost = Vec::new();
    let claims = claims(parts, &mut gatherer.notices, &mut lost);
    let before = parts.entry.route.iter().flat_map(|route| &route.ports);
    let before = by_key(before.map(|port| (Some(port.key), port)));
    let mut on_host = Vec::new();
    let mut ready = Vec::new();
    // What nobody but the Node's own proxy forwards goes by its rules.
    let by_nodes = forwarded_addresses(parts.stored, cluster);
    let is_by_nodes = !by_nodes.is_empty() && parts.entry.requests.is_empty();
    let mut forwarded = Vec::new();
    let mut local_nodes = BTreeSet::new();
    let is_direct = is_by_nodes || forward_to == ForwardTo::Endpoints;
    let is_bound = local && is_direct && cluster.own_node().is_some();
    let mut ports = Vec::with_capacity(service.ports.len());
    for port in &service.ports {
        if !by_nodes.is_empty() {
            let listed = gatherer.of_slices(port);
            forwarded.extend(forwarded::places(
                service, port, &by_nodes, cluster, &listed,
            ));
        }
        if port.protocol == Protocol::Sctp {
            continue;
        }
        let candidates = match forward_to {
            _ if is_by_nodes => gatherer.of_slices(port),
            ForwardTo::Endpoints => gatherer.endpoints(port),
            ForwardTo::NodePorts => gatherer.node_ports(port),
        };
        if cluster.settings.may_dial_host() {
            let check = port.options.health_check.as_deref();
            let addresses = candidates.iter().flat_map(|candidate| {
                let asked = check.map(|check| asked_at(candidate.addr, check).0);
                [candidate.addr.0].into_iter().chain(asked)
            });
            on_host.extend(addresses.filter(|addr| cluster.guard.is_host(addr.ip())));
        }
        if is_bound {
            let may = |it: &EndpointCandidate<'_>| {
                let is_dialled = || check(parts, it.addr, port.protocol).is_ok();
                is_by_nodes || (it.weight > 0 && is_dialled())
            };
            local_nodes.extend(nodes_with_endpoint(service, may, &candidates));
        }
        let chosen = match is_by_nodes {
            true => of_node_proxy(service, cluster, candidates),
            false => choose(parts, port.protocol, candidates),
        };
        if !is_by_nodes {
            gatherer.notices.extend(all_drained(cluster, port, &chosen));
        }
        if local && !chosen.fallback {
            ready.extend(chosen.kept.iter().map(|endpoint| endpoint.addr.0.ip()));
        }
        let listen = of_key(&claims, Some(port.key())).map(|(_, claim)| *claim);
        let before = of_key(&before, Some(port.key()))
            .next()
            .map(|(_, port)| *port);
        let route = route_port(parts, port, before, listen.collect(), &chosen);
        gatherer.notices.extend(not_checked(&route));
        ports.push(route);
    }
    let listen: Vec<_> = of_key(&claims, None)
        .map(|(_, claim)| claim.listen)
        .collect();
    let health_check = (!listen.is_empty()).then(|| HealthCheck {
        listen,
        local_endpoints: sorted(ready).len(),
    });
    if cluster.own_node().is_none() {
        let gateway = &cluster.settings.gateway;
        lost.extend(forwarded.iter().map(|it| without_node(it, gateway)));
        forwarded.clear();
    }
    let refused = ports.iter().flat_map(|port| refused(&port.endpoints));
    let refused = sorted(refused.collect());
    Composed {
        route: Some(Route {
            service: parts.entry.name.clone(),
            ports,
            health_check,
            notices: sorted(gatherer.notices),
            refused,
            lost,
            forwarded,
            local_nodes: is_bound.then(|| Arc::new(local_nodes)),
        }),
        names: sorted(gatherer.names).into(),
        on_host: sorted(on_host).into(),
        on_nodes: local || forward_to == ForwardTo::NodePorts,
    }
}

/// The notices that do not depend on endpoints.
fn notices(parts: &Parts<'_>) -> Vec<Notice> {
    let service = &parts.stored.service;
    let cluster = parts.cluster;
    let mut notices = Vec::new();
    if service.external_traffic_policy == ExternalTrafficPolicy::Local
        && cluster.forward_to(service) == ForwardTo::Endpoints
        && cluster.own_node().is_none()
    {
        notices.push(Notice {
            reason: "LocalWithoutNode".into(),
            message: format!(
                "gateway {} is no node of the cluster and has no local endpoints, so \
                 externalTrafficPolicy: Local leaves all endpoints in",
                cluster.settings.gateway
            ),
        });
    }
    if cluster.has_node_ports(service) && cluster.would_loop(service) {
        notices.push(Notice {
            reason: "NodePortsNotServed".into(),
            message: format!(
                "gateway {} runs on a node that it forwards this Service to, so it leaves the node \
                 ports to the node's own proxy: serving them would close a loop",
                cluster.settings.gateway
            ),
        });
    }
    notices
}

/// The claims that a Service gets, by port, health checks first. A claim that another Service has goes to `lost`
/// where it is an external address, else it becomes a notice.
fn claims(
    parts: &Parts<'_>,
    notices: &mut Vec<Notice>,
    lost: &mut Vec<ListenerReport>,
) -> Vec<(Option<PortKey>, Claim)> {
    let is_won = |request: &&ClaimRequest| {
        let owner = parts.claims.owner_of(request, parts.id);
        if owner == parts.id {
            return true;
        }
        let what = match request.claim.kind {
            ClaimKind::Vip => "external address",
            ClaimKind::NodePort => "node port",
            ClaimKind::HealthCheck => "health check port",
        };
        let Some(owner) = parts.services.get(owner).map(|owner| &owner.name) else {
            return false;
        };
        let Claim {
            listen,
            protocol,
            kind,
        } = request.claim;
        let reason = "ClaimHeld";
        let message =
            format!("{what} {listen}/{protocol} is held by Service {owner}, which is older");
        match request.port {
            Some(key) if kind == ClaimKind::Vip => lost.push(ListenerReport {
                listen,
                protocol,
                port: key.port,
                kind,
                state: ListenerState::Failed {
                    reason: reason.to_owned(),
                    message,
                },
            }),
            _ => notices.push(Notice {
                reason: reason.into(),
                message,
            }),
        }
        false
    };
    let won = parts.entry.requests.iter().filter(is_won);
    by_key(won.map(|request| (request.port, request.claim)))
}

/// Orders by port. What belongs to one port keeps its order.
fn by_key<T>(things: impl Iterator<Item = (Option<PortKey>, T)>) -> Vec<(Option<PortKey>, T)> {
    let mut things: Vec<_> = things.collect();
    things.sort_by_key(|(key, _)| *key);
    things
}

/// What belongs to one port, in a list from [`by_key`].
fn of_key<T>(
    things: &[(Option<PortKey>, T)],
    key: Option<PortKey>,
) -> impl Iterator<Item = &(Option<PortKey>, T)> {
    let from = things.partition_point(|(other, _)| *other < key);
    let rest = things.get(from..).unwrap_or_default().iter();
    rest.take_while(move |(other, _)| *other == key)
}

/// Ordered, without duplicates.
fn sorted<T: Ord>(mut things: Vec<T>) -> Vec<T> {
    things.sort_unstable();
    things.dedup();
    things
}

/// Applies every rule to the endpoints of one port.
fn choose<'a>(
    parts: &Parts<'_>,
    protocol: Protocol,
    candidates: Vec<EndpointCandidate<'a>>,
) -> Eligible<'a> {
    let service: &Service = &parts.stored.service;
    let cluster = parts.cluster;
    let check = |addr: EndpointAddr| check(parts, addr, protocol);
    let straight = cluster.forward_to(service) == ForwardTo::Endpoints;
    let node = cluster.own_node().map(|node| &*node.name);
    let local = service.external_traffic_policy == ExternalTrafficPolicy::Local;
    let policy = Policy {
        publish_not_ready: service.publish_not_ready_addresses,
        only_node: node.filter(|_| straight && local),
        node: node.filter(|_| straight),
        zone: cluster.zone().filter(|_| straight),
        family: (straight && service.has_selector).then(|| first_family(service)),
        drained: &cluster.drained,
        check: &check,
    };
    eligible(candidates, &policy)
}

/// What is said of a port that has no ready endpoint but those that are drained.
fn all_drained(
    cluster: &ClusterState,
    port: &ServicePort,
    chosen: &Eligible<'_>,
) -> Option<Notice> {
    let drained = &cluster.drained;
    let is_drained = |it: &EndpointCandidate<'_>| {
        let node = it.node.map(|node| &**node);
        drained.since(it.addr, node).is_some()
    };
    if drained.is_empty() || !chosen.kept.iter().any(is_drained) {
        return None;
    }
    let message = format!(
        "port {} has no ready endpoint but those that are drained (fairway drain), so they get traffic all the same",
        port.key()
    );
    Some(Notice::new("AllDrained", message))
}

/// The Nodes that have an endpoint which gets traffic where only those of its own Node do (KEP-1669: one that is
/// serving and terminating is enough).
fn nodes_with_endpoint(
    service: &Service,
    may: impl Fn(&EndpointCandidate<'_>) -> bool,
    candidates: &[EndpointCandidate<'_>],
) -> Vec<ClusterName> {
    let publish_not_ready = service.publish_not_ready_addresses;
    let gets_traffic = |it: &&EndpointCandidate<'_>| {
        let answers = it.ready || publish_not_ready || (it.serving && it.terminating);
        answers && may(it)
    };
    let serving = candidates.iter().filter(gets_traffic);
    serving.filter_map(|it| it.node.cloned()).collect()
}

/// Whether an endpoint may be dialled. Where that is allowed it may be on the host itself, but it must not be a
/// listener of this process.
fn check(parts: &Parts<'_>, addr: EndpointAddr, protocol: Protocol) -> Result<(), Refusal> {
    let cluster = parts.cluster;
    match cluster.guard.check(addr.0.ip()) {
        Err(Refusal::Host) if is_host_endpoint(&cluster.settings, addr, protocol) => {}
        verdict => verdict?,
    }
    if cluster.settings.may_dial_host() && cluster.guard.is_host(addr.0.ip()) {
        let listens = (ListenAddr(addr.0), protocol);
        let is_admin = cluster.settings.admin.iter().any(|admin| {
            admin.port() == addr.0.port()
                && (admin.ip().is_unspecified() || admin.ip() == addr.0.ip())
        });
        if is_admin || parts.claims.owner(listens).is_some() {
            return Err(Refusal::OwnListener);
        }
    }
    Ok(())
}

/// Whether this is the one port of the host that may be dialled, by an address as the host has it.
fn is_host_endpoint(settings: &RouteSettings, addr: EndpointAddr, protocol: Protocol) -> bool {
    let (address, port) = (addr.0.ip(), addr.0.port());
    protocol == Protocol::Tcp
        && settings.host_endpoint_port == Some(port)
        && unwrap_embedded(address) == address
}

/// The route of one port. It shares unchanged parts with the previous one.
fn route_port(
    parts: &Parts<'_>,
    port: &ServicePort,
    before: Option<&Arc<RoutePort>>,
    claims: Vec<Claim>,
    chosen: &Eligible<'_>,
) -> Arc<RoutePort> {
    let service = &parts.stored.service;
    let cluster = parts.cluster;
    let endpoints = match before {
        Some(before) if chosen.is(&before.endpoints) => before.endpoints.clone(),
        _ => Arc::new(chosen.set()),
    };
    let table = table(port, before, &endpoints);
    let loop_guard = match cluster.forward_to(service) {
        ForwardTo::Endpoints => Vec::new(),
        ForwardTo::NodePorts => cluster.internal_ips.clone(),
    };
    let never_checked = never_checked(parts, port, &endpoints);
    let now = RoutePort {
        service: parts.entry.name.clone(),
        key: port.key(),
        name: port.name.clone(),
        app: port.app,
        options: port.options.clone(),
        limits: cluster.settings.limits(port),
        claims,
        sources: SourceRanges {
            allow: service.source_ranges.clone(),
            deny: denied(service, port),
        },
        affinity: service.client_ip_affinity,
        endpoints,
        table,
        never_checked,
        loop_guard,
    };
    match before {
        Some(before) if **before == now => before.clone(),
        _ => Arc::new(now),
    }
}

/// Whom the Service keeps out, and whom this port does besides.
fn denied(service: &Service, port: &ServicePort) -> Vec<IpNet> {
    let all = &service.asks.deny_source_ranges;
    all.iter()
        .chain(&port.options.deny_source_ranges)
        .copied()
        .collect()
}

/// The table of a port whose clients are spread by one. It is computed when an endpoint or a weight has changed.
fn table(
    port: &ServicePort,
    before: Option<&Arc<RoutePort>>,
    endpoints: &Arc<EndpointSet>,
) -> Option<Arc<MaglevTable>> {
    let algorithm = port.options.balance.map(|balance| balance.algorithm);
    if algorithm != Some(BalanceAlgorithm::Maglev) {
        return None;
    }
    let same = before.filter(|before| Arc::ptr_eq(&before.endpoints, endpoints));
    let same = same.and_then(|before| before.table.clone());
    Some(same.unwrap_or_else(|| Arc::new(endpoints.table())))
}

/// The eligible endpoints whose check would be made at an address that is never dialled: on the host itself another port
/// than the endpoint's may be one that this process listens on.
fn never_checked(
    parts: &Parts<'_>,
    port: &ServicePort,
    endpoints: &EndpointSet,
) -> Vec<EndpointAddr> {
    let Some(check) = &port.options.health_check else {
        return Vec::new();
    };
    let eligible = endpoints.eligible.iter().map(|endpoint| endpoint.addr);
    let is_never =
        |addr: &EndpointAddr| self::check(parts, asked_at(*addr, check), Protocol::Tcp).is_err();
    // The others are dialled for traffic, too.
    eligible
        .filter(|addr| asked_at(*addr, check) != *addr && is_never(addr))
        .collect()
}

/// What is said of them.
fn not_checked(route: &RoutePort) -> Option<Notice> {
    let first = route.never_checked.first()?;
    let message = format!(
        "port {} has endpoints that are not checked, {first} among them: the port that its check names there is one of \
         this gateway's host, which is never dialled",
        route.key
    );
    Some(Notice::new("NotChecked", message))
}

fn refused(endpoints: &EndpointSet) -> impl Iterator<Item = RefusedEndpoint> {
    endpoints
        .excluded
        .iter()
        .filter_map(|excluded| match &excluded.why {
            Exclusion::Refused(why) => Some(RefusedEndpoint {
                endpoint: excluded.addr,
                why: why.clone(),
            }),
            _ => None,
        })
}
