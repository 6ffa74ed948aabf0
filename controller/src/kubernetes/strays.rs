//! Puts right finalizers that were left behind, or taken away.

use std::collections::BTreeSet;
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

/// The longest wait between two tries; each is twice the one before.
const LONGEST: Duration = Duration::from_secs(300);

/// Services whose finalizer is to be looked at, when, and after how long a wait.
#[derive(Debug, Default)]
pub(super) struct Strays {
    waiting: Mutex<BTreeSet<(Instant, ObjectKey, Duration)>>,
    came: Notify,
}

impl Strays {
    fn push(&self, key: ObjectKey, wait: Duration) {
        lock(&self.waiting).insert((Instant::now() + wait, key, wait));
        self.came.notify_one();
    }

    /// The next one, when its time has come, and how long it waited.
    async fn next(&self) -> (ObjectKey, Duration) {
        loop {
            let first = lock(&self.waiting).first().cloned();
            let Some(first) = first else {
                self.came.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(first.0.into()) => {
                    lock(&self.waiting).remove(&first);
                    return (first.1, first.2);
                }
                // It may be one whose time comes before.
                () = self.came.notified() => {}
            }
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
            self.strays.push(key, PATIENCE);
        }
    }

    /// Puts finalizers right, for ever.
    pub(super) async fn clean_up(&self) {
        loop {
            let (key, waited) = self.strays.next().await;
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
            if let WriteOutcome::Failed(error) | WriteOutcome::Rejected(error) = outcome {
                tracing::warn!(service = %key, error, "its finalizer can't be put right");
                self.strays.push(key, (waited * 2).min(LONGEST));
            }
        }
    }
}
