//! Shows whoever asks that a runtime still turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// A count that goes up each time it is asked for, as long as the runtime has time for it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beat(Arc<BeatCount>);

#[derive(Debug, Default)]
struct BeatCount {
    wake: Notify,
    turns: AtomicU64,
}

impl Beat {
    /// How often it has gone up, and has it go up once more.
    pub(crate) fn ask(&self) -> u64 {
        let turns = self.0.turns.load(Ordering::Relaxed);
        self.0.wake.notify_one();
        turns
    }

    /// Answers on the runtime that it is spawned on.
    pub(crate) async fn answer(self) {
        loop {
            self.0.wake.notified().await;
            self.0.turns.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_up_as_long_as_the_runtime_turns() {
        let beat = Beat::default();
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
