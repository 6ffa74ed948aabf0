//! What was read of a client's uploads and is not written to an endpoint yet.
//!
//! pingora reads up to four pieces of an upload ahead of what it writes. When the client's connection ends it drops
//! them, even where the whole request has come. So the end is kept from pingora until they are written.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::task::AtomicWaker;
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep};

use super::limits::ENDPOINT;

/// How many pieces of a connection's uploads are unwritten, and who waits until none is.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    count: AtomicUsize,
    waiting: AtomicWaker,
}

/// Counts as unwritten until it is dropped.
#[derive(Debug)]
pub(super) struct UnwrittenGuard(Arc<Unwritten>);

impl Unwritten {
    /// Something that counts as unwritten.
    pub(super) fn hold(self: &Arc<Self>) -> UnwrittenGuard {
        self.count.fetch_add(1, Ordering::Relaxed);
        UnwrittenGuard(self.clone())
    }

    /// The same bytes. They count as unwritten until pingora drops them, which it does when they are written.
    pub(super) fn track(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(UnwrittenBytes {
            bytes,
            _guard: self.hold(),
        })
    }

    /// Waits until nothing is unwritten.
    fn poll_none(&self, cx: &Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        if self.count.load(Ordering::Relaxed) == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for UnwrittenGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.waiting.wake();
        }
    }
}

struct UnwrittenBytes {
    bytes: Bytes,
    _guard: UnwrittenGuard,
}

impl AsRef<[u8]> for UnwrittenBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A wait until all that was read from a client is written, or nothing was for as long as an endpoint may take.
#[derive(Debug, Default)]
pub(super) struct AllWritten {
    /// How many pieces were unwritten when the endpoint's time began, and its end.
    patience: Option<(usize, Pin<Box<Sleep>>)>,
    /// A task that ends at once, after the tasks that are ready now.
    turn: Option<JoinHandle<()>>,
}

impl AllWritten {
    /// Waits until nothing is unwritten. With `other_tasks` tasks other than this one read the uploads, and they get a
    /// turn to take what has come.
    pub(super) fn poll(
        &mut self,
        unwritten: &Unwritten,
        other_tasks: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            ready!(self.poll_none(unwritten, cx));
            if !other_tasks {
                return Poll::Ready(());
            }
            let turn = self.turn.get_or_insert_with(|| tokio::spawn(async {}));
            // It fails only where the runtime is shut down.
            let _ = ready!(Pin::new(turn).poll(cx));
            self.turn = None;
            if unwritten.poll_none(cx).is_ready() {
                return Poll::Ready(());
            }
        }
    }

    fn poll_none(&mut self, unwritten: &Unwritten, cx: &mut Context<'_>) -> Poll<()> {
        while unwritten.poll_none(cx).is_pending() {
            let count = unwritten.count.load(Ordering::Relaxed);
            let (before, time) = self
                .patience
                .get_or_insert_with(|| (count, Box::pin(sleep(ENDPOINT))));
            ready!(time.as_mut().poll(cx));
            if *before == count {
                break;
            }
            self.patience = None;
        }
        self.patience = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_end_waits_while_pieces_are_written_and_a_minute_after_the_last() {
        let unwritten = Arc::new(Unwritten::default());
        let mut pieces: Vec<_> = (0..10)
            .map(|_| unwritten.track(Bytes::from_static(b"piece")))
            .collect();
        let start = Instant::now();
        let writing = async {
            while pieces.len() > 5 {
                tokio::time::sleep(ENDPOINT * 3 / 4).await;
                pieces.pop();
            }
        };
        let mut all_written = AllWritten::default();
        let waiting = async {
            poll_fn(|cx| all_written.poll(&unwritten, false, cx)).await;
            start.elapsed()
        };
        let waited = tokio::join!(writing, waiting).1;
        assert!(waited > ENDPOINT * 15 / 4 + ENDPOINT / 2, "{waited:?}");
        assert!(waited <= ENDPOINT * 6, "{waited:?}");
        pieces.clear();
        poll_fn(|cx| all_written.poll(&unwritten, true, cx)).await;
    }
}
