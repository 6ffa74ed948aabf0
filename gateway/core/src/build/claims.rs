//! Who listens where: what each Service wants to claim, and who gets it.
//!
//! The controller gives no address and port to two Services, but what one lets go and another
//! takes may arrive in either order. Until both have, the older Service (then the first by name)
//! has the claim, which depends on the two alone and not on who came first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};

use fairway_config::exchange::{ClaimKind, StoredService};
use fairway_config::names::ServiceName;
use fairway_config::net::{ListenAddr, Protocol};
use fairway_config::service::{ExternalTrafficPolicy, PortKey, ServiceType};
use fairway_config::time::Timestamp;

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
    let mut wants = Vec::new();
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
    wants.shrink_to_fit();
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

/// Who wants what, and who has it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    wants: HashMap<ServiceName, (Timestamp, Vec<Want>)>,
    places: HashMap<Place, Claimants>,
}

/// The Services that want one place: the oldest, then the first by name, has it. Nearly always one.
#[derive(Debug)]
struct Claimants {
    owner: Claimant,
    /// The others, in order.
    waiting: Vec<Claimant>,
}

type Claimant = (Timestamp, ServiceName);

impl Claimants {
    fn add(&mut self, mut claimant: Claimant) {
        if claimant < self.owner {
            std::mem::swap(&mut claimant, &mut self.owner);
        }
        let at = self.waiting.partition_point(|other| *other < claimant);
        self.waiting.insert(at, claimant);
    }

    /// Takes a claimant out; false where it was the only one.
    fn remove(&mut self, service: &ServiceName) -> bool {
        if self.owner.1 != *service {
            self.waiting.retain(|(_, name)| name != service);
        } else if self.waiting.is_empty() {
            return false;
        } else {
            self.owner = self.waiting.remove(0);
        }
        true
    }

    fn but(&self, service: &ServiceName) -> Vec<ServiceName> {
        let all = std::iter::once(&self.owner).chain(&self.waiting);
        all.map(|(_, name)| name)
            .filter(|name| *name != service)
            .cloned()
            .collect()
    }
}

/// A place of which the claimants changed.
#[derive(Debug)]
pub(super) struct Moved {
    /// Which.
    pub(super) place: Place,
    /// Who wants it too.
    pub(super) others: Vec<ServiceName>,
}

impl Claims {
    /// A Service of that age now wants this. Adds to `moved` what that touches.
    pub(super) fn set(
        &mut self,
        service: &ServiceName,
        age: Timestamp,
        wants: Vec<Want>,
        moved: &mut Vec<Moved>,
    ) {
        let none = (age, Vec::new());
        let (before_age, before) = self.wants.get(service).unwrap_or(&none);
        if *before_age == age && *before == wants {
            return;
        }
        let stays = |place: &Place, in_list: &[Want]| {
            *before_age == age && in_list.binary_search_by_key(place, Want::place).is_ok()
        };
        for place in before
            .iter()
            .map(Want::place)
            .filter(|place| !stays(place, &wants))
        {
            let Some(claimants) = self.places.get_mut(&place) else {
                continue;
            };
            let others = claimants.but(service);
            if !claimants.remove(service) {
                self.places.remove(&place);
            }
            moved.push(Moved { place, others });
        }
        for place in wants
            .iter()
            .map(Want::place)
            .filter(|place| !stays(place, before))
        {
            let claimant = (age, service.clone());
            let others = match self.places.entry(place) {
                Entry::Vacant(vacant) => {
                    let waiting = Vec::new();
                    vacant.insert(Claimants {
                        owner: claimant,
                        waiting,
                    });
                    Vec::new()
                }
                Entry::Occupied(mut claimants) => {
                    claimants.get_mut().add(claimant);
                    claimants.get().but(service)
                }
            };
            moved.push(Moved { place, others });
        }
        if wants.is_empty() {
            self.wants.remove(service);
        } else {
            self.wants.insert(service.clone(), (age, wants));
        }
    }

    /// What a Service wants, and who has it.
    pub(super) fn of(&self, service: &ServiceName) -> impl Iterator<Item = (&Want, &ServiceName)> {
        let wants = self
            .wants
            .get(service)
            .map(|(_, wants)| wants.as_slice())
            .unwrap_or_default();
        wants
            .iter()
            .filter_map(|want| Some((want, self.owner(want.place())?)))
    }

    /// Who has a place.
    pub(super) fn owner(&self, place: Place) -> Option<&ServiceName> {
        self.places.get(&place).map(|claimants| &claimants.owner.1)
    }
}
