//! What is shown of the sessions with routers: rows, sentences, figures.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use fairway_config::view::BgpPeerRow;
use fairway_gateway_core::bgp::routes::AnnouncedRoutes;
use ipnet::IpNet;
use tokio::sync::watch;

use super::neighbours::SpeakerStage;
use crate::heartbeat::Heartbeat;

/// What the thread of BGP publishes.
#[derive(Debug, Default)]
pub(crate) struct BgpShown {
    peers: ArcSwap<Vec<ShownPeer>>,
    done: watch::Sender<SpeakerStage>,
    /// Of the thread, once it runs.
    pub(super) beat: OnceLock<Heartbeat>,
}

/// What is published of one router.
#[derive(Clone, Debug)]
pub(crate) struct ShownPeer {
    pub(crate) row: BgpPeerRow,
    /// What it is told, or will be.
    pub(crate) wanted: Arc<AnnouncedRoutes>,
}

impl BgpShown {
    /// All routers, by name.
    pub(crate) fn rows(&self) -> Vec<BgpPeerRow> {
        let peers = self.peers.load();
        peers.iter().map(|it| it.row.clone()).collect()
    }

    pub(super) fn set(&self, peers: Vec<ShownPeer>) {
        self.peers.store(Arc::new(peers));
    }

    /// How far the thread has come with the end.
    pub(super) fn done(&self) -> watch::Receiver<SpeakerStage> {
        self.done.subscribe()
    }

    pub(super) fn set_done(&self, stage: SpeakerStage) {
        self.done.send_if_modified(|done| {
            let is_later = stage > *done;
            *done = stage.max(*done);
            is_later
        });
    }

    /// The heartbeat of the thread, where it runs.
    pub(crate) fn beat(&self) -> Option<&Heartbeat> {
        self.beat.get()
    }

    /// What is to be said of an external address: a sentence for each router that is told of it.
    pub(crate) fn sentences(&self, address: IpAddr) -> Vec<String> {
        let peers = self.peers.load();
        let told = peers.iter().filter_map(|it| {
            let prefix = covering(&it.wanted, address)?;
            let row = &it.row;
            let (name, state) = (&row.name, &row.state);
            Some(match row.is_established() {
                true => format!(
                    "{prefix} is announced to the router {name}, since {}.",
                    row.since
                ),
                false => format!(
                    "{prefix} is not announced to the router {name} ({state}): {}.",
                    row.why
                ),
            })
        });
        told.collect()
    }
}

/// The prefix that an address is announced by.
fn covering(wanted: &AnnouncedRoutes, address: IpAddr) -> Option<IpNet> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let lengths = (0..=longest).rev();
    let mut prefixes = lengths.filter_map(|length| IpNet::new(address, length).ok());
    prefixes.find_map(|prefix| {
        let prefix = prefix.trunc();
        wanted.contains_key(&prefix).then_some(prefix)
    })
}
