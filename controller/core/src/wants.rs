//! What a Service asks for and may have, before it is known what is free.

use std::net::IpAddr;

use fairway_config::net::{IpFamily, Protocol};
use fairway_config::service::{
    ExternalTrafficPolicy, ForwardTo, IpFamilyPolicy, Service, ServicePort, ServiceType,
};

use crate::settings::Settings;

/// Whether the Service gets an external address from us. `fairway.dev/external-name` changes
/// nothing here; a plain ExternalName Service carries no traffic.
pub(crate) fn wants_address(settings: &Settings, service: &Service) -> bool {
    settings.class.takes(service) && !service.deleting && service.asks.other_controller.is_none()
}

/// How a port gets its node port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberWant {
    /// It gets none.
    None,
    /// It keeps the number that it has and gets no new one.
    KeepOnly,
    /// It gets this number or none.
    Asked(u16),
    /// It gets any free number.
    Any,
    /// Its request can't be read: it keeps the number that it has and gets no other.
    Unreadable,
}

/// How a port comes to its node port. Ports of a protocol that nothing carries get none.
///
/// In standalone mode Fairway is the allocator, so this is for NodePort and LoadBalancer Services
/// of every class. `allocateLoadBalancerNodePorts: false` releases none that were there (KEP-1864).
pub(crate) fn number_want(service: &Service, port: &ServicePort) -> NumberWant {
    if service.deleting || port.protocol == Protocol::Sctp {
        return NumberWant::None;
    }
    match (service.kind, port.node_port) {
        (ServiceType::ClusterIP | ServiceType::ExternalName, _) => NumberWant::None,
        (_, Some(number)) => NumberWant::Asked(number),
        (_, None) if service.asks.is_node_port_unreadable(port.key()) => NumberWant::Unreadable,
        (ServiceType::LoadBalancer, None) if !service.allocate_node_ports => NumberWant::KeepOnly,
        (_, None) => NumberWant::Any,
    }
}

/// Whether the API server has to be asked for node ports of a Service with
/// `allocateLoadBalancerNodePorts: false`: only where its own annotation says that traffic goes to
/// node ports.
pub(crate) fn asks_for_numbers(settings: &Settings, service: &Service) -> bool {
    !settings.allocates_node_ports
        && wants_address(settings, service)
        && !service.allocate_node_ports
        && service.asks.forward_to == Some(ForwardTo::NodePorts)
}

/// How a Service gets its `healthCheckNodePort`: only LoadBalancer Services with
/// `externalTrafficPolicy: Local` have one.
pub(crate) fn health_check_want(service: &Service) -> NumberWant {
    let has = service.kind == ServiceType::LoadBalancer
        && service.external_traffic_policy == ExternalTrafficPolicy::Local
        && !service.deleting;
    match (has, service.health_check_node_port) {
        (false, _) => NumberWant::None,
        (true, Some(number)) => NumberWant::Asked(number),
        (true, None) if service.asks.is_health_check_unreadable() => NumberWant::Unreadable,
        (true, None) => NumberWant::Any,
    }
}

/// The address families that a Service gets, in order.
///
/// Where `ipFamilies` is open: those of the requested addresses, else of what it holds, else what
/// `otherwise` says.
pub(crate) fn families(
    service: &Service,
    held: &[IpAddr],
    otherwise: impl FnOnce() -> IpFamily,
) -> Vec<IpFamily> {
    let distinct = |addresses: &[IpAddr]| {
        let mut families = Vec::new();
        for family in addresses.iter().map(|a| IpFamily::of(*a)) {
            if !families.contains(&family) {
                families.push(family);
            }
        }
        families
    };
    let asked = distinct(&service.asks.addresses);
    let mut families: Vec<IpFamily> = if !service.ip_families.is_empty() {
        let mut named = service.ip_families.clone();
        named.dedup();
        if service.ip_family_policy == IpFamilyPolicy::SingleStack {
            named.truncate(1);
        }
        named
    } else if !asked.is_empty() {
        asked
    } else {
        let mut first = distinct(held);
        first.truncate(1);
        if first.is_empty() {
            first.push(otherwise());
        }
        first
    };
    if service.ip_family_policy != IpFamilyPolicy::SingleStack {
        for family in IpFamily::ALL {
            if !families.contains(&family) {
                families.push(family);
            }
        }
    }
    families
}

/// The requested address of a family.
pub(crate) fn asked_address(service: &Service, family: IpFamily) -> Option<IpAddr> {
    let mut asked = service.asks.addresses.iter().copied();
    asked.find(|address| IpFamily::of(*address) == family)
}
