//! Which prefixes are announced, and with which attributes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::announce::{Announcement, BgpAnnouncement};
use ipnet::IpNet;

/// GRACEFUL_SHUTDOWN (RFC 8326): the route is about to be withdrawn.
pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;

/// How often the own AS stands in the path of a last resort besides the one time: more than networks prepend to tell
/// their own ways apart, mostly.
const PREPENDED: u8 = 3;

/// The most communities of a route, and the most large ones: they have to fit into one message with its prefix.
const MOST_COMMUNITIES: usize = 255;
const MOST_LARGE_COMMUNITIES: usize = 128;

/// Prefixes with what is said of them.
pub type AnnouncedRoutes = BTreeMap<IpNet, Arc<RouteAttributes>>;

/// What is said of a prefix besides who announces it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteAttributes {
    /// RFC 1997.
    pub communities: BTreeSet<u32>,
    /// RFC 8092.
    pub large_communities: BTreeSet<[u32; 3]>,
    /// LOCAL_PREF; said to routers of the own AS alone, 100 there where none is given.
    pub local_preference: Option<u32>,
    /// How often the own AS stands in the path besides the one time that it has to: a router of another AS takes the
    /// shortest path.
    pub prepended: u8,
}

impl RouteAttributes {
    /// The same of a route that is about to be withdrawn: whoever has another one is to take that (RFC 8326,
    /// section 4).
    pub fn shutting_down(&self) -> Self {
        let mut attributes = self.clone();
        while attributes.communities.len() >= MOST_COMMUNITIES {
            attributes.communities.pop_last();
        }
        attributes.communities.insert(GRACEFUL_SHUTDOWN);
        attributes.local_preference = Some(0);
        attributes
    }

    /// The same of a route that is to be taken only where there is no other one. Unlike the community of RFC 8326 this
    /// needs no setting of a router.
    pub fn last_resort(&self) -> Self {
        Self {
            local_preference: Some(0),
            prepended: PREPENDED,
            ..self.clone()
        }
    }

    /// Takes in what another address of the same prefix asks for: it has the communities of both, and the higher
    /// preference.
    fn merge(&mut self, announcement: &BgpAnnouncement) {
        self.communities.extend(&announcement.communities);
        self.large_communities
            .extend(&announcement.large_communities);
        while self.communities.len() > MOST_COMMUNITIES {
            self.communities.pop_last();
        }
        while self.large_communities.len() > MOST_LARGE_COMMUNITIES {
            self.large_communities.pop_last();
        }
        self.local_preference = self.local_preference.max(announcement.local_preference);
    }
}

/// The prefix that announces an address.
pub fn prefix(address: IpAddr, announcement: &BgpAnnouncement) -> IpNet {
    let (length, longest) = match address {
        IpAddr::V4(_) => (announcement.aggregation_length, 32),
        IpAddr::V6(_) => (announcement.aggregation_length_v6, 128),
    };
    let length = length.unwrap_or(longest).min(longest);
    // It is short enough.
    IpNet::new(address, length).map_or_else(|_| address.into(), |net| net.trunc())
}

/// How well this gateway serves an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServingRank {
    /// As well as any other one.
    Best,
    /// Another one serves it better: it is to have a way here when that one has died.
    LastResort,
}

/// The addresses that are announced, by prefix: a change of one address is one of its prefix alone.
#[derive(Debug, Default)]
pub struct RouteTable {
    prefixes: BTreeMap<IpAddr, IpNet>,
    asks: BTreeMap<IpNet, BTreeMap<IpAddr, (Arc<Announcement>, ServingRank)>>,
}

impl RouteTable {
    /// This is what an address asks for from now on; nothing, or nothing for routers: it is not announced. Answers with
    /// the prefixes of which something else may be said now.
    pub fn set(
        &mut self,
        address: IpAddr,
        asks: Option<(&Arc<Announcement>, ServingRank)>,
    ) -> BTreeSet<IpNet> {
        let asks = asks.and_then(|(it, rank)| Some((it, rank, it.bgp.as_ref()?)));
        let now = asks.map(|(_, _, bgp)| prefix(address, bgp));
        let before = match now {
            Some(now) => self.prefixes.insert(address, now),
            None => self.prefixes.remove(&address),
        };
        if let Some(before) = before.filter(|before| Some(*before) != now)
            && let Some(all) = self.asks.get_mut(&before)
        {
            all.remove(&address);
            if all.is_empty() {
                self.asks.remove(&before);
            }
        }
        if let Some((now, (announcement, rank, _))) = now.zip(asks) {
            let all = self.asks.entry(now).or_default();
            all.insert(address, (Arc::clone(announcement), rank));
        }
        [before, now].into_iter().flatten().collect()
    }

    /// What is said of a prefix; nothing: it is not announced.
    pub fn route(&self, prefix: IpNet) -> Option<RouteAttributes> {
        self.asks.get(&prefix).map(merged)
    }

    /// All prefixes. Those with the same attributes share them.
    pub fn routes(&self) -> AnnouncedRoutes {
        let mut known: BTreeSet<Arc<RouteAttributes>> = BTreeSet::new();
        let shared = self.asks.iter().map(|(prefix, all)| {
            let attributes = merged(all);
            let attributes = match known.get(&attributes) {
                Some(same) => Arc::clone(same),
                None => {
                    let new = Arc::new(attributes);
                    known.insert(Arc::clone(&new));
                    new
                }
            };
            (*prefix, attributes)
        });
        shared.collect()
    }
}

/// A prefix that has addresses of both ranks is announced for those that are served best here.
fn merged(all: &BTreeMap<IpAddr, (Arc<Announcement>, ServingRank)>) -> RouteAttributes {
    let rank = all.values().map(|(_, rank)| *rank).min();
    let of_rank = all.values().filter(|(_, it)| Some(*it) == rank);
    let mut attributes = RouteAttributes::default();
    for asks in of_rank.filter_map(|(it, _)| it.bgp.as_ref()) {
        attributes.merge(asks);
    }
    match rank {
        Some(ServingRank::LastResort) => attributes.last_resort(),
        _ => attributes,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn asks(communities: &[u32], preference: Option<u32>) -> BgpAnnouncement {
        BgpAnnouncement {
            communities: communities.to_vec(),
            local_preference: preference,
            ..BgpAnnouncement::default()
        }
    }

    fn announced(all: &[(&str, &BgpAnnouncement)]) -> AnnouncedRoutes {
        let mut table = RouteTable::default();
        for (address, asks) in all {
            let asks = (&announcement(asks), ServingRank::Best);
            table.set(address.parse().unwrap(), Some(asks));
        }
        table.routes()
    }

    fn announcement(bgp: &BgpAnnouncement) -> Arc<Announcement> {
        Arc::new(Announcement {
            bgp: Some(bgp.clone()),
            ..Announcement::default()
        })
    }

    fn shown(all: &[(&str, &BgpAnnouncement)]) -> Vec<String> {
        let all = announced(all).into_iter();
        all.map(|(prefix, it)| format!("{prefix} {:?} {:?}", it.communities, it.local_preference))
            .collect()
    }

    #[test]
    fn an_address_is_a_prefix_of_its_own_unless_it_is_aggregated() {
        let (plain, wide) = (
            asks(&[], None),
            BgpAnnouncement {
                aggregation_length: Some(24),
                aggregation_length_v6: Some(64),
                ..asks(&[], None)
            },
        );
        assert_eq!(
            shown(&[("203.0.113.7", &plain), ("2001:db8::7", &plain)]),
            ["203.0.113.7/32 {} None", "2001:db8::7/128 {} None"]
        );
        assert_eq!(
            shown(&[
                ("203.0.113.7", &wide),
                ("203.0.113.9", &wide),
                ("2001:db8::7", &wide)
            ]),
            ["203.0.113.0/24 {} None", "2001:db8::/64 {} None"]
        );
    }

    #[test]
    fn a_prefix_of_several_addresses_has_what_each_asks_for() {
        let one = BgpAnnouncement {
            aggregation_length: Some(24),
            ..asks(&[1], Some(50))
        };
        let other = BgpAnnouncement {
            aggregation_length: Some(24),
            ..asks(&[2], Some(70))
        };
        assert_eq!(
            shown(&[("203.0.113.7", &one), ("203.0.113.8", &other)]),
            ["203.0.113.0/24 {1, 2} Some(70)"]
        );
    }

    #[test]
    fn what_others_serve_better_is_a_last_resort() {
        let asks = BgpAnnouncement {
            aggregation_length: Some(24),
            ..asks(&[7], Some(50))
        };
        let asks = announcement(&asks);
        let mut table = RouteTable::default();
        for (address, rank) in [
            ("203.0.113.1", ServingRank::LastResort),
            ("198.51.100.1", ServingRank::LastResort),
            ("198.51.100.2", ServingRank::Best),
        ] {
            table.set(address.parse().unwrap(), Some((&asks, rank)));
        }
        let all = table.routes();
        let shown = all.iter().map(|(prefix, it)| {
            let communities = it.communities.len();
            format!(
                "{prefix} {communities} {:?} {}",
                it.local_preference, it.prepended
            )
        });
        assert_eq!(
            shown.collect::<Vec<_>>(),
            ["198.51.100.0/24 1 Some(50) 0", "203.0.113.0/24 1 Some(0) 3"]
        );
    }

    #[test]
    fn routes_with_the_same_attributes_share_them() {
        let asks = asks(&[7], None);
        let all = announced(&[("203.0.113.1", &asks), ("203.0.113.2", &asks)]);
        let all: Vec<_> = all.values().collect();
        assert!(Arc::ptr_eq(all[0], all[1]));
    }

    #[test]
    fn a_route_that_is_about_to_go_says_so_and_is_the_last_choice() {
        let attributes = RouteAttributes {
            communities: (0..255).collect(),
            ..RouteAttributes::default()
        };
        let leaving = attributes.shutting_down();
        assert!(leaving.communities.contains(&GRACEFUL_SHUTDOWN));
        assert_eq!(leaving.communities.len(), 255);
        assert_eq!(leaving.local_preference, Some(0));
    }
}
