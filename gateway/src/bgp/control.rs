//! The control task's end: it hands over what has changed, and has everything withdrawn before the process stops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use fairway_config::bgp_peer::{BgpPeer, PasswordProblem, PeerPassword};
use fairway_config::exchange::Change;
use fairway_config::field::FieldProblem;
use fairway_config::names::{ClusterName, NamespacedName};
use tokio::sync::{mpsc, watch};

use super::handed::{FrozenRouters, HandedRouter};
use super::neighbours::{Neighbours, SpeakerCommand, SpeakerStage};
use super::shown::BgpShown;
use super::speaker::Speaker;
use crate::announcing::Announceable;
use crate::host::HostAddresses;
use crate::stalls::WorkerLoops;

/// How long a stop waits until routers have been told that everything is withdrawn.
const WITHDRAWN: Duration = Duration::from_secs(3);

/// How long a stop waits until sessions have ended.
const ENDED: Duration = Duration::from_secs(1);

/// How many commands may wait: the thread is told three in a take-over.
const COMMANDS: usize = 8;

/// The control task's end of the thread, which is started with the first router.
#[derive(Debug)]
pub(crate) struct BgpControl {
    own: ClusterName,
    /// All routers, those of other gateways too.
    peers: BTreeMap<ClusterName, Arc<BgpPeer>>,
    /// The passwords that are in Secrets, or what is to be said of the field that names one.
    passwords: BTreeMap<NamespacedName, Result<PeerPassword, PasswordProblem>>,
    /// The labels of this gateway's Node.
    labels: Option<BTreeMap<String, String>>,
    is_outdated: bool,
    neighbours: watch::Sender<Neighbours>,
    announceable: watch::Receiver<Arc<Announceable>>,
    /// The loops that carry traffic.
    loops: WorkerLoops,
    shown: Arc<BgpShown>,
    /// The sessions of another process, for the thread to go on with, and who hears that it does.
    former: Option<(FrozenRouters, Sender<()>)>,
    /// To the thread, once it runs.
    commands: Option<mpsc::Sender<SpeakerCommand>>,
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
            former: None,
            commands: None,
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
                    // What is known stays so while it can't be read.
                    Some(Err(PasswordProblem { is_read: false, .. }))
                        if matches!(self.passwords.get(name), Some(Ok(_))) => {}
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
        let former = self.former.as_ref();
        let is_used = !peers.is_empty() || former.is_some_and(|(it, _)| !it.routers.is_empty());
        self.neighbours.send_if_modified(|it| {
            let is_changed = it.peers != peers;
            it.peers = peers;
            is_changed
        });
        if is_used && self.commands.is_none() {
            self.start();
        }
        // What is left of it is closed.
        self.former = None;
    }

    /// Whether a password has not been read yet. Without it a session could not go on.
    pub(crate) fn lacks_passwords(&self) -> bool {
        let mut secrets = self
            .peers
            .values()
            .filter_map(|it| it.password_secret.as_ref());
        secrets.any(|secret| self.is_unread(secret))
    }

    fn is_unread(&self, secret: &NamespacedName) -> bool {
        let password = self.passwords.get(secret);
        matches!(
            password,
            None | Some(Err(PasswordProblem { is_read: false, .. }))
        )
    }

    /// Goes on with the sessions of another process, or without any, from the next [`Self::settle`] on. `begun` hears when
    /// BFD goes on.
    pub(crate) fn begin(&mut self, former: FrozenRouters, begun: Sender<()>) {
        self.take_passwords(&former);
        self.former = Some((former, begun));
        self.is_outdated = true;
    }

    /// Takes the passwords that the other process has read, and this one has not yet: a session goes on with what it was
    /// made from until something else is known.
    fn take_passwords(&mut self, former: &FrozenRouters) {
        for HandedRouter { name, password, .. } in former.routers.iter().map(|it| &it.says) {
            let peer = self.peers.get(&ClusterName::from(name.as_str()));
            if let Some(secret) = peer.and_then(|peer| peer.password_secret.as_ref())
                && let Some(password) = password
                && self.is_unread(secret)
            {
                let password = PeerPassword::new(password.0.as_str());
                self.passwords.insert(secret.clone(), Ok(password));
            }
        }
    }

    /// Leaves all connections alone until [`Self::thaw`] or [`Self::leave`], and tells what another process needs to go
    /// on with the sessions.
    pub(crate) fn freeze(&self, reply: Sender<FrozenRouters>) {
        match &self.commands {
            Some(_) => self.command(SpeakerCommand::Freeze(reply)),
            // Whoever has asked may be gone.
            None => _ = reply.send(FrozenRouters::default()),
        }
    }

    /// Goes on with the sessions.
    pub(crate) fn thaw(&self) {
        self.command(SpeakerCommand::Thaw);
    }

    /// Another process has these sessions.
    pub(crate) fn leave(&self, taken: BTreeSet<String>) {
        self.command(SpeakerCommand::Leave(taken));
    }

    fn command(&self, command: SpeakerCommand) {
        if let Some(commands) = &self.commands
            && let Err(error) = commands.try_send(command)
        {
            tracing::error!(%error, "the thread of BGP does not listen");
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
            Some(Err(problem)) => problem.why.to_string(),
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
        let (commands, of_thread) = mpsc::channel(COMMANDS);
        let speaker = Speaker::new(
            self.own.clone(),
            neighbours,
            announceable,
            self.loops.clone(),
            self.shown.clone(),
            of_thread,
        );
        match speaker.start(self.former.take()) {
            Ok(()) => self.commands = Some(commands),
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
        self.commands.is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs::File;
    use std::sync::mpsc as std_mpsc;

    use fairway_config::bgp_peer::PeerAsn;

    use super::*;
    use crate::bgp::handed::{FrozenRouter, ToldPassword};

    #[test]
    fn a_password_that_is_not_read_yet_is_that_of_the_former_session() {
        let secret = NamespacedName::new("fairway-system", "tor");
        let address = "192.0.2.1".parse().unwrap();
        let mut tor = BgpPeer::new("tor".into(), 64512, PeerAsn::External, address);
        tor.password_secret = Some(secret.clone());
        let tor = Arc::new(tor);
        let said = |text: &str| Some(Ok(PeerPassword::new(text)));
        let problem = |is_read| {
            let why = "names a Secret".into();
            Some(Err(PasswordProblem { why, is_read }))
        };
        for (read, told, later, wanted) in [
            (None, Some("told"), None, said("told")),
            (None, None, None, None),
            (said("read"), Some("told"), None, said("read")),
            (problem(false), Some("told"), None, said("told")),
            (problem(true), Some("told"), None, None),
            // What comes after it has begun.
            (None, Some("told"), problem(false), said("told")),
            (None, Some("told"), problem(true), None),
            (None, Some("told"), said("read"), said("read")),
        ] {
            let (_, announceable) = watch::channel(Arc::default());
            let mut control =
                BgpControl::new("edge-1".into(), announceable, [].into(), Arc::default());
            control.apply(&[
                Change::BgpPeer("tor".into(), Some(tor.clone())),
                Change::PeerPassword(secret.clone(), read.clone()),
            ]);
            let says = HandedRouter {
                name: "tor".to_owned(),
                password: told.map(|it| ToldPassword(it.to_owned())),
                ..HandedRouter::default()
            };
            let former = FrozenRouters {
                routers: vec![FrozenRouter {
                    says,
                    told: Default::default(),
                    incoming: Vec::new(),
                    outgoing: Vec::new(),
                    connection: File::open("/dev/null").unwrap().into(),
                    bfd: None,
                }],
                bfd: Vec::new(),
            };
            control.begin(former, std_mpsc::channel().0);
            if later.is_some() {
                control.apply(&[Change::PeerPassword(secret.clone(), later.clone())]);
            }
            let peer = control.with_password(&tor);
            assert_eq!(
                peer.password,
                wanted.and_then(Result::ok),
                "{read:?} {told:?} {later:?}"
            );
            assert_eq!(peer.problems.is_empty(), peer.password.is_some());
        }
    }
}
