//! The control task's end: it hands over what has changed, and has everything withdrawn before the process stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::bgp_peer::{BgpPeer, PeerPassword};
use fairway_config::exchange::Change;
use fairway_config::field::FieldProblem;
use fairway_config::names::{ClusterName, NamespacedName};
use tokio::sync::watch;

use super::neighbours::{Neighbours, SpeakerStage};
use super::shown::BgpShown;
use super::speaker::Speaker;
use crate::announcing::Announceable;
use crate::host::HostAddresses;
use crate::stalls::WorkerLoops;

/// How long a stop waits until routers have been told that everything is withdrawn.
const WITHDRAWN: Duration = Duration::from_secs(3);

/// How long a stop waits until sessions have ended.
const ENDED: Duration = Duration::from_secs(1);

/// The control task's end of the thread, which is started with the first router.
#[derive(Debug)]
pub(crate) struct BgpControl {
    own: ClusterName,
    /// All routers, those of other gateways too.
    peers: BTreeMap<ClusterName, Arc<BgpPeer>>,
    /// The passwords that are in Secrets, or what is to be said of the field that names one.
    passwords: BTreeMap<NamespacedName, Result<PeerPassword, Arc<str>>>,
    /// The labels of this gateway's Node.
    labels: Option<BTreeMap<String, String>>,
    is_outdated: bool,
    neighbours: watch::Sender<Neighbours>,
    announceable: watch::Receiver<Arc<Announceable>>,
    /// The loops that carry traffic.
    loops: WorkerLoops,
    shown: Arc<BgpShown>,
    is_started: bool,
}

impl BgpControl {
    pub(crate) fn new(
        own: ClusterName,
        announceable: watch::Receiver<Arc<Announceable>>,
        loops: WorkerLoops,
        shown: Arc<BgpShown>,
    ) -> Self {
        Self {
            own,
            peers: BTreeMap::new(),
            passwords: BTreeMap::new(),
            labels: None,
            is_outdated: false,
            neighbours: watch::Sender::default(),
            announceable,
            loops,
            shown,
            is_started: false,
        }
    }

    /// Takes in routers and this gateway's Node.
    pub(crate) fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::BgpPeer(name, Some(peer)) => {
                    self.peers.insert(name.clone(), peer.clone());
                }
                Change::BgpPeer(name, None) => {
                    self.peers.remove(name);
                }
                Change::PeerPassword(name, password) => match password {
                    Some(password) => {
                        self.passwords.insert(name.clone(), password.clone());
                    }
                    None => _ = self.passwords.remove(name),
                },
                Change::Node(name, node) if *name == self.own => {
                    self.labels = node.as_ref().map(|node| node.labels.clone());
                }
                _ => continue,
            }
            self.is_outdated = true;
        }
    }

    /// These are the host's addresses.
    pub(crate) fn set_links(&mut self, links: &HostAddresses) {
        let links = Arc::new(links.clone());
        self.neighbours.send_modify(|it| it.links = links);
    }

    /// Hands over what has changed, once everything is known.
    pub(crate) fn settle(&mut self) {
        if !std::mem::take(&mut self.is_outdated) {
            return;
        }
        let labels = self.labels.as_ref();
        let peers = self.peers.iter().filter(|(_, it)| it.is_for(labels));
        let peers: BTreeMap<_, _> = peers
            .map(|(name, it)| (name.clone(), self.with_password(it)))
            .collect();
        let is_empty = peers.is_empty();
        self.neighbours.send_if_modified(|it| {
            let is_changed = it.peers != peers;
            it.peers = peers;
            is_changed
        });
        if !is_empty && !self.is_started {
            self.start();
        }
    }

    /// A router with the password of its Secret. Without that a session would be another one, so there is none.
    fn with_password(&self, peer: &Arc<BgpPeer>) -> Arc<BgpPeer> {
        let Some(secret) = &peer.password_secret else {
            return Arc::clone(peer);
        };
        let mut peer = BgpPeer::clone(peer);
        let why = match self.passwords.get(secret) {
            Some(Ok(password)) => {
                peer.password = Some(password.clone());
                return peer.into();
            }
            Some(Err(why)) => why.to_string(),
            None => format!(
                "names the Secret {secret}, which has not been read: that is done in a cluster alone, in \
                 manifests the password stands under password"
            ),
        };
        peer.problems.push(FieldProblem {
            field: "spec.passwordSecret".to_owned(),
            message: why,
        });
        peer.into()
    }

    fn start(&mut self) {
        let (neighbours, announceable) = (self.neighbours.subscribe(), self.announceable.clone());
        let speaker = Speaker::new(
            self.own.clone(),
            neighbours,
            announceable,
            self.loops.clone(),
            self.shown.clone(),
        );
        match speaker.start() {
            Ok(()) => self.is_started = true,
            Err(error) => {
                // The next change of a router tries again.
                tracing::error!(%error, "no thread for BGP: nothing is announced to routers");
                self.is_outdated = true;
            }
        }
    }

    /// Has everything withdrawn. Returns when routers have been told.
    pub(crate) async fn withdraw(&self) {
        if self.enter(SpeakerStage::Withdrawing) {
            let mut done = self.shown.done();
            let told = done.wait_for(|done| *done >= SpeakerStage::Withdrawing);
            if tokio::time::timeout(WITHDRAWN, told).await.is_err() {
                tracing::warn!("routers may not know yet that nothing is announced any more");
            }
        }
    }

    /// Ends all sessions.
    pub(crate) async fn end(&self) {
        if self.enter(SpeakerStage::Ending) {
            let mut done = self.shown.done();
            let ended = done.wait_for(|done| *done >= SpeakerStage::Ending);
            let _ = tokio::time::timeout(ENDED, ended).await;
        }
    }

    fn enter(&self, stage: SpeakerStage) -> bool {
        self.neighbours.send_modify(|it| it.stage = stage);
        self.is_started
    }
}
