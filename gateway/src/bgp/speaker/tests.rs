#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use fairway_config::announce::{Announcement, BgpAnnouncement};
use fairway_config::pool::Forwarding;
use fairway_gateway_core::fleet::EndpointReach;

use super::*;
use crate::announcing::{AnnouncedAddress, AnnouncedPool};
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
    let speaker = Speaker::new("edge-1".into(), neighbours, told, loops, Arc::default());
    (speaker, announceable)
}

fn wanted(speaker: &Speaker) -> Vec<String> {
    let peers = speaker.peers.values();
    let wanted = peers.flat_map(|it| it.session.rib_out().wanted().keys());
    wanted.map(ToString::to_string).collect()
}

#[tokio::test]
async fn while_a_worker_does_not_turn_nothing_is_announced() {
    let (mut speaker, announceable) = speaker();
    let began = speaker.began;
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
    let now = speaker.began;
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
