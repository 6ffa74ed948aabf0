//! Assigns addresses and node ports: first each Service keeps what it may keep, then the rest is
//! given out.
//!
//! [`assign`] works on the Services that changed and on those whose wait may be over, never on all.
//! Its result is that of working on all of them, because every reason for which a Service was
//! refused is a [`WaitsFor`], and every change that could end such a reason wakes who waits for it.
//!
//! The order of giving: requested addresses and node ports, then what the author's copy of the
//! status names, then the lowest that is free; in each, the older Service first.

mod node_ports;
mod run;
mod wakes;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{Held, Status};
use fairway_config::net::{IpFamily, Protocol};
use fairway_config::service::{IpFamilyPolicy, PortKey, Service};

pub(crate) use self::node_ports::missing_numbers;
use self::run::Run;
pub(crate) use self::wakes::waits_after_removal;
use self::wakes::{drops_out, same_terms, taken_waits};
use crate::allocations::{AddressPreference, Allocations};
use crate::holders::Leaving;
use crate::index::{Index, IndexedService};
use crate::node_port_requester;
use crate::ports::Use;
use crate::queue::{QueueKey, ServiceQueue, ServiceSlot, WaitsFor};
use crate::wants::{self, NumberWant};

/// Assigns. Answers with the Services of which something may have changed, in the order in which
/// they were served.
pub(crate) fn assign(
    allocations: &mut Allocations,
    index: &mut Index,
    changed: BTreeSet<ServiceSlot>,
    wakes: Vec<WaitsFor>,
) -> Vec<ServiceSlot> {
    let mut run = Run {
        allocations,
        index,
        next: ServiceQueue::new(),
        given: Vec::new(),
    };
    let changed = run.with_rivals(changed);
    run.keep(&changed);
    run.next.extend(changed);
    for wait in wakes {
        run.wake(&wait);
    }
    run.give()
}

impl Run<'_> {
    /// The changed Services, and those that may hold the same addresses or numbers: it is decided
    /// among all of them who keeps what.
    fn with_rivals(&self, changed: BTreeSet<ServiceSlot>) -> ServiceQueue {
        let mut slots = changed.clone();
        for entry in changed.iter().filter_map(|slot| self.index.get(*slot)) {
            let base = entry.base();
            for address in &base.addresses {
                let service = &entry.stored.service;
                slots.extend(self.allocations.holders.rivals(*address, service));
            }
            let numbers = base.node_ports.values().chain(&base.health_check_node_port);
            slots.extend(numbers.filter_map(|number| self.allocations.numbers.owner(*number)));
        }
        slots
            .iter()
            .filter_map(|slot| self.index.get(*slot).map(|entry| entry.rank.clone()))
            .collect()
    }

    /// Releases everything that the changed Services have, and allocates again what they may keep.
    fn keep(&mut self, changed: &ServiceQueue) {
        struct Before {
            slot: ServiceSlot,
            service: Arc<Service>,
            base: Held,
            old: Held,
            old_service: Arc<Service>,
            terms_changed: bool,
            left_numbers: Vec<u16>,
        }
        let mut all = Vec::with_capacity(changed.len());
        for QueueKey { slot, .. } in changed {
            let Some(entry) = self.index.get_mut(*slot) else {
                continue;
            };
            let base = entry.base().clone();
            let mut old = std::mem::take(&mut entry.granted);
            let left = entry.leaving.take().map(|left| *left).unwrap_or_default();
            let terms_changed = std::mem::take(&mut entry.lets_go);
            let service = Arc::clone(&entry.stored.service);
            let old_service = std::mem::replace(&mut entry.granted_to, Arc::clone(&service));
            release(self.allocations, *slot, &old, &old_service);
            release(self.allocations, *slot, &left, &old_service);
            node_port_requester::release(
                self.allocations,
                *slot,
                entry.node_port_request.as_deref(),
            );
            old.addresses.extend(left.addresses);
            let left_numbers = left.node_ports.into_values().collect();
            all.push(Before {
                slot: *slot,
                service,
                base,
                old,
                old_service,
                terms_changed,
                left_numbers,
            });
        }
        // A Service that asks for more ports on a shared address than before does not push out
        // another one: it comes after all that ask for what they had.
        for newcomers in [false, true] {
            // Ports that a newcomer leaves: another newcomer that wants such a port would wait for
            // the first one, and that one perhaps for it.
            let mut left = BTreeSet::new();
            // A Service that has changed its sharing key or namespaces moves, and not one that has
            // kept them.
            let (stays, drops_out): (Vec<_>, Vec<_>) = all
                .iter()
                .partition(|it| !drops_out(&it.old_service, &it.service));
            for before in stays.into_iter().chain(drops_out) {
                let newcomers = newcomers.then_some(&mut left);
                self.keep_addresses(before.slot, &before.service, &before.base, newcomers);
            }
        }
        for before in &all {
            self.keep_numbers(before.slot, &before.service, &before.base);
        }
        for before in &all {
            if let Some(entry) = self.index.get_mut(before.slot) {
                node_port_requester::keep(self.allocations, before.slot, entry);
            }
        }
        for before in &all {
            self.hold_back(before.slot, &before.service);
        }
        for before in &all {
            for number in &before.left_numbers {
                self.wake(&WaitsFor::NodePort(*number));
                self.wake(&WaitsFor::AnyNodePort);
            }
            let same = !before.terms_changed && same_terms(&before.old_service, &before.service);
            self.wake_after(
                before.slot,
                &before.old,
                &before.old_service,
                &before.service,
                same,
            );
        }
    }

    /// Reserves what a Service has released until the store shows the release.
    fn hold_back(&mut self, slot: ServiceSlot, service: &Arc<Service>) {
        let Some(entry) = self.index.get(slot) else {
            return;
        };
        let written = entry.written.as_ref().map(|written| &written.0);
        let mut leaving = Held::default();
        for held in [Some(&entry.stored.held), written].into_iter().flatten() {
            for address in &held.addresses {
                let known = [&entry.granted.addresses, &leaving.addresses];
                if !known.iter().any(|known| known.contains(address)) {
                    leaving.addresses.push(*address);
                }
            }
            for number in held.node_ports.values().chain(&held.health_check_node_port) {
                if self.allocations.numbers.owner(*number).is_none() {
                    let name = &entry.stored.service.name;
                    self.allocations
                        .numbers
                        .take(*number, slot, name, Use::Leaving);
                    let key = PortKey {
                        protocol: Protocol::Tcp,
                        port: *number,
                    };
                    leaving.node_ports.insert(key, *number);
                }
            }
        }
        for address in &leaving.addresses {
            let allocations = &mut *self.allocations;
            allocations.take_address(*address, slot, service, Leaving::Address);
        }
        let ports_leave = |address: &IpAddr| !entry.leaving_ports(*address).is_empty();
        let lets_go = leaving != Held::default() || entry.granted.addresses.iter().any(ports_leave);
        if let Some(entry) = self.index.get_mut(slot) {
            entry.leaving = (leaving != Held::default()).then(|| Box::new(leaving));
            entry.lets_go = lets_go;
        }
    }

    fn keep_addresses(
        &mut self,
        slot: ServiceSlot,
        service: &Arc<Service>,
        base: &Held,
        mut newcomers: Option<&mut BTreeSet<(IpAddr, PortKey)>>,
    ) {
        // What another controller has given out counts as taken: all controllers share the pools.
        let is_others = service.asks.other_controller.is_some();
        let wants = wants::wants_address(&self.allocations.settings, service);
        if base.addresses.is_empty() || !(wants || is_others) {
            return;
        }
        let families = self.allocations.families(service, &base.addresses);
        for &address in &base.addresses {
            let Some(entry) = self.index.get(slot) else {
                return;
            };
            let granted = &entry.granted.addresses;
            let is_newcomer = !is_others && !had_all_ports(entry.last_status(), address, service);
            let family = IpFamily::of(address);
            let in_the_way = newcomers.as_ref().is_some_and(|left| {
                let mut ports = service.ports.iter();
                ports.any(|port| left.contains(&(address, port.key())))
            });
            if is_newcomer != newcomers.is_some()
                || in_the_way
                || (!is_others && !families.contains(&family))
                || granted.iter().any(|a| IpFamily::of(*a) == family)
                || (!is_others && self.asks_for_another(service, address))
                || self
                    .allocations
                    .is_refused_by_probe(address, &[&entry.stored.held, entry.last_held()])
                || !self.allocations.holders.may_stay(address, service)
            {
                continue;
            }
            let leaving = entry.leaving_ports(address);
            if let Some(left) = &mut newcomers {
                left.extend(leaving.iter().map(|port| (address, *port)));
            }
            let leaving = Leaving::Ports(leaving);
            self.allocations
                .take_address(address, slot, service, leaving);
            self.note_address(slot, address, &families);
        }
    }

    /// Whether a Service that holds `address` wants another in its place: another one by number,
    /// or one from a pool that there is, while this one belongs to a different pool. An address
    /// that is in no pool any more stays.
    fn asks_for_another(&self, service: &Service, address: IpAddr) -> bool {
        if let Some(asked) = wants::asked_address(service, IpFamily::of(address)) {
            return asked != address;
        }
        let Some(requested) = &service.asks.pool else {
            return false;
        };
        let elsewhere = self.allocations.pools.get(requested);
        elsewhere.is_some_and(|pool| !pool.contains(address))
            && self.allocations.pools.containing(address).next().is_some()
    }

    fn note_address(&mut self, slot: ServiceSlot, address: IpAddr, families: &[IpFamily]) {
        if let Some(entry) = self.index.get_mut(slot) {
            entry.granted.addresses.push(address);
            let place = |a: &IpAddr| families.iter().position(|f| *f == IpFamily::of(*a));
            entry.granted.addresses.sort_by_key(place);
        }
    }

    /// Gives out in rounds: an address that one Service takes may be one that another waits to
    /// share.
    fn give(&mut self) -> Vec<ServiceSlot> {
        let mut touched = BTreeSet::new();
        while !self.next.is_empty() {
            let mut round = std::mem::take(&mut self.next);
            for rank in &round {
                self.give_numbers(rank.slot, true);
                self.give_addresses(rank.slot, AddressPreference::Asked);
            }
            for rank in &round {
                self.give_addresses(rank.slot, AddressPreference::Wish);
            }
            while let Some(rank) = round.pop_first() {
                self.give_addresses(rank.slot, AddressPreference::Any);
                self.give_numbers(rank.slot, false);
                for wait in self.renew_waits(rank.slot) {
                    if self.is_over(&wait) {
                        round.extend(self.index.next_waiting(&wait, Some(&rank)).cloned());
                    }
                }
                touched.insert(rank.slot);
            }
        }
        // Each Service stands where it was last given something; those that were given nothing come
        // at the end.
        let mut order = Vec::with_capacity(touched.len());
        for slot in self.given.iter().rev() {
            if touched.remove(slot) {
                order.push(*slot);
            }
        }
        order.reverse();
        order.extend(touched);
        order
    }

    /// Whether there is still something free of what many Services wait for.
    fn is_over(&self, wait: &WaitsFor) -> bool {
        match wait {
            WaitsFor::Pool(name, family) => {
                let pool = self.allocations.pools.get(name);
                pool.is_some_and(|pool| pool.free(*family).available() > 0)
            }
            WaitsFor::AnyNodePort => self.allocations.numbers.has_free(),
            _ => false,
        }
    }

    fn give_addresses(&mut self, slot: ServiceSlot, preference: AddressPreference) {
        let Some(entry) = self.index.get(slot) else {
            return;
        };
        let service = Arc::clone(&entry.stored.service);
        let nothing_to_find = match preference {
            AddressPreference::Asked => service.asks.addresses.is_empty(),
            AddressPreference::Wish => service.status_addresses.is_empty(),
            AddressPreference::Any => false,
        };
        if nothing_to_find || !wants::wants_address(&self.allocations.settings, &service) {
            return;
        }
        let held = &entry.granted.addresses;
        let families = self.allocations.families(&service, held);
        let mut planned = held.clone();
        let mut found = Vec::new();
        let mut complete = true;
        for &family in &families {
            if held.iter().any(|a| IpFamily::of(*a) == family) {
                continue;
            }
            match self
                .allocations
                .find(&service, family, preference, &planned)
            {
                Some(address) => {
                    planned.push(address);
                    found.push(address);
                }
                None => complete = false,
            }
        }
        if service.ip_family_policy == IpFamilyPolicy::RequireDualStack && !complete {
            return;
        }
        for address in found {
            if self.allocations.is_to_be_probed(&service, address) {
                self.allocations.probes.begin(address);
            }
            let leaving = Leaving::Ports(Vec::new());
            self.allocations
                .take_address(address, slot, &service, leaving);
            self.note_address(slot, address, &families);
            self.given.push(slot);
            if self.index.anyone_waits() {
                let mut waits = Vec::new();
                taken_waits(self.allocations, address, &service, &mut waits);
                for wait in waits {
                    self.wake(&wait);
                }
            }
        }
    }

    /// Notes what the Service waits for now. Answers with that, and with what it waited for before.
    fn renew_waits(&mut self, slot: ServiceSlot) -> Vec<WaitsFor> {
        let Some(entry) = self.index.get(slot) else {
            return Vec::new();
        };
        let service = &entry.stored.service;
        let mut waits = Vec::new();
        if wants::wants_address(&self.allocations.settings, service) {
            let held = &entry.granted.addresses;
            self.allocations.waits(service, held, &mut waits);
            waits.extend(blocked(self.allocations, entry).map(WaitsFor::Address));
        }
        if self.allocations.settings.allocates_node_ports {
            let missing = missing_numbers(service, &entry.granted);
            waits.extend(missing.into_iter().filter_map(|(_, want)| match want {
                NumberWant::Asked(number) => Some(WaitsFor::NodePort(number)),
                NumberWant::Any => Some(WaitsFor::AnyNodePort),
                NumberWant::None | NumberWant::KeepOnly | NumberWant::Unreadable => None,
            }));
        }
        let mut all = entry.waits.clone();
        all.extend(waits.iter().cloned());
        self.index.set_waits(slot, waits);
        all
    }
}

/// Releases everything that a Service has been allocated.
pub(crate) fn release(
    allocations: &mut Allocations,
    slot: ServiceSlot,
    held: &Held,
    service: &Service,
) {
    for address in &held.addresses {
        allocations.release_address(*address, service);
    }
    for number in held.node_ports.values().chain(&held.health_check_node_port) {
        allocations.numbers.release(*number, slot);
    }
}

/// The addresses on which a Service has come to ports that the store still shows with another one.
/// What it was granted is written when the other one has released them.
pub(crate) fn blocked(
    allocations: &Allocations,
    entry: &IndexedService,
) -> impl Iterator<Item = IpAddr> {
    let service = &entry.stored.service;
    let addresses = entry.granted.addresses.iter().copied();
    addresses.filter(move |address| {
        !had_all_ports(entry.last_status(), *address, service)
            && allocations.holders.is_leaving(*address, service)
    })
}

/// Whether the status gave a Service this address for all of its ports.
fn had_all_ports(status: &Status, address: IpAddr, service: &Service) -> bool {
    let ingress = status.ingress.iter().find(|ingress| ingress.ip == address);
    ingress.is_some_and(|ingress| {
        let had: BTreeSet<_> = ingress.ports.iter().map(|port| port.key).collect();
        service.ports.iter().all(|port| had.contains(&port.key()))
    })
}
