//! What each Service wants to claim.

use std::net::{IpAddr, SocketAddr};

use fairway_config::exchange::{ClaimKind, StoredService};
use fairway_config::net::{ListenAddr, Protocol};
use fairway_config::service::{ExternalTrafficPolicy, PortKey, ServiceType};
use fairway_config::time::Timestamp;

use super::surroundings::Surroundings;
use crate::route::Claim;

/// What can be claimed once.
pub(super) type Place = (ListenAddr, Protocol);

/// Something that a Service wants to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Want {
    /// What.
    pub(super) claim: Claim,
    /// For which of its ports; none: for its health check.
    pub(super) port: Option<PortKey>,
}

impl Want {
    pub(super) fn place(&self) -> Place {
        (self.claim.listen, self.claim.protocol)
    }
}

/// Everything that a Service wants to claim, ordered by place, each place once.
pub(super) fn wants(stored: &StoredService, around: &Surroundings) -> Vec<Want> {
    let service = &stored.service;
    let carried = |port: &PortKey| matches!(port.protocol, Protocol::Tcp | Protocol::Udp);
    let keys = || service.ports.iter().map(|port| port.key()).filter(carried);
    let want = |address: IpAddr, number: u16, kind: ClaimKind, key: Option<PortKey>| Want {
        claim: Claim {
            listen: ListenAddr(SocketAddr::new(address, number)),
            protocol: key.map_or(Protocol::Tcp, |key| key.protocol),
            kind,
        },
        port: key,
    };
    let places = stored.held.addresses.len() + around.node_addresses.len();
    let mut wants = Vec::with_capacity(service.ports.len() * places);
    if around.is_taken(stored) {
        for address in stored
            .held
            .addresses
            .iter()
            .filter(|address| around.carries(**address))
        {
            wants.extend(keys().map(|key| want(*address, key.port, ClaimKind::Vip, Some(key))));
        }
    }
    if around.has_node_ports(service) && !around.would_loop(service) {
        for key in keys() {
            if let Some(number) = stored.held.node_ports.get(&key) {
                let each = around.node_addresses.iter();
                wants.extend(each.map(|node| want(*node, *number, ClaimKind::NodePort, Some(key))));
            }
        }
        if let Some(number) = health_check_port(stored) {
            let each = around.node_addresses.iter();
            wants.extend(each.map(|node| want(*node, number, ClaimKind::HealthCheck, None)));
        }
    }
    wants.sort_by_key(|want| (want.place(), want.claim.kind));
    wants.dedup_by_key(|want| want.place());
    wants
}

/// The `healthCheckNodePort`, where the Service is one that has it.
fn health_check_port(stored: &StoredService) -> Option<u16> {
    let has_it = stored.service.kind == ServiceType::LoadBalancer
        && stored.service.external_traffic_policy == ExternalTrafficPolicy::Local;
    stored.held.health_check_node_port.filter(|_| has_it)
}

/// Since when a Service is there.
pub(super) fn age(stored: &StoredService) -> Timestamp {
    stored.service.created.unwrap_or(stored.first_seen)
}
