//! The solicited-node groups of owned IPv6 addresses (RFC 4291, 2.7.1) on one interface.
//!
//! Neighbors ask for an address in its group. The network card, and switches that look at who listens to which group
//! (MLD snooping), pass on only what somebody has joined. The kernel tells them (RFC 3810) when a socket joins.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use fairway_gateway_core::layer2::solicited_node;
use socket2::{Domain, Socket, Type};

/// How many groups one socket joins: the kernel bounds the memory of a socket for such things
/// (`net.core.optmem_max`), by default to a few hundred groups.
const OF_A_SOCKET: usize = 128;

/// See the module.
#[derive(Debug)]
pub(super) struct GroupMemberships {
    /// The index of the interface.
    index: u32,
    /// By which of the sockets each group was joined.
    joined: BTreeMap<Ipv6Addr, usize>,
    /// With the number of groups of each.
    sockets: Vec<(Socket, usize)>,
    /// Whether the last try failed: then it was said.
    has_failed: bool,
}

impl GroupMemberships {
    pub(super) fn new(index: u32) -> Self {
        Self {
            index,
            joined: BTreeMap::new(),
            sockets: Vec::new(),
            has_failed: false,
        }
    }

    /// Joins the groups of these addresses, and leaves all others. What fails is tried again at the next call.
    pub(super) fn set<'a>(&mut self, interface: &str, owned: impl Iterator<Item = &'a IpAddr>) {
        let wanted: BTreeSet<Ipv6Addr> = owned
            .filter_map(|address| match address {
                IpAddr::V6(address) => Some(solicited_node(*address)),
                IpAddr::V4(_) => None,
            })
            .collect();
        let gone = self
            .joined
            .extract_if(.., |group, _| !wanted.contains(group));
        for (group, number) in gone {
            if let Some((socket, count)) = self.sockets.get_mut(number) {
                let _ = socket.leave_multicast_v6(&group, self.index);
                *count -= 1;
            }
        }
        let mut failed = None;
        for group in wanted {
            if self.joined.contains_key(&group) {
                continue;
            }
            match self.join(group) {
                Ok(number) => drop(self.joined.insert(group, number)),
                Err(error) => failed = Some((group, error)),
            }
        }
        if let Some((group, error)) = &failed
            && !self.has_failed
        {
            tracing::warn!(
                interface, %group, %error,
                "a solicited-node group was not joined: switches may not pass on who asks for an IPv6 address"
            );
        }
        self.has_failed = failed.is_some();
    }

    fn join(&mut self, group: Ipv6Addr) -> io::Result<usize> {
        let free = self
            .sockets
            .iter()
            .position(|(_, count)| *count < OF_A_SOCKET);
        let number = match free {
            Some(number) => number,
            None => {
                let socket = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
                self.sockets.push((socket, 0));
                self.sockets.len() - 1
            }
        };
        let Some((socket, count)) = self.sockets.get_mut(number) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        socket.join_multicast_v6(&group, self.index)?;
        *count += 1;
        Ok(number)
    }
}
