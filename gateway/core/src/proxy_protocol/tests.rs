#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::{IpAddr, SocketAddr};

use fairway_config::port_options::ProxyVersion;
use proptest::prelude::*;

use super::*;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn client(source: &str, destination: &str) -> ProxyHeaderSays {
    ProxyHeaderSays::Client(AnnouncedClient {
        source: at(source),
        destination: at(destination),
        authority: None,
        unique_id: None,
    })
}

/// What a whole header says, with a client's bytes behind it.
fn says(header: &[u8]) -> Result<ProxyHeaderSays, ProxyHeaderError> {
    let bytes = [header, b"GET / HTTP/1.1\r\n\r\n"].concat();
    match read(&bytes)? {
        HeaderProgress::Complete { length, says } => {
            assert_eq!(length, header.len(), "{header:?}");
            Ok(says)
        }
        HeaderProgress::Incomplete => panic!("it is whole: {header:?}"),
    }
}

/// A header of version 2 with so much behind the fixed part.
fn v2(command: u8, family: u8, behind: &[u8]) -> Vec<u8> {
    let length = u16::try_from(behind.len()).unwrap().to_be_bytes();
    [
        b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A".as_slice(),
        &[command, family],
        &length,
        behind,
    ]
    .concat()
}

const ADDRESSES4: &[u8] = &[192, 0, 2, 7, 203, 0, 113, 1, 0xDC, 0x04, 0x01, 0xBB];

#[test]
fn the_lines_of_the_specification() {
    use ProxyHeaderError::{Malformed, Missing, NoClient, TooLong};
    let ok = |says| Ok(says);
    let table = [
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            ok(client("192.168.0.1:56324", "192.168.0.11:443")),
        ),
        (
            "PROXY TCP6 2001:DB8::7 2001:db8::1 0 65535\r\n",
            ok(client("[2001:db8::7]:0", "[2001:db8::1]:65535")),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:203.0.113.1 1 2\r\n",
            ok(client("192.0.2.7:1", "203.0.113.1:2")),
        ),
        ("PROXY UNKNOWN\r\n", ok(ProxyHeaderSays::Itself)),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
             ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            ok(ProxyHeaderSays::Itself),
        ),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ::1 65535 65535\r\n",
            Err(NoClient),
        ),
        ("PROXY TCP4 0.0.0.0 203.0.113.1 1 2\r\n", Err(NoClient)),
        ("PROXY TCP4 224.0.0.1 203.0.113.1 1 2\r\n", Err(NoClient)),
        (
            "PROXY TCP4 255.255.255.255 203.0.113.1 1 2\r\n",
            Err(NoClient),
        ),
        ("PROXY TCP6 ::ffff:0.0.0.0 ::1 1 2\r\n", Err(NoClient)),
        ("PROXY TCP4 192.0.2.7 203.0.113.1 1 2\n", Err(Malformed)),
        ("PROXY TCP4 192.0.2.7 203.0.113.1 1 2 \r\n", Err(Malformed)),
        ("PROXY TCP4 192.0.2.7 203.0.113.1 1 2 3\r\n", Err(Malformed)),
        ("PROXY TCP4  192.0.2.7 203.0.113.1 1 2\r\n", Err(Malformed)),
        ("PROXY TCP4 192.0.2.7 203.0.113.1 1\r\n", Err(Malformed)),
        ("PROXY TCP4 192.0.2.7 203.0.113.1 01 2\r\n", Err(Malformed)),
        ("PROXY TCP4 192.0.2.7 203.0.113.1 +1 2\r\n", Err(Malformed)),
        (
            "PROXY TCP4 192.0.2.7 203.0.113.1 65536 2\r\n",
            Err(Malformed),
        ),
        ("PROXY TCP4 192.0.2.07 203.0.113.1 1 2\r\n", Err(Malformed)),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", Err(Malformed)),
        ("PROXY TCP6 192.0.2.7 203.0.113.1 1 2\r\n", Err(Malformed)),
        ("PROXY UDP4 192.0.2.7 203.0.113.1 1 2\r\n", Err(Malformed)),
        ("PROXY UNKNOWNX\r\n", Err(Malformed)),
        ("PROXY \r\n", Err(Malformed)),
        ("PROXY\r\n", Err(Missing)),
        ("proxy TCP4 192.0.2.7 203.0.113.1 1 2\r\n", Err(Missing)),
        ("GET / HTTP/1.1\r\n", Err(Missing)),
        ("\r\n", Err(Missing)),
        ("\x16\x03\x01", Err(Missing)),
    ];
    for (line, wanted) in table {
        assert_eq!(says(line.as_bytes()), wanted, "{line:?}");
    }
    let long = ["PROXY UNKNOWN ", &"x".repeat(93)].concat();
    assert_eq!(read(long.as_bytes()), Err(TooLong));
    let longest = ["PROXY UNKNOWN ", &"x".repeat(91), "\r\n"].concat();
    assert_eq!(says(longest.as_bytes()), ok(ProxyHeaderSays::Itself));
}

#[test]
fn the_binary_header_of_the_specification() {
    use ProxyHeaderError::{Checksum, Malformed, NoClient};
    let v6: Vec<u8> = [
        "2001:db8::7"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets()
            .as_slice(),
        &"2001:db8::1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
        &[0xDC, 0x04, 0x01, 0xBB],
    ]
    .concat();
    let with = |tlv: &[u8]| [ADDRESSES4, tlv].concat();
    let ok = |says| Ok(says);
    let four = || client("192.0.2.7:56324", "203.0.113.1:443");
    let table = [
        (v2(0x21, 0x11, ADDRESSES4), ok(four())),
        (
            v2(0x21, 0x21, &v6),
            ok(client("[2001:db8::7]:56324", "[2001:db8::1]:443")),
        ),
        (v2(0x20, 0x00, &[]), ok(ProxyHeaderSays::Itself)),
        // The family and the rest of a LOCAL one are to be ignored.
        (v2(0x20, 0x11, ADDRESSES4), ok(ProxyHeaderSays::Itself)),
        (v2(0x20, 0xFF, &[1, 2, 3]), ok(ProxyHeaderSays::Itself)),
        (v2(0x21, 0x00, &[1, 2, 3]), ok(ProxyHeaderSays::Itself)),
        (v2(0x21, 0x12, ADDRESSES4), ok(ProxyHeaderSays::Itself)),
        (v2(0x21, 0x31, &[0; 216]), ok(ProxyHeaderSays::Itself)),
        (v2(0x21, 0x41, ADDRESSES4), Err(Malformed)),
        (v2(0x21, 0x13, ADDRESSES4), Err(Malformed)),
        (v2(0x22, 0x11, ADDRESSES4), Err(Malformed)),
        (v2(0x11, 0x11, ADDRESSES4), Err(Malformed)),
        (v2(0x21, 0x11, &ADDRESSES4[..11]), Err(Malformed)),
        (v2(0x21, 0x21, ADDRESSES4), Err(Malformed)),
        (v2(0x21, 0x11, &[0; 12]), Err(NoClient)),
        // TLVs: NOOP, one of an application's own, one that ends too early, a checksum of the wrong length.
        (v2(0x21, 0x11, &with(&[4, 0, 0])), ok(four())),
        (v2(0x21, 0x11, &with(&[0xE0, 0, 2, 1, 2])), ok(four())),
        (v2(0x21, 0x11, &with(&[4, 0, 1])), Err(Malformed)),
        (v2(0x21, 0x11, &with(&[4])), Err(Malformed)),
        (v2(0x21, 0x11, &with(&[3, 0, 4, 0, 0, 0, 0])), Err(Checksum)),
        (v2(0x21, 0x11, &with(&[3, 0, 2, 0, 0])), Err(Checksum)),
        (v2(0x21, 0x11, &with(&[3, 0, 0])), Err(Checksum)),
    ];
    for (header, wanted) in table {
        assert_eq!(says(&header), wanted, "{header:?}");
    }
    assert_eq!(
        read(&v2(0x21, 0x11, &[4; 5000])),
        Err(ProxyHeaderError::TooLong)
    );
    assert_eq!(
        read(b"\r\n\r\n\0\r\nQUIT\r"),
        Err(ProxyHeaderError::Missing)
    );
    assert_eq!(read(&[]), Ok(HeaderProgress::Incomplete));
}

/// As another implementation sends it: checksum, unique id, and what it knows of a TLS client.
#[test]
fn a_header_with_the_tlvs_that_people_use() {
    let tlv = |kind: u8, value: &[u8]| {
        let length = u16::try_from(value.len()).unwrap().to_be_bytes();
        [&[kind], length.as_slice(), value].concat()
    };
    let tls = [
        vec![7, 0, 0, 0, 0],
        tlv(0x21, b"TLSv1.3"),
        tlv(0x22, b"localhost"),
        tlv(0x25, b"RSA4096"),
        tlv(0x24, b"RSA-SHA256"),
        tlv(0x23, b"TLS_AES_256_GCM_SHA384"),
    ]
    .concat();
    let behind = [
        vec![127, 0, 0, 1, 192, 168, 0, 1, 0x30, 0x39, 0x01, 0xBB],
        tlv(3, &[0x81, 0x21, 0x46, 0xE0]),
        tlv(5, b"1234"),
        tlv(0x20, &tls),
    ]
    .concat();
    let header = v2(0x21, 0x11, &behind);
    let ProxyHeaderSays::Client(client) = says(&header).unwrap() else {
        panic!("it is a client's");
    };
    assert_eq!(client.source, at("127.0.0.1:12345"));
    assert_eq!(client.unique_id.as_deref(), Some(b"1234".as_slice()));
    // A checksum finds every byte that is another one, but where there is none any more.
    let kind_of_checksum = 28;
    for index in (16..header.len()).filter(|index| *index != kind_of_checksum) {
        let mut damaged = header.clone();
        damaged[index] ^= 1;
        assert!(says(&damaged).is_err(), "byte {index}");
    }
}

#[test]
fn what_is_sent() {
    let header = SentHeader {
        source: at("192.0.2.7:56324"),
        destination: at("203.0.113.1:443"),
        authority: Some(b"shop.example"),
        unique_id: b"0123",
    };
    assert_eq!(
        write(ProxyVersion::V1, &header),
        b"PROXY TCP4 192.0.2.7 203.0.113.1 56324 443\r\n"
    );
    let tlvs = [
        b"\x02\x00\x0Cshop.example".as_slice(),
        b"\x05\x00\x040123",
        b"\x03\x00\x04",
    ];
    let sent = write(ProxyVersion::V2, &header);
    let (but_checksum, _) = sent.split_at(sent.len() - 4);
    let behind = [ADDRESSES4, &tlvs.concat(), &[0; 4]].concat();
    let expected = v2(0x21, 0x11, &behind);
    assert_eq!(but_checksum, expected.split_at(expected.len() - 4).0);
    assert_eq!(write_own(ProxyVersion::V1), b"PROXY UNKNOWN\r\n");
    assert_eq!(write_own(ProxyVersion::V2), v2(0x20, 0, &[]));
    // A client of the other family than the address that it came by.
    let mixed = SentHeader {
        destination: at("[2001:db8::1]:443"),
        ..header
    };
    assert_eq!(
        write(ProxyVersion::V1, &mixed),
        b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 56324 443\r\n"
    );
}

fn any_at() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u16; 8]>().prop_map(IpAddr::from),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn any_version() -> impl Strategy<Value = ProxyVersion> {
    prop_oneof![Just(ProxyVersion::V1), Just(ProxyVersion::V2)]
}

/// Something like a header: pieces of real ones, in any order.
fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"PROXY ".to_vec()),
        Just(b"TCP4 192.0.2.7 203.0.113.1 1 2".to_vec()),
        Just(b"UNKNOWN".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\r\n\r\n\0\r\nQUIT\n".to_vec()),
        Just(vec![0x21, 0x11, 0, 12]),
        Just(vec![0x20, 0, 0, 0]),
        Just(vec![0x21, 0x21, 0, 60]),
        Just(ADDRESSES4.to_vec()),
        Just(vec![3, 0, 4, 1, 2, 3, 4]),
        proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_is_sent_is_read_whatever_way_it_is_split(
        version in any_version(),
        source in any_at(),
        destination in any_at(),
        authority in proptest::option::of("[a-z.]{0,80}"),
        unique_id in proptest::collection::vec(any::<u8>(), 0..128),
        payload in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let header = write(version, &SentHeader {
            source,
            destination,
            authority: authority.as_deref().map(str::as_bytes),
            unique_id: &unique_id,
        });
        // One segment, also where a path takes no more than the least that IPv4 has to take.
        prop_assert!(header.len() <= 536);
        let bytes = [header.as_slice(), &payload].concat();
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let is_client = AnnouncedClient::new(source, destination);
        for length in 0..=bytes.len() {
            let found = read(&bytes[..length]);
            if length < header.len() {
                prop_assert_eq!(found, Ok(HeaderProgress::Incomplete), "{} bytes", length);
                continue;
            }
            let Ok(mut client) = is_client.clone() else {
                prop_assert_eq!(found, Err(ProxyHeaderError::NoClient));
                continue;
            };
            prop_assert_eq!((client.source, client.destination), (canonical(source), canonical(destination)));
            if version == ProxyVersion::V2 {
                client.authority = authority.as_deref().map(|it| it.as_bytes().into());
                client.unique_id = Some(unique_id.as_slice().into());
            }
            let says = ProxyHeaderSays::Client(client);
            prop_assert_eq!(found, Ok(HeaderProgress::Complete { length: header.len(), says }));
        }
    }

    #[test]
    fn what_was_decided_stays_whatever_follows(bytes in any_bytes(), more in any_bytes()) {
        let whole = [bytes.as_slice(), &more].concat();
        match read(&bytes) {
            Ok(HeaderProgress::Incomplete) => prop_assert!(bytes.len() < MOST),
            Ok(HeaderProgress::Complete { length, says }) => {
                prop_assert!(length <= bytes.len());
                let again = Ok(HeaderProgress::Complete { length, says });
                prop_assert_eq!(read(&whole), again.clone());
                prop_assert_eq!(read(&bytes[..length]), again);
            }
            Err(_) => prop_assert!(read(&whole).is_err()),
        }
    }
}
