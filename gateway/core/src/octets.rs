//! Addresses as bytes to be hashed.

use std::net::IpAddr;

/// An address in 16 bytes, whatever its family and however it is written.
pub(crate) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
