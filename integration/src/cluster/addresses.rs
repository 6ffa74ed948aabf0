//! Where the control plane is to be reached.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Where the API server is for every attached host.
pub const API_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// The same over IPv6.
pub const API_ADDRESS_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1);
/// Its port.
pub const API_PORT: u16 = 6443;

/// Where `kubectl proxy` listens on the control plane's host.
pub(super) const DOOR_PORT: u16 = 8001;
