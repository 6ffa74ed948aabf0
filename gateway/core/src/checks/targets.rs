//! Which probes a port has.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use fairway_config::health_check::{CheckKind, EndpointCheck};
use fairway_config::net::EndpointAddr;
use fairway_config::port_options::ProxyVersion;

use crate::health::HealthSuccess;
use crate::route::RoutePort;

/// What is asked of whom. Two that are equal are made once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckProbe {
    /// Where it is asked, by TCP.
    pub addr: EndpointAddr,
    /// What is asked, and how often.
    pub check: Arc<EndpointCheck>,
    /// The endpoint expects each connection to begin with a PROXY protocol header of this version. Another port that is
    /// asked in its place does not, as in HAProxy.
    pub header: Option<ProxyVersion>,
    /// The address is a node port: what is sent there may come back, so it has few hops.
    pub is_forwarded: bool,
}

impl CheckProbe {
    /// What it shows if it passes.
    pub fn shows(&self) -> HealthSuccess {
        match &self.check.kind {
            CheckKind::Tcp { expect, .. } if expect.is_empty() => HealthSuccess::Connected,
            CheckKind::Tcp { .. } | CheckKind::Http { .. } | CheckKind::Grpc { .. } => {
                HealthSuccess::Answer
            }
        }
    }
}

/// The probes of a port by its eligible endpoints; empty where it is not said how they are checked.
pub fn targets(route: &RoutePort) -> BTreeMap<EndpointAddr, CheckProbe> {
    let Some(check) = &route.options.health_check else {
        return BTreeMap::new();
    };
    let eligible = route.endpoints.eligible.iter();
    let checked = eligible.filter(|it| !route.never_checked.contains(&it.addr));
    let probes = checked.map(|endpoint| {
        let probe = CheckProbe {
            addr: asked_at(endpoint.addr, check),
            check: check.clone(),
            header: route
                .options
                .proxy_protocol
                .filter(|_| check.port.is_none()),
            is_forwarded: !route.loop_guard.is_empty(),
        };
        (endpoint.addr, probe)
    });
    probes.collect()
}

/// Where an endpoint is asked.
pub fn asked_at(endpoint: EndpointAddr, check: &EndpointCheck) -> EndpointAddr {
    match check.port {
        Some(port) => EndpointAddr(SocketAddr::new(endpoint.0.ip(), port)),
        None => endpoint,
    }
}
