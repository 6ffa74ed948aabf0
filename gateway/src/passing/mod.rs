//! Passing: connections that a gateway has whose address has moved to this one go on there. What arrives here and
//! belongs to no connection of this host is sent on to that gateway, which has the address still and answers the client
//! itself.
//!
//! Reading order: [`Passing`], the handle that the fleet has; `board`, what it and the thread tell each other; `thread`,
//! which keeps the kernel up to date; `kernel`, what is in the kernel; `program`, which decides about each packet;
//! `neighbors`, where other gateways are on their segment.
//!
//! Invariants:
//! - What belongs to a connection of this host is not passed: its end there would be a reset.
//! - Packets to other addresses cost one look-up in a map, and nothing while there is no predecessor: the program is
//!   attached only as long as there is one.
//! - Program, maps and links are file descriptors: the kernel removes them when the process ends, however it ends.
//! - UDP is not passed. The client of a UDP flow is told nothing by either gateway, and its next datagram begins a flow
//!   at the successor.

mod board;
mod kernel;
mod neighbors;
mod program;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod testing;
mod thread;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use self::board::PassingShared;
pub(crate) use self::board::{PassTarget, PassedAddress, PassingState};
use crate::steering::Inquiry;

/// See the module.
#[derive(Debug)]
pub(crate) struct Passing {
    shared: Arc<PassingShared>,
    thread: Option<JoinHandle<()>>,
}

impl Passing {
    /// Starts the thread. To be called while the calling thread has CAP_BPF and CAP_NET_ADMIN; without them nothing is
    /// passed.
    ///
    /// `inquiry`: by which the program that steers knows that no client asks for a socket; none: connections are not
    /// steered.
    ///
    /// # Errors
    /// The process has no thread left.
    pub(crate) fn start(inquiry: Option<Arc<Inquiry>>) -> io::Result<Self> {
        let shared = Arc::new(PassingShared::default());
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("fairway-passing".to_owned());
        let thread = thread.spawn(move || thread::run(&of_thread, inquiry))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// These are the addresses with a predecessor from now on.
    pub(crate) fn set(&self, wanted: &BTreeMap<PassedAddress, PassTarget>) {
        let mut board = self.shared.lock();
        if *board.wanted != *wanted {
            board.wanted = Arc::new(wanted.clone());
            self.shared.wake.notify_one();
        }
    }

    /// How passing is to this predecessor; nothing: the kernel has not answered yet.
    pub(crate) fn state(&self, address: PassedAddress, to: &PassTarget) -> Option<PassingState> {
        let board = self.shared.lock();
        let known = board.states.get(&address);
        known.and_then(|(of, state)| (of == to).then(|| state.clone()))
    }

    /// Those of which the kernel has not answered yet.
    pub(crate) fn unanswered(
        &self,
        wanted: &BTreeMap<PassedAddress, PassTarget>,
    ) -> BTreeSet<PassedAddress> {
        let board = self.shared.lock();
        let of = |address| board.states.get(address).map(|(of, _)| of);
        let unanswered = wanted
            .iter()
            .filter(|(address, to)| of(address) != Some(to));
        unanswered.map(|(address, _)| *address).collect()
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        self.shared.lock().is_ending = true;
        self.shared.wake.notify_one();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that passes packets to other gateways has panicked");
        }
    }
}
