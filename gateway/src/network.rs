//! The interfaces of this host with their subnets, and where its default routes lead: what addresses are announced on
//! depends on them. Only watched where something is announced on layer 2.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use fairway_config::net::IpFamily;
use fairway_gateway_core::segments::{HostInterface, HostNetwork, InterfaceName};
use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;

use crate::host;

/// How often all is read anyway: the kernel may drop notices when many come at once. Changes of default routes are
/// noticed by this alone, for some hosts have routes that change all the time.
const RESYNC: Duration = Duration::from_secs(30);

/// The pause after a failure, and between two reads.
const PAUSE: Duration = Duration::from_millis(100);

/// The table that routes are in unless said otherwise; see ip-route(8).
const TABLE_MAIN: u8 = 254;

#[derive(Debug, thiserror::Error)]
enum NetworkError {
    #[error("netlink: {0}")]
    Open(#[from] io::Error),
    #[error("netlink: {0}")]
    Dump(#[from] rtnetlink::Error),
    #[error("netlink: the connection closed")]
    Closed,
}

/// Sends the interfaces of this host, and again whenever they change. Ends when the receiver is gone.
pub(crate) async fn watch(network: watch::Sender<Option<HostNetwork>>) {
    loop {
        let Err(error) = follow(&network).await else {
            return;
        };
        tracing::warn!(%error, "interfaces of this host not known, trying again");
        tokio::select! {
            () = network.closed() => return,
            () = tokio::time::sleep(PAUSE * 10) => {}
        }
    }
}

async fn follow(network: &watch::Sender<Option<HostNetwork>>) -> Result<(), NetworkError> {
    // Subscribed before the first read, so that no change is missed in between.
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (mut connection, handle, mut notices) = rtnetlink::new_multicast_connection(&groups)?;
    // With this option a list of routes has only those that are asked for.
    let socket = connection.socket_mut().socket_mut();
    let _ = socket.set_netlink_get_strict_chk(true);
    let connection = tokio::spawn(connection);
    let result = async {
        loop {
            let now = read(&handle).await?;
            network.send_if_modified(|known| {
                let changed = known.as_ref() != Some(&now);
                *known = Some(now);
                changed
            });
            tokio::select! {
                () = network.closed() => return Ok(()),
                notice = notices.next() => {
                    if notice.is_none() {
                        return Err(NetworkError::Closed);
                    }
                    // One read is enough for all notices that come at once.
                    tokio::time::sleep(PAUSE).await;
                    while let Ok(_more) = notices.try_recv() {}
                }
                () = tokio::time::sleep(RESYNC) => {}
            }
        }
    }
    .await;
    connection.abort();
    result
}

async fn read(handle: &Handle) -> Result<HostNetwork, rtnetlink::Error> {
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let mut names: BTreeMap<u32, InterfaceName> = BTreeMap::new();
    let mut network = HostNetwork::default();
    for link in &links {
        let flags = link.header.flags;
        let name = link.attributes.iter().find_map(|it| match it {
            LinkAttribute::IfName(name) => Some(InterfaceName::from(name.as_str())),
            _ => None,
        });
        let Some(name) = name.filter(|_| !flags.contains(LinkFlags::Loopback)) else {
            continue;
        };
        names.insert(link.header.index, name.clone());
        let interface = HostInterface {
            index: link.header.index,
            is_up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
            addresses: BTreeSet::new(),
        };
        network.interfaces.insert(name, interface);
    }
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    for message in &addresses {
        let interface = names.get(&message.header.index);
        let interface = interface.and_then(|name| network.interfaces.get_mut(name));
        let net = host::address(message)
            .and_then(|address| IpNet::new(address, message.header.prefix_len).ok());
        if let (Some(interface), Some(net)) = (interface, net) {
            interface.addresses.insert(net);
        }
    }
    for family in IpFamily::ALL {
        if let Some(index) = default_route(handle, family).await?
            && let Some(name) = names.get(&index)
        {
            network.default_routes.insert(family, name.clone());
        }
    }
    Ok(network)
}

/// The interface of the default route of a family: of several the one that the kernel prefers.
async fn default_route(handle: &Handle, family: IpFamily) -> Result<Option<u32>, rtnetlink::Error> {
    let mut filter = RouteMessage::default();
    filter.header.address_family = match family {
        IpFamily::IPv4 => AddressFamily::Inet,
        IpFamily::IPv6 => AddressFamily::Inet6,
    };
    filter.header.table = TABLE_MAIN;
    filter.header.kind = RouteType::Unicast;
    let mut routes = handle.route().get(filter).execute();
    let mut best: Option<(u32, u32)> = None;
    while let Some(route) = routes.try_next().await? {
        let header = &route.header;
        if header.destination_prefix_length > 0
            || header.table != TABLE_MAIN
            || header.kind != RouteType::Unicast
        {
            continue;
        }
        let (mut metric, mut link) = (0, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Priority(of) => metric = *of,
                RouteAttribute::Oif(index) => link = Some(*index),
                RouteAttribute::MultiPath(hops) => {
                    link = link.or(hops.first().map(|hop| hop.interface_index));
                }
                _ => {}
            }
        }
        if let Some(link) = link
            && best.is_none_or(|(lowest, _)| metric < lowest)
        {
            best = Some((metric, link));
        }
    }
    Ok(best.map(|(_, link)| link))
}
