//! Puts right finalizers that were left behind, or taken away.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fairway_config::exchange::Change;
use fairway_config::object::ObjectKey;
use tokio::sync::Notify;

use super::known::Known;
use super::{Shared, key_of, write};
use crate::feed::lock;
use crate::store::WriteOutcome;

/// How long a finalizer may be all that is left of a Service, or all that is missing, before it is
/// put right: the write that leaves it so usually goes on to do that itself.
const PATIENCE: Duration = Duration::from_secs(2);

/// Services whose finalizer is to be looked at, and when.
#[derive(Debug, Default)]
pub(super) struct Strays {
    waiting: Mutex<VecDeque<(Instant, ObjectKey)>>,
    came: Notify,
}

impl Strays {
    fn push(&self, key: ObjectKey) {
        lock(&self.waiting).push_back((Instant::now() + PATIENCE, key));
        self.came.notify_one();
    }

    /// The next one, when its time has come.
    async fn next(&self) -> ObjectKey {
        loop {
            let next = lock(&self.waiting).front().cloned();
            let Some((at, key)) = next else {
                self.came.notified().await;
                continue;
            };
            tokio::time::sleep_until(at.into()).await;
            lock(&self.waiting).pop_front();
            return key;
        }
    }
}

impl Shared {
    /// Looks at the finalizer of a Service that changed.
    pub(super) fn note_stray(&self, known: &Known, change: &Change) {
        let Change::Service(name, Some(_)) = change else {
            return;
        };
        let key = key_of(name);
        if known.is_stray(&key) {
            self.strays.push(key);
        }
    }

    /// Puts finalizers right, for ever.
    pub(super) async fn clean_up(&self) {
        loop {
            let key = self.strays.next().await;
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
                self.strays.push(key);
            }
        }
    }
}
