//! The process's budget of file descriptors: who may open sockets, and who waits.
//!
//! A process that accepts until the kernel says EMFILE has accepted too much: there is nothing left
//! to dial the endpoint with, and the store can't write its state. So sockets are counted before
//! they are made. What the budget leaves out is for the rest of the process: files, the admin
//! address, DNS, epoll, and unused connections to HTTP endpoints.
//!
//! No port of a Service may use up the budget: it may hold [`MULTIPLE`] times what is free, as a
//! queue of a switch may of a shared buffer (Choudhury and Hahne, «Dynamic Queue Length Thresholds
//! for Shared-Memory Packet Switches», 1998). Alone it gets seven eighths; two that want all get
//! seven fifteenths each; and there is always something left for a port that holds nothing. What
//! ports hold is never taken back, so that ports that fill up one after the other, and are never done,
//! leave an eighth each of what the one before did.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Notify, Semaphore};

use crate::counters::Counter;

/// Counter: how often accepting paused because the budget was used up.
const PAUSES: &str = "fairway_accept_pauses_total";
/// Gauge: file descriptors of the data plane; label `state`: `used`, `limit`.
const DESCRIPTORS: &str = "fairway_descriptors";

/// What a connection takes: the client's socket and the endpoint's.
pub(crate) const CONNECTION: u32 = 2;

/// How many times of what is free one port may hold.
const MULTIPLE: usize = 7;

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
    /// Told when something is given back.
    released: Notify,
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

/// How much of a budget one port of a Service holds.
#[derive(Debug, Default)]
pub(crate) struct Share(AtomicUsize);

/// Leave to have some descriptors open; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    descriptors: Arc<Descriptors>,
    share: Option<Arc<Share>>,
    count: u32,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let count = self.count as usize;
        if let Some(share) = &self.share {
            share.0.fetch_sub(count, Ordering::Relaxed);
        }
        self.descriptors.free.add_permits(count);
        self.descriptors.released.notify_waiters();
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
            released: Notify::new(),
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

    /// Takes so many, if there are as many and the port that they are for may have them; none where
    /// they are for no port. Counting alone: no lock, no system call.
    pub(crate) fn take(self: &Arc<Self>, share: Option<&Arc<Share>>, count: u32) -> Option<Permit> {
        if !self.allows(share, count) {
            return None;
        }
        self.free.try_acquire_many(count).ok()?.forget();
        if self.pausing.load(Ordering::Relaxed) {
            self.go_on();
        }
        Some(self.permit(share, count))
    }

    /// Takes so many for what can be done without, if that leaves to others what no port may have.
    pub(crate) fn take_spare(self: &Arc<Self>, count: u32) -> Option<Permit> {
        let left = self.free.available_permits().checked_sub(count as usize)?;
        (left > self.total / (MULTIPLE + 1))
            .then(|| self.take(None, count))
            .flatten()
    }

    /// Waits until the port may have so many, and there are as many, in the order of those who wait
    /// for that.
    pub(crate) async fn wait(self: &Arc<Self>, share: Option<&Arc<Share>>, count: u32) -> Permit {
        self.pause(if self.free.available_permits() < count as usize {
            "the limit of file descriptors is used up"
        } else {
            "a port has its share of the file descriptors"
        });
        let mut released = pin!(self.released.notified());
        loop {
            // Listens before it looks, so that nothing that is given back meanwhile is missed.
            released.as_mut().enable();
            if self.allows(share, count) {
                break;
            }
            released.as_mut().await;
            released.set(self.released.notified());
        }
        match self.free.acquire_many(count).await {
            Ok(permit) => permit.forget(),
            // It is never closed.
            Err(_closed) => std::future::pending().await,
        }
        self.permit(share, count)
    }

    /// Whether a port may have so many more. One that holds nothing has its turn with the others.
    fn allows(&self, share: Option<&Arc<Share>>, count: u32) -> bool {
        let held = share.map_or(0, |share| share.0.load(Ordering::Relaxed));
        let count = count as usize;
        let left = self.free.available_permits().saturating_sub(count);
        held == 0 || held + count <= MULTIPLE * left
    }

    /// Waits a little, as the kernel had none although there should be some.
    pub(crate) async fn exhausted(&self, error: &std::io::Error) {
        self.pause(&error.to_string());
        tokio::time::sleep(EXHAUSTED).await;
    }

    fn permit(self: &Arc<Self>, share: Option<&Arc<Share>>, count: u32) -> Permit {
        if let Some(share) = share {
            share.0.fetch_add(count as usize, Ordering::Relaxed);
        }
        Permit {
            descriptors: self.clone(),
            share: share.cloned(),
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
        let taken = descriptors.take(None, all).unwrap();
        assert!(descriptors.take(None, 1).is_none());
        let mut first = pin!(descriptors.wait(None, all));
        let mut second = pin!(descriptors.wait(None, 1));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!(descriptors.pauses.get(), 1, "one row of pauses");
        drop(taken);
        let first = first.now_or_never().unwrap();
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop(second.now_or_never().unwrap());
        assert!(descriptors.take(None, all).is_some());
        assert!(!descriptors.pausing.load(Ordering::Relaxed), "it goes on");
    }

    #[tokio::test]
    async fn who_no_longer_waits_takes_nothing() {
        let descriptors = Arc::new(Descriptors::new(16, 1));
        let all = u32::try_from(descriptors.total()).unwrap();
        let taken = descriptors.take(None, all).unwrap();
        assert!(descriptors.wait(None, 2).now_or_never().is_none());
        drop(taken);
        assert!(descriptors.take(None, all).is_some());
    }

    /// A budget of 800.
    fn eight_hundred() -> Arc<Descriptors> {
        let mut descriptors = Descriptors::new(0, 1);
        descriptors.free.add_permits(800);
        descriptors.total = 800;
        Arc::new(descriptors)
    }

    /// Takes for a port until it gets no more.
    fn fill(descriptors: &Arc<Descriptors>, share: &Arc<Share>) -> Vec<Permit> {
        std::iter::from_fn(|| descriptors.take(Some(share), CONNECTION)).collect()
    }

    #[test]
    fn what_one_port_leaves_is_for_others() {
        let descriptors = eight_hundred();
        let share = || Arc::new(Share::default());
        let (greedy, next, last) = (share(), share(), share());
        let taken = fill(&descriptors, &greedy);
        assert_eq!(taken.len() * 2, 700);
        assert_eq!(fill(&descriptors, &next).len() * 2, 86);
        // What is for no port, and what can be done without.
        assert!(descriptors.take(None, 2).is_some());
        assert!(descriptors.take_spare(2).is_none());
        let _next = fill(&descriptors, &next);
        assert!(!fill(&descriptors, &last).is_empty());
        drop(taken);
        assert_eq!(greedy.0.load(Ordering::Relaxed), 0);
        assert!(descriptors.take_spare(2).is_some());
    }

    #[test]
    fn ports_that_want_all_get_the_same() {
        let descriptors = eight_hundred();
        let ports: Vec<_> = (0..5).map(|_| Arc::new(Share::default())).collect();
        let mut taken = Vec::new();
        loop {
            let before = taken.len();
            for share in &ports {
                taken.extend(descriptors.take(Some(share), CONNECTION));
            }
            if taken.len() == before {
                break;
            }
        }
        // 7/36 of 800 each, and 1/36 is left.
        for share in &ports {
            let held = share.0.load(Ordering::Relaxed);
            assert!((150..=156).contains(&held), "{held}");
        }
        assert!(descriptors.free.available_permits() >= 20);
    }

    #[tokio::test]
    async fn a_port_that_has_its_share_waits_until_anything_is_given_back() {
        let descriptors = eight_hundred();
        let (greedy, other) = (Arc::new(Share::default()), Arc::new(Share::default()));
        let others = fill(&descriptors, &other).split_off(300);
        let mut taken = fill(&descriptors, &greedy);
        {
            let mut waiting = pin!(descriptors.wait(Some(&greedy), CONNECTION));
            assert!(waiting.as_mut().now_or_never().is_none());
            drop(others);
            taken.extend(waiting.now_or_never());
        }
        taken.extend(fill(&descriptors, &greedy));
        let mut waiting = pin!(descriptors.wait(Some(&greedy), CONNECTION));
        assert!(waiting.as_mut().now_or_never().is_none());
        taken.pop();
        assert!(waiting.now_or_never().is_some());
    }
}
