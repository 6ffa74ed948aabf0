//! The usual three hosts.
//!
//! ```text
//!   client ──── edge ──── farm
//!   198.51.100.11…40      192.0.2.11…30       the servers' addresses
//!   2001:db8:c::11…40     2001:db8:b::11…30
//!         198.51.100.1   192.0.2.1             the edge, where Fairway runs
//!         2001:db8:c::1  2001:db8:b::1
//!               203.0.113.0/24                 external addresses: the client's way to them is
//!               2001:db8:f::/64                the edge
//! ```
//! All of them are addresses for documentation (RFC 5737, RFC 3849). The farm has no way back to the
//! clients: traffic that reaches it came through Fairway.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::lab::{Host, wire};

/// The edge's address on the clients' side.
pub const EDGE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// The edge's address on the farm's side: what servers see as their peer.
pub const EDGE_INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// An address that swallows what is sent to it: connecting to it hangs.
pub const BLACK_HOLE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99));

/// Clients, the edge that Fairway runs on, and the farm of servers.
#[derive(Debug)]
pub struct Site {
    /// Has thirty addresses, see [`client`].
    pub client: Host,
    /// Where Fairway runs.
    pub edge: Host,
    /// Has twenty addresses, see [`server`].
    pub farm: Host,
}

/// The client's address number `n` (0…29).
pub fn client(n: u8) -> IpAddr {
    Ipv4Addr::new(198, 51, 100, 11 + n).into()
}

/// The farm's address number `n` (0…19).
pub fn server(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 11 + n).into()
}

/// The farm's IPv6 address number `n` (0…19).
pub fn server6(n: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0x11 + u16::from(n)).into()
}

/// The external address 203.0.113.`n`.
pub fn vip(n: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, n).into()
}

/// The external address 2001:db8:f::`n`.
pub fn vip6(n: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, n).into()
}

/// A port of an address.
pub fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

impl Site {
    /// Three hosts, wired and with their addresses.
    pub fn new() -> Result<Self> {
        let site = Self {
            client: Host::new("client")?,
            edge: Host::new("edge")?,
            farm: Host::new("farm")?,
        };
        wire((&site.client, "up"), (&site.edge, "front"))?;
        wire((&site.edge, "back"), (&site.farm, "up"))?;
        let client6 = |n: u16| Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, n).into();
        let edge6 = Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 1).into();

        let mut addresses: Vec<(IpAddr, u8)> = (0..30).map(|n| (client(n), 24)).collect();
        addresses.extend((0..30).map(|n| (client6(0x11 + n), 64)));
        site.client.addresses("up", &addresses)?;
        site.client.ip(
            "route add 203.0.113.0/24 via 198.51.100.1\nroute add 2001:db8:f::/64 via 2001:db8:c::1",
        )?;

        site.edge
            .addresses("front", &[(EDGE, 24), (client6(1), 64)])?;
        site.edge
            .addresses("back", &[(EDGE_INSIDE, 24), (edge6, 64)])?;

        let mut addresses: Vec<(IpAddr, u8)> = (0..20).map(|n| (server(n), 24)).collect();
        addresses.extend((0..20).map(|n| (server6(n), 64)));
        site.farm.addresses("up", &addresses)?;

        // The farm is sent what is for the black hole, and as no router drops it in silence.
        site.farm.ip("link set dev up address 02:00:00:00:00:99")?;
        site.edge.ip(&format!(
            "neighbour add {BLACK_HOLE} lladdr 02:00:00:00:00:99 dev back"
        ))?;
        Ok(site)
    }
}
