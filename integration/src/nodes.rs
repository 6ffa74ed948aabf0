//! Two nodes, their pods, and clients that have a way to each node of their own.
//!
//! ```text
//!            ┌── 198.51.100.0/24 ── a 192.0.2.1 ── pods 10.1.N.2
//!   client ──┤                      │
//!            └── 10.9.0.0/24 ─────── b 192.0.2.2 ── pods 10.2.N.2
//! ```
//! What a pod of `b` answers to a client goes there by `b`, and never passes `a`, where external addresses are.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use crate::lab::{Host, Served, wire};
use crate::servers::{named, named_http};

/// See the module.
#[derive(Debug)]
pub struct Nodes {
    /// Has three addresses of each family, see [`client`].
    pub client: Host,
    /// The node that clients reach external addresses by.
    pub a: Host,
    /// The other one.
    pub b: Host,
    /// Named `pod-NODE-NUMBER`.
    pub pods: Vec<Host>,
}

/// One of three clients.
pub fn client(n: u8) -> [IpAddr; 2] {
    let n = 11 + n;
    [
        [198, 51, 100, n].into(),
        [0x2001, 0xdb8, 0xc, 0, 0, 0, 0, u16::from(n)].into(),
    ]
}

/// The pod number `n` of node 1 or 2.
pub fn pod(node: u8, n: u8) -> [IpAddr; 2] {
    [
        [10, node, n, 2].into(),
        [0xfd00, u16::from(node), u16::from(n), 0, 0, 0, 0, 2].into(),
    ]
}

impl Nodes {
    /// So many pods on each node.
    pub fn new(pods: [u8; 2]) -> Result<Self> {
        let (client_host, a, b) = (Host::new("client")?, Host::new("a")?, Host::new("b")?);
        wire((&client_host, "to-a"), (&a, "front"))?;
        wire((&client_host, "to-b"), (&b, "front"))?;
        wire((&a, "lan"), (&b, "lan"))?;
        let ip = |text: &str| text.parse::<IpAddr>();
        for n in 0..3 {
            let [four, six] = client(n);
            client_host.addresses("to-a", &[(four, 24), (six, 64)])?;
        }
        client_host.addresses("to-b", &[(ip("10.9.0.2")?, 24), (ip("fd00:9::2")?, 64)])?;
        client_host.ip(
            "route add 203.0.113.0/24 via 198.51.100.1\nroute add 2001:db8:f::/64 via 2001:db8:c::1",
        )?;
        a.addresses(
            "front",
            &[(ip("198.51.100.1")?, 24), (ip("2001:db8:c::1")?, 64)],
        )?;
        a.addresses("lan", &[(ip("192.0.2.1")?, 24), (ip("2001:db8:b::1")?, 64)])?;
        b.addresses("front", &[(ip("10.9.0.1")?, 24), (ip("fd00:9::1")?, 64)])?;
        b.addresses("lan", &[(ip("192.0.2.2")?, 24), (ip("2001:db8:b::2")?, 64)])?;
        a.ip("route add 10.2.0.0/16 via 192.0.2.2\nroute add fd00:2::/32 via 2001:db8:b::2")?;
        b.ip("route add 10.1.0.0/16 via 192.0.2.1\nroute add fd00:1::/32 via 2001:db8:b::1")?;
        b.ip("route add 198.51.100.0/24 via 10.9.0.2\nroute add 2001:db8:c::/64 via fd00:9::2")?;
        let mut all = Vec::new();
        for (host, node, count) in [(&a, 1, pods[0]), (&b, 2, pods[1])] {
            host.sysctl("ipv4/ip_forward", "1")?;
            host.sysctl("ipv6/conf/all/forwarding", "1")?;
            for n in 1..=count {
                let there = Host::new(&format!("pod-{node}-{n}"))?;
                let interface = format!("pod{n}");
                wire((host, &interface), (&there, "eth0"))?;
                let [four, six] = pod(node, n);
                there.addresses("eth0", &[(four, 24), (six, 64)])?;
                host.addresses(
                    &interface,
                    &[
                        (ip(&format!("10.{node}.{n}.1"))?, 24),
                        (ip(&format!("fd00:{node}:{n}::1"))?, 64),
                    ],
                )?;
                there.ip(&format!(
                    "route add default via 10.{node}.{n}.1\nroute add default via fd00:{node}:{n}::1"
                ))?;
                all.push(there);
            }
        }
        Ok(Self {
            client: client_host,
            a,
            b,
            pods: all,
        })
    }

    /// Servers in all pods: each says its own name and its peer's address.
    pub fn serve(&self) -> Result<Vec<Served>> {
        let mut served = Vec::new();
        for host in &self.pods {
            let ips = ips_of(host);
            let names: Vec<(&str, SocketAddr)> = ips
                .iter()
                .map(|ip| (host.name(), SocketAddr::new(*ip, 8080)))
                .collect();
            served.push(named(host, &names)?);
            let names: Vec<(&str, SocketAddr)> = ips
                .iter()
                .map(|ip| (host.name(), SocketAddr::new(*ip, 8081)))
                .collect();
            served.push(named_http(host, &names)?);
        }
        Ok(served)
    }
}

/// The addresses of a pod, by its name.
pub fn ips_of(host: &Host) -> Vec<IpAddr> {
    let mut numbers = host.name().split('-').skip(1);
    let mut next = || numbers.next().and_then(|it| it.parse::<u8>().ok());
    match (next(), next()) {
        (Some(node), Some(n)) => pod(node, n).to_vec(),
        _ => Vec::new(),
    }
}
