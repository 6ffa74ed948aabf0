#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use fairway_config::names::ClusterName;
use fairway_gateway_core::relay::{HASH, greeting, read};

use crate::seal::fleet_key;

use super::*;

const NOW: Tick = Tick(1000);

/// A gateway on that node, with a fleet of `a` and `b`.
fn gateway(own: &str, secret: Option<&[u8]>) -> Transparency {
    let relays = [("a", "192.0.2.1:9903"), ("b", "192.0.2.2:9903")];
    let relays = relays.into_iter().filter(|(name, _)| *name != own);
    let surroundings = Surroundings {
        own: own.into(),
        is_node: true,
        host: ["192.0.2.1".parse().unwrap()].into(),
        relays: relays
            .map(|(name, at)| (ClusterName::from(name), at.parse().unwrap()))
            .collect(),
        ..Surroundings::default()
    };
    let transparency = Transparency::default();
    let key = secret.map(fleet_key);
    transparency.set_surroundings(surroundings, key.as_ref());
    transparency.set_lacking(None);
    transparency
}

fn endpoint(addr: &str, node: &str) -> Endpoint {
    let mut endpoint = Endpoint::new(EndpointAddr(addr.parse().unwrap()));
    endpoint.node = Some(node.into());
    endpoint
}

fn client() -> SocketAddr {
    "198.51.100.7:40000".parse().unwrap()
}

/// What `a` says to this greeting of `b`.
fn asked(a: &Transparency, number: u128) -> Vec<u8> {
    let endpoint = endpoint("10.0.2.9:80", "b");
    let dial = a.plan(&endpoint, client().ip(), NOW).unwrap();
    a.request(&dial, &greeting(number), client(), endpoint.addr.0)
        .unwrap()
}

fn is_believed(b: &Transparency, number: u128, bytes: &[u8], at: &str) -> bool {
    match read(bytes) {
        Ok(Some(request)) => b.believes(&greeting(number), &request, at.parse().unwrap()),
        _ => false,
    }
}

#[test]
fn a_request_counts_once_for_one_gateway_with_the_key() {
    let a = gateway("a", Some(b"a secret of the fleet"));
    let b = gateway("b", Some(b"a secret of the fleet"));
    let bytes = asked(&a, 1);
    assert!(is_believed(&b, 1, &bytes, "192.0.2.2"));
    // Replayed on another connection.
    assert!(!is_believed(&b, 2, &bytes, "192.0.2.2"));
    // At another gateway, or another address.
    let c = gateway("c", Some(b"a secret of the fleet"));
    assert!(!is_believed(&c, 1, &bytes, "192.0.2.2"));
    assert!(!is_believed(&b, 1, &bytes, "192.0.2.3"));
    // By others.
    for other in [Some(b"another secret".as_slice()), None] {
        assert!(!is_believed(&gateway("b", other), 1, &bytes, "192.0.2.2"));
    }
    let stranger = gateway("a", Some(b"another secret"));
    assert!(!is_believed(&b, 1, &asked(&stranger, 1), "192.0.2.2"));
}

#[test]
fn no_bit_of_a_request_may_be_another() {
    let a = gateway("a", Some(b"a secret of the fleet"));
    let b = gateway("b", Some(b"a secret of the fleet"));
    let bytes = asked(&a, 1);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_believed(&b, 1, &flipped, "192.0.2.2"), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(
            !is_believed(&b, 1, &bytes[..length], "192.0.2.2"),
            "{length}"
        );
    }
    let mut unsigned = bytes.clone();
    let end = unsigned.len() - HASH;
    unsigned[end..].fill(0);
    assert!(!is_believed(&b, 1, &unsigned, "192.0.2.2"));
}

#[test]
fn a_greeting_of_another_version_is_not_answered() {
    let a = gateway("a", Some(b"a secret of the fleet"));
    let endpoint = endpoint("10.0.2.9:80", "b");
    let dial = a.plan(&endpoint, client().ip(), NOW).unwrap();
    let mut other = greeting(1);
    other[0] = b'X';
    assert!(a.request(&dial, &other, client(), endpoint.addr.0).is_err());
}

#[test]
fn what_follows_from_a_failure() {
    use AddressLoss::{HostNetwork, NoAnswer, NotBelieved, NotPermitted, NotRelayed, System};
    use TransparentFailure::{Answer, Endpoint, Handshake, Relay};
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, TimedOut, UnexpectedEof};
    let plain = |loss, doubt| AfterFailure::Plain { loss, doubt };
    let answers = || plain(NoAnswer, Some(Doubt::Answers));
    let errors = [
        ConnectionRefused.into(),
        TimedOut.into(),
        HostUnreachable.into(),
        UnexpectedEof.into(),
        io::Error::from(Errno::PERM),
        io::Error::from(Errno::ADDRNOTAVAIL),
    ];
    let [refused, timeout, unreachable, ended, forbidden, no_port] = &errors;
    // The failure, what follows, and whether the next client is dialled for as before.
    let table = [
        (Endpoint(refused), AfterFailure::OfEndpoint, true),
        (Endpoint(unreachable), AfterFailure::OfEndpoint, true),
        (Endpoint(timeout), answers(), true),
        (Endpoint(forbidden), plain(NotPermitted, None), false),
        (Endpoint(no_port), plain(System, None), true),
        (Relay(refused), plain(NotRelayed, None), false),
        (Relay(timeout), plain(NotRelayed, Some(Doubt::Relay)), true),
        (Handshake(ended), plain(NotBelieved, None), false),
        (Handshake(timeout), answers(), true),
        (Answer(RelayAnswer::Refused), AfterFailure::OfEndpoint, true),
        (
            Answer(RelayAnswer::Unreachable),
            AfterFailure::OfEndpoint,
            true,
        ),
        (Answer(RelayAnswer::TimedOut), answers(), true),
        (
            Answer(RelayAnswer::NotKnown),
            plain(AddressLoss::NotKnown, None),
            true,
        ),
        (
            Answer(RelayAnswer::NotPermitted),
            plain(NotPermitted, None),
            false,
        ),
        (
            Answer(RelayAnswer::HostNetwork),
            plain(HostNetwork, None),
            true,
        ),
        (Answer(RelayAnswer::Failed), plain(System, None), true),
    ];
    for (failure, wanted, stays) in table {
        let a = gateway("a", Some(b"a secret of the fleet"));
        let endpoint = endpoint("10.0.2.9:80", "b");
        let dial = a.plan(&endpoint, client().ip(), NOW).unwrap();
        let after = a.failed(&dial, &failure, NOW);
        assert_eq!(after, wanted, "{failure:?}");
        let next = a.plan(&endpoint, "198.51.100.8".parse().unwrap(), NOW);
        assert_eq!(next.is_ok(), stays, "{failure:?}");
        // A failure alone is no evidence: the endpoint may be the cause.
        if let AfterFailure::Plain {
            doubt: Some(doubt), ..
        } = after
        {
            a.plain_worked(&dial, doubt, NOW);
            assert!(
                a.plan(&endpoint, client().ip(), NOW).is_err(),
                "{failure:?}"
            );
        }
    }
}
