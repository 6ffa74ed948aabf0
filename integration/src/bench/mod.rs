//! Load: clients and servers that cost little, for benchmarks.
//!
//! What is measured shares the machine with what measures it, so these are event loops over
//! non-blocking sockets and nothing more: what they cost is a part of every figure. All of it is
//! bounded in time.
//!
//! - `poll`: an event loop.
//! - [`backend`]: the servers that answer.
//! - [`least`]: a forwarder that does nothing else.
//! - [`flood`]: clients that are over a limit.
//! - [`http`]: clients of HTTP/1.1.
//! - [`requests`]: clients that send requests and wait, over few or many connections.
//! - [`streams`]: clients that read as fast as they can.
//! - [`datagrams`]: UDP clients.
//! - [`cpu`]: what the machine and processes have worked.

pub mod backend;
pub mod cpu;
pub mod datagrams;
pub mod flood;
pub mod http;
pub mod least;
mod poll;
pub mod requests;
pub mod streams;

use std::time::Duration;

/// Bytes of a request, and of the answer to it.
pub const REQUEST: usize = 128;
/// See [`REQUEST`].
pub const ANSWER: usize = 256;

/// Threads that ask, and threads that answer.
pub const THREADS: usize = 2;

/// The outcome of a load.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many succeeded: answers, connections, datagrams or bytes.
    pub count: u64,
    /// How many failed.
    pub failed: u64,
    /// How long it took.
    pub span: Duration,
    /// How long each took, in no order; empty where that is not measured.
    pub latencies: Vec<Duration>,
}

impl Outcome {
    /// So many a second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.span.as_secs_f64()
    }

    /// The `quantile` of the latencies, by the nearest rank.
    pub fn latency(&mut self, quantile: f64) -> Duration {
        self.latencies.sort_unstable();
        let last = self.latencies.len().saturating_sub(1);
        let rank = (self.latencies.len() as f64 * quantile).ceil() as usize;
        let at = rank.saturating_sub(1).min(last);
        self.latencies.get(at).copied().unwrap_or_default()
    }

    /// Several loads at the same time are one.
    fn join(parts: Vec<Self>) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.count += part.count;
            all.failed += part.failed;
            all.span = all.span.max(part.span);
            all.latencies.extend(part.latencies);
        }
        all
    }
}

/// Runs `work` on so many threads of the calling thread's host.
fn on_threads(
    threads: usize,
    work: impl Fn(usize) -> anyhow::Result<Outcome> + Sync,
) -> anyhow::Result<Outcome> {
    let work = &work;
    let parts: anyhow::Result<Vec<Outcome>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(n))).collect();
        let ended = running.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.collect()
    });
    Ok(Outcome::join(parts?))
}
