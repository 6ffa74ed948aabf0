//! Assigns node ports, and says which waiting Services that concerns.

use std::collections::BTreeSet;
use std::sync::Arc;

use fairway_config::exchange::Held;
use fairway_config::net::Protocol;
use fairway_config::service::{PortKey, Service};

use super::run::Run;
use crate::allocations::Allocations;
use crate::ports::Use;
use crate::queue::{ServiceSlot, WaitsFor};
use crate::wants::{self, NumberWant};

impl Run<'_> {
    pub(super) fn keep_numbers(&mut self, slot: ServiceSlot, service: &Service, base: &Held) {
        let ours = self.allocations.settings.allocates_node_ports;
        for port in &service.ports {
            let key = port.key();
            let number = match wants::number_want(service, port) {
                // In a cluster the API server allocates: the Service has what its spec says.
                _ if !ours => port.node_port,
                NumberWant::None => None,
                NumberWant::Asked(asked) => {
                    let held = base.node_ports.get(&key).copied();
                    held.filter(|held| *held == asked)
                }
                NumberWant::KeepOnly | NumberWant::Any | NumberWant::Unreadable => {
                    base.node_ports.get(&key).copied()
                }
            };
            if let Some(number) = number {
                self.take_number(slot, Use::Port(key), number, true);
            }
        }
        let held = base.health_check_node_port;
        let number = match wants::health_check_want(service) {
            _ if !ours => service.health_check_node_port,
            NumberWant::None => None,
            NumberWant::Asked(asked) => held.filter(|held| *held == asked),
            NumberWant::KeepOnly | NumberWant::Any | NumberWant::Unreadable => held,
        };
        if let Some(number) = number {
            self.take_number(slot, Use::HealthCheck, number, true);
        }
    }

    /// Takes a number if the Service may have it.
    fn take_number(&mut self, slot: ServiceSlot, wanted: Use, number: u16, held: bool) -> bool {
        let numbers = &mut self.allocations.numbers;
        if numbers.may_take(number, slot, wanted, held).is_err() {
            return false;
        }
        let Some(entry) = self.index.get_mut(slot) else {
            return false;
        };
        numbers.take(number, slot, &entry.stored.service.name, wanted);
        match wanted {
            Use::Port(key) => {
                entry.granted.node_ports.insert(key, number);
            }
            Use::HealthCheck => entry.granted.health_check_node_port = Some(number),
            Use::Leaving => {}
        }
        true
    }

    pub(super) fn give_numbers(&mut self, slot: ServiceSlot, asked: bool) {
        if !self.allocations.settings.allocates_node_ports {
            return;
        }
        let Some(entry) = self.index.get(slot) else {
            return;
        };
        let service = Arc::clone(&entry.stored.service);
        let missing = missing_numbers(&service, &entry.granted);
        for (wanted, want) in missing {
            let number = match want {
                NumberWant::Asked(number) if asked => number,
                NumberWant::Any if !asked => {
                    let Some(number) = self.number_for(slot, wanted) else {
                        continue;
                    };
                    number
                }
                _ => continue,
            };
            if self.take_number(slot, wanted, number, false) {
                self.given.push(slot);
                self.wake(&WaitsFor::NodePort(number));
            }
        }
    }

    /// The number for a port that asks for none: what the same port has in the other protocol, as
    /// Kubernetes does for DNS, else the lowest that is free.
    fn number_for(&self, slot: ServiceSlot, wanted: Use) -> Option<u16> {
        let numbers = &self.allocations.numbers;
        if let Use::Port(key) = wanted {
            let granted = &self.index.get(slot)?.granted.node_ports;
            let of_other_protocol = |protocol| granted.get(&PortKey { protocol, ..key });
            let twin = [Protocol::Tcp, Protocol::Udp]
                .into_iter()
                .filter_map(of_other_protocol)
                .find(|number| numbers.may_take(**number, slot, wanted, true).is_ok());
            if let Some(number) = twin {
                return Some(*number);
            }
        }
        numbers.lowest().ok()
    }
}

/// The ports and the health check that want a number and have none.
pub(crate) fn missing_numbers(service: &Service, granted: &Held) -> Vec<(Use, NumberWant)> {
    let ports = service.ports.iter().filter_map(|port| {
        let missing = !granted.node_ports.contains_key(&port.key());
        missing.then(|| (Use::Port(port.key()), wants::number_want(service, port)))
    });
    let missing = granted.health_check_node_port.is_none();
    let health_check = missing.then(|| (Use::HealthCheck, wants::health_check_want(service)));
    ports
        .chain(health_check)
        .filter(|(_, want)| !matches!(want, NumberWant::None | NumberWant::KeepOnly))
        .collect()
}

/// Which waits concern numbers that a Service has got or released.
pub(super) fn number_waits(
    allocations: &Allocations,
    old: &Held,
    new: &Held,
    waits: &mut Vec<WaitsFor>,
) {
    if old.node_ports == new.node_ports && old.health_check_node_port == new.health_check_node_port
    {
        return;
    }
    let numbers = |held: &Held| -> BTreeSet<u16> {
        let all = held.node_ports.values().chain(&held.health_check_node_port);
        all.copied().collect()
    };
    let (old, new) = (numbers(old), numbers(new));
    if !old.is_subset(&new) && allocations.numbers.has_free() {
        waits.push(WaitsFor::AnyNodePort);
    }
    let moved = old.symmetric_difference(&new);
    waits.extend(moved.copied().map(WaitsFor::NodePort));
}
