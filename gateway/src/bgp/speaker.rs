//! The thread with all sessions. `handover`: they go over to another process, or come from one.

mod handover;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::future::poll_fn;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::task::Poll;
use std::time::Duration;

use fairway_config::bgp_peer::{BgpPeer, PeerAsn};
use fairway_config::names::ClusterName;
use fairway_config::time::Timestamp;
use fairway_config::view::BgpPeerRow;
use fairway_gateway_core::bfd::packet::BfdState;
use fairway_gateway_core::bgp::message::BgpNotification;
use fairway_gateway_core::bgp::routes::RouteAttributes;
use fairway_gateway_core::bgp::session::{BgpState, NOT_DIALLED};
use fairway_gateway_core::fleet::BootTime;
use tokio::sync::{mpsc, watch};

use super::asks::asks;
use super::bfd::{BfdSockets, HeardRouters};
use super::handed::FrozenRouters;
use super::neighbours::{Neighbours, SpeakerCommand, SpeakerStage};
use super::peer::RouterPeer;
use super::shown::{BgpShown, ShownPeer};
use crate::announcing::Announceable;
use crate::clock;
use crate::heartbeat::Heartbeat;
use crate::receive_meter::ReceiveMeter;
use crate::stalls::{Stalls, WorkerLoops, turns};
use crate::urgency;

/// How long routers have to take other ways, once they are told that this one will go (RFC 8326).
const SHUTDOWN_NOTICE: Duration = Duration::from_millis(300);

/// How long routers have, once they know that it is gone.
const WITHDRAWAL: Duration = Duration::from_millis(200);

/// How often everything is shown, at least.
const SHOW: Duration = Duration::from_millis(250);

/// How often the loops that carry traffic are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Speaker {
    own: ClusterName,
    neighbours: watch::Receiver<Neighbours>,
    announceable: watch::Receiver<Arc<Announceable>>,
    /// The number of the last change of an address that was taken in.
    seen: u64,
    /// The loops that carry traffic, and whether they turn.
    loops: WorkerLoops,
    stalls: Stalls,
    looks_at: BootTime,
    /// Why nothing is announced now.
    inability: Option<String>,
    /// The control task may end before this thread.
    is_told: bool,
    shown: Arc<BgpShown>,
    peers: BTreeMap<ClusterName, RouterPeer>,
    bfd: BfdSockets,
    /// What is received has a share of a processor; that of BFD is its own, for it is what others wait for.
    bfd_meter: ReceiveMeter,
    bgp_meter: ReceiveMeter,
    /// The time of day when the machine started, as it was known when this began.
    booted: Duration,
    withdrawal: Withdrawal,
    /// Who has the sessions, and what is said of that.
    held: RoutersHeld,
    commands: mpsc::Receiver<SpeakerCommand>,
    /// What is shown, as far as it changes seldom, and when all of it is shown again.
    stamp: Vec<(BgpState, BootTime, usize, Option<BfdState>)>,
    shows_at: BootTime,
    /// The state of each router as it was logged last.
    logged: BTreeMap<ClusterName, (BgpState, String)>,
}

/// How far the withdrawal of everything has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Withdrawal {
    NotBegun,
    /// Routers know since then that everything will go.
    Announced(BootTime),
    /// It is being withdrawn.
    Begun,
    /// Routers know since then that it is gone.
    Known(BootTime),
}

/// Who has the sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RoutersHeld {
    /// This process.
    Here,
    /// Another one may have them, since then.
    Frozen(BootTime),
    /// Another one.
    Elsewhere,
}

impl Speaker {
    /// Routers are shown before the thread has been started.
    pub(super) fn new(
        own: ClusterName,
        neighbours: watch::Receiver<Neighbours>,
        announceable: watch::Receiver<Arc<Announceable>>,
        loops: WorkerLoops,
        shown: Arc<BgpShown>,
        commands: mpsc::Receiver<SpeakerCommand>,
    ) -> Self {
        let began = clock::boot_time();
        // Nobody else sets it.
        let _ = shown.told.set((own.clone(), announceable.clone()));
        let mut speaker = Self {
            own,
            neighbours,
            announceable,
            seen: 0,
            loops,
            stalls: Stalls::default(),
            looks_at: began,
            inability: None,
            is_told: true,
            shown,
            peers: BTreeMap::new(),
            bfd: BfdSockets::default(),
            bfd_meter: ReceiveMeter::new("bfd"),
            bgp_meter: ReceiveMeter::new("bgp"),
            booted: clock::wall_time_at_boot(),
            withdrawal: Withdrawal::NotBegun,
            held: RoutersHeld::Here,
            commands,
            stamp: Vec::new(),
            shows_at: BootTime::default(),
            logged: BTreeMap::new(),
        };
        let neighbours = speaker.neighbours.borrow().peers.clone();
        for (name, peer) in neighbours {
            let peer = RouterPeer::new(peer, random(), began);
            speaker.peers.insert(name, peer);
        }
        speaker.publish(began);
        speaker
    }

    /// Starts the thread, which goes on with what another process has had. It ends at [`SpeakerStage::Ending`], or when the control task is gone.
    ///
    /// # Errors
    /// There are no threads or file descriptors left.
    pub(super) fn start(self, former: Option<(FrozenRouters, Sender<()>)>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (beat, shown) = (Heartbeat::default(), self.shown.clone());
        let of_thread = beat.clone();
        std::thread::Builder::new()
            .name("fairway-bgp".to_owned())
            .spawn(move || {
                urgency::raise_or_say();
                runtime.spawn(of_thread.answer());
                let done = self.shown.clone();
                runtime.block_on(self.run(former));
                done.set_done(SpeakerStage::Ending);
            })?;
        // Nobody else sets it.
        let _ = shown.beat.set(beat);
        Ok(())
    }

    async fn run(mut self, former: Option<(FrozenRouters, Sender<()>)>) {
        if let Some((former, begun)) = former {
            self.go_on(former, clock::boot_time());
            // Whoever waits for it may be gone.
            let _ = begun.send(());
        }
        let now = clock::boot_time();
        self.take_neighbours(now);
        self.set_wanted(now);
        loop {
            // As long as one socket has more to be read the runtime does not look at the others by itself.
            tokio::task::yield_now().await;
            let now = clock::boot_time();
            let stage = self.neighbours.borrow().stage;
            if stage == SpeakerStage::Ending || !self.is_told {
                return self.end(now);
            }
            self.bfd_meter.receive(|| {
                let all = self.bfd.receive();
                for received in &all {
                    for peer in self.peers.values_mut() {
                        peer.receive_bfd(now, received);
                    }
                }
                !all.is_empty()
            });
            if self.is_quiet() {
                self.turn_quietly(now, stage);
                self.publish(now);
                self.wait_quietly(now).await;
                continue;
            }
            let links = Arc::clone(&self.neighbours.borrow().links);
            for peer in self.peers.values_mut() {
                peer.turn(now, &links, &self.own, &mut self.bgp_meter);
            }
            let mut heard = HeardRouters::new();
            for (place, router) in self.peers.values().filter_map(RouterPeer::heard_by_bfd) {
                heard.entry(place).or_default().insert(router);
            }
            self.bfd.want(heard, now);
            self.look(now);
            if stage == SpeakerStage::Withdrawing {
                self.withdraw(now);
            }
            self.publish(now);
            self.wait(now).await;
        }
    }

    /// Looks whether all loops turn: who can't carry traffic must not ask for it.
    fn look(&mut self, now: BootTime) {
        if now < self.looks_at {
            return;
        }
        self.looks_at = now.after(LOOK);
        let stalled = self.stalls.look(now, turns(&self.loops));
        let inability = stalled.map(|name| format!("{name} has not turned for a second"));
        if inability != self.inability {
            match &inability {
                Some(why) => tracing::error!(%why, "nothing is announced to routers"),
                None => tracing::info!("all loops turn: addresses are announced to routers again"),
            }
            self.inability = inability;
            self.set_wanted(now);
        }
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, now: BootTime) {
        let deadlines = self.peers.values().filter_map(RouterPeer::next_deadline);
        let withdrawal = match self.withdrawal {
            Withdrawal::NotBegun => None,
            Withdrawal::Announced(since) => Some(since.after(SHUTDOWN_NOTICE)),
            // Whether a router's host has taken everything has to be asked.
            Withdrawal::Begun => Some(now.after(Duration::from_millis(5))),
            Withdrawal::Known(since) => Some(since.after(WITHDRAWAL)),
        };
        let withdrawal =
            withdrawal.filter(|_| *self.shown.done().borrow() < SpeakerStage::Withdrawing);
        let due = deadlines.chain(self.bfd.next_deadline()).chain(withdrawal);
        let [bfd_resumes, bgp_resumes] =
            [&self.bfd_meter, &self.bgp_meter].map(|meter| meter.resumes_at(now));
        let due = due
            .chain([self.looks_at])
            .chain(bfd_resumes)
            .chain(bgp_resumes);
        let pause = due.min().map_or(LOOK, |due| due.since(now));
        let Self {
            neighbours,
            announceable,
            peers,
            bfd,
            commands,
            ..
        } = self;
        let ready = poll_fn(|cx| {
            let mut is_any = bfd_resumes.is_none() && bfd.poll(cx);
            for peer in peers.values_mut() {
                is_any |= peer.poll(cx, bgp_resumes.is_none());
            }
            match is_any {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        });
        tokio::select! {
            changed = neighbours.changed() => match changed {
                Ok(()) => self.take_neighbours(now),
                Err(_) => self.is_told = false,
            },
            Ok(()) = announceable.changed() => self.take_addresses(now),
            Some(command) = commands.recv() => self.obey(command),
            () = ready => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    /// Begins and ends sessions as the control task wants.
    fn take_neighbours(&mut self, now: BootTime) {
        let wanted = self.neighbours.borrow_and_update().peers.clone();
        let mut is_changed = false;
        self.peers.retain(|name, running| {
            let notification = match wanted.get(name) {
                Some(peer) if is_same(peer, &running.peer) => {
                    running.peer = Arc::clone(peer);
                    return true;
                }
                Some(_) => BgpNotification::CHANGED,
                None => BgpNotification::DECONFIGURED,
            };
            running.stop(now, notification);
            is_changed = true;
            false
        });
        for (name, peer) in wanted {
            if let Entry::Vacant(place) = self.peers.entry(name) {
                place.insert(RouterPeer::new(peer, random(), now));
                is_changed = true;
            }
        }
        self.logged.retain(|name, _| self.peers.contains_key(name));
        if is_changed {
            self.set_wanted(now);
        }
    }

    /// Takes in which addresses may be announced.
    fn take_addresses(&mut self, now: BootTime) {
        let announceable = self.announceable.borrow_and_update().clone();
        let Some(changed) = announceable.changes.after(self.seen) else {
            return self.set_wanted(now);
        };
        self.seen = announceable.changes.latest();
        let form = self.form(announceable.draining.is_some());
        for (name, peer) in &mut self.peers {
            for address in &changed {
                let asks = asks(&announceable, &self.own, name, *address);
                peer.set_one(now, *address, asks, &form);
            }
        }
    }

    /// Tells each router what is to be announced to it.
    fn set_wanted(&mut self, now: BootTime) {
        let announceable = self.announceable.borrow_and_update().clone();
        self.seen = announceable.changes.latest();
        let form = self.form(announceable.draining.is_some());
        for (name, peer) in &mut self.peers {
            let addresses = announceable.addresses.keys();
            let all = addresses.filter_map(|address| {
                let asks = asks(&announceable, &self.own, name, *address)?;
                Some((*address, asks))
            });
            peer.set_all(now, all, &form);
        }
    }

    /// What is said of a route now, if anything is.
    fn form(
        &self,
        is_draining: bool,
    ) -> impl Fn(&Arc<RouteAttributes>) -> Option<Arc<RouteAttributes>> + use<> {
        let (withdrawal, is_able) = (self.withdrawal, self.inability.is_none());
        move |route| match withdrawal {
            _ if !is_able => None,
            Withdrawal::NotBegun if !is_draining => Some(Arc::clone(route)),
            // Whether another gateway announces them is not known here: they stay, for routers that have no other.
            Withdrawal::NotBegun | Withdrawal::Announced(_) => {
                Some(Arc::new(route.shutting_down()))
            }
            Withdrawal::Begun | Withdrawal::Known(_) => None,
        }
    }

    /// Goes on with the withdrawal of everything.
    fn withdraw(&mut self, now: BootTime) {
        let is_settled = |it: &Self| it.peers.values().all(RouterPeer::is_settled);
        match self.withdrawal {
            Withdrawal::NotBegun => {
                let told = |it: &RouterPeer| it.session.rib_out().told() > 0;
                let is_any = self.peers.values().any(told);
                self.withdrawal = match is_any {
                    true => Withdrawal::Announced(now),
                    false => Withdrawal::Known(BootTime::default()),
                };
                self.set_wanted(now);
            }
            Withdrawal::Announced(since) if now.since(since) >= SHUTDOWN_NOTICE => {
                self.withdrawal = Withdrawal::Begun;
                self.set_wanted(now);
            }
            Withdrawal::Begun if is_settled(self) => self.withdrawal = Withdrawal::Known(now),
            Withdrawal::Known(since) if now.since(since) >= WITHDRAWAL => {
                self.shown.set_done(SpeakerStage::Withdrawing);
            }
            _ => {}
        }
    }

    fn end(mut self, now: BootTime) {
        if !self.is_quiet() {
            for peer in self.peers.values_mut() {
                peer.stop(now, BgpNotification::SHUTDOWN);
            }
        }
        self.peers.clear();
        self.publish(now);
    }

    /// Shows how everything is: at once where a state has changed, else now and then.
    fn publish(&mut self, now: BootTime) {
        let peers = self.peers.values();
        let stamp: Vec<_> = peers
            .map(|it| {
                let (state, since) = it.session.state();
                let told = it.session.rib_out().told();
                (state, since, told, it.bfd_state())
            })
            .collect();
        if stamp == self.stamp && now < self.shows_at {
            return;
        }
        self.stamp = stamp;
        self.shows_at = now.after(SHOW);
        let mut all = Vec::with_capacity(self.peers.len());
        for (name, peer) in &self.peers {
            let row = self.row(name, peer);
            let state = peer.session.state().0;
            let is_up = state == BgpState::Established;
            let before = self.logged.get(name);
            let was_up = before.is_some_and(|(state, _)| *state == BgpState::Established);
            let is_new = before.is_none_or(|(_, why)| *why != row.why);
            if is_up && !was_up {
                tracing::info!(peer = %name, asn = %row.asn, "session with a router established");
            } else if !is_up
                && (was_up || is_new)
                && state == BgpState::Idle
                && row.why != NOT_DIALLED
            {
                tracing::warn!(peer = %name, why = %row.why, "no session with a router");
            }
            if is_up || (state == BgpState::Idle && row.why != NOT_DIALLED) {
                self.logged.insert(name.clone(), (state, row.why.clone()));
            }
            let is_told = !peer.session.rib_out().wanted().is_empty();
            all.push(ShownPeer { row, is_told });
        }
        self.shown.set(all, now);
    }

    fn row(&self, name: &ClusterName, peer: &RouterPeer) -> BgpPeerRow {
        let settings = &peer.peer;
        let (state, since) = peer.session.state();
        // A session may be older than this process.
        let since = self.booted.saturating_add(since.0).as_secs();
        let since = Timestamp(i64::try_from(since).unwrap_or(i64::MAX));
        let (sent, received) = peer.session.updates();
        let mut why: Vec<String> = Some(peer.why())
            .filter(|it| !it.is_empty())
            .into_iter()
            .collect();
        let bfd = peer.bfd_place().and_then(|place| self.bfd.problem(place));
        why.extend(bfd.map(str::to_owned));
        why.extend(
            self.inability
                .as_ref()
                .map(|it| format!("nothing is announced: {it}")),
        );
        let left_out = peer.left_out();
        why.extend(left_out.iter().map(|family| {
            format!(
                "{family} prefixes are not told: the router takes none, or there is no next hop"
            )
        }));
        let address = settings.peer_address.map(|it| it.to_string());
        let interface = settings.interface.as_deref().unwrap_or_default();
        BgpPeerRow {
            name: name.to_string(),
            gateway: self.own.to_string(),
            generation: settings.generation,
            address: address.unwrap_or_else(|| interface.to_owned()),
            asn: match (peer.session.peer(), settings.peer_asn) {
                (Some(open), _) => open.asn.to_string(),
                (None, PeerAsn::Number(asn)) => asn.to_string(),
                (None, PeerAsn::External) => "external".to_owned(),
                (None, PeerAsn::Internal) => "internal".to_owned(),
            },
            state: state.as_str().to_owned(),
            since: since.to_string(),
            prefixes: peer.session.rib_out().told(),
            bfd: peer.bfd_state().map(|it| it.as_str().to_owned()),
            why: why.join("; "),
            updates_sent: sent,
            updates_received: received,
        }
    }
}

/// Whether a session goes on under these settings.
fn is_same(one: &BgpPeer, other: &BgpPeer) -> bool {
    let bare = |it: &BgpPeer| BgpPeer {
        generation: 0,
        notices: Vec::new(),
        node_selectors: Vec::new(),
        ..it.clone()
    };
    bare(one) == bare(other)
}

/// A number that nobody can guess.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
