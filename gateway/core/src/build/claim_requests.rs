//! The listen addresses that each Service requests.

use std::net::{IpAddr, SocketAddr};

use fairway_config::exchange::{ClaimKind, StoredService};
use fairway_config::net::{ListenAddr, Protocol};
use fairway_config::service::{ExternalTrafficPolicy, PortKey, ServiceType};
use fairway_config::time::Timestamp;

use super::cluster_state::ClusterState;
use crate::route::Claim;

/// What is claimed: only one Service can have it.
pub(super) type ClaimKey = (ListenAddr, Protocol);

/// A claim that a Service requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClaimRequest {
    /// The claim.
    pub(super) claim: Claim,
    /// The port of the Service that it is for; none: for its health check.
    pub(super) port: Option<PortKey>,
}

impl ClaimRequest {
    pub(super) fn key(&self) -> ClaimKey {
        (self.claim.listen, self.claim.protocol)
    }
}

/// All claims that a Service requests, ordered by key, each key once.
pub(super) fn claim_requests(stored: &StoredService, cluster: &ClusterState) -> Vec<ClaimRequest> {
    let service = &stored.service;
    let carried = |port: &PortKey| matches!(port.protocol, Protocol::Tcp | Protocol::Udp);
    let keys = || service.ports.iter().map(|port| port.key()).filter(carried);
    let request =
        |address: IpAddr, number: u16, kind: ClaimKind, key: Option<PortKey>| ClaimRequest {
            claim: Claim {
                listen: ListenAddr(SocketAddr::new(address, number)),
                protocol: key.map_or(Protocol::Tcp, |key| key.protocol),
                kind,
            },
            port: key,
        };
    let addresses = stored.held.addresses.len() + cluster.node_addresses.len();
    let mut requests = Vec::with_capacity(service.ports.len() * addresses);
    if cluster.is_taken(stored) {
        for address in stored
            .held
            .addresses
            .iter()
            .filter(|address| cluster.carries(**address))
        {
            requests
                .extend(keys().map(|key| request(*address, key.port, ClaimKind::Vip, Some(key))));
        }
    }
    if cluster.has_node_ports(service) && !cluster.would_loop(service) {
        for key in keys() {
            if let Some(number) = stored.held.node_ports.get(&key) {
                let each = cluster.node_addresses.iter();
                requests.extend(
                    each.map(|node| request(*node, *number, ClaimKind::NodePort, Some(key))),
                );
            }
        }
        if let Some(number) = health_check_port(stored) {
            let each = cluster.node_addresses.iter();
            requests.extend(each.map(|node| request(*node, number, ClaimKind::HealthCheck, None)));
        }
    }
    requests.sort_by_key(|request| (request.key(), request.claim.kind));
    requests.dedup_by_key(|request| request.key());
    requests
}

/// The `healthCheckNodePort` of a Service; none where its type or traffic policy has none.
fn health_check_port(stored: &StoredService) -> Option<u16> {
    let has_it = stored.service.kind == ServiceType::LoadBalancer
        && stored.service.external_traffic_policy == ExternalTrafficPolicy::Local;
    stored.held.health_check_node_port.filter(|_| has_it)
}

/// When a Service was created, or first seen.
pub(super) fn age(stored: &StoredService) -> Timestamp {
    stored.service.created.unwrap_or(stored.first_seen)
}
