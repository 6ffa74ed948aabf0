//! What counts as one client where clients are counted.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU64;

/// One client: an IPv4 address, or a /64 of IPv6, which one host may have whole.
///
/// Addresses of 64:ff9b::/96 (RFC 6052) count as the IPv4 address in them: behind a translator (RFC 7755) all IPv4
/// clients of a server have one /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientNetwork(NonZeroU64);

/// In front of an IPv4 address. The /64s with these bits are in 0::/8, which no client has (RFC 4291, section 2.4).
const V4: u64 = 1 << 32;

/// The network 64:ff9b::/96, as the first 96 bits of an address.
const TRANSLATED: u128 = 0x0064_ff9b << 64;

impl ClientNetwork {
    /// The client that has this address.
    pub fn of(address: IpAddr) -> Self {
        let bits = match address.to_canonical() {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) if v6.to_bits() >> 32 == TRANSLATED => {
                // The lower 32 bits.
                of_v4(Ipv4Addr::from_bits(v6.to_bits() as u32))
            }
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        // ::/64 has ::1 alone.
        Self(NonZeroU64::new(bits).unwrap_or(NonZeroU64::MIN))
    }

    /// The client that has this [number](Self::number); none: no client has it.
    pub fn of_number(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// A number that no other client has.
    pub fn number(self) -> u64 {
        self.0.get()
    }
}

fn of_v4(address: Ipv4Addr) -> u64 {
    V4 | u64::from(address.to_bits())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn who_is_one_client() {
        let of = |text: &str| ClientNetwork::of(text.parse().unwrap());
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", false),
            ("64:ff9b::192.0.2.1", "192.0.2.1", true),
            ("64:ff9b:1::1", "64:ff9b::1", false),
            ("::1", "127.0.0.1", false),
            ("::1", "0.0.0.0", false),
            ("255.255.255.255", "2001:db8::", false),
        ] {
            assert_eq!(of(one) == of(other), same, "{one} and {other}");
        }
    }
}
