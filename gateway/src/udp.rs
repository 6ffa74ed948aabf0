//! UDP: datagrams in, flows, datagrams out.
//!
//! `SO_REUSEPORT` spreads by address and port of both ends, so a flow stays on its worker, and each
//! worker has a table of its own. Each flow has a socket connected to its endpoint: the kernel
//! tells the answers of one flow from those of another, and an ICMP error ends up where it belongs.
//! Nothing here waits for a socket to take a datagram: a full queue drops it, as a router would.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_config::net::{ClientAddr, EndpointAddr, ListenAddr};
use fairway_gateway_core::flows::{FlowId, FlowKey, FlowTable, Limits};
use fairway_gateway_core::route::Tick;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::buffers;
use crate::counters::{ConnectError, Rejection};
use crate::descriptors::Permit;
use crate::dial::Active;
use crate::hops::{Guard, Hops};
use crate::port::Port;
use crate::slot::{Slot, Target};
use crate::worker::Context;

/// Datagrams taken from one socket before the others of the worker get their turn.
const BATCH: usize = 64;

/// A flow that no endpoint has answered goes after this, one that has been answered after
/// [`REPLIED`]: the kernel's own timeouts for UDP (`nf_conntrack_udp_timeout`, `…_stream`).
const UNREPLIED: Duration = Duration::from_secs(30);
const REPLIED: Duration = Duration::from_secs(120);

/// The flows of one worker.
#[derive(Debug)]
pub(crate) struct Flows(Mutex<State>);

#[derive(Debug)]
struct State {
    table: FlowTable,
    /// Looked up by id alone: order reaches no output.
    upstreams: HashMap<FlowId, Upstream>,
    /// The sockets that listen, and what each takes.
    listeners: BTreeMap<ListenAddr, Guarded>,
}

/// A socket that listens, and what it takes just now.
#[derive(Debug)]
struct Guarded {
    socket: Arc<UdpSocket>,
    guard: Guard,
}

impl Guarded {
    /// Makes the socket take what it should; false where it takes more than that.
    fn follow(&mut self, listen: ListenAddr, wanted: Guard) -> bool {
        if self.guard == wanted {
            return true;
        }
        match wanted.set(&*self.socket, listen.0.is_ipv4()) {
            Ok(()) => {
                self.guard = wanted;
                true
            }
            Err(error) => {
                tracing::warn!(%listen, ?wanted, %error, "UDP listener can't be guarded against loops");
                self.guard == Guard::Shut
            }
        }
    }
}

/// The way of one flow to its endpoint.
struct Upstream {
    socket: Arc<UdpSocket>,
    listen: ListenAddr,
    endpoint: EndpointAddr,
    port: Arc<Port>,
    /// The endpoint refused: the next datagram goes elsewhere.
    refused: bool,
    replies: AbortHandle,
    _active: Active,
    _permit: Permit,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}", self.listen, self.endpoint)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.replies.abort();
        self.port.counters.flows.decrement();
    }
}

impl Flows {
    /// An empty table of at most `flows`.
    pub(crate) fn new(seed: u64, flows: usize) -> Self {
        let limits = Limits {
            flows,
            // One client may not drive out all others; many may be behind one address.
            per_client: (flows / 4).max(1),
            unreplied: UNREPLIED,
            replied: REPLIED,
        };
        Self(Mutex::new(State {
            table: FlowTable::new(seed, limits),
            upstreams: HashMap::new(),
            listeners: BTreeMap::new(),
        }))
    }

    /// Ends the flows that are idle for too long.
    pub(crate) fn expire(&self, now: Tick) {
        let mut state = self.lock();
        let State {
            table, upstreams, ..
        } = &mut *state;
        for id in table.expire(now) {
            upstreams.remove(&id);
        }
    }

    /// Ends the flows of a listener whose endpoint is not eligible any more, or all of them where
    /// another Service is behind it now. Its socket takes what that Service takes.
    pub(crate) fn sweep(&self, slot: &Slot) {
        let target = slot.target.load();
        if let Some(listener) = self.lock().listeners.get_mut(&slot.listen) {
            // Where it can't, each datagram that would open a flow tries again.
            listener.follow(slot.listen, guard(&target));
        }
        self.close_where(|upstream| {
            let Target::Port { port, .. } = &**target else {
                return upstream.listen == slot.listen;
            };
            upstream.listen == slot.listen
                && !(Arc::ptr_eq(port, &upstream.port)
                    && is_eligible(&upstream.port, upstream.endpoint))
        });
    }

    fn close_where(&self, gone: impl Fn(&Upstream) -> bool) {
        let mut state = self.lock();
        let State {
            table, upstreams, ..
        } = &mut *state;
        upstreams.retain(|id, upstream| {
            let gone = gone(upstream);
            if gone {
                table.close(*id);
            }
            !gone
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a socket that serves this must take.
fn guard(target: &Target) -> Guard {
    match target {
        Target::Port { port, kind } => Guard::of(*kind, &port.route()),
        Target::Health(_) => Guard::Shut,
    }
}

fn is_eligible(port: &Port, endpoint: EndpointAddr) -> bool {
    port.route()
        .endpoints
        .eligible
        .iter()
        .any(|eligible| eligible.addr == endpoint)
}

/// Takes datagrams from one socket until told to stop; its flows end with it. The socket comes
/// [`Guard::Shut`].
pub(crate) async fn listen(
    socket: UdpSocket,
    slot: Arc<Slot>,
    context: Arc<Context>,
    stop: CancellationToken,
) {
    let listener = Listener {
        socket: Arc::new(socket),
        slot,
        context,
    };
    listener.register();
    loop {
        let readable = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            readable = listener.socket.readable() => readable,
        };
        if let Err(error) = readable {
            tracing::debug!(listen = %listener.slot.listen, %error, "receive");
        }
        listener.receive();
        tokio::task::yield_now().await;
    }
    let listen = listener.slot.listen;
    let flows = &listener.context.flows;
    flows.close_where(|upstream| upstream.listen == listen);
    flows.lock().listeners.remove(&listen);
}

struct Listener {
    socket: Arc<UdpSocket>,
    slot: Arc<Slot>,
    context: Arc<Context>,
}

impl Listener {
    /// Makes the socket take what its Service takes, from now on and after each change.
    fn register(&self) {
        let listen = self.slot.listen;
        let mut guarded = Guarded {
            socket: self.socket.clone(),
            guard: Guard::Shut,
        };
        let mut state = self.context.flows.lock();
        guarded.follow(listen, guard(&self.slot.target.load()));
        state.listeners.insert(listen, guarded);
    }

    /// Takes what there is, up to a bound.
    fn receive(&self) {
        let mut buffer = buffers::take(true);
        for _ in 0..BATCH {
            match self.socket.try_recv_from(&mut buffer) {
                Ok((bytes, client)) => {
                    self.datagram(buffer.get(..bytes).unwrap_or_default(), ClientAddr(client));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => tracing::debug!(listen = %self.slot.listen, %error, "receive"),
            }
        }
        buffers::give(buffer);
    }

    /// Sends one datagram on its way.
    fn datagram(&self, bytes: &[u8], client: ClientAddr) {
        let now = self.context.shared.clock.now();
        let key = FlowKey {
            client,
            listen: self.slot.listen,
        };
        let mut state = self.context.flows.lock();
        let mut refused = None;
        if let Some(flow) = state.table.received(key, now)
            && let Some(upstream) = state.upstreams.get(&flow.id)
        {
            if !upstream.refused && upstream.send(bytes) {
                return;
            }
            refused = Some(flow.endpoint);
            state.table.close(flow.id);
            state.upstreams.remove(&flow.id);
        }
        let target = self.slot.target.load();
        let Target::Port { port, kind } = &**target else {
            return;
        };
        port.counters.touch();
        let (endpoint, hops) = {
            let route = port.route();
            // The change may not have been said to this worker yet.
            let wanted = Guard::of(*kind, &route);
            let listener = state.listeners.get_mut(&self.slot.listen);
            if !listener.is_some_and(|listener| listener.follow(self.slot.listen, wanted)) {
                return port.counters.reject(Rejection::Loop);
            }
            if port.admit(&route, *kind, client.0.ip()).is_err() {
                return;
            }
            let picked = port
                .pick(&route, client.0.ip(), now, refused.as_slice())
                // The one that refused may be the only one.
                .or_else(|| port.pick(&route, client.0.ip(), now, &[]));
            match picked {
                Some(endpoint) => (endpoint.addr, Hops::of_datagrams(&route)),
                None => return port.counters.reject(Rejection::NoEndpoint),
            }
        };
        let Some(permit) = self.context.shared.descriptors.take(1) else {
            return port.counters.reject(Rejection::Limit);
        };
        let socket = match connected(endpoint, hops) {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                let why = ConnectError::of(&error);
                port.counters.connect_error(why);
                if why == ConnectError::Exhausted {
                    port.counters.reject(Rejection::Limit);
                }
                return tracing::debug!(%endpoint, %error, "flow not opened");
            }
        };
        let (id, evicted) = state.table.open(key, endpoint, now);
        if let Some(evicted) = evicted {
            state.upstreams.remove(&evicted);
        }
        let replies = Replies {
            id,
            client,
            upstream: socket.clone(),
            listener: self.socket.clone(),
            port: port.clone(),
            context: self.context.clone(),
        };
        let upstream = Upstream {
            socket,
            listen: self.slot.listen,
            endpoint,
            port: port.clone(),
            refused: false,
            replies: tokio::spawn(replies.run()).abort_handle(),
            _active: Active::new(port.endpoint(endpoint)),
            _permit: permit,
        };
        port.counters.flows.increment();
        port.counters.completed.increment();
        upstream.send(bytes);
        state.upstreams.insert(id, upstream);
    }
}

impl Upstream {
    /// Sends a datagram to the endpoint; false where the endpoint refuses.
    fn send(&self, bytes: &[u8]) -> bool {
        // Straight to the kernel: a socket that was just made is not known to be writable yet.
        match SockRef::from(&*self.socket).send(bytes) {
            Ok(_) => {
                self.port.counters.datagrams_received.increment();
                self.port.counters.received.add(bytes.len() as u64);
                true
            }
            Err(error) => {
                let refused = error.kind() == io::ErrorKind::ConnectionRefused;
                if error.kind() != io::ErrorKind::WouldBlock {
                    self.port.counters.connect_error(ConnectError::of(&error));
                    tracing::debug!(endpoint = %self.endpoint, %error, "datagram not sent");
                }
                !refused
            }
        }
    }
}

/// A socket connected to an endpoint, whose datagrams have so many hops if that is said.
fn connected(endpoint: EndpointAddr, hops: Option<Hops>) -> io::Result<UdpSocket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(endpoint.0), kind, None)?;
    if let Some(hops) = hops {
        hops.set(&socket, endpoint.0.is_ipv4())?;
    }
    socket.connect(&endpoint.0.into())?;
    UdpSocket::from_std(socket.into())
}

/// Brings the answers of one flow to its client.
struct Replies {
    id: FlowId,
    client: ClientAddr,
    upstream: Arc<UdpSocket>,
    listener: Arc<UdpSocket>,
    port: Arc<Port>,
    context: Arc<Context>,
}

impl Replies {
    async fn run(self) {
        loop {
            let answered = match self.upstream.readable().await {
                Ok(()) => self.receive(),
                Err(error) => Err(error),
            };
            if let Err(error) = answered {
                self.refused(&error);
            }
            tokio::task::yield_now().await;
        }
    }

    fn receive(&self) -> io::Result<()> {
        let mut buffer = buffers::take(true);
        let mut end = Ok(());
        let mut any = false;
        for _ in 0..BATCH {
            match self.upstream.try_recv(&mut buffer) {
                Ok(bytes) => {
                    any = true;
                    self.send(buffer.get(..bytes).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
        }
        buffers::give(buffer);
        if any {
            // The table's own lock, once for a batch.
            self.context
                .flows
                .lock()
                .table
                .replied(self.id, self.context.shared.clock.now());
        }
        end
    }

    /// From the socket that listens at the VIP, so the answer comes from where the client asked.
    fn send(&self, bytes: &[u8]) {
        match SockRef::from(&*self.listener).send_to(bytes, &self.client.0.into()) {
            Ok(_) => {
                self.port.counters.datagrams_transmitted.increment();
                self.port.counters.transmitted.add(bytes.len() as u64);
            }
            Err(error) => tracing::debug!(client = %self.client, %error, "answer not sent"),
        }
    }

    /// The endpoint refused (an ICMP error): the next datagram of the client goes elsewhere.
    fn refused(&self, error: &io::Error) {
        self.port.counters.connect_error(ConnectError::of(error));
        if error.kind() == io::ErrorKind::ConnectionRefused
            && let Some(upstream) = self.context.flows.lock().upstreams.get_mut(&self.id)
        {
            upstream.refused = true;
        }
    }
}
