//! What one router has been told, and what it has still to be told (RFC 4271's Adj-RIB-Out).
//!
//! What is wanted is compared with what was told, so a change of one prefix is one prefix in one message, and no
//! session begins anew for it.

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

/// See the module.
#[derive(Debug, Default)]
pub struct RibOut {
    wanted: Arc<AnnouncedRoutes>,
    told: BTreeMap<IpNet, Arc<RouteAttributes>>,
    /// By which next hop prefixes of each family are announced; those of the others are not.
    next_hops: BTreeMap<IpFamily, IpAddr>,
    /// To be withdrawn.
    leaving: BTreeSet<IpNet>,
    /// To be announced; those that fit into one message stand together.
    coming: BTreeSet<(IpFamily, Arc<RouteAttributes>, IpNet)>,
    announces_at: BootTime,
}

impl RibOut {
    /// A router that has been told nothing.
    pub fn begin(&mut self, next_hops: BTreeMap<IpFamily, IpAddr>) {
        self.told.clear();
        self.leaving.clear();
        self.coming.clear();
        self.next_hops = next_hops;
        self.announces_at = BootTime::default();
        let wanted = Arc::clone(&self.wanted);
        for (prefix, attributes) in &*wanted {
            self.announce(*prefix, attributes);
        }
    }

    /// These are the prefixes from now on.
    pub fn set_wanted(&mut self, wanted: Arc<AnnouncedRoutes>) {
        let before = std::mem::replace(&mut self.wanted, wanted);
        let now = Arc::clone(&self.wanted);
        for (prefix, attributes) in &*before {
            if now.get(prefix) != Some(attributes) {
                self.coming
                    .remove(&(family(prefix), Arc::clone(attributes), *prefix));
            }
            if !now.contains_key(prefix) && self.told.contains_key(prefix) {
                self.leaving.insert(*prefix);
            }
        }
        for (prefix, attributes) in &*now {
            if before.get(prefix) != Some(attributes) {
                self.leaving.remove(prefix);
                if self.told.get(prefix) != Some(attributes) {
                    self.announce(*prefix, attributes);
                }
            }
        }
    }

    /// What is wanted.
    pub fn wanted(&self) -> &Arc<AnnouncedRoutes> {
        &self.wanted
    }

    fn announce(&mut self, prefix: IpNet, attributes: &Arc<RouteAttributes>) {
        let family = family(&prefix);
        if self.next_hops.contains_key(&family) {
            self.coming.insert((family, Arc::clone(attributes), prefix));
        }
    }

    /// The router asks for all prefixes of a family once more.
    pub fn refresh(&mut self, of: IpFamily) {
        let wanted = Arc::clone(&self.wanted);
        for (prefix, attributes) in wanted.iter().filter(|(prefix, _)| family(prefix) == of) {
            self.announce(*prefix, attributes);
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
        match (self.leaving.is_empty(), self.coming.is_empty()) {
            (false, _) => Some(BootTime::default()),
            (true, false) => Some(self.announces_at),
            (true, true) => None,
        }
    }

    /// The next message, if there is something to be told now.
    pub fn next_update(&mut self, now: BootTime, form: UpdateForm) -> Option<Vec<u8>> {
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
