//! The listeners, flows and sessions of a worker, and how they belong together.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::net::ListenAddr;
use fairway_gateway_core::flows::{FlowId, FlowTable, Limits};
use fairway_gateway_core::route::Tick;

use super::packets::BATCH;
use super::session::UdpSession;
use crate::descriptors::{Descriptors, Permit};
use crate::engine::mailbox::Receiving;
use crate::engine::poll::{Epoll, SubEpoll, Token, Trigger};
use crate::flow_pool::{FlowAllowance, FlowPool};
use crate::slot::{Slot, Target};

/// A flow ends when it was idle for [`UNREPLIED`] while no endpoint has answered it, for [`REPLIED`] from
/// then on: the kernel's own timeouts for UDP (`nf_conntrack_udp_timeout`, `…_stream`).
const UNREPLIED: Duration = Duration::from_secs(30);
const REPLIED: Duration = Duration::from_secs(120);

/// The shortest time between two looks whether flows have ended, for clients that want more; in milliseconds.
const LOOK: u64 = 100;

/// So many flows of a listener are waited for like everything else.
const DIRECT: usize = 64;

/// The listeners, flows and sessions of a worker.
pub(super) struct UdpSessions {
    listeners: HashMap<u32, UdpListener>,
    by_listen: HashMap<ListenAddr, u32>,
    pub(super) table: FlowTable,
    /// By the slot of their flow.
    sessions: Vec<Option<UdpSession>>,
    /// Sessions whose flows have ended, and whose sockets are still to be closed.
    ended: Vec<UdpSession>,
    allowance: FlowAllowance,
    /// When flows were last ended for clients that wanted more.
    looked: Tick,
}

/// A socket that takes datagrams of clients.
pub(super) struct UdpListener {
    pub(super) receiving: Receiving,
    /// How many messages are taken from it at once.
    pub(super) batch: usize,
    /// What waits for the sockets of its flows, if they are many.
    pub(super) sub_epoll: Option<FlowsEpoll>,
    /// The slots of its flows.
    flows: Vec<u32>,
}

/// What waits for the sockets of many flows of one listener.
pub(super) struct FlowsEpoll {
    pub(super) epoll: SubEpoll,
    _permit: Permit,
}

impl UdpListener {
    /// Waits for the answers on a flow's socket. The first [`DIRECT`] flows are among everything that the
    /// worker waits for, which saves a system call; all others have one turn together.
    ///
    /// # Errors
    /// As [`Epoll::add`].
    pub(super) fn watch(
        &mut self,
        number: u32,
        socket: &OwnedFd,
        token: Token,
        (epoll, descriptors): (&Epoll, &Arc<Descriptors>),
    ) -> io::Result<()> {
        if self.flows.len() >= DIRECT && self.sub_epoll.is_none() {
            // Where there is no descriptor for it, they have their turns with all others.
            self.sub_epoll = FlowsEpoll::begin(number, epoll, descriptors);
        }
        match &self.sub_epoll {
            Some(flows) if self.flows.len() >= DIRECT => flows.epoll.add(socket, token),
            _ => epoll.add(socket, token, Trigger::Level),
        }
    }
}

impl FlowsEpoll {
    fn begin(number: u32, epoll: &Epoll, descriptors: &Arc<Descriptors>) -> Option<Self> {
        let permit = descriptors.take(None, 1)?;
        let sub_epoll = SubEpoll::new().ok()?;
        epoll
            .add(&sub_epoll, Token::Flows(number), Trigger::Level)
            .ok()?;
        Some(Self {
            epoll: sub_epoll,
            _permit: permit,
        })
    }
}

impl UdpSessions {
    pub(super) fn new(seed: u64) -> Self {
        let limits = Limits {
            flows: 1,
            unreplied: UNREPLIED,
            replied: REPLIED,
        };
        Self {
            listeners: HashMap::new(),
            by_listen: HashMap::new(),
            table: FlowTable::new(seed, limits),
            sessions: Vec::new(),
            ended: Vec::new(),
            allowance: FlowAllowance::default(),
            looked: Tick(0),
        }
    }

    pub(super) fn listen(&mut self, number: u32, receiving: Receiving) {
        self.by_listen.insert(receiving.slot.listen, number);
        let listener = UdpListener {
            receiving,
            batch: BATCH,
            sub_epoll: None,
            flows: Vec::new(),
        };
        self.listeners.insert(number, listener);
    }

    pub(super) fn listener(&self, number: u32) -> Option<&UdpListener> {
        self.listeners.get(&number)
    }

    /// The same, to change it.
    pub(super) fn listener_mut(&mut self, number: u32) -> Option<&mut UdpListener> {
        self.listeners.get_mut(&number)
    }

    /// The numbers of all listeners.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        self.listeners.keys().copied()
    }

    /// The number of the listener at that address.
    pub(super) fn number_of(&self, listen: ListenAddr) -> Option<u32> {
        self.by_listen.get(&listen).copied()
    }

    /// All sessions have slots below this.
    pub(super) fn slots(&self) -> u32 {
        u32::try_from(self.sessions.len()).unwrap_or(u32::MAX)
    }

    /// epoll does not watch the socket of a flow any more. (Where another process has it, too, that it is closed here is
    /// not enough.)
    pub(super) fn watch_no_more(&self, id: FlowId, epoll: &Epoll) {
        let Some(session) = self.get(id) else {
            return;
        };
        let listener = self.listeners.get(&session.listener);
        if let Some(flows) = listener.and_then(|it| it.sub_epoll.as_ref()) {
            flows.epoll.remove(&session.socket);
        }
        epoll.remove(&session.socket);
    }

    /// Removes a listener and ends its flows.
    pub(super) fn close(&mut self, number: u32) {
        let Some(listener) = self.listeners.remove(&number) else {
            return;
        };
        let listen = listener.receiving.slot.listen;
        if self.by_listen.get(&listen) == Some(&number) {
            self.by_listen.remove(&listen);
        }
        for slot in listener.flows {
            let session = self.sessions.get_mut(slot as usize);
            if let Some(session) = session.and_then(Option::take) {
                self.table.close(session.id);
                self.ended.push(session);
            }
        }
    }

    /// Ends the flows of a listener whose endpoint serves no more, or all its flows where another Service is
    /// behind it now.
    pub(super) fn sweep(&mut self, slot: &Slot) {
        let number = self.by_listen.get(&slot.listen);
        let Some(listener) = number.and_then(|number| self.listeners.get(number)) else {
            return;
        };
        let target = slot.target.load();
        let stays = |session: &UdpSession| match &**target {
            Target::Port { port, .. } => {
                Arc::ptr_eq(port, &session.port) && port.route().endpoints.serves(session.endpoint)
            }
            Target::Health(_) | Target::Relay(_) => false,
        };
        let sessions = listener.flows.iter().filter_map(|slot| self.at(*slot));
        let gone = sessions.filter(|session| !stays(session));
        let gone: Vec<FlowId> = gone.map(|session| session.id).collect();
        for id in gone {
            self.leave(id);
        }
    }

    /// Ends a flow, whose socket may be closed later.
    pub(super) fn leave(&mut self, id: FlowId) {
        let session = self.end(id);
        self.ended.extend(session);
    }

    /// Ends the flows that have been idle for too long.
    pub(super) fn expire(&mut self, now: Tick) {
        for id in self.table.expire(now) {
            let session = self.take(id);
            self.ended.extend(session);
        }
    }

    /// The same for a client that has as many as it may have, and may have fewer by now. It costs time by the number of
    /// Services, so ten times in a second is enough. Whether any ended.
    pub(super) fn expire_for_more(&mut self, now: Tick) -> bool {
        if now.0 < self.looked.0 + LOOK {
            return false;
        }
        self.looked = now;
        let before = self.table.len();
        self.expire(now);
        self.table.len() < before
    }

    /// Closes some sockets of flows that have ended, `most` of them: to close one is what takes time.
    pub(super) fn close_some(&mut self, most: usize) {
        let left = self.ended.len().saturating_sub(most);
        self.ended.truncate(left);
        if left == 0 {
            // Thousands may have ended at once.
            self.ended.shrink_to(most);
        }
    }

    /// Whether all of them are closed.
    pub(super) fn all_closed(&self) -> bool {
        self.ended.is_empty()
    }

    /// The session in a slot.
    pub(super) fn at(&self, slot: u32) -> Option<&UdpSession> {
        self.sessions.get(slot as usize)?.as_ref()
    }

    /// The session of a flow, if the flow is still there.
    pub(super) fn get(&self, id: FlowId) -> Option<&UdpSession> {
        self.at(id.slot()).filter(|session| session.id == id)
    }

    /// The same, to change it.
    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut UdpSession> {
        let session = self.sessions.get_mut(id.slot() as usize)?.as_mut()?;
        (session.id == id).then_some(session)
    }

    /// Ends a flow.
    pub(super) fn end(&mut self, id: FlowId) -> Option<UdpSession> {
        self.table.close(id);
        self.take(id)
    }

    /// Makes the table as large as the worker may have it for one more flow.
    pub(super) fn grow(&mut self, pool: &FlowPool) {
        let limit = self.allowance.grow(pool, self.table.len());
        self.table.set_limit(limit);
    }

    /// Gives to other workers what is not needed any more.
    pub(super) fn shrink(&mut self, pool: &FlowPool) {
        let limit = self.allowance.shrink(pool, self.table.len());
        self.table.set_limit(limit);
    }

    /// Removes the session of a flow that the table evicted for another one. Its slot may be given out
    /// anew only after that.
    pub(super) fn evicted(&mut self, id: FlowId) {
        if let Some(session) = self.take(id) {
            session.port.counters.flows_evicted.increment();
        }
    }

    /// Evicts a flow of a listener for another one of the same. Whether it had one.
    pub(super) fn evict_at(&mut self, number: u32) -> bool {
        let Some(listener) = self.listeners.get(&number) else {
            return false;
        };
        let evicted = self.table.evict_among(&listener.flows);
        if let Some(evicted) = evicted {
            self.evicted(evicted);
        }
        evicted.is_some()
    }

    /// Adds the session of a flow that was opened in the table.
    pub(super) fn insert(&mut self, mut session: UdpSession) {
        let slot = session.id.slot();
        let Some(listener) = self.listeners.get_mut(&session.listener) else {
            return;
        };
        session.at = listener.flows.len();
        listener.flows.push(slot);
        let slot = slot as usize;
        if self.sessions.len() <= slot {
            self.sessions.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.sessions.get_mut(slot) {
            *place = Some(session);
        }
    }

    /// Takes out the session of a flow, if its slot has not been given to another one since.
    pub(super) fn take(&mut self, id: FlowId) -> Option<UdpSession> {
        let slot = self.sessions.get_mut(id.slot() as usize)?;
        let mut session = slot.take_if(|session| session.id == id)?;
        // Its socket may be closed later.
        session.counted = None;
        if let Some(listener) = self.listeners.get_mut(&session.listener) {
            listener.flows.swap_remove(session.at);
            if let Some(moved) = listener.flows.get(session.at).copied()
                && let Some(Some(moved)) = self.sessions.get_mut(moved as usize)
            {
                moved.at = session.at;
            }
        }
        Some(session)
    }
}
