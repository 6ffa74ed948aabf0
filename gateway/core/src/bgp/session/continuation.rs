//! An established session goes on in another process, which has its connection. The router notices nothing: what was
//! agreed stays agreed, what it has been told stays told, and a message that has come or gone in part is completed.

use std::time::Duration;

use fairway_config::net::IpFamily;

use super::{BgpSession, BgpSessionSettings, BgpState, OwnEnd};
use crate::bgp::message::BgpOpen;
use crate::bgp::rib_out::RibOutContinuation;
use crate::fleet::BootTime;

/// Signs of life that came while nobody read are in the connection: so long after a process has gone on with a session
/// it does not end for silence.
const GRACE: Duration = Duration::from_secs(1);

/// What another process needs to go on with an established session. The first one must not touch it any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpContinuation {
    /// Since when it is established.
    pub since: BootTime,
    /// When something has to be heard, if ever.
    pub hold_until: Option<BootTime>,
    /// The longest silence, as agreed.
    pub hold_time: Duration,
    /// When the next sign of life is due, if ever.
    pub keepalive_at: Option<BootTime>,
    /// The time between two signs of life.
    pub keepalive_time: Duration,
    /// The own end of the connection.
    pub own: OwnEnd,
    /// What the router has said of itself.
    pub peer: BgpOpen,
    /// What was read and is no whole message yet.
    pub incoming: Vec<u8>,
    /// What is to be sent: it may begin within a message.
    pub outgoing: Vec<u8>,
    /// Since when nothing of it was taken.
    pub stalled_since: Option<BootTime>,
    /// The families whose end of what there was at first has still to be told.
    pub end_of_rib: Vec<IpFamily>,
    /// UPDATE messages that were sent, and those that came.
    pub updates: (u64, u64),
    /// What the router has been told.
    pub rib_out: RibOutContinuation,
}

impl BgpSession {
    /// What another process needs to go on; none: the session is not established.
    pub fn continuation(&self) -> Option<BgpContinuation> {
        let (Some(own), Some(peer), BgpState::Established) =
            (self.own, self.peer.clone(), self.state)
        else {
            return None;
        };
        Some(BgpContinuation {
            since: self.since,
            hold_until: self.hold_until,
            hold_time: self.hold_time,
            keepalive_at: self.keepalive_at,
            keepalive_time: self.keepalive_time,
            own,
            peer,
            incoming: self.incoming.clone(),
            outgoing: self.outgoing.clone(),
            stalled_since: self.stalled_since,
            end_of_rib: self.end_of_rib.clone(),
            updates: self.updates(),
            rib_out: self.rib_out.continuation(),
        })
    }

    /// A session that goes on. Until [`Self::set_wanted`] it announces what the router has been told.
    pub fn go_on(
        settings: BgpSessionSettings,
        from: BgpContinuation,
        seed: u64,
        now: BootTime,
    ) -> Self {
        let mut session = Self::new(settings, seed, now);
        session.state = BgpState::Established;
        session.since = from.since;
        session.why = "".into();
        session.dials_at = None;
        session.hold_until = from.hold_until;
        session.hold_time = from.hold_time;
        session.keepalive_at = from.keepalive_at;
        session.keepalive_time = from.keepalive_time;
        session.own = Some(from.own);
        session.peer = Some(from.peer);
        session.outgoing = from.outgoing;
        session.stalled_since = from.stalled_since;
        session.end_of_rib = from.end_of_rib;
        session.has_been_established = true;
        (session.sent, session.dropped) = from.updates;
        session.rib_out.go_on(from.rib_out);
        session.resume(now);
        // Another version may stop at another place.
        session.receive(now, &from.incoming);
        session
    }

    /// Nobody has read for a while what the router has said.
    pub fn resume(&mut self, now: BootTime) {
        self.hold_until = self.hold_until.map(|until| until.max(now.after(GRACE)));
    }
}
