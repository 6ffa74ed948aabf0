//! Where other gateways are on their segment: the hardware addresses that the kernel has for them. It has them, for
//! gateways speak to each other all the time.
//!
//! The kernel is asked for those alone that packets are passed to: a network may have thousands of neighbors.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use fairway_gateway_core::layer2::HardwareAddress;
use futures::StreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::task::JoinHandle;

/// A neighbor: the number of the interface, and its address.
pub(super) type NeighborPlace = (u32, IpAddr);

/// A way to ask the kernel. Needs a Tokio runtime.
#[derive(Debug)]
pub(super) struct NeighborTable {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl NeighborTable {
    pub(super) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        Ok(Self { handle, connection })
    }

    /// The hardware addresses of these neighbors, as far as the kernel has them.
    pub(super) async fn look_up(
        &mut self,
        places: BTreeSet<NeighborPlace>,
    ) -> io::Result<BTreeMap<NeighborPlace, HardwareAddress>> {
        let mut known = BTreeMap::new();
        for place in places {
            let answers = self.handle.request(question(place));
            let mut answers = answers.map_err(io::Error::other)?;
            while let Some(answer) = answers.next().await {
                if let Some(hardware) = hardware_address(answer) {
                    known.insert(place, hardware);
                }
            }
        }
        Ok(known)
    }
}

impl Drop for NeighborTable {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Without the flag that asks for all (`neigh_get` in net/core/neighbour.c, Linux 5.0).
fn question((interface, address): NeighborPlace) -> NetlinkMessage<RouteNetlinkMessage> {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = interface;
    let (family, address) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    let attribute = NeighbourAttribute::Destination(address);
    message.attributes.push(attribute);
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
    question.header.flags = NLM_F_REQUEST;
    question
}

/// One without a hardware address is not known, and none is an error.
fn hardware_address(answer: NetlinkMessage<RouteNetlinkMessage>) -> Option<HardwareAddress> {
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message)) = answer.payload
    else {
        return None;
    };
    message.attributes.iter().find_map(|it| match it {
        NeighbourAttribute::LinkLayerAddress(bytes) => {
            bytes.as_slice().try_into().ok().map(HardwareAddress)
        }
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::super::testing::{in_namespace, run};
    use super::*;

    #[tokio::test]
    async fn neighbors_are_asked_for_one_by_one() {
        if !in_namespace("passing::neighbors::tests::neighbors_are_asked_for_one_by_one") {
            return;
        }
        run("ip link add gateway0 type veth peer name client0");
        run("ip link set gateway0 up");
        let shown = run("ip -o link show gateway0");
        let interface: u32 = shown.split(':').next().unwrap().trim().parse().unwrap();
        let mut wanted = BTreeMap::new();
        for (n, address) in ["192.0.2.7", "2001:db8::7"].iter().enumerate() {
            let hardware = format!("02:00:00:00:00:0{n}");
            run(&format!(
                "ip neighbor add {address} lladdr {hardware} dev gateway0"
            ));
            let place = (interface, address.parse().unwrap());
            wanted.insert(place, HardwareAddress([2, 0, 0, 0, 0, n as u8]));
        }
        let mut places: BTreeSet<_> = wanted.keys().copied().collect();
        // None of that address, on that interface, and no such interface.
        places.insert((interface, "192.0.2.8".parse().unwrap()));
        places.insert((1, "192.0.2.7".parse().unwrap()));
        places.insert((99, "192.0.2.7".parse().unwrap()));
        let mut table = NeighborTable::open().unwrap();
        assert_eq!(table.look_up(places).await.unwrap(), wanted);
    }
}
