//! Tells a UDP client that its port is unreachable, as the kernel does where nobody listens: by ICMP
//! (RFC 792, RFC 4443). For the socket that listens is there, and a socket can't say that of itself.
//!
//! It takes a raw socket (CAP_NET_RAW). Without one the client is told nothing and asks again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fairway_gateway_core::flows::FlowKey;
use fairway_gateway_core::route::Tick;
use socket2::{Domain, Protocol, Socket, Type};

/// How many clients are told in a second, at most: as many as Linux tells by its own
/// (`net.ipv4.icmp_msgs_per_sec`).
const RATE: u32 = 1000;

/// The protocol numbers of ICMP, UDP and ICMPv6, and of a raw socket whose packets are whole (raw(7)).
const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;
const RAW: i32 = 255;

/// The time to live of what is sent, and the class of service that Linux gives to ICMP errors.
const HOPS: u8 = 64;
const CLASS: u8 = 0xc0;

/// Sends ICMP's «port unreachable».
#[derive(Debug)]
pub(super) struct PortUnreachable {
    v4: Option<Socket>,
    v6: Option<Socket>,
    /// The second in which so many were told.
    second: u64,
    told: u32,
}

impl PortUnreachable {
    /// Has the sockets for it that the process may have.
    pub(super) fn open() -> Self {
        let raw = |domain| {
            let kind = Type::RAW.nonblocking().cloexec();
            Socket::new(domain, kind, Some(Protocol::from(RAW)))
        };
        let (v4, v6) = (raw(Domain::IPV4), raw(Domain::IPV6));
        if let Err(error) = &v4 {
            tracing::debug!(
                %error,
                "UDP clients whose endpoints all refuse are not told so; with CAP_NET_RAW they could be"
            );
        }
        Self {
            v4: v4.ok(),
            v6: v6.ok(),
            second: 0,
            told: 0,
        }
    }

    /// Tells the client of a flow.
    pub(super) fn tell(&mut self, flow: FlowKey, now: Tick) {
        let second = now.0 / 1000;
        if self.second != second {
            (self.second, self.told) = (second, 0);
        }
        if self.told >= RATE {
            return;
        }
        let (client, listen) = (flow.client.0, flow.listen.0);
        let mut to = client;
        to.set_port(0);
        let sent = match (listen.ip(), client.ip(), &self.v4, &self.v6) {
            (IpAddr::V4(from), IpAddr::V4(ip), Some(socket), _) => {
                let ports = (client.port(), listen.port());
                socket.send_to(&packet_v4(from, ip, ports), &to.into())
            }
            (IpAddr::V6(from), IpAddr::V6(ip), _, Some(socket)) => {
                let ports = (client.port(), listen.port());
                socket.send_to(&packet_v6(from, ip, ports), &to.into())
            }
            _ => return,
        };
        self.told += 1;
        if let Err(error) = sent {
            tracing::debug!(client = %client, %error, "port unreachable not sent");
        }
    }
}

/// The packet to a client over IPv4. `ports` are the client's and ours.
fn packet_v4(from: Ipv4Addr, client: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    // What it quotes: the head of the client's packet.
    let mut quoted = header_v4(UDP, 28, 1, client, from);
    quoted.extend(udp_header(ports));
    // Destination unreachable, port unreachable; then the checksum and what is not used.
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    let sum = checksum(&message);
    set_checksum(&mut message, 2, sum);
    let mut packet = header_v4(ICMP, 20 + message.len() as u16, HOPS, from, client);
    packet.extend(message);
    packet
}

fn header_v4(protocol: u8, length: u16, hops: u8, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let class = if protocol == ICMP { CLASS } else { 0 };
    let mut header = vec![0x45, class];
    header.extend(length.to_be_bytes());
    // No number, no fragment.
    header.extend([0, 0, 0, 0, hops, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header);
    set_checksum(&mut header, 10, sum);
    header
}

/// The same over IPv6.
fn packet_v6(from: Ipv6Addr, client: Ipv6Addr, ports: (u16, u16)) -> Vec<u8> {
    let mut quoted = header_v6(UDP, 8, 1, client, from);
    quoted.extend(udp_header(ports));
    // Destination unreachable, port unreachable; then the checksum and what is not used.
    let mut message = vec![1, 4, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    let length = message.len() as u16;
    // The pseudo-header of RFC 8200, 8.1.
    let mut summed = [from.octets(), client.octets()].concat();
    summed.extend(u32::from(length).to_be_bytes());
    summed.extend([0, 0, 0, ICMP_V6]);
    summed.extend(&message);
    let sum = checksum(&summed);
    set_checksum(&mut message, 2, sum);
    let mut packet = header_v6(ICMP_V6, length, HOPS, from, client);
    packet.extend(message);
    packet
}

fn header_v6(protocol: u8, length: u16, hops: u8, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(length.to_be_bytes());
    header.extend([protocol, hops]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

/// Of a datagram without bytes and without a checksum.
fn udp_header((from, to): (u16, u16)) -> [u8; 8] {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    [a, b, c, d, 0, 8, 0, 0]
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

fn set_checksum(bytes: &mut [u8], at: usize, sum: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_checksums_of_a_packet_add_up() {
        let (from, client) = ("203.0.113.1", "198.51.100.7");
        let packet = packet_v4(from.parse().unwrap(), client.parse().unwrap(), (40_000, 53));
        assert_eq!(packet.len(), 56);
        for part in [&packet[..20], &packet[20..], &packet[28..48]] {
            assert_eq!(checksum(part), 0, "{part:x?}");
        }
        assert_eq!(packet[48..52], [0x9c, 0x40, 0, 53], "the client's ports");

        let (from, client) = ("2001:db8:f::1", "2001:db8:c::7");
        let packet = packet_v6(from.parse().unwrap(), client.parse().unwrap(), (40_000, 53));
        assert_eq!(packet.len(), 40 + 8 + 48);
        let mut summed = packet[8..40].to_vec();
        summed.extend([0, 0, 0, 56, 0, 0, 0, 58]);
        summed.extend(&packet[40..]);
        assert_eq!(checksum(&summed), 0);
        assert_eq!(packet[88..92], [0x9c, 0x40, 0, 53], "the client's ports");
    }

    #[test]
    fn no_more_than_a_thousand_are_told_in_a_second() {
        let mut unreachable = PortUnreachable::open();
        let flow = FlowKey {
            client: fairway_config::net::ClientAddr("127.0.0.1:9".parse().unwrap()),
            listen: fairway_config::net::ListenAddr("127.0.0.1:9".parse().unwrap()),
        };
        unreachable.told = RATE;
        unreachable.tell(flow, Tick(999));
        assert_eq!(unreachable.told, RATE);
        unreachable.tell(flow, Tick(1000));
        // None where the process may not send any.
        assert_eq!(unreachable.told, u32::from(unreachable.v4.is_some()));
    }
}
