//! What ends a forwarding loop: hops, as in IP.
//!
//! A gateway that forwards to node ports can be led back to itself: by way of one, two or ten other
//! gateways whose nodes are each other's. Nobody sees the whole ring. So such a port does as a
//! router does: it looks how many hops (TTL, hop limit) a client's connection had left when it
//! arrived, takes one, and connects on with the rest, so that a ring ends after at most [`MOST`]
//! connections. A proxy between that knows nothing of this starts anew; what is left to the
//! endpoint is more than any network between a gateway and its nodes needs.
//!
//! A datagram's hops come as a control message of its own, which each datagram of every port would
//! pay for, and a flow's socket has one number for all that it sends. So UDP has a coarser rule, which
//! the kernel keeps: what such a port sends on has [`FORWARDED`] hops, fewer than any system
//! starts with, and its sockets take nothing that has so few left ([`HopFilter`]). A datagram is thus
//! forwarded to a node port once, and by the next such port no more. The kernel drops it; it counts
//! as a drop of the socket (`/proc/net/udp`, `ss -ulnpm`) and not as one of Fairway's. The price: on
//! such a port a client is not heard that starts with 64 hops and is more than 32 routers away, or
//! that starts with 32 or fewer, and so is another Fairway that forwards, even where no ring would
//! come of it.
//!
//! This goes for the VIPs of such a port as for its node ports. A gateway dials no VIP, but the proxy
//! of a node does: where the endpoints that an author gave a Service are its own VIP, kube-proxy
//! rewrites the destination of what comes to the node port and sends the packets back to us, with
//! fewer hops than they came with.

use std::io;
use std::os::fd::AsFd;

use fairway_config::net::{ClientAddr, Protocol};
use fairway_gateway_core::route::RoutePort;
use socket2::{SockFilter, SockRef};

use crate::counters::Rejection;

/// The most hops that a connection is given.
const MOST: u8 = 32;

/// The hops of a datagram that goes to a node port.
const FORWARDED: u8 = 31;

/// The hops that a connection to an endpoint has, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hops(u8);

impl Hops {
    /// The hops that are left for a client's connection; none where the port forwards straight to
    /// endpoints, from where nothing comes back.
    ///
    /// # Errors
    /// None is left: it is a loop.
    pub(crate) fn left(
        route: &RoutePort,
        socket: &impl AsFd,
        client: ClientAddr,
    ) -> Result<Option<Self>, Rejection> {
        if !forwards(route) {
            return Ok(None);
        }
        // What can't be told is none: better refused than without end.
        let arrived = arrived(socket, client).unwrap_or_default();
        Self::after(arrived).map(Some).ok_or(Rejection::Loop)
    }

    /// The hops of a flow's datagrams to its endpoint; none where the port forwards straight to
    /// endpoints.
    pub(crate) fn of_datagrams(route: &RoutePort) -> Option<Self> {
        forwards(route).then_some(Self(FORWARDED))
    }

    /// What is left of so many.
    fn after(arrived: u32) -> Option<Self> {
        let left = u8::try_from(arrived).unwrap_or(u8::MAX).checked_sub(1)?;
        (left > 0).then_some(Self(left.min(MOST)))
    }

    /// Gives a socket so many.
    pub(crate) fn set(self, socket: &impl AsFd, is_ipv4: bool) -> io::Result<()> {
        let socket = SockRef::from(socket);
        if is_ipv4 {
            socket.set_ttl_v4(self.0.into())
        } else {
            socket.set_unicast_hops_v6(self.0.into())
        }
    }

    /// As a key of what must not be shared between connections with more and with fewer.
    pub(crate) fn key(self) -> u64 {
        self.0.into()
    }
}

/// Whether a port sends to node ports, from where traffic may come back.
fn forwards(route: &RoutePort) -> bool {
    !route.loop_guard.is_empty()
}

/// What a socket that listens takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HopFilter {
    /// Everything.
    TakeAll,
    /// Nothing that a port that forwards to node ports has sent.
    DropForwarded,
}

impl HopFilter {
    /// What the sockets of a port must take: a TCP connection is told from a forwarded one when it
    /// is accepted.
    pub(crate) fn of(route: &RoutePort) -> Self {
        if route.key.protocol == Protocol::Udp && forwards(route) {
            Self::DropForwarded
        } else {
            Self::TakeAll
        }
    }

    /// What a socket passes datagrams through that takes this; nothing where it takes everything.
    pub(crate) fn filter(self, is_ipv4: bool) -> Vec<SockFilter> {
        match self {
            Self::TakeAll => Vec::new(),
            Self::DropForwarded => unforwarded(is_ipv4).into(),
        }
    }
}

/// Drops what has at most [`FORWARDED`] hops left: classic BPF
/// (Documentation/networking/filter.rst), on the TTL of RFC 791 or the hop limit of RFC 8200. What
/// it can't read, it drops.
fn unforwarded(is_ipv4: bool) -> [SockFilter; 4] {
    /// `BPF_LD | BPF_B | BPF_ABS`
    const LOAD_BYTE: u16 = 0x30;
    /// `BPF_JMP | BPF_JGT | BPF_K`
    const JUMP_IF_GREATER: u16 = 0x25;
    /// `BPF_RET | BPF_K`: how many bytes are kept.
    const RETURN: u16 = 0x06;
    /// `SKF_NET_OFF`: from here on offsets count from the network header.
    const NETWORK_HEADER: u32 = (-0x10_0000_i32).cast_unsigned();
    let hops = if is_ipv4 { 8 } else { 7 };
    [
        SockFilter::new(LOAD_BYTE, 0, 0, NETWORK_HEADER + hops),
        SockFilter::new(JUMP_IF_GREATER, 0, 1, FORWARDED.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// How many hops the last packet of a connection's handshake had left. Linux keeps them where a
/// datagram socket has those of its multicasts, for connections without another use
/// (`tcp_v4_syn_recv_sock` in net/ipv4/tcp_ipv4.c, and its like for IPv6).
fn arrived(socket: &impl AsFd, client: ClientAddr) -> io::Result<u32> {
    let socket = SockRef::from(socket);
    if client.0.is_ipv4() {
        socket.multicast_ttl_v4()
    } else {
        socket.multicast_hops_v6()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::net::SocketAddr;
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[test]
    fn each_gateway_takes_one_and_none_gives_more_than_the_most() {
        for (arrived, left) in [
            (0, None),
            (1, None),
            (2, Some(1)),
            (32, Some(31)),
            (33, Some(32)),
            (64, Some(32)),
            (255, Some(32)),
        ] {
            assert_eq!(Hops::after(arrived), left.map(Hops), "{arrived}");
        }
    }

    #[test]
    fn a_shut_socket_takes_nothing_that_was_forwarded() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = std::net::UdpSocket::bind(address).unwrap();
            listener
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let address = listener.local_addr().unwrap();
            let is_ipv4 = address.is_ipv4();
            let client = std::net::UdpSocket::bind(SocketAddr::new(address.ip(), 0)).unwrap();
            client.connect(address).unwrap();
            let taken = |hops: &[u8]| {
                for hops in hops {
                    Hops(*hops).set(&client, is_ipv4).unwrap();
                    client.send(&[*hops]).unwrap();
                }
                // They come in order, and the last one always does.
                let mut taken = Vec::new();
                let mut byte = [0];
                while byte != [255] {
                    listener.recv(&mut byte).unwrap();
                    taken.extend(byte);
                }
                taken
            };
            let all = [1, 30, 31, 32, 33, 64, 128, 255];
            assert_eq!(taken(&all), all, "{address}");
            let filter = HopFilter::DropForwarded.filter(is_ipv4);
            SockRef::from(&listener).attach_filter(&filter).unwrap();
            assert_eq!(taken(&all), [32, 33, 64, 128, 255], "{address}");
        }
    }

    #[tokio::test]
    async fn a_connection_tells_how_many_hops_it_arrived_with() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let address = listener.local_addr().unwrap();
            for hops in [1, 7, 32] {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4().unwrap()
                } else {
                    TcpSocket::new_v6().unwrap()
                };
                Hops(hops).set(&socket, address.is_ipv4()).unwrap();
                let _client = socket.connect(address).await.unwrap();
                let (stream, client) = listener.accept().await.unwrap();
                let arrived = arrived(&stream, ClientAddr(client)).unwrap();
                assert_eq!(arrived, u32::from(hops), "{address}");
            }
        }
    }
}
