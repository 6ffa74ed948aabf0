//! Addresses of pools with `forwarding: Node`: gateways announce them, and the Node's own proxy forwards what comes.
//!
//! Which endpoints that proxy has follows from the rules of Kubernetes alone: it dials an endpoint on its own host,
//! too, it knows no weight, and at an address of one family it has the endpoints of that family.

use std::net::{IpAddr, SocketAddr};

use fairway_config::drained::DrainedEndpoints;
use fairway_config::exchange::{ClaimKind, ListenerReport, ListenerState, StoredService};
use fairway_config::net::{IpFamily, ListenAddr};
use fairway_config::service::{ExternalTrafficPolicy, Service, ServicePort};

use super::cluster_state::ClusterState;
use crate::eligible::{Eligible, EndpointCandidate, Policy, eligible};
use crate::route::ForwardedPlace;

/// The external addresses of a Service that the Node's own proxy has the traffic of.
pub(super) fn forwarded_addresses(stored: &StoredService, cluster: &ClusterState) -> Vec<IpAddr> {
    if !cluster.is_taken(stored) {
        return Vec::new();
    }
    let held = stored.held.addresses.iter();
    held.filter(|address| !cluster.carries(**address))
        .copied()
        .collect()
}

/// The endpoints that the Node's own proxy has.
pub(super) fn of_node_proxy<'a>(
    service: &Service,
    cluster: &ClusterState,
    candidates: impl IntoIterator<Item = EndpointCandidate<'a>>,
) -> Eligible<'a> {
    let node = cluster.own_node().map(|node| &*node.name);
    let local = service.external_traffic_policy == ExternalTrafficPolicy::Local;
    let policy = Policy {
        publish_not_ready: service.publish_not_ready_addresses,
        only_node: node.filter(|_| local),
        node,
        zone: cluster.zone(),
        family: None,
        // It knows nothing of that.
        drained: &DrainedEndpoints::default(),
        check: &|_| Ok(()),
    };
    let same = |it| EndpointCandidate { weight: 1, ..it };
    eligible(candidates.into_iter().map(same), &policy)
}

/// The places of one port at these addresses.
pub(super) fn places(
    service: &Service,
    port: &ServicePort,
    addresses: &[IpAddr],
    cluster: &ClusterState,
    candidates: &[EndpointCandidate<'_>],
) -> Vec<ForwardedPlace> {
    let place = |address: &IpAddr| {
        let of_family = candidates.iter().copied();
        let of_family =
            of_family.filter(|it| IpFamily::of(it.addr.0.ip()) == IpFamily::of(*address));
        ForwardedPlace {
            listen: ListenAddr(SocketAddr::new(*address, port.key().port)),
            protocol: port.protocol,
            endpoints: of_node_proxy(service, cluster, of_family).kept.len(),
        }
    };
    addresses.iter().map(place).collect()
}

/// What is to be said of a place where the gateway is no Node: nobody forwards.
pub(super) fn without_node(place: &ForwardedPlace, gateway: &str) -> ListenerReport {
    ListenerReport {
        listen: place.listen,
        protocol: place.protocol,
        port: place.listen.0.port(),
        kind: ClaimKind::Vip,
        state: ListenerState::Failed {
            reason: "NoNode".to_owned(),
            message: format!(
                "the pool says forwarding: Node, and gateway {gateway} is no node of the cluster, so no kube-proxy \
                 forwards here"
            ),
        },
    }
}
