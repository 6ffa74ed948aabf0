//! The Internet checksum.

use std::net::Ipv6Addr;

/// The protocol number of ICMPv6.
pub const ICMP_V6: u8 = 58;

/// The Internet checksum (RFC 1071). It is 0 over bytes that hold their own checksum.
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match word {
        [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
        [high] => u64::from(*high) << 8,
        _ => 0,
    });
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// The checksum of an ICMPv6 message: over the pseudo-header of RFC 8200, 8.1, and the message.
pub fn icmp_v6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut summed = [from.octets(), to.octets()].concat();
    summed.extend(length.to_be_bytes());
    summed.extend([0, 0, 0, ICMP_V6]);
    summed.extend(message);
    internet_checksum(&summed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_holds() {
        // RFC 1071, 3: the sum is ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(internet_checksum(&bytes), !0xddf2);
        // A last byte without a second one counts as if a 0 followed.
        assert_eq!(internet_checksum(&[0x12]), !0x1200);
        assert_eq!(internet_checksum(&[]), 0xffff);
    }
}
