//! How the benchmarks `change` of both cores measure; that of the gateway's core includes this file.
//!
//! - `hot` changes the same Service again and again: it compares what is done.
//! - `warm` changes a random one each time: what a change of a burst costs. One Service never leaves
//!   the first-level cache and 20,000 are never all in it, so between sizes it compares caches.
//! - `cold` sweeps the processor's caches before each change, with one Service as with 20,000: code,
//!   heap, the tables that addresses are translated by, all comes from memory, and so it compares how
//!   much is touched. The change itself is made after the sweep: whoever hands it over has just read
//!   it. Nothing is worse than this; it needs a machine that does nothing else.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode};
use fairway_config::exchange::Change;

/// What is at rest among many Services and takes changes.
pub(crate) trait AtRest {
    /// At rest among `size` Services.
    fn of(size: usize) -> Self;

    /// How long it takes for a change.
    fn work(&mut self, change: Change) -> Duration;
}

/// A kind of change: its name, what comes before it, itself, and what undoes it; only the second is
/// measured. Each is of the Service with that number.
pub(crate) type Kind<W> = (&'static str, Option<Make<W>>, Make<W>, Option<Make<W>>);
pub(crate) type Make<W> = fn(&mut W, usize) -> Change;

/// A way of measuring: its name, whether any Service changes, whether the caches are swept before.
const MODES: [(&str, bool, bool); 3] = [
    ("hot", false, false),
    ("warm", true, false),
    ("cold", true, true),
];

/// Larger than the caches of today's processors.
const SWEPT: usize = 64 << 20;

/// Measures these kinds of changes.
pub(crate) fn measure<W: AtRest>(criterion: &mut Criterion, name: &str, kinds: &[Kind<W>]) {
    let memory: Vec<u64> = (0..(SWEPT / size_of::<u64>()) as u64).collect();
    let mut group = criterion.benchmark_group(name);
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .sampling_mode(SamplingMode::Flat);
    for (kind, before, make, after) in kinds {
        for size in [1, 5_000, 20_000] {
            // Made once it is known that one of its rows was asked for.
            let mut world = None;
            // Seeded, so that every run changes the same Services.
            let mut random = 0x9e37_79b9_7f4a_7c15;
            for (mode, any_one, swept) in MODES {
                let name = format!("{kind}/{mode}");
                group.bench_function(BenchmarkId::new(name, size), |bencher| {
                    let world = world.get_or_insert_with(|| W::of(size));
                    bencher.iter_custom(|rounds| {
                        let mut taken = Duration::ZERO;
                        for _ in 0..rounds {
                            let n = match any_one {
                                true => any(&mut random, size),
                                false => size / 2,
                            };
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

/// Any Service (SplitMix64).
fn any(random: &mut u64, size: usize) -> usize {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) % size as u64) as usize
}

/// Fills every cache of the processor with something else.
fn sweep(memory: &[u64]) {
    black_box(memory.iter().step_by(8).fold(0, |sum: u64, n| sum ^ n));
}
