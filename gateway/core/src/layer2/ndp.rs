//! Neighbor solicitations and advertisements with their IPv6 headers (RFC 4861, 4.3, 4.4, 7.1).

use std::net::Ipv6Addr;

use super::frame::HardwareAddress;
use crate::checksum::{ICMP_V6, icmp_v6_checksum};

/// Messages of neighbors come with this hop limit: one that a router has forwarded has less (RFC 4861, 7.1.1).
const HOP_LIMIT: u8 = 255;

/// ICMPv6 types.
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// Types of options (RFC 4861, 4.6.1).
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;

/// Flags of an advertisement.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// All nodes of a segment (RFC 4291, 2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The multicast group in which the owner of an address listens for solicitations (RFC 4291, 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let (high, low) = (0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, low)
}

/// A message of Neighbor Discovery that is about who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborMessage {
    /// Somebody asks.
    Solicitation(NeighborSolicitation),
    /// Somebody tells.
    Advertisement(NeighborAdvertisement),
}

/// A neighbor solicitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborSolicitation {
    /// Who asks; unspecified for duplicate address detection (RFC 4862, 5.4).
    pub source: Ipv6Addr,
    /// The solicited-node group of the target, or the target itself.
    pub destination: Ipv6Addr,
    /// The address that is asked for.
    pub target: Ipv6Addr,
    /// The asker's hardware address.
    pub source_hardware: Option<HardwareAddress>,
}

/// A neighbor advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborAdvertisement {
    /// Who tells.
    pub source: Ipv6Addr,
    /// Who asked, or all nodes.
    pub destination: Ipv6Addr,
    /// The address that it tells of.
    pub target: Ipv6Addr,
    /// Whether it answers a solicitation of the destination.
    pub is_solicited: bool,
    /// Whether it replaces what the receiver knows.
    pub overrides: bool,
    /// The target's hardware address.
    pub target_hardware: Option<HardwareAddress>,
}

impl NeighborMessage {
    /// Reads an IPv6 packet; padding may follow it. Whatever RFC 4861, 7.1 has a node discard is no message. So is
    /// one with extension headers: nobody has a reason to send that (RFC 6980).
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<40>()?;
        let [v, _, _, _, high, low, next, hops, addresses @ ..] = header;
        if v >> 4 != 6 || *next != ICMP_V6 || *hops != HOP_LIMIT {
            return None;
        }
        let message = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
        let (source, rest) = addresses.split_first_chunk::<16>()?;
        let (destination, _) = rest.split_first_chunk::<16>()?;
        let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination));
        if source.is_multicast() || icmp_v6_checksum(source, destination, message) != 0 {
            return None;
        }
        let (head, rest) = message.split_first_chunk::<8>()?;
        let (target, options) = rest.split_first_chunk::<16>()?;
        let target = Ipv6Addr::from(*target);
        let [kind, code, _, _, flags, ..] = *head;
        if code != 0 || target.is_multicast() {
            return None;
        }
        match kind {
            SOLICITATION => {
                let source_hardware = link_address(options, SOURCE_LINK_ADDRESS)?;
                let is_detection = source.is_unspecified();
                if is_detection
                    && (destination != solicited_node(target) || source_hardware.is_some())
                {
                    return None;
                }
                Some(Self::Solicitation(NeighborSolicitation {
                    source,
                    destination,
                    target,
                    source_hardware,
                }))
            }
            ADVERTISEMENT => {
                let target_hardware = link_address(options, TARGET_LINK_ADDRESS)?;
                let is_solicited = flags & SOLICITED != 0;
                if is_solicited && destination.is_multicast() {
                    return None;
                }
                Some(Self::Advertisement(NeighborAdvertisement {
                    source,
                    destination,
                    target,
                    is_solicited,
                    overrides: flags & OVERRIDE != 0,
                    target_hardware,
                }))
            }
            _ => None,
        }
    }
}

/// The hardware address in an option of that type, if there is one; an outer none where the options are malformed.
fn link_address(mut options: &[u8], wanted: u8) -> Option<Option<HardwareAddress>> {
    let mut found = None;
    while let [kind, units, ..] = options {
        // The length counts units of 8 bytes; one of 0 makes the message invalid (RFC 4861, 4.6).
        let length = usize::from(*units) * 8;
        if length == 0 {
            return None;
        }
        let (option, rest) = options.split_at_checked(length)?;
        if let [_, 1, address @ ..] = option
            && *kind == wanted
            && found.is_none()
        {
            found = address.first_chunk().copied().map(HardwareAddress);
        }
        options = rest;
    }
    options.is_empty().then_some(found)
}

impl NeighborSolicitation {
    /// One for duplicate address detection (RFC 4862, 5.4.2).
    pub fn detection(target: Ipv6Addr) -> Self {
        Self {
            source: Ipv6Addr::UNSPECIFIED,
            destination: solicited_node(target),
            target,
            source_hardware: None,
        }
    }

    /// The IPv6 packet.
    pub fn write(&self) -> Vec<u8> {
        let option = self.source_hardware.map(|it| (SOURCE_LINK_ADDRESS, it));
        let message = message(SOLICITATION, 0, self.target, option);
        packet(self.source, self.destination, message)
    }
}

impl NeighborAdvertisement {
    /// The IPv6 packet.
    pub fn write(&self) -> Vec<u8> {
        let mut flags = 0;
        if self.is_solicited {
            flags |= SOLICITED;
        }
        if self.overrides {
            flags |= OVERRIDE;
        }
        let option = self.target_hardware.map(|it| (TARGET_LINK_ADDRESS, it));
        let message = message(ADVERTISEMENT, flags, self.target, option);
        packet(self.source, self.destination, message)
    }
}

fn message(
    kind: u8,
    flags: u8,
    target: Ipv6Addr,
    option: Option<(u8, HardwareAddress)>,
) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
    message.extend(target.octets());
    if let Some((kind, address)) = option {
        message.extend([kind, 1]);
        message.extend(address.0);
    }
    message
}

/// Sets the checksum of an ICMPv6 message and puts an IPv6 header before it.
fn packet(source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let sum = icmp_v6_checksum(source, destination, &message);
    if let Some(place) = message.get_mut(2..4) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([ICMP_V6, HOP_LIMIT]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(message);
    packet
}
