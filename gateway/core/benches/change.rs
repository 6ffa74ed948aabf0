//! What one change costs among 1, 5,000 and 20,000 Services, from the change until its route is
//! built: `cargo bench -p fairway-gateway-core --bench change`.
//!
//! Each Service is a LoadBalancer with an external address, a node port and five endpoints, on a
//! host with two addresses. `address` changes its external address; `endpoint` takes one endpoint of
//! it out or brings it back; `comes` and `goes` are a Service more and one less.
//! How each is measured is said in `rounds`.

#![allow(clippy::expect_used, missing_docs)]

#[path = "../../../controller/core/benches/rounds/mod.rs"]
mod rounds;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
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
use rounds::{AtRest, Make, measure};

fn change(criterion: &mut Criterion) {
    let kinds = [
        ("address", None, World::address as Make<World>, None),
        ("endpoint", None, World::endpoint, None),
        (
            "comes",
            Some(World::goes as Make<World>),
            World::comes,
            None,
        ),
        ("goes", None, World::goes, Some(World::comes as Make<World>)),
    ];
    measure(criterion, "gateway", &kinds);
}

/// A gateway at rest, and the store that tells it.
struct World {
    builder: Builder,
    services: Vec<Arc<StoredService>>,
    /// How many endpoints each Service has.
    endpoints: Vec<u32>,
}

impl AtRest for World {
    /// A gateway at rest among `size` Services.
    fn of(size: usize) -> Self {
        let mut world = Self {
            builder: Builder::new(settings()),
            services: (0..size).map(stored).collect(),
            endpoints: vec![5; size],
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
        assert_eq!(routes.len(), size, "every Service has its route");
        world
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

impl World {
    /// The Service as the store has it.
    fn service(&self, n: usize) -> Change {
        let stored = &self.services[n];
        Change::Service(stored.service.name.clone(), Some(Arc::clone(stored)))
    }

    /// The controller has given it another address: what is asked for is the same object still.
    fn address(&mut self, n: usize) -> Change {
        let before = &self.services[n];
        let other = before.held.addresses != held(n, 0).addresses;
        let now = StoredService {
            held: held(n, usize::from(!other)),
            version: before.version + 1,
            ..StoredService::clone(before)
        };
        self.services[n] = Arc::new(now);
        self.service(n)
    }

    /// One endpoint goes, or is back.
    fn endpoint(&mut self, n: usize) -> Change {
        let endpoints = &mut self.endpoints[n];
        *endpoints = 9 - *endpoints;
        slice(n, *endpoints)
    }

    /// The Service is there, and new.
    fn comes(&mut self, n: usize) -> Change {
        self.services[n] = stored(n);
        self.service(n)
    }

    /// The Service is gone.
    fn goes(&mut self, n: usize) -> Change {
        Change::Service(self.services[n].service.name.clone(), None)
    }
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

fn name(n: usize) -> ServiceName {
    ServiceName::new(format!("team-{}", n % 100), format!("service-{n}"))
}

fn stored(n: usize) -> Arc<StoredService> {
    let port = ServicePort {
        target: TargetPort::Number(8080),
        ..ServicePort::new(Protocol::Tcp, 80)
    };
    let service = Service {
        created: Some(Timestamp(n as i64)),
        ip_families: vec![IpFamily::IPv4],
        ..Service::new(name(n), ServiceType::LoadBalancer, vec![port])
    };
    Arc::new(StoredService {
        held: held(n, 0),
        ..StoredService::new(Arc::new(service))
    })
}

/// One of the two addresses of a Service, and its node port.
fn held(n: usize, which: usize) -> Held {
    let key = PortKey {
        protocol: Protocol::Tcp,
        port: 80,
    };
    let address = (0xac10_0000 + n * 2 + which) as u128;
    Held {
        addresses: vec![from_bits(IpFamily::IPv4, address)],
        // More Services than there are node ports: they are counted past the range.
        node_ports: BTreeMap::from([(key, 30_000 + n as u16)]),
        health_check_node_port: None,
    }
}

fn slice(n: usize, endpoints: u32) -> Change {
    let owner = name(n);
    let slice_name = ServiceName::new(owner.namespace.clone(), format!("{}-abcde", owner.name));
    let endpoint = |i: u32| {
        let ip = from_bits(IpFamily::IPv4, u128::from(0x0a00_0000 + n as u32 * 8 + i));
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
