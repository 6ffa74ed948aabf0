#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod continuation;
mod simulation;
mod table;

use proptest::prelude::*;

use self::table::Table;
use super::*;
use crate::bgp::message::LONGEST;
use crate::bgp::routes::RouteAttributes;

const OURS: u32 = 64_512;
const THEIRS: u32 = 4_200_000_001;

fn settings(asn: u32, peer_asn: PeerAsn) -> BgpSessionSettings {
    BgpSessionSettings {
        asn,
        peer_asn,
        hold_time: Duration::from_secs(9),
        keepalive_time: Duration::from_secs(3),
        connect_time: Duration::from_secs(10),
        graceful_restart: false,
    }
}

fn own(last: u8) -> OwnEnd {
    OwnEnd {
        router_id: Ipv4Addr::new(192, 0, 2, last),
        next_hop_v4: Some(Ipv4Addr::new(192, 0, 2, last)),
        next_hop_v6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())),
    }
}

fn at(ms: u64) -> BootTime {
    BootTime(Duration::from_millis(ms))
}

fn open(asn: u32) -> BgpOpen {
    BgpOpen {
        asn,
        hold_time: 90,
        router_id: Ipv4Addr::new(192, 0, 2, 200),
        capabilities: BgpCapabilities {
            families: IpFamily::ALL.into_iter().collect(),
            four_octet_asn: true,
            ..BgpCapabilities::default()
        },
    }
}

fn wanted(prefixes: &[&str]) -> Arc<AnnouncedRoutes> {
    let attributes = Arc::new(RouteAttributes::default());
    let all = prefixes.iter();
    Arc::new(
        all.map(|it| (it.parse().unwrap(), attributes.clone()))
            .collect(),
    )
}

/// Passes everything that the session sends on to the table.
fn flush(session: &mut BgpSession, table: &mut Table, now: BootTime) {
    while !session.outgoing().is_empty() {
        let bytes = session.outgoing().to_vec();
        table.read(&bytes);
        if session.state().0 == BgpState::Idle {
            return;
        }
        session.wrote(now, bytes.len());
    }
}

/// A session that a router has taken, which is told `prefixes`.
fn established(settings: BgpSessionSettings, open: &BgpOpen) -> BgpSession {
    let mut session = BgpSession::new(settings, 1, at(0));
    session.tick(at(0));
    assert_eq!(session.take_actions(), [BgpAction::Dial]);
    session.connected(at(1), own(1));
    session.receive(at(2), &encode::open(open));
    assert_eq!(
        session.state().0,
        BgpState::OpenConfirm,
        "{}",
        session.why()
    );
    session.receive(at(3), &encode::keepalive());
    assert_eq!(session.state().0, BgpState::Established);
    session
}

fn external() -> BgpSession {
    established(settings(OURS, PeerAsn::Number(THEIRS)), &open(THEIRS))
}

#[test]
fn a_router_is_told_prefixes_of_both_families_and_of_nothing_twice() {
    let (mut session, mut table) = (external(), Table::default());
    session.set_wanted(at(4), &wanted(&["203.0.113.1/32", "2001:db8:f::1/128"]));
    flush(&mut session, &mut table, at(4));
    assert_eq!(table.prefixes(), ["203.0.113.1/32", "2001:db8:f::1/128"]);
    assert_eq!((table.updates, session.rib_out().told()), (2, 2));
    // AS_PATH: one sequence of our number.
    let path: &[u8] = &[2, 1, 0, 0, 252, 0];
    assert_eq!(table.attribute("203.0.113.1/32", 2), Some(path));
    assert_eq!(
        table.attribute("203.0.113.1/32", 3),
        Some(&[192, 0, 2, 1][..])
    );
    assert_eq!(table.attribute("203.0.113.1/32", 5), None, "no LOCAL_PREF");
    let hop = own(1).next_hop_v6.unwrap().octets();
    assert_eq!(table.attribute("2001:db8:f::1/128", 14), Some(&hop[..]));
    // One more is one message about one prefix; one less, too.
    let more = wanted(&["203.0.113.1/32", "203.0.113.2/32", "2001:db8:f::1/128"]);
    session.set_wanted(at(500), &more);
    flush(&mut session, &mut table, at(500));
    assert_eq!((table.updates, table.routes.len()), (3, 3));
    session.set_wanted(at(1000), &wanted(&["203.0.113.2/32", "2001:db8:f::1/128"]));
    flush(&mut session, &mut table, at(1000));
    assert_eq!(table.updates, 4);
    assert_eq!(table.prefixes(), ["203.0.113.2/32", "2001:db8:f::1/128"]);
}

#[test]
fn a_last_resort_has_a_longer_path_and_of_the_own_as_the_least_preference() {
    let last_resort: AnnouncedRoutes = [(
        "203.0.113.1/32".parse().unwrap(),
        Arc::new(RouteAttributes::default().last_resort()),
    )]
    .into();
    let internal = established(settings(OURS, PeerAsn::Internal), &open(OURS));
    for (mut session, path, preference) in [
        (
            external(),
            [&[2, 4][..], &[0, 0, 252, 0].repeat(4)].concat(),
            None,
        ),
        (internal, Vec::new(), Some(&[0; 4][..])),
    ] {
        let mut table = Table::default();
        session.set_wanted(at(4), &last_resort);
        flush(&mut session, &mut table, at(4));
        assert_eq!(table.attribute("203.0.113.1/32", 2), Some(&*path));
        assert_eq!(table.attribute("203.0.113.1/32", 5), preference);
    }
}

#[test]
fn a_router_of_the_own_as_gets_a_preference_and_no_path() {
    let mut session = established(settings(OURS, PeerAsn::Internal), &open(OURS));
    let mut table = Table::default();
    let attributes = |local_preference| {
        Arc::new(RouteAttributes {
            local_preference,
            communities: [1, 2].into(),
            large_communities: [[1, 2, 3]].into(),
            prepended: 3,
        })
    };
    let all: AnnouncedRoutes = [
        ("203.0.113.1/32".parse().unwrap(), attributes(None)),
        ("203.0.113.2/32".parse().unwrap(), attributes(Some(7))),
    ]
    .into();
    session.set_wanted(at(4), &all);
    flush(&mut session, &mut table, at(4));
    assert_eq!(table.attribute("203.0.113.1/32", 2), Some(&[][..]));
    let preference = |prefix| table.attribute(prefix, 5).map(<[u8]>::to_vec);
    assert_eq!(preference("203.0.113.1/32"), Some(vec![0, 0, 0, 100]));
    assert_eq!(preference("203.0.113.2/32"), Some(vec![0, 0, 0, 7]));
    let communities: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 2];
    assert_eq!(table.attribute("203.0.113.2/32", 8), Some(communities));
    let large: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    assert_eq!(table.attribute("203.0.113.2/32", 32), Some(large));
}

#[test]
fn an_old_router_is_told_a_long_as_number_in_an_attribute_of_its_own() {
    let mut old = open(65_001);
    old.capabilities = BgpCapabilities::default();
    let mut session = established(settings(THEIRS, PeerAsn::Number(65_001)), &old);
    let mut table = Table::default();
    session.set_wanted(at(4), &wanted(&["203.0.113.1/32", "2001:db8:f::1/128"]));
    flush(&mut session, &mut table, at(4));
    // It has said of no family that it speaks it: IPv4 alone.
    assert_eq!(table.prefixes(), ["203.0.113.1/32"]);
    assert_eq!(session.rib_out().left_out(), [IpFamily::IPv6].into());
    let path: &[u8] = &[2, 1, 0x5b, 0xa0];
    assert_eq!(table.attribute("203.0.113.1/32", 2), Some(path));
    let long = [&[2, 1], &THEIRS.to_be_bytes()[..]].concat();
    assert_eq!(table.attribute("203.0.113.1/32", 17), Some(&long[..]));
}

#[test]
fn ipv4_prefixes_have_an_ipv6_next_hop_where_there_is_no_other_and_the_router_takes_it() {
    for takes in [true, false] {
        let mut session = BgpSession::new(settings(OURS, PeerAsn::External), 1, at(0));
        session.tick(at(0));
        let end = OwnEnd {
            next_hop_v4: None,
            ..own(1)
        };
        session.connected(at(1), end);
        let mut router = open(THEIRS);
        router.capabilities.extended_next_hop = takes;
        session.receive(at(2), &encode::open(&router));
        session.receive(at(3), &encode::keepalive());
        session.set_wanted(at(4), &wanted(&["203.0.113.1/32"]));
        let mut table = Table::default();
        flush(&mut session, &mut table, at(4));
        let hop = end.next_hop_v6.unwrap().octets();
        let told = table.attribute("203.0.113.1/32", 14);
        assert_eq!(told, takes.then_some(&hop[..]));
        assert_eq!(session.rib_out().left_out().is_empty(), takes);
    }
}

#[test]
fn four_thousand_prefixes_are_a_few_full_messages() {
    let all: Vec<String> = (0..4000)
        .map(|n| format!("10.0.{}.{}/32", n / 256, n % 256))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let (mut session, mut table) = (external(), Table::default());
    session.set_wanted(at(4), &wanted(&all));
    assert!(session.outgoing().len() < 2 * ROOM, "bounded");
    flush(&mut session, &mut table, at(4));
    assert_eq!(table.routes.len(), 4000);
    assert!(table.updates <= 5 * 4000 / 4000 + 1, "{}", table.updates);
    // A change of one is one prefix in one message, however many there are.
    let (one, before) = ("10.0.7.7/32".parse().unwrap(), table.updates);
    for (ms, route) in [
        (1000, None),
        (1500, Some(Arc::new(RouteAttributes::default()))),
    ] {
        session.set_route(at(ms), one, route.as_ref());
        session.tick(at(ms));
        let length = session.outgoing().len();
        assert!((20..80).contains(&length), "{length} bytes");
        flush(&mut session, &mut table, at(ms));
    }
    assert_eq!((table.updates, table.routes.len()), (before + 2, 4000));
    session.set_wanted(at(2000), &AnnouncedRoutes::default());
    flush(&mut session, &mut table, at(2000));
    assert!(table.routes.is_empty());
    assert!(table.updates <= 14, "{}", table.updates);
}

#[test]
fn a_prefix_that_comes_and_goes_is_told_once_in_an_interval() {
    let (mut session, mut table) = (external(), Table::default());
    let (on, off) = (wanted(&["203.0.113.1/32"]), Arc::default());
    for ms in 0..1000 {
        let now = if ms % 2 == 0 { &on } else { &off };
        session.set_wanted(at(10 + ms), now);
        session.tick(at(10 + ms));
        flush(&mut session, &mut table, at(10 + ms));
    }
    // An announcement each 100 ms, and its withdrawal.
    assert!(table.updates <= 22, "{}", table.updates);
    assert!(table.routes.is_empty());
}

#[test]
fn a_router_that_asks_is_told_once_more() {
    let (mut session, mut table) = (external(), Table::default());
    session.set_wanted(at(4), &wanted(&["203.0.113.1/32", "2001:db8:f::1/128"]));
    flush(&mut session, &mut table, at(4));
    let mut ask = encode::keepalive();
    ask[17] = 23;
    ask[18] = 5;
    ask.extend([0, 2, 0, 1]);
    session.receive(at(500), &ask);
    flush(&mut session, &mut table, at(500));
    assert_eq!(table.updates, 3);
}

#[test]
fn whoever_asks_for_graceful_restart_is_told_the_end_of_what_there_was() {
    let settings = BgpSessionSettings {
        graceful_restart: true,
        ..settings(OURS, PeerAsn::External)
    };
    let (mut session, mut table) = (established(settings, &open(THEIRS)), Table::default());
    flush(&mut session, &mut table, at(4));
    assert_eq!(table.ends, 2);
    let mut plain = external();
    let mut table = Table::default();
    flush(&mut plain, &mut table, at(4));
    assert_eq!(table.ends, 0);
}

/// What the router is answered to these bytes, after its OPEN or not.
fn answer(bytes: &[u8], is_open: bool) -> (BgpNotification, String) {
    let mut session = BgpSession::new(settings(OURS, PeerAsn::Number(THEIRS)), 1, at(0));
    session.tick(at(0));
    session.connected(at(1), own(1));
    if is_open {
        session.receive(at(2), &encode::open(&open(THEIRS)));
        session.receive(at(2), &encode::keepalive());
    }
    session.take_actions();
    session.receive(at(3), bytes);
    assert_eq!(session.state().0, BgpState::Idle, "{}", session.why());
    assert_eq!(session.take_actions(), [BgpAction::Close]);
    let mut table = Table::default();
    flush(&mut session, &mut table, at(3));
    (table.notification.unwrap(), session.why().to_string())
}

#[test]
fn what_a_router_says_wrong_ends_the_session_with_the_right_notification() {
    let message = |kind: u8, body: &[u8]| {
        let mut bytes = encode::keepalive();
        bytes[16..18].copy_from_slice(&(19 + body.len() as u16).to_be_bytes());
        bytes[18] = kind;
        bytes.extend(body);
        bytes
    };
    let mut unmarked = encode::keepalive();
    unmarked[3] = 0;
    let mut short = encode::keepalive();
    short[17] = 18;
    let opens = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = encode::open(&open(THEIRS));
        change(&mut bytes);
        bytes
    };
    let cases = [
        (
            "HTTP",
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            false,
            (1, 1),
        ),
        ("a marker", unmarked, true, (1, 1)),
        ("too short", short, true, (1, 2)),
        ("a long KEEPALIVE", message(4, &[0]), true, (1, 2)),
        ("too long", message(2, &[0; 4078]), true, (1, 2)),
        ("a type", message(9, &[]), true, (1, 3)),
        ("the version", opens(&|it| it[19] = 3), false, (2, 1)),
        ("the AS", encode::open(&open(65_009)), false, (2, 2)),
        (
            "AS 0",
            opens(&|it| it[20..22].copy_from_slice(&[0, 0])),
            false,
            (2, 2),
        ),
        (
            "no router ID",
            opens(&|it| it[24..28].copy_from_slice(&[0; 4])),
            false,
            (2, 3),
        ),
        (
            "the hold time",
            opens(&|it| it[22..24].copy_from_slice(&[0, 2])),
            false,
            (2, 6),
        ),
        ("a parameter", opens(&|it| it[29] = 1), false, (2, 4)),
        ("lengths", opens(&|it| it[28] = 3), false, (2, 0)),
        ("KEEPALIVE first", encode::keepalive(), false, (5, 1)),
        ("OPEN twice", encode::open(&open(THEIRS)), true, (5, 3)),
        ("withdrawn", message(2, &[0, 9, 0, 0]), true, (3, 1)),
        ("attributes", message(2, &[0, 0, 0, 9]), true, (3, 1)),
        (
            "a prefix",
            message(2, &[0, 0, 0, 0, 33, 1, 2, 3, 4, 5]),
            true,
            (3, 10),
        ),
        (
            "half a prefix",
            message(2, &[0, 0, 0, 0, 32, 1]),
            true,
            (3, 10),
        ),
        (
            "MP_REACH twice",
            message(
                2,
                &[
                    0, 0, 0, 16, 0x80, 14, 5, 0, 2, 1, 0, 0, 0x80, 14, 5, 0, 2, 1, 0, 0,
                ],
            ),
            true,
            (3, 1),
        ),
    ];
    for (what, bytes, is_open, wanted) in cases {
        let (said, why) = answer(&bytes, is_open);
        assert_eq!((said.code, said.subcode), wanted, "{what}: {why}");
        assert!(!why.is_empty());
    }
    let (_, why) = answer(&encode::open(&open(65_009)), false);
    assert_eq!(why, "its AS is 65009, and 4200000001 is expected");
}

#[test]
fn what_concerns_only_routes_ends_nothing() {
    let mut session = external();
    let update = |attributes: &[u8], prefixes: &[u8]| {
        let length = (attributes.len() as u16).to_be_bytes();
        let body = [&[0, 0], &length[..], attributes, prefixes].concat();
        let mut bytes = encode::keepalive();
        bytes[16..18].copy_from_slice(&(19 + body.len() as u16).to_be_bytes());
        bytes[18] = 2;
        bytes.extend(body);
        bytes
    };
    // An ORIGIN that can't be, an attribute longer than all of them, one that is not known, no attribute at all.
    for attributes in [
        &[0x40, 1, 1, 9][..],
        &[0x40, 2, 200, 1],
        &[0xc0, 200, 1, 1],
        &[],
    ] {
        session.receive(at(10), &update(attributes, &[24, 10, 0, 0]));
        assert_eq!(
            session.state().0,
            BgpState::Established,
            "{}",
            session.why()
        );
    }
    assert_eq!(session.updates().1, 4);
}

#[test]
fn two_of_one_as_with_the_same_router_id_are_told() {
    let mut session = BgpSession::new(settings(OURS, PeerAsn::Internal), 1, at(0));
    session.tick(at(0));
    session.connected(at(1), own(200));
    session.receive(at(2), &encode::open(&open(OURS)));
    assert!(session.why().contains("router ID"), "{}", session.why());
}

#[test]
fn silence_ends_a_session_after_the_shorter_hold_time_and_signs_of_life_are_a_third_apart() {
    let (mut session, mut table) = (external(), Table::default());
    let mut ms = 3;
    let mut sent = 0;
    while session.state().0 == BgpState::Established {
        ms += 1;
        session.tick(at(ms));
        sent += usize::from(!session.outgoing().is_empty());
        flush(&mut session, &mut table, at(ms));
    }
    assert_eq!(ms, 9003);
    // The last one is the notification.
    assert!((4..=6).contains(&sent), "{sent}");
    assert_eq!(table.notification, Some(BgpNotification::HOLD_TIMER));
}

#[test]
fn a_router_that_says_one_byte_a_second_is_left_and_takes_no_memory() {
    // Its OPEN, and after a session began a message that is as long as one can be.
    let mut long = vec![0xff; 16];
    long.extend((LONGEST as u16).to_be_bytes());
    long.extend([2, 0, 0]);
    long.resize(LONGEST, 0);
    let mut session = BgpSession::new(settings(OURS, PeerAsn::Number(THEIRS)), 1, at(0));
    session.tick(at(0));
    session.connected(at(1), own(1));
    for (mut session, said, ends_at) in [
        (session, encode::open(&open(THEIRS)), 61),
        (external(), long, 10),
    ] {
        session.take_actions();
        let said = said.iter().cycle().zip(1..);
        let second = said.map(|(byte, second)| {
            session.tick(at(second * 1000));
            session.receive(at(second * 1000), &[*byte]);
            assert!(session.incoming.capacity() <= LONGEST);
            (second, session.state().0)
        });
        let mut seconds = second.filter(|(_, state)| *state == BgpState::Idle);
        let (ended, _) = seconds.next().unwrap();
        assert!(ended <= ends_at, "{ended} s");
    }
}

#[test]
fn the_pause_doubles_and_is_short_again_after_a_session_that_stood() {
    let mut session = BgpSession::new(settings(OURS, PeerAsn::External), 1, at(0));
    let mut now = at(0);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        session.tick(now);
        assert_eq!(session.take_actions(), [BgpAction::Dial]);
        session.not_connected(now, "it refuses");
        session.take_actions();
        let due = session.next_deadline().unwrap();
        pauses.push(due.since(now));
        now = due;
    }
    for (pause, most) in pauses.iter().zip([1, 2, 4, 8, 10, 10, 10]) {
        let most = Duration::from_secs(most);
        assert!(*pause <= most && *pause >= most * 3 / 4, "{pauses:?}");
    }
    assert_eq!(&**session.why(), "it refuses");
}

#[test]
fn a_router_that_takes_nothing_costs_little_and_is_left() {
    let (mut session, mut ms) = (external(), 10);
    let all: Vec<String> = (0..60_000)
        .map(|n| format!("10.{}.{}.{}/32", n >> 16, n >> 8 & 255, n & 255))
        .collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    session.set_wanted(at(ms), &wanted(&all));
    while session.state().0 == BgpState::Established {
        ms += 1000;
        session.tick(at(ms));
        session.receive(at(ms), &encode::keepalive());
        assert!(session.outgoing().len() <= 3 * ROOM);
    }
    assert!((480_000..=482_000).contains(&ms), "{ms}");
    assert!(session.why().contains("takes nothing"), "{}", session.why());
}

#[test]
fn bfd_ends_an_established_session_and_no_other() {
    let mut session = external();
    session.bfd_down(at(10));
    assert_eq!(session.state().0, BgpState::Idle);
    assert!(session.why().contains("BFD"), "{}", session.why());
    session.take_actions();
    session.bfd_down(at(11));
    assert!(session.take_actions().is_empty());
}

#[test]
fn a_session_that_was_stopped_does_not_begin_again() {
    let (mut session, mut table) = (external(), Table::default());
    session.stop(at(10), BgpNotification::SHUTDOWN);
    flush(&mut session, &mut table, at(10));
    assert_eq!(table.notification, Some(BgpNotification::SHUTDOWN));
    assert_eq!(session.next_deadline(), None);
    session.take_actions();
    session.tick(at(1_000_000));
    assert!(session.take_actions().is_empty());
}

proptest! {
    #[test]
    fn no_bytes_do_harm(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
        kind in 0u8..7, is_open in any::<bool>(), is_framed in any::<bool>(),
    ) {
        let mut session = BgpSession::new(settings(OURS, PeerAsn::External), 1, at(0));
        session.tick(at(0));
        session.connected(at(1), own(1));
        if is_open {
            session.receive(at(2), &encode::open(&open(THEIRS)));
            session.receive(at(2), &encode::keepalive());
        }
        for piece in pieces {
            if is_framed {
                let mut bytes = vec![0xff; 16];
                bytes.extend((19 + piece.len() as u16).to_be_bytes());
                bytes.push(kind);
                bytes.extend(&piece);
                session.receive(at(3), &bytes);
            } else {
                session.receive(at(3), &piece);
            }
            prop_assert!(session.incoming.len() <= LONGEST);
            session.tick(at(4));
        }
    }

    #[test]
    fn an_open_is_read_as_it_was_written(
        asn in 1u32.., hold_time in 3u16.., id in 1u32..,
        v6 in any::<bool>(), extended_next_hop in any::<bool>(), route_refresh in any::<bool>(),
        restart in proptest::option::of((0u16..4096, any::<bool>())),
    ) {
        let mut families: std::collections::BTreeSet<_> = [IpFamily::IPv4].into();
        families.extend(v6.then_some(IpFamily::IPv6));
        let open = BgpOpen {
            asn,
            hold_time,
            router_id: Ipv4Addr::from(id),
            capabilities: BgpCapabilities {
                families,
                four_octet_asn: true,
                extended_next_hop,
                route_refresh,
                graceful_restart: restart,
            },
        };
        let bytes = encode::open(&open);
        prop_assert_eq!(decode::length(&bytes), Ok(Some(bytes.len())));
        prop_assert_eq!(decode::decode(&bytes), Ok(BgpMessage::Open(open)));
    }
}
