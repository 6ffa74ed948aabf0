//! What one router has been told, and what it has still to be told (RFC 4271's Adj-RIB-Out).
//!
//! What is wanted is compared with what was told, so a change of one prefix is one prefix in one message, no session
//! begins anew for it, and no other prefix is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use fairway_config::net::IpFamily;
use ipnet::IpNet;

use super::encode::{self, UpdateForm};
use super::routes::{AnnouncedRoutes, RouteAttributes};
use crate::fleet::BootTime;

/// So long after prefixes were announced more are: what changes meanwhile goes together. What is withdrawn does not
/// wait.
pub const ADVERTISEMENT_INTERVAL: Duration = Duration::from_millis(100);

/// A router that asks for all prefixes again and again is told them once in this time.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct RibOut {
    wanted: AnnouncedRoutes,
    told: BTreeMap<IpNet, Arc<RouteAttributes>>,
    /// By which next hop prefixes of each family are announced; those of the others are not.
    next_hops: BTreeMap<IpFamily, IpAddr>,
    /// To be withdrawn.
    leaving: BTreeSet<IpNet>,
    /// To be announced; those that fit into one message stand together.
    coming: BTreeSet<(IpFamily, Arc<RouteAttributes>, IpNet)>,
    announces_at: BootTime,
    /// The families that the router asks for once more, and when that is heeded.
    refreshing: BTreeSet<IpFamily>,
    refreshes_at: BootTime,
}

/// What another process needs to go on with a router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RibOutContinuation {
    /// What the router has been told.
    pub told: AnnouncedRoutes,
    /// By which next hop prefixes of each family are announced.
    pub next_hops: BTreeMap<IpFamily, IpAddr>,
    /// The families that it asks for once more.
    pub refreshing: BTreeSet<IpFamily>,
}

impl RibOut {
    /// What another process needs to go on. What has still to be told follows there from what is wanted.
    pub fn continuation(&self) -> RibOutContinuation {
        let is_told = |prefix: &IpNet, route| self.told.get(prefix) == Some(route);
        let coming = self.coming.iter();
        let again = coming.filter(|(_, route, prefix)| is_told(prefix, route));
        let again = again.map(|(family, _, _)| *family);
        RibOutContinuation {
            told: self.told.clone(),
            next_hops: self.next_hops.clone(),
            refreshing: self.refreshing.iter().copied().chain(again).collect(),
        }
    }

    /// A router that another process has told this. It is what is wanted, for now.
    pub fn go_on(&mut self, from: RibOutContinuation) {
        self.begin(from.next_hops);
        self.coming.clear();
        self.wanted = from.told.clone();
        self.told = from.told;
        self.refreshing = from.refreshing;
    }

    /// A router that has been told nothing.
    pub fn begin(&mut self, next_hops: BTreeMap<IpFamily, IpAddr>) {
        self.told.clear();
        self.leaving.clear();
        self.coming.clear();
        self.next_hops = next_hops;
        self.announces_at = BootTime::default();
        self.refreshing.clear();
        self.announce_all(|_| true);
    }

    /// These are the prefixes from now on.
    pub fn set_wanted(&mut self, wanted: &AnnouncedRoutes) {
        let gone = self.wanted.keys().filter(|it| !wanted.contains_key(it));
        let gone: Vec<IpNet> = gone.copied().collect();
        for prefix in gone {
            self.set_route(prefix, None);
        }
        for (prefix, attributes) in wanted {
            self.set_route(*prefix, Some(attributes));
        }
    }

    /// This is said of one prefix from now on; nothing: it is not announced.
    pub fn set_route(&mut self, prefix: IpNet, route: Option<&Arc<RouteAttributes>>) {
        let before = match route {
            Some(route) => self.wanted.insert(prefix, Arc::clone(route)),
            None => self.wanted.remove(&prefix),
        };
        if before.as_ref() == route {
            return;
        }
        if let Some(before) = before {
            self.coming.remove(&(family(&prefix), before, prefix));
        }
        let told = self.told.get(&prefix);
        match route {
            None if told.is_some() => _ = self.leaving.insert(prefix),
            None => {}
            Some(route) => {
                self.leaving.remove(&prefix);
                if told != Some(route) && self.next_hops.contains_key(&family(&prefix)) {
                    let route = Arc::clone(route);
                    self.coming.insert((family(&prefix), route, prefix));
                }
            }
        }
    }

    /// What is wanted.
    pub fn wanted(&self) -> &AnnouncedRoutes {
        &self.wanted
    }

    /// The router asks for all prefixes of a family once more.
    pub fn refresh(&mut self, of: IpFamily) {
        self.refreshing.insert(of);
    }

    fn heed_refresh(&mut self, now: BootTime) {
        if self.refreshing.is_empty() || now < self.refreshes_at {
            return;
        }
        self.refreshes_at = now.after(REFRESH_INTERVAL);
        let families = std::mem::take(&mut self.refreshing);
        self.announce_all(|family| families.contains(&family));
    }

    fn announce_all(&mut self, is_meant: impl Fn(IpFamily) -> bool) {
        for (prefix, attributes) in &self.wanted {
            let of = family(prefix);
            if is_meant(of) && self.next_hops.contains_key(&of) {
                self.coming.insert((of, Arc::clone(attributes), *prefix));
            }
        }
    }

    /// How many prefixes the router has been told, and not that they are gone.
    pub fn told(&self) -> usize {
        self.told.len()
    }

    /// The families of wanted prefixes that this router can't be told of.
    pub fn left_out(&self) -> BTreeSet<IpFamily> {
        let families = self.wanted.keys().map(family);
        families
            .filter(|it| !self.next_hops.contains_key(it))
            .collect()
    }

    /// Whether nothing is left to be told.
    pub fn is_settled(&self) -> bool {
        self.leaving.is_empty() && self.coming.is_empty()
    }

    /// When there is something to be told next.
    pub fn next_deadline(&self) -> Option<BootTime> {
        let refresh = (!self.refreshing.is_empty()).then_some(self.refreshes_at);
        let told = match (self.leaving.is_empty(), self.coming.is_empty()) {
            (false, _) => Some(BootTime::default()),
            (true, false) => Some(self.announces_at),
            (true, true) => None,
        };
        told.into_iter().chain(refresh).min()
    }

    /// The next message, if there is something to be told now.
    pub fn next_update(&mut self, now: BootTime, form: UpdateForm) -> Option<Vec<u8>> {
        self.heed_refresh(now);
        if let Some(first) = self.leaving.first() {
            let of = family(first);
            let prefixes = self.leaving.iter().take_while(|it| family(it) == of);
            let (message, count) = encode::withdraw(of, prefixes);
            for _ in 0..count {
                if let Some(prefix) = self.leaving.pop_first() {
                    self.told.remove(&prefix);
                }
            }
            return Some(message);
        }
        if now < self.announces_at || self.coming.is_empty() {
            return None;
        }
        let (of, attributes, _) = self.coming.first()?.clone();
        let next_hop = *self.next_hops.get(&of)?;
        let alike = self
            .coming
            .iter()
            .take_while(|(family, other, _)| (*family, other) == (of, &attributes));
        let prefixes = alike.map(|(_, _, prefix)| prefix);
        let (message, count) = encode::announce(form, of, next_hop, &attributes, prefixes);
        for _ in 0..count {
            if let Some((_, attributes, prefix)) = self.coming.pop_first() {
                self.told.insert(prefix, attributes);
            }
        }
        if self.coming.is_empty() {
            self.announces_at = now.after(ADVERTISEMENT_INTERVAL);
        }
        Some(message)
    }
}

fn family(prefix: &IpNet) -> IpFamily {
    IpFamily::of(prefix.addr())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::announce::{Announcement, BgpAnnouncement};
    use proptest::prelude::*;

    use super::super::routes::{RouteTable, ServingRank};
    use super::*;

    fn asks(community: u32, length: Option<u8>, preference: Option<u32>) -> Arc<Announcement> {
        Arc::new(Announcement {
            bgp: Some(BgpAnnouncement {
                communities: vec![community],
                aggregation_length: length,
                local_preference: preference,
                ..BgpAnnouncement::default()
            }),
            ..Announcement::default()
        })
    }

    #[test]
    fn a_router_that_asks_for_everything_again_and_again_is_told_once_in_a_second() {
        let form = UpdateForm {
            asn: 64_512,
            is_external: true,
            four_octet_asn: true,
        };
        let (mut table, mut told) = (RouteTable::default(), RibOut::default());
        let asked = (&asks(0, None, None), ServingRank::Best);
        table.set(IpAddr::from([203, 0, 113, 1]), Some(asked));
        told.begin([(IpFamily::IPv4, "192.0.2.1".parse().unwrap())].into());
        told.set_wanted(&table.routes());
        let mut updates = Vec::new();
        for ms in 0..5_000 {
            let now = BootTime(Duration::from_millis(10_000 + ms));
            for _ in 0..10 {
                told.refresh(IpFamily::IPv4);
            }
            assert!(told.next_deadline() <= Some(now.after(REFRESH_INTERVAL)));
            while told.next_update(now, form).is_some() {
                updates.push(ms);
            }
        }
        assert_eq!(updates, [0, 1_000, 2_000, 3_000, 4_000]);
    }

    proptest! {
        #[test]
        fn what_is_told_follows_from_the_addresses_whatever_they_went_through(
            steps in prop::collection::vec((0..12_u8, prop::option::of((0..4_usize, any::<bool>()))), 0..60),
        ) {
            let kinds = [
                asks(0, None, None),
                asks(1, None, Some(50)),
                asks(2, Some(30), None),
                asks(3, Some(28), Some(70)),
            ];
            let (mut table, mut told) = (RouteTable::default(), RibOut::default());
            told.begin([(IpFamily::IPv4, "192.0.2.1".parse().unwrap())].into());
            let mut now = BTreeMap::new();
            for (n, kind) in steps {
                let address = IpAddr::from([203, 0, 113, n]);
                let kind = kind.and_then(|(kind, is_best)| {
                    let rank = if is_best { ServingRank::Best } else { ServingRank::LastResort };
                    Some((kinds.get(kind)?, rank))
                });
                now.insert(address, kind);
                let touched = table.set(address, kind);
                prop_assert!(touched.len() <= 2);
                for prefix in touched {
                    told.set_route(prefix, table.route(prefix).map(Arc::new).as_ref());
                }
            }
            let mut anew = RouteTable::default();
            for (address, kind) in now {
                anew.set(address, kind);
            }
            prop_assert_eq!(told.wanted(), &anew.routes());
            prop_assert_eq!(table.routes(), anew.routes());
        }
    }
}
