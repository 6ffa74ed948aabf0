//! Who listens where: what each Service wants to claim, and who gets it.
//!
//! The controller gives no address and port to two Services, but what one lets go and another
//! takes may arrive in either order. Until both have, the older Service (then the first by name)
//! has the claim, which depends on the two alone and not on who came first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};

use fairway_config::exchange::{ClaimKind, StoredService};
use fairway_config::net::{ListenAddr, Protocol};
use fairway_config::service::{ExternalTrafficPolicy, PortKey, ServiceType};
use fairway_config::time::Timestamp;

use super::services::{Id, Services};
use super::surroundings::Surroundings;
use crate::route::Claim;

/// What can be claimed once.
pub(super) type Place = (ListenAddr, Protocol);

/// Something that a Service wants to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Want {
    /// What.
    pub(super) claim: Claim,
    /// For which of its ports; none: for its health check.
    pub(super) port: Option<PortKey>,
}

impl Want {
    fn place(&self) -> Place {
        (self.claim.listen, self.claim.protocol)
    }
}

/// Everything that a Service wants to claim, ordered by place, each place once.
pub(super) fn wants(stored: &StoredService, around: &Surroundings) -> Vec<Want> {
    let service = &stored.service;
    let carried = |port: &PortKey| matches!(port.protocol, Protocol::Tcp | Protocol::Udp);
    let keys = || service.ports.iter().map(|port| port.key()).filter(carried);
    let want = |address: IpAddr, number: u16, kind: ClaimKind, key: Option<PortKey>| Want {
        claim: Claim {
            listen: ListenAddr(SocketAddr::new(address, number)),
            protocol: key.map_or(Protocol::Tcp, |key| key.protocol),
            kind,
        },
        port: key,
    };
    let places = stored.held.addresses.len() + around.node_addresses.len();
    let mut wants = Vec::with_capacity(service.ports.len() * places);
    if around.is_ours(service) {
        for address in stored
            .held
            .addresses
            .iter()
            .filter(|address| around.carries(**address))
        {
            wants.extend(keys().map(|key| want(*address, key.port, ClaimKind::Vip, Some(key))));
        }
    }
    if around.has_node_ports(service) && !around.would_loop(service) {
        for key in keys() {
            if let Some(number) = stored.held.node_ports.get(&key) {
                let each = around.node_addresses.iter();
                wants.extend(each.map(|node| want(*node, *number, ClaimKind::NodePort, Some(key))));
            }
        }
        if let Some(number) = health_check_port(stored) {
            let each = around.node_addresses.iter();
            wants.extend(each.map(|node| want(*node, number, ClaimKind::HealthCheck, None)));
        }
    }
    wants.sort_by_key(|want| (want.place(), want.claim.kind));
    wants.dedup_by_key(|want| want.place());
    wants
}

/// The `healthCheckNodePort`, where the Service is one that has it.
fn health_check_port(stored: &StoredService) -> Option<u16> {
    let has_it = stored.service.kind == ServiceType::LoadBalancer
        && stored.service.external_traffic_policy == ExternalTrafficPolicy::Local;
    stored.held.health_check_node_port.filter(|_| has_it)
}

/// Since when a Service is there.
pub(super) fn age(stored: &StoredService) -> Timestamp {
    stored.service.created.unwrap_or(stored.first_seen)
}

/// Who has what; what each Service wants is in its [`Entry`](super::services::Entry).
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The Services that have a place: the oldest, then the first by name, of those that want it.
    owners: HashMap<Place, Id>,
    /// Who else wants a place, in that order. Nearly always nobody, so that whoever wants a place
    /// need not be held against its owner.
    waiting: HashMap<Place, Vec<Id>>,
}

/// What a change of claims touches.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Places of which the claimants changed.
    pub(super) places: Vec<Place>,
    /// Who else wants one of them.
    pub(super) rivals: Vec<Id>,
}

impl Claims {
    /// A Service of that age now wants this. Adds to `moved` what that touches.
    pub(super) fn set(
        &mut self,
        services: &mut Services,
        id: Id,
        age: Timestamp,
        wants: Vec<Want>,
        moved: &mut Moved,
    ) {
        let Some(entry) = services.get_mut(id) else {
            return;
        };
        let same_age = entry.age == age;
        if same_age && *entry.wants == *wants {
            return;
        }
        let before = std::mem::replace(&mut entry.wants, wants.into());
        entry.age = age;
        let services = &*services;
        let now = services.get(id).map_or(&[][..], |entry| &entry.wants);
        let stays = |want: &Want, in_list: &[Want]| {
            same_age
                && in_list
                    .binary_search_by_key(&want.place(), Want::place)
                    .is_ok()
        };
        for want in before.iter().filter(|want| !stays(want, now)) {
            self.let_go(want.place(), id, moved);
        }
        for want in now.iter().filter(|want| !stays(want, &before)) {
            self.take(services, want.place(), id, moved);
        }
    }

    /// Who has what a Service wants.
    pub(super) fn owner_of(&self, want: &Want, id: Id) -> Id {
        let place = want.place();
        if self.waiting.contains_key(&place) {
            self.owner(place).unwrap_or(id)
        } else {
            id
        }
    }

    /// Who has a place.
    pub(super) fn owner(&self, place: Place) -> Option<Id> {
        self.owners.get(&place).copied()
    }

    fn let_go(&mut self, place: Place, id: Id, moved: &mut Moved) {
        moved.places.push(place);
        let Some(waiting) = self.waiting.get_mut(&place) else {
            self.owners.remove(&place);
            return;
        };
        if let Some(owner) = self.owners.get_mut(&place) {
            if *owner == id {
                *owner = waiting.remove(0);
            } else {
                waiting.retain(|other| *other != id);
            }
            moved.rivals.push(*owner);
        }
        moved.rivals.extend(waiting.iter().copied());
        if waiting.is_empty() {
            self.waiting.remove(&place);
        }
    }

    fn take(&mut self, services: &Services, place: Place, id: Id, moved: &mut Moved) {
        moved.places.push(place);
        let owner = match self.owners.entry(place) {
            Entry::Vacant(vacant) => {
                vacant.insert(id);
                return;
            }
            Entry::Occupied(owner) => owner.into_mut(),
        };
        let rank = |id: Id| services.get(id).map(|entry| (entry.age, &entry.name));
        let waiting = self.waiting.entry(place).or_default();
        moved.rivals.push(*owner);
        moved.rivals.extend(waiting.iter().copied());
        let mut last = id;
        if rank(last) < rank(*owner) {
            std::mem::swap(&mut last, owner);
        }
        let at = waiting.partition_point(|other| rank(*other) < rank(last));
        waiting.insert(at, last);
    }
}
