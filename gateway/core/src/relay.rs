//! What two gateways say to each other when one has an endpoint of the other's node dialled from a client's address.
//!
//! 1. The one that was connected to says a [greeting] with a number that it never says again.
//! 2. The other says for whom it asks what: a PROXY protocol header of version 2 with the client as its source and the
//!    endpoint as its destination, and a field of the range for custom use with a keyed hash over the greeting and the
//!    header (`PP2_TYPE_MIN_CUSTOM`; what makes and checks the hash is an argument).
//! 3. The first one dials the endpoint, if it may, and says with one byte what came of it ([`RelayAnswer`]). From then
//!    on the bytes are those of the client and the endpoint.
//!
//! The number makes the hash one of this connection, so a header that somebody has recorded is none on another one;
//! neither clocks nor a memory of headers are needed. The bytes behind it are not protected: who can change packets
//! between the nodes can do so for every Service.

use std::net::SocketAddr;

use crate::proxy_protocol::{self, HeaderProgress, ProxyHeaderError, ProxyHeaderSays};

/// What a greeting begins with; the digit is the version of all that follows.
const MAGIC: &[u8; 4] = b"FWR1";

/// How long a greeting is, in bytes.
pub const GREETING: usize = 20;

/// How long the keyed hash is, in bytes.
pub const HASH: usize = 32;

/// The type of the field with the hash.
const FIELD: u8 = 0xE0;

/// The field before the hash: its type, and its length.
const BEFORE_HASH: [u8; 3] = [FIELD, 0, HASH as u8];

/// The longest header: that of two IPv6 addresses.
pub const MOST: usize = 16 + 36 + BEFORE_HASH.len() + HASH;

/// The greeting with this number.
pub fn greeting(number: u128) -> [u8; GREETING] {
    let mut greeting = [0; GREETING];
    let (magic, rest) = greeting.split_at_mut(MAGIC.len());
    magic.copy_from_slice(MAGIC);
    rest.copy_from_slice(&number.to_be_bytes());
    greeting
}

/// Whether this is a greeting of a version that we speak.
pub fn is_greeting(bytes: &[u8; GREETING]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The header by which an endpoint is asked for, without the hash, which has to follow. Both addresses are of one
/// family.
pub fn header(client: SocketAddr, endpoint: SocketAddr) -> Vec<u8> {
    let mut header = proxy_protocol::write_addresses(client, endpoint, BEFORE_HASH.len() + HASH);
    header.extend(BEFORE_HASH);
    header
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayRequest<'a> {
    /// The client that the endpoint is to see.
    pub client: SocketAddr,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// What the hash is over, besides the greeting.
    pub hashed: &'a [u8],
    /// The hash, as it was said.
    pub hash: &'a [u8; HASH],
}

/// Reads the header from the first bytes that have come, at most [`MOST`] of them. None: more have to come. Nothing of
/// it counts before the hash was found right.
///
/// # Errors
/// It is no such header.
pub fn read(bytes: &[u8]) -> Result<Option<RelayRequest<'_>>, ProxyHeaderError> {
    let (length, says) = match proxy_protocol::read(bytes)? {
        HeaderProgress::Complete { length, says } => (length, says),
        HeaderProgress::Incomplete if bytes.len() < MOST => return Ok(None),
        HeaderProgress::Incomplete => return Err(ProxyHeaderError::TooLong),
    };
    let ProxyHeaderSays::Client(client) = says else {
        return Err(ProxyHeaderError::NoClient);
    };
    let split = bytes.get(..length).and_then(|it| it.split_last_chunk());
    let Some((hashed, hash)) = split else {
        return Err(ProxyHeaderError::Malformed);
    };
    // As long as ours and no longer: nothing stands between the addresses and the hash.
    let addresses = if client.source.is_ipv4() { 12 } else { 36 };
    if !hashed.ends_with(&BEFORE_HASH) || length != 16 + addresses + BEFORE_HASH.len() + HASH {
        return Err(ProxyHeaderError::Malformed);
    }
    Ok(Some(RelayRequest {
        client: client.source,
        endpoint: client.destination,
        hashed,
        hash,
    }))
}

/// What came of the dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RelayAnswer {
    /// The endpoint has accepted the connection.
    Connected = 0,
    /// It has refused it.
    Refused = 1,
    /// There is no route to it.
    Unreachable = 2,
    /// It has not answered in time.
    TimedOut = 3,
    /// It is no endpoint of this node that may be dialled so.
    NotKnown = 4,
    /// This gateway may not dial from other addresses.
    NotPermitted = 5,
    /// It is on the node's own network.
    HostNetwork = 6,
    /// The system has refused otherwise.
    Failed = 7,
}

impl RelayAnswer {
    /// All of them, by their number.
    pub const ALL: [Self; 8] = [
        Self::Connected,
        Self::Refused,
        Self::Unreachable,
        Self::TimedOut,
        Self::NotKnown,
        Self::NotPermitted,
        Self::HostNetwork,
        Self::Failed,
    ];

    /// The answer of this byte. One that a later version says is a failure.
    pub fn of(byte: u8) -> Self {
        let known = Self::ALL.get(usize::from(byte));
        known.copied().unwrap_or(Self::Failed)
    }

    /// One word: the value of a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timeout",
            Self::NotKnown => "not_known",
            Self::NotPermitted => "not_permitted",
            Self::HostNetwork => "host_network",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    fn pair(is_v4: bool, ports: (u16, u16)) -> (SocketAddr, SocketAddr) {
        let (client, endpoint) = if is_v4 {
            ("198.51.100.7", "10.0.2.9")
        } else {
            ("2001:db8:c::7", "2001:db8:2::9")
        };
        let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
        (at(client, ports.0), at(endpoint, ports.1))
    }

    fn written(is_v4: bool, ports: (u16, u16)) -> Vec<u8> {
        let (client, endpoint) = pair(is_v4, ports);
        let mut bytes = header(client, endpoint);
        bytes.extend([7; HASH]);
        bytes
    }

    #[test]
    fn greetings_differ_by_their_number_and_are_of_a_version() {
        assert!(is_greeting(&greeting(0)));
        assert_ne!(greeting(1), greeting(2));
        let mut other = greeting(1);
        other[3] = b'2';
        assert!(!is_greeting(&other));
    }

    #[test]
    fn an_answer_is_its_number() {
        for (number, answer) in RelayAnswer::ALL.into_iter().enumerate() {
            assert_eq!(answer as usize, number);
            assert_eq!(RelayAnswer::of(u8::try_from(number).unwrap()), answer);
        }
        assert_eq!(RelayAnswer::of(200), RelayAnswer::Failed);
    }

    #[test]
    fn another_header_of_the_protocol_asks_for_nothing() {
        let (client, endpoint) = pair(true, (1, 2));
        let sent = proxy_protocol::SentHeader {
            source: client,
            destination: endpoint,
            authority: None,
            unique_id: b"",
        };
        use fairway_config::port_options::ProxyVersion::{V1, V2};
        for version in [V1, V2] {
            assert!(read(&proxy_protocol::write(version, &sent)).is_err());
            assert!(read(&proxy_protocol::write_own(version)).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(is_v4: bool, ports: (u16, u16), behind: Vec<u8>) {
            let header = written(is_v4, ports);
            prop_assert!(header.len() <= MOST);
            let mut bytes = header.clone();
            bytes.extend(behind);
            let request = read(&bytes).unwrap().unwrap();
            prop_assert_eq!((request.client, request.endpoint), pair(is_v4, ports));
            prop_assert_eq!(request.hashed.len() + HASH, header.len());
            prop_assert_eq!(request.hash, &[7; HASH]);
        }

        #[test]
        fn what_is_cut_is_waited_for(is_v4: bool, at in any::<prop::sample::Index>()) {
            let header = written(is_v4, (1, 2));
            let cut = at.index(header.len());
            prop_assert_eq!(read(&header[..cut]), Ok(None));
        }

        #[test]
        fn every_byte_before_the_hash_counts(is_v4: bool, at in any::<prop::sample::Index>(), other: u8) {
            let header = written(is_v4, (1, 2));
            let mut changed = header.clone();
            let at = at.index(header.len() - HASH);
            prop_assume!(changed[at] != other);
            changed[at] = other;
            // It is no header, or another one: then the hash is wrong.
            if let Ok(Some(request)) = read(&changed) {
                prop_assert_ne!(request.hashed, &header[..header.len() - HASH]);
            }
        }

        #[test]
        fn no_bytes_do_harm(bytes: Vec<u8>, is_begun: bool) {
            let mut bytes = bytes;
            if is_begun {
                let header = written(true, (1, 2));
                bytes.splice(0..0, header[..16].iter().copied());
            }
            let _ = read(&bytes);
        }
    }
}
