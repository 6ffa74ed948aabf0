//! Local routes: they make the kernel take traffic for a VIP that is on no interface of the host.
//!
//! A route of type `local` in table `local` is enough. Unlike an address on an interface it shows who made it, by
//! its protocol number [`PROTOCOL`]. Only routes with that number are ever removed.
//!
//! Others can remove these routes, and an interface that goes down takes them with it. So they are read again when
//! the kernel reports a change, and at regular intervals (`watch`).

mod watch;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use futures::TryStreamExt;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::sys::AsyncSocket as _;
use rustix::io::Errno;

use crate::change_log::{ChangeLog, LoggedChange};

pub(crate) use self::watch::{Changed, watch};

/// The route protocol number of Fairway's routes, as in `ip route show table local proto 70`. Not
/// one of those that iproute2's `rt_protos` names.
pub const PROTOCOL: u8 = 70;

/// The table that the kernel looks up first; see ip-route(8).
const TABLE_LOCAL: u8 = 255;

/// Fairway's local routes.
#[derive(Debug)]
pub(crate) struct LocalRoutes {
    /// The netlink connection; none where it could not be opened.
    handle: Option<rtnetlink::Handle>,
    /// The index of `lo`.
    loopback: u32,
    /// Whether routes may be made: the settings allow it, and the kernel has not refused.
    permitted: bool,
    /// The addresses for which there is a route of ours.
    ours: BTreeSet<IpAddr>,
    /// Changes that are still to be logged.
    pub(crate) changes: ChangeLog,
}

impl LocalRoutes {
    /// Opens netlink and finds the routes that an earlier process has left behind. Those that are still needed stay.
    pub(crate) async fn open(make: bool) -> Self {
        let mut routes = Self {
            handle: None,
            loopback: 1,
            permitted: make,
            ours: BTreeSet::new(),
            changes: ChangeLog::default(),
        };
        let opened = rtnetlink::new_connection();
        match opened {
            Ok((mut connection, handle, _)) => {
                // With this option (`NETLINK_GET_STRICT_CHK`) a list has only the routes that are asked for. Without
                // it the kernel lists all, and the others are left out here.
                let socket = connection.socket_mut().socket_mut();
                let _ = socket.set_netlink_get_strict_chk(true);
                tokio::spawn(connection);
                routes.handle = Some(handle);
            }
            Err(error) => {
                tracing::warn!(%error, "no netlink: addresses can't be made local");
                routes.permitted = false;
            }
        }
        if let Ok(index) = loopback() {
            routes.loopback = index;
        }
        if make {
            match routes.dump().await {
                Ok(ours) => routes.ours = ours,
                Err(error) => tracing::warn!(%error, "local routes not listed"),
            }
        }
        routes
    }

    /// Reads which of our routes are still there.
    pub(crate) async fn look(&mut self) {
        match self.dump().await {
            Ok(there) => {
                for address in &self.ours - &there {
                    tracing::warn!(%address, "another program has removed the local route of an address");
                    self.ours.remove(&address);
                }
            }
            Err(error) => tracing::warn!(%error, "local routes not listed"),
        }
    }

    /// Whether a route of ours makes this address local.
    pub(crate) fn is_ours(&self, address: IpAddr) -> bool {
        self.ours.contains(&address)
    }

    /// Whether the kernel takes traffic for this address, by any route or interface; none where that is not known.
    pub(crate) async fn is_local(&self, address: IpAddr) -> Option<bool> {
        let mut route = RouteMessage::default();
        route.header.address_family = family(address);
        route.header.destination_prefix_length = prefix(address);
        route
            .attributes
            .push(RouteAttribute::Destination(destination(address)));
        match self
            .handle
            .as_ref()?
            .route()
            .get(route)
            .execute()
            .try_next()
            .await
        {
            Ok(route) => Some(route?.header.kind == RouteType::Local),
            // There is no route to it at all.
            Err(rtnetlink::Error::NetlinkError(_)) => Some(false),
            Err(_) => None,
        }
    }

    /// Makes an address local. Returns whether it is.
    pub(crate) async fn add(&mut self, address: IpAddr) -> bool {
        if self.ours.contains(&address) {
            return true;
        }
        let (Some(handle), true) = (&self.handle, self.permitted) else {
            return false;
        };
        match handle.route().add(self.route(address)).execute().await {
            Ok(()) => {
                self.changes
                    .note(LoggedChange::RouteMade, address.to_string());
                self.ours.insert(address);
                true
            }
            Err(error) => match errno(&error) {
                // A route of another program. It serves as well, unless it is of another type.
                Some(Errno::EXIST) => self.is_local(address).await != Some(false),
                Some(Errno::PERM | Errno::ACCESS) => {
                    self.permitted = false;
                    tracing::info!(
                        "no CAP_NET_ADMIN: external addresses are served where the host has them"
                    );
                    false
                }
                _ => {
                    tracing::warn!(%address, %error, "not made local");
                    false
                }
            },
        }
    }

    /// Removes the route to an address, if it is ours.
    pub(crate) async fn remove(&mut self, address: IpAddr) {
        if !self.ours.remove(&address) {
            return;
        }
        let Some(handle) = &self.handle else { return };
        match handle.route().del(self.route(address)).execute().await {
            Ok(()) => self
                .changes
                .note(LoggedChange::RouteRemoved, address.to_string()),
            Err(error) if errno(&error) == Some(Errno::SRCH) => {}
            Err(error) => tracing::warn!(%address, %error, "local route not removed"),
        }
    }

    /// The addresses that routes of ours make local.
    pub(crate) fn ours(&self) -> BTreeSet<IpAddr> {
        self.ours.clone()
    }

    /// The routes with our protocol number, those of earlier processes included.
    async fn dump(&self) -> Result<BTreeSet<IpAddr>, rtnetlink::Error> {
        let mut ours = BTreeSet::new();
        let Some(handle) = &self.handle else {
            return Ok(ours);
        };
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            filter.header.table = TABLE_LOCAL;
            filter.header.protocol = RouteProtocol::from(PROTOCOL);
            filter.header.kind = RouteType::Local;
            let mut found = handle.route().get(filter).execute();
            while let Some(route) = found.try_next().await? {
                if route.header.protocol != RouteProtocol::from(PROTOCOL)
                    || route.header.kind != RouteType::Local
                {
                    continue;
                }
                ours.extend(target(&route));
            }
        }
        Ok(ours)
    }

    fn route(&self, address: IpAddr) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header = RouteHeader {
            address_family: family(address),
            destination_prefix_length: prefix(address),
            table: TABLE_LOCAL,
            protocol: RouteProtocol::from(PROTOCOL),
            scope: RouteScope::Host,
            kind: RouteType::Local,
            ..RouteHeader::default()
        };
        route
            .attributes
            .push(RouteAttribute::Destination(destination(address)));
        route.attributes.push(RouteAttribute::Oif(self.loopback));
        route
    }
}

fn loopback() -> io::Result<u32> {
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))?;
    Ok(rustix::net::netdevice::name_to_index(&socket, "lo")?)
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(crate) fn prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The destination of a route.
pub(crate) fn target(route: &RouteMessage) -> Option<IpAddr> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
            _ => None,
        })
}

pub(crate) fn destination(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

pub(crate) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Errno::from_io_error(&message.to_io()),
        _ => None,
    }
}
