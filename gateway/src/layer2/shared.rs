//! What the handle and the two threads tell each other.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use fairway_config::net::AddressRange;
use fairway_gateway_core::fleet::BootTime;
use fairway_gateway_core::layer2::{HardwareAddress, ProbeResult, SeenConflict};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::Notify;

use super::faults::SegmentFault;
use super::sockets::SegmentSockets;

/// Until when answers may be sent.
#[derive(Debug, Default)]
pub struct AnswerRight(AtomicU64);

impl AnswerRight {
    /// It lasts until then.
    pub fn set(&self, until: BootTime) {
        let nanoseconds = u64::try_from(until.0.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanoseconds, Ordering::Release);
    }

    /// Until when it lasts.
    pub fn until(&self) -> BootTime {
        BootTime(Duration::from_nanos(self.0.load(Ordering::Acquire)))
    }
}

/// What is wanted, and what there is. Nobody holds the lock for long.
#[derive(Debug, Default)]
pub(super) struct Layer2State {
    /// Grows with each change.
    pub(super) version: u64,
    pub(super) is_stopping: bool,
    /// Another process goes on with what the kernel was told.
    pub(super) is_left: bool,
    /// What the handle says.
    pub(super) wanted: BTreeSet<Box<str>>,
    /// None: not known yet.
    pub(super) guarded: Option<Vec<AddressRange>>,
    /// The guarded addresses that the kernel has been told of, as far as it can be.
    pub(super) told: Option<Vec<AddressRange>>,
    pub(super) rights: BTreeMap<Box<str>, Arc<AnswerRight>>,
    pub(super) owned: BTreeMap<Box<str>, Arc<BTreeMap<IpAddr, u64>>>,
    pub(super) probes: Vec<ProbeRequest>,
    /// What the thread `fairway-links` says: the interfaces that are up, and what is wrong with the others.
    pub(super) links: BTreeMap<Box<str>, OpenLink>,
    pub(super) faults: BTreeMap<Box<str>, SegmentFault>,
    pub(super) kernel_answers: Option<Arc<str>>,
    pub(super) own_in_guard: BTreeSet<IpAddr>,
    /// What the responder says.
    pub(super) conflicts: BTreeMap<(Box<str>, IpAddr), SeenConflict>,
}

/// An interface that is up.
#[derive(Clone, Debug)]
pub(super) struct OpenLink {
    pub(super) sockets: Arc<SegmentSockets>,
    pub(super) hardware: HardwareAddress,
    /// Those of all interfaces of this host.
    pub(super) of_host: Arc<BTreeSet<HardwareAddress>>,
    /// Grows whenever all addresses have to be announced again.
    pub(super) news: u64,
}

/// Addresses that are to be probed for.
#[derive(Debug)]
pub(super) struct ProbeRequest {
    pub(super) interface: Box<str>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) results: mpsc::Sender<ProbeResult>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Layer2Shared {
    state: Mutex<Layer2State>,
    /// Wakes the responder; none where there is none.
    pub(super) responder: Option<OwnedFd>,
    /// Wakes the thread `fairway-links`.
    pub(super) links: Notify,
    /// In nanoseconds since the start of the machine.
    last_turn: AtomicU64,
}

impl Layer2Shared {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            responder: Some(wake),
            ..Self::without_wake()
        })
    }

    pub(super) fn without_wake() -> Self {
        Self {
            state: Mutex::default(),
            responder: None,
            links: Notify::new(),
            last_turn: AtomicU64::new(0),
        }
    }

    /// Changes something; `change` says whether it has. Wakes both threads then.
    pub(super) fn change(&self, change: impl FnOnce(&mut Layer2State) -> bool) {
        let changed = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = change(&mut state);
            state.version += u64::from(changed);
            changed
        };
        if changed {
            self.links.notify_one();
            self.wake_responder();
        }
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Layer2State) -> T) -> T {
        read(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says what one of the threads has found. Wakes nobody.
    pub(super) fn say<T>(&self, say: impl FnOnce(&mut Layer2State) -> T) -> T {
        say(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the responder look at what is new.
    pub(super) fn wake_responder(&self) {
        if let Some(wake) = &self.responder {
            // It fails where the count is full: then it is awake.
            let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        }
    }

    pub(super) fn stop(&self) {
        self.change(|state| {
            state.is_stopping = true;
            true
        });
    }

    pub(super) fn note_turn(&self, now: BootTime) {
        let nanoseconds = u64::try_from(now.0.as_nanos()).unwrap_or(u64::MAX);
        self.last_turn.store(nanoseconds, Ordering::Relaxed);
    }

    pub(super) fn last_turn(&self) -> BootTime {
        BootTime(Duration::from_nanos(self.last_turn.load(Ordering::Relaxed)))
    }
}
