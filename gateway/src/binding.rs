//! The sockets of one listener, on all workers.

use std::sync::{Arc, OnceLock};

use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::descriptors::Permit;
use crate::engine::{Command, Mailbox};
use crate::hops::Guard;

/// The sockets of one listener, on all workers: what they take, how they are told to close, and how
/// one knows that they are.
#[derive(Clone, Debug)]
pub(crate) struct Binding(Arc<Sockets>);

/// Goes with one of the sockets: until it is dropped the socket counts as open.
#[derive(Debug)]
pub(crate) struct Part {
    guard: Guard,
    _open: TaskTrackerToken,
}

#[derive(Debug)]
struct Sockets {
    guard: Guard,
    open: TaskTracker,
    /// The workers that have them, by this number.
    workers: OnceLock<(u32, Vec<Arc<Mailbox>>)>,
    _permit: Permit,
}

impl Binding {
    /// A binding of as many sockets as there is leave for, which take what `guard` says.
    pub(crate) fn new(guard: Guard, permit: Permit) -> Self {
        Self(Arc::new(Sockets {
            guard,
            open: TaskTracker::new(),
            workers: OnceLock::new(),
            _permit: permit,
        }))
    }

    /// These workers have its sockets, by that number. Said once.
    pub(crate) fn served_by(&self, number: u32, workers: Vec<Arc<Mailbox>>) {
        let _ = self.0.workers.set((number, workers));
    }

    /// What the sockets take.
    pub(crate) fn guard(&self) -> Guard {
        self.0.guard
    }

    /// Tells the sockets to close.
    pub(crate) fn close(&self) {
        self.0.open.close();
        if let Some((number, workers)) = self.0.workers.get() {
            for worker in workers {
                worker.send(Command::Close(*number));
            }
        }
    }

    /// Waits until they have, those included that no worker has got to yet.
    pub(crate) async fn closed(&self) {
        self.0.open.wait().await;
    }

    /// What goes with one of the sockets.
    pub(crate) fn part(&self) -> Part {
        Part {
            guard: self.0.guard,
            _open: self.0.open.token(),
        }
    }
}

impl Part {
    /// What the socket takes.
    pub(crate) fn guard(&self) -> Guard {
        self.guard
    }
}
