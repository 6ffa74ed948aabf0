//! ICMP's «port unreachable», as packets with their IP headers.

use std::net::{Ipv4Addr, Ipv6Addr};

use fairway_gateway_core::checksum::{ICMP_V6, icmp_v6_checksum, internet_checksum};

/// The protocol numbers of ICMP and UDP.
const ICMP: u8 = 1;
const UDP: u8 = 17;

/// The time to live of what is sent, and the class of service that Linux gives to ICMP errors.
const HOPS: u8 = 64;
const CLASS: u8 = 0xc0;

/// The packet that tells a client over IPv4 (RFC 792) that a port of ours is unreachable. `ports` are the
/// client's and ours.
pub(super) fn packet_v4(from: Ipv4Addr, client: Ipv4Addr, ports: (u16, u16)) -> Vec<u8> {
    // It quotes the head of the client's packet.
    let mut quoted = header_v4(UDP, 28, 1, client, from);
    quoted.extend(udp_header(ports));
    // Destination unreachable, port unreachable; then the checksum and four unused bytes.
    let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    let sum = internet_checksum(&message);
    set_checksum(&mut message, 2, sum);
    let mut packet = header_v4(ICMP, 20 + message.len() as u16, HOPS, from, client);
    packet.extend(message);
    packet
}

fn header_v4(protocol: u8, length: u16, hops: u8, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let class = if protocol == ICMP { CLASS } else { 0 };
    let mut header = vec![0x45, class];
    header.extend(length.to_be_bytes());
    // No identification, not a fragment.
    header.extend([0, 0, 0, 0, hops, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = internet_checksum(&header);
    set_checksum(&mut header, 10, sum);
    header
}

/// The same over IPv6 (RFC 4443).
pub(super) fn packet_v6(from: Ipv6Addr, client: Ipv6Addr, ports: (u16, u16)) -> Vec<u8> {
    let mut quoted = header_v6(UDP, 8, 1, client, from);
    quoted.extend(udp_header(ports));
    // Destination unreachable, port unreachable; then the checksum and four unused bytes.
    let mut message = vec![1, 4, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    let length = message.len() as u16;
    let sum = icmp_v6_checksum(from, client, &message);
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

/// The header of a datagram without bytes and without a checksum.
fn udp_header((from, to): (u16, u16)) -> [u8; 8] {
    let ([a, b], [c, d]) = (from.to_be_bytes(), to.to_be_bytes());
    [a, b, c, d, 0, 8, 0, 0]
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
            assert_eq!(internet_checksum(part), 0, "{part:x?}");
        }
        assert_eq!(packet[48..52], [0x9c, 0x40, 0, 53], "the client's ports");

        let (from, client) = ("2001:db8:f::1", "2001:db8:c::7");
        let packet = packet_v6(from.parse().unwrap(), client.parse().unwrap(), (40_000, 53));
        assert_eq!(packet.len(), 40 + 8 + 48);
        let mut summed = packet[8..40].to_vec();
        summed.extend([0, 0, 0, 56, 0, 0, 0, 58]);
        summed.extend(&packet[40..]);
        assert_eq!(internet_checksum(&summed), 0);
        assert_eq!(packet[88..92], [0x9c, 0x40, 0, 53], "the client's ports");
    }
}
