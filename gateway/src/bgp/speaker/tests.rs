#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};

use fairway_config::announce::{Announcement, BgpAnnouncement};
use fairway_config::net::IpFamily;
use fairway_config::pool::Forwarding;
use fairway_gateway_core::bgp::encode;
use fairway_gateway_core::bgp::message::{BgpCapabilities, BgpOpen};
use fairway_gateway_core::bgp::routes::AnnouncedRoutes;
use fairway_gateway_core::bgp::session::{BgpSession, BgpSessionSettings, OwnEnd};
use fairway_gateway_core::fleet::EndpointReach;

use super::*;
use crate::announcing::{AnnouncedAddress, AnnouncedPool};
use crate::bgp::handed::{FrozenRouter, HandedRouter};
use crate::bgp::settings;
use crate::engine::Mailbox;

/// A speaker that may announce 203.0.113.1 to the router `tor`, beside a worker that does not turn.
fn speaker() -> (Speaker, watch::Sender<Arc<Announceable>>) {
    let announcement = Arc::new(Announcement {
        bgp: Some(BgpAnnouncement::default()),
        ..Announcement::default()
    });
    let pool = AnnouncedPool {
        forwarding: Forwarding::Proxy,
        announcement: announcement.clone(),
        ranges: Vec::new(),
        owners: Arc::default(),
        tellers: BTreeSet::from(["edge-1".into()]),
    };
    let address = AnnouncedAddress {
        pool: "edge".into(),
        announcement,
        is_able: true,
        lacks_local_endpoint: false,
        local_nodes: Arc::default(),
        is_local: false,
        reach: EndpointReach::default(),
    };
    let announceable = Announceable {
        addresses: [("203.0.113.1".parse().unwrap(), address)].into(),
        pools: Arc::new([("edge".into(), Arc::new(pool))].into()),
        ..Announceable::default()
    };
    let tor = BgpPeer::new(
        "tor".into(),
        64512,
        PeerAsn::External,
        "192.0.2.1".parse().unwrap(),
    );
    let neighbours = Neighbours {
        peers: [(tor.name.clone(), Arc::new(tor))].into(),
        ..Neighbours::default()
    };
    let (announceable, told) = watch::channel(Arc::new(announceable));
    let (_, neighbours) = watch::channel(neighbours);
    let stuck = (Arc::new(Mailbox::new().unwrap()), Heartbeat::default());
    let loops: WorkerLoops = [stuck].into();
    let (_, commands) = mpsc::channel(1);
    let mut speaker = Speaker::new(
        "edge-1".into(),
        neighbours,
        told,
        loops,
        Arc::default(),
        commands,
    );
    speaker.set_wanted(speaker.looks_at);
    (speaker, announceable)
}

/// A session of another process with `tor`, which has been told nothing, and the router's end.
fn former(speaker: &Speaker) -> (FrozenRouter, TcpStream) {
    let tor = speaker.peers.values().next().unwrap().peer.clone();
    let settings = BgpSessionSettings {
        asn: tor.my_asn,
        peer_asn: tor.peer_asn,
        hold_time: tor.hold_time,
        keepalive_time: tor.keepalive_time,
        connect_time: tor.connect_time,
        graceful_restart: false,
    };
    let now = clock::boot_time();
    let mut session = BgpSession::new(settings, 1, now);
    session.tick(now);
    let own = OwnEnd {
        router_id: [192, 0, 2, 11].into(),
        next_hop_v4: Some([192, 0, 2, 11].into()),
        next_hop_v6: None,
    };
    session.connected(now, own);
    let open = BgpOpen {
        asn: 64513,
        hold_time: 90,
        router_id: [192, 0, 2, 1].into(),
        capabilities: BgpCapabilities {
            families: [IpFamily::IPv4].into(),
            ..BgpCapabilities::default()
        },
    };
    session.receive(now, &encode::open(&open));
    session.receive(now, &encode::keepalive());
    let of = session.continuation().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    connection.set_nonblocking(true).unwrap();
    let (router, _) = listener.accept().unwrap();
    let mut says = HandedRouter::new("tor", settings::settings(&tor), &of, None);
    // The OPEN and what followed it was sent.
    says.outgoing = 0;
    let frozen = FrozenRouter {
        says,
        told: AnnouncedRoutes::new(),
        incoming: Vec::new(),
        outgoing: Vec::new(),
        connection: connection.into(),
        bfd: None,
    };
    (frozen, router)
}

/// The kind of the next message that a router hears within this time, and what follows its header; none: it hears none.
fn heard(router: &mut TcpStream, within: Duration) -> Option<(u8, Vec<u8>)> {
    router.set_read_timeout(Some(within)).unwrap();
    let mut header = [0; 19];
    router.read_exact(&mut header).ok()?;
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut rest = vec![0; length - 19];
    router.read_exact(&mut rest).unwrap();
    Some((header[18], rest))
}

#[test]
fn a_frozen_thread_says_nothing_until_it_is_known_who_has_its_sessions() {
    let soon = Duration::from_secs(10);
    for taken in [true, false] {
        let (mut speaker, announceable) = speaker();
        speaker.loops = Arc::new([]);
        let (_control, neighbours) = watch::channel(speaker.neighbours.borrow().clone());
        speaker.neighbours = neighbours;
        let (control, commands) = mpsc::channel(4);
        speaker.commands = commands;
        let (session, mut router) = former(&speaker);
        let former = FrozenRouters {
            routers: vec![session],
            bfd: Vec::new(),
        };
        let (begun, has_begun) = std::sync::mpsc::channel();
        speaker.start(Some((former, begun))).unwrap();
        has_begun.recv_timeout(soon).unwrap();
        let update = heard(&mut router, soon).unwrap();
        assert_eq!(update.0, 2, "{update:?}");
        assert!(update.1.ends_with(&[32, 203, 0, 113, 1]), "{update:?}");
        let freeze = || {
            let (reply, frozen) = std::sync::mpsc::channel();
            control.try_send(SpeakerCommand::Freeze(reply)).unwrap();
            frozen.recv_timeout(soon).unwrap()
        };
        let frozen = freeze();
        assert_eq!(frozen.routers[0].told.len(), 1);
        announceable.send_modify(|it| {
            let it = Arc::make_mut(it);
            let address: std::net::IpAddr = "203.0.113.2".parse().unwrap();
            let like = it.addresses.values().next().cloned().unwrap();
            it.addresses.insert(address, like);
            it.changes.note(address);
        });
        let silence = Duration::from_millis(400);
        assert_eq!(heard(&mut router, silence), None, "it is frozen");
        // The other process has died.
        drop(frozen);
        control.try_send(SpeakerCommand::Thaw).unwrap();
        let update = heard(&mut router, soon).unwrap();
        assert!(update.1.ends_with(&[32, 203, 0, 113, 2]), "{update:?}");
        let frozen = freeze();
        assert_eq!(frozen.routers[0].told.len(), 2);
        drop(frozen);
        let names = taken.then(|| "tor".to_owned()).into_iter().collect();
        control.try_send(SpeakerCommand::Leave(names)).unwrap();
        // Of what another process has, this one says nothing more: not even that it ends.
        let last = heard(&mut router, soon);
        let said = last.map(|(kind, rest)| (kind, rest[..2].to_vec()));
        assert_eq!(said, (!taken).then(|| (3, vec![6, 4])));
        assert_eq!(
            router.read(&mut [0]).unwrap(),
            0,
            "its descriptor is closed"
        );
    }
}

fn wanted(speaker: &Speaker) -> Vec<String> {
    let peers = speaker.peers.values();
    let wanted = peers.flat_map(|it| it.session.rib_out().wanted().keys());
    wanted.map(ToString::to_string).collect()
}

#[tokio::test]
async fn while_a_worker_does_not_turn_nothing_is_announced() {
    let (mut speaker, announceable) = speaker();
    let began = speaker.looks_at;
    let look = |speaker: &mut Speaker, ms: u64| {
        let now = began.after(Duration::from_millis(ms));
        speaker.look(now);
        now
    };
    for ms in (0..=750).step_by(250) {
        look(&mut speaker, ms);
        assert_eq!(wanted(&speaker), ["203.0.113.1/32"], "{ms} ms");
    }
    let mut now = began;
    for ms in (1000..=2000).step_by(250) {
        now = look(&mut speaker, ms);
    }
    assert!(wanted(&speaker).is_empty());
    speaker.publish(now);
    let why = &speaker.shown.rows()[0].why;
    assert!(
        why.contains("nothing is announced: worker 0 has not turned"),
        "{why}"
    );
    // What changes meanwhile is not announced either.
    announceable.send_modify(|it| {
        let it = Arc::make_mut(it);
        let address: std::net::IpAddr = "203.0.113.2".parse().unwrap();
        let like = it.addresses.values().next().cloned().unwrap();
        it.addresses.insert(address, like);
        it.changes.note(address);
    });
    speaker.take_addresses(now);
    assert!(wanted(&speaker).is_empty());
    speaker.loops = Arc::new([]);
    look(&mut speaker, 2250);
    assert_eq!(wanted(&speaker), ["203.0.113.1/32", "203.0.113.2/32"]);
}

#[tokio::test]
async fn a_change_of_one_address_is_taken_in_by_itself() {
    let (mut speaker, announceable) = speaker();
    let now = speaker.looks_at;
    let address = |n: u8| std::net::IpAddr::from([203, 0, 113, n]);
    let change = |noted: u8, there: &[u8]| {
        announceable.send_modify(|it| {
            let it = Arc::make_mut(it);
            let like = it.addresses.values().next().cloned().unwrap();
            for n in there {
                it.addresses.insert(address(*n), like.clone());
            }
            it.changes.note(address(noted));
        });
    };
    // Only what is noted is looked at.
    change(2, &[2, 3]);
    speaker.take_addresses(now);
    assert_eq!(wanted(&speaker), ["203.0.113.1/32", "203.0.113.2/32"]);
    change(3, &[]);
    speaker.take_addresses(now);
    assert_eq!(wanted(&speaker).len(), 3);
    announceable.send_modify(|it| {
        let it = Arc::make_mut(it);
        it.addresses.remove(&address(1));
        it.changes.note(address(1));
        it.draining = Some("of the test".into());
        it.changes.note_all();
    });
    speaker.take_addresses(now);
    assert_eq!(wanted(&speaker), ["203.0.113.2/32", "203.0.113.3/32"]);
    let peers = speaker.peers.values();
    let mut routes = peers.flat_map(|it| it.session.rib_out().wanted().values());
    assert!(routes.all(|it| it.local_preference == Some(0)));
}
