//! UDP: datagrams in, flows, datagrams out.
//!
//! `SO_REUSEPORT` spreads by address and port of both ends, so a flow stays on its worker, and each
//! worker has a table of its own. Each flow has a socket connected to its endpoint: the kernel
//! tells the answers of one flow from those of another, and an ICMP error ends up where it belongs.
//! Datagrams are taken in batches, and those of one flow go on together. Nothing here waits for a
//! socket to take a datagram: a full queue drops it, as a router would.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::net::{ClientAddr, EndpointAddr, ListenAddr};
use fairway_gateway_core::flows::{FlowId, FlowKey, FlowTable, Limits};
use fairway_gateway_core::reachability::DialFailure;
use fairway_gateway_core::route::Tick;
use socket2::{Domain, SockAddr, Socket, Type};

use super::mailbox::Receiving;
use super::packets::{self, BATCH, Inbox, Row};
use super::poll::{EventFlags, Poll, Token, Watch};
use crate::counters::Rejection;
use crate::descriptors::Permit;
use crate::hops::{Guard, Hops};
use crate::port::{Active, Port};
use crate::shared::Shared;
use crate::slot::{Slot, Target};
use crate::socket;

/// A flow that no endpoint has answered goes after this, one that has been answered after
/// [`REPLIED`]: the kernel's own timeouts for UDP (`nf_conntrack_udp_timeout`, `…_stream`).
const UNREPLIED: Duration = Duration::from_secs(30);
const REPLIED: Duration = Duration::from_secs(120);

/// Batches taken from one socket before others have their turn.
const TURNS: usize = 4;

/// The UDP side of a worker.
pub(super) struct Datagrams {
    listeners: HashMap<u32, Receiving>,
    table: FlowTable,
    /// By the slot of their flow.
    ways: Vec<Option<Way>>,
    inbox: Inbox,
    /// The flow of each message of a batch, and its place in the batch.
    sorted: Vec<(FlowId, usize)>,
    /// The kernel sends rows of datagrams as one.
    rows: bool,
}

/// The way of one flow to its endpoint; the flow ends with it.
struct Way {
    id: FlowId,
    socket: OwnedFd,
    listener: u32,
    listen: ListenAddr,
    client: ClientAddr,
    endpoint: EndpointAddr,
    port: Arc<Port>,
    /// The endpoint refused: the next datagram goes elsewhere.
    refused: bool,
    active: Active,
    _permit: Permit,
}

/// What the UDP side works with.
pub(super) struct Surroundings<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) poll: &'a Poll,
}

impl Datagrams {
    /// No flow yet, and at most `flows`.
    pub(super) fn new(seed: u64, flows: usize, rows: bool) -> Self {
        let limits = Limits {
            flows,
            // One client may not drive out all others; many may be behind one address.
            per_client: (flows / 4).max(1),
            unreplied: UNREPLIED,
            replied: REPLIED,
        };
        Self {
            listeners: HashMap::new(),
            table: FlowTable::new(seed, limits),
            ways: Vec::new(),
            inbox: Inbox::new(),
            sorted: Vec::with_capacity(BATCH),
            rows,
        }
    }

    /// Takes datagrams there from now on.
    pub(super) fn insert(&mut self, number: u32, receiving: Receiving) {
        if self.rows {
            packets::coalesce(&receiving.socket);
        }
        self.listeners.insert(number, receiving);
    }

    pub(super) fn has_flows(&self) -> bool {
        !self.table.is_empty()
    }

    pub(super) fn knows(&self, number: u32) -> bool {
        self.listeners.contains_key(&number)
    }

    /// Closes a socket; its flows end with it.
    pub(super) fn close(&mut self, number: u32) {
        self.close_where(|way| way.listener == number);
        self.listeners.remove(&number);
    }

    /// Ends the flows of a listener whose endpoint is not eligible any more, or all of them where
    /// another Service is behind it now.
    pub(super) fn sweep(&mut self, slot: &Slot) {
        let target = slot.target.load();
        self.close_where(|way| {
            way.listen == slot.listen
                && match &**target {
                    Target::Port { port, .. } => {
                        !Arc::ptr_eq(port, &way.port) || !is_eligible(port, way.endpoint)
                    }
                    Target::Health(_) => true,
                }
        });
    }

    /// Ends the flows that are idle for too long.
    pub(super) fn expire(&mut self, now: Tick) {
        for id in self.table.expire(now) {
            self.forget(id);
        }
    }

    fn close_where(&mut self, gone: impl Fn(&Way) -> bool) {
        for way in &mut self.ways {
            if let Some(closing) = way
                && gone(closing)
            {
                self.table.close(closing.id);
                *way = None;
            }
        }
    }

    /// The way of a flow is gone; not that of one that has its slot now.
    fn forget(&mut self, id: FlowId) {
        if let Some(way) = self.ways.get_mut(id.slot() as usize)
            && way.as_ref().is_some_and(|way| way.id == id)
        {
            *way = None;
        }
    }

    /// A flow had to go for another one, before its time.
    fn drive_out(&mut self, id: FlowId) {
        if let Some(way) = self.way(id) {
            way.port.counters.flows_evicted.increment();
        }
        self.forget(id);
    }

    /// The way of a flow that is there.
    fn way(&self, id: FlowId) -> Option<&Way> {
        let way = self.ways.get(id.slot() as usize)?.as_ref()?;
        (way.id == id).then_some(way)
    }

    /// Datagrams wait at a socket that listens.
    pub(super) fn receive(&mut self, number: u32, around: &Surroundings<'_>) {
        for _ in 0..TURNS {
            let Some(listener) = self.listeners.get(&number) else {
                return;
            };
            match self.inbox.receive(&listener.socket, BATCH) {
                Ok(count) => {
                    self.batch(number, count, around);
                    if count < BATCH {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    return tracing::debug!(listen = %listener.slot.listen, %error, "receive");
                }
            }
        }
    }

    /// Sends the datagrams of a batch on their way, those of one flow together.
    fn batch(&mut self, number: u32, count: usize, around: &Surroundings<'_>) {
        let Some(listener) = self.listeners.get(&number) else {
            return;
        };
        let listen = listener.slot.listen;
        let now = around.shared.clock.now();
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.clear();
        for at in 0..count {
            let Some(client) = self.inbox.get(at).and_then(|row| row.from) else {
                continue;
            };
            let key = FlowKey {
                client: ClientAddr(client),
                listen,
            };
            if let Some(id) = self.table.received(key, now) {
                sorted.push((id, at));
            } else if let Some(id) = self.open(number, key, None, now, around) {
                // At once: the next one that opens may drive it out.
                self.forward(id, &[(id, at)], now);
            }
        }
        // Stable: the datagrams of a flow stay in order.
        sorted.sort_by_key(|(id, _)| id.slot());
        for group in sorted.chunk_by(|(one, _), (other, _)| one == other) {
            let Some((id, _)) = group.first() else {
                continue;
            };
            if self.forward(*id, group, now) {
                continue;
            }
            // The endpoint refuses: once more, to another one.
            let Some(way) = self.way(*id) else {
                continue;
            };
            let (key, refused) = (
                FlowKey {
                    client: way.client,
                    listen,
                },
                way.endpoint,
            );
            self.table.close(*id);
            self.forget(*id);
            if let Some(id) = self.open(number, key, Some(refused), now, around) {
                self.forward(id, group, now);
            }
        }
        self.sorted = sorted;
    }

    /// Sends some of the batch to the endpoint of their flow; false where it refuses.
    fn forward(&self, id: FlowId, group: &[(FlowId, usize)], now: Tick) -> bool {
        let Some(way) = self.way(id) else {
            return true;
        };
        if way.refused {
            return false;
        }
        let rows = group.iter().filter_map(|(_, at)| self.inbox.get(*at));
        let counters = &way.port.counters;
        let (sent, bytes, error) = send_rows(&way.socket, None, rows, self.rows);
        counters.datagrams_received.add(sent);
        counters.received.add(bytes);
        match error {
            Some(error) if error.kind() != io::ErrorKind::WouldBlock => {
                way.failed(&error, now);
                tracing::debug!(endpoint = %way.endpoint, %error, "datagram not sent");
                error.kind() != io::ErrorKind::ConnectionRefused
            }
            _ => true,
        }
    }

    /// Opens a flow for a client, to another endpoint than one that refused, if there is another.
    fn open(
        &mut self,
        number: u32,
        key: FlowKey,
        refused: Option<EndpointAddr>,
        now: Tick,
        around: &Surroundings<'_>,
    ) -> Option<FlowId> {
        let listener = self.listeners.get(&number)?;
        let guard = listener.part.guard();
        let target = listener.slot.target.load_full();
        let Target::Port { port, kind } = &*target else {
            return None;
        };
        port.counters.touch();
        let client = key.client.0.ip();
        let (endpoint, hops) = {
            let route = port.route();
            // A route changes before the socket does, which then takes too much for a moment.
            if guard == Guard::Open && Guard::of(&route) == Guard::Shut {
                port.counters.reject(Rejection::Loop);
                return None;
            }
            port.admit(&route, *kind, client).ok()?;
            let picked = port
                .pick(&route, client, now, refused.as_slice())
                // The one that refused may be the only one.
                .or_else(|| port.pick(&route, client, now, &[]));
            let Some(endpoint) = picked else {
                port.counters.reject(Rejection::NoEndpoint);
                return None;
            };
            (endpoint.addr, Hops::of_datagrams(&route))
        };
        let Some(permit) = around.shared.descriptors.take(Some(&port.share), 1) else {
            port.counters.reject(Rejection::Limit);
            return None;
        };
        let socket = match connected(endpoint, hops) {
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
        if self.rows {
            packets::coalesce(&socket);
        }
        let (id, evicted) = self.table.open(key, now);
        if let Some(evicted) = evicted {
            self.drive_out(evicted);
        }
        if let Err(error) = around
            .poll
            .add(&socket, Token::Flow(id.slot()), Watch::Level)
        {
            tracing::warn!(%error, "a flow can't be watched");
            self.table.close(id);
            return None;
        }
        port.counters.flows.increment();
        port.counters.completed.increment();
        let slot = id.slot() as usize;
        if self.ways.len() <= slot {
            self.ways.resize_with(slot + 1, || None);
        }
        if let Some(way) = self.ways.get_mut(slot) {
            *way = Some(Way {
                id,
                socket,
                listener: number,
                listen: key.listen,
                client: key.client,
                endpoint,
                active: Active::new(port.endpoint(endpoint)),
                port: port.clone(),
                refused: false,
                _permit: permit,
            });
        }
        Some(id)
    }

    /// The endpoint of a flow has answered, or its socket has an error to tell.
    pub(super) fn answers(&mut self, slot: u32, flags: EventFlags, around: &Surroundings<'_>) {
        let Some(way) = self.ways.get_mut(slot as usize).and_then(Option::as_mut) else {
            return;
        };
        if flags.contains(EventFlags::ERR)
            && let Ok(Err(error)) = rustix::net::sockopt::socket_error(&way.socket)
        {
            way.refuse(&error.into(), around.shared.clock.now());
        }
        if !flags.contains(EventFlags::IN) {
            return;
        }
        match self.inbox.receive(&way.socket, BATCH) {
            Ok(count) => {
                // From the socket that listens at the VIP, so an answer comes from where the client
                // asked.
                if let Some(listener) = self.listeners.get(&way.listener) {
                    let to = SockAddr::from(way.client.0);
                    let rows = (0..count).filter_map(|at| self.inbox.get(at));
                    let (sent, bytes, error) =
                        send_rows(&listener.socket, Some(&to), rows, self.rows);
                    way.port.counters.datagrams_transmitted.add(sent);
                    way.port.counters.transmitted.add(bytes);
                    if let Some(error) = error {
                        tracing::debug!(client = %way.client, %error, "answer not sent");
                    }
                }
                way.port.answered(way.active.state());
                self.table.replied(way.id, around.shared.clock.now());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => way.refuse(&error, around.shared.clock.now()),
        }
    }
}

impl Way {
    /// Something was not sent, or did not arrive.
    fn failed(&self, error: &io::Error, now: Tick) {
        let why = DialFailure::of(error);
        self.port.datagram_failed(self.active.state(), why, now);
    }

    /// An ICMP error: where the endpoint refuses, the next datagram of the client goes elsewhere.
    fn refuse(&mut self, error: &io::Error, now: Tick) {
        self.failed(error, now);
        self.refused |= error.kind() == io::ErrorKind::ConnectionRefused;
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.port.counters.flows.decrement();
    }
}

/// Sends rows of datagrams, as few messages as the kernel lets them be; how many datagrams and bytes
/// went, and the last error.
fn send_rows<'a>(
    socket: &OwnedFd,
    to: Option<&SockAddr>,
    rows: impl Iterator<Item = Row<'a>>,
    as_one: bool,
) -> (u64, u64, Option<io::Error>) {
    let mut outgoing = Outgoing {
        socket,
        to,
        sent: 0,
        bytes: 0,
        error: None,
    };
    // Datagrams that come one by one and could go as one. The array is as long as a row may be.
    let mut waiting: [&[u8]; BATCH] = [&[]; BATCH];
    let mut count = 0;
    for row in rows {
        if row.count() > 1 {
            outgoing.row(waiting.get(..count).unwrap_or_default());
            count = 0;
            if as_one {
                outgoing.message(&[row.bytes], row.count(), u16::try_from(row.segment).ok());
            } else {
                row.datagrams()
                    .for_each(|datagram| outgoing.message(&[datagram], 1, None));
            }
            continue;
        }
        if count == waiting.len() {
            outgoing.row(&waiting);
            count = 0;
        }
        if let Some(place) = waiting.get_mut(count) {
            *place = row.bytes;
        }
        count += 1;
        let pieces = waiting.get(..count).unwrap_or_default();
        if count > 1 && !(as_one && packets::is_row(pieces)) {
            outgoing.row(pieces.get(..count - 1).unwrap_or_default());
            waiting.swap(0, count - 1);
            count = 1;
        }
    }
    outgoing.row(waiting.get(..count).unwrap_or_default());
    (outgoing.sent, outgoing.bytes, outgoing.error)
}

struct Outgoing<'a> {
    socket: &'a OwnedFd,
    to: Option<&'a SockAddr>,
    sent: u64,
    bytes: u64,
    error: Option<io::Error>,
}

impl Outgoing<'_> {
    /// The endpoint refuses: what is left goes elsewhere.
    fn refused(&self) -> bool {
        let refused = io::ErrorKind::ConnectionRefused;
        self.error
            .as_ref()
            .is_some_and(|error| error.kind() == refused)
    }

    /// Sends what is none, one or a row.
    fn row(&mut self, pieces: &[&[u8]]) {
        match pieces {
            [] => {}
            [_] => self.message(pieces, 1, None),
            [first, ..] => {
                self.message(pieces, pieces.len(), u16::try_from(first.len()).ok());
            }
        }
    }

    fn message(&mut self, pieces: &[&[u8]], count: usize, segment: Option<u16>) {
        if self.refused() {
            return;
        }
        let send = || packets::send(self.socket, self.to, pieces, segment);
        // A socket tells of what became of an earlier datagram, once, and sends nothing.
        let sent = match send() {
            Err(error) if segment.is_none() && !is_of_the_peer(&error) => send(),
            sent => sent,
        };
        match sent {
            Ok(()) => {
                self.sent += count as u64;
                self.bytes += pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
            }
            // A network device, a tunnel or a path with a smaller MTU that can't have it as one.
            Err(error) if segment.is_some() && !is_of_the_peer(&error) => {
                let segment = usize::from(segment.unwrap_or(1)).max(1);
                for datagram in pieces.iter().flat_map(|piece| piece.chunks(segment)) {
                    self.message(&[datagram], 1, None);
                }
            }
            Err(error) => self.error = Some(error),
        }
    }
}

/// Whether it is no use to send again, in whatever way.
fn is_of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused
    )
}

fn is_eligible(port: &Port, endpoint: EndpointAddr) -> bool {
    let route = port.route();
    let mut eligible = route.endpoints.eligible.iter();
    eligible.any(|eligible| eligible.addr == endpoint)
}

/// A socket connected to an endpoint, whose datagrams have so many hops if that is said.
pub(super) fn connected(endpoint: EndpointAddr, hops: Option<Hops>) -> io::Result<OwnedFd> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(endpoint.0), kind, None)?;
    if let Some(hops) = hops {
        hops.set(&socket, endpoint.0.is_ipv4())?;
    }
    socket::queue_datagrams(&socket);
    socket.connect(&endpoint.0.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::net::UdpSocket;

    use super::*;

    /// More than the default of `net.core.rmem_default` holds, 208 KiB, and less than what the
    /// default of `net.core.rmem_max` lets a socket ask for, twice as much: the kernel takes some
    /// 2.3 KiB of memory for a datagram of this length.
    const BURST: usize = 128;
    const LENGTH: usize = 1000;

    #[test]
    fn a_burst_of_answers_waits_for_its_worker() {
        let endpoint = UdpSocket::bind("127.0.0.1:0").unwrap();
        let way = connected(EndpointAddr(endpoint.local_addr().unwrap()), None).unwrap();
        let way = UdpSocket::from(way);
        way.set_nonblocking(false).unwrap();
        way.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Nobody reads before all are sent.
        for _ in 0..BURST {
            endpoint
                .send_to(&[7; LENGTH], way.local_addr().unwrap())
                .unwrap();
        }
        for number in 0..BURST {
            let received = way.recv(&mut [0; LENGTH]);
            let received = received.unwrap_or_else(|error| panic!("lost after {number}: {error}"));
            assert_eq!(received, LENGTH);
        }
    }
}
