//! Services whose finalizer and annotation may have to be repaired, each after a wait.

use std::sync::Mutex;
use std::time::Duration;

use fairway_config::object::ObjectKey;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::feed::lock;
use crate::retry_queue::RetryQueue;

/// How long a finalizer may be wrong before it is repaired: the write that leaves it so usually
/// goes on to repair it itself.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The longest wait between two tries; each is twice the one before.
pub(super) const LONGEST: Duration = Duration::from_secs(300);

/// Services whose finalizer and annotation may have to be repaired.
#[derive(Debug, Default)]
pub(super) struct RepairQueue {
    waiting: Mutex<RetryQueue<ObjectKey>>,
    came: Notify,
}

impl RepairQueue {
    /// This Service is to be looked at after such a wait.
    pub(super) fn push(&self, key: ObjectKey, wait: Duration) {
        lock(&self.waiting).put_sooner(key, wait, Instant::now());
        self.came.notify_one();
    }

    /// The next one, when its time has come, and how long it waited.
    pub(super) async fn next(&self) -> (ObjectKey, Duration) {
        loop {
            let (due, next) = {
                let mut waiting = lock(&self.waiting);
                (waiting.take_due(Instant::now()), waiting.next())
            };
            if let Some(due) = due {
                return due;
            }
            let Some(next) = next else {
                self.came.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                // It may be one whose time comes before.
                () = self.came.notified() => {}
            }
        }
    }
}
