//! One router: its session, its connection, its BFD. `handover`: the session goes over to another process.

mod handover;

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use fairway_config::announce::Announcement;
use fairway_config::bgp_peer::BgpPeer;
use fairway_config::net::IpFamily;
use fairway_gateway_core::bfd::packet::{BfdPacket, BfdState};
use fairway_gateway_core::bfd::{BfdSession, BfdTiming};
use fairway_gateway_core::bgp::encode;
use fairway_gateway_core::bgp::message::BgpNotification;
use fairway_gateway_core::bgp::routes::{
    AnnouncedRoutes, RouteAttributes, RouteTable, ServingRank,
};
use fairway_gateway_core::bgp::session::{
    BgpAction, BgpSession, BgpSessionSettings, BgpState, OwnEnd,
};
use fairway_gateway_core::fleet::BootTime;
use tokio::net::TcpStream;

use super::bfd::{BfdSender, HeardRouter};
use super::handed::BfdPlace;
use super::{dial, find};
use crate::host::HostAddresses;
use crate::receive_meter::ReceiveMeter;

/// How many bytes of a router one turn reads: a full table is dropped piece by piece, and others go on meanwhile.
const TURN: usize = 64 << 10;

/// The pause after the place of a router, or the socket of its BFD, could not be had.
const RETRY: Duration = Duration::from_secs(1);

type Dialling = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Finding a router on a link.
type Finding = Pin<Box<dyn Future<Output = Result<SocketAddr, String>> + Send>>;

/// How often the router on a link is looked for.
const FIND: Duration = Duration::from_secs(5);

/// The connection to a router.
enum RouterConnection {
    None,
    Dialling(Dialling),
    Dialled(io::Result<TcpStream>),
    Open(TcpStream),
}

/// See the module.
pub(super) struct RouterPeer {
    pub(super) peer: Arc<BgpPeer>,
    pub(super) session: BgpSession,
    /// What it is told, or will be.
    routes: RouteTable,
    connection: RouterConnection,
    bfd: Option<RouterBfd>,
    /// Why it is not dialled, whatever its session says.
    problem: Option<String>,
    retry_at: Option<BootTime>,
    place: Option<SocketAddr>,
    finding: Option<Finding>,
    found: Option<Result<SocketAddr, String>>,
    seed: u64,
}

struct RouterBfd {
    session: BfdSession,
    place: BfdPlace,
    sender: BfdSender,
    was_up: bool,
}

impl RouterPeer {
    pub(super) fn new(peer: Arc<BgpPeer>, seed: u64, now: BootTime) -> Self {
        Self {
            session: BgpSession::new(session_settings(&peer), seed, now),
            routes: RouteTable::default(),
            connection: RouterConnection::None,
            bfd: None,
            problem: None,
            retry_at: Some(now),
            place: None,
            finding: None,
            found: None,
            seed,
            peer,
        }
    }

    /// Where packets of its BFD come in.
    pub(super) fn bfd_place(&self) -> Option<BfdPlace> {
        self.bfd.as_ref().map(|bfd| bfd.place)
    }

    /// Which packets of its BFD are taken, and where.
    pub(super) fn heard_by_bfd(&self) -> Option<(BfdPlace, HeardRouter)> {
        let bfd = self.bfd.as_ref()?;
        let heard = HeardRouter {
            address: self.place?.ip(),
            discriminator: bfd.session.discriminator(),
        };
        Some((bfd.place, heard))
    }

    /// Whether BFD hears it; nothing: there is no BFD with it.
    pub(super) fn bfd_state(&self) -> Option<BfdState> {
        self.peer.bfd?;
        let state = self.bfd.as_ref().map(|bfd| bfd.session.state().0);
        Some(state.unwrap_or(BfdState::Down))
    }

    /// Why it has no session: the end of a sentence; empty where it has one.
    pub(super) fn why(&self) -> String {
        let why = match &self.problem {
            Some(problem) => return problem.clone(),
            None => self.session.why().to_string(),
        };
        match self.session.state().0 {
            BgpState::OpenSent | BgpState::OpenConfirm if self.peer.ttl_security => {
                "it has not been heard yet: ttlSecurity drops what it sends with a TTL below 255"
                    .to_owned()
            }
            _ => why,
        }
    }

    /// The families of prefixes that it can't be told of.
    pub(super) fn left_out(&self) -> BTreeSet<IpFamily> {
        match self.session.state().0 {
            BgpState::Established => self.session.rib_out().left_out(),
            _ => BTreeSet::new(),
        }
    }

    pub(super) fn next_deadline(&self) -> Option<BootTime> {
        let session = match self.problem {
            None => self.session.next_deadline(),
            Some(_) => None,
        };
        let bfd = self.bfd.as_ref().map(|bfd| bfd.session.next_deadline());
        [session, bfd, self.retry_at].into_iter().flatten().min()
    }

    /// Whether something can be read, if it may be, or written, or a dial has ended.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, may_read: bool) -> bool {
        if let Some(finding) = &mut self.finding
            && let Poll::Ready(found) = finding.as_mut().poll(cx)
        {
            self.finding = None;
            self.found = Some(found);
        }
        let has_found = self.found.is_some();
        let moves = match &mut self.connection {
            RouterConnection::None => false,
            RouterConnection::Dialled(_) => true,
            RouterConnection::Dialling(dialling) => match dialling.as_mut().poll(cx) {
                Poll::Ready(result) => {
                    self.connection = RouterConnection::Dialled(result);
                    true
                }
                Poll::Pending => false,
            },
            RouterConnection::Open(stream) => {
                let reads = may_read && stream.poll_read_ready(cx).is_ready();
                let writes =
                    !self.session.outgoing().is_empty() && stream.poll_write_ready(cx).is_ready();
                reads || writes
            }
        };
        has_found || moves
    }

    /// Does what there is to do now: time, bytes that came, bytes that go.
    pub(super) fn turn(
        &mut self,
        now: BootTime,
        links: &HostAddresses,
        name: &str,
        meter: &mut ReceiveMeter,
    ) {
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.settle_place(now);
        }
        if let Some(found) = self.found.take() {
            self.retry_at = Some(now.after(FIND));
            self.set_place(now, found);
        }
        self.turn_bfd(now);
        if let Some(problem) = &self.problem {
            if !matches!(self.connection, RouterConnection::None) {
                self.session.closed(now, problem);
                self.session.take_actions();
                self.connection = RouterConnection::None;
            }
            return;
        }
        self.session.tick(now);
        self.act(now);
        if let RouterConnection::Dialled(_) = self.connection {
            let dialled = std::mem::replace(&mut self.connection, RouterConnection::None);
            if let RouterConnection::Dialled(result) = dialled {
                self.dialled(now, result, links, name);
            }
        }
        meter.receive(|| self.read(now));
        self.act(now);
        self.write(now);
    }

    /// Finds out where it is, and begins BFD with it.
    fn settle_place(&mut self, now: BootTime) {
        let problem = self.peer.problems.first().map(ToString::to_string);
        if let Some(problem) = problem {
            self.problem = Some(problem);
            return;
        }
        match (self.peer.peer_address, self.peer.interface.clone()) {
            (Some(address), _) => {
                let place = dial::place(&self.peer, address);
                self.set_place(now, place);
            }
            (None, Some(interface)) => {
                let found = find::router(interface, self.peer.peer_port);
                self.finding = Some(Box::pin(found));
                if self.place.is_none() {
                    let searching = || "it is being looked for".to_owned();
                    self.problem.get_or_insert_with(searching);
                }
            }
            (None, None) => self.problem = Some("it has no address".to_owned()),
        }
    }

    /// It is dialled there from now on.
    fn set_place(&mut self, now: BootTime, place: Result<SocketAddr, String>) {
        let place = match (place, self.place) {
            (Ok(place), _) => place,
            // It goes on where it is: it may be silent for a while.
            (Err(_), Some(place)) => place,
            (Err(why), None) => {
                self.problem = Some(why);
                self.retry_at = Some(now.after(RETRY));
                return;
            }
        };
        self.problem = None;
        if self.place != Some(place) {
            self.bfd = None;
        }
        self.place = Some(place);
        if self.bfd.is_none()
            && let Some(settings) = &self.peer.bfd
        {
            let of = BfdPlace {
                is_v6: place.is_ipv6(),
                is_multihop: self.peer.ebgp_multi_hop,
            };
            match BfdSender::open(place, self.peer.source_address, of, self.seed) {
                Ok(sender) => {
                    let timing = BfdTiming {
                        receive_interval: settings.receive_interval,
                        transmit_interval: settings.transmit_interval,
                        detect_multiplier: settings.detect_multiplier,
                    };
                    let number = u32::try_from(self.seed >> 32).unwrap_or_default().max(1);
                    self.bfd = Some(RouterBfd {
                        session: BfdSession::new(timing, number, self.seed, now),
                        place: of,
                        sender,
                        was_up: false,
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "no socket for BFD");
                    self.retry_at = Some(now.after(RETRY));
                }
            }
        }
    }

    fn turn_bfd(&mut self, now: BootTime) {
        let Some(bfd) = &mut self.bfd else { return };
        if let Some(packet) = bfd.session.tick(now) {
            bfd.sender.send(&packet);
        }
        self.heed_bfd(now);
    }

    /// Takes a packet of BFD in, if it is from this router.
    pub(super) fn receive_bfd(
        &mut self,
        now: BootTime,
        (place, from, packet): &(BfdPlace, SocketAddr, BfdPacket),
    ) {
        let is_it = self.place.is_some_and(|place| is_same_host(place, *from));
        let Some(bfd) = self.bfd.as_mut().filter(|bfd| is_it && bfd.place == *place) else {
            return;
        };
        if let Some(answer) = bfd.session.receive(now, packet) {
            bfd.sender.send(&answer);
        }
        self.heed_bfd(now);
    }

    /// Ends the session where BFD has lost the router.
    fn heed_bfd(&mut self, now: BootTime) {
        let Some(bfd) = &mut self.bfd else { return };
        let is_up = bfd.session.state().0 == BfdState::Up;
        let was_up = std::mem::replace(&mut bfd.was_up, is_up);
        if was_up && !is_up && !bfd.session.is_stopped_by_router() {
            self.session.bfd_down(now);
        }
    }

    fn act(&mut self, now: BootTime) {
        for action in self.session.take_actions() {
            match action {
                BgpAction::Dial => self.dial(now),
                BgpAction::Close => {
                    self.write_once();
                    self.connection = RouterConnection::None;
                }
            }
        }
    }

    fn dial(&mut self, now: BootTime) {
        let Some(place) = self.place else {
            return self.session.not_connected(now, "its address is not known");
        };
        match dial::dial(&self.peer, place) {
            Ok(dialling) => self.connection = RouterConnection::Dialling(Box::pin(dialling)),
            Err(error) => {
                self.session.not_connected(now, &dial::reason(&error));
                // There is nothing to be closed.
                self.session.take_actions();
            }
        }
    }

    fn dialled(
        &mut self,
        now: BootTime,
        result: io::Result<TcpStream>,
        links: &HostAddresses,
        name: &str,
    ) {
        let opened = result.and_then(|stream| {
            if self.peer.ttl_security {
                dial::demand_ttl(&stream)?;
            }
            Ok((stream.local_addr()?, stream))
        });
        match opened {
            Ok((local, stream)) => {
                self.connection = RouterConnection::Open(stream);
                let own = own_end(&self.peer, local.ip(), links, name);
                self.session.connected(now, own);
            }
            Err(error) => self.session.not_connected(now, &dial::reason(&error)),
        }
    }

    /// Reads what has come, up to a number of bytes. Returns whether anything has.
    fn read(&mut self, now: BootTime) -> bool {
        let mut bytes = [0; 16 << 10];
        let mut taken = 0;
        while taken < TURN {
            let RouterConnection::Open(stream) = &self.connection else {
                break;
            };
            match stream.try_read(&mut bytes) {
                Ok(0) => self.session.closed(now, "it closed the connection"),
                Ok(count) => {
                    taken += count;
                    let bytes = bytes.get(..count).unwrap_or_default();
                    self.session.receive(now, bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let why = format!("the connection broke: {error}");
                    self.session.closed(now, &why);
                }
            }
            if self.session.state().0 == BgpState::Idle {
                // What is still to be sent is sent as the connection is closed.
                break;
            }
        }
        taken > 0
    }

    fn write(&mut self, now: BootTime) {
        while let Some(count) = self.write_once() {
            self.session.wrote(now, count);
        }
    }

    /// Writes what is to be sent, as far as it is taken. Nothing: there is nothing, or nothing is taken.
    fn write_once(&mut self) -> Option<usize> {
        let RouterConnection::Open(stream) = &self.connection else {
            return None;
        };
        let bytes = self.session.outgoing();
        if bytes.is_empty() {
            return None;
        }
        // An error shows when it is read, too.
        stream.try_write(bytes).ok().filter(|count| *count > 0)
    }

    /// It is told of all these addresses and of no others. `form` makes of a route what is said of it, if anything is.
    pub(super) fn set_all<'a>(
        &mut self,
        now: BootTime,
        all: impl Iterator<Item = (IpAddr, (&'a Arc<Announcement>, ServingRank))>,
        form: impl Fn(&Arc<RouteAttributes>) -> Option<Arc<RouteAttributes>>,
    ) {
        self.routes = RouteTable::default();
        for (address, asks) in all {
            self.routes.set(address, Some(asks));
        }
        let routes = self.routes.routes().into_iter();
        let wanted: AnnouncedRoutes = routes
            .filter_map(|(prefix, route)| Some((prefix, form(&route)?)))
            .collect();
        self.session.set_wanted(now, &wanted);
        self.write(now);
    }

    /// The same for one address.
    pub(super) fn set_one(
        &mut self,
        now: BootTime,
        address: IpAddr,
        asks: Option<(&Arc<Announcement>, ServingRank)>,
        form: impl Fn(&Arc<RouteAttributes>) -> Option<Arc<RouteAttributes>>,
    ) {
        for prefix in self.routes.set(address, asks) {
            let route = self.routes.route(prefix).map(Arc::new);
            let route = route.and_then(|route| form(&route));
            self.session.set_route(now, prefix, route.as_ref());
        }
        self.write(now);
    }

    /// Whether it has been told everything, and its host has taken it.
    pub(super) fn is_settled(&self) -> bool {
        let RouterConnection::Open(stream) = &self.connection else {
            return true;
        };
        self.session.is_settled() && is_acknowledged(stream)
    }

    /// Ends session and BFD.
    pub(super) fn stop(&mut self, now: BootTime, notification: BgpNotification) {
        self.session.stop(now, notification);
        self.act(now);
        self.connection = RouterConnection::None;
        if let Some(mut bfd) = self.bfd.take() {
            bfd.sender.send(&bfd.session.stop(now));
        }
    }
}

fn session_settings(peer: &BgpPeer) -> BgpSessionSettings {
    BgpSessionSettings {
        asn: peer.my_asn,
        peer_asn: peer.peer_asn,
        hold_time: peer.hold_time,
        keepalive_time: peer.keepalive_time,
        connect_time: peer.connect_time,
        graceful_restart: peer.graceful_restart,
    }
}

/// Whether two places are of one host. A link-local address is one only together with its link.
fn is_same_host(one: SocketAddr, other: SocketAddr) -> bool {
    let is_same_link = match (one, other) {
        (SocketAddr::V6(one), SocketAddr::V6(other)) if one.ip().is_unicast_link_local() => {
            one.scope_id() == other.scope_id()
        }
        _ => true,
    };
    one.ip() == other.ip() && is_same_link
}

/// Whether the router's host has acknowledged every byte that was written.
#[expect(unsafe_code, reason = "rustix has no function for this ioctl")]
fn is_acknowledged(stream: &TcpStream) -> bool {
    use rustix::ioctl::{Getter, ioctl};
    const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
    // SAFETY: SIOCOUTQ (tcp(7)) writes an int.
    let queued = unsafe { ioctl(stream, Getter::<SIOCOUTQ, i32>::new()) };
    queued.is_ok_and(|bytes| bytes == 0)
}

/// The next hops and the router ID of a connection from this address.
fn own_end(peer: &BgpPeer, local: IpAddr, links: &HostAddresses, name: &str) -> OwnEnd {
    let local = local.to_canonical();
    let link = links.get(&local).map(|it| it.link);
    let beside = links
        .iter()
        .filter(|(_, it)| Some(it.link) == link)
        .map(|(address, _)| *address);
    let v4 = |address: IpAddr| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    };
    let v6 = |address: IpAddr| match address {
        IpAddr::V6(address) if !address.is_unicast_link_local() => Some(address),
        _ => None,
    };
    let own_v4: Option<Ipv4Addr> = v4(local).or_else(|| beside.clone().find_map(v4));
    let own_v6: Option<Ipv6Addr> = v6(local).or_else(|| beside.clone().find_map(v6));
    let link_local = match local {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    };
    let told_v4 = peer.next_hop.and_then(v4);
    let told_v6 = peer.next_hop.and_then(v6);
    OwnEnd {
        router_id: peer
            .router_id
            .or(own_v4)
            .unwrap_or_else(|| encode::router_id_of(name)),
        next_hop_v4: told_v4.or(own_v4),
        next_hop_v6: told_v6.or(own_v6).or(link_local),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use fairway_config::bgp_peer::PeerAsn;

    use super::*;
    use crate::host::HostAddress;

    #[test]
    fn next_hops_are_the_addresses_of_the_link_that_the_session_uses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let links: HostAddresses = [
            (ip("172.17.0.1"), 1),
            (ip("192.0.2.11"), 2),
            (ip("2001:db8::11"), 2),
            (ip("fe80::11"), 2),
            (ip("fe80::12"), 3),
        ]
        .map(|(address, link)| (address, HostAddress { link, prefix: 24 }))
        .into();
        let shown = |local: &str, next_hop: Option<&str>| {
            let peer = BgpPeer {
                next_hop: next_hop.map(ip),
                ..BgpPeer::new("tor".into(), 1, PeerAsn::External, ip("192.0.2.1"))
            };
            let end = own_end(&peer, ip(local), &links, "edge-1");
            let show = |it: Option<IpAddr>| it.map_or("-".to_owned(), |it| it.to_string());
            let (v4, v6) = (end.next_hop_v4, end.next_hop_v6);
            let hops = [v4.map(IpAddr::V4), v6.map(IpAddr::V6)].map(show);
            (end.router_id, hops.join(" "))
        };
        let id = Ipv4Addr::new(192, 0, 2, 11);
        for local in ["192.0.2.11", "2001:db8::11", "fe80::11"] {
            let hops = "192.0.2.11 2001:db8::11".to_owned();
            assert_eq!(shown(local, None), (id, hops));
        }
        let (id, hops) = shown("fe80::12", None);
        assert_eq!(hops, "- fe80::12");
        assert_eq!(id, encode::router_id_of("edge-1"));
        let (_, hops) = shown("192.0.2.11", Some("192.0.2.99"));
        assert_eq!(hops, "192.0.2.99 2001:db8::11");
    }
}
