//! Hops (the TTL of IPv4, the hop limit of IPv6) end forwarding loops between gateways.
//!
//! A gateway that forwards to node ports can send traffic to another gateway, which sends it to a third one,
//! and so on in a ring back to the first. No gateway sees the whole ring. So a port that forwards to node ports
//! does what a router does. It reads how many hops a client's TCP connection had left when it arrived,
//! subtracts one, and connects to the endpoint with the rest. A ring ends after at most [`MOST`] connections.
//! A proxy in between that does not do so starts with new hops. The hops that are left are more than any
//! network between a gateway and its nodes needs.
//!
//! For UDP the kernel applies a simpler rule. To read the hops of each datagram would cost every datagram of
//! every port a control message, and the socket of a flow has one number of hops for all datagrams. So a port
//! that forwards to node ports sends datagrams with [`FORWARDED`] hops, fewer than any system starts with, and
//! its sockets drop datagrams that have so few hops left ([`HopFilter`]). A datagram is forwarded to a node port
//! once, and the next such port drops it. The kernel counts the drop at the socket (`/proc/net/udp`,
//! `ss -ulnpm`), and Fairway does not count it. The price: such a port also drops datagrams of a client that
//! starts with 64 hops and is more than 32 routers away, of a client that starts with 32 hops or fewer, and
//! of another Fairway that forwards, even where there is no ring.
//!
//! The rule holds for the VIPs of such a port as well as for its node ports. A gateway dials no VIP, but the
//! nodes' own proxy does: where the endpoint of a Service is the Service's own VIP, kube-proxy rewrites the
//! destination of packets to the node port and sends them back to the gateway, with fewer hops.

use std::io;
use std::os::fd::AsFd;

use fairway_config::net::{ClientAddr, Protocol};
use fairway_gateway_core::route::RoutePort;
use socket2::{SockFilter, SockRef};

use crate::counters::Rejection;

/// The most hops that a connection to an endpoint starts with.
const MOST: u8 = 32;

/// The hops that a datagram to a node port starts with.
const FORWARDED: u8 = 31;

/// The hops that a connection to an endpoint starts with; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hops(u8);

impl Hops {
    /// The hops that are left for the connection to an endpoint; none where the port forwards to endpoints
    /// directly, since no traffic comes back from there.
    ///
    /// # Errors
    /// No hop is left: the connection is in a loop.
    pub(crate) fn left(
        route: &RoutePort,
        socket: &impl AsFd,
        client: ClientAddr,
    ) -> Result<Option<Self>, Rejection> {
        if !forwards(route) {
            return Ok(None);
        }
        // Where the hops can't be read they count as 0: a refused connection is better than an endless loop.
        let arrived = arrived(socket, client).unwrap_or_default();
        Self::after(arrived).map(Some).ok_or(Rejection::Loop)
    }

    /// The hops that a flow's datagrams start with; none where the port forwards to endpoints directly.
    pub(crate) fn of_datagrams(route: &RoutePort) -> Option<Self> {
        forwards(route).then_some(Self(FORWARDED))
    }

    /// The hops that a check of a node port starts with. A ring of gateways ends it as it ends a client's connection.
    pub(crate) fn of_checks() -> Self {
        Self(MOST)
    }

    /// What is left of the hops that a connection arrived with.
    fn after(arrived: u32) -> Option<Self> {
        let left = u8::try_from(arrived).unwrap_or(u8::MAX).checked_sub(1)?;
        (left > 0).then_some(Self(left.min(MOST)))
    }

    /// Sets the hops that packets of a socket start with.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub(crate) fn set(self, socket: &impl AsFd, is_ipv4: bool) -> io::Result<()> {
        let socket = SockRef::from(socket);
        if is_ipv4 {
            socket.set_ttl_v4(self.0.into())
        } else {
            socket.set_unicast_hops_v6(self.0.into())
        }
    }

    /// So many hops are left.
    #[cfg(test)]
    pub(crate) fn left_for_test(left: u32) -> Option<Self> {
        Self::after(left + 1)
    }

    /// A key for connection pools: connections with different hops must not be mixed up.
    pub(crate) fn key(self) -> u64 {
        self.0.into()
    }
}

/// Whether a port forwards to node ports, from where traffic may come back.
fn forwards(route: &RoutePort) -> bool {
    !route.loop_guard.is_empty()
}

/// Which datagrams a listening socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HopFilter {
    /// All.
    TakeAll,
    /// None that a port has forwarded to a node port.
    DropForwarded,
}

impl HopFilter {
    /// The filter for the sockets of a port. TCP needs none: the hops of a connection are read when it is accepted.
    pub(crate) fn of(route: &RoutePort) -> Self {
        if route.key.protocol == Protocol::Udp && forwards(route) {
            Self::DropForwarded
        } else {
            Self::TakeAll
        }
    }

    /// The socket filter (classic BPF) for this; empty where all datagrams are taken.
    pub(crate) fn filter(self, is_ipv4: bool) -> Vec<SockFilter> {
        match self {
            Self::TakeAll => Vec::new(),
            Self::DropForwarded => unforwarded(is_ipv4).into(),
        }
    }
}

/// A filter that drops datagrams with at most [`FORWARDED`] hops left: classic BPF
/// (Documentation/networking/filter.rst), on the TTL of RFC 791 or the hop limit of RFC 8200. It also drops a
/// datagram that it can't read.
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

/// How many hops the last packet of a TCP handshake had left. Linux keeps them in the field for multicast hops,
/// which TCP does not use otherwise (`tcp_v4_syn_recv_sock` in net/ipv4/tcp_ipv4.c, and the same for IPv6).
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
    fn a_socket_with_the_filter_takes_nothing_that_was_forwarded() {
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
