//! The controller's loop over any store, and what it has to say to people.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use fairway_config::exchange::{Batch, Change, Write};
use fairway_config::names::ServiceName;
use fairway_config::problem::Problem;
use fairway_config::time::Timestamp;
use fairway_config::view::{GatewayRow, PoolRow, Section, ServiceRow};
use fairway_controller_core::{Counts, Settings, State};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::feed::lock;
use crate::missed::{Missed, Target, Why};
use crate::rows::{Rows, condition_rows};
use crate::store::{Store, WriteOutcome};

/// Gauge: objects of which the store does not take what was decided.
const REJECTED: &str = "fairway_rejected_writes";

/// Decides and writes, for as long as it is run.
pub struct Controller<S> {
    store: Arc<S>,
    shared: Arc<Mutex<Shared>>,
    batches: mpsc::Receiver<Batch>,
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
    /// Objects whose write didn't come about.
    missed: Missed,
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
            missed: Missed::default(),
        }));
        let handle = Handle {
            store: Arc::clone(&store),
            shared: Arc::clone(&shared),
        };
        let controller = Self {
            batches: store.subscribe(),
            store,
            shared,
            unwritten: None,
        };
        (controller, handle)
    }

    /// Runs until it is told to stop, or the store closes. Writes that are on their way are waited
    /// for.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let (retry_at, has_more) = {
                let shared = lock(&self.shared);
                (shared.missed.next(), shared.state.has_more())
            };
            let retry = async {
                match retry_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let began = Instant::now();
            let (writes, taken, since) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                batch = self.batches.recv() => {
                    let Some(batch) = batch else { return };
                    (self.take(&batch), Some(batch.sequence), batch.since)
                }
                () = retry => (self.plan_again(), None, self.unwritten.take()),
                // What was left for later, when nothing else is to be done.
                () = std::future::ready(()), if has_more => (self.plan_more(), None, None),
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

    fn plan_more(&self) -> Vec<Write> {
        lock(&self.shared).state.settle(now())
    }

    fn plan_again(&self) -> Vec<Write> {
        let mut shared = lock(&self.shared);
        let shared = &mut *shared;
        for target in shared.missed.take_due(Instant::now()) {
            match target {
                Target::Service(name) => shared.state.refused(&name),
                Target::NodePorts(name) => shared.state.refused_node_ports(&name),
                Target::Pool(name) => shared.state.refused_pool(&name),
            }
        }
        shared.state.settle(now())
    }

    async fn write(&mut self, writes: Vec<Write>, since: Option<std::time::Instant>) {
        let targets: Vec<_> = writes.iter().map(Target::of).collect();
        let mut outcomes = Vec::new();
        if !writes.is_empty() {
            lock(&self.shared).writing = writes.len();
            outcomes = self.store.write(writes, since).await;
        }
        let mut shared = lock(&self.shared);
        shared.writing = 0;
        let now = Instant::now();
        let (mut again, mut failed) = (false, None);
        for (target, outcome) in targets.into_iter().zip(outcomes) {
            match &outcome {
                WriteOutcome::Written => {}
                WriteOutcome::Refused => again = true,
                WriteOutcome::Rejected(error) | WriteOutcome::Taken(error) => {
                    count_error();
                    if let Target::NodePorts(name) = &target {
                        let blames_number = matches!(outcome, WriteOutcome::Taken(_));
                        let state = &mut shared.state;
                        state.rejected_node_ports(name, error, blames_number);
                    }
                }
                WriteOutcome::Failed(error) => {
                    count_error();
                    again = true;
                    failed = Some(error.clone());
                }
            }
            shared.missed.note(target, outcome, now);
        }
        shared.missed.tried();
        if again {
            self.unwritten = self.unwritten.into_iter().chain(since).min();
        }
        let rejected = u32::try_from(shared.missed.rejected()).unwrap_or(u32::MAX);
        metrics::gauge!(REJECTED).set(rejected);
        if let Some(error) = failed {
            tracing::warn!(error, "some decisions could not be written");
        }
    }
}

impl<S> Drop for Controller<S> {
    /// Who decides no longer has nothing that is not taken.
    fn drop(&mut self) {
        metrics::gauge!(REJECTED).set(0);
    }
}

impl Shared {
    fn note(&mut self, change: &Change) {
        self.rows.note(change);
        match change {
            Change::Service(name, service) => {
                self.note_object(&Target::Service(name.clone()), service.is_some());
                if service.is_none() {
                    self.missed.remove(&Target::NodePorts(name.clone()));
                }
            }
            Change::Pool(name, pool) => {
                self.note_object(&Target::Pool(Arc::clone(name)), pool.is_some());
            }
            _ => {}
        }
    }

    fn note_object(&mut self, target: &Target, is_there: bool) {
        if is_there {
            self.missed.changed(target, Instant::now());
        } else {
            self.missed.remove(target);
        }
    }
}

impl<S: Store> Handle<S> {
    /// Rows for `get services`, ordered by namespace and name.
    pub fn services(&self) -> Vec<ServiceRow> {
        let shared = lock(&self.shared);
        let rows = shared.rows.services().map(|(name, row)| {
            let traffic = shared.state.traffic(name);
            ServiceRow {
                endpoints: traffic.and_then(|it| it.endpoints),
                serving: traffic.map(|it| it.serving),
                gateways: traffic.map(|it| it.gateways),
                ..row
            }
        });
        rows.collect()
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

    /// What is held back or not taken by the store now, and why.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.store.problems();
        let shared = lock(&self.shared);
        let rejected = shared.missed.iter().filter_map(|(target, why)| match why {
            Why::Rejected(error) => Some((target, error)),
            Why::Refused | Why::Failed(_) => None,
        });
        problems.extend(rejected.map(|(target, error)| Problem {
            object: target.object(),
            ..Problem::of_file(
                "",
                format!("what was decided is not taken, and is tried again: {error}"),
            )
        }));
        problems
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
        let (mut errors, mut again) = (BTreeSet::new(), 0);
        for (_, why) in shared.missed.iter() {
            match why {
                Why::Refused => again += 1,
                Why::Failed(error) => {
                    errors.insert(error);
                }
                // The state of one object, shown among the problems.
                Why::Rejected(_) => {}
            }
        }
        for error in errors {
            missing.push(format!("a status could not be written: {error}"));
        }
        if again > 0 {
            missing.push(format!("{again} decisions are being made again"));
        }
        drop(shared);
        missing.extend(self.store.outstanding());
        missing
    }
}

fn count_error() {
    metrics::counter!("fairway_store_errors_total", "operation" => "status").increment(1);
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_secs().cast_signed()))
}
