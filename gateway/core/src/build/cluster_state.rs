//! What routes depend on besides the Services and their endpoints: pools, Nodes and the host's addresses, and
//! what follows from these.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fairway_config::cluster::Node;
use fairway_config::drained::DrainedEndpoints;
use fairway_config::exchange::StoredService;
use fairway_config::names::ClusterName;
use fairway_config::pool::{AddressPool, Forwarding};
use fairway_config::service::{ForwardTo, Service, ServiceType};

use super::settings::{RouteSettings, ServeNodePorts};
use crate::guard::Guard;

/// Pools, Nodes and the host's addresses, with what follows from them.
#[derive(Debug)]
pub(super) struct ClusterState {
    pub(super) settings: RouteSettings,
    pub(super) guard: Guard,
    /// Every address of the host.
    pub(super) host: BTreeSet<IpAddr>,
    pub(super) nodes: BTreeMap<ClusterName, Arc<Node>>,
    pub(super) pools: BTreeMap<ClusterName, Arc<AddressPool>>,
    /// What an operator drains.
    pub(super) drained: Arc<DrainedEndpoints>,
    /// How often `nodes` or `pools` has changed.
    pub(super) version: u64,
    /// Where node ports are served.
    pub(super) node_addresses: Vec<IpAddr>,
    /// InternalIPs of all Nodes.
    pub(super) internal_ips: Vec<IpAddr>,
    /// One of these InternalIPs is an address of the host.
    host_is_node: bool,
}

impl ClusterState {
    pub(super) fn new(settings: RouteSettings) -> Self {
        Self {
            guard: Guard::new(settings.allow_loopback),
            settings,
            host: BTreeSet::new(),
            nodes: BTreeMap::new(),
            pools: BTreeMap::new(),
            drained: Arc::default(),
            version: 0,
            node_addresses: Vec::new(),
            internal_ips: Vec::new(),
            host_is_node: false,
        }
    }

    /// Sets a Node; none: it is gone. Returns whether anything has changed.
    pub(super) fn set_node(&mut self, name: &ClusterName, node: Option<&Arc<Node>>) -> bool {
        if self.nodes.get(name) == node {
            return false;
        }
        self.version += 1;
        match node {
            Some(node) => self.nodes.insert(name.clone(), node.clone()),
            None => self.nodes.remove(name),
        };
        let ips: BTreeSet<_> = self
            .nodes
            .values()
            .flat_map(|node| node.internal_ips.iter().map(IpAddr::to_canonical))
            .collect();
        self.host_is_node = !ips.is_disjoint(&self.host);
        self.internal_ips = ips.into_iter().collect();
        true
    }

    /// Sets a pool; none: it is gone. Returns whether anything has changed.
    pub(super) fn set_pool(&mut self, name: &ClusterName, pool: Option<&Arc<AddressPool>>) -> bool {
        if self.pools.get(name) == pool {
            return false;
        }
        self.version += 1;
        let placed = pool.map(|pool| {
            let ranges = pool.blocks.iter().map(|block| block.range).collect();
            (pool.precedence(), ranges)
        });
        self.guard.set_pool(name, placed);
        match pool {
            Some(pool) => self.pools.insert(name.clone(), pool.clone()),
            None => self.pools.remove(name),
        };
        true
    }

    /// Derives where node ports are served and what is never dialled, from the pools, the host's addresses, and
    /// those that Services hold `outside` of every pool. Returns whether anything has changed.
    pub(super) fn settle(&mut self, outside: &BTreeMap<IpAddr, usize>) -> bool {
        let is_own =
            |address: &&IpAddr| !outside.contains_key(address) && !self.guard.is_pool(**address);
        let node_addresses: Vec<_> = match &self.settings.node_addresses {
            Some(listed) => {
                let listed: BTreeSet<_> = listed.iter().collect();
                listed.into_iter().filter(is_own).copied().collect()
            }
            None => self
                .host
                .iter()
                .filter(is_own)
                .copied()
                .filter(serves_node_ports)
                .collect(),
        };
        let host: BTreeSet<_> = self.host.iter().filter(is_own).copied().collect();
        let external = outside.keys().copied().collect();
        self.host_is_node = self.internal_ips.iter().any(|ip| self.host.contains(ip));
        let guard_moved = self.guard.set_own(host, external);
        let moved = guard_moved || self.node_addresses != node_addresses;
        self.node_addresses = node_addresses;
        moved
    }

    /// Whether the controller has taken the LoadBalancer Service, which is so when it has given it an address. A
    /// gateway does not decide by class.
    pub(super) fn is_taken(&self, stored: &StoredService) -> bool {
        let service = &stored.service;
        service.kind == ServiceType::LoadBalancer
            && !service.asks.ignore
            && !stored.held.addresses.is_empty()
    }

    /// Whether this gateway serves the node ports of the Service. The class of a LoadBalancer does not matter,
    /// as with kube-proxy.
    pub(super) fn has_node_ports(&self, service: &Service) -> bool {
        let serves = match self.settings.serve_node_ports {
            ServeNodePorts::Always => true,
            ServeNodePorts::UnlessNode => self.own_node().is_none(),
            ServeNodePorts::Never => false,
        };
        serves
            && !service.asks.ignore
            && matches!(
                service.kind,
                ServiceType::NodePort | ServiceType::LoadBalancer
            )
    }

    /// Whether serving the Service's node ports here could close a loop: it is forwarded to the
    /// node ports of the Nodes, and the host is one of them.
    pub(super) fn would_loop(&self, service: &Service) -> bool {
        self.host_is_node && self.forward_to(service) == ForwardTo::NodePorts
    }

    /// Whether the Service's traffic is sent to its endpoints or to node ports.
    pub(super) fn forward_to(&self, service: &Service) -> ForwardTo {
        service.asks.forward_to.unwrap_or(self.settings.forward_to)
    }

    /// Whether gateways carry the traffic of an address, and not the nodes' own proxy. They go on doing so for an
    /// address whose pool is gone.
    pub(super) fn carries(&self, address: IpAddr) -> bool {
        let pool = self
            .guard
            .pool_of(address)
            .and_then(|name| self.pools.get(name));
        pool.is_none_or(|pool| pool.forwarding == Forwarding::Proxy)
    }

    /// The Node that the gateway runs on, if it runs on one of the cluster's.
    pub(super) fn own_node(&self) -> Option<&Node> {
        let name = self.settings.node_name.as_ref()?;
        self.nodes.get(name).map(Arc::as_ref)
    }

    /// The zone that the gateway is in.
    pub(super) fn zone(&self) -> Option<&str> {
        let of_node = self.own_node().and_then(|node| node.zone.as_deref());
        of_node.or(self.settings.zone.as_deref())
    }
}

/// Whether node ports are served on an address of the host where no addresses are configured.
fn serves_node_ports(address: &IpAddr) -> bool {
    const LOOPBACK: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let foreign = address.is_multicast() || address.is_unspecified() || link_local;
    !foreign && (!address.is_loopback() || LOOPBACK.contains(address))
}
