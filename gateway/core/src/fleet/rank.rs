//! The rendezvous hash, by which all members put the candidates of an address into one order.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher24;

/// Never to be changed: members of different versions would rank candidates differently.
const KEY: (u64, u64) = (0x6661_6972_7761_7921, 0x6f77_6e65_726f_6661);

/// The rendezvous hash of an address and a member: the greatest one comes first.
pub(super) fn rank(address: IpAddr, member: &str) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(KEY.0, KEY.1);
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    hasher.write(&octets);
    hasher.write(member.as_bytes());
    hasher.finish()
}

/// What stands for an address in the digest of all that a member knows: the digest is these, one after the other,
/// combined by exclusive or.
pub(super) fn digest(address: IpAddr) -> u64 {
    rank(address, "")
}
