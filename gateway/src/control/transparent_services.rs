//! The Services whose endpoints are dialled from clients' addresses, and what stands for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::{EndpointAddr, Protocol};
use fairway_config::service::PortKey;
use fairway_gateway_core::route::{Endpoint, EndpointSet, Route, RoutePort};
use fairway_gateway_core::way_back::{LostWay, Surroundings};
use tokio::time::Instant;

use crate::port::Port;
use crate::transparent::rules::WayBackRules;

/// The Services that ask for it.
#[derive(Debug)]
pub(super) struct TransparentServices {
    pub(super) rules: WayBackRules,
    /// Of each Service: its endpoints on this node that are dialled so.
    pub(super) services: BTreeMap<ServiceName, BTreeSet<EndpointAddr>>,
    /// How many Services have each of these endpoints.
    pub(super) endpoints: BTreeMap<EndpointAddr, usize>,
    /// Whether they have changed since the relay port was told.
    pub(super) has_changed: bool,
    /// What other gateways are connected with: the endpoints above.
    pub(super) relay: Option<Arc<Port>>,
    /// Where other gateways are listened to.
    pub(super) places: Vec<SocketAddr>,
    /// Which ways were reported as lost.
    pub(super) reported: Vec<LostWay>,
    /// Where this gateway was when they were.
    pub(super) reported_in: Arc<Surroundings>,
    pub(super) look: Instant,
}

impl TransparentServices {
    pub(super) fn new(mark: Option<u32>) -> Self {
        Self {
            rules: WayBackRules::new(mark),
            services: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            has_changed: false,
            relay: None,
            places: Vec::new(),
            reported: Vec::new(),
            reported_in: Arc::default(),
            look: Instant::now(),
        }
    }

    /// Takes in the new route of a Service; none: it carries no traffic any more.
    pub(super) fn set_service(
        &mut self,
        service: &ServiceName,
        route: Option<&Route>,
        own: &ClusterName,
    ) {
        let ports = || route.iter().flat_map(|route| &route.ports);
        let transparent = || ports().filter(|port| port.options.transparent);
        let endpoints = transparent().flat_map(|port| dialled_here(&port.endpoints, own));
        let is_asked = transparent().next().is_some();
        let now: BTreeSet<EndpointAddr> = endpoints.collect();
        let before = match is_asked {
            true => self.services.insert(service.clone(), now.clone()),
            false => self.services.remove(service),
        };
        let before = before.unwrap_or_default();
        for gone in before.difference(&now) {
            if let Some(count) = self.endpoints.get_mut(gone) {
                *count -= 1;
                if *count == 0 {
                    self.endpoints.remove(gone);
                    self.has_changed = true;
                }
            }
        }
        for new in now.difference(&before) {
            *self.endpoints.entry(*new).or_default() += 1;
            self.has_changed = true;
        }
    }

    /// When the control task has to look at them next.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.services.is_empty() || self.rules.stand()).then_some(self.look)
    }

    /// Removes the rules of the kernel, when the last connection has ended.
    pub(super) async fn end(&mut self) {
        self.rules.settle(false).await;
    }

    /// What other gateways are connected with.
    pub(super) fn route(&self) -> RoutePort {
        let eligible = self.endpoints.keys();
        let eligible = eligible.map(|addr| Endpoint::new(*addr)).collect();
        let key = PortKey {
            protocol: Protocol::Tcp,
            port: 0,
        };
        RoutePort::new(relay_name(), key, EndpointSet::new(eligible, Vec::new()))
    }
}

/// The endpoints of this node that may be dialled; those, too, that get no traffic from here just now: the gateway
/// that asks may have heard of a change earlier.
fn dialled_here<'a>(
    endpoints: &'a EndpointSet,
    own: &'a ClusterName,
) -> impl Iterator<Item = EndpointAddr> + 'a {
    use fairway_gateway_core::route::Exclusion::{NodeExcluded, Refused};
    let eligible = endpoints.eligible.iter();
    let eligible = eligible.map(|it| (it.addr, it.node.as_ref()));
    let excluded = endpoints.excluded.iter();
    let excluded = excluded.filter(|it| !matches!(it.why, Refused(_) | NodeExcluded(_)));
    let all = eligible.chain(excluded.map(|it| (it.addr, it.node.as_ref())));
    all.filter(move |(_, node)| *node == Some(own))
        .map(|(addr, _)| addr)
}

/// No Service has an empty name.
pub(super) fn relay_name() -> ServiceName {
    ServiceName::new("", "")
}
