//! Which waits may be over when a Service takes or releases something.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::Held;
use fairway_config::net::IpFamily;
use fairway_config::service::Service;

use super::node_ports::number_waits;
use super::run::Run;
use crate::allocations::Allocations;
use crate::queue::{ServiceSlot, WaitsFor};

impl Run<'_> {
    /// Wakes the Services that the difference between what a changed Service had and has may
    /// concern.
    pub(super) fn wake_after(
        &mut self,
        slot: ServiceSlot,
        old: &Held,
        was: &Service,
        service: &Service,
        same_terms: bool,
    ) {
        if !self.index.anyone_waits() {
            return;
        }
        let Some(entry) = self.index.get(slot) else {
            return;
        };
        let mut waits = Vec::new();
        for address in &old.addresses {
            if !entry.granted.addresses.contains(address) || !same_terms {
                released_waits(self.allocations, *address, was, &mut waits);
            }
        }
        for address in &entry.granted.addresses {
            if !old.addresses.contains(address) || !same_terms {
                taken_waits(self.allocations, *address, service, &mut waits);
            }
        }
        number_waits(self.allocations, old, &entry.granted, &mut waits);
        for wait in waits {
            self.wake(&wait);
        }
    }
}

/// The waits that a Service that is gone may have caused.
pub(crate) fn waits_after_removal(
    allocations: &Allocations,
    held: &Held,
    service: &Service,
) -> Vec<WaitsFor> {
    let mut waits = Vec::new();
    for address in &held.addresses {
        released_waits(allocations, *address, service, &mut waits);
    }
    number_waits(allocations, held, &Held::default(), &mut waits);
    waits
}

/// Whether two forms of a Service are alike to Services that may share an address with it.
pub(super) fn same_terms(a: &Service, b: &Service) -> bool {
    a.asks.sharing_key == b.asks.sharing_key
        && a.asks.sharing_namespaces == b.asks.sharing_namespaces
        && a.ports.len() == b.ports.len()
        && a.ports
            .iter()
            .zip(&b.ports)
            .all(|(a, b)| a.key() == b.key())
}

/// Whether a Service shares its address with none, or with another key or other namespaces than
/// before.
pub(super) fn drops_out(before: &Service, now: &Service) -> bool {
    now.asks.sharing_key.is_none()
        || before.asks.sharing_key != now.asks.sharing_key
        || before.asks.sharing_namespaces != now.asks.sharing_namespaces
}

/// The waits that may be over when a Service has released an address.
fn released_waits(
    allocations: &Allocations,
    address: IpAddr,
    service: &Service,
    waits: &mut Vec<WaitsFor>,
) {
    let family = IpFamily::of(address);
    for pool in allocations.pools.containing(address) {
        if pool.free(family).available() > 0 {
            waits.push(WaitsFor::Pool(pool.name().clone(), family));
        }
    }
    address_waits(allocations, address, service, waits);
}

/// The waits that may be over when a Service has taken an address.
pub(super) fn taken_waits(
    allocations: &Allocations,
    address: IpAddr,
    service: &Service,
    waits: &mut Vec<WaitsFor>,
) {
    let family = IpFamily::of(address);
    for pool in allocations.pools.containing(address) {
        if pool.free(family).available() == 0 {
            waits.push(WaitsFor::PoolEmpty(pool.name().clone(), family));
        }
    }
    address_waits(allocations, address, service, waits);
}

fn address_waits(
    allocations: &Allocations,
    address: IpAddr,
    service: &Service,
    waits: &mut Vec<WaitsFor>,
) {
    waits.push(WaitsFor::Address(address));
    // Its own key, and that of those who stay: it may have been in their way without having theirs.
    let keys = [
        service.asks.sharing_key.as_ref(),
        allocations.holders.sharing_key(address),
    ];
    for key in keys.into_iter().flatten() {
        waits.push(WaitsFor::Sharing(Arc::clone(key)));
    }
    for pool in allocations.pools.containing(address) {
        if pool.config.quota_per_namespace.is_some() {
            let namespace = Arc::clone(&service.name.namespace);
            waits.push(WaitsFor::Quota(pool.name().clone(), namespace));
        }
    }
}
