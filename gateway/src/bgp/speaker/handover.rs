//! Sessions go over to another process, or come from one.
//!
//! A frozen thread touches no connection: the other process may have it, and nobody but one may write. Only packets of
//! BFD go on, until it is known who has the sessions: there they do no harm, and a gap would look like a death.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use fairway_config::bgp_peer::BgpPeer;
use fairway_config::names::ClusterName;
use fairway_gateway_core::bgp::message::BgpNotification;
use fairway_gateway_core::bgp::session::BgpState;
use fairway_gateway_core::fleet::BootTime;

use super::{RoutersHeld, Speaker, random};
use crate::bgp::handed::{FrozenRouter, FrozenRouters};
use crate::bgp::neighbours::{SpeakerCommand, SpeakerStage};
use crate::bgp::peer::RouterPeer;
use crate::bgp::settings::settings;
use crate::clock;

/// After so long it is not waited any more for what becomes of sessions: both processes know within ten seconds.
const FROZEN: Duration = Duration::from_secs(30);

impl Speaker {
    /// Does what the control task asks for.
    pub(super) fn obey(&mut self, command: SpeakerCommand) {
        let now = clock::boot_time();
        match command {
            SpeakerCommand::Freeze(reply) => {
                self.held = RoutersHeld::Frozen(now);
                let peers = self.peers.iter();
                let frozen = FrozenRouters {
                    routers: peers.filter_map(|(name, it)| it.freeze(name)).collect(),
                    bfd: self.bfd.share(),
                };
                // Who does not hear it thaws this thread.
                let _ = reply.send(frozen);
            }
            SpeakerCommand::Thaw => self.thaw(now),
            SpeakerCommand::Leave(taken) => self.leave(now, &taken),
        }
    }

    fn thaw(&mut self, now: BootTime) {
        if !matches!(self.held, RoutersHeld::Frozen(_)) {
            return;
        }
        self.held = RoutersHeld::Here;
        for peer in self.peers.values_mut() {
            peer.thaw(now);
        }
        self.take_neighbours(now);
        self.set_wanted(now);
    }

    /// Another process has these sessions. The others end.
    fn leave(&mut self, now: BootTime, taken: &BTreeSet<String>) {
        self.held = RoutersHeld::Elsewhere;
        for (name, mut peer) in std::mem::take(&mut self.peers) {
            if !taken.contains(&*name) {
                peer.stop(now, BgpNotification::RESET);
            }
        }
        self.bfd = super::BfdSockets::default();
    }

    /// Goes on with BFD and the sessions that another process has had. Those that are to be others end.
    pub(super) fn go_on(&mut self, former: FrozenRouters, now: BootTime) {
        self.bfd.inherit(former.bfd);
        for router in former.routers {
            self.go_on_with(router, now);
        }
    }

    fn go_on_with(&mut self, router: FrozenRouter, now: BootTime) {
        let name = ClusterName::from(router.says.name.as_str());
        let wanted = self.neighbours.borrow().peers.get(&name).cloned();
        let is_same = |peer: &Arc<BgpPeer>| settings(peer) == router.says.settings;
        let notification = match wanted {
            Some(peer) if is_same(&peer) => {
                match RouterPeer::go_on(peer, router, random(), now) {
                    Some(mut peer) => {
                        // Before all that takes time.
                        peer.turn_frozen(now);
                        let (state, since) = peer.session.state();
                        if state == BgpState::Established {
                            let stood = now.since(since);
                            tracing::info!(peer = %name, ?stood, "session with a router goes on");
                            self.logged.insert(name.clone(), (state, peer.why()));
                        }
                        self.peers.insert(name, peer);
                    }
                    None => tracing::warn!(peer = %name, "a session with a router can't go on"),
                }
                return;
            }
            Some(_) => BgpNotification::CHANGED,
            None => BgpNotification::DECONFIGURED,
        };
        tracing::info!(peer = %name, %notification, "the former session with a router ends");
        RouterPeer::end_former(router, notification, now);
    }

    /// Whether another process has the sessions, or may have them.
    pub(super) fn is_quiet(&self) -> bool {
        self.held != RoutersHeld::Here
    }

    /// Keeps BFD going.
    pub(super) fn turn_quietly(&mut self, now: BootTime, stage: SpeakerStage) {
        let is_over = match self.held {
            RoutersHeld::Frozen(since) => now.since(since) >= FROZEN,
            RoutersHeld::Here | RoutersHeld::Elsewhere => false,
        };
        if is_over || stage == SpeakerStage::Withdrawing {
            // Whoever has the connections besides goes on with them. Where nobody has, they end.
            self.peers.clear();
            self.shown.set_done(stage);
        }
        for peer in self.peers.values_mut() {
            peer.turn_frozen(now);
        }
    }

    /// Waits until there is something to do, as far as that is allowed.
    pub(super) async fn wait_quietly(&mut self, now: BootTime) {
        let deadlines = self.peers.values();
        let deadlines = deadlines.filter_map(RouterPeer::next_frozen_deadline);
        let resumes = self.bfd_meter.resumes_at(now);
        let due = deadlines.chain(resumes).min();
        let pause = due.map_or(super::LOOK, |due| due.since(now).min(super::LOOK));
        let (neighbours, bfd) = (&mut self.neighbours, &self.bfd);
        let ready = poll_fn(|cx| match resumes.is_none() && bfd.poll(cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        tokio::select! {
            changed = neighbours.changed() => self.is_told = changed.is_ok(),
            Some(command) = self.commands.recv() => self.obey(command),
            () = ready => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
