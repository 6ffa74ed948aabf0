//! Which of two processes of a gateway writes its Lease: while a new one takes over from an old one there are two.
//!
//! Both would write the same object, and what the old one says last must not stand behind what the new one says first.
//! So the old one stops before it hands over the lock of the state directory, and waits for the answer to a write that
//! is on its way.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::feed::lock;

/// How long it is waited for the answer to a write that is on its way. Then nobody waits for it any more.
const LAST: Duration = Duration::from_secs(2);

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseWriter {
    /// This process writes.
    Own,
    /// It has taken over, or is about to, and does not write yet.
    Waiting,
    /// Another one writes, or is about to.
    Paused,
    /// The same, and what is on its way is given up.
    Cut,
    /// Another one writes from now on.
    Gone,
}

/// Whether this process writes the Lease of its gateway.
#[derive(Debug)]
pub(super) struct LeaseTurn {
    turn: watch::Sender<LeaseWriter>,
    /// What it is again should the other process end that is about to write.
    before: Mutex<LeaseWriter>,
    is_writing: Mutex<bool>,
    written: Condvar,
}

impl Default for LeaseTurn {
    fn default() -> Self {
        Self {
            turn: watch::Sender::new(LeaseWriter::Own),
            before: Mutex::new(LeaseWriter::Own),
            is_writing: Mutex::default(),
            written: Condvar::new(),
        }
    }
}

impl LeaseTurn {
    /// Whether it is this process's turn.
    pub(super) fn is_own(&self) -> bool {
        *self.turn.borrow() == LeaseWriter::Own
    }

    /// Sets whose turn it is, from the next write on.
    pub(super) fn set(&self, turn: LeaseWriter) {
        self.turn.send_replace(turn);
    }

    /// It is this process's turn, if it has waited for that.
    pub(super) fn begin(&self) {
        let mut before = lock(&self.before);
        if *before == LeaseWriter::Waiting {
            *before = LeaseWriter::Own;
        }
        self.turn.send_if_modified(|turn| {
            let waits = *turn == LeaseWriter::Waiting;
            if waits {
                *turn = LeaseWriter::Own;
            }
            waits
        });
    }

    /// Another process is about to write: no write begins any more, and none is on its way when this returns. Blocks.
    pub(super) fn pause(&self) {
        let is_writing = lock(&self.is_writing);
        {
            let mut before = lock(&self.before);
            match self.turn.send_replace(LeaseWriter::Paused) {
                LeaseWriter::Paused | LeaseWriter::Cut => {}
                turn => *before = turn,
            }
        }
        let waited = self
            .written
            .wait_timeout_while(is_writing, LAST, |is_writing| *is_writing);
        let (is_writing, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *is_writing {
            self.set(LeaseWriter::Cut);
        }
    }

    /// The other process has ended: it is as it was before [`Self::pause`].
    pub(super) fn resume(&self) {
        let before = lock(&self.before);
        self.turn.send_if_modified(|turn| {
            let is_paused = matches!(turn, LeaseWriter::Paused | LeaseWriter::Cut);
            if is_paused {
                *turn = *before;
            }
            is_paused
        });
    }

    /// Writes, where it is this process's turn; nothing: it is not, or not any more.
    pub(super) async fn write<T>(&self, write: impl Future<Output = T>) -> Option<T> {
        {
            let mut is_writing = lock(&self.is_writing);
            if !self.is_own() {
                return None;
            }
            *is_writing = true;
        }
        let mut turn = self.turn.subscribe();
        let is_cut = turn.wait_for(|turn| matches!(turn, LeaseWriter::Cut | LeaseWriter::Gone));
        let written = tokio::select! {
            written = write => Some(written),
            _ = is_cut => None,
        };
        *lock(&self.is_writing) = false;
        self.written.notify_all();
        written
    }

    /// Waits until another process writes for good.
    pub(super) async fn gone(&self) {
        // The sender is here.
        let _ = self
            .turn
            .subscribe()
            .wait_for(|it| *it == LeaseWriter::Gone)
            .await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn who_has_waited_for_its_turn_waits_on_when_another_process_has_ended() {
        let turn = LeaseTurn::default();
        turn.resume();
        assert!(turn.is_own());
        turn.set(LeaseWriter::Waiting);
        turn.resume();
        assert!(!turn.is_own(), "it had not been paused");
        turn.pause();
        turn.pause();
        turn.resume();
        assert!(!turn.is_own(), "it had not begun");
        turn.pause();
        turn.begin();
        assert!(!turn.is_own(), "it is the other one's turn");
        turn.resume();
        assert!(turn.is_own());
        turn.set(LeaseWriter::Gone);
        turn.resume();
        assert!(!turn.is_own(), "it is the other one's for good");
    }

    #[tokio::test]
    async fn nothing_is_on_its_way_once_it_is_another_ones_turn() {
        let turn = Arc::new(LeaseTurn::default());
        assert_eq!(turn.write(async { 1 }).await, Some(1));
        let (answer, answered) = oneshot::channel::<()>();
        let (begin, began) = oneshot::channel::<()>();
        let writing = tokio::spawn({
            let turn = turn.clone();
            async move {
                let write = async {
                    let _ = begin.send(());
                    answered.await
                };
                turn.write(write).await
            }
        });
        began.await.unwrap();
        let pausing = tokio::task::spawn_blocking({
            let turn = turn.clone();
            move || turn.pause()
        });
        while turn.is_own() {
            tokio::task::yield_now().await;
        }
        assert!(!pausing.is_finished());
        answer.send(()).unwrap();
        pausing.await.unwrap();
        assert!(writing.await.unwrap().is_some());
        assert_eq!(turn.write(async {}).await, None);
        // Another one takes over before this one has begun.
        turn.begin();
        assert_eq!(turn.write(async {}).await, None);
        turn.set(LeaseWriter::Waiting);
        assert_eq!(turn.write(async {}).await, None);
        turn.begin();
        assert_eq!(turn.write(async {}).await, Some(()));
    }

    #[tokio::test]
    async fn a_write_that_nobody_answers_is_given_up() {
        let turn = Arc::new(LeaseTurn::default());
        let (begin, began) = oneshot::channel::<()>();
        let writing = tokio::spawn({
            let turn = turn.clone();
            async move {
                let write = async {
                    let _ = begin.send(());
                    std::future::pending::<()>().await;
                };
                turn.write(write).await
            }
        });
        began.await.unwrap();
        let since = Instant::now();
        let pausing = turn.clone();
        tokio::task::spawn_blocking(move || pausing.pause())
            .await
            .unwrap();
        assert!(since.elapsed() >= LAST);
        assert_eq!(writing.await.unwrap(), None);
        turn.set(LeaseWriter::Gone);
        turn.gone().await;
    }
}
