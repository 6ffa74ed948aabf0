//! What the checks of the endpoints of a port say of all of them together: where all fail they are ignored, and traffic goes
//! to all endpoints.

use std::sync::Arc;

use fairway_config::service::PortKey;
use fairway_gateway_core::fleet::EndpointReach;
use fairway_gateway_core::health::CheckVerdict;

use crate::port::Port;

/// The ports all of whose endpoints fail their checks, which are ignored therefore.
pub(crate) fn ignored_checks(ports: &[(PortKey, Arc<Port>)]) -> impl Iterator<Item = PortKey> {
    let failing = ports
        .iter()
        .filter(|(_, port)| port_reach(port) == EndpointReach::Failing);
    failing.map(|(key, _)| *key)
}

/// What checks say of the endpoints of all ports of a Service: the worst that they say of one.
pub(crate) fn service_reach(ports: &[(PortKey, Arc<Port>)]) -> EndpointReach {
    let reach = ports.iter().map(|(_, port)| port_reach(port));
    reach.max().unwrap_or_default()
}

/// What checks say of the endpoints of a port.
pub(super) fn port_reach(port: &Port) -> EndpointReach {
    let route = port.route();
    let is_checked = route.options.health_check.is_some() && route.never_checked.is_empty();
    if !is_checked || route.endpoints.eligible.is_empty() {
        return EndpointReach::NothingAgainst;
    }
    let available = port.available(&route);
    if available.ignores_checks {
        return EndpointReach::Failing;
    }
    let passes = |checked: Option<CheckVerdict>| checked == Some(CheckVerdict::Passing);
    let mut endpoints = available.endpoints.iter();
    match endpoints.any(|it| passes(it.state.health().checked)) {
        true => EndpointReach::NothingAgainst,
        false => EndpointReach::Unknown,
    }
}
