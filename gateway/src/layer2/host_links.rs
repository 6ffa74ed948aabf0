//! The interfaces of this host, as far as answering on them needs it, by netlink (rtnetlink(7)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use fairway_gateway_core::layer2::HardwareAddress;
use futures::TryStreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoKind, LinkAttribute, LinkEvent, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::faults::SegmentFault;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostLink {
    pub(super) index: u32,
    /// None where it is no Ethernet.
    pub(super) hardware: Option<HardwareAddress>,
    /// Up, with a carrier.
    pub(super) is_up: bool,
    /// Whether it speaks ARP: loopback, tunnels and dummies do not.
    pub(super) speaks_arp: bool,
    /// The bridge or bond that it is a port of.
    pub(super) port_of: Option<Box<str>>,
    /// Its addresses, the first one first.
    pub(super) addresses: Vec<IpAddr>,
}

/// The interfaces of this host by name.
pub(super) type HostLinks = BTreeMap<Box<str>, HostLink>;

impl HostLink {
    /// Why nothing can be answered there.
    pub(super) fn fault(&self) -> Option<SegmentFault> {
        if let Some(port_of) = &self.port_of {
            return Some(SegmentFault::PortOf(port_of.clone()));
        }
        if self.hardware.is_none() {
            return Some(SegmentFault::NotEthernet);
        }
        (!self.is_up).then_some(SegmentFault::Down)
    }

    /// The first IPv4 address for which `is_meant` holds.
    pub(super) fn ipv4(&self, is_meant: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) if is_meant(*address) => Some(*address),
            _ => None,
        })
    }
}

/// Reads all interfaces.
pub(super) async fn read(handle: &Handle) -> Result<HostLinks, rtnetlink::Error> {
    let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let names: BTreeMap<u32, Box<str>> = messages
        .iter()
        .filter_map(|message| Some((message.header.index, name(message)?)))
        .collect();
    // Those with a VRF above them are used as they are.
    let vrfs: BTreeSet<u32> = messages
        .iter()
        .filter(|message| is_vrf(message))
        .map(|message| message.header.index)
        .collect();
    let mut links = HostLinks::new();
    for message in &messages {
        let Some(name) = names.get(&message.header.index) else {
            continue;
        };
        let flags = message.header.flags;
        let controller = controller(message).filter(|index| !vrfs.contains(index));
        let link = HostLink {
            index: message.header.index,
            hardware: hardware(message),
            is_up: flags.contains(LinkFlags::Up | LinkFlags::Running),
            speaks_arp: !flags.intersects(LinkFlags::Loopback | LinkFlags::Noarp),
            port_of: controller.and_then(|index| names.get(&index).cloned()),
            addresses: Vec::new(),
        };
        links.insert(name.clone(), link);
    }
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    for message in &addresses {
        let link = names.get(&message.header.index);
        if let Some(link) = link.and_then(|name| links.get_mut(name))
            && let Some(address) = own_address(message)
        {
            link.addresses.push(address);
        }
    }
    Ok(links)
}

fn name(message: &LinkMessage) -> Option<Box<str>> {
    message.attributes.iter().find_map(|it| match it {
        LinkAttribute::IfName(name) => Some(name.as_str().into()),
        _ => None,
    })
}

fn controller(message: &LinkMessage) -> Option<u32> {
    message.attributes.iter().find_map(|it| match it {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn hardware(message: &LinkMessage) -> Option<HardwareAddress> {
    if message.header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    message.attributes.iter().find_map(|it| match it {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok().map(HardwareAddress),
        _ => None,
    })
}

fn is_vrf(message: &LinkMessage) -> bool {
    let is_vrf = |it: &LinkInfo| matches!(it, LinkInfo::Kind(InfoKind::Vrf));
    message.attributes.iter().any(|it| match it {
        LinkAttribute::LinkInfo(info) => info.iter().any(is_vrf),
        _ => false,
    })
}

/// `Local` is the host's own where there are two: `Address` is then that of the other end (rtnetlink(7)).
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => return Some(*address),
            AddressAttribute::Address(address) => found = Some(*address),
            _ => {}
        }
    }
    found
}

/// The interface whose neighbors have to be told anew, if that is what a notice of the kernel says: its link was down
/// for a moment, or frames reach it another way (the port that a bond uses is another one, a virtual machine has moved).
pub(super) fn new_to_neighbors(notice: &NetlinkMessage<RouteNetlinkMessage>) -> Option<u32> {
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = &notice.payload else {
        return None;
    };
    let is_told = link.attributes.iter().any(|it| {
        matches!(
            it,
            LinkAttribute::Event(LinkEvent::NotifyPeers | LinkEvent::BondingFailover)
        )
    });
    let was_down = !link.header.flags.contains(LinkFlags::Running);
    (is_told || was_down).then_some(link.header.index)
}
