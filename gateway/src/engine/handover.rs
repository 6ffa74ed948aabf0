//! What a worker is asked for when another process takes over (`take_over`).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::descriptors::Permit;
use crate::handed::{OfferedSocket, WholeConnection, WholeFlow};
use crate::port::Port;
use crate::slot::Slot;

/// A part of handing over, by a worker of either process. Each is answered, so that the next one can follow.
#[derive(Debug)]
pub(crate) enum HandoverCommand {
    /// Tell of listening sockets, those after this number.
    Offer(u32, Sender<OfferedPart>),
    /// Accept and receive, or leave that alone for a while.
    Accept(Admission, Sender<()>),
    /// Freeze some connections, from this number on.
    Freeze(u32, Sender<FrozenPart<WholeConnection>>),
    /// The same with UDP flows.
    FreezeFlows(u32, Sender<FrozenPart<WholeFlow>>),
    /// Forget those of the frozen that the other process has taken, and go on with the others.
    Settle(Vec<bool>, Sender<()>),
    /// Leave all listening sockets to the other process.
    LetGo(Sender<()>),
    /// Go on with connections that another process has handed over.
    Take(Vec<TakenConnection>),
    /// The same with UDP flows.
    TakeFlows(Vec<TakenFlow>),
}

/// What comes in at the listening sockets of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Admission {
    /// TCP connections.
    pub(crate) connections: bool,
    pub(crate) datagrams: bool,
}

impl Admission {
    pub(crate) const ALL: Self = Self {
        connections: true,
        datagrams: true,
    };
    pub(crate) const NONE: Self = Self {
        connections: false,
        datagrams: false,
    };
}

/// Some of the listening sockets of a worker.
#[derive(Debug)]
pub(crate) struct OfferedPart {
    pub(crate) sockets: Vec<(OfferedSocket, OwnedFd)>,
    /// The number of the last one, where there are more.
    pub(crate) last: Option<u32>,
}

/// Some of the connections or flows of a worker.
#[derive(Debug)]
pub(crate) struct FrozenPart<T> {
    pub(crate) frozen: Vec<T>,
    /// Where to go on; none: that was all.
    pub(crate) next: Option<u32>,
    /// How many were passed over that can be handed over later.
    pub(crate) later: usize,
}

/// A connection that another process has handed over.
#[derive(Debug)]
pub(crate) struct TakenConnection {
    pub(crate) whole: WholeConnection,
    pub(crate) port: Arc<Port>,
    pub(crate) slot: Arc<Slot>,
    pub(crate) permit: Permit,
}

/// A UDP flow that another process has handed over.
#[derive(Debug)]
pub(crate) struct TakenFlow {
    pub(crate) whole: WholeFlow,
    pub(crate) port: Arc<Port>,
    pub(crate) permit: Permit,
}
