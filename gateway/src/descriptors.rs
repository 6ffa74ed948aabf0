//! The process's budget of file descriptors: who may open sockets, and who waits.
//!
//! A process that accepts until the kernel says EMFILE has accepted too much: there is nothing left
//! to dial the endpoint with, and the store can't write its state. So sockets are counted before
//! they are made. What the budget leaves out is for the rest of the process: files, the admin
//! address, DNS, epoll, and unused connections to HTTP endpoints.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

use crate::counters::Counter;

/// Counter: how often accepting paused because the budget was used up.
const PAUSES: &str = "fairway_accept_pauses_total";
/// Gauge: file descriptors of the data plane; label `state`: `used`, `limit`.
const DESCRIPTORS: &str = "fairway_descriptors";

/// What a connection takes: the client's socket and the endpoint's.
pub(crate) const CONNECTION: u32 = 2;

/// What stays for the rest of the process: a tenth of its limit, at least this.
const RESERVE: usize = 128;

/// Unused connections to HTTP endpoints: an eighth of the limit, at most this many on each worker.
const POOLED: usize = 512;

/// More than this is not asked for: the kernel's own default bound for a process (`fs.nr_open`).
const MOST: u64 = 1 << 20;

/// How long to wait where the kernel refuses although the budget does not: the host as a whole may
/// be short of files or of memory for sockets.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// How often it is logged that accepting pauses, at most.
const QUIET: Duration = Duration::from_secs(10);

/// A budget of file descriptors.
#[derive(Debug)]
pub(crate) struct Descriptors {
    free: Semaphore,
    total: usize,
    pooled: usize,
    /// Somebody waits, or did so last.
    pausing: AtomicBool,
    /// How often accepting paused.
    pub(crate) pauses: Counter,
    logged: Mutex<Logged>,
}

#[derive(Debug, Default)]
struct Logged {
    last: Option<Instant>,
    /// That accepting pauses was said, that it goes on was not.
    open: bool,
}

/// Leave to have some descriptors open; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    descriptors: Arc<Descriptors>,
    count: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.descriptors.free.add_permits(self.count as usize);
    }
}

impl Descriptors {
    /// The budget of this process, whose soft limit is raised to the hard one.
    pub(crate) fn of_process(workers: usize) -> Arc<Self> {
        let limit = getrlimit(Resource::Nofile);
        let wanted = limit.maximum.unwrap_or(MOST).min(MOST);
        let mut current = limit.current.unwrap_or(MOST);
        if current < wanted {
            let raised = Rlimit {
                current: Some(wanted),
                maximum: limit.maximum,
            };
            match setrlimit(Resource::Nofile, raised) {
                Ok(()) => current = wanted,
                Err(error) => tracing::info!(%error, limit = current, "limit of files not raised"),
            }
        }
        let limit = usize::try_from(current.min(MOST)).unwrap_or(usize::MAX);
        let descriptors = Self::new(limit, workers);
        metrics::describe_counter!(
            PAUSES,
            "How often accepting paused because no file descriptors were left."
        );
        metrics::describe_gauge!(
            DESCRIPTORS,
            "File descriptors of listeners, connections and flows: in use, and the most there may be."
        );
        metrics::counter!(PAUSES).absolute(0);
        metrics::gauge!(DESCRIPTORS, "state" => "limit").set(descriptors.total as f64);
        descriptors.observe();
        Arc::new(descriptors)
    }

    /// A budget out of a limit of so many files.
    fn new(limit: usize, workers: usize) -> Self {
        let workers = workers.max(1);
        let reserve = RESERVE.max(limit / 10).min(limit / 2);
        let pooled = (limit / 8 / workers).min(POOLED);
        let total = limit
            .saturating_sub(reserve + pooled * workers)
            .min(Semaphore::MAX_PERMITS);
        Self {
            free: Semaphore::new(total),
            total,
            pooled,
            pausing: AtomicBool::new(false),
            pauses: Counter::default(),
            logged: Mutex::default(),
        }
    }

    /// How many there are in all.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// How many unused connections a worker may keep.
    pub(crate) fn pooled(&self) -> usize {
        self.pooled
    }

    /// Brings the metric up to date.
    pub(crate) fn observe(&self) {
        let used = self.total.saturating_sub(self.free.available_permits());
        metrics::gauge!(DESCRIPTORS, "state" => "used").set(used as f64);
    }

    /// Takes so many, if there are as many. Counting alone: no lock, no system call.
    pub(crate) fn take(self: &Arc<Self>, count: u32) -> Option<Permit> {
        self.free.try_acquire_many(count).ok()?.forget();
        if self.pausing.load(Ordering::Relaxed) {
            self.go_on();
        }
        Some(self.permit(count))
    }

    /// Waits until there are so many, in the order of those who wait.
    pub(crate) async fn wait(self: &Arc<Self>, count: u32) -> Permit {
        self.pause("the limit of file descriptors is used up");
        match self.free.acquire_many(count).await {
            Ok(permit) => permit.forget(),
            // It is never closed.
            Err(_closed) => std::future::pending().await,
        }
        self.permit(count)
    }

    /// Waits a little, as the kernel had none although there should be some.
    pub(crate) async fn exhausted(&self, error: &std::io::Error) {
        self.pause(&error.to_string());
        tokio::time::sleep(EXHAUSTED).await;
    }

    fn permit(self: &Arc<Self>, count: u32) -> Permit {
        Permit {
            descriptors: self.clone(),
            count,
        }
    }

    fn pause(&self, why: &str) {
        if self.pausing.swap(true, Ordering::Relaxed) {
            return;
        }
        self.pauses.increment();
        metrics::counter!(PAUSES).increment(1);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if logged
            .last
            .is_none_or(|last| now.duration_since(last) >= QUIET)
        {
            *logged = Logged {
                last: Some(now),
                open: true,
            };
            tracing::warn!(
                why,
                limit = self.total,
                pauses = self.pauses.get(),
                "accepting pauses until connections close; raise the limit of open files \
                 (LimitNOFILE, ulimit -Hn)"
            );
        }
    }

    fn go_on(&self) {
        if !self.pausing.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut logged.open) {
            tracing::info!("accepting goes on");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_budget_leaves_a_part_to_the_rest_of_the_process() {
        // limit, workers; in all, unused connections on each worker
        for (limit, workers, total, pooled) in [
            (1024, 2, 1024 - 128 - 2 * 64, 64),
            (65_536, 2, 65_536 - 6553 - 2 * 512, 512),
            (65_536, 64, 65_536 - 6553 - 64 * 128, 128),
            (100, 1, 38, 12),
            (0, 1, 0, 0),
        ] {
            let descriptors = Descriptors::new(limit, workers);
            assert_eq!(
                (descriptors.total(), descriptors.pooled()),
                (total, pooled),
                "{limit} {workers}"
            );
        }
    }

    #[tokio::test]
    async fn who_waits_gets_what_is_given_back_in_order() {
        let descriptors = Arc::new(Descriptors::new(16, 1));
        let all = u32::try_from(descriptors.total()).unwrap();
        let taken = descriptors.take(all).unwrap();
        assert!(descriptors.take(1).is_none());
        let mut first = std::pin::pin!(descriptors.wait(all));
        let mut second = std::pin::pin!(descriptors.wait(1));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(descriptors.pauses.get(), 1, "one row of pauses");
        drop(taken);
        let first = first.now_or_never().unwrap();
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop(second.now_or_never().unwrap());
        assert!(descriptors.take(all).is_some());
        assert!(!descriptors.pausing.load(Ordering::Relaxed), "it goes on");
    }

    #[tokio::test]
    async fn who_no_longer_waits_takes_nothing() {
        let descriptors = Arc::new(Descriptors::new(16, 1));
        let all = u32::try_from(descriptors.total()).unwrap();
        let taken = descriptors.take(all).unwrap();
        assert!(descriptors.wait(2).now_or_never().is_none());
        drop(taken);
        assert!(descriptors.take(all).is_some());
    }
}
