//! Services whose endpoints are dialled from clients' addresses: the rules of the kernel that this needs, the listener
//! for other gateways, and what is said where it can't be done.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::FleetMember;
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::{ListenAddr, Protocol};
use fairway_config::service::{ForwardTo, Notice};
use fairway_gateway_core::route::Route;
use fairway_gateway_core::way_back::{AddressLoss, Surroundings};
use tokio::time::Instant;

use super::ControlTask;
use super::transparent_services::relay_name;
use crate::port::Port;
use crate::programmer::Wanted;
use crate::slot::{BindKey, Target};

/// How often it is looked whether the rules of the kernel stand, and whether ways are lost.
const LOOK: Duration = Duration::from_secs(1);

/// Other gateways are listened to at so many addresses of this host at most.
const PLACES: usize = 8;

impl ControlTask {
    /// Brings all that dialling from clients' addresses needs up to date. Returns the listeners for other gateways,
    /// where they have changed.
    pub(super) async fn settle_transparent(&mut self) -> Option<(ServiceName, Vec<Wanted>)> {
        let are_asked = !self.transparent.services.is_empty();
        if are_asked {
            self.tell_surroundings();
        }
        self.settle_rules().await;
        self.settle_relay()
    }

    async fn settle_rules(&mut self) {
        let transparent = &mut self.transparent;
        // Connections outlive the wish for them.
        let are_wanted = !transparent.services.is_empty() || self.shared.transparency.is_in_use();
        let stand = transparent.rules.settle(are_wanted).await;
        let lacks = (!stand).then_some(AddressLoss::NotPermitted);
        self.shared.transparency.set_lacking(lacks);
    }

    fn tell_surroundings(&self) {
        let (own, port) = (&self.settings.name, self.settings.relay_port);
        let announceable = self.announcing.subscribe();
        let announceable = announceable.borrow();
        let nodes = self.builder.nodes();
        let members = announceable.members.values();
        let members = members.filter(|member| member.name != *own);
        let relays = members.filter_map(|member| {
            let ips = nodes.get(&member.name).map(|node| &node.internal_ips[..]);
            let at = address_of(member, ips.unwrap_or_default())?;
            Some((member.name.clone(), SocketAddr::new(at, port)))
        });
        let surroundings = Surroundings {
            own: own.clone(),
            is_node: self.builder.own_node().is_some(),
            host: self.links.keys().copied().collect(),
            lacks: None,
            relays: relays.collect(),
            has_key: false,
            to_node_ports: self.settings.core.forward_to == ForwardTo::NodePorts,
        };
        let key = announceable.key.as_deref();
        self.shared.transparency.set_surroundings(surroundings, key);
    }

    /// Listens to other gateways while there are any, and endpoints of this node that they may ask for.
    fn settle_relay(&mut self) -> Option<(ServiceName, Vec<Wanted>)> {
        let surroundings = self.shared.transparency.surroundings();
        let is_asked = surroundings.has_key && !self.transparent.endpoints.is_empty();
        let mut places = Vec::new();
        if is_asked && !surroundings.relays.is_empty() {
            let ips = self.builder.own_node();
            let ips = ips.map(|node| &node.internal_ips[..]).unwrap_or_default();
            let ours = crate::host::told(&self.links).into_iter();
            let ours: Vec<IpAddr> = ours.map(|net| net.addr()).collect();
            let of_node = ips.iter().filter(|ip| self.links.contains_key(ip));
            let mut ips: Vec<IpAddr> = of_node.copied().collect();
            if ips.is_empty() {
                ips = ours;
            }
            ips.truncate(PLACES);
            let port = self.settings.relay_port;
            places = ips
                .into_iter()
                .map(|ip| SocketAddr::new(ip, port))
                .collect();
        }
        let transparent = &mut self.transparent;
        if transparent.relay.is_none() && places.is_empty() {
            return None;
        }
        let has_changed = std::mem::take(&mut transparent.has_changed);
        let port = match transparent.relay.clone() {
            Some(port) => {
                if has_changed {
                    port.set_route(Arc::new(transparent.route()));
                }
                port
            }
            None => Arc::new(Port::new(Arc::new(transparent.route()), 0)),
        };
        transparent.relay = Some(port.clone());
        let is_same = transparent.places == places;
        transparent.places.clone_from(&places);
        if has_changed {
            self.drain_endpoints(port.clone());
        }
        if is_same {
            return None;
        }
        let wanted = places.into_iter().map(|place| Wanted {
            place: BindKey {
                listen: ListenAddr(place),
                protocol: Protocol::Tcp,
            },
            port: place.port(),
            target: Target::Relay(port.clone()),
        });
        Some((relay_name(), wanted.collect()))
    }

    /// Looks whether the rules of the kernel stand, and reports the Services anew where ways are lost or found.
    pub(super) async fn look_at_ways_back(&mut self) {
        if self.transparent.due().is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.transparent.look = Instant::now() + LOOK;
        // Other gateways, or the key, may have changed.
        self.tell_surroundings();
        self.settle_rules().await;
        if let Some(update) = self.settle_relay() {
            self.programmer.apply(vec![update]).await;
        }
        let lost = self.shared.transparency.lost_ways(self.shared.clock.now());
        let surroundings = self.shared.transparency.surroundings();
        if lost != self.transparent.reported || surroundings != self.transparent.reported_in {
            self.transparent.reported = lost;
            self.transparent.reported_in = surroundings;
            self.report(self.transparent.services.keys().cloned().collect());
        }
    }

    /// What is said of endpoints that do not see clients' addresses, though the Service asks for that.
    pub(super) fn lost_addresses(&self, route: &Route) -> Vec<Notice> {
        let surroundings = self.shared.transparency.surroundings();
        let ports = route.ports.iter().filter(|port| port.options.transparent);
        // Where a header tells the client's address, it is not lost.
        let ports = ports.filter(|port| port.options.proxy_protocol.is_none());
        let mut said: BTreeMap<(Option<&ClusterName>, AddressLoss), bool> = BTreeMap::new();
        for endpoint in ports.flat_map(|port| &port.endpoints.eligible) {
            let node = endpoint.node.as_ref();
            // Some client of the same family.
            let client: IpAddr = match endpoint.addr.0 {
                SocketAddr::V4(_) => [192, 0, 2, 1].into(),
                SocketAddr::V6(_) => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(),
            };
            match surroundings.way_to(endpoint, client) {
                Err(loss) => {
                    said.insert((node, loss), true);
                }
                Ok(to) => {
                    let ways = self.transparent.reported.iter();
                    for lost in ways.filter(|lost| lost.way == to.way) {
                        let is_whole = said.entry((node, lost.why)).or_default();
                        *is_whole |= lost.since.is_some();
                    }
                }
            }
        }
        let gateway = &self.settings.name;
        let notices = said.into_iter().map(|((node, why), is_whole)| {
            let node = match node {
                Some(node) => format!("on node {node}"),
                None => "whose node is not known".to_owned(),
            };
            let what = if is_whole { "" } else { " of some clients" };
            let message = format!(
                "endpoints {node} see the address of gateway {gateway} in place of the client's{what}: {why}"
            );
            Notice::new("ClientAddressLost", message)
        });
        notices.take(NAMED).collect()
    }
}

/// So many nodes are named in the condition of a Service.
const NAMED: usize = 10;

/// Where another gateway is reached. The address that its Node says is one of its own goes first, and then that of a
/// subnet before one that belongs to none.
fn address_of(member: &FleetMember, of_node: &[IpAddr]) -> Option<IpAddr> {
    let first = member.addresses.first().map(ipnet::IpNet::addr);
    of_node.first().copied().or(first)
}
