//! Answering for external addresses on a segment (a layer 2 network), without I/O: ARP (RFC 826, RFC 5227) for IPv4,
//! Neighbor Discovery (RFC 4861) for IPv6. Ethernet frames go in and out as bytes, time comes in as an argument.
//!
//! Reading order: [`HardwareAddress`] and Ethernet frames; `arp` and `ndp`, the messages; `schedule`, when an address
//! is announced; `conflicts`, who else answers for it; `probes`, whether an address is free; [`Responder`], which has
//! all of them for one segment.
//!
//! The messages are read and written by code of our own: two fixed layouts of 28 and 24 bytes. A library (etherparse
//! has both) would bring the bytes, but not what makes a message count: hop limit, checksum, options, who may ask
//! from where. These rules are most of the code here.
//!
//! Invariants:
//! - Nothing is answered or announced when `now` is past the right to do so.
//! - No frame makes it panic, and what a frame costs does not grow with the number of addresses.

mod arp;
mod conflicts;
mod frame;
mod ndp;
mod probes;
mod responder;
mod schedule;
#[cfg(test)]
mod tests;

pub use self::arp::{ArpOperation, ArpPacket};
pub use self::conflicts::SeenConflict;
pub use self::frame::HardwareAddress;
pub use self::ndp::{NeighborAdvertisement, NeighborMessage, NeighborSolicitation, solicited_node};
pub use self::probes::{ProbeOutcome, ProbeResult};
pub use self::responder::{FrameKind, OutgoingFrame, Responder};
pub use self::schedule::{AnnouncementForm, OFFSETS, ROUND};
