//! Hands out the latest state of every object to any number of subscribers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use fairway_config::exchange::{Batch, Change};
use fairway_config::names::{ClusterName, NamespacedName, ServiceName};
use tokio::sync::{Notify, mpsc};

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Namespace(ClusterName),
    Node(ClusterName),
    PoolStatus(ClusterName),
    Pool(ClusterName),
    PeerPassword(NamespacedName),
    Probing(ClusterName),
    BgpPeerStatus(ClusterName),
    BgpPeer(ClusterName),
    Secret(NamespacedName),
    EndpointSlice(NamespacedName, bool),
    Service(ServiceName),
    Gateway(ClusterName),
    Report(ServiceName, ClusterName),
    Address(IpAddr, ClusterName),
    Member(ClusterName),
    FleetKey,
}

impl Subject {
    fn of(change: &Change) -> (Self, bool) {
        match change {
            Change::Service(name, it) => (Self::Service(name.clone()), it.is_some()),
            Change::EndpointSlice(name, from_endpoints, it) => (
                Self::EndpointSlice(name.clone(), *from_endpoints),
                it.is_some(),
            ),
            Change::Node(name, it) => (Self::Node(name.clone()), it.is_some()),
            Change::Namespace(name, it) => (Self::Namespace(name.clone()), it.is_some()),
            Change::PoolStatus(name, _) => (Self::PoolStatus(name.clone()), true),
            Change::Pool(name, it) => (Self::Pool(name.clone()), it.is_some()),
            Change::Probing(name, it) => (Self::Probing(name.clone()), !it.is_empty()),
            Change::BgpPeerStatus(name, _) => (Self::BgpPeerStatus(name.clone()), true),
            Change::BgpPeer(name, it) => (Self::BgpPeer(name.clone()), it.is_some()),
            Change::PeerPassword(name, it) => (Self::PeerPassword(name.clone()), it.is_some()),
            Change::Secret(name, it) => (Self::Secret(name.clone()), it.is_some()),
            Change::Gateway(name, it) => (Self::Gateway(name.clone()), it.is_some()),
            Change::Report(name, gateway, it) => {
                (Self::Report(name.clone(), gateway.clone()), it.is_some())
            }
            Change::Address(address, gateway, it) => {
                (Self::Address(*address, gateway.clone()), it.is_some())
            }
            Change::Member(name, it) => (Self::Member(name.clone()), it.is_some()),
            Change::FleetKey(it) => (Self::FleetKey, it.is_some()),
        }
    }
}

/// The latest state of every object, and the subscribers that are told of it.
///
/// The order of subjects is that of the enum: namespaces, nodes and pools reach a subscriber
/// before the Services that depend on them, and the members of a fleet before its key.
#[derive(Default)]
pub(crate) struct Feed {
    state: Mutex<FeedState>,
}

#[derive(Default)]
struct FeedState {
    latest: BTreeMap<Subject, Change>,
    synced: bool,
    closed: bool,
    /// Counts the published batches; see [`crate::Store::sequence`].
    sequence: u64,
    /// See [`Batch::revision`].
    revision: u64,
    /// Whether a gateway has reported something.
    reported: bool,
    subscribers: Vec<Arc<Subscriber>>,
}

/// What waits for one subscriber.
struct Subscriber {
    waiting: Mutex<PendingChanges>,
    wake: Notify,
}

#[derive(Default)]
struct PendingChanges {
    changes: BTreeMap<Subject, Change>,
    synced: bool,
    sequence: u64,
    /// See [`Batch::revision`].
    revision: u64,
    /// See [`Batch::since`].
    since: Option<Instant>,
    /// It has been sent every object; from now on it is sent changes.
    started: bool,
    /// There is something to send, if only that every object has been sent.
    due: bool,
    closed: bool,
}

impl Feed {
    /// Publishes changes to every subscriber. `synced`: every object has been published; `since`:
    /// when the oldest of these changes was made.
    pub(crate) fn publish(&self, changes: Vec<Change>, synced: bool, since: Option<Instant>) {
        let mut state = lock(&self.state);
        let news = synced && !state.synced;
        state.synced |= synced;
        if changes.is_empty() && !news {
            return;
        }
        state.sequence += 1;
        let (synced, sequence, revision) = (state.synced, state.sequence, state.revision);
        for change in &changes {
            state.reported |= matches!(change, Change::Report(..));
            let (subject, there) = Subject::of(change);
            if there {
                state.latest.insert(subject, change.clone());
            } else {
                state.latest.remove(&subject);
            }
        }
        state
            .subscribers
            .retain(|subscriber| !lock(&subscriber.waiting).closed);
        for subscriber in &state.subscribers {
            let mut waiting = lock(&subscriber.waiting);
            waiting.synced = synced;
            waiting.sequence = sequence;
            waiting.revision = revision;
            waiting.due = true;
            if waiting.started {
                waiting.since = waiting.since.into_iter().chain(since).min();
            }
            for change in &changes {
                waiting
                    .changes
                    .insert(Subject::of(change).0, change.clone());
            }
            drop(waiting);
            subscriber.wake.notify_one();
        }
    }

    /// Every change of a Service up to this revision of the store has been published, or is about
    /// to be by the caller.
    pub(crate) fn reach(&self, revision: u64) {
        lock(&self.state).revision = revision;
    }

    /// Whether every object has been published.
    pub(crate) fn is_synced(&self) -> bool {
        lock(&self.state).synced
    }

    /// Whether a gateway has reported anything yet.
    pub(crate) fn is_reported(&self) -> bool {
        lock(&self.state).reported
    }

    /// See [`crate::Store::sequence`].
    pub(crate) fn sequence(&self) -> u64 {
        lock(&self.state).sequence
    }

    /// See [`crate::Store::subscribe`].
    pub(crate) fn subscribe(&self) -> mpsc::Receiver<Batch> {
        // One batch is on its way and one is gathered: more would be out of date when it arrives.
        let (sender, receiver) = mpsc::channel(1);
        let mut state = lock(&self.state);
        let subscriber = Arc::new(Subscriber {
            waiting: Mutex::new(PendingChanges {
                changes: state.latest.clone(),
                synced: state.synced,
                sequence: state.sequence,
                revision: state.revision,
                since: None,
                started: false,
                due: state.synced || !state.latest.is_empty(),
                closed: state.closed,
            }),
            wake: Notify::new(),
        });
        if !state.closed {
            state.subscribers.push(Arc::clone(&subscriber));
        }
        drop(state);
        subscriber.wake.notify_one();
        tokio::spawn(deliver(subscriber, sender));
        receiver
    }

    /// Ends every subscription when it has been sent what waits for it.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.state);
        state.closed = true;
        for subscriber in state.subscribers.drain(..) {
            lock(&subscriber.waiting).closed = true;
            subscriber.wake.notify_one();
        }
    }
}

/// Sends a subscriber what waits for it, until either side ends.
async fn deliver(subscriber: Arc<Subscriber>, sender: mpsc::Sender<Batch>) {
    loop {
        tokio::select! {
            () = subscriber.wake.notified() => {}
            () = sender.closed() => break,
        }
        // Waits for room first and takes what there is then: the slower a subscriber is, the fewer
        // and larger its batches are.
        let Ok(room) = sender.reserve().await else {
            break;
        };
        let mut waiting = lock(&subscriber.waiting);
        if std::mem::take(&mut waiting.due) {
            let changes = std::mem::take(&mut waiting.changes);
            waiting.started |= waiting.synced;
            room.send(Batch {
                changes: changes.into_values().collect(),
                synced: waiting.synced,
                sequence: waiting.sequence,
                since: waiting.since.take(),
                revision: waiting.revision,
            });
        }
        if waiting.closed {
            break;
        }
    }
    lock(&subscriber.waiting).closed = true;
}

/// Locks, also where another thread has panicked: a panic leaves these maps whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use fairway_config::cluster::Namespace;

    use super::*;

    fn namespace(name: &str, generation: usize) -> Change {
        Change::Namespace(
            name.into(),
            Some(Arc::new(Namespace {
                name: name.into(),
                labels: [("generation".to_owned(), generation.to_string())].into(),
            })),
        )
    }

    fn generation(change: &Change) -> &str {
        match change {
            Change::Namespace(_, Some(it)) => &it.labels["generation"],
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_late_subscriber_gets_everything_there_is() {
        let feed = Feed::default();
        feed.publish(vec![namespace("a", 1), namespace("b", 1)], false, None);
        feed.publish(vec![namespace("a", 2)], true, None);
        let batch = feed.subscribe().recv().await.unwrap();
        assert!(batch.synced);
        let seen: Vec<_> = batch.changes.iter().map(generation).collect();
        assert_eq!(seen, ["2", "1"]);
    }

    #[tokio::test]
    async fn an_empty_store_still_says_that_it_is_synced() {
        let feed = Feed::default();
        let mut batches = feed.subscribe();
        feed.publish(Vec::new(), true, None);
        let batch = batches.recv().await.unwrap();
        assert!(batch.synced && batch.changes.is_empty());
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_sent_the_latest_state_once() {
        let feed = Feed::default();
        let mut batches = feed.subscribe();
        for generation in 0..10_000 {
            feed.publish(vec![namespace("a", generation)], true, None);
            if generation % 100 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut received = 0;
        loop {
            let batch = batches.recv().await.unwrap();
            received += 1;
            if generation(&batch.changes[0]) == "9999" {
                break;
            }
        }
        assert!(received <= 3, "{received} batches for one object");
    }

    #[tokio::test]
    async fn a_batch_is_as_old_as_the_oldest_change_in_it_and_a_start_has_no_age() {
        let feed = Feed::default();
        let old = Instant::now();
        let new = old + Duration::from_millis(1);
        feed.publish(vec![namespace("a", 1)], false, Some(old));
        let mut batches = feed.subscribe();
        feed.publish(vec![namespace("b", 1)], true, Some(old));
        assert_eq!(batches.recv().await.unwrap().since, None);
        // Each of them waits: nobody runs between them but this.
        feed.publish(vec![namespace("a", 2)], true, Some(new));
        feed.publish(vec![namespace("b", 2)], true, Some(old));
        feed.publish(vec![namespace("a", 3)], true, None);
        let batch = batches.recv().await.unwrap();
        assert_eq!((batch.changes.len(), batch.since), (2, Some(old)));
        feed.publish(vec![namespace("a", 4)], true, None);
        assert_eq!(batches.recv().await.unwrap().since, None);
    }

    #[tokio::test]
    async fn a_deletion_is_told_to_whom_it_concerns_and_forgotten() {
        let feed = Feed::default();
        feed.publish(vec![namespace("a", 1)], true, None);
        let mut early = feed.subscribe();
        early.recv().await.unwrap();
        feed.publish(vec![Change::Namespace("a".into(), None)], true, None);
        let batch = early.recv().await.unwrap();
        assert!(matches!(batch.changes[..], [Change::Namespace(_, None)]));
        let batch = feed.subscribe().recv().await.unwrap();
        assert!(batch.changes.is_empty());
    }

    #[tokio::test]
    async fn closing_ends_every_subscription_after_the_last_word() {
        let feed = Feed::default();
        let mut batches = feed.subscribe();
        feed.publish(vec![namespace("a", 1)], true, None);
        feed.close();
        assert_eq!(batches.recv().await.unwrap().changes.len(), 1);
        assert!(batches.recv().await.is_none());
        let mut late = feed.subscribe();
        assert_eq!(late.recv().await.unwrap().changes.len(), 1);
        assert!(late.recv().await.is_none());
    }
}
