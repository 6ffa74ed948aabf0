//! The sockets of one segment, one for each of the host's own addresses there. They take and send datagrams by its
//! interface alone, so that a cable which is pulled is noticed even where there is another way to the same gateway;
//! they take none that goes to an external address, and none that a router has passed on: the kernel drops those, so
//! that nobody from outside can keep it from the others (RFC 5082, GTSM).
//!
//! Whoever is on the segment can send more than is read, so that heartbeats would be lost in a full buffer. In such a
//! flood the kernel takes all that begins as messages of known runs do, and a sample of all else ([`GarbageWatch`]): the
//! number of a run is a random one, which only its members hear.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use fairway_gateway_core::fleet::{GarbageWatch, wire};
use rustix::event::{PollFd, PollFlags};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

/// How much the kernel keeps for us at one socket, in bytes: far more than a fleet says in a second.
const BUFFER: usize = 1 << 20;

/// The traffic class of network control (RFC 2474): it goes first where a switch is full.
const NETWORK_CONTROL: u32 = 6 << 5;

/// The hops of a datagram that no router has passed on.
const HOPS: u8 = 255;

/// An interface may have more addresses than this. Other gateways speak to the first ones of them.
const MOST: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MemberSockets {
    /// The kernel's number of the interface: another one of the same name needs other sockets.
    index: u32,
    by_address: BTreeMap<IpAddr, UdpSocket>,
    /// In a flood: the runs whose messages are taken.
    runs: Option<BTreeSet<u64>>,
}

/// A datagram that has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TakenDatagram<'a> {
    pub(super) from: IpAddr,
    /// The address of ours that it went to.
    pub(super) at: IpAddr,
    pub(super) bytes: &'a [u8],
}

impl MemberSockets {
    /// Opens sockets for these addresses of the host, and closes those of others. Those in `needed` have to be had.
    /// Returns whether all of them are open.
    ///
    /// # Errors
    /// As socket(2) and bind(2): another process listens at the port, or the interface or a needed address is gone.
    pub(super) fn set(
        &mut self,
        (interface, index): (&str, u32),
        port: u16,
        own: &BTreeSet<IpAddr>,
        needed: &BTreeSet<IpAddr>,
    ) -> io::Result<bool> {
        if self.index != index {
            self.by_address.clear();
            self.index = index;
        }
        let own: BTreeSet<IpAddr> = needed
            .iter()
            .chain(own.iter().take(MOST))
            .copied()
            .collect();
        self.by_address.retain(|address, _| own.contains(address));
        let mut are_all = true;
        for address in own {
            if self.by_address.contains_key(&address) {
                continue;
            }
            match bind(
                interface,
                SocketAddr::new(address, port),
                self.runs.as_ref(),
            ) {
                Ok(socket) => {
                    self.by_address.insert(address, socket);
                }
                Err(error) if needed.contains(&address) => return Err(error),
                // One that is not valid yet, as duplicates are still looked for (RFC 4862).
                Err(_) => are_all = false,
            }
        }
        Ok(are_all)
    }

    /// In a flood only these runs are heard, and a sample of all else; with none, everybody is.
    ///
    /// # Errors
    /// As `SO_ATTACH_FILTER` (socket(7)): the kernel has no memory for it.
    pub(super) fn hear(&mut self, runs: Option<BTreeSet<u64>>) -> io::Result<()> {
        if runs == self.runs {
            return Ok(());
        }
        self.runs = runs;
        for (address, socket) in &self.by_address {
            let filter = from_neighbors(address.is_ipv4(), self.runs.as_ref());
            SockRef::from(socket).attach_filter(&filter)?;
        }
        Ok(())
    }

    /// Sends a datagram from one of the host's addresses to another gateway.
    ///
    /// # Errors
    /// As sendto(2).
    pub(super) fn send(&self, from: IpAddr, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let socket = self.by_address.get(&from);
        let socket = socket.ok_or(io::ErrorKind::AddrNotAvailable)?;
        socket.send_to(datagram, to).map(|_| ())
    }

    /// Takes one datagram that waits; none where there is none. It is cut to the length of the buffer. Which socket is
    /// looked at first follows from `turn`, so that a flood at one does not keep those at others waiting.
    pub(super) fn receive<'a>(
        &self,
        turn: usize,
        buffer: &'a mut [u8],
    ) -> Option<TakenDatagram<'a>> {
        let count = self.by_address.len();
        let in_turn = self.by_address.iter().cycle();
        for (at, socket) in in_turn.skip(turn.checked_rem(count)?).take(count) {
            // An error is that of an earlier datagram, or there is nothing: either way there is nothing to be done.
            if let Ok((length, from)) = socket.recv_from(buffer) {
                return Some(TakenDatagram {
                    from: from.ip(),
                    at: *at,
                    bytes: buffer.get(..length)?,
                });
            }
        }
        None
    }

    /// What poll(2) is to wait for.
    pub(super) fn polled(&self) -> impl Iterator<Item = PollFd<'_>> {
        let sockets = self.by_address.values();
        sockets.map(|socket| PollFd::new(socket, PollFlags::IN))
    }
}

fn bind(interface: &str, own: SocketAddr, runs: Option<&BTreeSet<u64>>) -> io::Result<UdpSocket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(own), kind, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.attach_filter(&from_neighbors(own.is_ipv4(), runs))?;
    // The traffic class is best effort.
    match own {
        SocketAddr::V4(_) => {
            socket.set_ttl_v4(HOPS.into())?;
            let _ = socket.set_tos_v4(NETWORK_CONTROL);
        }
        SocketAddr::V6(_) => {
            socket.set_unicast_hops_v6(HOPS.into())?;
            let _ = socket.set_tclass_v6(NETWORK_CONTROL);
        }
    }
    let _ = socket.set_recv_buffer_size(BUFFER);
    socket.bind(&own.into())?;
    Ok(socket.into())
}

/// A filter that drops datagrams with fewer hops than [`HOPS`], and all but a sample of those of other runs: classic BPF
/// (Documentation/networking/filter.rst), on the TTL of RFC 791 or the hop limit of RFC 8200. What is too short for its
/// loads is dropped.
fn from_neighbors(is_ipv4: bool, runs: Option<&BTreeSet<u64>>) -> Vec<SockFilter> {
    /// `BPF_LD | BPF_B | BPF_ABS`
    const LOAD_BYTE: u16 = 0x30;
    /// `BPF_LD | BPF_W | BPF_ABS`
    const LOAD_WORD: u16 = 0x20;
    /// `BPF_LD | BPF_W | BPF_IND`: counted from X.
    const LOAD_WORD_FROM_X: u16 = 0x40;
    /// `BPF_MISC | BPF_TAX`: X becomes what was loaded.
    const SET_X: u16 = 0x07;
    /// `BPF_JMP | BPF_JEQ | BPF_K`
    const JUMP_IF_EQUAL: u16 = 0x15;
    /// `BPF_JMP | BPF_JSET | BPF_K`
    const JUMP_IF_ANY_BIT: u16 = 0x45;
    /// `BPF_RET | BPF_K`: how many bytes are kept.
    const RETURN: u16 = 0x06;
    /// From here on offsets count from the network header.
    const NETWORK_HEADER: u32 = libc::SKF_NET_OFF.cast_unsigned();
    /// A random number (`SKF_AD_RANDOM` of linux/filter.h).
    const RANDOM: u32 = (libc::SKF_AD_OFF + 56).cast_unsigned();
    /// A filter sees the UDP header first.
    const MESSAGE: u32 = 8;
    const ALL: SockFilter = SockFilter::new(RETURN, 0, 0, u32::MAX);
    const NONE: SockFilter = SockFilter::new(RETURN, 0, 0, 0);
    let hops = if is_ipv4 { 8 } else { 7 };
    let mut filter = vec![
        SockFilter::new(LOAD_BYTE, 0, 0, NETWORK_HEADER.wrapping_add(hops)),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, HOPS.into()),
        NONE,
    ];
    let Some(runs) = runs else {
        filter.push(ALL);
        return filter;
    };
    let run = MESSAGE + wire::RUN_AFTER_NAME;
    filter.extend([
        SockFilter::new(LOAD_BYTE, 0, 0, MESSAGE + wire::NAME_LENGTH_AT),
        SockFilter::new(SET_X, 0, 0, 0),
    ]);
    for known in runs.iter().take(wire::MOST_MEMBERS) {
        let [high, low] = [*known >> 32, *known & u64::from(u32::MAX)];
        let [high, low] = [high, low].map(|half| u32::try_from(half).unwrap_or_default());
        filter.extend([
            SockFilter::new(LOAD_WORD_FROM_X, 0, 0, run),
            SockFilter::new(JUMP_IF_EQUAL, 0, 3, high),
            SockFilter::new(LOAD_WORD_FROM_X, 0, 0, run + 4),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, low),
            ALL,
        ]);
    }
    filter.extend([
        SockFilter::new(LOAD_WORD, 0, 0, RANDOM),
        SockFilter::new(JUMP_IF_ANY_BIT, 0, 1, GarbageWatch::SAMPLE - 1),
        NONE,
        ALL,
    ]);
    filter
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use socket2::SockRef;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A port that is free.
    fn port() -> u16 {
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    }

    #[test]
    fn a_datagram_passes_by_the_interface_and_says_where_it_went_to() {
        let (mut sockets, port) = (MemberSockets::default(), port());
        let other = IpAddr::from([127, 0, 0, 2]);
        let own = BTreeSet::from([HOME, other]);
        assert!(sockets.set(("lo", 1), port, &own, &own).unwrap());
        assert_eq!(sockets.polled().count(), 2);
        let mut buffer = [0; 64];
        assert_eq!(sockets.receive(0, &mut buffer), None);
        sockets
            .send(HOME, SocketAddr::new(other, port), b"hello")
            .unwrap();
        let taken = TakenDatagram {
            from: HOME,
            at: other,
            bytes: b"hello",
        };
        assert_eq!(sockets.receive(0, &mut buffer), Some(taken));
        // An address that is gone has no socket.
        assert!(
            sockets
                .set(("lo", 1), port, &BTreeSet::from([HOME]), &BTreeSet::new())
                .unwrap()
        );
        assert_eq!(sockets.polled().count(), 1);
        assert!(
            sockets
                .send(other, SocketAddr::new(HOME, port), b"hello")
                .is_err()
        );
    }

    #[test]
    fn what_a_router_has_passed_on_is_not_taken() {
        for home in ["127.0.0.1", "::1"] {
            let home: IpAddr = home.parse().unwrap();
            let (mut sockets, port) = (MemberSockets::default(), port());
            let own = BTreeSet::from([home]);
            assert!(sockets.set(("lo", 1), port, &own, &own).unwrap());
            let client = UdpSocket::bind(SocketAddr::new(home, 0)).unwrap();
            let hops = |hops: u8| match home {
                IpAddr::V4(_) => SockRef::from(&client).set_ttl_v4(hops.into()).unwrap(),
                IpAddr::V6(_) => SockRef::from(&client)
                    .set_unicast_hops_v6(hops.into())
                    .unwrap(),
            };
            for number in [1, 64, 254, 255] {
                hops(number);
                client
                    .send_to(&[number], SocketAddr::new(home, port))
                    .unwrap();
            }
            let mut buffer = [0; 64];
            // They come in order.
            assert_eq!(
                sockets.receive(0, &mut buffer).unwrap().bytes,
                [255],
                "{home}"
            );
            assert_eq!(sockets.receive(0, &mut buffer), None);
        }
    }

    #[test]
    fn in_a_flood_known_runs_are_heard_and_a_sample_of_all_else() {
        for home in ["127.0.0.1", "::1"] {
            let home: IpAddr = home.parse().unwrap();
            let (mut sockets, port) = (MemberSockets::default(), port());
            let own = BTreeSet::from([home]);
            assert!(sockets.set(("lo", 1), port, &own, &own).unwrap());
            let client = UdpSocket::bind(SocketAddr::new(home, 0)).unwrap();
            match home {
                IpAddr::V4(_) => SockRef::from(&client).set_ttl_v4(255).unwrap(),
                IpAddr::V6(_) => SockRef::from(&client).set_unicast_hops_v6(255).unwrap(),
            }
            let message =
                |run: u64| [&b"FWF1\x06edge-2"[..], &run.to_be_bytes(), &[0; 40]].concat();
            let heard = |sockets: &MemberSockets, bytes: &[u8]| {
                let mut buffer = [0; 64];
                let mut count = 0;
                for _ in 0..64 {
                    client.send_to(bytes, SocketAddr::new(home, port)).unwrap();
                    while sockets.receive(0, &mut buffer).is_some() {
                        count += 1;
                    }
                }
                count
            };
            let (known, other) = (
                message(0x1122_3344_5566_7788),
                message(0x1122_3344_5566_7789),
            );
            assert_eq!(heard(&sockets, &other), 64);
            let runs = BTreeSet::from([7, 0x1122_3344_5566_7788]);
            sockets.hear(Some(runs)).unwrap();
            assert_eq!(heard(&sockets, &known), 64, "{home}");
            // One in sixteen; all of 64 are not within the reach of chance.
            assert!(heard(&sockets, &other) < 40, "{home}");
            assert_eq!(heard(&sockets, b"short"), 0, "{home}");
            sockets.hear(None).unwrap();
            assert_eq!(heard(&sockets, &other), 64, "{home}");
        }
    }

    #[test]
    fn an_address_that_can_t_be_had_is_an_error_where_it_is_needed() {
        let mut sockets = MemberSockets::default();
        let own = BTreeSet::from([HOME]);
        let foreign = BTreeSet::from([IpAddr::from([192, 0, 2, 1])]);
        let (none, port) = (BTreeSet::new(), port());
        assert!(sockets.set(("no-such", 1), port, &own, &own).is_err());
        assert!(!sockets.set(("no-such", 1), port, &own, &none).unwrap());
        assert!(sockets.set(("lo", 1), port, &own, &foreign).is_err());
        assert!(!sockets.set(("lo", 1), port, &foreign, &own).unwrap());
        assert_eq!(sockets.polled().count(), 1);
        // Somebody else has the port.
        let mut others = MemberSockets::default();
        assert!(others.set(("lo", 1), port, &own, &own).is_err());
    }
}
