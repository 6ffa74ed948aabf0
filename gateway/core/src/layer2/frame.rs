//! Ethernet frames (IEEE 802.3) as far as ARP and IPv6 need them.

use std::fmt;
use std::net::Ipv6Addr;

/// The EtherTypes of ARP, IPv6, and an 802.1Q tag.
pub(super) const ARP: u16 = 0x0806;
pub(super) const IP_V6: u16 = 0x86dd;
const TAG: u16 = 0x8100;

/// The number of a VLAN in a tag (802.1Q). The other bits are a priority.
const VLAN: u16 = 0x0fff;

/// The address of a network interface (a MAC address).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HardwareAddress(pub [u8; 6]);

impl HardwareAddress {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// The address that stands for none.
    pub const NONE: Self = Self([0; 6]);

    /// Whether it can be that of one interface: no group's, and not [`Self::NONE`].
    pub fn is_of_one(self) -> bool {
        let [first, ..] = self.0;
        first & 1 == 0 && self != Self::NONE
    }

    /// That of an IPv6 multicast group (RFC 2464, 7).
    pub(super) fn of_group(group: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = group.octets();
        Self([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for HardwareAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EthernetFrame<'a> {
    pub(super) source: HardwareAddress,
    pub(super) kind: u16,
    pub(super) payload: &'a [u8],
}

impl<'a> EthernetFrame<'a> {
    /// A frame of this segment. One with the tag of a VLAN is of another; VLAN 0 says that the tag has a priority
    /// only (802.1Q, 6.9), so that tag is passed over.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (_destination, rest) = bytes.split_first_chunk::<6>()?;
        let (source, rest) = rest.split_first_chunk::<6>()?;
        let (kind, mut payload) = rest.split_first_chunk::<2>()?;
        let mut kind = u16::from_be_bytes(*kind);
        if kind == TAG {
            let (tag, rest) = payload.split_first_chunk::<2>()?;
            let (inner, rest) = rest.split_first_chunk::<2>()?;
            if u16::from_be_bytes(*tag) & VLAN != 0 {
                return None;
            }
            kind = u16::from_be_bytes(*inner);
            payload = rest;
        }
        Some(Self {
            source: HardwareAddress(*source),
            kind,
            payload,
        })
    }
}

/// A frame to be sent. Network interfaces pad a short one themselves.
pub(super) fn ethernet(
    to: HardwareAddress,
    from: HardwareAddress,
    kind: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(14 + payload.len());
    frame.extend(to.0);
    frame.extend(from.0);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}
