//! UDP: datagrams in, flows, datagrams out.
//!
//! `SO_REUSEPORT` spreads by address and port of both ends, so a flow stays on its worker, and each
//! worker has a table of its own. Each flow has a socket connected to its endpoint: the kernel
//! tells the answers of one flow from those of another, and an ICMP error ends up where it belongs.
//! Nothing here waits for a socket to take a datagram: a full queue drops it, as a router would.

use std::io;
use std::sync::Arc;

use fairway_config::net::{ClientAddr, EndpointAddr};
use fairway_gateway_core::flows::{FlowId, FlowKey};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::binding::Binding;
use crate::buffers;
use crate::context::Context;
use crate::counters::{ConnectError, Rejection};
use crate::flows::{NoFlow, Upstream};
use crate::hops::{Guard, Hops};
use crate::port::Port;
use crate::slot::{Slot, Target};
use crate::socket;

/// Datagrams taken from one socket before the others of the worker get their turn.
const BATCH: usize = 64;

/// Takes datagrams from one socket until told to stop; its flows end with it.
pub(crate) async fn listen(
    socket: UdpSocket,
    slot: Arc<Slot>,
    context: Arc<Context>,
    binding: Binding,
) {
    let listener = Listener {
        socket: Arc::new(socket),
        slot,
        context,
        binding,
    };
    loop {
        let readable = tokio::select! {
            biased;
            () = listener.binding.stopped() => break,
            readable = listener.socket.readable() => readable,
        };
        if let Err(error) = readable {
            tracing::debug!(listen = %listener.slot.listen, %error, "receive");
        }
        listener.receive();
        tokio::task::yield_now().await;
    }
    listener.context.flows.close(listener.slot.listen);
}

struct Listener {
    socket: Arc<UdpSocket>,
    slot: Arc<Slot>,
    context: Arc<Context>,
    binding: Binding,
}

impl Listener {
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
        let Err(NoFlow { refused }) = self.context.flows.send(key, bytes, now) else {
            return;
        };
        let target = self.slot.target.load();
        let Target::Port { port, kind } = &**target else {
            return;
        };
        port.counters.touch();
        let (endpoint, hops) = {
            let route = port.route();
            // A route changes before the socket does, which then takes too much for a moment.
            if self.binding.guard() == Guard::Open && Guard::of(&route) == Guard::Shut {
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
        let descriptors = &self.context.shared.descriptors;
        let Some(permit) = descriptors.take(Some(&port.share), 1) else {
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
        self.context.flows.open(key, endpoint, now, |id| {
            let replies = Replies {
                id,
                client,
                upstream: socket.clone(),
                listener: self.socket.clone(),
                port: port.clone(),
                context: self.context.clone(),
            };
            // They go out by the socket that listens.
            let replies = tokio::spawn(self.binding.track(replies.run())).abort_handle();
            let way = (socket, permit);
            let upstream = Upstream::new(key.listen, port.clone(), endpoint, way, replies);
            upstream.send(bytes);
            upstream
        });
    }
}

/// A socket connected to an endpoint, whose datagrams have so many hops if that is said.
fn connected(endpoint: EndpointAddr, hops: Option<Hops>) -> io::Result<UdpSocket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(endpoint.0), kind, None)?;
    if let Some(hops) = hops {
        hops.set(&socket, endpoint.0.is_ipv4())?;
    }
    socket::queue_datagrams(&socket);
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
            let now = self.context.shared.clock.now();
            self.context.flows.replied(self.id, now);
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
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.context.flows.refused(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::time::Duration;

    use super::*;

    /// More than the default of `net.core.rmem_default` holds, 208 KiB, and less than what the
    /// default of `net.core.rmem_max` lets a socket ask for, twice as much: the kernel takes some
    /// 2.3 KiB of memory for a datagram of this length.
    const BURST: usize = 128;
    const LENGTH: usize = 1000;

    #[tokio::test]
    async fn a_burst_of_answers_waits_for_its_worker() {
        let endpoint = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let way = connected(EndpointAddr(endpoint.local_addr().unwrap()), None).unwrap();
        // Nobody reads before all are sent.
        for _ in 0..BURST {
            endpoint
                .send_to(&[7; LENGTH], way.local_addr().unwrap())
                .unwrap();
        }
        for number in 0..BURST {
            let mut answer = [0; LENGTH];
            let received = tokio::time::timeout(Duration::from_secs(10), way.recv(&mut answer));
            let received = received
                .await
                .unwrap_or_else(|_| panic!("lost after {number}"));
            assert_eq!(received.unwrap(), LENGTH);
        }
    }
}
