//! What tests of several modules build on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fairway_config::names::ServiceName;
use fairway_config::net::{EndpointAddr, Protocol};
use fairway_config::service::PortKey;

use crate::available::{Available, AvailableEndpoint, LiveEndpoint};
use crate::health::HealthVerdict;
use crate::route::{Endpoint, EndpointSet, RoutePort, Tick};

/// The `n`th client.
pub(crate) fn client(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x6440_0000 + n).into()
}

/// Endpoints of these weights at 10.0.0.0:8080, 10.0.0.1:8080, …
pub(crate) fn endpoints(weights: &[u16]) -> Vec<Endpoint> {
    let addresses = (0x0a00_0000..).map(Ipv4Addr::from_bits);
    addresses
        .zip(weights)
        .map(|(ip, weight)| Endpoint {
            weight: *weight,
            ..Endpoint::new(EndpointAddr(SocketAddr::new(ip.into(), 8080)))
        })
        .collect()
}

/// A port with these endpoints.
pub(crate) fn port(eligible: Vec<Endpoint>, affinity: Option<Duration>) -> RoutePort {
    let key = PortKey {
        protocol: Protocol::Tcp,
        port: 80,
    };
    let endpoints = EndpointSet::new(eligible, Vec::new());
    RoutePort {
        affinity,
        ..RoutePort::new(ServiceName::new("web", "shop"), key, endpoints)
    }
}

/// An endpoint without connections, which may be tried or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdleEndpoint {
    pub(crate) may_be_tried: bool,
}

impl LiveEndpoint for IdleEndpoint {
    fn active(&self) -> u64 {
        0
    }

    fn claim_trial(&self, _: Tick) -> bool {
        self.may_be_tried
    }
}

/// These endpoints, of which nothing is known.
pub(crate) fn healthy(endpoints: &[Endpoint]) -> Available<IdleEndpoint> {
    sorted_out(endpoints, |_| HealthVerdict::Healthy)
}

/// These endpoints, of each of which something is known, by its place in the list.
pub(crate) fn sorted_out(
    endpoints: &[Endpoint],
    verdict: impl Fn(usize) -> HealthVerdict,
) -> Available<IdleEndpoint> {
    let all = endpoints.iter().enumerate();
    Available::new(all.map(|(n, endpoint)| AvailableEndpoint {
        endpoint: endpoint.clone(),
        verdict: verdict(n),
        state: IdleEndpoint::default(),
    }))
}

/// An address from its text.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An endpoint's address from its text.
pub(crate) fn endpoint(text: &str) -> EndpointAddr {
    EndpointAddr(text.parse().expect("an address and a port"))
}
