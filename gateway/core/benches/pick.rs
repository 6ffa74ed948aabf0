//! What one choice of an endpoint costs: `cargo bench -p fairway-gateway-core --bench pick`.
//!
//! `in-turn` is round-robin, `weighted` the same with unequal weights, and each other algorithm has its name;
//! `ranked` is a client's first connection under affinity, `kept` its next ones. `table` is what maglev's table costs
//! when an endpoint has changed.

#![allow(missing_docs)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use fairway_config::balance::{Balance, BalanceAlgorithm};
use fairway_config::names::ServiceName;
use fairway_config::net::{EndpointAddr, Protocol};
use fairway_config::service::PortKey;
use fairway_gateway_core::available::{Available, AvailableEndpoint, LiveEndpoint};
use fairway_gateway_core::health::HealthVerdict;
use fairway_gateway_core::pick::Balancer;
use fairway_gateway_core::rank;
use fairway_gateway_core::route::{Endpoint, EndpointSet, RoutePort, Tick};

/// As the gateway has it: the counter is in an allocation of its own.
struct CountedConnections(Arc<AtomicU64>);

impl LiveEndpoint for CountedConnections {
    fn active(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn claim_trial(&self, _now: Tick) -> bool {
        false
    }
}

fn pick(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    let client = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
    for count in [5, 50, 1000] {
        let ways = [
            ("in-turn", 1, None),
            ("weighted", 7, None),
            ("kept", 1, None),
        ]
        .into_iter();
        let algorithms = BalanceAlgorithm::ALL.into_iter();
        let algorithms = algorithms.map(|it| (it.as_str(), 7, Some(it)));
        for (what, weights, algorithm) in ways.chain(algorithms) {
            let route = route(count, weights, what == "kept", algorithm);
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
            let route = route(count, weights, true, None);
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
        for (what, weights) in [("table", 1), ("table-weighted", 7)] {
            let route = route(count, weights, false, None);
            group.bench_function(BenchmarkId::new(what, count), |bencher| {
                bencher.iter(|| black_box(&route.endpoints).table());
            });
        }
    }
    group.finish();
}

fn route(
    count: u32,
    weights: u32,
    affinity: bool,
    algorithm: Option<BalanceAlgorithm>,
) -> RoutePort {
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
    let table = Arc::new(endpoints.table());
    let mut route = RoutePort {
        affinity: affinity.then(|| Duration::from_secs(10_800)),
        table: (algorithm == Some(BalanceAlgorithm::Maglev)).then_some(table),
        ..RoutePort::new(ServiceName::new("web", "shop"), key, endpoints)
    };
    route.options.balance = algorithm.map(|algorithm| Balance {
        algorithm,
        slow_start: None,
    });
    route
}

/// The endpoints, with a few connections each.
fn available(route: &RoutePort) -> Available<CountedConnections> {
    let eligible = route.endpoints.eligible.iter().zip(0..);
    let all = eligible.map(|(endpoint, n)| AvailableEndpoint {
        endpoint: endpoint.clone(),
        verdict: HealthVerdict::Healthy,
        state: CountedConnections(Arc::new(AtomicU64::new(n % 13))),
    });
    Available::balanced(all, route.options.balance)
}

criterion_group!(benches, pick);
criterion_main!(benches);
