//! What a controller's state does with addresses that are asked for before they are shown; see
//! [`address_probes`](crate::address_probes).

use std::net::IpAddr;

use fairway_config::names::ServiceName;
use fairway_config::net::IpFamily;
use fairway_config::time::Timestamp;

use crate::address_probes::{ASIDE, AddressAside, ProbeAnswer, Respondents};
use crate::allocations::Allocations;
use crate::assign::assign;
use crate::events::Event;
use crate::index::IndexedService;
use crate::queue::{ServiceSlot, WaitsFor};
use crate::state::State;

impl State {
    /// Events of Services that no status tells, since the last call.
    pub fn take_events(&mut self) -> Vec<(ServiceName, Event)> {
        std::mem::take(&mut self.events)
    }

    /// When [`State::settle`] has something to do even if nothing changes.
    pub fn due(&self) -> Option<Timestamp> {
        let due = [self.allocations.probes.due(), self.peers.due()];
        due.into_iter().flatten().min().filter(|_| self.synced())
    }

    /// How many addresses are reserved and not shown yet, because gateways are asked for them.
    pub fn probing(&self) -> usize {
        self.allocations.probes.open()
    }

    /// Whether a Service is given an address that is not to be shown yet.
    pub(crate) fn is_probed(&self, entry: &IndexedService) -> bool {
        let mut addresses = entry.granted.addresses.iter();
        addresses.any(|address| self.allocations.probes.is_open(*address))
    }

    /// Gives out again what was set aside for long enough.
    pub(crate) fn take_back_aside(&mut self, now: Timestamp) {
        for address in self.allocations.probes.take_back(now) {
            let held = !self.allocations.holders.of(address).is_empty();
            self.allocations.pools.put_aside(address, None, held);
            let family = IpFamily::of(address);
            let pools = self.allocations.pools.containing(address);
            let waits = pools.map(|pool| WaitsFor::Pool(pool.name().clone(), family));
            self.wakes.extend(waits);
        }
    }

    /// Takes in what gateways have answered.
    pub(crate) fn conclude_probes(&mut self, now: Timestamp) {
        if self.allocations.probes.open() == 0 {
            return;
        }
        let respondents = self.gateways.respondents();
        for (address, answer) in self.allocations.probes.conclude(now, &respondents) {
            let holders = self.allocations.holders.of(address).iter();
            let slots: Vec<ServiceSlot> = holders.map(|holder| holder.slot).collect();
            match answer {
                ProbeAnswer::Free => self.restated.extend(slots),
                ProbeAnswer::Taken(hardware) => self.set_aside(address, hardware, slots, now),
            }
        }
    }

    fn set_aside(
        &mut self,
        address: IpAddr,
        hardware_address: Box<str>,
        slots: Vec<ServiceSlot>,
        now: Timestamp,
    ) {
        let services = slots.iter().filter_map(|slot| self.index.get(*slot));
        let services = services.map(|entry| entry.stored.service.name.clone());
        let aside = AddressAside {
            hardware_address,
            until: Timestamp(now.0 + ASIDE),
            services: services.collect(),
        };
        for service in &aside.services {
            let event = Event::address_passed_over(format!(
                "{address} is not given to the Service, because another host uses it: the one with the hardware \
                 address {}. The next one is tried",
                aside.hardware_address
            ));
            self.events.push((service.clone(), event));
        }
        let pools = &mut self.allocations.pools;
        pools.put_aside(address, Some(&aside.hardware_address), !slots.is_empty());
        self.allocations.probes.set_aside(address, aside);
        self.changed.extend(slots);
    }

    /// Assigns, and asks for addresses that are new. Answers with the Services of which something may have changed.
    pub(crate) fn assign_changed(&mut self, now: Timestamp) -> Vec<ServiceSlot> {
        let changed = std::mem::take(&mut self.changed);
        let wakes = std::mem::take(&mut self.wakes);
        let given = assign(&mut self.allocations, &mut self.index, changed, wakes);
        if self.allocations.probes.open() == 0 {
            return given;
        }
        let Allocations {
            probes,
            holders,
            pools,
            ..
        } = &mut self.allocations;
        probes.retain(|address| !holders.of(address).is_empty() && pools.is_announced(address));
        // Where there is nobody to ask there is nothing to wait for.
        if self.gateways.respondents() == Respondents::Processes([].into()) {
            self.conclude_probes(now);
        } else {
            self.allocations.probes.ask(now);
        }
        given
    }
}

impl Allocations {
    /// Has the statuses of pools say what gateways are asked.
    pub(crate) fn show_probes(&mut self) {
        if let Some(asked) = self.probes.news() {
            self.pools.set_probing(asked);
        }
    }

    /// What `explain` says of addresses that a Service has not got, or that are not shown yet.
    pub(crate) fn probe_sentences(&self, entry: &IndexedService) -> Vec<String> {
        let mut sentences = Vec::new();
        for address in &entry.granted.addresses {
            if self.probes.is_open(*address) {
                sentences.push(format!(
                    "{address} is reserved for it, and gateways ask on their networks whether another host uses it."
                ));
            }
        }
        let name = &entry.stored.service.name;
        let aside = self.probes.aside();
        for (address, aside) in aside.filter(|(_, it)| it.services.contains(name)) {
            sentences.push(format!(
                "{address} was not given to it, because another host uses it: the one with the hardware address {}. It \
                 is left out until {}.",
                aside.hardware_address, aside.until
            ));
        }
        sentences
    }
}
