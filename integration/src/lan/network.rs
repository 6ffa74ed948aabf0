//! The LAN itself: a bridge, edges, a client, and hosts that watch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::observer::{AskerAddresses, LanObserver};
use crate::lab::{Host, wire};
use crate::{clients, site, wait};

/// Edges that a LAN can have.
pub const MOST_EDGES: u8 = 7;

/// What every host calls its interface on the LAN.
pub const INTERFACE: &str = "lan";

/// The bridge that the hosts are on, and the one that those are on that were parted from them.
const BRIDGES: [&str; 2] = ["main", "apart"];

/// Who knows which hosts joined which group (RFC 4541).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snooping {
    /// The bridge sends what is for a group to all.
    Off,
    /// It sends it to those that have joined, and asks for them.
    Mld,
}

/// See the module above.
#[derive(Debug)]
pub struct Lan {
    /// The bridge's host.
    pub switch: Host,
    /// Where gateways run: the first one has the number 1.
    pub edges: Vec<LanEdge>,
    /// Who is served.
    pub client: Host,
    /// A host that watches.
    pub witness: Host,
    /// Another one, which [`part`](Lan::part) takes along.
    pub other_witness: Host,
    /// The servers' host.
    pub farm: Host,
}

/// A host on which a gateway runs.
#[derive(Clone, Debug)]
pub struct LanEdge {
    /// 1, 2, …
    pub number: u8,
    /// `edge-1`, …
    pub name: String,
    /// The host.
    pub host: Host,
}

/// The external address 198.19.1.0 + `n`.
pub fn vip(n: u16) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(198, 19, 1, 0).to_bits() + u32::from(n)).into()
}

/// The external address 2001:db8:c::f:`n`.
pub fn vip6(n: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0xf, n).into()
}

/// The addresses of host `n` on the LAN.
pub(super) fn addresses(n: u8) -> (Ipv4Addr, Ipv6Addr) {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, n.into());
    (Ipv4Addr::new(198, 19, 0, n), v6)
}

/// The hardware address of host `n` on the LAN.
pub fn hardware(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, n]
}

/// The numbers of hosts that are no edges.
const CLIENT: u8 = 101;
pub(super) const WITNESS: u8 = 102;
const OTHER_WITNESS: u8 = 103;

impl LanEdge {
    /// Its own IPv4 address on the LAN.
    pub fn ip(&self) -> IpAddr {
        addresses(self.number).0.into()
    }

    /// Its own IPv6 address on the LAN.
    pub fn ip6(&self) -> IpAddr {
        addresses(self.number).1.into()
    }

    /// Its hardware address on the LAN.
    pub fn hardware(&self) -> [u8; 6] {
        hardware(self.number)
    }

    /// The bridge's port to it.
    pub fn port(&self) -> String {
        format!("edge{}", self.number)
    }

    /// Whether this address is the one that servers see it by.
    pub fn is_seen_as(&self, inside: IpAddr) -> bool {
        [inside_ip(self.number), inside_ip6(self.number)].contains(&inside)
    }
}

fn inside_ip(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, n).into()
}

fn inside_ip6(n: u8) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, n.into()).into()
}

impl Lan {
    /// So many edges, and the others.
    pub fn new(edges: u8, snooping: Snooping) -> Result<Self> {
        if !(1..=MOST_EDGES).contains(&edges) {
            bail!("a LAN has up to {MOST_EDGES} edges, not {edges}");
        }
        let switch = Host::new("switch")?;
        for bridge in BRIDGES {
            // Hundredths of a second: who has joined is known soon. The bridge waits for answers for as long as it was
            // told when it begins to ask.
            let groups = match snooping {
                Snooping::Off => "mcast_snooping 0".to_owned(),
                Snooping::Mld => format!(
                    "mcast_snooping 1 mcast_query_response_interval 10 mcast_startup_query_interval 50 \
                     mcast_startup_query_count 20\nlink set {bridge} type bridge mcast_querier 1"
                ),
            };
            switch.ip(&format!(
                "link add {bridge} type bridge forward_delay 0 {groups}\nlink set {bridge} up"
            ))?;
        }
        let farm = Host::new("farm")?;
        farm.ip(
            "link add servers type bridge forward_delay 0 mcast_snooping 0\nlink set servers up",
        )?;
        let servers = (0..20).flat_map(|n| [(site::server(n), 24), (site::server6(n), 64)]);
        farm.addresses("servers", &servers.collect::<Vec<_>>())?;
        let edges: Result<Vec<LanEdge>> = (1..=edges)
            .map(|number| {
                let name = format!("edge-{number}");
                let host = Host::new(&name)?;
                let edge = LanEdge { number, name, host };
                attach(&switch, &edge.host, &edge.port(), number)?;
                wire((&edge.host, "back"), (&farm, &edge.port()))?;
                farm.ip(&format!("link set dev {} master servers", edge.port()))?;
                let inside = [(inside_ip(number), 24), (inside_ip6(number), 64)];
                edge.host.addresses("back", &inside)?;
                Ok(edge)
            })
            .collect();
        let other = |name: &str, number| -> Result<Host> {
            let host = Host::new(name)?;
            attach(&switch, &host, name, number)?;
            Ok(host)
        };
        let lan = Self {
            edges: edges?,
            client: other("client", CLIENT)?,
            witness: other("witness", WITNESS)?,
            other_witness: other("other", OTHER_WITNESS)?,
            switch,
            farm,
        };
        if snooping == Snooping::Mld {
            lan.groups_are_known()?;
        }
        Ok(lan)
    }

    /// The edge of that number.
    pub fn edge(&self, number: u8) -> Result<&LanEdge> {
        let edge = self.edges.iter().find(|it| it.number == number);
        edge.with_context(|| format!("there is no edge {number}"))
    }

    /// The edge with that hardware address.
    pub fn edge_with(&self, hardware: [u8; 6]) -> Result<&LanEdge> {
        let edge = self.edges.iter().find(|it| it.hardware() == hardware);
        edge.with_context(|| format!("no edge has {hardware:02x?}"))
    }

    /// The witness asks for these addresses, so often.
    pub fn observe(&self, addresses: &[IpAddr], every: Duration) -> Result<LanObserver> {
        LanObserver::ask(&self.witness, INTERFACE, asker(WITNESS), addresses, every)
    }

    /// The other witness asks for these addresses, so often.
    pub fn observe_apart(&self, addresses: &[IpAddr], every: Duration) -> Result<LanObserver> {
        let (host, from) = (&self.other_witness, asker(OTHER_WITNESS));
        LanObserver::ask(host, INTERFACE, from, addresses, every)
    }

    /// The client asks for these addresses all the time, and takes down who answers and who takes its connections.
    pub fn capture(&self, addresses: &[IpAddr]) -> Result<LanObserver> {
        LanObserver::capture(&self.client, INTERFACE, asker(CLIENT), addresses)
    }

    /// What is said to the client, which asks nothing by itself.
    pub fn overhear(&self) -> Result<LanObserver> {
        LanObserver::listen(&self.client, INTERFACE)
    }

    /// What a host's neighbour cache has of an address: the hardware address, and the state in capitals.
    pub fn neighbor(&self, host: &Host, address: IpAddr) -> Result<Option<([u8; 6], String)>> {
        let text = address.to_string();
        let arguments = ["neighbour", "show", "to", &text, "dev", INTERFACE];
        let line = host.run(|| clients::output("ip", &arguments))?;
        Ok(neighbor_in(&line))
    }

    /// Waits until the bridge knows who has joined the groups of the hosts' own addresses.
    fn groups_are_known(&self) -> Result<()> {
        let joined: Vec<_> = self.edges.iter().map(|it| (it.port(), it.ip6())).collect();
        wait::until_some("the bridge knows who has joined which group", || {
            let arguments = ["mdb", "show", "br", BRIDGES[0]];
            let groups = self.switch.run(|| clients::output("bridge", &arguments))?;
            for (port, ip) in &joined {
                let IpAddr::V6(ip) = ip else { continue };
                let [.., a, b, c] = ip.octets();
                let last = u16::from_be_bytes([b, c]);
                let group = format!("ff02::1:ff{a:02x}:{last:x} ");
                let is_known = |line: &str| line.contains(&group) && line.contains(port.as_str());
                if !groups.lines().any(is_known) {
                    bail!("{port} is not in {group}: {groups}");
                }
            }
            Ok(())
        })
    }

    /// Takes the cable out of an edge: its interface loses its carrier.
    pub fn unplug(&self, edge: &LanEdge) -> Result<()> {
        self.switch
            .ip(&format!("link set dev {} down", edge.port()))
    }

    /// Puts the cable back.
    pub fn plug(&self, edge: &LanEdge) -> Result<()> {
        self.switch.ip(&format!("link set dev {} up", edge.port()))
    }

    /// Parts these edges, and the other witness, from all others: nothing passes between the two sides, and nobody
    /// loses a carrier.
    pub fn part(&self, edges: &[&LanEdge]) -> Result<()> {
        self.put(edges, BRIDGES[1])
    }

    /// Undoes [`part`](Lan::part).
    pub fn heal(&self, edges: &[&LanEdge]) -> Result<()> {
        self.put(edges, BRIDGES[0])
    }

    fn put(&self, edges: &[&LanEdge], bridge: &str) -> Result<()> {
        let ports = edges.iter().map(|it| it.port());
        let ports = ports.chain(["other".to_owned()]);
        let lines = ports.map(|port| format!("link set dev {port} master {bridge}\n"));
        self.switch.ip(&lines.collect::<String>())
    }

    /// This edge hears nothing of what the others send to it by IP. What it sends reaches them.
    pub fn deafen(&self, edge: &LanEdge, to: &[&LanEdge]) -> Result<()> {
        let rules = to.iter().map(|from| {
            let (v4, v6) = (from.ip(), from.ip6());
            format!("ip saddr {v4} drop\nip6 saddr {v6} drop\n")
        });
        let rules = rules.collect::<String>();
        let hook = "type filter hook input priority -300; policy accept;\n";
        let table = format!("table inet deaf {{\nchain in {{\n{hook}{rules}}}\n}}\n");
        edge.host.run(|| clients::output("nft", &[&table]))?;
        Ok(())
    }

    /// Undoes [`deafen`](Lan::deafen).
    pub fn undeafen(&self, edge: &LanEdge) -> Result<()> {
        let arguments = ["delete", "table", "inet", "deaf"];
        edge.host.run(|| clients::output("nft", &arguments))?;
        Ok(())
    }
}

/// Lays a wire from the bridge to a host, which gets the addresses of that number.
fn attach(switch: &Host, host: &Host, port: &str, number: u8) -> Result<()> {
    wire((switch, port), (host, INTERFACE))?;
    let [.., last] = hardware(number);
    host.ip(&format!(
        "link set dev {INTERFACE} address 02:00:00:00:01:{last:02x}"
    ))?;
    let (v4, v6) = addresses(number);
    host.addresses(INTERFACE, &[(v4.into(), 16), (v6.into(), 64)])?;
    let bridge = BRIDGES[0];
    switch.ip(&format!("link set dev {port} master {bridge}"))
}

fn asker(number: u8) -> AskerAddresses {
    let (v4, v6) = addresses(number);
    AskerAddresses {
        hardware: hardware(number),
        v4,
        v6,
    }
}

/// Reads a line of `ip neighbour`: `198.19.1.1 lladdr 02:00:00:00:01:01 REACHABLE`.
fn neighbor_in(line: &str) -> Option<([u8; 6], String)> {
    let mut words = line.split_whitespace();
    words.find(|word| *word == "lladdr")?;
    let octets = words.next()?.split(':');
    let octets: Vec<u8> = octets
        .map(|octet| u8::from_str_radix(octet, 16).ok())
        .collect::<Option<_>>()?;
    Some((octets.try_into().ok()?, words.last()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_neighbour_cache_is_read() {
        let table = [
            (
                "198.19.1.1 lladdr 02:00:00:00:01:0a REACHABLE \n",
                Some((hardware(10), "REACHABLE")),
            ),
            (
                "2001:db8::1 lladdr 02:00:00:00:01:01 router STALE\n",
                Some((hardware(1), "STALE")),
            ),
            ("198.19.1.1 FAILED\n", None),
            ("198.19.1.1 lladdr 02:00:00 STALE\n", None),
            ("", None),
        ];
        for (line, wanted) in table {
            let wanted = wanted.map(|(hardware, state)| (hardware, state.to_owned()));
            assert_eq!(neighbor_in(line), wanted, "{line}");
        }
    }
}
