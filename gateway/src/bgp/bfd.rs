//! The sockets of BFD.
//!
//! Packets come to port 3784 over one hop (RFC 5881) and to 4784 over several (RFC 5883). The first are taken with
//! a TTL of 255 alone, which nobody farther away can send; a filter of the kernel drops the others, and what comes from
//! somebody who is no router or does not know the discriminator of the session: else packets of routers would be lost
//! among those of a flood.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use fairway_gateway_core::bfd::packet::{self, BfdPacket};
use fairway_gateway_core::fleet::BootTime;
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::handed::BfdPlace;

/// How many packets of a socket one turn takes.
const TURN: usize = 256;

/// The pause after a socket could not be had.
const RETRY: Duration = Duration::from_secs(1);

/// Source ports (RFC 5881, section 4).
const SOURCES: std::ops::RangeInclusive<u16> = 49_152..=65_535;

impl BfdPlace {
    fn port(self) -> u16 {
        if self.is_multihop { 4784 } else { 3784 }
    }
}

/// What is taken of one router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HeardRouter {
    pub(super) address: IpAddr,
    /// The discriminator of the own session.
    pub(super) discriminator: u32,
}

/// The routers that are heard at each place.
pub(super) type HeardRouters = BTreeMap<BfdPlace, BTreeSet<HeardRouter>>;

/// The sockets that packets come in by, as long as there is a session for each.
#[derive(Debug, Default)]
pub(super) struct BfdSockets {
    open: BTreeMap<BfdPlace, UdpSocket>,
    heard: HeardRouters,
    /// Why those that are wanted are not there, and when they are tried again.
    failed: BTreeMap<BfdPlace, (String, BootTime)>,
    /// Those of another process, until it is known which are wanted.
    inherited: BTreeMap<BfdPlace, OwnedFd>,
}

impl BfdSockets {
    /// Opens and closes sockets, so that these routers are heard. Needs a Tokio runtime.
    pub(super) fn want(&mut self, heard: HeardRouters, now: BootTime) {
        self.open.retain(|place, _| heard.contains_key(place));
        self.failed.retain(|place, _| heard.contains_key(place));
        for (place, routers) in &heard {
            if self.heard.get(place) != Some(routers)
                && let Some(socket) = self.open.get(place)
                && let Err(error) = SockRef::from(socket).attach_filter(&filter(*place, routers))
            {
                // One of before would drop the packets of new routers.
                tracing::debug!(%error, "the filter of BFD is not set");
                self.open.remove(place);
            }
            let waits = self.failed.get(place).is_some_and(|(_, at)| now < *at);
            if self.open.contains_key(place) || waits {
                continue;
            }
            let opened = match self.inherited.remove(place) {
                Some(socket) => adopt(socket.into(), *place, routers),
                None => listen(*place, routers),
            };
            match opened {
                Ok(socket) => {
                    self.failed.remove(place);
                    self.open.insert(*place, socket);
                }
                Err(error) => {
                    let port = place.port();
                    let why = format!("UDP port {port} can't be had for BFD: {error}");
                    self.failed.insert(*place, (why, now.after(RETRY)));
                }
            }
        }
        self.heard = heard;
        self.inherited.clear();
    }

    /// These are another process's: what comes in meanwhile waits there.
    pub(super) fn inherit(&mut self, sockets: Vec<(BfdPlace, OwnedFd)>) {
        self.inherited = sockets.into_iter().collect();
    }

    /// The sockets for another process.
    pub(super) fn share(&self) -> Vec<(BfdPlace, OwnedFd)> {
        let open = self.open.iter();
        let shared = open.filter_map(|(place, socket)| {
            let socket = socket.as_fd().try_clone_to_owned().ok()?;
            Some((*place, socket))
        });
        shared.collect()
    }

    /// Why nothing can be heard there.
    pub(super) fn problem(&self, place: BfdPlace) -> Option<&str> {
        self.failed.get(&place).map(|(why, _)| why.as_str())
    }

    /// When [`Self::want`] has something to try again.
    pub(super) fn next_deadline(&self) -> Option<BootTime> {
        self.failed.values().map(|(_, at)| *at).min()
    }

    /// Whether there is something to be received.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> bool {
        let mut is_any = false;
        for socket in self.open.values() {
            is_any |= matches!(socket.poll_recv_ready(cx), Poll::Ready(Ok(())));
        }
        is_any
    }

    /// The packets that have come, with who sent them.
    pub(super) fn receive(&self) -> Vec<(BfdPlace, SocketAddr, BfdPacket)> {
        let mut packets = Vec::new();
        for (place, socket) in &self.open {
            for _ in 0..TURN {
                let mut bytes = [0; 128];
                match socket.try_recv_from(&mut bytes) {
                    Ok((length, from)) => {
                        let bytes = bytes.get(..length).unwrap_or_default();
                        match packet::decode(bytes) {
                            Ok(packet) => packets.push((*place, from, packet)),
                            Err(error) => tracing::debug!(%from, %error, "BFD packet dropped"),
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error of an earlier packet.
                    Err(_) => {}
                }
            }
        }
        packets
    }
}

fn listen(place: BfdPlace, routers: &BTreeSet<HeardRouter>) -> io::Result<UdpSocket> {
    let (domain, any): (_, IpAddr) = match place.is_v6 {
        true => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        false => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
    };
    let socket = udp(domain)?;
    if place.is_v6 {
        socket.set_only_v6(true)?;
    }
    socket.attach_filter(&filter(place, routers))?;
    socket.bind(&SocketAddr::new(any, place.port()).into())?;
    UdpSocket::from_std(socket.into())
}

/// Goes on with the socket of another process, for these routers.
fn adopt(
    socket: Socket,
    place: BfdPlace,
    routers: &BTreeSet<HeardRouter>,
) -> io::Result<UdpSocket> {
    socket.attach_filter(&filter(place, routers))?;
    UdpSocket::from_std(socket.into())
}

/// Classic BPF (Documentation/networking/filter.rst). What is too short for its loads is dropped.
fn filter(place: BfdPlace, routers: &BTreeSet<HeardRouter>) -> Vec<SockFilter> {
    /// `BPF_LD | BPF_B | BPF_ABS`
    const LOAD_BYTE: u16 = 0x30;
    /// `BPF_LD | BPF_W | BPF_ABS`
    const LOAD_WORD: u16 = 0x20;
    /// `BPF_JMP | BPF_JEQ | BPF_K`
    const JUMP_IF_EQUAL: u16 = 0x15;
    /// `BPF_RET | BPF_K`: how many bytes are kept.
    const RETURN: u16 = 0x06;
    /// From here on offsets count from the network header.
    const NETWORK_HEADER: u32 = libc::SKF_NET_OFF.cast_unsigned();
    /// Behind the UDP header, which a filter sees first, and eight bytes of the packet.
    const YOUR_DISCRIMINATOR: u32 = 16;
    /// With more routers than this, the kernel takes no filter for them.
    const MOST: usize = 256;
    const ALL: SockFilter = SockFilter::new(RETURN, 0, 0, u32::MAX);
    const NONE: SockFilter = SockFilter::new(RETURN, 0, 0, 0);
    let in_header = |at: u32| NETWORK_HEADER.wrapping_add(at);
    let mut filter = Vec::new();
    if !place.is_multihop {
        // Where the TTL is in an IPv4 header, and the hop limit in an IPv6 one.
        let at = if place.is_v6 { 7 } else { 8 };
        filter.extend([
            SockFilter::new(LOAD_BYTE, 0, 0, in_header(at)),
            SockFilter::new(JUMP_IF_EQUAL, 1, 0, 255),
            NONE,
        ]);
    }
    if routers.len() > MOST {
        filter.push(ALL);
        return filter;
    }
    for router in routers {
        // Where the source address is.
        let (octets, at) = match router.address {
            IpAddr::V4(address) => (address.octets().to_vec(), 12),
            IpAddr::V6(address) => (address.octets().to_vec(), 8),
        };
        let words = octets.chunks_exact(4).map(|word| {
            let word = <[u8; 4]>::try_from(word).unwrap_or_default();
            u32::from_be_bytes(word)
        });
        let words: Vec<u32> = words.collect();
        // To the next router: behind the words that are left, and the four instructions of the discriminator.
        let mut left = words.len() as u8 * 2 + 4;
        for (n, word) in (0..).zip(&words) {
            filter.push(SockFilter::new(LOAD_WORD, 0, 0, in_header(at + 4 * n)));
            left -= 2;
            filter.push(SockFilter::new(JUMP_IF_EQUAL, 0, left, *word));
        }
        filter.extend([
            SockFilter::new(LOAD_WORD, 0, 0, YOUR_DISCRIMINATOR),
            SockFilter::new(JUMP_IF_EQUAL, 1, 0, router.discriminator),
            // A router that hears nothing does not know it (RFC 5880, section 6.8.6).
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0),
            ALL,
        ]);
    }
    filter.push(NONE);
    filter
}

fn udp(domain: Domain) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    Socket::new(domain, kind, Some(Protocol::UDP))
}

/// The socket that packets of one session go out by.
#[derive(Debug)]
pub(super) struct BfdSender(Socket);

impl BfdSender {
    /// A socket to that router, with a source port that follows from `seed`.
    pub(super) fn open(
        to: SocketAddr,
        source: Option<IpAddr>,
        place: BfdPlace,
        seed: u64,
    ) -> io::Result<Self> {
        let socket = udp(Domain::for_address(to))?;
        match place.is_v6 {
            true => socket.set_unicast_hops_v6(255)?,
            false => socket.set_ttl_v4(255)?,
        }
        let source = source.unwrap_or(match place.is_v6 {
            true => Ipv6Addr::UNSPECIFIED.into(),
            false => Ipv4Addr::UNSPECIFIED.into(),
        });
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for attempt in 0..64 {
            let count = u64::from(SOURCES.end() - SOURCES.start()) + 1;
            let offset = u16::try_from(seed.wrapping_add(attempt) % count).unwrap_or_default();
            let port = SOURCES.start().saturating_add(offset);
            match socket.bind(&SocketAddr::new(source, port).into()) {
                Ok(()) => {
                    let mut to = to;
                    to.set_port(place.port());
                    socket.connect(&to.into())?;
                    return Ok(Self(socket));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// The socket of another process's session.
    pub(super) fn inherit(socket: OwnedFd) -> Self {
        Self(socket.into())
    }

    /// The socket for another process.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }

    /// Sends a packet. One that can't be sent is lost, as on the way.
    pub(super) fn send(&self, packet: &BfdPacket) {
        if let Err(error) = self.0.send(&packet::encode(packet)) {
            tracing::debug!(%error, "BFD packet not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// Whether a datagram from `from` with that TTL and discriminator is taken.
    fn is_taken(
        routers: &BTreeSet<HeardRouter>,
        from: &str,
        hops: u8,
        discriminator: u32,
        is_multihop: bool,
    ) -> bool {
        let from: IpAddr = from.parse().unwrap();
        let place = BfdPlace {
            is_v6: from.is_ipv6(),
            is_multihop,
        };
        let home: IpAddr = match from {
            IpAddr::V4(_) => [127, 0, 0, 1].into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let socket = udp(Domain::for_address(SocketAddr::new(home, 0))).unwrap();
        socket.attach_filter(&filter(place, routers)).unwrap();
        socket.bind(&SocketAddr::new(home, 0).into()).unwrap();
        let client = std::net::UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
        match from {
            IpAddr::V4(_) => SockRef::from(&client).set_ttl_v4(hops.into()).unwrap(),
            IpAddr::V6(_) => SockRef::from(&client)
                .set_unicast_hops_v6(hops.into())
                .unwrap(),
        }
        let bytes = [&[0; 8][..], &discriminator.to_be_bytes(), &[0; 12]].concat();
        let to = socket.local_addr().unwrap().as_socket().unwrap();
        client.send_to(&bytes, to).unwrap();
        // What loopback carries has come when it has been sent.
        std::io::Read::read(&mut &socket, &mut [0; 64]).is_ok()
    }

    #[test]
    fn what_no_router_has_sent_to_its_session_is_dropped_by_the_kernel() {
        let router = |address: &str, discriminator| HeardRouter {
            address: address.parse().unwrap(),
            discriminator,
        };
        let v4 = BTreeSet::from([
            router("127.0.0.2", 7),
            router("127.0.0.3", 0xffff_fff0),
            // Another session with the first one.
            router("127.0.0.2", 70),
        ]);
        let v6 = BTreeSet::from([router("::2", 1), router("::1", 9)]);
        for (routers, from, hops, discriminator, is_multihop, wanted) in [
            (&v4, "127.0.0.2", 255, 7, false, true),
            (&v4, "127.0.0.2", 255, 70, false, true),
            (&v4, "127.0.0.2", 254, 7, false, false),
            (&v4, "127.0.0.2", 254, 7, true, true),
            (&v4, "127.0.0.2", 255, 8, false, false),
            (&v4, "127.0.0.2", 255, 0, false, true),
            (&v4, "127.0.0.3", 255, 0xffff_fff0, false, true),
            (&v4, "127.0.0.3", 255, 0, false, true),
            (&v4, "127.0.0.3", 255, 7, false, false),
            (&v4, "127.0.0.4", 255, 7, false, false),
            (&v6, "::1", 255, 9, false, true),
            (&v6, "::1", 255, 0, false, true),
            (&v6, "::1", 255, 1, true, false),
            (&v6, "::1", 64, 9, false, false),
        ] {
            assert_eq!(
                is_taken(routers, from, hops, discriminator, is_multihop),
                wanted,
                "{from}, {hops} hops, {discriminator}, multihop: {is_multihop}"
            );
        }
        let none = BTreeSet::new();
        assert!(!is_taken(&none, "127.0.0.1", 255, 0, false));
    }
}
