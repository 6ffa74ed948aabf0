//! The UDP session of one flow: its socket to its endpoint.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fairway_config::net::{ClientAddr, EndpointAddr, ListenAddr};
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::flows::{FlowId, FlowKey};
use fairway_gateway_core::route::Tick;
use socket2::{Domain, Socket, Type};

use crate::descriptors::Permit;
use crate::endpoint_state::Active;
use crate::hops::Hops;
use crate::port::Port;
use crate::port_clients::CountedClient;
use crate::socket;

/// The longest datagram that is kept for another endpoint, in bytes: more than most paths carry.
const KEPT: usize = 2048;

/// The session of one flow; the flow ends with it.
pub(super) struct UdpSession {
    pub(super) id: FlowId,
    pub(super) socket: OwnedFd,
    /// The number of the listener that it came in by.
    pub(super) listener: u32,
    /// Its index in the list of that listener's flows.
    pub(super) at: usize,
    pub(super) listen: ListenAddr,
    pub(super) client: ClientAddr,
    pub(super) endpoint: EndpointAddr,
    pub(super) port: Arc<Port>,
    /// The first datagram, until the endpoint answers: where the endpoint refuses, another one gets it.
    pub(super) unanswered: Option<Box<[u8]>>,
    /// The endpoint refused: the next datagram goes elsewhere.
    pub(super) is_refused: bool,
    /// Those that refused this flow before.
    pub(super) refused_by: Vec<EndpointAddr>,
    pub(super) active: Active,
    /// Counts for its client as long as the flow is there, where the port has a limit.
    pub(super) counted: Option<CountedClient>,
    pub(super) _permit: Permit,
}

impl UdpSession {
    /// The key of its flow.
    pub(super) fn key(&self) -> FlowKey {
        FlowKey {
            client: self.client,
            listen: self.listen,
        }
    }

    /// A datagram could not be sent, or was refused.
    pub(super) fn failed(&self, error: &io::Error, now: Tick) {
        let why = DialFailure::of(error);
        self.port.datagram_failed(self.active.state(), why, now);
    }

    /// Whether there may be an endpoint that has not refused it, apart from the one that it has.
    pub(super) fn has_others(&self) -> bool {
        self.port.route().endpoints.eligible.len() > self.refused_by.len() + 1
    }

    /// Keeps its first datagram until the endpoint answers, if there is another endpoint to send it to.
    pub(super) fn keep(&mut self, datagram: &[u8]) {
        if self.has_others() && datagram.len() <= KEPT {
            self.unanswered = Some(datagram.into());
        }
    }
}

impl Drop for UdpSession {
    fn drop(&mut self) {
        self.port.counters.flows.decrement();
    }
}

/// A socket connected to an endpoint, whose datagrams have so many hops if that is said.
///
/// # Errors
/// As socket(2) and connect(2); see [`are_ports_taken`].
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

/// Whether an error of [`connected`] says that all ports of `ip_local_port_range` are taken: it is EAGAIN
/// then (ip(7)).
pub(super) fn are_ports_taken(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    /// More than the default of `net.core.rmem_default` holds, 208 KiB, and less than what the
    /// default of `net.core.rmem_max` lets a socket ask for, twice as much: the kernel takes some
    /// 2.3 KiB of memory for a datagram of this length.
    const BURST: usize = 128;
    const LENGTH: usize = 1000;

    #[test]
    fn a_burst_of_answers_waits_for_its_worker() {
        let endpoint = UdpSocket::bind("127.0.0.1:0").unwrap();
        let session = connected(EndpointAddr(endpoint.local_addr().unwrap()), None).unwrap();
        let session = UdpSocket::from(session);
        session.set_nonblocking(false).unwrap();
        session
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // Nobody reads before all are sent.
        for _ in 0..BURST {
            endpoint
                .send_to(&[7; LENGTH], session.local_addr().unwrap())
                .unwrap();
        }
        for number in 0..BURST {
            let received = session.recv(&mut [0; LENGTH]);
            let received = received.unwrap_or_else(|error| panic!("lost after {number}: {error}"));
            assert_eq!(received, LENGTH);
        }
    }
}
