//! Puts into the cache what watches bring, and tells subscribers.

use std::time::Instant;

use fairway_config::exchange::Change;
use fairway_config::object::Kind;

use super::object_metadata::version;
use super::settings::{Reads, now};
use super::snapshot::Snapshot;
use super::store_context::StoreContext;
use super::watch::ObjectEvent;
use crate::feed::lock;

impl StoreContext {
    /// Publishes changes that are no objects of the API server.
    pub(super) fn publish(&self, changes: Vec<Change>) {
        let _cache = lock(&self.cache);
        self.feed.publish(changes, false, None);
    }

    /// The Leases of all gateways have been listed.
    pub(super) fn heard_gateways(&self) {
        let complete = {
            let mut progress = lock(&self.progress);
            progress.listed_gateways();
            progress.is_complete()
        };
        let _cache = lock(&self.cache);
        self.feed.publish(Vec::new(), complete, None);
    }

    /// Takes in an event of a watch.
    pub(super) fn see(&self, kind: Kind, seen: ObjectEvent) {
        let mut cache = lock(&self.cache);
        let mut synced = self.feed.is_synced();
        let changes = match seen {
            ObjectEvent::Begins => {
                cache.begin(kind);
                Vec::new()
            }
            ObjectEvent::There(document) => {
                let status = cache.put_status(kind, &document);
                let change = cache.put(kind, &document, now());
                // An object that can't be read, or is an older version, leaves the cache as it was.
                if change.is_some() {
                    self.write_down(|snapshot| snapshot.put(kind, &document));
                }
                status.into_iter().chain(change).collect()
            }
            ObjectEvent::Gone(document) => {
                self.write_down(|snapshot| snapshot.remove(kind, &document));
                cache.remove(&document).into_iter().collect()
            }
            ObjectEvent::Ends => {
                let changes = cache.end(kind);
                self.write_down(|snapshot| snapshot.listed(kind, |key| cache.is_there(key)));
                let mut progress = lock(&self.progress);
                let heard_again = progress.listed(kind);
                synced = progress.is_complete();
                if heard_again {
                    tracing::info!("the API server is heard again: the snapshot has done its part");
                }
                changes
            }
        };
        self.feed.reach(cache.revision());
        // The first list is no change: nobody waits for what it shows.
        let since = self.feed.is_synced().then(Instant::now);
        if self.settings.reads == Reads::Controller {
            for change in &changes {
                self.queue_repair(&cache, change);
            }
        }
        self.note_peers(&changes);
        self.feed.publish(changes, synced, since);
    }

    /// Those who watch their passwords look which ones there are.
    fn note_peers(&self, changes: &[Change]) {
        let is_peer = |change: &Change| matches!(change, Change::BgpPeer(..));
        if changes.iter().any(is_peer) {
            self.bgp_peers_changed.notify_one();
        }
    }

    fn write_down(&self, act: impl FnOnce(&mut Snapshot)) {
        if let Some(snapshot) = &self.snapshot {
            act(&mut lock(snapshot));
        }
    }

    /// Uses the snapshot for what the API server has not listed yet.
    pub(super) fn stand_in(&self) {
        let recalled = self.snapshot.as_ref().and_then(|it| lock(it).recall());
        let Some(recalled) =
            recalled.filter(|it| it.is_complete(self.settings.reads.indispensable()))
        else {
            return;
        };
        if lock(&self.progress).is_complete() {
            return;
        }
        let written = recalled.written;
        let mut newest = 0;
        for (kind, document) in recalled.documents() {
            let mut cache = lock(&self.cache);
            // A list that has ended meanwhile counts.
            if !lock(&self.progress).has_listed(kind) {
                if kind == Kind::Service {
                    newest = newest.max(version(&document));
                }
                let change = cache.recall(&document, now());
                let changes: Vec<Change> = change.into_iter().collect();
                self.note_peers(&changes);
                self.feed.publish(changes, false, None);
            }
        }
        let mut cache = lock(&self.cache);
        if lock(&self.progress).is_complete() {
            return;
        }
        cache.stand_in(newest);
        self.feed.reach(cache.revision());
        lock(&self.progress).stand_in(written);
        self.feed.publish(Vec::new(), true, None);
        tracing::warn!(
            %written,
            "the API server has not been heard: a snapshot of what was known stands in for it"
        );
    }
}
