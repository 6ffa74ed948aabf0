//! What the handle and the thread tell each other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fairway_config::names::ClusterName;
use tokio::sync::Notify;

/// An address on a segment, by the kernel's number of the interface.
pub(crate) type PassedAddress = (u32, IpAddr);

/// The gateway that the packets of an address are passed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassTarget {
    /// Its name.
    pub(crate) gateway: ClusterName,
    /// Its own address on the segment.
    pub(crate) at: IpAddr,
}

/// How passing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PassingState {
    /// Packets are passed.
    Passed,
    /// They can't be; the end of a sentence.
    Refused(Arc<str>),
}

/// What is wanted, and what there is. Nobody holds the lock for long.
#[derive(Debug, Default)]
pub(super) struct PassingBoard {
    pub(super) is_ending: bool,
    pub(super) wanted: Arc<BTreeMap<PassedAddress, PassTarget>>,
    pub(super) states: BTreeMap<PassedAddress, (PassTarget, PassingState)>,
}

/// What handle and thread share.
#[derive(Debug, Default)]
pub(super) struct PassingShared {
    board: Mutex<PassingBoard>,
    pub(super) wake: Notify,
}

impl PassingShared {
    pub(super) fn lock(&self) -> MutexGuard<'_, PassingBoard> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
