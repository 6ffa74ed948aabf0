//! What authenticates what gateways say to each other: a keyed hash behind each message.
//!
//! It is HMAC-SHA256 (RFC 2104) under a key that is derived from the fleet's, over the receiver's name, the address that
//! the message goes to, and the message. So what was written to one member is nothing to another one, and what was
//! written on one network is nothing on another one of the same two members.

use std::net::IpAddr;

use fairway_config::exchange::FleetKey;
use ring::digest;
use ring::hmac::{self, Context, HMAC_SHA256};

/// How long the hash is, in bytes. With it the longest message fits into the 1,232 bytes that a UDP datagram over
/// IPv6 can have on every link.
pub(crate) const TAG: usize = 32;

/// What a key is derived for: the fleet's key has several uses, and what was written for one is nothing to another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SealPurpose {
    /// The messages by which gateways decide who owns an address.
    Fleet,
    /// Connections to endpoints of another gateway's node.
    Relay,
}

impl SealPurpose {
    fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Fleet => b"fairway fleet messages 1",
            Self::Relay => b"fairway relay 1",
        }
    }
}

/// The key of a fleet that people know as this secret.
pub fn fleet_key(secret: &[u8]) -> FleetKey {
    let mut bytes = [0; FleetKey::LENGTH];
    let hash = digest::digest(&digest::SHA256, secret);
    for (byte, of) in bytes.iter_mut().zip(hash.as_ref()) {
        *byte = *of;
    }
    FleetKey::new(bytes)
}

/// Authenticates messages under one key.
#[derive(Clone, Debug)]
pub(crate) struct Seal(hmac::Key);

impl Seal {
    pub(crate) fn new(key: &FleetKey, purpose: SealPurpose) -> Self {
        let derived = hmac::sign(
            &hmac::Key::new(HMAC_SHA256, key.bytes()),
            purpose.as_bytes(),
        );
        Self(hmac::Key::new(HMAC_SHA256, derived.as_ref()))
    }

    /// Puts the hash behind a message to that member at that address.
    pub(crate) fn close(&self, to: &str, at: IpAddr, message: &mut Vec<u8>) {
        let mut context = Context::with_key(&self.0);
        context.update(&receiver(to, at));
        context.update(message);
        message.extend(context.sign().as_ref());
    }

    /// The message to that member at that address whose hash is right, without the hash; none where it is wrong.
    /// Takes the same time wherever it is wrong.
    pub(crate) fn open<'a>(&self, to: &str, at: IpAddr, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let (message, tag) = sealed.split_last_chunk::<TAG>()?;
        let mut signed = receiver(to, at);
        signed.extend(message);
        hmac::verify(&self.0, &signed, tag).ok()?;
        Some(message)
    }
}

/// The receiver as bytes. How long they are follows from the first ones, so that they can't go on in the message.
fn receiver(to: &str, at: IpAddr) -> Vec<u8> {
    let length = u32::try_from(to.len()).unwrap_or(u32::MAX).to_be_bytes();
    let at = match at {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    [&length[..], &at, to.as_bytes()].concat()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const MESSAGE: &[u8] = b"FWF1 all is well";
    const AT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 12));

    fn sealed(seal: &Seal, to: &str) -> Vec<u8> {
        let mut message = MESSAGE.to_vec();
        seal.close(to, AT, &mut message);
        message
    }

    #[test]
    fn a_message_is_opened_by_its_receiver_alone() {
        let seal = Seal::new(&fleet_key(b"a secret of the fleet"), SealPurpose::Fleet);
        let message = sealed(&seal, "edge-2");
        assert_eq!(message.len(), MESSAGE.len() + TAG);
        assert_eq!(seal.open("edge-2", AT, &message), Some(MESSAGE));
        let again = Seal::new(&fleet_key(b"a secret of the fleet"), SealPurpose::Fleet);
        assert_eq!(again.open("edge-2", AT, &message), Some(MESSAGE));
        for other in ["edge-1", "edge-", "edge-2F", ""] {
            assert_eq!(seal.open(other, AT, &message), None, "{other}");
        }
        for other in ["192.0.2.13", "::ffff:192.0.2.13", "2001:db8::c"] {
            assert_eq!(
                seal.open("edge-2", other.parse().unwrap(), &message),
                None,
                "{other}"
            );
        }
    }

    #[test]
    fn another_key_opens_nothing() {
        let message = sealed(
            &Seal::new(&fleet_key(b"a secret of the fleet"), SealPurpose::Fleet),
            "edge-2",
        );
        let other = Seal::new(&fleet_key(b"a secret of the fleeT"), SealPurpose::Fleet);
        assert_eq!(other.open("edge-2", AT, &message), None);
        let other = Seal::new(&fleet_key(b"a secret of the fleet"), SealPurpose::Relay);
        assert_eq!(other.open("edge-2", AT, &message), None);
    }

    #[test]
    fn no_bit_may_be_another_and_no_byte_missing() {
        let seal = Seal::new(&fleet_key(b"a secret of the fleet"), SealPurpose::Fleet);
        let message = sealed(&seal, "edge-2");
        for bit in 0..message.len() * 8 {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open("edge-2", AT, &flipped), None, "bit {bit}");
        }
        for length in 0..message.len() {
            assert_eq!(
                seal.open("edge-2", AT, &message[..length]),
                None,
                "{length} bytes"
            );
        }
        let mut longer = message.clone();
        longer.push(0);
        assert_eq!(seal.open("edge-2", AT, &longer), None);
    }
}
