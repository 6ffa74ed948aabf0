//! ARP and NDP as bytes of Ethernet frames: questions that a client would ask, and what is said in answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

/// Sent to all.
const ALL: [u8; 6] = [0xff; 6];
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// What a frame says of where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The address.
    pub address: IpAddr,
    /// The hardware address that is named for it.
    pub hardware: [u8; 6],
    /// Whether it answers a question of ARP or NDP; else it was said without one, by who asks for another address, or by
    /// who takes a connection there.
    pub is_answer: bool,
}

/// An ARP request (RFC 826) by who has the addresses `from`, to all.
pub fn arp_request(from: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    arp(ALL, 1, from, ([0; 6], target))
}

/// An ARP reply to one host by who says that it has the addresses `from`.
pub fn arp_reply(from: ([u8; 6], Ipv4Addr), to: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    arp(to.0, 2, from, to)
}

/// A neighbour advertisement (RFC 4861, 4.4) by who says that it has the addresses `from`, to one host.
pub fn advertisement(from: ([u8; 6], Ipv6Addr), to: ([u8; 6], Ipv6Addr)) -> Vec<u8> {
    // Kind 2: the hardware address of the target.
    ndp(to, from, [ADVERTISEMENT, 0x20], (from.1, 2))
}

/// A UDP datagram over IPv4 that no router has passed on, without a sum of its own (RFC 768).
pub fn udp_datagram(
    from: ([u8; 6], SocketAddrV4),
    to: ([u8; 6], SocketAddrV4),
    payload: &[u8],
) -> Vec<u8> {
    let length = (28 + payload.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, 0, 255, UDP, 0, 0]);
    header.extend(from.1.ip().octets());
    header.extend(to.1.ip().octets());
    let mut sum = Sum::default();
    sum.add(&header);
    header[10..12].copy_from_slice(&sum.folded());
    let mut frame = ethernet(to.0, from.0, IPV4);
    frame.extend(header);
    frame.extend(from.1.port().to_be_bytes());
    frame.extend(to.1.port().to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

/// An ARP packet with that operation.
fn arp(
    to: [u8; 6],
    operation: u8,
    sender: ([u8; 6], Ipv4Addr),
    target: ([u8; 6], Ipv4Addr),
) -> Vec<u8> {
    let mut frame = ethernet(to, sender.0, ARP);
    // Ethernet, IPv4, and the lengths of their addresses.
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(sender.0);
    frame.extend(sender.1.octets());
    frame.extend(target.0);
    frame.extend(target.1.octets());
    // The shortest frame that Ethernet carries.
    frame.resize(60, 0);
    frame
}

/// A neighbour solicitation (RFC 4861, 4.3) by who has the addresses `from`, to the group of the address that is
/// asked for.
pub fn solicitation(from: ([u8; 6], Ipv6Addr), target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c].into();
    // Kind 1: the sender's hardware address.
    ndp(
        ([0x33, 0x33, 0xff, a, b, c], group),
        from,
        [SOLICITATION, 0],
        (target, 1),
    )
}

/// A message of NDP with one option, the sender's hardware address.
fn ndp(
    to: ([u8; 6], Ipv6Addr),
    from: ([u8; 6], Ipv6Addr),
    [kind, flags]: [u8; 2],
    (target, option): (Ipv6Addr, u8),
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    message.extend([option, 1]);
    message.extend(from.0);
    let length = message.len() as u8;
    let mut sum = Sum::default();
    sum.add(&from.1.octets());
    sum.add(&to.1.octets());
    sum.add(&[0, length, 0, ICMPV6]);
    sum.add(&message);
    message[2..4].copy_from_slice(&sum.folded());
    let mut frame = ethernet(to.0, from.0, IPV6);
    // A hop limit of 255 shows that no router passed it on.
    frame.extend([0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
    frame.extend(from.1.octets());
    frame.extend(to.1.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: [u8; 6], from: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [&to[..], &from[..], &kind[..]].concat()
}

/// The sum of RFC 1071, of parts with even lengths.
#[derive(Default)]
struct Sum(u32);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            self.0 += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }

    fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }
}

/// What a frame says of where an address is; nothing where it says nothing of that.
pub fn naming(frame: &[u8]) -> Option<Naming> {
    match frame.get(12..14)?.try_into().ok()? {
        ARP => naming_in_arp(frame),
        IPV6 => naming_in_ndp(frame),
        _ => None,
    }
}

fn naming_in_arp(frame: &[u8]) -> Option<Naming> {
    if frame.get(14..20)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let operation = *frame.get(21)?;
    let sender = Ipv4Addr::from(octets::<4>(frame, 28)?);
    let target = Ipv4Addr::from(octets::<4>(frame, 38)?);
    // A probe has no sender: it names nobody (RFC 5227).
    (!sender.is_unspecified()).then_some(Naming {
        address: sender.into(),
        hardware: octets(frame, 22)?,
        is_answer: operation == 2 && sender != target,
    })
}

fn naming_in_ndp(frame: &[u8]) -> Option<Naming> {
    if *frame.get(20)? != ICMPV6 {
        return None;
    }
    let from = Ipv6Addr::from(octets::<16>(frame, 22)?);
    let flags = *frame.get(58)?;
    let (address, option, is_answer) = match *frame.get(54)? {
        ADVERTISEMENT => (octets::<16>(frame, 62)?.into(), 2, flags & 0x40 != 0),
        // Who asks says where it is itself, unless it probes.
        SOLICITATION if !from.is_unspecified() => (from, 1, false),
        _ => return None,
    };
    let mut rest = frame.get(78..)?;
    let mut hardware = None;
    while let [kind, length, ..] = rest
        && *length > 0
    {
        if *kind == option {
            hardware = octets(rest, 2);
        }
        rest = rest.get(usize::from(*length) * 8..).unwrap_or_default();
    }
    // An answer to a single host may leave it out (RFC 4861, 4.4).
    let hardware = match hardware {
        None if option == 2 => octets(frame, 6),
        named => named,
    };
    Some(Naming {
        address: IpAddr::V6(address),
        hardware: hardware?,
        is_answer,
    })
}

/// Who takes a connection at an address: the sender of the second packet of a handshake (SYN and ACK). Of other packets
/// of a connection nothing follows: who had the address when it began may go on with it.
pub fn accepting(frame: &[u8]) -> Option<Naming> {
    let is_of = |kind, at: usize| frame.get(at) == Some(&kind);
    let (address, tcp): (IpAddr, usize) = match frame.get(12..14)?.try_into().ok()? {
        IPV4 if is_of(TCP, 23) => {
            let header = usize::from(frame.get(14)? & 0xf) * 4;
            (octets::<4>(frame, 26)?.into(), 14 + header)
        }
        IPV6 if is_of(TCP, 20) => (octets::<16>(frame, 22)?.into(), 54),
        _ => return None,
    };
    // SYN and ACK, and neither FIN nor RST.
    (frame.get(tcp + 13)? & 0x17 == 0x12).then_some(Naming {
        address,
        hardware: octets(frame, 6)?,
        is_answer: false,
    })
}

/// Whether a frame is a UDP datagram over IPv4 to that port.
pub fn is_udp_to(frame: &[u8], port: u16) -> bool {
    frame.get(12..14) == Some(&IPV4)
        && frame.get(14) == Some(&0x45)
        && frame.get(23) == Some(&UDP)
        && frame.get(36..38) == Some(&port.to_be_bytes())
}

/// The bytes that a UDP datagram over IPv4 carries, of a frame that [`is_udp_to`] knows.
pub fn udp_payload(frame: &mut [u8]) -> &mut [u8] {
    frame.get_mut(42..).unwrap_or_default()
}

/// Takes the sum of a UDP datagram over IPv4 away, which is allowed (RFC 768): where a frame goes from namespace to
/// namespace nobody has made it, so a copy of the frame would be dropped for its sum.
pub fn without_udp_sum(frame: &mut [u8]) {
    if let Some(sum) = frame.get_mut(40..42) {
        sum.fill(0);
    }
}

fn octets<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const ONE: [u8; 6] = [2, 0, 0, 0, 1, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 1, 2];

    #[test]
    fn what_frames_say_of_addresses() {
        let (vip, asker): (Ipv4Addr, Ipv4Addr) =
            ("198.19.1.1".parse().unwrap(), "198.19.0.9".parse().unwrap());
        let (vip6, asker6): (Ipv6Addr, Ipv6Addr) = (
            "2001:db8::1".parse().unwrap(),
            "2001:db8::9".parse().unwrap(),
        );
        let none = Ipv4Addr::UNSPECIFIED;
        let said = |address: IpAddr, is_answer| {
            Some(Naming {
                address,
                hardware: ONE,
                is_answer,
            })
        };
        let advertised = |flags, option| {
            ndp(
                (OTHER, asker6),
                (ONE, vip6),
                [ADVERTISEMENT, flags],
                (vip6, option),
            )
        };
        let table = [
            (
                "answer",
                arp(OTHER, 2, (ONE, vip), (OTHER, asker)),
                said(vip.into(), true),
            ),
            (
                "gratuitous answer",
                arp(ALL, 2, (ONE, vip), (ALL, vip)),
                said(vip.into(), false),
            ),
            (
                "gratuitous request",
                arp_request((ONE, vip), vip),
                said(vip.into(), false),
            ),
            (
                "theft by asking",
                arp_request((ONE, vip), asker),
                said(vip.into(), false),
            ),
            ("probe", arp_request((ONE, none), vip), None),
            ("solicited", advertised(0x60, 2), said(vip6.into(), true)),
            ("unsolicited", advertised(0x20, 2), said(vip6.into(), false)),
            (
                "without the option",
                advertised(0x60, 14),
                said(vip6.into(), true),
            ),
            (
                "asking",
                solicitation((ONE, asker6), vip6),
                said(asker6.into(), false),
            ),
            (
                "DAD",
                solicitation((ONE, Ipv6Addr::UNSPECIFIED), vip6),
                None,
            ),
            ("nothing", Vec::new(), None),
        ];
        for (what, frame, wanted) in table {
            assert_eq!(naming(&frame), wanted, "{what}");
            // What is cut off does no harm.
            for length in 0..frame.len() {
                let _ = naming(&frame[..length]);
            }
        }
    }

    #[test]
    fn who_takes_a_connection_is_known_by_its_second_packet() {
        let (vip, vip6): (Ipv4Addr, Ipv6Addr) = (
            "198.19.1.1".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
        );
        let tcp = |flags| [&[0; 13][..], &[flags], &[0; 6]].concat();
        // With an option of IPv4, which puts TCP further behind.
        let four = |kind, flags| {
            let header = [
                &[0x46, 0, 0, 0, 0, 0, 0, 0, 64, kind, 0, 0][..],
                &vip.octets(),
            ];
            let rest = [&[0; 8][..], &tcp(flags)].concat();
            [ethernet(OTHER, ONE, IPV4), header.concat(), rest].concat()
        };
        let six = |kind, flags| {
            let header = [
                &[0x60, 0, 0, 0, 0, 20, kind, 64][..],
                &vip6.octets(),
                &[0; 16],
            ];
            [ethernet(OTHER, ONE, IPV6), header.concat(), tcp(flags)].concat()
        };
        let taken = |address: IpAddr| {
            Some(Naming {
                address,
                hardware: ONE,
                is_answer: false,
            })
        };
        let table = [
            ("SYN, ACK", four(TCP, 0x12), taken(vip.into())),
            ("with ECN", four(TCP, 0x52), taken(vip.into())),
            ("IPv6", six(TCP, 0x12), taken(vip6.into())),
            ("SYN", four(TCP, 0x02), None),
            ("data", four(TCP, 0x18), None),
            ("refused", six(TCP, 0x14), None),
            ("UDP", four(UDP, 0x12), None),
            ("UDP over IPv6", six(UDP, 0x12), None),
            ("ARP", arp_request((ONE, vip), vip), None),
        ];
        for (what, frame, wanted) in table {
            assert_eq!(accepting(&frame), wanted, "{what}");
            for length in 0..frame.len() {
                let _ = accepting(&frame[..length]);
            }
        }
    }

    #[test]
    fn a_solicitation_has_the_sum_that_receivers_ask_for() {
        let from = "2001:db8::9".parse().unwrap();
        let frame = solicitation((ONE, from), "2001:db8::f:1".parse().unwrap());
        let mut sum = Sum::default();
        sum.add(&frame[22..54]);
        sum.add(&[0, 32, 0, ICMPV6]);
        sum.add(&frame[54..]);
        // RFC 1071: over all of it, the sum with it, nothing is left.
        assert_eq!(sum.folded(), [0, 0]);
        assert_eq!(frame.len(), 86);
    }
}
