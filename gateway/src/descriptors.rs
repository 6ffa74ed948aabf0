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
//! leave an eighth each of what the one before did. So there is a bound for all ports of a namespace
//! together, too ([`MULTIPLE_OF_NAMESPACE`]): one tenant leaves a thirty-second to the others, however many
//! ports it fills.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::counters::Counter;

/// Counter: how often accepting paused because the budget, or the share of a port, was used up.
const PAUSES: &str = "fairway_accept_pauses_total";
/// Gauge: file descriptors of the data plane; label `state`: `used`, `limit`.
const DESCRIPTORS: &str = "fairway_descriptors";

/// What a connection takes: the client's socket and the endpoint's.
pub(crate) const CONNECTION: u32 = 2;

/// How many times of what is free one port may hold.
const MULTIPLE: usize = 7;

/// How many times of what is free all ports of one namespace may hold: several full ones of a namespace fit
/// in, and the last part stays for others.
const MULTIPLE_OF_NAMESPACE: usize = 31;

/// What stays for the rest of the process: a tenth of its limit, at least this.
const RESERVE: usize = 128;

/// Unused connections to HTTP endpoints: an eighth of the limit, at most this many on each worker.
const POOLED: usize = 512;

/// More than this is not asked for: the kernel's own default bound for a process (`fs.nr_open`).
const MOST: u64 = 1 << 20;

/// How often it is logged that accepting pauses, at most.
const QUIET: Duration = Duration::from_secs(10);

/// Tells a worker that there is leave again.
type Waker = Box<dyn Fn() + Send + Sync>;

/// A budget of file descriptors.
pub(crate) struct Descriptors {
    free: AtomicUsize,
    /// Somebody is to be told when something is given back.
    awaited: AtomicBool,
    /// Who.
    waiting: OnceLock<Vec<Waker>>,
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

/// How much of a budget one port of a Service holds, or all ports of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Share {
    held: AtomicUsize,
    /// That of the namespace.
    within: Option<Arc<Share>>,
}

impl Share {
    /// One of a namespace that has this one.
    pub(crate) fn within(namespace: Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicUsize::default(),
            within: Some(namespace),
        })
    }

    /// It, and that of its namespace, each with how many times of what is free it may hold.
    fn levels(&self) -> impl Iterator<Item = (&Self, usize)> {
        let namespace = self.within.as_deref();
        let namespace = namespace.map(|share| (share, MULTIPLE_OF_NAMESPACE));
        [(self, MULTIPLE)].into_iter().chain(namespace)
    }

    fn add(&self, count: usize) {
        for (share, _) in self.levels() {
            share.held.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn subtract(&self, count: usize) {
        for (share, _) in self.levels() {
            share.held.fetch_sub(count, Ordering::Relaxed);
        }
    }
}

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
            share.subtract(count);
        }
        self.descriptors.give(count);
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
            "How often accepting paused because the process or a port had no file descriptors left."
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
        let total = limit.saturating_sub(reserve + pooled * workers);
        Self {
            free: AtomicUsize::new(total),
            awaited: AtomicBool::new(false),
            waiting: OnceLock::new(),
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
        let used = self.total.saturating_sub(self.free());
        metrics::gauge!(DESCRIPTORS, "state" => "used").set(used as f64);
    }

    /// Whom to tell that something was given back, after [`Self::take_or_pause`] gave nothing. May be
    /// said once.
    pub(crate) fn wake(&self, waiting: Vec<Waker>) {
        let _ = self.waiting.set(waiting);
    }

    /// How many are free.
    fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    /// Takes so many, if there are as many and the port that they are for may have them; none where
    /// they are for no port. Counting alone: no lock, no system call.
    pub(crate) fn take(self: &Arc<Self>, share: Option<&Arc<Share>>, count: u32) -> Option<Permit> {
        if !self.allows(share, count) {
            return None;
        }
        let less = |free: usize| free.checked_sub(count as usize);
        self.free
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, less)
            .ok()?;
        if self.pausing.load(Ordering::Relaxed) {
            self.go_on();
        }
        Some(self.permit(share, count))
    }

    /// The same for who waits where there are none: it is told when something is given back.
    pub(crate) fn take_or_pause(
        self: &Arc<Self>,
        share: Option<&Arc<Share>>,
        count: u32,
    ) -> Option<Permit> {
        if let Some(permit) = self.take(share, count) {
            return Some(permit);
        }
        self.pause(if self.free() < count as usize {
            "the limit of file descriptors is used up"
        } else {
            "a port has its share of the file descriptors"
        });
        self.awaited.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        // What was given back just before it was said is not told.
        self.take(share, count)
    }

    /// What was taken for no port is for this one from now on; false where the port may not have so
    /// many more.
    pub(crate) fn charge(&self, permit: &mut Permit, share: Option<&Arc<Share>>) -> bool {
        let Some(share) = share else { return true };
        // It is taken already: so what is free is looked at as it was before.
        if !self.allows(Some(share), 0) {
            return false;
        }
        share.add(permit.count as usize);
        permit.share = Some(share.clone());
        true
    }

    fn give(&self, count: usize) {
        self.free.fetch_add(count, Ordering::SeqCst);
        if self.awaited.load(Ordering::SeqCst) && self.awaited.swap(false, Ordering::SeqCst) {
            for wake in self.waiting.get().into_iter().flatten() {
                wake();
            }
        }
    }

    /// Takes so many for what can be done without, if that leaves to others what no port may have.
    pub(crate) fn take_spare(self: &Arc<Self>, count: u32) -> Option<Permit> {
        let left = self.free().checked_sub(count as usize)?;
        (left > self.total / (MULTIPLE + 1))
            .then(|| self.take(None, count))
            .flatten()
    }

    /// Whether a port may have so many more, and its namespace. One that holds nothing has its turn with the
    /// others.
    fn allows(&self, share: Option<&Arc<Share>>, count: u32) -> bool {
        let count = count as usize;
        let left = self.free().saturating_sub(count);
        let mut levels = share.into_iter().flat_map(|share| share.levels());
        levels.all(|(share, multiple)| {
            let held = share.held.load(Ordering::Relaxed);
            held == 0 || held + count <= multiple * left
        })
    }

    /// The kernel had none although there should be some: the host as a whole may be short of files
    /// or of memory for sockets.
    pub(crate) fn exhausted(&self, error: &std::io::Error) {
        self.pause(&error.to_string());
    }

    fn permit(self: &Arc<Self>, share: Option<&Arc<Share>>, count: u32) -> Permit {
        if let Some(share) = share {
            share.add(count as usize);
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

impl std::fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} descriptors", self.free(), self.total)
    }
}

#[cfg(test)]
mod tests;
