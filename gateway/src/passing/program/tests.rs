use std::cell::Cell;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use fairway_config::net::{ListenAddr, Protocol};

use super::super::testing::in_namespace;
use super::*;
use crate::bpf::instructions::has_good_jumps;
use crate::bpf::{self, Map};
use crate::slot::BindKey;
use crate::steering::{Inquiry, Steering, WhenClosed};

mod errors;
mod sockets;

/// What the kernel calls the interface on which [`bpf::run_on`] has frames arrive.
const LOOPBACK: u32 = 1;

/// The hardware address of that interface, which is the one that frames are to.
const HERE: [u8; 6] = [0; 6];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 9];
const PREDECESSOR: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// Answers of the program.
const TO_KERNEL: u32 = u32::MAX;
const PASSED: u32 = 7;

const ACK: u8 = 0x10;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const FIN: u8 = 0x01;

const V4: &str = "203.0.113.1:80";
const V6: &str = "[2001:db8::1]:80";

/// The program in the kernel, which passes what is for some addresses.
struct Passer {
    program: OwnedFd,
    passed: Map<KEY, VALUE>,
    _begun: Map<TUPLE, RECORD>,
    _fragments: Map<PACKET, 8>,
    predecessors: Cell<u16>,
    count: Map<4, 8>,
    _inquiry: Arc<Inquiry>,
}

impl Passer {
    fn new() -> Self {
        Self::beside(Arc::new(bpf::processor_numbers().unwrap()))
    }

    /// Where connections are steered.
    fn beside(inquiry: Arc<Inquiry>) -> Self {
        let passed = bpf::hash(16).unwrap();
        let begun = bpf::lru_hash::<TUPLE, RECORD>(16).unwrap();
        let fragments = bpf::lru_hash::<PACKET, 8>(16).unwrap();
        let count = bpf::counter().unwrap();
        let code = program(PassingMaps {
            passed: passed.number(),
            begun: begun.number(),
            fragments: fragments.number(),
            count: count.number(),
            inquiry: inquiry.number(),
        });
        let passer = Self {
            program: bpf::load_for_ingress(&code).unwrap(),
            passed,
            _begun: begun,
            _fragments: fragments,
            predecessors: Cell::new(0),
            count,
            _inquiry: inquiry,
        };
        for address in ["203.0.113.1", "2001:db8::1", "127.0.0.1", "::1"] {
            passer.pass(address, LOOPBACK);
        }
        passer
    }

    fn pass(&self, address: &str, interface: u32) {
        let key = key(address.parse().unwrap(), interface);
        self.predecessors.set(self.predecessors.get() + 1);
        let value = value(HardwareAddress(PREDECESSOR), self.predecessors.get());
        self.passed.set(key, value).unwrap();
    }

    fn answer(&self, packet: &Packet) -> u32 {
        bpf::run_on(&self.program, &packet.frame()).unwrap().0
    }
}

/// A TCP packet.
#[derive(Clone)]
struct Packet {
    from: SocketAddr,
    to: SocketAddr,
    flags: u8,
    number: u32,
    hops: u8,
    protocol: u8,
    /// IPv4 alone: the fragment offset with its flags, and how many words of options there are.
    fragment: u16,
    options: u8,
    destination: [u8; 6],
    tag: Option<u16>,
    /// How much of it is there.
    length: usize,
}

impl Packet {
    fn to(to: &str, flags: u8) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let from = match to {
            SocketAddr::V4(_) => "198.51.100.9:40000",
            SocketAddr::V6(_) => "[2001:db8:9::9]:40000",
        };
        Self {
            from: from.parse().unwrap(),
            to,
            flags,
            number: 7_000,
            hops: 64,
            protocol: 6,
            fragment: 0,
            options: 0,
            destination: HERE,
            tag: None,
            length: usize::MAX,
        }
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = [&self.destination[..], &CLIENT[..]].concat();
        if let Some(tag) = self.tag {
            frame.extend([0x81, 0x00]);
            frame.extend(tag.to_be_bytes());
        }
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                frame.extend([0x08, 0x00]);
                let words = 5 + self.options;
                let length = u16::from(words) * 4 + 20 + 5;
                let mut header = vec![0x40 | words, 0];
                header.extend(length.to_be_bytes());
                header.extend([0, 1]);
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.hops, self.protocol, 0, 0]);
                header.extend(from.octets());
                header.extend(to.octets());
                // No operation.
                header.resize(usize::from(words) * 4, 1);
                let sum = !sum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 25, self.protocol, self.hops]);
                frame.extend(from.octets());
                frame.extend(to.octets());
            }
            _ => unreachable!(),
        }
        frame.extend(self.from.port().to_be_bytes());
        frame.extend(self.to.port().to_be_bytes());
        frame.extend(self.number.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0x50, self.flags, 1, 0, 0, 0, 0, 0]);
        frame.extend(b"hello");
        frame.truncate(self.length);
        frame
    }
}

/// The sum of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|it| u16::from_be_bytes([it[0], it[1]]));
    let sum: u32 = words.map(u32::from).sum();
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn every_jump_stays_in_the_program() {
    let maps = PassingMaps {
        passed: 3,
        begun: 4,
        fragments: 5,
        count: 6,
        inquiry: 7,
    };
    assert!(has_good_jumps(&program(maps)));
}

#[test]
fn what_belongs_to_no_connection_here_is_passed() {
    let passer = Passer::new();
    let with = |to: &str, flags, change: fn(&mut Packet)| {
        let mut packet = Packet::to(to, flags);
        change(&mut packet);
        packet
    };
    let none = |_: &mut Packet| {};
    let table = [
        ("data", with(V4, ACK, none), PASSED),
        ("data over IPv6", with(V6, ACK, none), PASSED),
        ("an end", with(V4, ACK | FIN, none), PASSED),
        ("a reset", with(V6, RST, none), PASSED),
        ("SYN and ACK", with(V4, SYN | ACK, none), PASSED),
        ("a new connection", with(V4, SYN, none), TO_KERNEL),
        ("a new connection over IPv6", with(V6, SYN, none), TO_KERNEL),
        (
            "another address",
            with("203.0.113.2:80", ACK, none),
            TO_KERNEL,
        ),
        (
            "another address of IPv6",
            with("[2001:db8::2]:80", ACK, none),
            TO_KERNEL,
        ),
        ("UDP", with(V4, ACK, |it| it.protocol = 17), TO_KERNEL),
        (
            "UDP over IPv6",
            with(V6, ACK, |it| it.protocol = 17),
            TO_KERNEL,
        ),
        (
            "an extension header",
            with(V6, ACK, |it| it.protocol = 0),
            TO_KERNEL,
        ),
        ("options", with(V4, ACK, |it| it.options = 3), PASSED),
        (
            "must not be cut",
            with(V4, ACK, |it| it.fragment = 0x4000),
            PASSED,
        ),
        (
            "a later fragment",
            with(V4, ACK, |it| it.fragment = 0x2003),
            TO_KERNEL,
        ),
        (
            "the last fragment",
            with(V4, ACK, |it| it.fragment = 0x0003),
            TO_KERNEL,
        ),
        (
            "the first fragment",
            with(V4, ACK, |it| it.fragment = 0x2000),
            PASSED,
        ),
        (
            "a later fragment of a packet that is passed",
            with(V4, ACK, |it| it.fragment = 0x2003),
            PASSED,
        ),
        (
            "its last fragment",
            with(V4, ACK, |it| it.fragment = 0x0006),
            PASSED,
        ),
        (
            "a fragment of another client",
            with(V4, ACK, |it| {
                it.fragment = 0x0006;
                it.from.set_ip([198, 51, 100, 10].into());
            }),
            TO_KERNEL,
        ),
        (
            "a fragment of a datagram",
            with(V4, ACK, |it| {
                it.fragment = 0x0006;
                it.protocol = 17;
            }),
            TO_KERNEL,
        ),
        (
            "to another host",
            with(V4, ACK, |it| it.destination = CLIENT),
            TO_KERNEL,
        ),
        (
            "to all",
            with(V4, ACK, |it| it.destination = [0xff; 6]),
            TO_KERNEL,
        ),
        ("in a VLAN", with(V4, ACK, |it| it.tag = Some(5)), TO_KERNEL),
        (
            "cut short",
            with(V4, ACK, |it| it.length = 14 + 20 + 13),
            TO_KERNEL,
        ),
        (
            "cut short over IPv6",
            with(V6, ACK, |it| it.length = 14 + 40 + 13),
            TO_KERNEL,
        ),
        ("the last hop", with(V4, ACK, |it| it.hops = 1), TO_KERNEL),
        (
            "the last hop over IPv6",
            with(V6, ACK, |it| it.hops = 1),
            TO_KERNEL,
        ),
    ];
    let mut passed = 0;
    for (what, packet, wanted) in table {
        assert_eq!(passer.answer(&packet), wanted, "{what}");
        passed += u64::from(wanted == PASSED);
    }
    assert_eq!(passer.count.get([0; 4]).unwrap(), passed.to_ne_bytes());
    // On another interface it is none of this host's.
    passer
        .passed
        .remove(key("203.0.113.1".parse().unwrap(), LOOPBACK))
        .unwrap();
    passer.pass("203.0.113.1", LOOPBACK + 1);
    assert_eq!(passer.answer(&Packet::to(V4, ACK)), TO_KERNEL);
}

#[test]
fn a_packet_that_is_passed_goes_to_the_predecessor_with_few_hops() {
    let passer = Passer::new();
    for (to, at) in [(V4, 14 + 8), (V6, 14 + 7)] {
        for (hops, wanted) in [(255, 8), (64, 8), (9, 8), (8, 7), (2, 1)] {
            let packet = Packet {
                hops,
                ..Packet::to(to, ACK)
            };
            let (_, frame) = bpf::run_on(&passer.program, &packet.frame()).unwrap();
            assert_eq!(frame[..12], [PREDECESSOR, HERE].concat(), "{to}");
            assert_eq!(frame[at], wanted, "{to} with {hops} hops");
            if to == V4 {
                assert_eq!(sum(&frame[14..34]), 0xffff, "with {hops} hops");
            }
            let mut same = packet.frame();
            let end = at + 4;
            same[..end].copy_from_slice(&frame[..end]);
            assert_eq!(frame, same, "all else is as it was");
        }
    }
}

#[test]
fn who_answers_a_syn_cookie_is_a_client_of_this_host() {
    let passer = Passer::new();
    for to in [V4, V6] {
        for number in [7_000, u32::MAX] {
            let packet = |flags, number| Packet {
                number,
                ..Packet::to(to, flags)
            };
            assert_eq!(passer.answer(&packet(SYN, number)), TO_KERNEL);
            let next = number.wrapping_add(1);
            assert_eq!(passer.answer(&packet(ACK, next)), TO_KERNEL, "{to}");
            // One that goes on is not, whoever has sent that SYN.
            assert_eq!(passer.answer(&packet(ACK, next.wrapping_add(1))), PASSED);
            let mut other = packet(ACK, next);
            other.from.set_port(40_001);
            assert_eq!(passer.answer(&other), PASSED);
        }
    }
}

#[test]
fn what_is_passed_is_no_refused_client() {
    if !in_namespace("passing::program::tests::what_is_passed_is_no_refused_client") {
        return;
    }
    let steering = Steering::open(1, 1_000).unwrap();
    let passer = Passer::beside(steering.inquiry());
    for (listen, when_closed) in [
        ("127.0.0.1:80", WhenClosed::Refuse),
        ("[::1]:80", WhenClosed::Refuse),
        ("127.0.0.1:81", WhenClosed::Count),
    ] {
        let place = BindKey {
            listen: ListenAddr(listen.parse().unwrap()),
            protocol: Protocol::Tcp,
        };
        steering.shut(place, when_closed);
        assert_eq!(passer.answer(&Packet::to(listen, ACK)), PASSED, "{listen}");
        assert_eq!(steering.counted(place), Some(0), "{listen}");
        assert!(TcpStream::connect(listen).is_err());
        assert_eq!(steering.counted(place), Some(1), "{listen}");
    }
}
