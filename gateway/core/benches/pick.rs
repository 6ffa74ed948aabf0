//! What one choice of an endpoint costs: `cargo bench -p fairway-gateway-core --bench pick`.
//!
//! `in-turn` is round-robin, `weighted` the same with unequal weights, `ranked` a client's first
//! connection under affinity, `kept` its next ones.

#![allow(missing_docs)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fairway_config::names::ServiceName;
use fairway_config::net::{EndpointAddr, Protocol};
use fairway_config::service::PortKey;
use fairway_gateway_core::available::{Available, AvailableEndpoint, LiveEndpoint};
use fairway_gateway_core::health::HealthVerdict;
use fairway_gateway_core::pick::Balancer;
use fairway_gateway_core::rank;
use fairway_gateway_core::route::{Endpoint, EndpointSet, RoutePort, Tick};

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let client = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
    for count in [5, 50, 1000] {
        for (what, weights, affinity) in [
            ("in-turn", 1, false),
            ("weighted", 7, false),
            ("kept", 1, true),
        ] {
            let route = route(count, weights, affinity);
            let available = available(&route);
            let balancer = Balancer::new(1);
            group.bench_function(BenchmarkId::new(what, count), |bencher| {
                bencher.iter(|| {
                    balancer
                        .pick(black_box(&route), &available, client, Tick(1), &[])
                        .is_some()
                });
            });
        }
        for (what, weights) in [("ranked", 1), ("ranked-weighted", 7)] {
            let route = route(count, weights, true);
            let mut n = 0_u32;
            group.bench_function(BenchmarkId::new(what, count), |bencher| {
                bencher.iter(|| {
                    n = n.wrapping_add(1);
                    rank::best(
                        IpAddr::V4(Ipv4Addr::from_bits(n)),
                        &route.endpoints.eligible,
                    )
                    .is_some()
                });
            });
        }
    }
    group.finish();
}

/// An endpoint of which nothing is known.
struct Unknown;

impl LiveEndpoint for Unknown {
    fn active(&self) -> u64 {
        0
    }

    fn claim_trial(&self, _: Tick) -> bool {
        false
    }
}

fn available(route: &RoutePort) -> Available<Unknown> {
    let eligible = route.endpoints.eligible.iter();
    Available::new(eligible.map(|endpoint| AvailableEndpoint {
        endpoint: endpoint.clone(),
        verdict: HealthVerdict::Healthy,
        state: Unknown,
    }))
}

fn route(count: u32, weights: u32, affinity: bool) -> RoutePort {
    let endpoint = |n: u32| {
        let ip = Ipv4Addr::from_bits(0x0a00_0001 + n);
        Endpoint {
            weight: (1 + n % weights) as u16,
            ..Endpoint::new(EndpointAddr(SocketAddr::new(ip.into(), 8080)))
        }
    };
    let key = PortKey {
        protocol: Protocol::Tcp,
        port: 80,
    };
    let endpoints = EndpointSet::new((0..count).map(endpoint).collect(), Vec::new());
    RoutePort {
        affinity: affinity.then(|| Duration::from_secs(10_800)),
        ..RoutePort::new(ServiceName::new("web", "shop"), key, endpoints)
    }
}

criterion_group!(benches, pick);
criterion_main!(benches);
