//! The UDP flows of one worker, each with the socket that is its way to an endpoint.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fairway_config::net::{EndpointAddr, ListenAddr};
use fairway_gateway_core::flows::{FlowId, FlowKey, FlowTable, Limits};
use fairway_gateway_core::route::Tick;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::AbortHandle;

use crate::counters::ConnectError;
use crate::descriptors::Permit;
use crate::port::{Active, Port};
use crate::slot::{Slot, Target};

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
}

/// A datagram has no flow yet.
#[derive(Debug)]
pub(crate) struct NoFlow {
    /// The endpoint of the flow that it had, which refused.
    pub(crate) refused: Option<EndpointAddr>,
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
        }))
    }

    /// Sends a datagram by the flow that it belongs to.
    pub(crate) fn send(&self, key: FlowKey, bytes: &[u8], now: Tick) -> Result<(), NoFlow> {
        let mut state = self.lock();
        let Some(flow) = state.table.received(key, now) else {
            return Err(NoFlow { refused: None });
        };
        let Some(upstream) = state.upstreams.get(&flow.id) else {
            return Err(NoFlow { refused: None });
        };
        if !upstream.refused && upstream.send(bytes) {
            return Ok(());
        }
        state.table.close(flow.id);
        state.upstreams.remove(&flow.id);
        Err(NoFlow {
            refused: Some(flow.endpoint),
        })
    }

    /// Opens a flow, whose way is made for its id.
    pub(crate) fn open(
        &self,
        key: FlowKey,
        endpoint: EndpointAddr,
        now: Tick,
        upstream: impl FnOnce(FlowId) -> Upstream,
    ) {
        let mut state = self.lock();
        let (id, evicted) = state.table.open(key, endpoint, now);
        if let Some(evicted) = evicted {
            state.upstreams.remove(&evicted);
        }
        state.upstreams.insert(id, upstream(id));
    }

    /// The endpoint of a flow has answered.
    pub(crate) fn replied(&self, id: FlowId, now: Tick) {
        self.lock().table.replied(id, now);
    }

    /// The endpoint of a flow refuses: the next datagram goes elsewhere.
    pub(crate) fn refused(&self, id: FlowId) {
        if let Some(upstream) = self.lock().upstreams.get_mut(&id) {
            upstream.refused = true;
        }
    }

    /// Ends the flows that are idle for too long.
    pub(crate) fn expire(&self, now: Tick) {
        let mut state = self.lock();
        let State { table, upstreams } = &mut *state;
        for id in table.expire(now) {
            upstreams.remove(&id);
        }
    }

    /// Ends the flows of a listener whose endpoint is not eligible any more, or all of them where
    /// another Service is behind it now.
    pub(crate) fn sweep(&self, slot: &Slot) {
        let target = slot.target.load();
        self.close_where(|upstream| {
            let Target::Port { port, .. } = &**target else {
                return upstream.listen == slot.listen;
            };
            upstream.listen == slot.listen
                && !(Arc::ptr_eq(port, &upstream.port)
                    && is_eligible(&upstream.port, upstream.endpoint))
        });
    }

    /// Ends the flows of a listener.
    pub(crate) fn close(&self, listen: ListenAddr) {
        self.close_where(|upstream| upstream.listen == listen);
    }

    fn close_where(&self, gone: impl Fn(&Upstream) -> bool) {
        let mut state = self.lock();
        let State { table, upstreams } = &mut *state;
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

fn is_eligible(port: &Port, endpoint: EndpointAddr) -> bool {
    port.route()
        .endpoints
        .eligible
        .iter()
        .any(|eligible| eligible.addr == endpoint)
}

/// The way of one flow to its endpoint; the flow ends with it.
pub(crate) struct Upstream {
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

impl Upstream {
    /// The way from a listener to an endpoint of a port, by a socket that is connected to it.
    /// `replies` is the task that brings the answers.
    pub(crate) fn new(
        listen: ListenAddr,
        port: Arc<Port>,
        endpoint: EndpointAddr,
        (socket, permit): (Arc<UdpSocket>, Permit),
        replies: AbortHandle,
    ) -> Self {
        port.counters.flows.increment();
        port.counters.completed.increment();
        Self {
            _active: Active::new(port.endpoint(endpoint)),
            socket,
            listen,
            endpoint,
            port,
            refused: false,
            replies,
            _permit: permit,
        }
    }

    /// Sends a datagram to the endpoint; false where the endpoint refuses.
    pub(crate) fn send(&self, bytes: &[u8]) -> bool {
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
