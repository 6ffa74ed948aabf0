//! Logs decisions: which Service got which address, which one waits for an address, and why. Over an API
//! server Events say the same.

use std::net::IpAddr;

use fairway_config::conditions::ADDRESS_ASSIGNED;
use fairway_config::exchange::{Condition, StoredService};

/// Logs what a decision that has taken effect has changed.
pub(super) fn tell(before: Option<&StoredService>, after: &StoredService) {
    let service = &after.service.name;
    let former = before.map(|it| &*it.held.addresses).unwrap_or_default();
    let latter = &*after.held.addresses;
    let assigned = except(latter, former);
    if !assigned.is_empty() {
        tracing::info!(%service, addresses = assigned, "external address assigned");
    }
    let released = except(former, latter);
    if !released.is_empty() {
        tracing::info!(%service, addresses = released, "external address released");
    }
    let node_ports = |it: &StoredService| {
        let numbers = it.held.node_ports.values().map(u16::to_string);
        numbers.collect::<Vec<_>>().join(",")
    };
    let (old, new) = (
        before.map(node_ports).unwrap_or_default(),
        node_ports(after),
    );
    if old != new && !new.is_empty() {
        tracing::info!(%service, node_ports = new, "node ports assigned");
    }
    let pending = pending(after);
    if let Some(pending) = pending
        && before.and_then(self::pending).map(said) != Some(said(pending))
    {
        let (reason, why) = said(pending);
        tracing::warn!(%service, reason, why, "external address pending");
    }
}

/// The condition that says that an address is missing.
fn pending(service: &StoredService) -> Option<&Condition> {
    let assigned = service.status.conditions.get(ADDRESS_ASSIGNED);
    assigned.filter(|condition| !condition.status)
}

fn said(condition: &Condition) -> (&str, &str) {
    (&condition.reason, &condition.message)
}

fn except(all: &[IpAddr], others: &[IpAddr]) -> String {
    let rest = all.iter().filter(|address| !others.contains(address));
    rest.map(ToString::to_string).collect::<Vec<_>>().join(",")
}
