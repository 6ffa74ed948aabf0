//! UDP: datagrams in, sessions, datagrams out.
//!
//! `SO_REUSEPORT` spreads by address and port of both ends, so a flow stays on its worker, and each
//! worker has a table of its own. Each flow has a session: a socket connected to its endpoint, so that the
//! kernel tells the answers of one flow from those of another, and an ICMP error ends up where it belongs.
//! Datagrams are taken in batches, and those of one flow go on together. Nothing here waits for a
//! socket to take a datagram: a full queue drops it, as a router would.
//!
//! An endpoint that refuses (ICMP port unreachable) before it has answered is passed over: the datagram
//! goes on to the next one. Where none is left, or where the endpoint had answered before and what it
//! refused is gone, the client is [told](super::unreachable).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::net::{ClientAddr, EndpointAddr, ListenAddr};
use fairway_gateway_core::flows::{FlowId, FlowKey, FlowTable, Limits};
use fairway_gateway_core::reachability::DialFailure;
use fairway_gateway_core::route::Tick;
use socket2::SockAddr;

use super::mailbox::Receiving;
use super::packets::{self, BATCH, Inbox};
use super::poll::{EventFlags, Poll, Token, Watch};
use super::segments::send_all;
use super::session::{UdpSession, connected};
use super::unreachable::PortUnreachable;
use crate::counters::{DropReason, Rejection};
use crate::descriptors::Permit;
use crate::hops::{HopFilter, Hops};
use crate::port::{Active, Port};
use crate::shared::Shared;
use crate::slot::{Slot, Target};

/// A flow that no endpoint has answered goes after this, one that has been answered after
/// [`REPLIED`]: the kernel's own timeouts for UDP (`nf_conntrack_udp_timeout`, `…_stream`).
const UNREPLIED: Duration = Duration::from_secs(30);
const REPLIED: Duration = Duration::from_secs(120);

/// Batches taken from one socket before others have their turn.
const TURNS: usize = 4;

/// How many endpoints may refuse one datagram.
const TRIES: usize = 8;

/// The UDP side of a worker.
pub(super) struct UdpSessions {
    listeners: HashMap<u32, UdpListener>,
    by_listen: HashMap<ListenAddr, u32>,
    table: FlowTable,
    /// By the slot of their flow.
    sessions: Vec<Option<UdpSession>>,
    inbox: Inbox,
    /// The flow of each message of a batch, and its place in the batch.
    sorted: Vec<(FlowId, usize)>,
    /// The kernel takes and gives datagrams as segments of one message.
    offload: bool,
    unreachable: PortUnreachable,
}

struct UdpListener {
    receiving: Receiving,
    /// The slots of its flows.
    flows: Vec<u32>,
}

/// What the UDP side works with.
pub(super) struct UdpContext<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) poll: &'a Poll,
}

impl UdpSessions {
    /// No flow yet, and at most `flows`.
    pub(super) fn new(seed: u64, flows: usize, offload: bool) -> Self {
        let limits = Limits {
            flows,
            unreplied: UNREPLIED,
            replied: REPLIED,
        };
        Self {
            listeners: HashMap::new(),
            by_listen: HashMap::new(),
            table: FlowTable::new(seed, limits),
            sessions: Vec::new(),
            inbox: Inbox::new(),
            sorted: Vec::with_capacity(BATCH),
            offload,
            unreachable: PortUnreachable::open(),
        }
    }

    /// Takes datagrams there from now on.
    pub(super) fn insert(&mut self, number: u32, receiving: Receiving) {
        if self.offload {
            packets::enable_gro(&receiving.socket);
        }
        self.by_listen.insert(receiving.slot.listen, number);
        let listener = UdpListener {
            receiving,
            flows: Vec::new(),
        };
        self.listeners.insert(number, listener);
    }

    pub(super) fn has_flows(&self) -> bool {
        !self.table.is_empty()
    }

    pub(super) fn knows(&self, number: u32) -> bool {
        self.listeners.contains_key(&number)
    }

    /// Closes a socket; its flows end with it.
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
            }
        }
    }

    /// Ends the flows of a listener whose endpoint serves no more, or all of them where another Service is
    /// behind it now. Its cost is that of its own flows.
    pub(super) fn sweep(&mut self, slot: &Slot) {
        let Some(listener) = self.listener_at(slot.listen) else {
            return;
        };
        let target = slot.target.load();
        let stays = |session: &UdpSession| match &**target {
            Target::Port { port, .. } => {
                Arc::ptr_eq(port, &session.port) && port.route().endpoints.serves(session.endpoint)
            }
            Target::Health(_) => false,
        };
        let sessions = listener.flows.iter().filter_map(|slot| self.at(*slot));
        let gone = sessions.filter(|session| !stays(session));
        let gone: Vec<FlowId> = gone.map(|session| session.id).collect();
        for id in gone {
            self.end(id);
        }
    }

    /// Ends the flows that are idle for too long.
    pub(super) fn expire(&mut self, now: Tick) {
        for id in self.table.expire(now) {
            drop(self.take(id));
        }
    }

    fn listener_at(&self, listen: ListenAddr) -> Option<&UdpListener> {
        self.listeners.get(self.by_listen.get(&listen)?)
    }

    fn at(&self, slot: u32) -> Option<&UdpSession> {
        self.sessions.get(slot as usize)?.as_ref()
    }

    /// The session of a flow that is there.
    fn get(&self, id: FlowId) -> Option<&UdpSession> {
        self.at(id.slot()).filter(|session| session.id == id)
    }

    fn get_mut(&mut self, id: FlowId) -> Option<&mut UdpSession> {
        let session = self.sessions.get_mut(id.slot() as usize)?.as_mut()?;
        (session.id == id).then_some(session)
    }

    /// Takes out the session of a flow; not that of one that has its slot now.
    fn take(&mut self, id: FlowId) -> Option<UdpSession> {
        let slot = self.sessions.get_mut(id.slot() as usize)?;
        let session = slot.take_if(|session| session.id == id)?;
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

    /// Ends a flow.
    fn end(&mut self, id: FlowId) -> Option<UdpSession> {
        self.table.close(id);
        self.take(id)
    }

    /// A flow had to go for another one, before its time.
    fn drive_out(&mut self, id: FlowId) {
        if let Some(session) = self.take(id) {
            session.port.counters.flows_evicted.increment();
        }
    }

    /// Datagrams wait at a socket that listens.
    pub(super) fn receive(&mut self, number: u32, context: &UdpContext<'_>) {
        for _ in 0..TURNS {
            let Some(listener) = self.listeners.get(&number) else {
                return;
            };
            match self.inbox.receive(&listener.receiving.socket, BATCH) {
                Ok(count) => {
                    self.batch(number, count, context);
                    if count < BATCH {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    let listen = listener.receiving.slot.listen;
                    return tracing::debug!(%listen, %error, "receive");
                }
            }
        }
    }

    /// Sends the datagrams of a batch on their way, those of one flow together.
    fn batch(&mut self, number: u32, count: usize, context: &UdpContext<'_>) {
        let Some(listener) = self.listeners.get(&number) else {
            return;
        };
        let listen = listener.receiving.slot.listen;
        let now = context.shared.clock.now();
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.clear();
        for at in 0..count {
            let Some(client) = self.inbox.get(at).and_then(|message| message.from) else {
                continue;
            };
            let key = FlowKey {
                client: ClientAddr(client),
                listen,
            };
            if let Some(id) = self.table.received(key, now) {
                sorted.push((id, at));
            } else if let Some(id) = self.open(number, key, Vec::new(), now, context) {
                self.keep(id, at);
                // At once: the next one that opens may drive it out.
                self.forward(id, &[(id, at)], now, context);
            }
        }
        // Stable: the datagrams of a flow stay in order.
        sorted.sort_by_key(|(id, _)| id.slot());
        for group in sorted.chunk_by(|(one, _), (other, _)| one == other) {
            if let Some((id, _)) = group.first() {
                self.forward(*id, group, now, context);
            }
        }
        self.sorted = sorted;
    }

    /// Keeps a flow's first datagram, which has that place in the batch.
    fn keep(&mut self, id: FlowId, at: usize) {
        let session = self.sessions.get_mut(id.slot() as usize);
        if let Some(session) = session.and_then(Option::as_mut)
            && let Some(first) = self.inbox.get(at).and_then(|it| it.datagrams().next())
        {
            session.keep(first);
        }
    }

    /// Sends some of the batch to the endpoint of their flow, or to another one where it refuses.
    fn forward(
        &mut self,
        id: FlowId,
        group: &[(FlowId, usize)],
        now: Tick,
        context: &UdpContext<'_>,
    ) {
        if self.send(id, group, now) {
            return;
        }
        // The endpoint refuses: once more, to another one.
        if let Some(id) = self.pass_on(id, now, context) {
            self.send(id, group, now);
        }
    }

    /// Sends some of the batch to the endpoint of their flow; false where it refuses.
    fn send(&self, id: FlowId, group: &[(FlowId, usize)], now: Tick) -> bool {
        let Some(session) = self.get(id) else {
            return true;
        };
        if session.is_refused {
            return false;
        }
        let messages = group.iter().filter_map(|(_, at)| self.inbox.get(*at));
        let counters = &session.port.counters;
        let sent = send_all(&session.socket, None, messages, self.offload);
        counters.datagrams_received.add(sent.datagrams);
        counters.received.add(sent.bytes);
        let is_refused = sent.is_refused();
        if let Some(error) = sent.error {
            if error.kind() != io::ErrorKind::WouldBlock {
                session.failed(&error, now);
            }
            tracing::debug!(endpoint = %session.endpoint, %error, "datagram not sent");
            if !is_refused {
                counters.dropped(DropReason::of(&error), sent.dropped);
            }
        }
        !is_refused
    }

    /// The endpoint of a flow refused: the flow goes on with another one, which gets what the first one
    /// did not take. Nothing where none is left; the client is told so.
    fn pass_on(&mut self, id: FlowId, now: Tick, context: &UdpContext<'_>) -> Option<FlowId> {
        let mut session = self.end(id)?;
        let mut refused_by = std::mem::take(&mut session.refused_by);
        refused_by.push(session.endpoint);
        let (number, key) = (session.listener, session.key());
        let unanswered = session.unanswered.take();
        drop(session);
        let id = self.open(number, key, refused_by, now, context)?;
        if let Some(datagram) = unanswered
            && let Some(session) = self.get_mut(id)
        {
            let sent = packets::send(&session.socket, None, &[&datagram], None);
            let counters = &session.port.counters;
            match sent {
                Ok(()) => {
                    counters.datagrams_received.increment();
                    counters.received.add(datagram.len() as u64);
                }
                Err(error) => session.failed(&error, now),
            }
            session.keep(&datagram);
        }
        Some(id)
    }

    /// Opens a flow for a client, to another endpoint than those that refused it.
    fn open(
        &mut self,
        number: u32,
        key: FlowKey,
        refused_by: Vec<EndpointAddr>,
        now: Tick,
        context: &UdpContext<'_>,
    ) -> Option<FlowId> {
        let listener = self.listeners.get(&number)?;
        let hop_filter = listener.receiving.part.hop_filter();
        let target = listener.receiving.slot.target.load_full();
        let Target::Port { port, kind } = &*target else {
            return None;
        };
        port.counters.touch();
        let client = key.client.0;
        let route = port.route();
        // A route changes before the socket does, which then takes too much for a moment.
        if hop_filter == HopFilter::TakeAll && HopFilter::of(&route) == HopFilter::DropForwarded {
            port.counters.reject(Rejection::Loop);
            return None;
        }
        port.admit(&route, *kind, client.ip()).ok()?;
        let picked = (refused_by.len() < TRIES)
            .then(|| port.pick_for_flow(&route, client, now, &refused_by))
            .flatten();
        let Some(picked) = picked else {
            if refused_by.is_empty() {
                port.counters.reject(Rejection::NoEndpoint);
            } else {
                port.counters.dropped(DropReason::Refused, 1);
            }
            self.unreachable.tell(key, now);
            return None;
        };
        let endpoint = picked.addr;
        let Some(permit) = self.permit(port, context) else {
            port.counters.reject(Rejection::Limit);
            return None;
        };
        let socket = match connected(endpoint, Hops::of_datagrams(&route)) {
            Ok(socket) => socket,
            Err(error) => {
                let why = DialFailure::of(&error);
                port.datagram_failed(&port.endpoint(endpoint), why, now);
                if why == DialFailure::Exhausted {
                    port.counters.reject(Rejection::Limit);
                }
                tracing::debug!(%endpoint, %error, "flow not opened");
                return None;
            }
        };
        if self.offload {
            packets::enable_gro(&socket);
        }
        let (id, evicted) = self.table.open(key, &route.service, now);
        if let Some(evicted) = evicted {
            self.drive_out(evicted);
        }
        let token = Token::Flow(id.slot());
        if let Err(error) = context.poll.add(&socket, token, Watch::Level) {
            tracing::warn!(%error, "a flow can't be watched");
            port.counters.reject(Rejection::Limit);
            self.table.close(id);
            return None;
        }
        port.counters.flows.increment();
        if refused_by.is_empty() {
            port.counters.completed.increment();
        }
        let flows = &mut self.listeners.get_mut(&number)?.flows;
        let session = UdpSession {
            id,
            socket,
            listener: number,
            at: flows.len(),
            listen: key.listen,
            client: key.client,
            endpoint,
            active: Active::new(port.endpoint(endpoint)),
            port: port.clone(),
            unanswered: None,
            is_refused: false,
            refused_by,
            _permit: permit,
        };
        flows.push(id.slot());
        let slot = id.slot() as usize;
        if self.sessions.len() <= slot {
            self.sessions.resize_with(slot + 1, || None);
        }
        if let Some(place) = self.sessions.get_mut(slot) {
            *place = Some(session);
        }
        Some(id)
    }

    /// Leave to have one more socket. Where there is none, a flow of the same Service makes room.
    fn permit(&mut self, port: &Port, context: &UdpContext<'_>) -> Option<Permit> {
        let descriptors = &context.shared.descriptors;
        if let Some(permit) = descriptors.take(Some(&port.share), 1) {
            return Some(permit);
        }
        let first = self.table.drop_one(&port.route().service)?;
        self.drive_out(first);
        descriptors.take(Some(&port.share), 1)
    }

    /// The endpoint of a flow has answered, or its socket has an error to tell.
    pub(super) fn answers(&mut self, slot: u32, flags: EventFlags, context: &UdpContext<'_>) {
        let Some(session) = self.at(slot) else {
            return;
        };
        let id = session.id;
        if flags.contains(EventFlags::ERR)
            && let Ok(Err(error)) = rustix::net::sockopt::socket_error(&session.socket)
        {
            self.failed(id, &error.into(), context);
        }
        // The flow may be another one now.
        if !flags.contains(EventFlags::IN) || self.get(id).is_none() {
            return;
        }
        let session = self.sessions.get_mut(slot as usize);
        let Some(session) = session.and_then(Option::as_mut) else {
            return;
        };
        session.unanswered = None;
        match self.inbox.receive(&session.socket, BATCH) {
            Ok(count) => {
                // From the socket that listens at the VIP, so an answer comes from where the client
                // asked.
                if let Some(listener) = self.listeners.get(&session.listener) {
                    let to = SockAddr::from(session.client.0);
                    let messages = (0..count).filter_map(|at| self.inbox.get(at));
                    let socket = &listener.receiving.socket;
                    let sent = send_all(socket, Some(&to), messages, self.offload);
                    let counters = &session.port.counters;
                    counters.datagrams_transmitted.add(sent.datagrams);
                    counters.transmitted.add(sent.bytes);
                    if let Some(error) = sent.error {
                        counters.dropped(DropReason::of(&error), sent.dropped);
                        tracing::debug!(client = %session.client, %error, "answer not sent");
                    }
                }
                session.port.answered(session.active.state());
                self.table.replied(id, context.shared.clock.now());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.failed(id, &error, context),
        }
    }

    /// An ICMP error came for a flow.
    fn failed(&mut self, id: FlowId, error: &io::Error, context: &UdpContext<'_>) {
        let now = context.shared.clock.now();
        let Some(session) = self.get_mut(id) else {
            return;
        };
        session.failed(error, now);
        if error.kind() != io::ErrorKind::ConnectionRefused {
            return;
        }
        if session.unanswered.is_some() {
            self.pass_on(id, now, context);
        } else {
            // What was refused is not known any more: the client knows.
            session.is_refused = true;
            session.port.counters.dropped(DropReason::Refused, 1);
            let (key, has_others) = (session.key(), session.has_others());
            self.unreachable.tell(key, now);
            if !has_others {
                // The next datagram is to find out whether it refuses still.
                self.end(id);
            }
        }
    }
}
