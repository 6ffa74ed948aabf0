//! What one change costs among 1, 5,000 and 20,000 Services, from the change until nothing is left to
//! do: `cargo bench -p fairway-controller-core`.
//!
//! Each Service holds an address of a pool with a quota, and one in ten a node port. `port` gives it
//! another port, which writes a new status; `comes` and `goes` are a Service more and one less. What
//! the store echoes of the writes is counted with the change.
//!
//! - `hot` changes the same Service again and again: it compares what is done.
//! - `warm` changes a random one each time: what a change of a burst costs. One Service never leaves
//!   the first-level cache and 20,000 are never all in it, so between sizes it compares caches.
//! - `cold` sweeps the processor's caches before each change, with one Service as with 20,000: code,
//!   heap, the tables that addresses are translated by, all comes from memory, and so it compares how
//!   much is touched. The change itself is made after the sweep: whoever hands it over has just read
//!   it. Nothing is worse than this; it needs a machine that does nothing else.

#![allow(missing_docs)]

#[path = "../tests/samples/mod.rs"]
mod samples;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use fairway_config::exchange::{Batch, Change, StoredService, Write};
use fairway_config::names::ServiceName;
use fairway_config::net::AddressRange;
use fairway_config::pool::AddressPool;
use fairway_config::service::Service;
use fairway_config::time::Timestamp;
use fairway_controller_core::{NodePortRange, Settings, State};

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
    /// Seeded, so that every run changes the same Services.
    random: u64,
}

impl World {
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
        let mut world = Self {
            state,
            services,
            random: 0x9e37_79b9_7f4a_7c15,
        };
        let writes = world.state.settle(NOW);
        let echoes = world.take_in(writes);
        assert_eq!(echoes.len(), n, "every Service gets its address");
        world.state.apply(&Batch::synced(echoes));
        assert!(world.state.settle(NOW).is_empty());
        world
    }

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
            Write::Pool { .. } | Write::NodePorts { .. } => None,
        });
        services.collect()
    }

    /// Any Service (SplitMix64).
    fn any(&mut self) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as usize % self.services.len()
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

fn new(i: usize, port: u16) -> Arc<StoredService> {
    Arc::new(StoredService::new(Arc::new(service(i, port))))
}

fn changed(stored: &Arc<StoredService>) -> Change {
    Change::Service(stored.service.name.clone(), Some(Arc::clone(stored)))
}

/// Fills every cache of the processor with something else.
fn sweep(memory: &[u64]) {
    black_box(memory.iter().step_by(8).fold(0, |sum: u64, n| sum ^ n));
}

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
type Make = fn(&mut World, usize) -> Change;

fn change(criterion: &mut Criterion) {
    let memory: Vec<u64> = (0..(SWEPT / size_of::<u64>()) as u64).collect();
    let kinds: [Kind; 3] = [
        ("port", None, World::port, None),
        ("comes", Some(World::goes), World::comes, None),
        ("goes", None, World::goes, Some(World::comes)),
    ];
    let mut group = criterion.benchmark_group("controller");
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sampling_mode(SamplingMode::Flat);
    for (kind, before, make, after) in kinds {
        for n in [1, 5_000, 20_000] {
            // Made once it is known that one of its rows was asked for.
            let mut world = None;
            for (mode, any_one, swept) in MODES {
                let name = format!("{kind}/{mode}");
                group.bench_function(BenchmarkId::new(name, n), |bencher| {
                    let world = world.get_or_insert_with(|| World::of(n));
                    bencher.iter_custom(|rounds| {
                        let mut taken = Duration::ZERO;
                        for _ in 0..rounds {
                            let i = if any_one { world.any() } else { n / 2 };
                            if let Some(before) = before {
                                let change = before(world, i);
                                world.work(change);
                            }
                            if swept {
                                sweep(&memory);
                            }
                            let change = make(world, i);
                            taken += world.work(change);
                            if let Some(after) = after {
                                let change = after(world, i);
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

criterion_group!(benches, change);
criterion_main!(benches);
