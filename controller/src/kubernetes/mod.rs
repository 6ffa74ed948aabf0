//! A store over an API server: watches in, patches out.
//!
//! Reading order:
//! 1. `document` is an object as it is sent, `watch` hears of those of one kind;
//! 2. `known` knows the latest of each and what subscribers hear of it, `status` reads and makes
//!    the status of a Service;
//! 3. `write` says which requests make a decision last; this file sends them; `teller` tells
//!    people of them;
//! 4. `gateways` and `reporter`: what gateways say;
//! 5. `snapshot`: what is known, on disk;
//! 6. `election` and `lease`: who may write.
//!
//! Invariants:
//! - Nothing is synced before every kind has been listed once.
//! - Every write names the version of the object that it was made from: a race is lost and never
//!   won by accident.
//! - A Service of another provider is never written to.

mod connect;
mod document;
mod election;
mod gateways;
mod known;
mod lease;
mod reporter;
mod snapshot;
mod status;
mod teller;
mod watch;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fairway_config::exchange::{Batch, Change, Held, PoolStatus, Report, Status, Write};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::object::{Kind, ObjectKey};
use fairway_config::problem::Problem;
use fairway_config::time::Timestamp;
use fairway_controller_core::events;
use futures::StreamExt as _;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::connect::{ConnectError, connect};
use self::document::{Document, resource};
use self::known::{Class, Known, Record};
pub use self::lease::{Elector, Term};
pub use self::reporter::Identity;
use self::reporter::Reports;
pub use self::snapshot::Snapshot;
use self::teller::Teller;
use self::watch::Seen;
use self::write::Step;
use crate::feed::{Feed, lock};
use crate::store::{Store, WriteOutcome};
pub use kube::Client as Connection;

/// After so long without a word a connection counts as dead, in seconds. The API server ends a
/// watch after this time by itself, and the next one goes on where it ended.
const WATCH_SECONDS: u32 = 60;

/// How long the API server has to deliver the first lists before a snapshot stands in for it.
const FIRST_LISTS: Duration = Duration::from_secs(2);

/// Requests on their way at a time.
const CONCURRENT: usize = 32;

/// How long a request may take. Shorter than what a leader has left of its lease when it may still
/// write, so that no request of a former leader is on its way when the next one begins.
const REQUEST: Duration = Duration::from_secs(4);

/// How long a finalizer may be all that is left of a Service, or all that is missing, before it is
/// put right: the write that leaves it so usually goes on to do that itself.
const STRAY: Duration = Duration::from_secs(2);

/// How a [`KubernetesStore`] is set up.
#[derive(Clone, Debug)]
pub struct KubernetesSettings {
    /// `spec.loadBalancerClass` of the Services that are ours.
    pub class: Arc<str>,
    /// Whether those without a class are ours, too.
    pub default_class: bool,
    /// What is read.
    pub reads: Reads,
    /// Whether this process leads, without which nothing is written.
    pub term: Term,
    /// Fairway's own namespace, in which gateways have their Leases.
    pub namespace: String,
    /// This process' own name, in Events.
    pub instance: Arc<str>,
}

/// What is read from the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// What a controller decides on: Services, AddressPools, and the labels of Namespaces.
    Controller,
    /// What a gateway serves: Services, EndpointSlices, Nodes and AddressPools.
    Gateway,
}

impl Reads {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Controller => &[Kind::Namespace, Kind::AddressPool, Kind::Service],
            Self::Gateway => &[
                Kind::Node,
                Kind::AddressPool,
                Kind::Service,
                Kind::EndpointSlice,
            ],
        }
    }
}

/// A store over an API server.
pub struct KubernetesStore {
    shared: Arc<Shared>,
    /// Ends with the store.
    _tasks: JoinSet<()>,
}

impl fmt::Debug for KubernetesStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesStore").finish_non_exhaustive()
    }
}

/// What the tasks of a store work on.
struct Shared {
    client: Client,
    settings: KubernetesSettings,
    feed: Feed,
    /// Held while what came out of it is published, so that it is told in the order in which it
    /// was taken in.
    known: Mutex<Known>,
    progress: Mutex<Progress>,
    strays: Mutex<VecDeque<(Instant, ObjectKey)>>,
    stray: Notify,
    teller: Teller,
    reports: Arc<Reports>,
    /// Taken while `known` is held, so that it is written down in the order in which it was heard.
    snapshot: Option<Mutex<Snapshot>>,
}

/// How the watches are.
#[derive(Default)]
struct Progress {
    listed: BTreeSet<Kind>,
    /// Kinds that can't be watched just now, and why.
    failing: BTreeMap<Kind, String>,
    /// The Leases of gateways, likewise.
    gateways_listed: bool,
    gateways_failing: Option<String>,
    /// When that was written down which stands in for what has not been listed.
    stands_in: Option<Timestamp>,
}

impl KubernetesStore {
    /// Begins to watch. Needs a Tokio runtime. An API server that does not answer is tried again
    /// for ever; until it has, nothing is synced. But where it has not within two seconds and there is
    /// a snapshot of everything that is read, that stands in.
    pub fn open(client: Client, settings: KubernetesSettings, snapshot: Option<Snapshot>) -> Self {
        let class = Class {
            name: Arc::clone(&settings.class),
            is_default: settings.default_class,
        };
        let reads = settings.reads;
        let (teller, telling) = Teller::new(client.clone(), Arc::clone(&settings.instance));
        let shared = Arc::new(Shared {
            client,
            settings,
            feed: Feed::default(),
            known: Mutex::new(Known::new(class, reads == Reads::Controller)),
            progress: Mutex::default(),
            strays: Mutex::default(),
            stray: Notify::new(),
            teller,
            reports: Arc::default(),
            snapshot: snapshot.map(Mutex::new),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(telling);
        for kind in reads.kinds() {
            let shared = Arc::clone(&shared);
            tasks.spawn(async move { watch::run(&shared, *kind).await });
        }
        if shared.snapshot.is_some() {
            let waiting = Arc::clone(&shared);
            tasks.spawn(async move {
                tokio::time::sleep(FIRST_LISTS).await;
                // Parses a large file.
                let _ = tokio::task::spawn_blocking(move || waiting.stand_in()).await;
            });
        }
        if reads == Reads::Controller {
            let cleaning = Arc::clone(&shared);
            tasks.spawn(async move { cleaning.clean_up().await });
            let listening = Arc::clone(&shared);
            tasks.spawn(async move {
                reporter::listen(&listening, &listening.settings.namespace).await;
            });
        }
        Self {
            shared,
            _tasks: tasks,
        }
    }
}

impl KubernetesStore {
    /// Tells the cluster how this gateway is and what it reports, until `stop`.
    pub fn tell(
        &self,
        identity: Identity,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        let (client, reports) = (self.shared.client.clone(), Arc::clone(&self.shared.reports));
        reporter::keep(client, reports, identity, stop)
    }
}

impl Drop for KubernetesStore {
    fn drop(&mut self) {
        self.shared.feed.close();
    }
}

impl Store for KubernetesStore {
    fn subscribe(&self) -> mpsc::Receiver<Batch> {
        self.shared.feed.subscribe()
    }

    async fn write(&self, writes: Vec<Write>, since: Option<Instant>) -> Vec<WriteOutcome> {
        let shared = &self.shared;
        futures::stream::iter(writes)
            .map(|write| async move {
                match write {
                    Write::Service {
                        name,
                        version,
                        held,
                        status,
                    } => {
                        shared
                            .write_service(name, version, held, status, since)
                            .await
                    }
                    Write::Pool { name, status } => shared.write_pool(name, status).await,
                }
            })
            .buffered(CONCURRENT)
            .collect()
            .await
    }

    fn report(&self, _: &ClusterName, reports: Vec<(ServiceName, Option<Report>)>) {
        self.shared.reports.take(reports);
    }

    fn sequence(&self) -> u64 {
        self.shared.feed.sequence()
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = lock(&self.shared.known).problems();
        let progress = lock(&self.shared.progress);
        let failing = progress.failing.values().chain(&progress.gateways_failing);
        let mut messages: Vec<String> = failing.cloned().collect();
        messages.extend(progress.stands_in.map(|written| {
            format!(
                "the API server has not been heard yet: {} are as they were written down until \
                 {written}",
                self.shared.unlisted(&progress).join(", ")
            )
        }));
        drop(progress);
        let snapshot = self.shared.snapshot.as_ref();
        messages.extend(snapshot.and_then(|snapshot| lock(snapshot).problem()));
        problems.extend(messages.into_iter().map(|message| Problem {
            file: "".into(),
            document: 0,
            object: String::new(),
            field: String::new(),
            message,
        }));
        problems
    }

    fn outstanding(&self) -> Vec<String> {
        let progress = lock(&self.shared.progress);
        if progress.stands_in.is_some() {
            return Vec::new();
        }
        let reads = self.shared.settings.reads;
        let kinds = reads.kinds().iter();
        let mut outstanding: Vec<String> = kinds
            .filter(|kind| !progress.listed.contains(kind))
            .map(|kind| match progress.failing.get(kind) {
                Some(why) => why.clone(),
                None => format!("{} are being listed", resource(*kind).plural),
            })
            .collect();
        if reads == Reads::Controller && !progress.gateways_listed {
            let listing = || "the gateways' leases are being listed".to_owned();
            outstanding.push(progress.gateways_failing.clone().unwrap_or_else(listing));
        }
        outstanding
    }
}

impl Shared {
    /// Tells what is no object of the API server.
    fn publish(&self, changes: Vec<Change>) {
        let _known = lock(&self.known);
        self.feed.publish(changes, false, None);
    }

    fn heard_gateways(&self) {
        let mut progress = lock(&self.progress);
        progress.gateways_failing = None;
        progress.gateways_listed = true;
        drop(progress);
        let _known = lock(&self.known);
        self.feed.publish(Vec::new(), self.is_listed(), None);
    }

    fn fails_gateways(&self, why: String) {
        metrics::counter!("fairway_store_errors_total", "operation" => "watch").increment(1);
        let mut progress = lock(&self.progress);
        if progress.gateways_failing.as_ref() != Some(&why) {
            tracing::warn!(why, "gateways can't be heard; what is known stays in force");
            progress.gateways_failing = Some(why);
        }
    }

    /// Whether everything has been listed once.
    fn is_listed(&self) -> bool {
        let reads = self.settings.reads;
        let progress = lock(&self.progress);
        progress.listed.len() == reads.kinds().len()
            && (progress.gateways_listed || reads == Reads::Gateway)
    }

    /// A watch saw this.
    fn see(&self, kind: Kind, seen: Seen) {
        let mut known = lock(&self.known);
        let mut synced = self.feed.is_synced();
        let changes = match seen {
            Seen::Begins => {
                known.begin(kind);
                Vec::new()
            }
            Seen::There(document) => {
                let change = known.put(kind, &document, now());
                // What can't be read, or is older, leaves there what was.
                if change.is_some() {
                    self.write_down(|snapshot| snapshot.put(kind, &document));
                }
                change.into_iter().collect()
            }
            Seen::Gone(document) => {
                self.write_down(|snapshot| snapshot.remove(kind, &document));
                known.remove(&document).into_iter().collect()
            }
            Seen::Ends => {
                let changes = known.end(kind);
                self.write_down(|snapshot| snapshot.listed(kind, |key| known.is_there(key)));
                lock(&self.progress).listed.insert(kind);
                synced = self.is_listed();
                if synced && lock(&self.progress).stands_in.take().is_some() {
                    tracing::info!("the API server is heard again: the snapshot has done its part");
                }
                changes
            }
        };
        // A first list is no change: nobody waits for what it shows.
        let since = self.feed.is_synced().then(Instant::now);
        if self.settings.reads == Reads::Controller {
            for change in &changes {
                self.note_stray(&known, change);
            }
        }
        self.feed.publish(changes, synced, since);
    }

    fn write_down(&self, act: impl FnOnce(&mut Snapshot)) {
        if let Some(snapshot) = &self.snapshot {
            act(&mut lock(snapshot));
        }
    }

    /// What has not been listed yet, as the API server calls it.
    fn unlisted(&self, progress: &Progress) -> Vec<String> {
        let kinds = self.settings.reads.kinds().iter();
        kinds
            .filter(|kind| !progress.listed.contains(kind))
            .map(|kind| resource(*kind).plural)
            .collect()
    }

    /// What was written down stands in for what the API server has not said yet.
    fn stand_in(&self) {
        let recalled = self.snapshot.as_ref().and_then(|it| lock(it).recall());
        let Some(recalled) = recalled.filter(|it| it.is_complete(self.settings.reads.kinds()))
        else {
            return;
        };
        if self.is_listed() {
            return;
        }
        let written = recalled.written;
        for (kind, document) in recalled.documents() {
            let mut known = lock(&self.known);
            // A list that has ended meanwhile knows better.
            if !lock(&self.progress).listed.contains(&kind) {
                let change = known.recall(&document, now());
                self.feed.publish(change.into_iter().collect(), false, None);
            }
        }
        let _known = lock(&self.known);
        if self.is_listed() {
            return;
        }
        lock(&self.progress).stands_in = Some(written);
        self.feed.publish(Vec::new(), true, None);
        tracing::warn!(
            %written,
            "the API server has not been heard: a snapshot of what was known stands in for it"
        );
    }

    fn note_stray(&self, known: &Known, change: &Change) {
        let Change::Service(name, Some(_)) = change else {
            return;
        };
        let key = key_of(name);
        if known.is_stray(&key) {
            lock(&self.strays).push_back((Instant::now() + STRAY, key));
            self.stray.notify_one();
        }
    }

    fn works(&self, kind: Kind) {
        let mended = lock(&self.progress).failing.remove(&kind);
        if mended.is_some() {
            tracing::info!(%kind, "watched again");
        }
    }

    fn fails(&self, kind: Kind, why: String) {
        metrics::counter!("fairway_store_errors_total", "operation" => "watch").increment(1);
        let mut progress = lock(&self.progress);
        if progress.failing.get(&kind) != Some(&why) {
            tracing::warn!(%kind, why, "can't be watched; what is known stays in force");
            progress.failing.insert(kind, why);
        }
    }

    async fn write_service(
        &self,
        name: ServiceName,
        version: u64,
        held: Held,
        status: Status,
        since: Option<Instant>,
    ) -> WriteOutcome {
        let key = key_of(&name);
        let record = lock(&self.known).service(&key).cloned();
        let Some(record) = record.filter(|record| record.stored.version == version) else {
            return WriteOutcome::Refused;
        };
        let steps = write::steps(&record, &held.addresses, &status);
        let outcome = self.go(&key, &record, &held.addresses, steps, since).await;
        if outcome == WriteOutcome::Written {
            let wanted = record.wants_finalizer();
            let events = events::events(&record.stored.status, &status, wanted);
            self.teller.tell(&record, events);
        }
        outcome
    }

    /// Takes steps, one after the other.
    async fn go(
        &self,
        key: &ObjectKey,
        record: &Record,
        addresses: &[std::net::IpAddr],
        steps: Vec<Step>,
        since: Option<Instant>,
    ) -> WriteOutcome {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        let services: Api<Document> =
            Api::namespaced_with(self.client.clone(), namespace, &resource(Kind::Service));
        let mut resource_version = record.resource_version.to_string();
        for step in steps {
            if !self.settings.term.holds() {
                return WriteOutcome::Failed("another controller leads".to_owned());
            }
            let (patch, is_status) = step.patch(&resource_version, &record.foreign);
            let (patch, parameters) = (Patch::Merge(patch), PatchParams::default());
            let answer = tokio::time::timeout(REQUEST, async {
                if is_status {
                    services.patch_status(&key.name, &parameters, &patch).await
                } else {
                    services.patch(&key.name, &parameters, &patch).await
                }
            });
            let document = match outcome(answer.await) {
                Ok(document) => document,
                Err(outcome) => return outcome,
            };
            resource_version = document.resource_version().to_owned();
            let document = document.into_value(Kind::Service);
            let mut known = lock(&self.known);
            let change = known.wrote(key, &record.uid, addresses.to_vec(), &document, now());
            self.feed
                .publish(change.into_iter().collect(), false, since);
        }
        WriteOutcome::Written
    }

    async fn write_pool(&self, name: ClusterName, status: PoolStatus) -> WriteOutcome {
        if !self.settings.term.holds() {
            return WriteOutcome::Failed("another controller leads".to_owned());
        }
        let pools: Api<Document> = Api::all_with(self.client.clone(), &resource(Kind::AddressPool));
        let patch = Patch::Merge(status::pool_patch(&status));
        let parameters = PatchParams::default();
        let answer = tokio::time::timeout(REQUEST, pools.patch_status(&name, &parameters, &patch));
        match outcome(answer.await) {
            Ok(_) => WriteOutcome::Written,
            Err(outcome) => outcome,
        }
    }

    /// Takes finalizers away that were left behind.
    async fn clean_up(&self) {
        loop {
            let next = lock(&self.strays).front().cloned();
            let Some((at, key)) = next else {
                self.stray.notified().await;
                continue;
            };
            tokio::time::sleep_until(at.into()).await;
            lock(&self.strays).pop_front();
            let record = {
                let known = lock(&self.known);
                known
                    .service(&key)
                    .filter(|_| known.is_stray(&key))
                    .cloned()
            };
            let Some(record) = record else { continue };
            let addresses = match record.wants_finalizer() {
                true => record.stored.held.addresses.clone(),
                false => Vec::new(),
            };
            let steps = write::steps(&record, &addresses, &record.stored.status);
            let outcome = self.go(&key, &record, &addresses, steps, None).await;
            if let WriteOutcome::Failed(error) = outcome {
                tracing::warn!(service = %key, error, "its finalizer can't be put right");
                lock(&self.strays).push_back((Instant::now() + STRAY, key));
            }
        }
    }
}

/// What became of a request.
fn outcome<T>(
    answer: Result<kube::Result<T>, tokio::time::error::Elapsed>,
) -> Result<T, WriteOutcome> {
    match answer {
        Ok(Ok(answer)) => Ok(answer),
        // Changed or gone meanwhile: what the watch shows decides.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
            Err(WriteOutcome::Refused)
        }
        Ok(Err(error)) => Err(WriteOutcome::Failed(error.to_string())),
        Err(_) => Err(WriteOutcome::Failed(format!(
            "the API server did not answer within {} s",
            REQUEST.as_secs()
        ))),
    }
}

fn key_of(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: Kind::Service,
        namespace: Some(Arc::clone(&name.namespace)),
        name: Arc::clone(&name.name),
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_secs().cast_signed()))
}
