//! On which of the host's interfaces an address is announced on layer 2, who else is there, and who may own it.
//!
//! A *segment* is an interface of this host (a bridge, a bond or a network card) together with the gateways that can
//! be reached through it. All of this follows from what the host has, what pools say and where other gateways are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::cluster::Node;
use fairway_config::names::ClusterName;
use fairway_config::net::{AddressRange, IpFamily};
use fairway_config::selector::{Selector, SelectorExt as _};
use ipnet::IpNet;

/// The name of a network interface.
pub type InterfaceName = Box<str>;

/// The interfaces of this host, and where its default routes lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNetwork {
    /// Every interface but loopback.
    pub interfaces: BTreeMap<InterfaceName, HostInterface>,
    /// The interface of the default route of each family.
    pub default_routes: BTreeMap<IpFamily, InterfaceName>,
}

/// One of the host's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostInterface {
    /// The kernel's number of it.
    pub index: u32,
    /// Whether it is up and carries (`IFF_RUNNING`, netdevice(7)).
    pub is_up: bool,
    /// Its addresses with their subnets.
    pub addresses: BTreeSet<IpNet>,
}

/// An interface on which addresses are announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// How the interface is.
    pub link: SegmentLink,
    /// The host's own addresses there, but those that every link has.
    pub own: BTreeSet<IpAddr>,
    /// The other gateways there.
    pub members: BTreeMap<ClusterName, MemberPath>,
    /// The external addresses that belong there.
    pub addresses: BTreeSet<IpAddr>,
}

/// By which addresses this gateway and another one speak to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberPath {
    /// This gateway's.
    pub own: IpAddr,
    /// The other one's, in the same subnet.
    pub theirs: IpAddr,
}

/// How the interface of a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentLink {
    /// It is up.
    Up,
    /// It is down, or nothing is at the other end.
    Down,
    /// The host has no interface of that name.
    Missing,
}

/// The addresses of a pool, or one of them, and the interfaces that the pool names.
#[derive(Clone, Copy, Debug)]
pub struct PlacedRange<'a> {
    /// The addresses.
    pub range: AddressRange,
    /// The interfaces that the pool names; none: by subnets and default routes.
    pub named: &'a [InterfaceName],
}

/// The interfaces of a [`HostNetwork`], prepared to be asked about many addresses.
#[derive(Debug)]
struct SubnetMap<'a> {
    host: &'a HostNetwork,
    /// The subnets that interfaces have, each with the host's address there.
    subnets: Vec<(AddressRange, &'a str, IpAddr)>,
}

/// The segments of these pools and addresses. A pool has its segments whether it has addresses or not, so that
/// gateways know each other before there is an address. `members` are the other gateways, with all their addresses.
pub fn segments<'a>(
    host: &HostNetwork,
    pools: impl IntoIterator<Item = PlacedRange<'a>>,
    addresses: impl IntoIterator<Item = (IpAddr, &'a [InterfaceName])>,
    members: &BTreeMap<ClusterName, BTreeSet<IpAddr>>,
) -> BTreeMap<InterfaceName, Segment> {
    let places = SubnetMap::new(host);
    let mut segments: BTreeMap<InterfaceName, Segment> = BTreeMap::new();
    for placed in pools {
        for name in places.of(placed) {
            let new = || places.segment(name, members);
            segments.entry(name.into()).or_insert_with(new);
        }
    }
    for (address, named) in addresses {
        let Some(range) = AddressRange::new(address, address) else {
            continue;
        };
        for name in places.of(PlacedRange { range, named }) {
            let new = || places.segment(name, members);
            let segment = segments.entry(name.into()).or_insert_with(new);
            segment.addresses.insert(address);
        }
    }
    segments
}

impl<'a> SubnetMap<'a> {
    fn new(host: &'a HostNetwork) -> Self {
        let mut subnets = Vec::new();
        for (name, interface) in &host.interfaces {
            for net in interface.addresses.iter().filter(|net| is_subnet(**net)) {
                subnets.push((AddressRange::of_net(*net), &**name, net.addr()));
            }
        }
        Self { host, subnets }
    }

    /// The interfaces that these addresses belong to: those that the pool names, else those with a subnet that has
    /// some of the addresses, else that of the default route of their family.
    fn of<'b>(&self, placed: PlacedRange<'b>) -> BTreeSet<&'b str>
    where
        'a: 'b,
    {
        if !placed.named.is_empty() {
            return placed.named.iter().map(|name| &**name).collect();
        }
        let subnets = self.subnets.iter();
        let there = subnets.filter(|(subnet, ..)| subnet.overlaps(placed.range));
        let mut names: BTreeSet<&str> = there.map(|(_, name, _)| *name).collect();
        if names.is_empty() {
            let default = self.host.default_routes.get(&placed.range.family());
            names.extend(default.map(|name| &**name));
        }
        names
    }

    fn segment(&self, name: &str, members: &BTreeMap<ClusterName, BTreeSet<IpAddr>>) -> Segment {
        let interface = self.host.interfaces.get(name);
        let subnets = self.subnets.iter().filter(|(_, of, _)| *of == name);
        let subnets: Vec<_> = subnets.map(|(subnet, _, own)| (*subnet, *own)).collect();
        let own: BTreeSet<IpAddr> = subnets.iter().map(|(_, own)| *own).collect();
        let path = |addresses: &BTreeSet<IpAddr>| {
            let mut others = addresses.iter().filter(|it| !own.contains(it));
            others.find_map(|theirs| {
                let mut around = subnets
                    .iter()
                    .filter(|(subnet, _)| subnet.contains(*theirs));
                let (_, own) = around.next()?;
                Some(MemberPath {
                    own: *own,
                    theirs: *theirs,
                })
            })
        };
        let members = members.iter();
        Segment {
            link: match interface {
                Some(it) if it.is_up => SegmentLink::Up,
                Some(_) => SegmentLink::Down,
                None => SegmentLink::Missing,
            },
            members: members
                .filter_map(|(name, addresses)| Some((name.clone(), path(addresses)?)))
                .collect(),
            own,
            addresses: BTreeSet::new(),
        }
    }
}

/// Whether others can be there: no address by itself, and not what every link has.
fn is_subnet(net: IpNet) -> bool {
    let is_link_local = match net {
        IpNet::V4(net) => net.addr().is_link_local(),
        IpNet::V6(net) => net.addr().is_unicast_link_local(),
    };
    net.prefix_len() < net.max_prefix_len() && !is_link_local
}

/// The gateways that may own addresses of a pool with this `nodeSelector`, out of `gateways`: those whose Node it
/// selects. A gateway that is no Node has no labels, so that only an empty selector means it.
pub fn candidates<'a>(
    selector: &Selector,
    nodes: &BTreeMap<ClusterName, Arc<Node>>,
    gateways: impl IntoIterator<Item = &'a ClusterName>,
) -> BTreeSet<ClusterName> {
    let may = |name: &&ClusterName| match nodes.get(*name) {
        Some(node) => selector.matches(&node.labels),
        None => selector.selects_all(),
    };
    gateways.into_iter().filter(may).cloned().collect()
}

#[cfg(test)]
mod tests;
