//! What one change costs among 1, 5,000 and 20,000 Services, from the change until its route is
//! built: `cargo bench -p fairway-gateway-core --bench change`.
//!
//! Each Service is a LoadBalancer with an external address, a node port and five endpoints, on a
//! host with two addresses. `address` changes its external address; `endpoint` takes one endpoint of
//! it out or brings it back; `comes` and `goes` are a Service more and one less.
//!
//! - `hot` changes the same Service again and again: it compares what is done.
//! - `warm` changes a random one each time: what a change of a burst costs. One Service never leaves
//!   the first-level cache and 20,000 are never all in it, so between sizes it compares caches.
//! - `cold` sweeps the processor's caches before each change, with one Service as with 20,000: code,
//!   heap, the tables that addresses are translated by, all comes from memory, and so it compares how
//!   much is touched. The change itself is made after the sweep: whoever hands it over has just read
//!   it. Nothing is worse than this; it needs a machine that does nothing else.

#![allow(clippy::expect_used, missing_docs)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use fairway_config::endpoints::{EndpointHost, EndpointSlice, SliceEndpoint, SlicePort};
use fairway_config::exchange::{Batch, Change, Held, StoredService};
use fairway_config::names::ServiceName;
use fairway_config::net::{AddressRange, IpFamily, Protocol, from_bits};
use fairway_config::pool::{AddressBlock, AddressPool};
use fairway_config::service::{
    AppProtocol, PortKey, Service, ServicePort, ServiceType, TargetPort,
};
use fairway_config::time::Timestamp;
use fairway_gateway_core::build::{Builder, RouteSettings};

/// A way of measuring: its name, whether any Service changes, whether the caches are swept before.
const MODES: [(&str, bool, bool); 3] = [
    ("hot", false, false),
    ("warm", true, false),
    ("cold", true, true),
];

/// Larger than the caches of today's processors.
const SWEPT: usize = 64 << 20;

/// A kind of change: its name, what comes before it, itself, and what undoes it; only the second is
/// measured.
type Kind = (&'static str, Option<Make>, Make, Option<Make>);
type Make = fn(&mut World, u32) -> Change;

fn change(criterion: &mut Criterion) {
    let memory: Vec<u64> = (0..(SWEPT / size_of::<u64>()) as u64).collect();
    let kinds: [Kind; 4] = [
        ("address", None, World::address, None),
        ("endpoint", None, World::endpoint, None),
        ("comes", Some(World::goes), World::comes, None),
        ("goes", None, World::goes, Some(World::comes)),
    ];
    let mut group = criterion.benchmark_group("gateway");
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sampling_mode(SamplingMode::Flat);
    for (kind, before, make, after) in kinds {
        for size in [1, 5_000, 20_000] {
            // Made once it is known that one of its rows was asked for.
            let mut world = None;
            for (mode, any_one, swept) in MODES {
                let name = format!("{kind}/{mode}");
                group.bench_function(BenchmarkId::new(name, size), |bencher| {
                    let world = world.get_or_insert_with(|| World::of(size));
                    bencher.iter_custom(|rounds| {
                        let mut taken = Duration::ZERO;
                        for _ in 0..rounds {
                            let n = if any_one { world.any() } else { size / 2 };
                            if let Some(before) = before {
                                let change = before(world, n);
                                world.work(change);
                            }
                            if swept {
                                sweep(&memory);
                            }
                            let change = make(world, n);
                            taken += world.work(change);
                            if let Some(after) = after {
                                let change = after(world, n);
                                world.work(change);
                            }
                        }
                        taken
                    });
                });
            }
        }
    }
    group.finish();
}

/// A gateway at rest, and the store that tells it.
struct World {
    builder: Builder,
    services: Vec<Arc<StoredService>>,
    /// How many endpoints each Service has.
    endpoints: Vec<u32>,
    /// Seeded, so that every run changes the same Services.
    random: u64,
}

impl World {
    /// A gateway at rest among `size` Services.
    fn of(size: u32) -> Self {
        let mut world = Self {
            builder: Builder::new(settings()),
            services: (0..size).map(stored).collect(),
            endpoints: vec![5; size as usize],
            random: 0x9e37_79b9_7f4a_7c15,
        };
        let host = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::LOCALHOST];
        let host = host.into_iter().map(IpAddr::V4).collect();
        world.builder.set_host_addresses(host);
        let mut changes = vec![Change::Pool("edge".into(), Some(Arc::new(pool())))];
        for n in 0..size {
            changes.push(world.service(n));
            changes.push(slice(n, 5));
        }
        world.builder.apply(&Batch::synced(changes));
        let routes = world.builder.build(&|_| Vec::new());
        assert_eq!(routes.len(), size as usize, "every Service has its route");
        world
    }

    /// Any Service (SplitMix64).
    fn any(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % self.services.len() as u64) as u32
    }

    /// The Service as the store has it.
    fn service(&self, n: u32) -> Change {
        let stored = &self.services[n as usize];
        Change::Service(stored.service.name.clone(), Some(Arc::clone(stored)))
    }

    /// The controller has given it another address: what is asked for is the same object still.
    fn address(&mut self, n: u32) -> Change {
        let before = &self.services[n as usize];
        let other = before.held.addresses != held(n, 0).addresses;
        let now = StoredService {
            held: held(n, u32::from(!other)),
            version: before.version + 1,
            ..StoredService::clone(before)
        };
        self.services[n as usize] = Arc::new(now);
        self.service(n)
    }

    /// One endpoint goes, or is back.
    fn endpoint(&mut self, n: u32) -> Change {
        let endpoints = &mut self.endpoints[n as usize];
        *endpoints = 9 - *endpoints;
        slice(n, *endpoints)
    }

    /// The Service is there, and new.
    fn comes(&mut self, n: u32) -> Change {
        self.services[n as usize] = stored(n);
        self.service(n)
    }

    /// The Service is gone.
    fn goes(&mut self, n: u32) -> Change {
        Change::Service(self.services[n as usize].service.name.clone(), None)
    }

    /// How long the gateway takes for a change. Not inlined, so that a profiler can be told to count
    /// this alone: `valgrind --tool=callgrind --cache-sim=yes --toggle-collect='*work*'`.
    #[inline(never)]
    fn work(&mut self, change: Change) -> Duration {
        let batch = Batch::synced(vec![change]);
        let start = Instant::now();
        self.builder.apply(&batch);
        let routes = black_box(self.builder.build(&|_| Vec::new()));
        let taken = start.elapsed();
        assert_eq!(routes.len(), 1, "every change must change one route");
        taken
    }
}

/// Fills every cache of the processor with something else.
fn sweep(memory: &[u64]) {
    black_box(memory.iter().step_by(8).fold(0, |sum: u64, n| sum ^ n));
}

fn settings() -> RouteSettings {
    RouteSettings {
        slices_are_known: true,
        ..RouteSettings::new("edge".into())
    }
}

fn pool() -> AddressPool {
    let range = AddressRange::of_net("172.16.0.0/12".parse().expect("a CIDR"));
    let block = AddressBlock {
        range,
        avoid_ends: false,
    };
    AddressPool::new("edge".into(), vec![block])
}

fn name(n: u32) -> ServiceName {
    ServiceName::new(format!("team-{}", n % 100), format!("service-{n}"))
}

fn stored(n: u32) -> Arc<StoredService> {
    let port = ServicePort {
        target: TargetPort::Number(8080),
        ..ServicePort::new(Protocol::Tcp, 80)
    };
    let service = Service {
        created: Some(Timestamp(i64::from(n))),
        ip_families: vec![IpFamily::IPv4],
        ..Service::new(name(n), ServiceType::LoadBalancer, vec![port])
    };
    Arc::new(StoredService {
        held: held(n, 0),
        ..StoredService::new(Arc::new(service))
    })
}

/// One of the two addresses of a Service, and its node port.
fn held(n: u32, which: u32) -> Held {
    let key = PortKey {
        protocol: Protocol::Tcp,
        port: 80,
    };
    let address = u128::from(0xac10_0000 + n * 2 + which);
    Held {
        addresses: vec![from_bits(IpFamily::IPv4, address)],
        // More Services than there are node ports: they are counted past the range.
        node_ports: BTreeMap::from([(key, 30_000 + n as u16)]),
        health_check_node_port: None,
    }
}

fn slice(n: u32, endpoints: u32) -> Change {
    let owner = name(n);
    let slice_name = ServiceName::new(owner.namespace.clone(), format!("{}-abcde", owner.name));
    let endpoint = |i: u32| {
        let ip = from_bits(IpFamily::IPv4, u128::from(0x0a00_0000 + n * 8 + i));
        SliceEndpoint {
            node: Some(format!("node-{i}").into()),
            target: Some(format!("pod-{i}").into()),
            ..SliceEndpoint::new(EndpointHost::Ip(ip), true)
        }
    };
    let slice = EndpointSlice {
        ports: vec![SlicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: Some(8080),
            app: AppProtocol::Opaque,
        }],
        endpoints: (0..endpoints).map(endpoint).collect(),
        ..EndpointSlice::new(slice_name.clone(), owner)
    };
    Change::EndpointSlice(slice_name, false, Some(Arc::new(slice)))
}

criterion_group!(benches, change);
criterion_main!(benches);
