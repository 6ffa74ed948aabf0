//! The UDP side of a worker: its sessions, and what they work with.

use std::sync::Arc;

use fairway_gateway_core::flows::FlowId;
use fairway_gateway_core::route::Tick;

use super::eviction_log::EvictionLog;
use super::packets::{self, BATCH, Inbox};
use super::port_unreachable::PortUnreachable;
use super::session::UdpSession;
use super::sessions::UdpSessions;
use crate::engine::mailbox::Receiving;
use crate::engine::poll::{Epoll, EventFlags, Token};
use crate::shared::GatewayShared;
use crate::slot::Slot;

/// The UDP side of a worker.
pub(crate) struct UdpProxy {
    pub(super) sessions: UdpSessions,
    pub(super) inbox: Inbox,
    /// What flows of one listener have to tell. Kept for its memory.
    pub(super) ready: Vec<(Token, EventFlags)>,
    /// The flow of each message of a batch, and the message's index in the batch. Kept for its memory.
    pub(super) sorted: Vec<(FlowId, usize)>,
    /// Whether the kernel may take and give datagrams as segments of one message (GSO, GRO).
    pub(super) offload: bool,
    pub(super) port_unreachable: PortUnreachable,
    pub(super) eviction_log: EvictionLog,
    /// Flows that go to another process, and whether their endpoint has answered.
    pub(super) frozen: Vec<(UdpSession, bool)>,
}

/// What the UDP side works with and does not own.
pub(crate) struct UdpContext<'a> {
    pub(crate) shared: &'a Arc<GatewayShared>,
    pub(crate) poll: &'a Epoll,
}

impl UdpProxy {
    /// No listener and no flow yet. Nobody outside may know `seed`.
    pub(crate) fn new(seed: u64, shared: &GatewayShared) -> Self {
        Self {
            sessions: UdpSessions::new(seed),
            inbox: Inbox::new(),
            ready: Vec::new(),
            sorted: Vec::with_capacity(BATCH),
            offload: shared.udp_offload,
            port_unreachable: PortUnreachable::new(shared.icmp_sockets.clone()),
            eviction_log: EvictionLog::default(),
            frozen: Vec::new(),
        }
    }

    /// Takes datagrams at a socket from now on; it is known by that number.
    pub(crate) fn listen(&mut self, number: u32, receiving: Receiving) {
        if self.offload {
            packets::enable_gro(&receiving.socket);
        }
        self.sessions.listen(number, receiving);
    }

    /// Whether there is any flow.
    pub(crate) fn has_flows(&self) -> bool {
        !self.sessions.table.is_empty()
    }

    /// Whether it has a socket of that number.
    pub(crate) fn knows(&self, number: u32) -> bool {
        self.sessions.listener(number).is_some()
    }

    /// Closes a socket; its flows end with it.
    pub(crate) fn close(&mut self, number: u32, shared: &GatewayShared) {
        self.sessions.close(number);
        self.sessions.shrink(&shared.flow_pool);
    }

    /// Ends the flows of a listener whose endpoint serves no more, or all its flows where another Service is
    /// behind it now. It costs time by the number of its own flows.
    pub(crate) fn sweep(&mut self, slot: &Slot, shared: &GatewayShared) {
        self.sessions.sweep(slot);
        self.sessions.shrink(&shared.flow_pool);
    }

    /// Ends the flows that have been idle for too long.
    pub(crate) fn expire(&mut self, now: Tick, shared: &GatewayShared) {
        self.sessions.expire(now);
        self.sessions.shrink(&shared.flow_pool);
    }

    /// Closes some sockets of flows that have ended, `most` of them, so that others wait for no more.
    pub(crate) fn close_some(&mut self, most: u32) {
        self.sessions.close_some(most as usize);
    }

    /// Whether no socket is left that has to be closed.
    pub(crate) fn all_closed(&self) -> bool {
        self.sessions.all_closed()
    }
}
