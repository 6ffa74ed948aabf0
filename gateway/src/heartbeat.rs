//! A heartbeat of a tokio runtime: it shows that the runtime is not stuck.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A count that the runtime increases after each [`Self::ask`]. One that stays the same shows a runtime that is
/// stuck.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeat(Arc<HeartbeatCount>);

#[derive(Debug, Default)]
struct HeartbeatCount {
    wake: Notify,
    turns: AtomicU64,
}

impl Heartbeat {
    /// The count. Asks the runtime to increase it once more.
    pub(crate) fn ask(&self) -> u64 {
        let turns = self.0.turns.load(Ordering::Relaxed);
        self.0.wake.notify_one();
        turns
    }

    /// Increases the count on the runtime that this is spawned on, whenever it is asked for.
    pub(crate) async fn answer(self) {
        loop {
            self.answer_once().await;
        }
    }

    /// Waits until it is asked for and increases the count. For a loop whose steps wait for others: it answers where it
    /// waits for its next step, so that the count vouches for the loop itself. Nothing is lost where the future is
    /// dropped.
    pub(crate) async fn answer_once(&self) {
        self.0.wake.notified().await;
        self.0.turns.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_up_as_long_as_the_runtime_turns() {
        let beat = Heartbeat::default();
        let answering = tokio::spawn(beat.clone().answer());
        let first = beat.ask();
        // A runtime that is held up does not answer.
        assert_eq!(beat.ask(), first);
        while beat.ask() == first {
            tokio::task::yield_now().await;
        }
        answering.abort();
    }
}
