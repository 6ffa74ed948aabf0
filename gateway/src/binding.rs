//! The sockets of one listener, on all workers.

use std::sync::{Arc, OnceLock};

use fairway_config::net::{ListenAddr, Protocol};
use tokio_util::task::TaskTracker;

use crate::descriptors::Permit;
use crate::engine::{Mailbox, WorkerCommand};
use crate::hops::HopFilter;
use crate::part::Part;
use crate::slot::{BindKey, Slot};
use crate::steering::refusals::Refusals;

/// The sockets of one listener, on all workers: what they take, how they are told to close, and how
/// one knows that they are.
#[derive(Clone, Debug)]
pub(crate) struct Binding(Arc<BoundSockets>);

#[derive(Debug)]
struct BoundSockets {
    hop_filter: HopFilter,
    open: TaskTracker,
    served: OnceLock<ServedBy>,
    _permit: Permit,
}

/// Who is told to close them.
#[derive(Debug)]
enum ServedBy {
    /// The workers that have sockets of that number.
    Sockets(u32, Vec<Arc<Mailbox>>),
    /// The kernel, and the workers to which it steers.
    Steered(ListenAddr, Arc<Slot>, Arc<Refusals>, Vec<Arc<Mailbox>>),
}

impl Binding {
    /// A binding of as many sockets as there is leave for, which take what `hop_filter` says.
    pub(crate) fn new(hop_filter: HopFilter, permit: Permit) -> Self {
        Self(Arc::new(BoundSockets {
            hop_filter,
            open: TaskTracker::new(),
            served: OnceLock::new(),
            _permit: permit,
        }))
    }

    /// These workers have its sockets, by that number. Said once.
    pub(crate) fn served_by(&self, number: u32, workers: Vec<Arc<Mailbox>>) {
        let _ = self.0.served.set(ServedBy::Sockets(number, workers));
    }

    /// It has none: the kernel steers to these workers. Said once.
    pub(crate) fn steered(
        &self,
        listen: ListenAddr,
        slot: Arc<Slot>,
        refusals: Arc<Refusals>,
        workers: Vec<Arc<Mailbox>>,
    ) {
        let _ = self
            .0
            .served
            .set(ServedBy::Steered(listen, slot, refusals, workers));
    }

    /// What the sockets take.
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
            Some(ServedBy::Steered(listen, slot, refusals, workers)) => {
                // In this order: what comes from now on is refused by the kernel.
                let place = BindKey {
                    listen: *listen,
                    protocol: Protocol::Tcp,
                };
                refusals.refuse(place, slot);
                for worker in workers {
                    worker.send(WorkerCommand::Unsteer(*listen));
                }
            }
        }
    }

    /// Waits until they have, those included that no worker has got to yet.
    pub(crate) async fn closed(&self) {
        self.0.open.wait().await;
    }

    /// What goes with one of the sockets.
    pub(crate) fn part(&self) -> Part {
        Part::new(self.0.hop_filter, self.0.open.token())
    }
}
