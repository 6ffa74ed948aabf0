//! A session goes over to another process, or comes from one.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream as StdTcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use fairway_config::bgp_peer::{BgpPeer, PeerAsn};
use fairway_gateway_core::bfd::packet::{BfdPacket, BfdState};
use fairway_gateway_core::bfd::{BfdSession, BfdTiming};
use fairway_gateway_core::bgp::message::BgpNotification;
use fairway_gateway_core::bgp::session::BgpSession;
use fairway_gateway_core::fleet::BootTime;
use tokio::net::TcpStream;

use super::{RouterBfd, RouterConnection, RouterPeer, session_settings};
use crate::bgp::bfd::BfdSender;
use crate::bgp::handed::{BfdPlace, FrozenRouter, HandedRouter, ToldPassword};
use crate::bgp::settings::settings;

impl RouterPeer {
    /// What another process needs to go on with the session; none: it is not established, or the process has no
    /// descriptors left. From here on nothing may be read or written but BFD.
    pub(in crate::bgp) fn freeze(&self, name: &str) -> Option<FrozenRouter> {
        let RouterConnection::Open(stream) = &self.connection else {
            return None;
        };
        let continuation = self.session.continuation()?;
        let connection = stream.as_fd().try_clone_to_owned().ok()?;
        let bfd = self.bfd.as_ref();
        let bfd = bfd.and_then(|it| Some((it.session.continuation(), it.sender.share().ok()?)));
        let (says_bfd, bfd) = bfd.unzip();
        let mut says = HandedRouter::new(name, settings(&self.peer), &continuation, says_bfd);
        let is_secret = self.peer.password_secret.is_some();
        let password = self.peer.password.as_ref().filter(|_| is_secret);
        says.password = password.map(|it| ToldPassword(it.to_string()));
        Some(FrozenRouter {
            says,
            told: continuation.rib_out.told,
            incoming: continuation.incoming,
            outgoing: continuation.outgoing,
            connection,
            bfd,
        })
    }

    /// Ends a session of another process.
    pub(in crate::bgp) fn end_former(
        from: FrozenRouter,
        notification: BgpNotification,
        now: BootTime,
    ) {
        // What it was made from does not matter for its end.
        let place = Ipv4Addr::UNSPECIFIED.into();
        let peer = BgpPeer::new(from.says.name.as_str().into(), 0, PeerAsn::External, place);
        let FrozenRouter {
            says,
            told,
            incoming,
            outgoing,
            connection,
            bfd,
        } = from;
        let settings = session_settings(&peer);
        if let Some(continuation) = says.continuation(told, incoming, outgoing) {
            let mut session = BgpSession::go_on(settings, continuation, 0, now);
            session.stop(now, notification);
            // Where there is no room for it the router sees that the connection ends.
            let _ = StdTcpStream::from(connection).write(session.outgoing());
        }
        let continuation = says.bfd.and_then(|it| it.continuation());
        if let Some((continuation, socket)) = continuation.zip(bfd) {
            let timing = timing(&peer, &continuation.said);
            let mut session = BfdSession::go_on(timing, continuation, 0, now);
            BfdSender::inherit(socket).send(&session.stop(now));
        }
    }

    /// Goes on with a session of another process. Needs a Tokio runtime; none: what it says can't be understood, or the
    /// connection is gone.
    pub(in crate::bgp) fn go_on(
        peer: Arc<BgpPeer>,
        from: FrozenRouter,
        seed: u64,
        now: BootTime,
    ) -> Option<Self> {
        let says = &from.says;
        let continuation = says.continuation(from.told, from.incoming, from.outgoing)?;
        let stream = StdTcpStream::from(from.connection);
        let place = stream.peer_addr().ok()?;
        let mut it = Self::new(peer, seed, now);
        it.session = BgpSession::go_on(session_settings(&it.peer), continuation, seed, now);
        it.connection = RouterConnection::Open(TcpStream::from_std(stream).ok()?);
        it.place = Some(place);
        let bfd = says.bfd.as_ref().and_then(|it| it.continuation());
        it.bfd = bfd.zip(from.bfd).map(|(continuation, socket)| {
            let timing = timing(&it.peer, &continuation.said);
            let session = BfdSession::go_on(timing, continuation, seed, now);
            RouterBfd {
                was_up: session.state().0 == BfdState::Up,
                session,
                place: BfdPlace {
                    is_v6: place.is_ipv6(),
                    is_multihop: it.peer.ebgp_multi_hop,
                },
                sender: BfdSender::inherit(socket),
            }
        });
        Some(it)
    }

    /// Does what there is to do while another process may have the session: BFD alone.
    pub(in crate::bgp) fn turn_frozen(&mut self, now: BootTime) {
        self.turn_bfd(now);
    }

    /// The same for [`Self::next_deadline`].
    pub(in crate::bgp) fn next_frozen_deadline(&self) -> Option<BootTime> {
        let bfd = self.bfd.as_ref();
        bfd.map(|bfd| bfd.session.next_deadline())
    }

    /// No other process has it: it goes on here.
    pub(in crate::bgp) fn thaw(&mut self, now: BootTime) {
        self.session.resume(now);
    }
}

/// The intervals: those of the settings, or else those that the other process has said.
fn timing(peer: &BgpPeer, said: &BfdPacket) -> BfdTiming {
    match &peer.bfd {
        Some(settings) => BfdTiming {
            receive_interval: settings.receive_interval,
            transmit_interval: settings.transmit_interval,
            detect_multiplier: settings.detect_multiplier,
        },
        None => BfdTiming {
            receive_interval: said.required_min_rx,
            transmit_interval: said.desired_min_tx,
            detect_multiplier: said.detect_multiplier,
        },
    }
}
