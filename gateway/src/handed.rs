//! What one process tells another of connections, flows and sockets that it hands over (`take_over`).
//!
//! A process of another version may leave a field out, or say more: what is not said has its default, and what is not
//! known is passed over.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use fairway_config::names::ServiceName;
use fairway_config::net::Protocol;
use fairway_config::service::PortKey;
use fairway_gateway_core::fleet::{BootTime, FleetContinuation};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfferedSocket {
    /// Where it listens. Where steered connections arrive: the address of the socket itself.
    pub(crate) listen: SocketAddr,
    pub(crate) protocol: Protocol,
    /// The worker that has it.
    pub(crate) worker: u32,
    /// It drops datagrams that a port has forwarded to a node port.
    #[serde(default)]
    pub(crate) drops_forwarded: bool,
    /// The kind of sockets where steered connections arrive; none for others.
    #[serde(default)]
    pub(crate) arrival: Option<u32>,
}

/// Which port of which Service something belongs to, and by which worker it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedOwner {
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// Where it came in.
    pub(crate) listen: SocketAddr,
    pub(crate) worker: u32,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedPort {
    pub(crate) namespace: String,
    pub(crate) service: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl HandedPort {
    pub(crate) fn new(service: &ServiceName, key: PortKey) -> Self {
        Self {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            protocol: key.protocol,
            port: key.port,
        }
    }

    pub(crate) fn service(&self) -> ServiceName {
        ServiceName::new(&*self.namespace, &*self.service)
    }

    pub(crate) fn key(&self) -> PortKey {
        PortKey {
            protocol: self.protocol,
            port: self.port,
        }
    }
}

/// What is known of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedHealth {
    pub(crate) endpoint: SocketAddr,
    /// A `HealthHistory`. One that a process can't read, as that of a later version may be, it passes over.
    pub(crate) history: Value,
}

/// A TCP connection. Its descriptors are the client's socket and the endpoint's. Its bytes are those of `up`, then those
/// of `down`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedConnection {
    pub(crate) owner: HandedOwner,
    pub(crate) client: SocketAddr,
    pub(crate) endpoint: SocketAddr,
    pub(crate) up: HandedDirection,
    pub(crate) down: HandedDirection,
    pub(crate) client_side: HandedSide,
    pub(crate) endpoint_side: HandedSide,
    /// The endpoint has sent its end: how many bytes had been delivered at the last stall check.
    #[serde(default)]
    pub(crate) stall_check: Option<u64>,
    /// The endpoint sees the client's address.
    #[serde(default)]
    pub(crate) transparent: bool,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedDirection {
    /// How many bytes were read and are not written yet.
    pub(crate) held: u32,
    /// How many of them, at the beginning, the gateway says itself.
    #[serde(default)]
    pub(crate) header: u32,
    /// Bytes written so far.
    pub(crate) total: u64,
    /// Its last read was a large one.
    #[serde(default)]
    pub(crate) large: bool,
    /// The end of the stream was read.
    pub(crate) ended: bool,
}

/// One side of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedSide {
    /// The end of its stream has arrived.
    pub(crate) ended: bool,
    /// It has sent urgent data.
    #[serde(default)]
    pub(crate) urgent: bool,
    /// `TCP_NODELAY` is set.
    #[serde(default)]
    pub(crate) prompt: bool,
    /// `SO_OOBINLINE` is set.
    #[serde(default)]
    pub(crate) in_line: bool,
    /// The kernel finds out that the peer is gone.
    #[serde(default)]
    pub(crate) guarded: bool,
}

/// What a member of a fleet owns on a network, for another process of it. Times are nanoseconds since the machine
/// started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedSegment {
    pub(crate) interface: String,
    pub(crate) run: u64,
    pub(crate) sequence: u64,
    pub(crate) started: u64,
    pub(crate) began: u64,
    pub(crate) last_tick: u64,
    pub(crate) version: u64,
    /// Addresses, and the numbers of their terms.
    pub(crate) terms: Vec<(IpAddr, u64)>,
}

impl HandedSegment {
    pub(crate) fn new(interface: &str, of: FleetContinuation) -> Self {
        let nanos = |at: BootTime| u64::try_from(at.0.as_nanos()).unwrap_or(u64::MAX);
        Self {
            interface: interface.to_owned(),
            run: of.run,
            sequence: of.sequence,
            started: of.started,
            began: nanos(of.began),
            last_tick: nanos(of.last_tick),
            version: of.version,
            terms: of.terms,
        }
    }

    pub(crate) fn continuation(&self) -> FleetContinuation {
        let at = |nanos| BootTime(Duration::from_nanos(nanos));
        FleetContinuation {
            run: self.run,
            sequence: self.sequence,
            started: self.started,
            began: at(self.began),
            last_tick: at(self.last_tick),
            version: self.version,
            terms: self.terms.clone(),
        }
    }
}

/// A UDP flow. Its descriptor is the socket to its endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedFlow {
    pub(crate) owner: HandedOwner,
    pub(crate) client: SocketAddr,
    pub(crate) endpoint: SocketAddr,
    /// The endpoint has answered.
    #[serde(default)]
    pub(crate) replied: bool,
}

/// A connection with its descriptors and bytes.
#[derive(Debug)]
pub(crate) struct WholeConnection {
    pub(crate) says: HandedConnection,
    pub(crate) client: OwnedFd,
    pub(crate) endpoint: OwnedFd,
    pub(crate) up: Vec<u8>,
    pub(crate) down: Vec<u8>,
}

/// A flow with its descriptor.
#[derive(Debug)]
pub(crate) struct WholeFlow {
    pub(crate) says: HandedFlow,
    pub(crate) socket: OwnedFd,
}
