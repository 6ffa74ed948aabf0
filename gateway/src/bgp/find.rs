//! Finding the router on a link («unnumbered»): the one that says there that it is one, by router advertisements.
//!
//! The kernel takes these in and notes with the neighbour that it is a router, also where it makes no use of them
//! (`accept_ra`), so nothing has to listen for them here.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use futures::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::dial;

/// Where the router on that interface is dialled.
///
/// # Errors
/// None is known there, or more than one. The text is the end of a sentence.
pub(super) async fn router(interface: Box<str>, port: u16) -> Result<SocketAddr, String> {
    let index =
        dial::index(&interface).map_err(|_| format!("there is no interface {interface}"))?;
    let failed = |error: &dyn std::fmt::Display| format!("the kernel's neighbours: {error}");
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| failed(&error))?;
    let connection = tokio::spawn(connection);
    let request = handle
        .neighbours()
        .get()
        .set_address_family(AddressFamily::Inet6);
    let neighbours: Result<Vec<NeighbourMessage>, _> = request.execute().try_collect().await;
    connection.abort();
    let neighbours = neighbours.map_err(|error| failed(&error))?;
    let mut routers = neighbours.iter().filter_map(|it| router_at(it, index));
    match (routers.next(), routers.next()) {
        (Some(address), None) => Ok(SocketAddrV6::new(address, port, 0, index).into()),
        (None, _) => Err(format!(
            "no router has said on {interface} that it is one (router advertisements)"
        )),
        (Some(one), Some(other)) => Err(format!(
            "there are several routers on {interface}, {one} and {other}: give peerAddress"
        )),
    }
}

fn router_at(neighbour: &NeighbourMessage, index: u32) -> Option<Ipv6Addr> {
    let header = &neighbour.header;
    let is_one = header.ifindex == index
        && header.flags.contains(NeighbourFlags::Router)
        && header.state != NeighbourState::Failed;
    if !is_one {
        return None;
    }
    let mut addresses = neighbour.attributes.iter().filter_map(|it| match it {
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(*address),
        _ => None,
    });
    addresses.find(Ipv6Addr::is_unicast_link_local)
}
