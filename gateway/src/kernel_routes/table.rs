//! The routes of the table.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkUnspec};
use rustix::io::Errno;
use tokio::time::timeout;

use super::{DEVICE, TABLE};
use crate::local::{PROTOCOL, destination, errno, family, prefix, target};

/// How long the kernel may take for an answer: others may hold the lock of its network configuration.
const ANSWER: Duration = Duration::from_secs(3);

/// What was asked has not been done, or nobody knows. After any of these the table is to be opened anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum TableError {
    /// The kernel refuses it, or the socket is broken.
    #[error(transparent)]
    Netlink(#[from] rtnetlink::Error),
    /// There is no answer.
    #[error("the kernel has not answered for {} s", ANSWER.as_secs())]
    Unanswered(#[from] tokio::time::error::Elapsed),
}

/// See the module. Every call ends in bounded time.
#[derive(Debug)]
pub(super) struct KernelTable(Handle);

impl KernelTable {
    /// Opens netlink. Needs a Tokio runtime.
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// Makes the interface usable. Returns its index.
    pub(super) async fn set_up(&self) -> Result<u32, TableError> {
        let found = self.0.link().get().match_name(DEVICE.to_owned()).execute();
        let link = timeout(ANSWER, found.try_collect::<Vec<_>>()).await??;
        let index = link.first().map_or(0, |link| link.header.index);
        // It needs no address, and nobody is to look for routers on it.
        let no_address = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let no_address = AfSpecUnspec::Inet6(vec![no_address]);
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_address]))
            .up()
            .build();
        timeout(ANSWER, self.0.link().set(message).execute()).await??;
        Ok(index)
    }

    /// Makes the route to an address.
    pub(super) async fn add(&self, address: IpAddr, device: u32) -> Result<(), TableError> {
        let mut message = route(address);
        message.attributes.push(RouteAttribute::Oif(device));
        match timeout(ANSWER, self.0.route().add(message).execute()).await? {
            Err(error) if errno(&error) == Some(Errno::EXIST) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Removes the route to an address.
    pub(super) async fn remove(&self, address: IpAddr) -> Result<(), TableError> {
        match timeout(ANSWER, self.0.route().del(route(address)).execute()).await? {
            Err(error) if errno(&error) == Some(Errno::SRCH) => Ok(()),
            result => Ok(result?),
        }
    }

    /// The addresses that there are routes to.
    pub(super) async fn list(&self) -> Result<BTreeSet<IpAddr>, TableError> {
        let mut all = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            filter.header.table = TABLE;
            let mut found = self.0.route().get(filter).execute();
            while let Some(route) = timeout(ANSWER, found.try_next()).await?? {
                // The kernel may list all tables.
                let is_ours = route.header.table == TABLE
                    && route.header.protocol == RouteProtocol::from(PROTOCOL);
                all.extend(target(&route).filter(|_| is_ours));
            }
        }
        Ok(all)
    }
}

fn route(address: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: family(address),
        destination_prefix_length: prefix(address),
        table: TABLE,
        protocol: RouteProtocol::from(PROTOCOL),
        scope: match address {
            IpAddr::V4(_) => RouteScope::Link,
            IpAddr::V6(_) => RouteScope::Universe,
        },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    let destination = RouteAttribute::Destination(destination(address));
    route.attributes.push(destination);
    route
}
