//! What routers say to each other, as values.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

use fairway_config::net::IpFamily;

/// The most bytes of a message (RFC 4271, section 4.1). The longer ones of RFC 8654 are not offered.
pub const LONGEST: usize = 4096;

/// The bytes of a message's header.
pub const HEADER: usize = 19;

/// The AS number that stands for one that needs four bytes, where there is room for two (RFC 6793).
pub const AS_TRANS: u16 = 23456;

/// A message that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BgpMessage {
    /// Who the router is, and what it can.
    Open(BgpOpen),
    /// Routes, which were checked and dropped.
    Update,
    /// The router has ended the session.
    Notification(BgpNotification),
    /// It is alive.
    Keepalive,
    /// It asks for all prefixes of a family once more (RFC 2918); none: of one that is not spoken here.
    RouteRefresh(Option<IpFamily>),
}

/// An OPEN message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpOpen {
    /// The number of its AS, of four bytes where the router can say so.
    pub asn: u32,
    /// In seconds; 0: never.
    pub hold_time: u16,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
    /// What it can.
    pub capabilities: BgpCapabilities,
}

/// What a speaker can (RFC 5492), as far as it concerns announcing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpCapabilities {
    /// Unicast of these families (RFC 4760); none said: IPv4.
    pub families: BTreeSet<IpFamily>,
    /// AS numbers of four bytes (RFC 6793).
    pub four_octet_asn: bool,
    /// IPv4 prefixes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Route refresh (RFC 2918).
    pub route_refresh: bool,
    /// Graceful restart (RFC 4724): for how many seconds routes are to be kept, and whether the speaker has just
    /// begun.
    pub graceful_restart: Option<(u16, bool)>,
}

/// A NOTIFICATION message: why a session ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpNotification {
    /// The kind of error.
    pub code: u8,
    /// Which.
    pub subcode: u8,
    /// What was wrong.
    pub data: Vec<u8>,
}

impl BgpNotification {
    /// A notification without data.
    pub const fn new(code: u8, subcode: u8) -> Self {
        Self {
            code,
            subcode,
            data: Vec::new(),
        }
    }

    /// The same with data.
    pub fn with(mut self, data: &[u8]) -> Self {
        self.data = data.to_vec();
        self
    }

    /// Hold Timer Expired.
    pub const HOLD_TIMER: Self = Self::new(4, 0);
    /// Send Hold Timer Expired (RFC 9687).
    pub const SEND_HOLD_TIMER: Self = Self::new(8, 0);
    /// Cease, Administrative Shutdown (RFC 4486).
    pub const SHUTDOWN: Self = Self::new(6, 2);
    /// Cease, Peer De-configured.
    pub const DECONFIGURED: Self = Self::new(6, 3);
    /// Cease, Administrative Reset.
    pub const RESET: Self = Self::new(6, 4);
    /// Cease, Other Configuration Change.
    pub const CHANGED: Self = Self::new(6, 6);
    /// Cease, BFD Down (RFC 9384).
    pub const BFD_DOWN: Self = Self::new(6, 10);

    /// The names of IANA's registry.
    fn names(&self) -> (&'static str, &'static str) {
        let subcode = usize::from(self.subcode);
        let of = |names: &[&'static str]| names.get(subcode).copied().unwrap_or_default();
        match self.code {
            1 => (
                "Message Header Error",
                of(&[
                    "",
                    "Connection Not Synchronized",
                    "Bad Message Length",
                    "Bad Message Type",
                ]),
            ),
            2 => (
                "OPEN Message Error",
                of(&[
                    "",
                    "Unsupported Version Number",
                    "Bad Peer AS",
                    "Bad BGP Identifier",
                    "Unsupported Optional Parameter",
                    "",
                    "Unacceptable Hold Time",
                    "Unsupported Capability",
                    "",
                    "",
                    "",
                    "Role Mismatch",
                ]),
            ),
            3 => (
                "UPDATE Message Error",
                of(&[
                    "",
                    "Malformed Attribute List",
                    "Unrecognized Well-known Attribute",
                    "Missing Well-known Attribute",
                    "Attribute Flags Error",
                    "Attribute Length Error",
                    "Invalid ORIGIN Attribute",
                    "",
                    "Invalid NEXT_HOP Attribute",
                    "Optional Attribute Error",
                    "Invalid Network Field",
                    "Malformed AS_PATH",
                ]),
            ),
            4 => ("Hold Timer Expired", ""),
            5 => (
                "Finite State Machine Error",
                of(&[
                    "",
                    "Unexpected Message in OpenSent State",
                    "Unexpected Message in OpenConfirm State",
                    "Unexpected Message in Established State",
                ]),
            ),
            6 => (
                "Cease",
                of(&[
                    "",
                    "Maximum Number of Prefixes Reached",
                    "Administrative Shutdown",
                    "Peer De-configured",
                    "Administrative Reset",
                    "Connection Rejected",
                    "Other Configuration Change",
                    "Connection Collision Resolution",
                    "Out of Resources",
                    "Hard Reset",
                    "BFD Down",
                ]),
            ),
            7 => ("ROUTE-REFRESH Message Error", ""),
            8 => ("Send Hold Timer Expired", ""),
            _ => ("an unknown error", ""),
        }
    }
}

impl fmt::Display for BgpNotification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, subcode) = (self.code, self.subcode);
        match self.names() {
            (kind, "") => write!(f, "{kind} ({code}/{subcode})"),
            (kind, which) => write!(f, "{kind}: {which} ({code}/{subcode})"),
        }
    }
}
