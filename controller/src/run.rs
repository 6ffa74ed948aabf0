//! The controller's loop over any store, and what people can ask it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use fairway_config::exchange::{Batch, Change, Write};
use fairway_config::names::ServiceName;
use fairway_config::problem::Problem;
use fairway_config::time::Timestamp;
use fairway_config::view::{
    AddressRow, BgpPeerRow, GatewayRow, OwnerRow, PoolRow, Section, ServiceRow,
};
use fairway_controller_core::{Counts, Settings, State};
use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::feed::lock;
use crate::own_addresses::OwnAddress;
use crate::retries::{Retries, RetryCause};
use crate::rows::{Rows, condition_rows};
use crate::store::{Store, WriteKey, WriteOutcome};

/// Gauge: objects that can't be written for a cause that concerns each of them alone: the store
/// rejects what was decided, or does not answer.
const REJECTED: &str = "fairway_rejected_writes";

/// How long the log does not repeat that decisions could not be written: what fails for one Service
/// fails for thousands.
const QUIET: std::time::Duration = std::time::Duration::from_secs(5);

/// Decides what Services get, and writes it to the store.
pub struct Controller<S> {
    store: Arc<S>,
    shared: Arc<Mutex<ControllerState>>,
    batches: mpsc::Receiver<Batch>,
    /// The outcomes of the writes that are on their way, with the round that each belongs to.
    outcomes: SelectAll<BoxStream<'static, (u64, WriteKey, WriteOutcome)>>,
    rounds: BTreeMap<u64, Round>,
    next_round: u64,
    /// When the oldest change was made on which a decision is not written yet.
    unwritten: Option<std::time::Instant>,
    /// When the log last said that a decision could not be written.
    warned: Option<Instant>,
}

/// Writes that were decided on together.
struct Round {
    began: Instant,
    /// When the oldest change was made that was decided on.
    since: Option<std::time::Instant>,
    /// How many of them have no outcome yet.
    left: usize,
}

/// The state of a controller, for the admin address. Cheap to clone.
pub struct Handle<S> {
    store: Arc<S>,
    shared: Arc<Mutex<ControllerState>>,
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            shared: Arc::clone(&self.shared),
        }
    }
}

struct ControllerState {
    state: State,
    rows: Rows,
    /// Writes that the store has and that have no outcome yet.
    writing: usize,
    /// The sequence of the last batch that was worked in, and whose writes the store has.
    done: u64,
    /// Failed writes.
    retries: Retries,
}

impl<S: Store> Controller<S> {
    /// A controller that has not been sent anything yet. Needs a Tokio runtime, as
    /// [`Store::subscribe`] does.
    pub fn new(store: Arc<S>, settings: Settings) -> (Self, Handle<S>) {
        let shared = Arc::new(Mutex::new(ControllerState {
            state: State::new(settings),
            rows: Rows::default(),
            writing: 0,
            done: 0,
            retries: Retries::default(),
        }));
        let handle = Handle {
            store: Arc::clone(&store),
            shared: Arc::clone(&shared),
        };
        let controller = Self {
            batches: store.subscribe(),
            store,
            shared,
            outcomes: SelectAll::new(),
            rounds: BTreeMap::new(),
            next_round: 0,
            unwritten: None,
            warned: None,
        };
        (controller, handle)
    }

    /// Runs until it is told to stop, or the store closes. It waits a moment for the writes that
    /// are on their way. True: all of them have ended.
    pub async fn run(mut self, stop: CancellationToken) -> bool {
        while self.step(&stop).await {}
        self.store.finish().await
    }

    /// Waits for the next event and handles it. False: there will be none any more.
    async fn step(&mut self, stop: &CancellationToken) -> bool {
        let (retry_at, has_more, due) = {
            let shared = lock(&self.shared);
            let state = &shared.state;
            (shared.retries.next(), state.has_more(), state.due())
        };
        let due = async {
            match due {
                Some(due) => tokio::time::sleep(until(due)).await,
                None => std::future::pending().await,
            }
        };
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            Some((round, key, outcome)) = self.outcomes.next(), if !self.outcomes.is_empty() => {
                self.note(round, key, outcome);
            }
            batch = self.batches.recv() => {
                let Some(batch) = batch else { return false };
                let began = Instant::now();
                let writes = self.take(&batch);
                self.write(writes, batch.since, began).await;
                lock(&self.shared).done = batch.sequence;
            }
            () = retry => {
                let began = Instant::now();
                let writes = self.plan_again();
                let since = self.unwritten.take();
                self.write(writes, since, began).await;
            }
            () = due => {
                let began = Instant::now();
                let writes = self.plan_more();
                self.write(writes, None, began).await;
            }
            // What the last settling left for later, when nothing else is to be done.
            () = std::future::ready(()), if has_more => {
                let began = Instant::now();
                let writes = self.plan_more();
                self.write(writes, None, began).await;
            }
        }
        let events = lock(&self.shared).state.take_events();
        for (service, event) in events {
            self.store.tell(&service, event);
        }
        true
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
        let due = shared.retries.take_due(Instant::now());
        for key in &due {
            match key {
                WriteKey::Service(name) => shared.state.refused(name),
                WriteKey::NodePorts(name) => shared.state.refused_node_ports(name),
                WriteKey::Pool(name) => shared.state.refused_pool(name),
                WriteKey::BgpPeer(name) => shared.state.refused_bgp_peer(name),
            }
        }
        let writes = shared.state.settle(now());
        let written: Vec<_> = writes.iter().map(WriteKey::of).collect();
        shared.retries.tried(&due, &written);
        writes
    }

    /// Gives these writes to the store, without waiting for their outcome.
    async fn write(
        &mut self,
        writes: Vec<Write>,
        since: Option<std::time::Instant>,
        began: Instant,
    ) {
        if writes.is_empty() {
            observe(began);
            return;
        }
        let left = writes.len();
        lock(&self.shared).writing += left;
        let round = self.next_round;
        self.next_round += 1;
        let outcomes = self.store.write(writes, since).await;
        self.rounds.insert(round, Round { began, since, left });
        let outcomes = outcomes.map(move |(key, outcome)| (round, key, outcome));
        self.outcomes.push(outcomes.boxed());
    }

    fn note(&mut self, round: u64, key: WriteKey, outcome: WriteOutcome) {
        let mut shared = lock(&self.shared);
        shared.writing -= 1;
        let mut again = false;
        match &outcome {
            WriteOutcome::Written | WriteOutcome::Superseded => {}
            WriteOutcome::Refused => again = true,
            WriteOutcome::HeldUp(_) => count_error(),
            WriteOutcome::Rejected(error) | WriteOutcome::Taken(error) => {
                count_error();
                if let WriteKey::NodePorts(name) = &key {
                    let blames_number = matches!(outcome, WriteOutcome::Taken(_));
                    let state = &mut shared.state;
                    state.rejected_node_ports(name, error, blames_number);
                }
            }
            WriteOutcome::Failed(error) => {
                count_error();
                again = true;
                if self.warned.is_none_or(|at| at.elapsed() >= QUIET) {
                    self.warned = Some(Instant::now());
                    tracing::warn!(
                        object = key.object(),
                        error,
                        "decisions could not be written"
                    );
                }
            }
        }
        shared.retries.note(key, outcome, Instant::now());
        let of_one = u32::try_from(shared.retries.of_one()).unwrap_or(u32::MAX);
        metrics::gauge!(REJECTED).set(of_one);
        drop(shared);
        if let Some(it) = self.rounds.get_mut(&round) {
            it.left -= 1;
            if again {
                self.unwritten = self.unwritten.into_iter().chain(it.since).min();
            }
            if it.left == 0 {
                observe(it.began);
                self.rounds.remove(&round);
            }
        }
    }
}

/// How long it is until then, and a little longer.
fn until(due: Timestamp) -> std::time::Duration {
    let due = UNIX_EPOCH + std::time::Duration::from_secs(due.0.try_into().unwrap_or_default());
    let left = due.duration_since(SystemTime::now()).unwrap_or_default();
    left + std::time::Duration::from_millis(10)
}

fn observe(began: Instant) {
    metrics::histogram!("fairway_sync_duration_seconds", "component" => "controller")
        .record(began.elapsed().as_secs_f64());
}

impl<S> Drop for Controller<S> {
    /// A controller that has stopped has no rejected writes.
    fn drop(&mut self) {
        metrics::gauge!(REJECTED).set(0);
    }
}

impl ControllerState {
    fn note(&mut self, change: &Change) {
        self.rows.note(change);
        match change {
            Change::Service(name, service) => {
                self.note_object(&WriteKey::Service(name.clone()), service.is_some());
                if service.is_none() {
                    self.retries.remove(&WriteKey::NodePorts(name.clone()));
                }
            }
            Change::Pool(name, pool) => {
                self.note_object(&WriteKey::Pool(Arc::clone(name)), pool.is_some());
            }
            Change::BgpPeer(name, peer) => {
                self.note_object(&WriteKey::BgpPeer(Arc::clone(name)), peer.is_some());
            }
            _ => {}
        }
    }

    fn note_object(&mut self, key: &WriteKey, is_there: bool) {
        if is_there {
            self.retries.changed(key, Instant::now());
        } else {
            self.retries.remove(key);
        }
    }
}

impl<S: Store> Handle<S> {
    /// Rows for `get services`, ordered by namespace and name.
    pub fn services(&self) -> Vec<ServiceRow> {
        let shared = lock(&self.shared);
        let rows = shared.rows.services().map(|(name, row)| {
            let traffic = shared.state.traffic(name);
            let owners = shared.state.owners(name).into_iter();
            let owners = owners.map(|it| OwnerRow {
                address: it.address,
                owner: it.owner.map(|owner| owner.to_string()),
            });
            ServiceRow {
                owners: owners.collect(),
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

    /// Why a Service has its address and its node ports. Nothing where there is no such Service.
    pub fn explain(&self, name: &ServiceName) -> Option<Vec<Section>> {
        lock(&self.shared).state.explain(name)
    }

    /// The sequence of the last batch that was worked in, with everything that followed from it
    /// written.
    pub fn done(&self) -> u64 {
        lock(&self.shared).done
    }

    /// Rows for `get gateways`: those that are processes of their own.
    pub fn gateways(&self) -> Vec<GatewayRow> {
        lock(&self.shared).rows.gateways()
    }

    /// Rows for `get peers`, of gateways that are processes of their own.
    pub fn peers(&self) -> Vec<BgpPeerRow> {
        lock(&self.shared).rows.peers()
    }

    /// Rows for `get addresses`: what gateways say of external addresses, but for what a dead one may have said.
    pub fn addresses(&self) -> Vec<AddressRow> {
        let shared = lock(&self.shared);
        let mut rows = shared.rows.addresses();
        rows.retain(|row| !shared.state.is_overtaken(row.address, &row.gateway));
        rows
    }

    /// What the gateway of this process says of them.
    pub fn own_addresses(&self) -> BTreeMap<IpAddr, OwnAddress> {
        self.store.own_addresses()
    }

    /// How much the store has told; see [`Store::sequence`].
    pub fn told(&self) -> u64 {
        self.store.sequence()
    }

    /// What is counted, for metrics.
    pub fn counts(&self) -> Counts {
        lock(&self.shared).state.counts()
    }

    /// The problems there are: objects that are held back, and writes that the store rejects.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.store.problems();
        let shared = lock(&self.shared);
        for (key, cause) in shared.retries.iter() {
            let message = match cause {
                RetryCause::Rejected(error) => {
                    format!("what was decided is not taken, and is tried again: {error}")
                }
                RetryCause::HeldUp(error) => {
                    format!("what was decided is not written yet, and is tried again: {error}")
                }
                RetryCause::Conflict | RetryCause::Failed(_) => continue,
            };
            problems.push(Problem {
                object: key.object(),
                ..Problem::of_file("", message)
            });
        }
        problems
    }

    /// What is missing until every decision is made and written, a sentence each.
    pub fn missing(&self) -> Vec<String> {
        let shared = lock(&self.shared);
        let mut missing = Vec::new();
        if !shared.state.synced() {
            missing.push("the store has not yet told everything there is".to_owned());
        }
        // Writes that are not answered while others are count as problems, below.
        let writing = shared.writing.saturating_sub(self.store.held_up());
        if writing > 0 {
            missing.push(format!("{writing} statuses are being written"));
        }
        let probing = shared.state.probing();
        if probing > 0 {
            missing.push(format!(
                "gateways ask whether another host uses {probing} addresses that are about to be given out"
            ));
        }
        let (mut errors, mut again) = (BTreeSet::new(), 0);
        for (_, cause) in shared.retries.iter() {
            match cause {
                RetryCause::Conflict => again += 1,
                RetryCause::Failed(error) => {
                    errors.insert(error);
                }
                // The state of one object, shown among the problems.
                RetryCause::Rejected(_) | RetryCause::HeldUp(_) => {}
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
