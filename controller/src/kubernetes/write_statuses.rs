//! Writes the statuses of AddressPools and BGPPeers, which every controller of a cluster sees; see
//! [`cluster_statuses`](super::cluster_statuses).

use std::sync::Arc;

use fairway_config::exchange::Write;
use fairway_config::object::{Kind, ObjectKey};

use super::cluster_statuses::key_of;
use super::store_context::StoreContext;
use crate::feed::lock;
use crate::store::WriteOutcome;

impl StoreContext {
    /// Writes what this controller has to say in a status: all, or, where another controller has it, what it asks
    /// gateways.
    pub(super) async fn write_cluster_status(&self, write: Write) -> WriteOutcome {
        let key = match &write {
            Write::Pool { name, .. } => key_of(Kind::AddressPool, name),
            Write::BgpPeer { name, .. } => key_of(Kind::BgpPeer, name),
            Write::Service { .. } | Write::NodePorts { .. } => return WriteOutcome::Superseded,
        };
        let other = self.other_with(&key).await;
        let patch = {
            let cache = lock(&self.cache);
            let us = cache.identity();
            cache.statuses().patch(&key, &write, us, other.is_some())
        };
        self.note_left(&key, write, other.as_ref());
        let Some(patch) = patch else {
            return WriteOutcome::Written;
        };
        let outcome = self.write_status(&key, patch).await;
        if other.is_none() && outcome == WriteOutcome::Written {
            lock(&self.left_statuses).remove(&key);
        }
        outcome
    }

    /// Keeps the latest form of a status that is left to another controller, or was until now.
    fn note_left(&self, key: &ObjectKey, write: Write, other: Option<&Arc<str>>) {
        let mut left = lock(&self.left_statuses);
        let is_news = !left.contains_key(key);
        if let Some(controller) = other.filter(|_| is_news) {
            tracing::info!(
                object = %key, %controller,
                "another controller writes the status of this object; this one leaves it alone"
            );
        }
        if other.is_some() || !is_news {
            left.insert(key.clone(), write);
        }
    }

    /// The controller that has the status of an object, where that is another one and is not gone.
    async fn other_with(&self, key: &ObjectKey) -> Option<Arc<str>> {
        let (us, other) = {
            let cache = lock(&self.cache);
            (cache.controller().clone(), cache.statuses().controller(key))
        };
        let other = other?;
        let name = us.another(&other)?;
        (!self.is_gone(Some(name)).await).then_some(other)
    }

    /// Writes the statuses that were left to controllers which are gone by now.
    pub(super) async fn take_over_statuses(&self) {
        let left: Vec<ObjectKey> = lock(&self.left_statuses).keys().cloned().collect();
        for key in left {
            if !lock(&self.cache).is_there(&key) {
                lock(&self.left_statuses).remove(&key);
            }
            if self.other_with(&key).await.is_some() {
                continue;
            }
            let write = lock(&self.left_statuses).get(&key).cloned();
            if let Some(write) = write {
                tracing::info!(object = %key, "its status is nobody's any more: this controller writes it from now on");
                drop(self.take_writes(vec![write], None));
            }
        }
    }
}
