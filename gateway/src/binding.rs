//! The sockets of one listener, on all workers.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::{TaskTrackerToken, TrackedFuture};

use crate::descriptors::Permit;
use crate::engine::{Command, Mailbox};
use crate::hops::Guard;

/// The sockets of one listener, on all workers: what they take, how they are told to close, and how
/// one knows that they are.
#[derive(Clone, Debug)]
pub(crate) struct Binding(Arc<Sockets>);

/// One of the sockets, on its way to the task that will have it.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) binding: Binding,
    token: TaskTrackerToken,
}

#[derive(Debug)]
struct Sockets {
    guard: Guard,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// The workers that accept at them, by this number.
    accepting: OnceLock<(u32, Vec<Arc<Mailbox>>)>,
    _permit: Permit,
}

impl Binding {
    /// A binding of as many sockets as there is leave for, which take what `guard` says.
    pub(crate) fn new(guard: Guard, permit: Permit) -> Self {
        Self(Arc::new(Sockets {
            guard,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            accepting: OnceLock::new(),
            _permit: permit,
        }))
    }

    /// These workers accept at its sockets, by that number. Said once.
    pub(crate) fn accepted_by(&self, number: u32, workers: Vec<Arc<Mailbox>>) {
        let _ = self.0.accepting.set((number, workers));
    }

    /// What the sockets take.
    pub(crate) fn guard(&self) -> Guard {
        self.0.guard
    }

    /// Tells the sockets to close.
    pub(crate) fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if let Some((number, workers)) = self.0.accepting.get() {
            for worker in workers {
                worker.send(Command::Close(*number));
            }
        }
    }

    /// Waits until they have, those included that no worker has got to yet.
    pub(crate) async fn closed(&self) {
        self.0.tasks.wait().await;
    }

    /// Waits until the sockets are told to close.
    pub(crate) fn stopped(&self) -> WaitForCancellationFuture<'_> {
        self.0.stop.cancelled()
    }

    /// One of the sockets: from now on there is one left until its task is gone.
    pub(crate) fn part(&self) -> Part {
        Part {
            binding: self.clone(),
            token: self.0.tasks.token(),
        }
    }

    /// A task that has one of the sockets beside the one that it is for.
    pub(crate) fn track<F: Future>(&self, task: F) -> TrackedFuture<F> {
        self.0.tasks.track_future(task)
    }
}

impl Part {
    /// The task that has the socket.
    pub(crate) fn track<F: Future>(self, task: F) -> TrackedFuture<F> {
        let tracked = self.binding.track(task);
        drop(self.token);
        tracked
    }
}
