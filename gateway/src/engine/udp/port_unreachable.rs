//! Tells a UDP client that its port is unreachable, as the kernel does where nobody listens. A socket
//! listens here, so the kernel does not.
//!
//! Where the process has no [raw sockets](crate::icmp) the client is told nothing and asks again.

use std::collections::HashMap;
use std::net::IpAddr;

use fairway_config::net::ListenAddr;
use fairway_gateway_core::flows::FlowKey;
use fairway_gateway_core::route::Tick;

use super::icmp::{packet_v4, packet_v6};
use crate::icmp::IcmpSockets;

/// How many clients a worker tells in a second, at most: as many as Linux tells by its own
/// (`net.ipv4.icmp_msgs_per_sec`). The clients of one address and port are told no more than are left for all
/// others, so that a flood at one of them does not take it all.
const RATE: u32 = 1000;

/// Sends ICMP's «port unreachable».
#[derive(Debug)]
pub(super) struct PortUnreachable {
    sockets: IcmpSockets,
    /// The second that the numbers below are about.
    second: u64,
    told: u32,
    told_at: HashMap<ListenAddr, u32>,
}

impl PortUnreachable {
    pub(super) fn new(sockets: IcmpSockets) -> Self {
        Self {
            sockets,
            second: 0,
            told: 0,
            told_at: HashMap::new(),
        }
    }

    /// Tells the client of a flow.
    pub(super) fn tell(&mut self, flow: FlowKey, now: Tick) {
        let (client, listen) = (flow.client.0, flow.listen.0);
        let Some(socket) = self.sockets.of(listen.ip()) else {
            return;
        };
        let ports = (client.port(), listen.port());
        let packet = match (listen.ip(), client.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => packet_v4(from, to, ports),
            (IpAddr::V6(from), IpAddr::V6(to)) => packet_v6(from, to, ports),
            _ => return,
        };
        let second = now.0 / 1000;
        if self.second != second {
            (self.second, self.told) = (second, 0);
            self.told_at.clear();
        }
        let told_here = self.told_at.entry(flow.listen).or_default();
        if *told_here >= RATE.saturating_sub(self.told) {
            return;
        }
        *told_here += 1;
        self.told += 1;
        let mut to = client;
        to.set_port(0);
        if let Err(error) = socket.send_to(&packet, &to.into()) {
            tracing::debug!(%client, %error, "port unreachable not sent");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// Capabilities are those of a thread, and other tests need theirs.
    fn opened() -> IcmpSockets {
        std::thread::spawn(IcmpSockets::open).join().unwrap()
    }

    #[test]
    fn a_flood_at_one_port_leaves_something_to_tell_the_clients_of_others() {
        let sockets = opened();
        let may = !sockets.is_none();
        let mut unreachable = PortUnreachable::new(sockets);
        let flow = |port| FlowKey {
            client: fairway_config::net::ClientAddr("127.0.0.1:9".parse().unwrap()),
            listen: ListenAddr(format!("127.0.0.1:{port}").parse().unwrap()),
        };
        for second in 0..2 {
            for _ in 0..3 * RATE {
                unreachable.tell(flow(9), Tick(second * 1000 + 999));
            }
            let told = unreachable.told;
            assert_eq!(told, if may { RATE / 2 } else { 0 });
            for _ in 0..100 {
                unreachable.tell(flow(10), Tick(second * 1000 + 999));
            }
            // None where the process may not send any.
            assert_eq!(unreachable.told - told, if may { 100 } else { 0 });
        }
        for port in 11..100 {
            for _ in 0..RATE {
                unreachable.tell(flow(port), Tick(1999));
            }
        }
        assert!(unreachable.told <= RATE);
    }
}
