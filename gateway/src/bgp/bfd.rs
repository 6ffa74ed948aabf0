//! The sockets of BFD.
//!
//! Packets come to port 3784 over one hop (RFC 5881) and to 4784 over several (RFC 5883). The first are taken with
//! a TTL of 255 alone, which nobody farther away can send; a filter of the kernel drops the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use fairway_gateway_core::bfd::packet::{self, BfdPacket};
use fairway_gateway_core::fleet::BootTime;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;

/// How many packets of a socket one turn takes.
const TURN: usize = 256;

/// The pause after a socket could not be had.
const RETRY: Duration = Duration::from_secs(1);

/// Source ports (RFC 5881, section 4).
const SOURCES: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// Where packets come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BfdPlace {
    pub(super) is_v6: bool,
    pub(super) is_multihop: bool,
}

impl BfdPlace {
    fn port(self) -> u16 {
        if self.is_multihop { 4784 } else { 3784 }
    }
}

/// The sockets that packets come in by, as long as there is a session for each.
#[derive(Debug, Default)]
pub(super) struct BfdSockets {
    open: BTreeMap<BfdPlace, UdpSocket>,
    /// Why those that are wanted are not there, and when they are tried again.
    failed: BTreeMap<BfdPlace, (String, BootTime)>,
}

impl BfdSockets {
    /// Opens and closes sockets, so that these are there. Needs a Tokio runtime.
    pub(super) fn want(&mut self, places: &BTreeSet<BfdPlace>, now: BootTime) {
        self.open.retain(|place, _| places.contains(place));
        self.failed.retain(|place, _| places.contains(place));
        for place in places {
            let waits = self.failed.get(place).is_some_and(|(_, at)| now < *at);
            if self.open.contains_key(place) || waits {
                continue;
            }
            match listen(*place) {
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

fn listen(place: BfdPlace) -> io::Result<UdpSocket> {
    let (domain, any): (_, IpAddr) = match place.is_v6 {
        true => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
        false => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
    };
    let socket = udp(domain)?;
    if place.is_v6 {
        socket.set_only_v6(true)?;
    }
    if !place.is_multihop {
        // Where the TTL is in an IPv4 header, and the hop limit in an IPv6 one (linux/filter.h: SKF_NET_OFF).
        let at = if place.is_v6 { 7 } else { 8 };
        let network_header = 0xfff0_0000;
        socket.attach_filter(&[
            // BPF_LD | BPF_B | BPF_ABS; BPF_JMP | BPF_JEQ | BPF_K; BPF_RET | BPF_K.
            SockFilter::new(0x30, 0, 0, network_header + at),
            SockFilter::new(0x15, 0, 1, 255),
            SockFilter::new(0x06, 0, 0, u32::MAX),
            SockFilter::new(0x06, 0, 0, 0),
        ])?;
    }
    socket.bind(&SocketAddr::new(any, place.port()).into())?;
    UdpSocket::from_std(socket.into())
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

    /// Sends a packet. One that can't be sent is lost, as on the way.
    pub(super) fn send(&self, packet: &BfdPacket) {
        if let Err(error) = self.0.send(&packet::encode(packet)) {
            tracing::debug!(%error, "BFD packet not sent");
        }
    }
}
