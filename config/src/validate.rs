//! Checks of several objects against each other, each of which is well-formed, without an allocator
//! and without anything that runs.
//!
//! `fairway validate` shows these, and so does `get problems` of a directory. They see what is
//! there and assume no more: a Service that names a pool is not wrong where no pool was given at
//! all, since pools may be kept elsewhere.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use crate::bgp_peer::BgpPeer;
use crate::endpoints::EndpointSlice;
use crate::field::FieldProblem;
use crate::names::{NamespacedName, ServiceName};
use crate::object::{Object, ObjectKey};
use crate::pool::AddressPool;
use crate::problem::{DocumentPlace, Problem, Severity};
use crate::service::{Service, ServicePort, ServiceType, TargetPort};
use crate::sharing;

/// An object and where it was declared.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    /// Where.
    pub place: DocumentPlace,
    /// Which object.
    pub key: ObjectKey,
    /// The object.
    pub object: Object,
}

/// Every problem that the objects have with each other, and each one's own notices; sorted by file
/// and document. `node_ports` is the range that node ports are given out from. The order of
/// `objects` decides which of two with one name counts: the first.
pub fn check(objects: &[Located], node_ports: &RangeInclusive<u16>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let declared = DeclaredObjects::of(objects, &mut problems);
    declared.notices(&mut problems);
    declared.slices(&mut problems);
    declared.target_ports(&mut problems);
    declared.pools(&mut problems);
    declared.peers(&mut problems);
    declared.node_ports(node_ports, &mut problems);
    declared.addresses(&mut problems);
    declared.unserved(&mut problems);
    problems.sort();
    problems.dedup();
    problems
}

/// The objects that count, by kind and name.
#[derive(Default)]
struct DeclaredObjects<'a> {
    services: BTreeMap<&'a ServiceName, (&'a Located, &'a Service)>,
    slices: Vec<(&'a Located, &'a EndpointSlice)>,
    pools: BTreeMap<&'a str, (&'a Located, &'a AddressPool)>,
    peers: BTreeMap<&'a str, (&'a Located, &'a BgpPeer)>,
}

fn problem(at: &Located, field: &str, message: impl Into<String>) -> Problem {
    at.place.problem(
        &at.key.to_string(),
        FieldProblem {
            field: field.to_owned(),
            message: message.into(),
        },
    )
}

fn warning(at: &Located, field: &str, message: impl Into<String>) -> Problem {
    Problem {
        severity: Severity::Warning,
        ..problem(at, field, message)
    }
}

impl<'a> DeclaredObjects<'a> {
    /// The same object in two places: the first one counts.
    fn of(objects: &'a [Located], problems: &mut Vec<Problem>) -> Self {
        let mut seen: BTreeMap<&ObjectKey, &Located> = BTreeMap::new();
        let mut declared = Self::default();
        for located in objects {
            if let Some(first) = seen.get(&located.key) {
                problems.push(problem(
                    located,
                    "",
                    format!(
                        "is declared in {} as well, and that one counts: remove one of them",
                        first.place
                    ),
                ));
                continue;
            }
            seen.insert(&located.key, located);
            match &located.object {
                Object::Service(service) => {
                    declared.services.insert(&service.name, (located, service));
                }
                Object::EndpointSlice(slice) => declared.slices.push((located, slice)),
                Object::Endpoints(slices) => {
                    declared
                        .slices
                        .extend(slices.iter().map(|slice| (located, slice.as_ref())));
                }
                Object::Pool(pool) => {
                    declared.pools.insert(&pool.name, (located, pool));
                }
                Object::BgpPeer(peer) => {
                    declared.peers.insert(&peer.name, (located, peer));
                }
                Object::Node(_)
                | Object::Namespace(_)
                | Object::Secret(_)
                | Object::Other { .. } => {}
            }
        }
        declared
    }

    fn notices(&self, problems: &mut Vec<Problem>) {
        let services = self
            .services
            .values()
            .flat_map(|(at, service)| service.notices.iter().map(move |notice| (*at, notice)));
        let pools = self
            .pools
            .values()
            .flat_map(|(at, pool)| pool.notices.iter().map(move |notice| (*at, notice)));
        let peers = self
            .peers
            .values()
            .flat_map(|(at, peer)| peer.notices.iter().map(move |notice| (*at, notice)));
        for (at, notice) in services.chain(pools).chain(peers) {
            let message = format!("{}: {}", notice.reason, notice.message);
            problems.push(match notice.is_warning() {
                true => warning(at, "", message),
                false => problem(at, "", message),
            });
        }
        let pools = self.pools.values().map(|(at, pool)| (at, &pool.problems));
        let peers = self.peers.values().map(|(at, peer)| (at, &peer.problems));
        for (at, own) in pools.chain(peers) {
            let all = own.iter();
            problems.extend(all.map(|it| problem(at, &it.field, it.message.clone())));
        }
    }

    /// Endpoints for a Service that is not there: mostly a misspelt name or namespace.
    fn slices(&self, problems: &mut Vec<Problem>) {
        for (at, slice) in &self.slices {
            let Some(service) = &slice.service else {
                problems.push(warning(
                    at,
                    "metadata.labels",
                    "has no label kubernetes.io/service-name: its endpoints are of no Service",
                ));
                continue;
            };
            if !self.services.contains_key(service) {
                let field = if slice.from_endpoints {
                    "metadata.name"
                } else {
                    "metadata.labels[kubernetes.io/service-name]"
                };
                problems.push(warning(
                    at,
                    field,
                    format!("stands for the Service {service}, which is not there"),
                ));
            }
        }
    }

    /// The slices of each Service that count: those of a v1 Endpoints only where there is no other.
    fn slices_of(&self) -> BTreeMap<&'a NamespacedName, Vec<&'a EndpointSlice>> {
        let mut slices: BTreeMap<&NamespacedName, Vec<&EndpointSlice>> = BTreeMap::new();
        for (_, slice) in &self.slices {
            if let Some(service) = &slice.service {
                slices.entry(service).or_default().push(slice);
            }
        }
        for slices in slices.values_mut() {
            if slices.iter().any(|slice| !slice.from_endpoints) {
                slices.retain(|slice| !slice.from_endpoints);
            }
        }
        slices
    }

    /// A port of a Service that no slice has a port for: its traffic finds no endpoint.
    fn target_ports(&self, problems: &mut Vec<Problem>) {
        for (name, slices) in self.slices_of() {
            let Some((at, service)) = self.services.get(name) else {
                continue;
            };
            let inhabited = || slices.iter().filter(|slice| !slice.endpoints.is_empty());
            if service.headless || inhabited().next().is_none() {
                continue;
            }
            for port in &service.ports {
                let found = inhabited().any(|slice| slice.ports.iter().any(|p| fits(port, p)));
                if found {
                    continue;
                }
                let what = match &port.target {
                    TargetPort::Name(name) => format!("(targetPort '{name}') "),
                    TargetPort::Number(_) => String::new(),
                };
                let called = match &port.name {
                    Some(name) => format!("named '{name}'"),
                    None => "without a name".to_owned(),
                };
                problems.push(problem(
                    at,
                    "spec.ports",
                    format!(
                        "has the port {} {what}that no EndpointSlice has a {} port {called} for: its traffic finds no endpoint",
                        port.key(),
                        port.protocol
                    ),
                ));
            }
        }
    }

    fn pools(&self, problems: &mut Vec<Problem>) {
        let pools: Vec<_> = self.pools.values().collect();
        for (index, (at, pool)) in pools.iter().enumerate() {
            for (_, other) in pools.iter().take(index) {
                let Some(range) = pool.overlaps(other).into_iter().next() else {
                    continue;
                };
                let first = pool.precedence().min(other.precedence());
                problems.push(warning(
                    at,
                    "spec.addresses",
                    format!(
                        "overlaps the pool {} in {range}: an address belongs to one pool, here to {}",
                        other.name,
                        first.name()
                    ),
                ));
            }
        }
    }

    /// Peers that a pool names and that are not there, and two BGPPeers for one router.
    fn peers(&self, problems: &mut Vec<Problem>) {
        for (at, pool) in self.pools.values() {
            let Some(bgp) = &pool.announce.bgp else {
                continue;
            };
            if self.peers.is_empty() {
                let message = "is announced to routers, and there is no BGPPeer here: without one elsewhere to none";
                problems.push(warning(at, "spec.announce.bgp", message));
                continue;
            }
            for name in bgp
                .peers
                .iter()
                .filter(|it| !self.peers.contains_key(&***it))
            {
                let message = format!(
                    "names the BGPPeer {name}, which is not there; known are {}",
                    listed(self.peers.keys())
                );
                problems.push(warning(at, "spec.announce.bgp.peers", message));
            }
        }
        let mut seen: BTreeMap<_, &str> = BTreeMap::new();
        for (at, peer) in self.peers.values() {
            let Some(address) = peer.peer_address else {
                continue;
            };
            let router = (address, peer.peer_port, &peer.interface);
            match seen.get(&router) {
                None => {
                    seen.insert(router, &peer.name);
                }
                Some(first) => {
                    let message = format!(
                        "is {address}, as in the BGPPeer {first}: where both are for one gateway, a \
                         router takes one session of the two"
                    );
                    problems.push(warning(at, "spec.peerAddress", message));
                }
            }
        }
    }

    /// A number belongs to one Service, which may use it once for TCP and once for UDP.
    fn node_ports(&self, range: &RangeInclusive<u16>, problems: &mut Vec<Problem>) {
        let mut holders: BTreeMap<u16, &ServiceName> = BTreeMap::new();
        for (at, service) in self.services.values() {
            if !matches!(
                service.kind,
                ServiceType::NodePort | ServiceType::LoadBalancer
            ) {
                continue;
            }
            let mut mine = BTreeMap::new();
            let asked = service
                .ports
                .iter()
                .filter_map(|port| Some((port.node_port?, Some(port.protocol))))
                .chain(service.health_check_node_port.map(|port| (port, None)));
            for (number, protocol) in asked {
                if !range.contains(&number) {
                    problems.push(problem(
                        at,
                        "spec.ports",
                        format!(
                            "asks for the node port {number}, which is not in {}-{}",
                            range.start(),
                            range.end()
                        ),
                    ));
                }
                if mine.insert((number, protocol), ()).is_some() {
                    problems.push(problem(
                        at,
                        "spec.ports",
                        format!("asks for the node port {number} twice for one protocol"),
                    ));
                }
                match holders.get(&number) {
                    Some(holder) if **holder != service.name => problems.push(problem(
                        at,
                        "spec.ports",
                        format!(
                            "asks for the node port {number}, for which {holder} asks as well: a number belongs to one Service"
                        ),
                    )),
                    Some(_) => {}
                    None => {
                        holders.insert(number, &service.name);
                    }
                }
            }
        }
    }

    /// Requested pools and addresses, as far as the pools that were given tell.
    fn addresses(&self, problems: &mut Vec<Problem>) {
        let mut holders: BTreeMap<IpAddr, Vec<&Service>> = BTreeMap::new();
        for (at, service) in self.services.values() {
            if service.kind != ServiceType::LoadBalancer {
                continue;
            }
            if let Some(name) = &service.asks.pool
                && !self.pools.is_empty()
                && !self.pools.contains_key(name.as_ref())
            {
                problems.push(problem(
                    at,
                    "metadata.annotations",
                    format!(
                        "asks for the pool {name}, which is not there; known are {}",
                        listed(self.pools.keys())
                    ),
                ));
            }
            for address in &service.asks.addresses {
                self.requested(at, service, *address, problems);
                let others = holders.entry(*address).or_default();
                for other in others.iter() {
                    if let Some(why) = sharing::clash(service, other) {
                        problems.push(problem(
                            at,
                            "metadata.annotations",
                            format!(
                                "asks for {address}, for which {} asks as well: {why}",
                                other.name
                            ),
                        ));
                    }
                }
                others.push(service);
            }
        }
    }

    fn requested(
        &self,
        at: &Located,
        service: &Service,
        address: IpAddr,
        problems: &mut Vec<Problem>,
    ) {
        let holding = |pool: &AddressPool| pool.usable(address);
        let asked = service
            .asks
            .pool
            .as_ref()
            .and_then(|name| self.pools.get(name.as_ref()));
        let message = match asked {
            Some((_, pool)) if !holding(pool) => {
                format!(
                    "asks for {address}, which is not in the pool {} that it asks for",
                    pool.name
                )
            }
            None if !self.pools.is_empty()
                && !self.pools.values().any(|(_, pool)| holding(pool)) =>
            {
                format!(
                    "asks for {address}, which is in no pool; there are {}",
                    listed(self.pools.keys())
                )
            }
            _ => return,
        };
        problems.push(problem(at, "metadata.annotations", message));
    }

    /// Services that would get no traffic, as far as can be told from what is here: the pools and
    /// the EndpointSlices may be kept elsewhere.
    fn unserved(&self, problems: &mut Vec<Problem>) {
        let slices = self.slices_of();
        for (name, (at, service)) in &self.services {
            let is_balancer = service.kind == ServiceType::LoadBalancer;
            if !is_balancer && service.kind != ServiceType::NodePort {
                continue;
            }
            if service.headless {
                let message = "is None, which an API server refuses for a Service that is reached from outside: leave it out";
                problems.push(warning(at, "spec.clusterIP", message));
            }
            if is_balancer && self.pools.is_empty() {
                let message = "needs an external address, and there is no AddressPool here: without one elsewhere it gets none";
                problems.push(warning(at, "", message));
            }
            let has_slices = slices.contains_key(*name);
            if has_slices || service.asks.external_name.is_some() {
                continue;
            }
            let message = if service.has_selector {
                "has no EndpointSlice here: a cluster makes them by the selector, without a cluster nobody does"
            } else {
                "has no selector and no EndpointSlice here: without one elsewhere its traffic finds no endpoint"
            };
            problems.push(warning(at, "", message));
        }
    }
}

/// Whether a slice's port is the one of this Service's port: they have one name (EndpointSlice
/// API), whatever the target port is called.
fn fits(port: &ServicePort, slice: &crate::endpoints::SlicePort) -> bool {
    slice.protocol == port.protocol && *slice.name == *port.name.as_deref().unwrap_or_default()
}

fn listed<T: Display>(names: impl Iterator<Item = T>) -> String {
    let names: Vec<String> = names.map(|name| name.to_string()).collect();
    names.join(", ")
}
