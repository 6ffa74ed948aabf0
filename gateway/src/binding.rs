//! The sockets of one listener, on all workers.

use std::sync::{Arc, OnceLock};

use fairway_config::net::{ListenAddr, Protocol};
use tokio_util::task::TaskTracker;

use crate::descriptors::Permit;
use crate::engine::{Mailbox, WorkerCommand};
use crate::hops::HopFilter;
use crate::slot::{BindKey, Slot};
use crate::socket_token::SocketToken;
use crate::steering::WhenClosed;
use crate::steering::refusals::Refusals;

/// The sockets of one listener, on all workers: their hop filter, how they are closed, and when they are.
#[derive(Clone, Debug)]
pub(crate) struct Binding(Arc<BoundSockets>);

#[derive(Debug)]
struct BoundSockets {
    hop_filter: HopFilter,
    open: TaskTracker,
    served: OnceLock<ServedBy>,
    _permit: Permit,
}

/// Who has to be told to close the listener.
#[derive(Debug)]
enum ServedBy {
    /// The workers that have sockets with that number.
    Sockets(u32, Vec<Arc<Mailbox>>),
    /// The kernel, and the workers to which it steers.
    Steered(
        ListenAddr,
        Arc<Slot>,
        (Arc<Refusals>, WhenClosed),
        Vec<Arc<Mailbox>>,
    ),
}

impl Binding {
    /// A binding whose sockets have this hop filter. The permit covers the sockets.
    pub(crate) fn new(hop_filter: HopFilter, permit: Permit) -> Self {
        Self(Arc::new(BoundSockets {
            hop_filter,
            open: TaskTracker::new(),
            served: OnceLock::new(),
            _permit: permit,
        }))
    }

    /// Notes that these workers have its sockets, with that number. To be called once.
    pub(crate) fn served_by(&self, number: u32, workers: Vec<Arc<Mailbox>>) {
        let _ = self.0.served.set(ServedBy::Sockets(number, workers));
    }

    /// Notes that it has no sockets of its own, because the kernel steers connections to these workers. To be
    /// called once.
    pub(crate) fn steered(
        &self,
        listen: ListenAddr,
        slot: Arc<Slot>,
        closed: (Arc<Refusals>, WhenClosed),
        workers: Vec<Arc<Mailbox>>,
    ) {
        let _ = self
            .0
            .served
            .set(ServedBy::Steered(listen, slot, closed, workers));
    }

    /// The hop filter of the sockets.
    pub(crate) fn hop_filter(&self) -> HopFilter {
        self.0.hop_filter
    }

    /// Tells the sockets to close.
    pub(crate) fn close(&self) {
        self.0.open.close();
        match self.0.served.get() {
            None => {}
            Some(ServedBy::Sockets(number, workers)) => {
                for worker in workers {
                    worker.send(WorkerCommand::Close(*number));
                }
            }
            Some(ServedBy::Steered(listen, slot, (refusals, when_closed), workers)) => {
                // In this order, so that the kernel steers nothing that comes from now on.
                let place = BindKey {
                    listen: *listen,
                    protocol: Protocol::Tcp,
                };
                refusals.refuse(place, slot, *when_closed);
                for worker in workers {
                    worker.send(WorkerCommand::Unsteer(*listen));
                }
            }
        }
    }

    /// Waits until all sockets are closed.
    pub(crate) async fn closed(&self) {
        self.0.open.wait().await;
    }

    /// The token of one of the sockets.
    pub(crate) fn token(&self) -> SocketToken {
        SocketToken::new(self.0.hop_filter, self.0.open.token())
    }
}
