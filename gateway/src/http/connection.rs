//! The state of one connection of a client.
//!
//! pingora's callbacks get a session, and pingora knows nothing of Services. The state of the connection travels with
//! the stream: its digest has a field for data of ours (`ProxyDigest::user_data`), which pingora passes to every
//! session of the stream, HTTP/1.1 and h2 alike. So one proxy with one pool of connections serves all ports of a
//! worker, and nothing is looked up by address.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use fairway_config::net::ListenAddr;
use fairway_gateway_core::route::Tick;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use tokio::sync::Notify;

use super::limits::{ENDPOINT, HEAD};
use super::reuse::OWN_POOL;
use super::unwritten::Unwritten;
use crate::client_origin::ClientOrigin;
use crate::clock::Clock;
use crate::endpoint_state::EndpointState;
use crate::hops::Hops;
use crate::open_connection::OpenConnection;

/// One connection of a client, from accept to close.
#[derive(Debug)]
pub(super) struct ClientConnection {
    pub(super) listen: ListenAddr,
    pub(super) origin: ClientOrigin,
    /// The hops that its connections to endpoints start with.
    pub(super) hops: Option<Hops>,
    pub(super) port: OpenConnection,
    clock: Clock,
    phase: AtomicU8,
    failed: AtomicBool,
    endpoint: Mutex<Option<Arc<EndpointState>>>,
    endpoint_changed: Notify,
    /// What was read of its uploads and is not written to an endpoint yet.
    pub(super) unwritten: Arc<Unwritten>,
    own_pool: OnceLock<u64>,
}

/// What a connection does now. Deadlines depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// It was accepted, and no byte has come yet.
    New,
    /// A part of a request's head has come.
    Head,
    /// It is between two requests. pingora's keep-alive timeout ends it.
    Idle,
    /// A request is being carried. pingora's timeouts between reads and writes apply.
    Busy,
    /// An upgrade was requested and not answered yet. The read timeout of its endpoint is already that of an upgraded
    /// connection, so this has a deadline of its own.
    Upgrading,
    /// Upgraded.
    Upgraded,
    /// h2: streams have timeouts of their own, a connection without any is closed by pingora.
    Streams,
}

impl Phase {
    const ALL: [Self; 7] = [
        Self::New,
        Self::Head,
        Self::Idle,
        Self::Busy,
        Self::Upgrading,
        Self::Upgraded,
        Self::Streams,
    ];

    /// How long it may last, where the stream has to watch that.
    pub(super) fn limit(self) -> Option<Duration> {
        match self {
            Self::New | Self::Head => Some(HEAD),
            Self::Upgrading => Some(ENDPOINT),
            Self::Idle | Self::Busy | Self::Upgraded | Self::Streams => None,
        }
    }
}

impl ClientConnection {
    /// A connection that was just accepted and admitted.
    pub(super) fn new(
        listen: ListenAddr,
        origin: ClientOrigin,
        hops: Option<Hops>,
        port: OpenConnection,
        clock: Clock,
    ) -> Self {
        port.counters.touch();
        Self {
            listen,
            origin,
            hops,
            port,
            clock,
            phase: AtomicU8::new(Phase::New as u8),
            failed: AtomicBool::new(false),
            endpoint: Mutex::new(None),
            endpoint_changed: Notify::new(),
            unwritten: Arc::default(),
            own_pool: OnceLock::new(),
        }
    }

    /// The connection that a session belongs to.
    pub(super) fn of(session: &Session) -> Option<&Arc<Self>> {
        let digest = session.digest()?.proxy_digest.as_ref()?;
        digest.user_data.as_ref()?.downcast_ref::<Arc<Self>>()
    }

    /// The digest by which [`ClientConnection::of`] finds this connection.
    pub(super) fn digest(self: &Arc<Self>) -> Option<Arc<ProxyDigest>> {
        // The header is of no use here: pingora's type has one because it was made for CONNECT.
        let header = ResponseHeader::build(200, Some(0)).ok()?;
        Some(Arc::new(ProxyDigest::new(
            Box::new(header),
            Some(Box::new(self.clone())),
        )))
    }

    /// The client's address, an IPv4 one in its own form.
    pub(super) fn client_ip(&self) -> IpAddr {
        self.origin.ip()
    }

    /// A key for connection pools that no other connection has, and no kind of request.
    pub(super) fn own_pool(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(OWN_POOL);
        *self
            .own_pool
            .get_or_init(|| NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The process's clock.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Now, on the process's clock.
    pub(super) fn now(&self) -> Tick {
        self.clock.now()
    }

    /// What it does now.
    pub(super) fn phase(&self) -> Phase {
        let phase = usize::from(self.phase.load(Ordering::Relaxed));
        Phase::ALL.get(phase).copied().unwrap_or(Phase::Busy)
    }

    /// Sets what it does now.
    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// The last request did not get its endpoint's answer. Counts as the connection's result.
    pub(super) fn set_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// The last request got its endpoint's answer.
    pub(super) fn set_completed(&self) {
        self.failed.store(false, Ordering::Relaxed);
    }

    /// The endpoint that the whole connection depends on just now: that of an HTTP/1.1 request.
    /// (An h2 connection has streams to several, and one that is cut ends its streams alone.)
    pub(super) fn set_endpoint(&self, endpoint: Option<Arc<EndpointState>>) {
        *self.endpoint.lock().unwrap_or_else(PoisonError::into_inner) = endpoint;
        self.endpoint_changed.notify_one();
    }

    /// Waits until its port, its endpoint or its slot is cut.
    pub(super) async fn cut(&self) {
        loop {
            let endpoint = self
                .endpoint
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let endpoint_cut = async {
                match &endpoint {
                    Some(endpoint) => endpoint.cut.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.port.cut() => return,
                () = endpoint_cut => return,
                () = self.endpoint_changed.notified() => {}
            }
        }
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        if *self.failed.get_mut() {
            self.port.counters.failed.increment();
        } else {
            self.port.counters.completed.increment();
        }
    }
}
