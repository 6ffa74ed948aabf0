//! ARP packets for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use super::frame::HardwareAddress;

/// What an ARP packet begins with: hardware Ethernet, protocol IPv4, addresses of 6 and 4 bytes.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// The same from IEEE 802 networks, which use another number for the hardware (RFC 5494). Linux takes both.
const IEEE_802_IPV4: [u8; 6] = [0, 6, 8, 0, 6, 4];

/// An ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpPacket {
    /// Question or answer.
    pub operation: ArpOperation,
    /// Who speaks.
    pub sender_hardware: HardwareAddress,
    /// The sender's address; 0.0.0.0 in a probe (RFC 5227, 2.1.1).
    pub sender: Ipv4Addr,
    /// Who is spoken to; in a request nobody, usually.
    pub target_hardware: HardwareAddress,
    /// The address that is asked for; in a reply that of the receiver.
    pub target: Ipv4Addr,
}

/// The operation of an ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// It asks for the hardware address of its target.
    Request,
    /// It answers a request, or tells something unasked.
    Reply,
}

impl ArpPacket {
    /// Reads a frame's payload; padding may follow the packet.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (head, rest) = payload.split_first_chunk::<6>()?;
        if *head != ETHERNET_IPV4 && *head != IEEE_802_IPV4 {
            return None;
        }
        let (operation, rest) = rest.split_first_chunk::<2>()?;
        let operation = match operation {
            [0, 1] => ArpOperation::Request,
            [0, 2] => ArpOperation::Reply,
            _ => return None,
        };
        let (sender_hardware, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let (target_hardware, rest) = rest.split_first_chunk::<6>()?;
        let (target, _padding) = rest.split_first_chunk::<4>()?;
        Some(Self {
            operation,
            sender_hardware: HardwareAddress(*sender_hardware),
            sender: Ipv4Addr::from(*sender),
            target_hardware: HardwareAddress(*target_hardware),
            target: Ipv4Addr::from(*target),
        })
    }

    /// The packet as a frame's payload.
    pub fn write(&self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(28);
        packet.extend(ETHERNET_IPV4);
        packet.extend(match self.operation {
            ArpOperation::Request => [0, 1],
            ArpOperation::Reply => [0, 2],
        });
        packet.extend(self.sender_hardware.0);
        packet.extend(self.sender.octets());
        packet.extend(self.target_hardware.0);
        packet.extend(self.target.octets());
        packet
    }
}
