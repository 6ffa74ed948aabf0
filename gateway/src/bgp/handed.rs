//! What one process tells another of a session with a router that it hands over (`take_over`).
//!
//! A process of another version may leave a field out, or say more: what is not said has its default, and what is not
//! known is passed over. What routers say to each other stands as they say it. Times are nanoseconds since the machine
//! started.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::net::IpFamily;
use fairway_gateway_core::bfd::BfdContinuation;
use fairway_gateway_core::bfd::packet;
use fairway_gateway_core::bgp::message::BgpMessage;
use fairway_gateway_core::bgp::rib_out::RibOutContinuation;
use fairway_gateway_core::bgp::routes::{AnnouncedRoutes, RouteAttributes};
use fairway_gateway_core::bgp::session::{BgpContinuation, OwnEnd};
use fairway_gateway_core::bgp::{decode, encode};
use fairway_gateway_core::fleet::BootTime;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The most prefixes of one message. Communities count as well, for each is about as long as a prefix.
const PART: usize = 20_000;

/// An established session. Its descriptors are the connection, then the socket of its BFD. Its bytes are those that came
/// in, then those that are to go out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedRouter {
    /// The name of its BGPPeer.
    pub(crate) name: String,
    /// What it was made from.
    pub(crate) settings: BTreeMap<String, String>,
    /// Its password, where that stands in a Secret: the other process may not have read it yet, and the API server may
    /// be away.
    #[serde(default)]
    pub(crate) password: Option<ToldPassword>,
    pub(crate) since: u64,
    #[serde(default)]
    pub(crate) hold_until: Option<u64>,
    /// The time that was agreed.
    #[serde(default)]
    pub(crate) hold_time: u64,
    #[serde(default)]
    pub(crate) keepalive_at: Option<u64>,
    #[serde(default)]
    pub(crate) keepalive_time: u64,
    pub(crate) router_id: Option<Ipv4Addr>,
    /// The own addresses on the link.
    #[serde(default)]
    pub(crate) own_v4: Option<Ipv4Addr>,
    #[serde(default)]
    pub(crate) own_v6: Option<Ipv6Addr>,
    /// The router's OPEN message.
    pub(crate) open: Vec<u8>,
    /// How many bytes have come in, and are no whole message yet.
    pub(crate) incoming: u32,
    /// How many are to go out.
    pub(crate) outgoing: u32,
    #[serde(default)]
    pub(crate) stalled_since: Option<u64>,
    #[serde(default)]
    pub(crate) end_of_rib: Vec<IpFamily>,
    #[serde(default)]
    pub(crate) refreshing: BTreeSet<IpFamily>,
    /// By which next hop prefixes of each family were told.
    #[serde(default)]
    pub(crate) next_hops: Vec<(IpFamily, IpAddr)>,
    #[serde(default)]
    pub(crate) sent: u64,
    #[serde(default)]
    pub(crate) dropped: u64,
    /// None: there is no BFD.
    #[serde(default)]
    pub(crate) bfd: Option<HandedBfd>,
}

/// A password that one process tells another.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ToldPassword(pub(crate) String);

impl fmt::Debug for ToldPassword {
    /// Debug output may end in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToldPassword")
    }
}

/// BFD with a router: the last packet of each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedBfd {
    pub(crate) said: Vec<u8>,
    #[serde(default)]
    pub(crate) heard: Option<Vec<u8>>,
    pub(crate) since: u64,
}

/// Prefixes that a router was told of with the same attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HandedRoutes {
    pub(crate) prefixes: Vec<IpNet>,
    #[serde(default)]
    pub(crate) communities: BTreeSet<u32>,
    #[serde(default)]
    pub(crate) large_communities: BTreeSet<[u32; 3]>,
    #[serde(default)]
    pub(crate) local_preference: Option<u32>,
    #[serde(default)]
    pub(crate) prepended: u8,
}

/// Where packets of BFD come in. Its descriptor is the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct BfdPlace {
    pub(crate) is_v6: bool,
    pub(crate) is_multihop: bool,
}

/// A session with all that comes with it.
#[derive(Debug)]
pub(crate) struct FrozenRouter {
    pub(crate) says: HandedRouter,
    /// What the router was told.
    pub(crate) told: AnnouncedRoutes,
    pub(crate) incoming: Vec<u8>,
    pub(crate) outgoing: Vec<u8>,
    pub(crate) connection: OwnedFd,
    pub(crate) bfd: Option<OwnedFd>,
}

/// All sessions that go over, and the sockets of BFD.
#[derive(Debug, Default)]
pub(crate) struct FrozenRouters {
    pub(crate) routers: Vec<FrozenRouter>,
    pub(crate) bfd: Vec<(BfdPlace, OwnedFd)>,
}

impl HandedRouter {
    /// What is said of a session besides its routes and bytes.
    pub(super) fn new(
        name: &str,
        settings: BTreeMap<String, String>,
        of: &BgpContinuation,
        bfd: Option<BfdContinuation>,
    ) -> Self {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let (sent, dropped) = of.updates;
        let next_hops = of.rib_out.next_hops.iter();
        Self {
            name: name.to_owned(),
            settings,
            password: None,
            since: number(of.since),
            hold_until: of.hold_until.map(number),
            hold_time: nanoseconds(of.hold_time),
            keepalive_at: of.keepalive_at.map(number),
            keepalive_time: nanoseconds(of.keepalive_time),
            router_id: Some(of.own.router_id),
            own_v4: of.own.next_hop_v4,
            own_v6: of.own.next_hop_v6,
            open: encode::open(&of.peer),
            incoming: length(&of.incoming),
            outgoing: length(&of.outgoing),
            stalled_since: of.stalled_since.map(number),
            end_of_rib: of.end_of_rib.clone(),
            refreshing: of.rib_out.refreshing.clone(),
            next_hops: next_hops.map(|(family, hop)| (*family, *hop)).collect(),
            sent,
            dropped,
            bfd: bfd.map(|it| HandedBfd {
                said: packet::encode(&it.said).to_vec(),
                heard: it.heard.map(|it| packet::encode(&it).to_vec()),
                since: number(it.since),
            }),
        }
    }

    /// What the session goes on with; none: this can't be understood.
    pub(super) fn continuation(
        &self,
        told: AnnouncedRoutes,
        incoming: Vec<u8>,
        outgoing: Vec<u8>,
    ) -> Option<BgpContinuation> {
        let Ok(BgpMessage::Open(peer)) = decode::decode(&self.open) else {
            return None;
        };
        Some(BgpContinuation {
            since: time(self.since),
            hold_until: self.hold_until.map(time),
            hold_time: Duration::from_nanos(self.hold_time),
            keepalive_at: self.keepalive_at.map(time),
            keepalive_time: Duration::from_nanos(self.keepalive_time),
            own: OwnEnd {
                router_id: self.router_id?,
                next_hop_v4: self.own_v4,
                next_hop_v6: self.own_v6,
            },
            peer,
            incoming,
            outgoing,
            stalled_since: self.stalled_since.map(time),
            end_of_rib: self.end_of_rib.clone(),
            updates: (self.sent, self.dropped),
            rib_out: RibOutContinuation {
                told,
                next_hops: self.next_hops.iter().copied().collect(),
                refreshing: self.refreshing.clone(),
            },
        })
    }
}

impl HandedBfd {
    /// What BFD goes on with; none: this can't be understood.
    pub(super) fn continuation(&self) -> Option<BfdContinuation> {
        let heard = self.heard.as_ref();
        Some(BfdContinuation {
            said: packet::decode(&self.said).ok()?,
            heard: heard.and_then(|it| packet::decode(it).ok()),
            since: time(self.since),
        })
    }
}

/// What a router was told, in parts that fit into a message each.
pub(crate) fn parts(told: &AnnouncedRoutes) -> Vec<Vec<HandedRoutes>> {
    let mut alike: BTreeMap<&RouteAttributes, Vec<IpNet>> = BTreeMap::new();
    for (prefix, route) in told {
        alike.entry(route).or_default().push(*prefix);
    }
    let (mut parts, mut part, mut length) = (Vec::new(), Vec::new(), 0);
    for (route, prefixes) in alike {
        for prefixes in prefixes.chunks(PART / 2) {
            let communities = route.communities.len() + 3 * route.large_communities.len();
            let more = prefixes.len() + communities;
            if length + more > PART && !part.is_empty() {
                parts.push(std::mem::take(&mut part));
                length = 0;
            }
            length += more;
            part.push(HandedRoutes {
                prefixes: prefixes.to_vec(),
                communities: route.communities.clone(),
                large_communities: route.large_communities.clone(),
                local_preference: route.local_preference,
                prepended: route.prepended,
            });
        }
    }
    parts.push(part);
    parts
}

/// Adds a part of what a router was told.
pub(crate) fn add(told: &mut AnnouncedRoutes, part: Vec<HandedRoutes>) {
    for routes in part {
        let route = Arc::new(RouteAttributes {
            communities: routes.communities,
            large_communities: routes.large_communities,
            local_preference: routes.local_preference,
            prepended: routes.prepended,
        });
        let prefixes = routes.prefixes.into_iter();
        told.extend(prefixes.map(|prefix| (prefix, Arc::clone(&route))));
    }
}

fn number(at: BootTime) -> u64 {
    nanoseconds(at.0)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn time(nanoseconds: u64) -> BootTime {
    BootTime(Duration::from_nanos(nanoseconds))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use fairway_config::bgp_peer::PeerAsn;
    use fairway_gateway_core::bfd::packet::{BfdDiagnostic, BfdPacket, BfdState};
    use fairway_gateway_core::bgp::message::{BgpCapabilities, BgpOpen};
    use fairway_gateway_core::bgp::session::{BgpSession, BgpSessionSettings};

    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime(Duration::from_millis(ms))
    }

    /// An established session, with something under way in both directions.
    fn session() -> BgpSession {
        let settings = BgpSessionSettings {
            asn: 64_512,
            peer_asn: PeerAsn::External,
            hold_time: Duration::from_secs(9),
            keepalive_time: Duration::from_secs(3),
            connect_time: Duration::from_secs(10),
            graceful_restart: true,
        };
        let mut session = BgpSession::new(settings, 1, at(0));
        session.tick(at(0));
        session.connected(
            at(1),
            OwnEnd {
                router_id: Ipv4Addr::new(192, 0, 2, 1),
                next_hop_v4: None,
                next_hop_v6: Some("2001:db8::1".parse().unwrap()),
            },
        );
        let open = BgpOpen {
            asn: 4_200_000_001,
            hold_time: 90,
            router_id: Ipv4Addr::new(192, 0, 2, 200),
            capabilities: BgpCapabilities {
                families: IpFamily::ALL.into_iter().collect(),
                four_octet_asn: true,
                extended_next_hop: true,
                route_refresh: true,
                graceful_restart: Some((120, true)),
            },
        };
        session.receive(at(2), &encode::open(&open));
        session.receive(at(3), &encode::keepalive());
        session.receive(at(4), &encode::keepalive()[..7]);
        session
    }

    #[test]
    fn a_session_is_the_same_at_the_other_end() {
        let mut session = session();
        let route = Arc::new(RouteAttributes {
            communities: [1, 2].into(),
            large_communities: [[1, 2, 3]].into(),
            local_preference: Some(7),
            prepended: 3,
        });
        let wanted: AnnouncedRoutes = ["203.0.113.1/32", "2001:db8::/64"]
            .map(|it| (it.parse().unwrap(), Arc::clone(&route)))
            .into();
        session.set_wanted(at(5), &wanted);
        session.wrote(at(6), 11);
        let of = session.continuation().unwrap();
        assert!(!of.outgoing.is_empty() && !of.incoming.is_empty());
        let packet = BfdPacket {
            diagnostic: BfdDiagnostic::NeighborDown,
            state: BfdState::Up,
            is_poll: true,
            is_final: false,
            detect_multiplier: 3,
            my_discriminator: 5,
            your_discriminator: 9,
            desired_min_tx: Duration::from_millis(100),
            required_min_rx: Duration::from_millis(50),
        };
        let bfd = BfdContinuation {
            said: packet,
            heard: Some(BfdPacket {
                my_discriminator: 9,
                your_discriminator: 5,
                is_poll: false,
                ..packet
            }),
            since: at(77),
        };
        let settings = BTreeMap::from([("myASN".to_owned(), "64512".to_owned())]);
        let says = HandedRouter::new("tor", settings, &of, Some(bfd));
        let text = serde_json::to_string(&says).unwrap();
        let read: HandedRouter = serde_json::from_str(&text).unwrap();
        assert_eq!(read, says);
        assert_eq!(read.bfd.as_ref().unwrap().continuation(), Some(bfd));
        let mut told = AnnouncedRoutes::new();
        for part in parts(&of.rib_out.told) {
            add(&mut told, part);
        }
        let there = read.continuation(told, of.incoming.clone(), of.outgoing.clone());
        assert_eq!(there, Some(of));
    }

    #[test]
    fn what_an_earlier_version_does_not_say_has_a_default() {
        let of = session().continuation().unwrap();
        let says = HandedRouter::new("tor", BTreeMap::new(), &of, None);
        let mut value = serde_json::to_value(&says).unwrap();
        for field in [
            "stalled_since",
            "end_of_rib",
            "refreshing",
            "sent",
            "dropped",
            "bfd",
        ] {
            assert!(
                value.as_object_mut().unwrap().remove(field).is_some(),
                "{field}"
            );
        }
        let read: HandedRouter = serde_json::from_value(value).unwrap();
        let there = read.continuation(of.rib_out.told.clone(), Vec::new(), Vec::new());
        assert_eq!(there.unwrap().peer, of.peer);
        // What is no OPEN message is no session.
        let read = HandedRouter {
            open: vec![1; 40],
            ..read
        };
        assert_eq!(
            read.continuation(AnnouncedRoutes::new(), Vec::new(), Vec::new()),
            None
        );
    }
}
