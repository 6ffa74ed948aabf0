//! The store: the tasks that begin and end with it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fairway_config::exchange::{Batch, ReportBatch, Write};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::problem::Problem;
use fairway_controller_core::events::Event;
use kube::Client;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::event_recorder::EventRecorder;
use super::lease_turn::LeaseTurn;
use super::object_cache::ObjectCache;
use super::outgoing_reports::OutgoingReports;
use super::ownership::ControllerIdentity;
use super::progress::WatchProgress;
use super::repair_queue::RepairQueue;
use super::reporter::{self, GatewayIdentity};
use super::rights::Rights;
use super::settings::{KubernetesSettings, Reads, key_of};
use super::snapshot::Snapshot;
use super::store_context::StoreContext;
use super::write_queue::WriteQueue;
use super::{fleet_key, fleet_watch, gateway_leases, peer_passwords, watch};
use crate::feed::{Feed, lock};
use crate::own_addresses::{OwnAddress, OwnAddresses};
use crate::store::{Outcomes, Store};

/// How long the API server has to deliver the first lists before a snapshot is used in their place.
const FIRST_LISTS: Duration = Duration::from_secs(2);

/// A store over an API server.
pub struct KubernetesStore {
    shared: Arc<StoreContext>,
    own_addresses: OwnAddresses,
    /// Ends with the store.
    _tasks: JoinSet<()>,
}

impl fmt::Debug for KubernetesStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesStore").finish_non_exhaustive()
    }
}

impl KubernetesStore {
    /// Begins to watch. Needs a Tokio runtime. Where the API server does not answer, it is tried
    /// again for ever, and nothing is synced until it has answered. But where it has not within two
    /// seconds, and there is a complete snapshot, the snapshot is used.
    pub fn open(client: Client, settings: KubernetesSettings, snapshot: Option<Snapshot>) -> Self {
        let controller = ControllerIdentity::new(&settings.namespace, settings.class.clone());
        let reads = settings.reads;
        let write_queue = Arc::new(WriteQueue::default());
        let (event_recorder, telling) = EventRecorder::new(
            client.clone(),
            Arc::clone(&settings.instance),
            Arc::clone(&write_queue),
        );
        let shared = Arc::new(StoreContext {
            client,
            settings,
            feed: Feed::default(),
            cache: Mutex::new(ObjectCache::new(controller, reads == Reads::Controller)),
            progress: Mutex::new(WatchProgress::new(reads)),
            repairs: RepairQueue::default(),
            left_statuses: Mutex::default(),
            other_controllers: Mutex::default(),
            write_queue,
            rights: Rights::default(),
            event_recorder,
            reports: OutgoingReports::default(),
            lease_turn: LeaseTurn::default(),
            bgp_peers_changed: Notify::new(),
            fleet: Mutex::default(),
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
        if reads == Reads::Gateway {
            shared.recall_fleet();
            let watching = Arc::clone(&shared);
            tasks.spawn(async move { fleet_watch::members(&watching).await });
            let watching = Arc::clone(&shared);
            tasks.spawn(async move { fleet_watch::key(&watching).await });
            tasks.spawn(peer_passwords::watch(Arc::clone(&shared)));
        }
        if reads == Reads::Controller {
            let keeping = Arc::clone(&shared);
            tasks.spawn(async move { fleet_key::keep(&keeping).await });
            let writing = Arc::clone(&shared);
            tasks.spawn(async move { writing.run_writer().await });
            let cleaning = Arc::clone(&shared);
            tasks.spawn(async move { cleaning.clean_up().await });
            let looking = Arc::clone(&shared);
            tasks.spawn(async move { looking.look_for_contenders().await });
            let listening = Arc::clone(&shared);
            tasks.spawn(async move {
                gateway_leases::listen(&listening, &listening.settings.namespace).await;
            });
        }
        Self {
            shared,
            own_addresses: OwnAddresses::default(),
            _tasks: tasks,
        }
    }

    /// What its tasks share.
    pub(super) fn shared(&self) -> &Arc<StoreContext> {
        &self.shared
    }

    /// Reports to the cluster how this gateway and its Services are, until `stop`.
    pub fn tell(
        &self,
        identity: GatewayIdentity,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + use<> {
        reporter::keep(Arc::clone(&self.shared), identity, stop)
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

    async fn write(&self, writes: Vec<Write>, since: Option<Instant>) -> Outcomes {
        self.shared.take_writes(writes, since)
    }

    async fn finish(&self) -> bool {
        self.shared.write_queue.finish().await
    }

    fn held_up(&self) -> usize {
        self.shared.write_queue.held_up()
    }

    fn report(&self, _: &ClusterName, said: ReportBatch) {
        self.own_addresses.take(&said.addresses);
        self.shared.reports.take(said);
    }

    fn tell(&self, service: &ServiceName, event: Event) {
        let cache = lock(&self.shared.cache);
        if let Some(record) = cache.service(&key_of(service)) {
            self.shared.event_recorder.tell(record, vec![event]);
        }
    }

    fn own_addresses(&self) -> BTreeMap<IpAddr, OwnAddress> {
        self.own_addresses.all()
    }

    fn sequence(&self) -> u64 {
        self.shared.feed.sequence()
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = lock(&self.shared.cache).problems();
        let mut messages = lock(&self.shared.progress).problems();
        messages.extend(self.shared.write_queue.problems());
        let snapshot = self.shared.snapshot.as_ref();
        messages.extend(snapshot.and_then(|snapshot| lock(snapshot).problem()));
        problems.extend(
            messages
                .into_iter()
                .map(|message| Problem::of_file("", message)),
        );
        problems
    }

    fn outstanding(&self) -> Vec<String> {
        lock(&self.shared.progress).outstanding()
    }
}
