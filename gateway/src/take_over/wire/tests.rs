#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use fairway_config::net::{IpFamily, Protocol};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::bgp::handed::{HandedBfd, ToldPassword};
use crate::handed::{HandedDirection, HandedOwner, HandedSide};

/// Reads a message as the other process does.
fn read(whole: &[u8]) -> ReadMessage {
    let (header, text) = whole.split_first_chunk::<HEADER>().unwrap();
    assert_eq!(read_header(*header).unwrap().text, text.len());
    read_text(text).unwrap()
}

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<u32>(), any::<u16>()).prop_map(|(ip, port)| (Ipv4Addr::from(ip), port).into()),
        (any::<u128>(), any::<u16>()).prop_map(|(ip, port)| (Ipv6Addr::from(ip), port).into()),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn owner() -> impl Strategy<Value = HandedOwner> {
    let names = ("[a-z]{1,20}", "[a-z]{1,20}");
    (names, protocol(), any::<u16>(), address(), any::<u32>()).prop_map(
        |((namespace, service), protocol, port, listen, worker)| HandedOwner {
            namespace,
            service,
            protocol,
            port,
            listen,
            worker,
        },
    )
}

fn direction() -> impl Strategy<Value = HandedDirection> {
    let numbers = (any::<u32>(), any::<u32>(), any::<u64>());
    (numbers, any::<bool>(), any::<bool>()).prop_map(|((held, header, total), large, ended)| {
        HandedDirection {
            held,
            header,
            total,
            large,
            ended,
        }
    })
}

fn side() -> impl Strategy<Value = HandedSide> {
    any::<[bool; 5]>().prop_map(|[ended, urgent, prompt, in_line, guarded]| HandedSide {
        ended,
        urgent,
        prompt,
        in_line,
        guarded,
    })
}

fn connection() -> impl Strategy<Value = HandedConnection> {
    let addresses = (owner(), address(), address());
    let directions = (direction(), direction());
    let sides = (side(), side());
    let rest = (any::<Option<u64>>(), any::<bool>());
    (addresses, directions, sides, rest).prop_map(
        |((owner, client, endpoint), (up, down), (client_side, endpoint_side), rest)| {
            HandedConnection {
                owner,
                client,
                endpoint,
                up,
                down,
                client_side,
                endpoint_side,
                stall_check: rest.0,
                transparent: rest.1,
            }
        },
    )
}

fn flow() -> impl Strategy<Value = HandedFlow> {
    (owner(), address(), address(), any::<bool>()).prop_map(|(owner, client, endpoint, replied)| {
        HandedFlow {
            owner,
            client,
            endpoint,
            replied,
        }
    })
}

fn socket() -> impl Strategy<Value = OfferedSocket> {
    let rest = (any::<u32>(), any::<bool>(), any::<Option<u32>>());
    (address(), protocol(), rest).prop_map(
        |(listen, protocol, (worker, drops_forwarded, arrival))| OfferedSocket {
            listen,
            protocol,
            worker,
            drops_forwarded,
            arrival,
        },
    )
}

fn segment() -> impl Strategy<Value = HandedSegment> {
    let terms = proptest::collection::vec((address(), any::<u64>()), 0..4);
    ("[a-z0-9]{1,15}", any::<[u64; 6]>(), terms).prop_map(|(interface, numbers, terms)| {
        let [run, sequence, started, began, last_tick, version] = numbers;
        HandedSegment {
            interface,
            run,
            sequence,
            started,
            began,
            last_tick,
            version,
            terms: terms.into_iter().map(|(at, n)| (at.ip(), n)).collect(),
        }
    })
}

fn introduction() -> impl Strategy<Value = Introduction> {
    let agreed = proptest::collection::btree_map("[a-z-]{1,10}", ".{0,10}", 0..5);
    let pod = proptest::option::of("[a-f0-9-]{0,36}");
    let numbers = (any::<u32>(), any::<u32>(), any::<Option<u64>>());
    (numbers, ".{0,10}", agreed, pod).prop_map(|((protocol, pid, clock), version, agreed, pod)| {
        Introduction {
            protocol,
            version,
            pid,
            clock,
            agreed,
            pod,
        }
    })
}

fn router() -> impl Strategy<Value = HandedRouter> {
    let settings = proptest::collection::btree_map("[a-zA-Z]{1,10}", ".{0,10}", 0..5);
    let names = (".{0,10}", settings);
    let times = any::<[u64; 3]>();
    let due = any::<[Option<u64>; 3]>();
    let own = (any::<u32>(), any::<Option<u128>>());
    let bytes = proptest::collection::vec(any::<u8>(), 0..30);
    let rest = (bytes, any::<[u32; 2]>(), any::<[bool; 3]>());
    (names, times, due, own, rest).prop_map(
        |((name, settings), times, due, (v4, v6), (bytes, [incoming, outgoing], is))| {
            let families = || is.iter().filter(|it| **it).map(|_| IpFamily::IPv6);
            HandedRouter {
                password: is[0].then(|| ToldPassword(name.clone())),
                name,
                settings,
                since: times[0],
                hold_until: due[0],
                hold_time: times[1],
                keepalive_at: due[1],
                keepalive_time: times[2],
                router_id: Some(v4.into()),
                own_v4: is[1].then(|| v4.into()),
                own_v6: v6.map(Into::into),
                open: bytes.clone(),
                incoming,
                outgoing,
                stalled_since: due[2],
                end_of_rib: families().collect(),
                refreshing: families().collect(),
                next_hops: v6
                    .map(|it| (IpFamily::IPv6, Ipv6Addr::from(it).into()))
                    .into_iter()
                    .collect(),
                sent: times[0],
                dropped: times[1],
                bfd: is[0].then(|| HandedBfd {
                    said: bytes.clone(),
                    heard: is[2].then_some(bytes),
                    since: times[2],
                }),
            }
        },
    )
}

fn routes() -> impl Strategy<Value = HandedRoutes> {
    let prefixes = proptest::collection::vec(address(), 0..9);
    let communities = proptest::collection::btree_set(any::<u32>(), 0..5);
    let large = proptest::collection::btree_set(any::<[u32; 3]>(), 0..5);
    let rest = (any::<Option<u32>>(), any::<u8>());
    (prefixes, communities, large, rest).prop_map(
        |(prefixes, communities, large_communities, (local_preference, prepended))| HandedRoutes {
            prefixes: prefixes.into_iter().map(|it| it.ip().into()).collect(),
            communities,
            large_communities,
            local_preference,
            prepended,
        },
    )
}

fn bfd_place() -> impl Strategy<Value = BfdPlace> {
    any::<[bool; 2]>().prop_map(|[is_v6, is_multihop]| BfdPlace { is_v6, is_multihop })
}

fn port() -> impl Strategy<Value = HandedPort> {
    ("[a-z]{1,20}", "[a-z]{1,20}", protocol(), any::<u16>()).prop_map(
        |(namespace, service, protocol, port)| HandedPort {
            namespace,
            service,
            protocol,
            port,
        },
    )
}

fn health() -> impl Strategy<Value = HandedHealth> {
    (address(), any::<u32>()).prop_map(|(endpoint, points)| HandedHealth {
        endpoint,
        history: json!(points),
    })
}

fn readiness() -> impl Strategy<Value = Readiness> {
    (any::<bool>(), proptest::collection::vec(".{0,20}", 0..3))
        .prop_map(|(ready, missing)| Readiness { ready, missing })
}

fn message() -> impl Strategy<Value = HandoverMessage> {
    use HandoverMessage as M;
    prop_oneof![
        introduction().prop_map(M::Hello),
        introduction().prop_map(M::Welcome),
        port().prop_map(M::Affinity),
        port().prop_map(M::Buckets),
        (port(), proptest::collection::vec(health(), 0..9))
            .prop_map(|(port, endpoints)| M::Health { port, endpoints }),
        (".{0,40}", proptest::option::of(readiness()))
            .prop_map(|(why, stands_by)| M::Refused { why, stands_by }),
        proptest::option::of(".{0,40}").prop_map(|pod| M::Look { pod }),
        (readiness(), any::<bool>()).prop_map(|(readiness, gives_way)| M::Serves {
            readiness,
            gives_way,
        }),
        proptest::collection::vec(".{0,9}", 0..4).prop_map(|names| M::Named { names }),
        proptest::collection::vec(socket(), 0..9).prop_map(|sockets| M::Sockets { sockets }),
        proptest::collection::vec(connection(), 0..9)
            .prop_map(|connections| M::Connections { connections }),
        proptest::collection::vec(flow(), 0..9).prop_map(|flows| M::Flows { flows }),
        proptest::collection::vec(any::<bool>(), 0..9).prop_map(|taken| M::Taken { taken }),
        proptest::collection::vec("[a-z0-9]{1,15}", 0..4)
            .prop_map(|interfaces| M::Announces { interfaces }),
        proptest::collection::vec(segment(), 0..4).prop_map(|segments| M::Terms { segments }),
        (".{0,9}", proptest::collection::vec(routes(), 0..4))
            .prop_map(|(router, routes)| M::RouterRoutes { router, routes }),
        router().prop_map(|router| M::Router(Box::new(router))),
        proptest::collection::vec(bfd_place(), 0..4).prop_map(|places| M::BfdPlaces { places }),
        Just(M::KernelRoutes {}),
        Just(M::Offered),
        Just(M::Preparing),
        Just(M::Prepared),
        Just(M::Accept),
        Just(M::Receive),
        Just(M::Yours),
        Just(M::Done),
        Just(M::Announcing),
    ]
}

/// Says more in every object, as a later version may.
fn say_more(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(say_more);
            object.insert("ofALaterVersion".to_owned(), json!({"a": [1, null]}));
        }
        Value::Array(all) => all.iter_mut().for_each(say_more),
        _ => {}
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(message in message(), asks: bool) {
        let whole = write(&message, asks, 0, 0).unwrap();
        prop_assert_eq!(read(&whole), ReadMessage { message: Some(message), asks });
    }

    #[test]
    fn what_a_later_version_says_besides_is_passed_over(message in message(), asks: bool) {
        let whole = write(&message, asks, 0, 0).unwrap();
        let mut text: Value = serde_json::from_slice(&whole[HEADER..]).unwrap();
        // What both have to agree about, and what a session was made from, is a map: more in it is no other field.
        let is_map = matches!(
            message,
            HandoverMessage::Hello(_) | HandoverMessage::Welcome(_) | HandoverMessage::Router(_)
        );
        if is_map {
            text["body"]["ofALaterVersion"] = json!(1);
        } else {
            say_more(&mut text);
        }
        let read = read_text(&serde_json::to_vec(&text).unwrap()).unwrap();
        prop_assert_eq!(read, ReadMessage { message: Some(message), asks });
    }

    #[test]
    fn a_kind_of_a_later_version_is_nothing_and_still_asks(kind in "later[A-Z]{1,9}", asks: bool) {
        let text = json!({"asks": asks, "kind": kind, "body": {"sessions": [1, 2]}});
        let read = read_text(text.to_string().as_bytes()).unwrap();
        prop_assert_eq!(read, ReadMessage { message: None, asks });
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused(header: [u8; HEADER], text: Vec<u8>) {
        if let Ok(size) = read_header(header) {
            prop_assert!(size.text <= TEXT && size.bytes <= BYTES && size.descriptors <= DESCRIPTORS);
        }
        let _ = read_text(&text);
    }
}

#[test]
fn a_body_that_is_wrong_is_an_error() {
    for text in [
        r#"{"kind":"flows","body":{"flows":7}}"#,
        r#"{"kind":"taken"}"#,
        r#"[]"#,
        "",
    ] {
        assert!(
            read_text(text.as_bytes()).is_err() || text == "[]",
            "{text}"
        );
    }
}

#[test]
fn a_message_that_is_too_large_is_not_written() {
    let message = HandoverMessage::Yours;
    assert!(write(&message, false, BYTES, DESCRIPTORS).is_ok());
    assert!(write(&message, false, BYTES + 1, 0).is_err());
    assert!(write(&message, false, 0, DESCRIPTORS + 1).is_err());
    let why = "x".repeat(TEXT);
    let stands_by = None;
    let refused = HandoverMessage::Refused { why, stands_by };
    assert!(write(&refused, false, 0, 0).is_err());
}

#[test]
fn what_only_one_of_two_processes_knows_is_no_difference() {
    let process = |agreed: &[(&str, &str)]| Introduction {
        protocol: PROTOCOL,
        agreed: agreed
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Introduction::default()
    };
    let here = process(&[("--class", "a"), ("--workers", "2")]);
    assert_eq!(difference(&here, &here), None);
    let later = process(&[("--class", "a"), ("--workers", "2"), ("--later", "x")]);
    assert_eq!(difference(&here, &later), None);
    let other = process(&[("--class", "b"), ("--workers", "2")]);
    let says = difference(&here, &other).unwrap();
    assert_eq!(says, "--class is b there and a here");
    let newer = Introduction {
        protocol: PROTOCOL + 1,
        ..here.clone()
    };
    assert!(difference(&here, &newer).unwrap().contains("version"));
}
