//! Whether an endpoint can be dialled from its client's address (`client-address: transparent`): by whom, and whether
//! what it answers comes back.
//!
//! An endpoint answers to the client's address, so its packets come back only where they pass through the host that
//! has dialled. That is a fact of the network, and no setting says it. What follows from the setup ([`Surroundings`])
//! is known before anybody is dialled; the rest is known by dials of real clients ([`WaysBack`]): where one from the
//! client's address is not answered and one from the gateway's is, there is no way back. A dial of a made-up client
//! would be evidence of nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use fairway_config::names::ClusterName;
use fairway_config::net::IpFamily;

use crate::route::{Endpoint, Tick};

/// For so long after an answer came back the way counts as proven.
pub const PROVEN: Duration = Duration::from_secs(60);

/// A way that is lost is tried again after this time, and after twice as long each time until [`LONGEST`].
pub const RETRY: Duration = Duration::from_secs(5);
/// See [`RETRY`].
pub const LONGEST: Duration = Duration::from_secs(60);

/// A client without a way back is tried again after this time.
pub const CLIENT_RETRY: Duration = Duration::from_secs(60);

/// So many different clients without a way back, one after the other, show that a way is lost which was proven before:
/// fewer may be clients whose packets take another way, as those of a pod on the endpoint's node.
pub const CLIENTS: usize = 3;

/// So many clients of a way are remembered. A further one waits for each of its connections.
const MOST_CLIENTS: usize = 256;

/// Why endpoints do not see the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressLoss {
    /// What the endpoint answers does not come back.
    NoAnswer,
    /// There is no gateway on the endpoint's node.
    NoGateway,
    /// The gateway on the endpoint's node takes no connections of other gateways.
    NotRelayed,
    /// The gateway on the endpoint's node does not believe this one.
    NotBelieved,
    /// The gateway on the endpoint's node does not know the endpoint.
    NotKnown,
    /// The gateways have no key in common.
    NoKey,
    /// This gateway, or that on the endpoint's node, may not.
    NotPermitted,
    /// The client and the endpoint have addresses of different families.
    Family,
    /// The client's address is no other host's: a loopback address, or the endpoint's own.
    Client,
    /// The endpoint is on the network of the node itself.
    HostNetwork,
    /// Connections go to node ports.
    NodePort,
    /// No port is left at the client's address, or the system has refused otherwise.
    System,
}

impl AddressLoss {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::NoAnswer,
        Self::NoGateway,
        Self::NotRelayed,
        Self::NotBelieved,
        Self::NotKnown,
        Self::NoKey,
        Self::NotPermitted,
        Self::Family,
        Self::Client,
        Self::HostNetwork,
        Self::NodePort,
        Self::System,
    ];

    /// One word: the value of a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "no_answer",
            Self::NoGateway => "no_gateway",
            Self::NotRelayed => "not_relayed",
            Self::NotBelieved => "not_believed",
            Self::NotKnown => "not_known",
            Self::NoKey => "no_key",
            Self::NotPermitted => "not_permitted",
            Self::Family => "family",
            Self::Client => "client",
            Self::HostNetwork => "host_network",
            Self::NodePort => "node_port",
            Self::System => "system",
        }
    }
}

impl fmt::Display for AddressLoss {
    /// The end of a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAnswer => {
                "what endpoints answer to a client's address does not come back to the gateway that dials them"
            }
            Self::NoGateway => "there is no gateway on that node that could dial them",
            Self::NotRelayed => "the gateway on that node takes no connections of other gateways",
            Self::NotBelieved => "the gateway on that node does not believe this one: do both have the same key?",
            Self::NotKnown => "the gateway on that node does not know them",
            Self::NoKey => "this gateway knows no key that it has in common with the one on that node",
            Self::NotPermitted => {
                "the gateway that dials them may not do so from other addresses (CAP_NET_ADMIN, nftables)"
            }
            Self::Family => "client and endpoint have addresses of different families",
            Self::Client => "the client's address is no other host's",
            Self::HostNetwork => "they are on the node's own network",
            Self::NodePort => "connections go to node ports",
            Self::System => "the system has no port left at the client's address",
        })
    }
}

/// What a gateway knows of where it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// Its own name: that of its node.
    pub own: ClusterName,
    /// Its node is one of the cluster's. Else it may be the router that endpoints answer by.
    pub is_node: bool,
    /// The addresses of its host.
    pub host: BTreeSet<IpAddr>,
    /// What keeps it from dialling from a client's address; none: nothing does.
    pub lacks: Option<AddressLoss>,
    /// Where other gateways take connections that they are to dial endpoints of their nodes for.
    pub relays: BTreeMap<ClusterName, SocketAddr>,
    /// It has a key in common with them.
    pub has_key: bool,
    /// Connections go to node ports.
    pub to_node_ports: bool,
}

/// By whom an endpoint is dialled from its client's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WayTo {
    /// The way that what it answers takes.
    pub way: WayName,
    /// Where the gateway is that has to dial it; none: this one has to.
    pub relay: Option<SocketAddr>,
}

/// The ways of all endpoints of one node in one family are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WayName {
    /// The node, where the endpoints' slice says it.
    pub node: Option<ClusterName>,
    /// The family.
    pub family: IpFamily,
}

impl Surroundings {
    /// By whom an endpoint is dialled for a client.
    ///
    /// # Errors
    /// The endpoint can't see the client's address.
    pub fn way_to(&self, endpoint: &Endpoint, client: IpAddr) -> Result<WayTo, AddressLoss> {
        let at = endpoint.addr.0.ip();
        if self.to_node_ports {
            return Err(AddressLoss::NodePort);
        }
        if !is_of_a_host(client) || client == at {
            return Err(AddressLoss::Client);
        }
        if client.is_ipv4() != at.is_ipv4() {
            return Err(AddressLoss::Family);
        }
        let node = endpoint.node.as_ref();
        let name = WayName {
            node: node.cloned(),
            family: IpFamily::of(at),
        };
        let relay = node.filter(|node| **node != self.own);
        let relay = relay.map(|node| self.relays.get(node).copied());
        match relay {
            Some(Some(_)) if !self.has_key => Err(AddressLoss::NoKey),
            Some(Some(relay)) => Ok(WayTo {
                way: name,
                relay: Some(relay),
            }),
            Some(None) if self.is_node => Err(AddressLoss::NoGateway),
            Some(None) | None => {
                self.dials(at)?;
                Ok(WayTo {
                    way: name,
                    relay: None,
                })
            }
        }
    }

    /// Whether this gateway itself can dial an endpoint from another address.
    ///
    /// # Errors
    /// It can't.
    pub fn dials(&self, endpoint: IpAddr) -> Result<(), AddressLoss> {
        if self.host.contains(&endpoint) {
            return Err(AddressLoss::HostNetwork);
        }
        self.lacks.map_or(Ok(()), Err)
    }
}

/// Whether a host may have this address and be reached at it from others.
fn is_of_a_host(client: IpAddr) -> bool {
    match client {
        IpAddr::V4(it) => {
            !(it.is_unspecified()
                || it.is_loopback()
                || it.is_link_local()
                || it.is_multicast()
                || it.is_broadcast())
        }
        IpAddr::V6(it) => {
            !(it.is_unspecified()
                || it.is_loopback()
                || it.is_unicast_link_local()
                || it.is_multicast())
        }
    }
}

/// From which address an endpoint is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialFrom {
    /// From the client's.
    Client {
        /// Answers came back by this way lately, so that a late one is more likely than none.
        is_proven: bool,
    },
    /// From the gateway's own.
    Gateway(AddressLoss),
}

/// What is known of the ways that answers of endpoints take.
#[derive(Debug, Default)]
pub struct WaysBack {
    ways: BTreeMap<WayName, WayBack>,
}

#[derive(Debug, Default)]
struct WayBack {
    /// When an answer came back last.
    worked: Option<Tick>,
    lost: Option<Loss>,
    /// The clients without a way back since then.
    failed: BTreeSet<IpAddr>,
    /// Clients that have no way back, each until when.
    clients: BTreeMap<IpAddr, Tick>,
}

#[derive(Clone, Copy, Debug)]
struct Loss {
    why: AddressLoss,
    since: Tick,
    retry: Tick,
    pause: Duration,
}

/// A way by which answers do not come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostWay {
    /// Which one.
    pub way: WayName,
    /// Why.
    pub why: AddressLoss,
    /// Since when; none: it is lost for some clients alone.
    pub since: Option<Tick>,
}

impl WaysBack {
    /// From which address an endpoint behind this way is dialled for a client.
    pub fn choose(&mut self, way: &WayName, client: IpAddr, now: Tick) -> DialFrom {
        let Some(known) = self.ways.get_mut(way) else {
            return DialFrom::Client { is_proven: false };
        };
        let net = client_net(client);
        if let Some(until) = known.clients.get(&net) {
            if now < *until {
                return DialFrom::Gateway(AddressLoss::NoAnswer);
            }
            known.clients.remove(&net);
        }
        if let Some(loss) = &mut known.lost {
            if now < loss.retry {
                return DialFrom::Gateway(loss.why);
            }
            // The others go on meanwhile.
            loss.pause = (loss.pause * 2).min(LONGEST);
            loss.retry = later(now, loss.pause);
            return DialFrom::Client { is_proven: false };
        }
        DialFrom::Client {
            is_proven: known.is_proven(now),
        }
    }

    /// An answer came back.
    pub fn worked(&mut self, way: &WayName, client: IpAddr, now: Tick) {
        let known = self.ways.entry(way.clone()).or_default();
        known.worked = Some(now);
        known.failed.clear();
        known.lost = None;
        known.clients.remove(&client_net(client));
    }

    /// An endpoint has answered the gateway, and not the client's address.
    pub fn not_answered(&mut self, way: &WayName, client: IpAddr, now: Tick) {
        let known = self.ways.entry(way.clone()).or_default();
        let net = client_net(client);
        known.clients.retain(|_, until| now < *until);
        if known.clients.len() < MOST_CLIENTS {
            known.clients.insert(net, later(now, CLIENT_RETRY));
        }
        if known.failed.len() < CLIENTS {
            known.failed.insert(net);
        }
        if !known.is_proven(now) || known.failed.len() >= CLIENTS {
            known.lose(AddressLoss::NoAnswer, now);
        }
    }

    /// Nobody can be dialled from a client's address by this way.
    pub fn lost(&mut self, way: &WayName, why: AddressLoss, now: Tick) {
        self.ways.entry(way.clone()).or_default().lose(why, now);
    }

    /// Forgets the ways to nodes that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(&WayName) -> bool) {
        self.ways.retain(|way, _| is_there(way));
    }

    /// The ways by which answers do not come back, to some clients at least.
    pub fn lost_ways(&self, now: Tick) -> Vec<LostWay> {
        let lost = self.ways.iter().filter_map(|(way, known)| {
            let some = known.clients.values().any(|until| now < *until);
            match known.lost {
                Some(loss) => Some((way, loss.why, Some(loss.since))),
                None => some.then_some((way, AddressLoss::NoAnswer, None)),
            }
        });
        lost.map(|(way, why, since)| LostWay {
            way: way.clone(),
            why,
            since,
        })
        .collect()
    }
}

impl WayBack {
    fn is_proven(&self, now: Tick) -> bool {
        self.lost.is_none() && self.worked.is_some_and(|at| now < later(at, PROVEN))
    }

    fn lose(&mut self, why: AddressLoss, now: Tick) {
        match &mut self.lost {
            Some(loss) => loss.why = why,
            None => {
                self.lost = Some(Loss {
                    why,
                    since: now,
                    retry: later(now, RETRY),
                    pause: RETRY,
                });
            }
        }
    }
}

fn later(at: Tick, by: Duration) -> Tick {
    Tick(at.0 + u64::try_from(by.as_millis()).unwrap_or(u64::MAX >> 1))
}

/// Those that count as one client: an IPv6 host has a subnet of 64 bits for itself.
fn client_net(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests;
