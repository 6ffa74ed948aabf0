//! Answering ARP and Neighbor Discovery for the external addresses that this gateway owns, and keeping the kernel from
//! answering for them by itself.
//!
//! Reading order:
//! 1. [`Layer2`]: the handle; `shared`: what the handle and the two threads tell each other; [`faults`];
//! 2. `responding`: the thread `fairway-layer2` with the [`Responder`] of each interface. It makes no call that can
//!    wait for others in the kernel (only reading, writing, and the clock), and it has no capability; `conflict_log`,
//!    what it says of conflicts;
//! 3. `links`: the thread `fairway-links`, which has CAP_NET_RAW and CAP_NET_ADMIN and does all that needs them or may
//!    take long: it watches interfaces (`host_links`), opens `sockets`, joins `groups`, and keeps the kernel quiet;
//! 4. `arp_guard`: what the kernel must not say, by a table of nftables (`arp_table`, over `crate::netfilter`) or, where
//!    there is no nftables, by the settings of interfaces (`arp_settings`).
//!
//! Invariants:
//! - A frame that says that this gateway has an address is sent only if CLOCK_BOOTTIME, read just before, has not
//!   passed the [`AnswerRight`]. Whoever is killed, stopped or starved answers no longer.
//! - The kernel answers no ARP request for a guarded address and names none as a sender, also after this process was
//!   killed: then nobody answers.
//! - An interface of this host that has a guarded address keeps it: it may be how the host is reached. The kernel
//!   answers for that one.

mod arp_guard;
mod arp_settings;
mod arp_table;
mod conflict_log;
pub mod faults;
mod groups;
mod host_links;
mod links;
mod responding;
mod shared;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use fairway_config::net::AddressRange;
use fairway_gateway_core::fleet::BootTime;
use fairway_gateway_core::layer2::{ProbeResult, SeenConflict};

pub use self::faults::SegmentFault;
pub use self::shared::AnswerRight;
use self::shared::{Layer2Shared, ProbeRequest};
use crate::clock::boot_time;
#[cfg(doc)]
use fairway_gateway_core::layer2::Responder;

/// The responder of this process. Copies are the same one.
#[derive(Clone, Debug)]
pub struct Layer2(Arc<Layer2Threads>);

#[derive(Debug)]
struct Layer2Threads {
    shared: Arc<Layer2Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Without threads nothing is ever answered.
    is_none: bool,
}

impl Layer2 {
    /// One that answers nothing: each interface has a fault.
    pub fn none() -> Self {
        let shared = Layer2Shared::without_wake();
        Self(Arc::new(Layer2Threads {
            shared: Arc::new(shared),
            threads: Mutex::default(),
            is_none: true,
        }))
    }

    /// Starts the two threads, which wait until an interface is wanted. To be called while the calling thread has
    /// CAP_NET_RAW and CAP_NET_ADMIN, which one of the threads keeps; without them interfaces will have faults.
    ///
    /// # Errors
    /// The system has no threads or file descriptors left.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Layer2Shared::new()?);
        let mut threads = Vec::new();
        let of_thread = shared.clone();
        let links = std::thread::Builder::new().name("fairway-links".to_owned());
        threads.push(links.spawn(move || links::run(&of_thread))?);
        let of_thread = shared.clone();
        let responder = std::thread::Builder::new().name("fairway-layer2".to_owned());
        match responder.spawn(move || responding::run(&of_thread)) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                shared.stop();
                return Err(error);
            }
        }
        Ok(Self(Arc::new(Layer2Threads {
            shared,
            threads: Mutex::new(threads),
            is_none: false,
        })))
    }

    /// Ends both threads. The kernel is given back what was taken from it: the table, the settings of interfaces.
    pub fn stop(&self) {
        self.0.shared.stop();
        let mut threads = self
            .0
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the responder has panicked");
            }
        }
    }

    /// Ends both threads, and leaves everything as it is: another process goes on with it.
    pub fn leave(&self) {
        self.0.shared.change(|state| {
            state.is_left = true;
            true
        });
        self.stop();
    }

    /// These are the interfaces from now on. Each is opened when it is there and up, whenever that is.
    pub fn set_interfaces(&self, wanted: BTreeSet<Box<str>>) {
        let fault = match self.0.is_none {
            true => SegmentFault::Off,
            false => SegmentFault::NotYet,
        };
        self.0.shared.change(|state| {
            if state.wanted == wanted {
                return false;
            }
            state.faults.retain(|name, _| wanted.contains(name));
            state.owned.retain(|name, _| wanted.contains(name));
            for name in wanted.difference(&state.wanted) {
                state.faults.insert(name.clone(), fault.clone());
            }
            state.wanted = wanted;
            true
        });
    }

    /// The kernel shall not answer ARP requests for these addresses from now on, nor name one as a sender. With none,
    /// what a former process has left in place is removed.
    pub fn guard(&self, ranges: Vec<AddressRange>) {
        self.0.shared.change(|state| {
            let ranges = Some(ranges);
            let is_new = state.guarded != ranges;
            state.guarded = ranges;
            is_new
        });
    }

    /// Whether the kernel has been told of all guarded addresses, or can't be.
    pub fn is_guarding(&self) -> bool {
        self.0.is_none || self.0.shared.read(|state| state.told == state.guarded)
    }

    /// Until when answers may be sent on an interface. It has to be renewed.
    pub fn right(&self, interface: &str) -> Arc<AnswerRight> {
        let mut right = None;
        self.0.shared.change(|state| {
            let is_new = !state.rights.contains_key(interface);
            right = Some(state.rights.entry(interface.into()).or_default().clone());
            is_new
        });
        right.unwrap_or_default()
    }

    /// These are the addresses that this gateway owns on an interface, with the numbers of their terms. A new one is
    /// announced at once.
    pub fn set_owned(&self, interface: &str, owned: BTreeMap<IpAddr, u64>) {
        self.0.shared.change(|state| {
            if state.owned.get(interface).is_some_and(|it| **it == owned) {
                return false;
            }
            state.owned.insert(interface.into(), Arc::new(owned));
            true
        });
    }

    /// The interfaces on which it is to answer.
    pub fn interfaces(&self) -> BTreeSet<Box<str>> {
        self.0.shared.read(|state| state.wanted.clone())
    }

    /// When the responder's thread has turned the last time: it does each 100 ms at least. As long as no interface is
    /// wanted it has nothing to do, and this is now.
    pub fn last_turn(&self) -> BootTime {
        let is_wanted = self.0.shared.read(|state| !state.wanted.is_empty());
        match is_wanted {
            true => self.0.shared.last_turn(),
            false => boot_time(),
        }
    }

    /// Who else answers for what this gateway owns, and has done so for a second at least.
    pub fn conflicts(&self) -> BTreeMap<(Box<str>, IpAddr), SeenConflict> {
        self.0.shared.read(|state| state.conflicts.clone())
    }

    /// The interfaces on which nothing can be answered now, and why.
    pub fn faults(&self) -> BTreeMap<Box<str>, SegmentFault> {
        self.0.shared.read(|state| state.faults.clone())
    }

    /// Why the kernel can't be kept from answering ARP requests for guarded addresses, if so. Several gateways would
    /// all answer then.
    pub fn kernel_answers(&self) -> Option<Arc<str>> {
        self.0.shared.read(|state| state.kernel_answers.clone())
    }

    /// The guarded addresses that an interface of this host has. The kernel answers for them, whoever owns them.
    pub fn own_addresses_in_guard(&self) -> BTreeSet<IpAddr> {
        self.0.shared.read(|state| state.own_in_guard.clone())
    }

    /// Asks whether somebody has these addresses. Each of them has a result within a second or, where there are
    /// many, a little more.
    pub fn probe(&self, interface: &str, addresses: Vec<IpAddr>) -> mpsc::Receiver<ProbeResult> {
        let (results, receiver) = mpsc::channel();
        if !self.0.is_none {
            let request = ProbeRequest {
                interface: interface.into(),
                addresses,
                results,
            };
            self.0.shared.change(|state| {
                state.probes.push(request);
                true
            });
        }
        receiver
    }
}
