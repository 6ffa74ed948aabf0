//! What is shown of the sessions with routers: rows, sentences, figures.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use fairway_config::names::ClusterName;
use fairway_config::view::BgpPeerRow;
use fairway_gateway_core::fleet::BootTime;
use tokio::sync::watch;

use super::asks::prefix_of;
use super::neighbours::SpeakerStage;
use crate::announcing::Announceable;
use crate::clock;
use crate::heartbeat::Heartbeat;

/// What the thread of BGP publishes.
#[derive(Debug, Default)]
pub(crate) struct BgpShown {
    peers: ArcSwap<ShownPeers>,
    /// The gateway, and the addresses that it may announce.
    pub(super) told: OnceLock<(ClusterName, watch::Receiver<Arc<Announceable>>)>,
    done: watch::Sender<SpeakerStage>,
    /// Of the thread, once it runs.
    pub(super) beat: OnceLock<Heartbeat>,
}

/// What is published of all routers.
#[derive(Debug, Default)]
struct ShownPeers {
    all: Vec<ShownPeer>,
    at: BootTime,
}

/// What is published of one router.
#[derive(Clone, Debug)]
pub(super) struct ShownPeer {
    pub(super) row: BgpPeerRow,
    /// Whether it is told of any address, or will be.
    pub(super) is_told: bool,
}

/// The thread publishes four times in a second. For so long what it has published is believed.
const BELIEVED: Duration = Duration::from_secs(5);

/// What is said after that.
const SILENT: &str = "the thread of BGP has not turned for 5 s";

impl BgpShown {
    /// All routers, by name.
    pub(crate) fn rows(&self) -> Vec<BgpPeerRow> {
        self.rows_at(clock::boot_time())
    }

    fn rows_at(&self, now: BootTime) -> Vec<BgpPeerRow> {
        let peers = self.peers.load();
        let is_silent = self.beat.get().is_some() && now.since(peers.at) >= BELIEVED;
        let rows = peers.all.iter().map(|it| match is_silent {
            true => it.row.unknown(SILENT),
            false => it.row.clone(),
        });
        rows.collect()
    }

    pub(super) fn set(&self, all: Vec<ShownPeer>, at: BootTime) {
        self.peers.store(Arc::new(ShownPeers { all, at }));
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
        let Some((own, announceable)) = self.told.get() else {
            return Vec::new();
        };
        let announceable = announceable.borrow().clone();
        let peers = self.peers.load();
        let told = peers.all.iter().filter(|it| it.is_told);
        let told = told.filter_map(|it| {
            let row = &it.row;
            let router = ClusterName::from(row.name.as_str());
            let prefix = prefix_of(&announceable, own, &router, address)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_thread_has_published_is_believed_for_a_while() {
        let shown = BgpShown::default();
        let row = BgpPeerRow {
            state: "Established".to_owned(),
            ..BgpPeerRow::default()
        };
        let at = |seconds: u64| BootTime::default().after(Duration::from_secs(seconds));
        shown.set(vec![ShownPeer { row, is_told: true }], at(10));
        let states = |seconds: u64| -> Vec<String> {
            let rows = shown.rows_at(at(seconds)).into_iter();
            rows.map(|row| row.state).collect()
        };
        // Nothing is to be heard of a thread that has not been started.
        assert_eq!(states(60), ["Established"]);
        let _ = shown.beat.set(Heartbeat::default());
        assert_eq!(states(14), ["Established"]);
        assert_eq!(states(15), ["Unknown"]);
    }
}
