//! The process's budget of file descriptors: who may open sockets, and who waits.
//!
//! A process that accepts connections until the kernel returns EMFILE has no descriptor left to dial their
//! endpoints, and its store can't write. So sockets are counted before they are made. Descriptors outside the
//! budget are for the rest of the process: files, the admin address, DNS, epoll, and unused connections to HTTP
//! endpoints.
//!
//! No port of a Service may use up the budget: it may hold [`MULTIPLE`] times what is free, like a queue of a
//! switch in a shared buffer (Choudhury and Hahne, «Dynamic Queue Length Thresholds for Shared-Memory Packet
//! Switches», 1998). A single busy port gets seven eighths; two get seven fifteenths each; and something is
//! always left for a port that holds nothing. But descriptors are never taken back: of ports that fill up one
//! after the other each leaves an eighth of what the one before has left. So the ports of a namespace together
//! have a bound, too ([`MULTIPLE_OF_NAMESPACE`]): one tenant leaves a thirty-second to the others, however many
//! ports it fills.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::counters::{Counter, Gauge};

/// Counter: how often accepting paused because the budget, or the share of a port, was used up.
const PAUSES: &str = "fairway_accept_pauses_total";
/// Gauge: listening sockets at which accepting pauses now.
const PAUSED: &str = "fairway_accept_paused";
/// Gauge: file descriptors of the data plane; label `state`: `used`, `limit`.
const DESCRIPTORS: &str = "fairway_descriptors";

/// The descriptors of a connection: the client's socket and the endpoint's.
pub(crate) const CONNECTION: u32 = 2;

/// How many times of what is free one port may hold.
const MULTIPLE: usize = 7;

/// How many times of what is free all ports of one namespace may hold. Several full ports fit into it, and the
/// rest stays for other namespaces.
const MULTIPLE_OF_NAMESPACE: usize = 31;

/// What stays for the rest of the process: a tenth of its limit, at least this.
const RESERVE: usize = 128;

/// Unused connections to HTTP endpoints: an eighth of the limit, at most this many on each worker.
const POOLED: usize = 512;

/// The most descriptors that the process asks for: the kernel's default bound (`fs.nr_open`).
const MOST: u64 = 1 << 20;

/// The shortest time between two lines in the log that accepting pauses.
const QUIET: Duration = Duration::from_secs(10);

/// Tells a worker that descriptors are free again.
type Waker = Box<dyn Fn() + Send + Sync>;

/// A budget of file descriptors.
pub(crate) struct Descriptors {
    free: AtomicUsize,
    /// A worker waits for descriptors: the wakers are called when some are given back.
    awaited: AtomicBool,
    /// The workers.
    waiting: OnceLock<Vec<Waker>>,
    total: usize,
    pooled: usize,
    /// Accepting has paused, and no descriptors were taken since.
    pausing: AtomicBool,
    /// How often accepting paused.
    pub(crate) pauses: Counter,
    /// At how many listening sockets accepting pauses now.
    pub(crate) paused: Gauge,
    logged: Mutex<Logged>,
}

#[derive(Debug, Default)]
struct Logged {
    last: Option<Instant>,
    /// The pause was logged, and its end was not.
    open: bool,
}

/// How much of a budget one port of a Service holds, or all ports of a namespace.
#[derive(Debug, Default)]
pub(crate) struct Share {
    held: AtomicUsize,
    /// The share of the namespace; none where this is one.
    within: Option<Arc<Share>>,
}

impl Share {
    /// The share of a port, within that of its namespace.
    pub(crate) fn within(namespace: Arc<Self>) -> Arc<Self> {
        Arc::new(Self {
            held: AtomicUsize::default(),
            within: Some(namespace),
        })
    }

    /// This share and that of the namespace, each with the multiple of the free descriptors that it may hold.
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

/// A listening socket at which accepting pauses. It goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct PausedSocket(Arc<Descriptors>);

impl Drop for PausedSocket {
    fn drop(&mut self) {
        self.0.paused.decrement();
    }
}

/// The permit to have some descriptors open. They are given back when it is dropped.
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
    /// The budget of this process. Raises its soft limit (`RLIMIT_NOFILE`) to the hard one.
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
            PAUSED,
            "Listening sockets at which accepting pauses now for want of file descriptors."
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

    /// The budget of a process that may open `limit` files.
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
            paused: Gauge::default(),
            logged: Mutex::default(),
        }
    }

    /// The size of the budget.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// How many unused connections to HTTP endpoints a worker may keep.
    pub(crate) fn pooled(&self) -> usize {
        self.pooled
    }

    /// Brings the metrics up to date.
    pub(crate) fn observe(&self) {
        metrics::gauge!(PAUSED).set(self.paused.get() as f64);
        let used = self.total.saturating_sub(self.free());
        metrics::gauge!(DESCRIPTORS, "state" => "used").set(used as f64);
    }

    /// Sets whom to tell that descriptors were given back, after [`Self::take_or_pause`] had none. To be called
    /// once.
    pub(crate) fn wake(&self, waiting: Vec<Waker>) {
        let _ = self.waiting.set(waiting);
    }

    /// How many are free.
    fn free(&self) -> usize {
        self.free.load(Ordering::Relaxed)
    }

    /// Takes `count` descriptors for a port (`share`), or for none. Returns none where fewer are free, or the port
    /// has used up its share. Takes no lock and makes no system call.
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

    /// The same for a worker that waits where there are none: it is woken when some are given back.
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
        // Descriptors that were given back before `awaited` was set have woken nobody.
        self.take(share, count)
    }

    /// Charges a permit, which was taken for no port, to this one. Returns false where the port has used up its
    /// share.
    pub(crate) fn charge(&self, permit: &mut Permit, share: Option<&Arc<Share>>) -> bool {
        let Some(share) = share else { return true };
        // The permit is taken already, so no more is counted against what is free.
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

    /// Takes `count` descriptors for something optional, if enough are left for ports that hold nothing.
    pub(crate) fn take_spare(self: &Arc<Self>, count: u32) -> Option<Permit> {
        let left = self.free().checked_sub(count as usize)?;
        (left > self.total / (MULTIPLE + 1))
            .then(|| self.take(None, count))
            .flatten()
    }

    /// Whether a port and its namespace may have `count` more. A port that holds nothing always may.
    fn allows(&self, share: Option<&Arc<Share>>, count: u32) -> bool {
        let count = count as usize;
        let left = self.free().saturating_sub(count);
        let mut levels = share.into_iter().flat_map(|share| share.levels());
        levels.all(|(share, multiple)| {
            let held = share.held.load(Ordering::Relaxed);
            held == 0 || held + count <= multiple * left
        })
    }

    /// Notes that accepting pauses at a listening socket, until what is returned is dropped.
    pub(crate) fn paused(self: &Arc<Self>) -> PausedSocket {
        self.paused.increment();
        PausedSocket(self.clone())
    }

    /// Notes that the kernel had no descriptor although the budget had: the host as a whole may be short of files
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
