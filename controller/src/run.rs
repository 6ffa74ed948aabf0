//! The controller's loop over any store, and what it has to say to people.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fairway_config::exchange::{Batch, Change, Write};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::problem::Problem;
use fairway_config::time::Timestamp;
use fairway_config::view::{GatewayRow, PoolRow, Section, ServiceRow};
use fairway_controller_core::{Counts, Settings, State};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::feed::lock;
use crate::rows::{Rows, condition_rows};
use crate::store::{Store, WriteOutcome};

/// Between two tries of writes that failed: doubled each time, from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// Before a decision that the store refused is made again. What it was refused for usually comes
/// with the next batch, before that.
const AGAIN: Duration = Duration::from_millis(20);

/// Decides and writes, for as long as it is run.
pub struct Controller<S> {
    store: Arc<S>,
    shared: Arc<Mutex<Shared>>,
    batches: mpsc::Receiver<Batch>,
    retry_at: Option<Instant>,
    retry: Duration,
    /// When the oldest change came about of which a decision is still to be written.
    unwritten: Option<std::time::Instant>,
}

/// What the controller knows, for others to ask. Cheap to clone.
pub struct Handle<S> {
    store: Arc<S>,
    shared: Arc<Mutex<Shared>>,
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            shared: Arc::clone(&self.shared),
        }
    }
}

struct Shared {
    state: State,
    rows: Rows,
    /// Writes on their way.
    writing: usize,
    /// The sequence of the last batch that was taken, and what followed from it written.
    done: u64,
    /// Objects whose write didn't come about, and why, where it failed.
    failed: BTreeMap<Target, Option<String>>,
}

/// What a write is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Service(ServiceName),
    Pool(ClusterName),
}

impl Target {
    fn of(write: &Write) -> Self {
        match write {
            Write::Service { name, .. } => Self::Service(name.clone()),
            Write::Pool { name, .. } => Self::Pool(Arc::clone(name)),
        }
    }
}

impl<S: Store> Controller<S> {
    /// A controller that has not yet heard of anything. Needs a Tokio runtime, as
    /// [`Store::subscribe`] does.
    pub fn new(store: Arc<S>, settings: Settings) -> (Self, Handle<S>) {
        let shared = Arc::new(Mutex::new(Shared {
            state: State::new(settings),
            rows: Rows::default(),
            writing: 0,
            done: 0,
            failed: BTreeMap::new(),
        }));
        let handle = Handle {
            store: Arc::clone(&store),
            shared: Arc::clone(&shared),
        };
        let controller = Self {
            batches: store.subscribe(),
            store,
            shared,
            retry_at: None,
            retry: RETRY.0,
            unwritten: None,
        };
        (controller, handle)
    }

    /// Runs until it is told to stop, or the store closes. Writes that are on their way are waited
    /// for.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let retry_at = self.retry_at;
            let retry = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let began = Instant::now();
            let (writes, taken, since) = tokio::select! {
                () = stop.cancelled() => return,
                batch = self.batches.recv() => {
                    let Some(batch) = batch else { return };
                    (self.take(&batch), Some(batch.sequence), batch.since)
                }
                () = retry => (self.plan_again(), None, self.unwritten.take()),
            };
            self.write(writes, since).await;
            if let Some(sequence) = taken {
                lock(&self.shared).done = sequence;
            }
            metrics::histogram!("fairway_sync_duration_seconds", "component" => "controller")
                .record(began.elapsed().as_secs_f64());
        }
    }

    fn take(&self, batch: &Batch) -> Vec<Write> {
        let mut shared = lock(&self.shared);
        for change in &batch.changes {
            shared.note(change);
        }
        shared.state.apply(batch);
        shared.state.settle(now())
    }

    fn plan_again(&mut self) -> Vec<Write> {
        self.retry_at = None;
        let mut shared = lock(&self.shared);
        let shared = &mut *shared;
        for target in std::mem::take(&mut shared.failed).into_keys() {
            match target {
                Target::Service(name) => shared.state.refused(&name),
                Target::Pool(name) => shared.state.refused_pool(&name),
            }
        }
        shared.state.settle(now())
    }

    async fn write(&mut self, writes: Vec<Write>, since: Option<std::time::Instant>) {
        if writes.is_empty() {
            return;
        }
        let targets: Vec<_> = writes.iter().map(Target::of).collect();
        lock(&self.shared).writing = writes.len();
        let outcomes = self.store.write(writes, since).await;
        let mut shared = lock(&self.shared);
        shared.writing = 0;
        let mut refused = false;
        let mut failed = None;
        for (target, outcome) in targets.into_iter().zip(outcomes) {
            match outcome {
                WriteOutcome::Written => {
                    shared.failed.remove(&target);
                }
                WriteOutcome::Refused => {
                    refused = true;
                    shared.failed.insert(target, None);
                }
                WriteOutcome::Failed(error) => {
                    failed = Some(error.clone());
                    shared.failed.insert(target, Some(error));
                }
            }
        }
        if refused || failed.is_some() {
            self.unwritten = self.unwritten.into_iter().chain(since).min();
        }
        if let Some(error) = failed {
            metrics::counter!("fairway_store_errors_total", "operation" => "status").increment(1);
            tracing::warn!(error, retry = ?self.retry, "some decisions could not be written");
            self.retry_at = Some(Instant::now() + self.retry);
            self.retry = (self.retry * 2).min(RETRY.1);
        } else {
            self.retry = RETRY.0;
            if refused {
                self.retry_at = Some(Instant::now() + AGAIN);
            }
        }
    }
}

impl Shared {
    fn note(&mut self, change: &Change) {
        self.rows.note(change);
        match change {
            Change::Service(name, None) => {
                self.failed.remove(&Target::Service(name.clone()));
            }
            Change::Pool(name, None) => {
                self.failed.remove(&Target::Pool(Arc::clone(name)));
            }
            _ => {}
        }
    }
}

impl<S: Store> Handle<S> {
    /// Rows for `get services`, ordered by namespace and name.
    pub fn services(&self) -> Vec<ServiceRow> {
        lock(&self.shared).rows.services()
    }

    /// Rows for `get pools`, in the order in which pools are tried.
    pub fn pools(&self) -> Vec<PoolRow> {
        let pools = lock(&self.shared).state.pools();
        let rows = pools.into_iter().map(|view| PoolRow {
            name: view.pool.name.to_string(),
            addresses: view
                .pool
                .blocks
                .iter()
                .map(|block| block.range.to_string())
                .collect(),
            auto_assign: view.pool.auto_assign,
            priority: view.pool.priority,
            forwarding: view.pool.forwarding,
            counts: view.status.counts,
            conditions: condition_rows(&view.status.conditions),
        });
        rows.collect()
    }

    /// Why a Service has what it has; nothing where there is no such Service.
    pub fn explain(&self, name: &ServiceName) -> Option<Vec<Section>> {
        lock(&self.shared).state.explain(name)
    }

    /// The sequence of the last batch from which everything that follows is written.
    pub fn done(&self) -> u64 {
        lock(&self.shared).done
    }

    /// Rows for `get gateways`: those that are processes of their own.
    pub fn gateways(&self) -> Vec<GatewayRow> {
        lock(&self.shared).rows.gateways()
    }

    /// How much the store has told; see [`Store::sequence`].
    pub fn told(&self) -> u64 {
        self.store.sequence()
    }

    /// What is counted, for metrics.
    pub fn counts(&self) -> Counts {
        lock(&self.shared).state.counts()
    }

    /// What is held back now, and why.
    pub fn problems(&self) -> Vec<Problem> {
        self.store.problems()
    }

    /// What is missing until every decision is made and written, a sentence each.
    pub fn missing(&self) -> Vec<String> {
        let shared = lock(&self.shared);
        let mut missing = Vec::new();
        if !shared.state.synced() {
            missing.push("the store has not yet told everything there is".to_owned());
        }
        if shared.writing > 0 {
            missing.push(format!("{} statuses are being written", shared.writing));
        }
        let errors: BTreeSet<_> = shared.failed.values().flatten().collect();
        for error in errors {
            missing.push(format!("a status could not be written: {error}"));
        }
        let again = shared
            .failed
            .values()
            .filter(|error| error.is_none())
            .count();
        if again > 0 {
            missing.push(format!("{again} decisions are being made again"));
        }
        drop(shared);
        missing.extend(self.store.outstanding());
        missing
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_secs().cast_signed()))
}
