//! What one change costs among 1, 5,000 and 20,000 Services, from the change until nothing is left to
//! do: `cargo bench -p fairway-controller-core`.
//!
//! Each Service holds an address of a pool with a quota, and one in ten a node port. `port` gives it
//! another port, which writes a new status; `comes` and `goes` are a Service more and one less. What
//! the store echoes of the writes is counted with the change.
//! How each is measured is said in `rounds`.

#![allow(missing_docs)]

mod rounds;
#[path = "../tests/samples/mod.rs"]
mod samples;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use fairway_config::exchange::{Batch, Change, StoredService, Write};
use fairway_config::names::ServiceName;
use fairway_config::net::AddressRange;
use fairway_config::pool::AddressPool;
use fairway_config::service::Service;
use fairway_config::time::Timestamp;
use fairway_controller_core::{NodePortRange, Settings, State};
use rounds::{AtRest, Make, measure};

const NOW: Timestamp = Timestamp(1_000_000);

fn service(i: usize, port: u16) -> Service {
    let name = ServiceName::new(format!("team-{}", i % 100), format!("shop-{i}"));
    Service {
        // The range has 2,768 numbers: one Service in ten has some.
        allocate_node_ports: i.is_multiple_of(10),
        ..samples::service(name, i as i64, port)
    }
}

fn pool() -> Change {
    let first = std::net::IpAddr::from([10, 0, 0, 0]);
    let last = std::net::IpAddr::from([10, 1, 255, 255]);
    let pool = AddressRange::new(first, last).map(|range| {
        Arc::new(AddressPool {
            quota_per_namespace: Some(10_000),
            ..samples::pool("edge", range, true)
        })
    });
    Change::Pool("edge".into(), pool)
}

/// A controller at rest, and the store that it works on.
struct World {
    state: State,
    services: Vec<Arc<StoredService>>,
}

impl AtRest for World {
    /// A controller at rest among `n` Services.
    fn of(n: usize) -> Self {
        let mut state = State::new(Settings::standalone(
            "fairway.dev/gateway".into(),
            NodePortRange::default(),
        ));
        let services: Vec<_> = (0..n).map(|i| new(i, 80)).collect();
        let mut changes = vec![pool()];
        changes.extend(services.iter().map(changed));
        state.apply(&Batch::synced(changes));
        let mut world = Self { state, services };
        let writes = world.state.settle(NOW);
        let echoes = world.take_in(writes);
        assert_eq!(echoes.len(), n, "every Service gets its address");
        world.state.apply(&Batch::synced(echoes));
        assert!(world.state.settle(NOW).is_empty());
        world
    }

    /// How long the controller takes for a change and for the echo of what it wrote. Not inlined, so
    /// that a profiler can be told to count this alone: `valgrind --tool=callgrind --cache-sim=yes
    /// --toggle-collect='*work*'`.
    #[inline(never)]
    fn work(&mut self, change: Change) -> Duration {
        let change = Batch::synced(vec![change]);
        let start = Instant::now();
        self.state.apply(&change);
        let writes = black_box(self.state.settle(NOW));
        let mut taken = start.elapsed();
        let echoes = Batch::synced(self.take_in(writes));
        let start = Instant::now();
        self.state.apply(&echoes);
        let nothing = self.state.settle(NOW);
        taken += start.elapsed();
        assert!(nothing.is_empty(), "one change is one write");
        taken
    }
}

impl World {
    /// The store takes the writes in and shows what became of them.
    fn take_in(&mut self, writes: Vec<Write>) -> Vec<Change> {
        let services = writes.into_iter().filter_map(|write| match write {
            Write::Service {
                name, held, status, ..
            } => {
                let i: usize = name.name.trim_start_matches("shop-").parse().ok()?;
                let stored = self.services.get_mut(i)?;
                *stored = Arc::new(StoredService {
                    held,
                    status,
                    version: stored.version + 1,
                    ..StoredService::clone(stored)
                });
                Some(changed(stored))
            }
            Write::Pool { .. } | Write::BgpPeer { .. } | Write::NodePorts { .. } => None,
        });
        services.collect()
    }

    /// The Service gets another port.
    fn port(&mut self, i: usize) -> Change {
        let before = &self.services[i];
        let port = if before.service.ports[0].port == 80 {
            81
        } else {
            80
        };
        self.services[i] = Arc::new(StoredService {
            service: Arc::new(service(i, port)),
            version: before.version + 1,
            ..StoredService::clone(before)
        });
        changed(&self.services[i])
    }

    /// The Service is there, and new.
    fn comes(&mut self, i: usize) -> Change {
        self.services[i] = new(i, 80);
        changed(&self.services[i])
    }

    /// The Service is gone.
    fn goes(&mut self, i: usize) -> Change {
        Change::Service(self.services[i].service.name.clone(), None)
    }
}

fn new(i: usize, port: u16) -> Arc<StoredService> {
    Arc::new(StoredService::new(Arc::new(service(i, port))))
}

fn changed(stored: &Arc<StoredService>) -> Change {
    Change::Service(stored.service.name.clone(), Some(Arc::clone(stored)))
}

fn change(criterion: &mut Criterion) {
    let kinds = [
        ("port", None, World::port as Make<World>, None),
        (
            "comes",
            Some(World::goes as Make<World>),
            World::comes,
            None,
        ),
        ("goes", None, World::goes, Some(World::comes as Make<World>)),
    ];
    measure(criterion, "controller", &kinds);
}

criterion_group!(benches, change);
criterion_main!(benches);
