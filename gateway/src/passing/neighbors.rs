//! Where other gateways are on their segment: the hardware addresses that the kernel has for them. It has them, for
//! gateways speak to each other all the time.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use fairway_gateway_core::layer2::HardwareAddress;
use futures::TryStreamExt;
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

/// All neighbors, by the number of the interface and the address.
pub(super) async fn read() -> io::Result<BTreeMap<(u32, IpAddr), HardwareAddress>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let messages = handle.neighbours().get().execute();
    let messages: Result<Vec<NeighbourMessage>, _> = messages.try_collect().await;
    connection.abort();
    let messages = messages.map_err(io::Error::other)?;
    Ok(messages.iter().filter_map(neighbor).collect())
}

/// One without a hardware address is not known.
fn neighbor(message: &NeighbourMessage) -> Option<((u32, IpAddr), HardwareAddress)> {
    let (mut address, mut hardware) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                hardware = bytes.as_slice().try_into().ok().map(HardwareAddress);
            }
            _ => {}
        }
    }
    Some(((message.header.ifindex, address?), hardware?))
}
