//! The state machine of one session (RFC 4271, section 8).
//!
//! Of the RFC's states `Active`, in which a router is waited for, does not occur: connections are dialled. After a
//! session has ended, the next dial waits in `Idle`, twice as long each time
//! (`DampPeerOscillations`).
//!
//! ```text
//!         time            connected          OPEN             KEEPALIVE
//!   Idle ──────► Connect ──────────► OpenSent ─────► OpenConfirm ─────► Established
//!     ▲             │ failed, late      │ wrong, late    │ wrong, late      │ wrong, late, closed,
//!     └─────────────┴───────────────────┴────────────────┴──────────────────┘ BFD
//! ```

mod continuation;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use fairway_config::bgp_peer::PeerAsn;
use fairway_config::net::IpFamily;
use ipnet::IpNet;

pub use self::continuation::BgpContinuation;
use super::decode;
use super::encode::{self, UpdateForm};
use super::message::{BgpCapabilities, BgpMessage, BgpNotification, BgpOpen};
use super::rib_out::RibOut;
use super::routes::{AnnouncedRoutes, RouteAttributes};
use crate::fleet::BootTime;
use crate::jitter::Jitter;

/// What [`BgpSession::why`] says at first.
pub const NOT_DIALLED: &str = "it has not been dialled yet";

/// How long a dial may take.
const DIAL: Duration = Duration::from_secs(10);

/// How long a router may take to say who it is (RFC 4271, section 8.2.2 suggests four minutes).
const OPEN: Duration = Duration::from_secs(60);

/// The first pause after a session has ended, or could not be begun.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// A session that has stood so long is no failed one: the next pause is the first one again.
const STOOD: Duration = Duration::from_secs(30);

/// How long a router may take nothing (RFC 9687), at least.
const STALLED: Duration = Duration::from_secs(8 * 60);

/// While so much waits to be sent no more is made.
const ROOM: usize = 16 << 10;

/// For how long a router keeps the routes of a gateway that has asked for graceful restart.
const RESTART: u16 = 120;

/// The settings of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpSessionSettings {
    /// The own AS.
    pub asn: u32,
    /// The router's.
    pub peer_asn: PeerAsn,
    /// The longest silence; less where the router says so.
    pub hold_time: Duration,
    /// The time between two signs of life; a third of the hold time where that is less.
    pub keepalive_time: Duration,
    /// The longest pause between two attempts.
    pub connect_time: Duration,
    /// Whether the router is asked to keep routes while this gateway begins anew (RFC 4724).
    pub graceful_restart: bool,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BgpState {
    /// There is no connection, and the next attempt waits.
    Idle,
    /// It is being dialled.
    Connect,
    /// It has been told who we are.
    OpenSent,
    /// It has said who it is.
    OpenConfirm,
    /// It is told prefixes.
    Established,
}

impl BgpState {
    /// The RFC's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "Idle",
            Self::Connect => "Connect",
            Self::OpenSent => "OpenSent",
            Self::OpenConfirm => "OpenConfirm",
            Self::Established => "Established",
        }
    }
}

/// What is to be done with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BgpAction {
    /// It is to be dialled.
    Dial,
    /// It is to be closed, after what is still to be sent was tried to be sent.
    Close,
}

/// The own addresses by which prefixes are reached, and the router ID: they follow from the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnEnd {
    /// The BGP identifier.
    pub router_id: Ipv4Addr,
    /// Next hop of IPv4 prefixes.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Next hop of IPv6 prefixes, and of IPv4 prefixes where there is no other and the router takes it (RFC 8950).
    pub next_hop_v6: Option<Ipv6Addr>,
}

/// See the module.
#[derive(Debug)]
pub struct BgpSession {
    settings: BgpSessionSettings,
    jitter: Jitter,
    state: BgpState,
    /// Since when it is in that state.
    since: BootTime,
    /// Why it is not established.
    why: Arc<str>,
    /// In `Idle`: when it is dialled. Nothing: never again.
    dials_at: Option<BootTime>,
    pause: Duration,
    /// In `Connect`, `OpenSent`: it has to be through by then. After that: something has to be heard.
    hold_until: Option<BootTime>,
    hold_time: Duration,
    keepalive_at: Option<BootTime>,
    keepalive_time: Duration,
    own: Option<OwnEnd>,
    peer: Option<BgpOpen>,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Since when nothing of what is to be sent was taken.
    stalled_since: Option<BootTime>,
    rib_out: RibOut,
    /// The families whose end of what there was at first has to be told.
    end_of_rib: Vec<IpFamily>,
    has_been_established: bool,
    actions: Vec<BgpAction>,
    /// UPDATE messages: sent, and dropped of those that came.
    sent: u64,
    dropped: u64,
}

impl BgpSession {
    /// A session that is dialled at once. `seed` spreads its timers.
    pub fn new(settings: BgpSessionSettings, seed: u64, now: BootTime) -> Self {
        Self {
            settings,
            jitter: Jitter::new(seed),
            state: BgpState::Idle,
            since: now,
            why: Arc::from(NOT_DIALLED),
            dials_at: Some(now),
            pause: FIRST_PAUSE,
            hold_until: None,
            hold_time: Duration::ZERO,
            keepalive_at: None,
            keepalive_time: Duration::ZERO,
            own: None,
            peer: None,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            stalled_since: None,
            rib_out: RibOut::default(),
            end_of_rib: Vec::new(),
            has_been_established: false,
            actions: Vec::new(),
            sent: 0,
            dropped: 0,
        }
    }

    /// Where it stands, and since when.
    pub fn state(&self) -> (BgpState, BootTime) {
        (self.state, self.since)
    }

    /// Why it is not established: the end of a sentence.
    pub fn why(&self) -> &Arc<str> {
        &self.why
    }

    /// What the router says of itself; nothing before it has.
    pub fn peer(&self) -> Option<&BgpOpen> {
        self.peer.as_ref()
    }

    /// UPDATE messages that were sent, and those that came and were dropped.
    pub fn updates(&self) -> (u64, u64) {
        (self.sent, self.dropped)
    }

    /// What the router has been told.
    pub fn rib_out(&self) -> &RibOut {
        &self.rib_out
    }

    /// Whether the router has been told everything, and has taken it from us.
    pub fn is_settled(&self) -> bool {
        self.state != BgpState::Established
            || (self.rib_out.is_settled() && self.outgoing.is_empty())
    }

    /// These are the prefixes from now on.
    pub fn set_wanted(&mut self, now: BootTime, wanted: &AnnouncedRoutes) {
        self.rib_out.set_wanted(wanted);
        self.fill(now);
    }

    /// This is said of one prefix from now on; nothing: it is not announced.
    pub fn set_route(
        &mut self,
        now: BootTime,
        prefix: IpNet,
        route: Option<&Arc<RouteAttributes>>,
    ) {
        self.rib_out.set_route(prefix, route);
        self.fill(now);
    }

    /// What is to be done.
    pub fn take_actions(&mut self) -> Vec<BgpAction> {
        std::mem::take(&mut self.actions)
    }

    /// What is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// So many bytes of it were sent.
    pub fn wrote(&mut self, now: BootTime, count: usize) {
        self.outgoing.drain(..count.min(self.outgoing.len()));
        self.stalled_since = None;
        self.fill(now);
    }

    /// When [`Self::tick`] has to be called, at the latest.
    pub fn next_deadline(&self) -> Option<BootTime> {
        let told = match self.state == BgpState::Established && self.outgoing.len() < ROOM {
            true => self.rib_out.next_deadline(),
            false => None,
        };
        let dials_at = self.dials_at.filter(|_| self.state == BgpState::Idle);
        let stalled = self.stalled_since.map(|since| since.after(self.patience()));
        [dials_at, self.hold_until, self.keepalive_at, stalled, told]
            .into_iter()
            .flatten()
            .min()
    }

    /// How long a router may take nothing.
    fn patience(&self) -> Duration {
        STALLED.max(self.hold_time * 2)
    }

    /// Time has gone on.
    pub fn tick(&mut self, now: BootTime) {
        let is_late = self.hold_until.is_some_and(|until| now >= until);
        match self.state {
            BgpState::Idle => {
                if self.dials_at.is_some_and(|at| now >= at) {
                    self.dials_at = None;
                    self.enter(BgpState::Connect, now);
                    let longest = DIAL.min(self.settings.connect_time.max(FIRST_PAUSE));
                    self.hold_until = Some(now.after(longest));
                    self.actions.push(BgpAction::Dial);
                }
            }
            BgpState::Connect if is_late => {
                self.end(
                    now,
                    None,
                    "it does not answer: is it there, is the password right?",
                );
            }
            BgpState::OpenSent if is_late => {
                let notification = BgpNotification::HOLD_TIMER;
                self.end(now, Some(notification), "it does not say who it is");
            }
            BgpState::OpenConfirm | BgpState::Established if is_late => {
                let notification = BgpNotification::HOLD_TIMER;
                self.end(now, Some(notification), "nothing was heard of it in time");
            }
            BgpState::Connect | BgpState::OpenSent => {}
            BgpState::OpenConfirm | BgpState::Established => {
                if self.keepalive_at.is_some_and(|at| now >= at) {
                    self.send(now, &encode::keepalive());
                }
                self.fill(now);
            }
        }
        if self
            .stalled_since
            .is_some_and(|since| now >= since.after(self.patience()))
        {
            let notification = BgpNotification::SEND_HOLD_TIMER;
            self.end(
                now,
                Some(notification),
                "it takes nothing of what it is sent",
            );
        }
    }

    /// The connection stands.
    pub fn connected(&mut self, now: BootTime, own: OwnEnd) {
        if self.state != BgpState::Connect {
            return;
        }
        self.own = Some(own);
        self.peer = None;
        self.incoming.clear();
        self.outgoing.clear();
        self.enter(BgpState::OpenSent, now);
        self.hold_until = Some(now.after(OPEN));
        let seconds = self.settings.hold_time.as_secs();
        let graceful_restart = self.settings.graceful_restart;
        let open = BgpOpen {
            asn: self.settings.asn,
            hold_time: u16::try_from(seconds).unwrap_or(u16::MAX),
            router_id: own.router_id,
            capabilities: BgpCapabilities {
                families: IpFamily::ALL.into_iter().collect(),
                four_octet_asn: true,
                extended_next_hop: own.next_hop_v6.is_some(),
                route_refresh: true,
                graceful_restart: graceful_restart.then_some((RESTART, !self.has_been_established)),
            },
        };
        self.send(now, &encode::open(&open));
    }

    /// The connection could not be made.
    pub fn not_connected(&mut self, now: BootTime, why: &str) {
        if self.state == BgpState::Connect {
            self.end(now, None, why);
        }
    }

    /// The connection has ended without a word.
    pub fn closed(&mut self, now: BootTime, why: &str) {
        match self.state {
            BgpState::Idle => {}
            // Routers close so where they do not know who dials.
            BgpState::Connect | BgpState::OpenSent => {
                self.end(now, None, &format!("{why}: does it know this gateway?"));
            }
            BgpState::OpenConfirm | BgpState::Established => self.end(now, None, why),
        }
    }

    /// BFD says that the router can't be reached any more.
    pub fn bfd_down(&mut self, now: BootTime) {
        if self.state == BgpState::Established {
            let notification = BgpNotification::BFD_DOWN;
            self.end(now, Some(notification), "BFD hears nothing of it");
        }
    }

    /// Ends it for good.
    pub fn stop(&mut self, now: BootTime, notification: BgpNotification) {
        let why = match notification == BgpNotification::SHUTDOWN {
            true => "this gateway stops",
            false => "its settings have changed",
        };
        match self.state {
            BgpState::Idle => self.why = why.into(),
            _ => self.end(now, Some(notification), why),
        }
        self.dials_at = None;
    }

    /// Takes bytes of the router.
    pub fn receive(&mut self, now: BootTime, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
        let mut incoming = std::mem::take(&mut self.incoming);
        let mut taken = 0;
        let is_on = |it: &Self| !matches!(it.state, BgpState::Idle | BgpState::Connect);
        while is_on(self) {
            let rest = incoming.get(taken..).unwrap_or_default();
            let message = match decode::length(rest) {
                Ok(Some(length)) if length <= rest.len() => {
                    taken += length;
                    decode::decode(rest.get(..length).unwrap_or_default())
                }
                Ok(_) => break,
                Err(notification) => Err(notification),
            };
            match message {
                Ok(message) => self.take(now, message),
                Err(notification) => self.wrong(now, notification),
            }
        }
        if is_on(self) {
            incoming.drain(..taken);
            self.incoming = incoming;
        }
    }

    fn take(&mut self, now: BootTime, message: BgpMessage) {
        if let BgpMessage::Notification(it) = message {
            return self.end(now, None, &format!("it ended the session: {it}"));
        }
        match (self.state, message) {
            (BgpState::OpenSent, BgpMessage::Open(open)) => self.take_open(now, open),
            (BgpState::OpenConfirm, BgpMessage::Keepalive) => self.establish(now),
            (BgpState::Established, BgpMessage::Keepalive) => self.heard(now),
            (BgpState::Established, BgpMessage::Update) => {
                self.dropped += 1;
                self.heard(now);
            }
            (BgpState::Established, BgpMessage::RouteRefresh(family)) => {
                if let Some(family) = family {
                    self.rib_out.refresh(family);
                    self.fill(now);
                }
            }
            (state, _) => {
                let subcode = match state {
                    BgpState::OpenSent => 1,
                    BgpState::OpenConfirm => 2,
                    _ => 3,
                };
                self.wrong(now, BgpNotification::new(5, subcode));
            }
        }
    }

    fn take_open(&mut self, now: BootTime, open: BgpOpen) {
        let own = self.settings.asn;
        let is_right = match self.settings.peer_asn {
            PeerAsn::Number(asn) => open.asn == asn,
            PeerAsn::External => open.asn != own,
            PeerAsn::Internal => open.asn == own,
        };
        if !is_right {
            let wanted = match self.settings.peer_asn {
                PeerAsn::Number(asn) => asn.to_string(),
                PeerAsn::External => format!("another one than {own}"),
                PeerAsn::Internal => own.to_string(),
            };
            let why = format!("its AS is {}, and {wanted} is expected", open.asn);
            return self.end(now, Some(BgpNotification::new(2, 2)), &why);
        }
        // Two of one AS must differ (RFC 6286).
        let own_id = self.own.map(|own| own.router_id);
        if open.asn == own && own_id == Some(open.router_id) {
            let why = format!("its router ID is ours, {}", open.router_id);
            return self.end(now, Some(BgpNotification::new(2, 3)), &why);
        }
        self.hold_time = self
            .settings
            .hold_time
            .min(Duration::from_secs(open.hold_time.into()));
        self.keepalive_time = self.settings.keepalive_time.min(self.hold_time / 3);
        self.peer = Some(open);
        self.enter(BgpState::OpenConfirm, now);
        self.heard(now);
        // Also where silence is no sign of death later.
        self.hold_until.get_or_insert(now.after(OPEN));
        self.send(now, &encode::keepalive());
    }

    fn establish(&mut self, now: BootTime) {
        let (Some(peer), Some(own)) = (&self.peer, self.own) else {
            return;
        };
        let can = &peer.capabilities;
        let mut next_hops = BTreeMap::new();
        if can.families.contains(&IpFamily::IPv4) {
            let plain = own.next_hop_v4.map(IpAddr::V4);
            let extended = own.next_hop_v6.filter(|_| can.extended_next_hop);
            next_hops.extend(
                plain
                    .or(extended.map(IpAddr::V6))
                    .map(|hop| (IpFamily::IPv4, hop)),
            );
        }
        if can.families.contains(&IpFamily::IPv6) {
            next_hops.extend(own.next_hop_v6.map(|hop| (IpFamily::IPv6, IpAddr::V6(hop))));
        }
        self.end_of_rib = match self.settings.graceful_restart {
            true => next_hops.keys().copied().collect(),
            false => Vec::new(),
        };
        self.rib_out.begin(next_hops);
        self.enter(BgpState::Established, now);
        self.why = "".into();
        self.has_been_established = true;
        self.heard(now);
        self.fill(now);
    }

    fn heard(&mut self, now: BootTime) {
        self.hold_until = (!self.hold_time.is_zero()).then(|| now.after(self.hold_time));
    }

    /// Makes messages of what the router has still to be told.
    fn fill(&mut self, now: BootTime) {
        let Some(form) = self.form() else { return };
        while self.outgoing.len() < ROOM {
            match self.rib_out.next_update(now, form) {
                Some(update) => {
                    self.sent += 1;
                    self.push(now, &update);
                }
                None => break,
            }
        }
        if self.rib_out.is_settled() && self.outgoing.len() < ROOM {
            for family in std::mem::take(&mut self.end_of_rib) {
                self.push(now, &encode::end_of_rib(family));
            }
        }
    }

    /// How the router is told of routes; nothing: it is not.
    fn form(&self) -> Option<UpdateForm> {
        let peer = self.peer.as_ref()?;
        (self.state == BgpState::Established).then_some(UpdateForm {
            asn: self.settings.asn,
            is_external: peer.asn != self.settings.asn,
            four_octet_asn: peer.capabilities.four_octet_asn,
        })
    }

    /// Sends something that shows that we are alive.
    fn send(&mut self, now: BootTime, message: &[u8]) {
        // Else the router takes nothing: it will hear enough once it does.
        if self.outgoing.len() < 2 * ROOM {
            self.push(now, message);
        }
        let time = self.jittered(self.keepalive_time);
        self.keepalive_at = (!time.is_zero()).then(|| now.after(time));
    }

    fn push(&mut self, now: BootTime, message: &[u8]) {
        if self.outgoing.is_empty() {
            self.stalled_since = Some(now);
        }
        self.outgoing.extend_from_slice(message);
    }

    fn wrong(&mut self, now: BootTime, notification: BgpNotification) {
        let why = format!("what it says is wrong: {notification}");
        self.end(now, Some(notification), &why);
    }

    /// Ends the connection. The next attempt waits.
    fn end(&mut self, now: BootTime, notification: Option<BgpNotification>, why: &str) {
        let stood = self.state == BgpState::Established && now.since(self.since) >= STOOD;
        if let Some(notification) = notification.filter(|_| self.state > BgpState::Connect) {
            self.push(now, &encode::notification(&notification));
        }
        self.actions.push(BgpAction::Close);
        self.incoming = Vec::new();
        self.stalled_since = None;
        self.keepalive_at = None;
        self.hold_until = None;
        self.hold_time = Duration::ZERO;
        self.keepalive_time = Duration::ZERO;
        self.peer = None;
        self.rib_out.begin(BTreeMap::new());
        if stood {
            self.pause = FIRST_PAUSE;
        }
        let pause = self.jittered(self.pause);
        self.pause = (self.pause * 2).min(self.settings.connect_time.max(FIRST_PAUSE));
        self.dials_at = Some(now.after(pause));
        self.enter(BgpState::Idle, now);
        self.why = why.into();
    }

    fn enter(&mut self, state: BgpState, now: BootTime) {
        self.state = state;
        self.since = now;
    }

    /// Three to four quarters of it (RFC 4271, section 10).
    fn jittered(&mut self, time: Duration) -> Duration {
        self.jitter.shorten(time, 1000)
    }
}

#[cfg(test)]
mod tests;
