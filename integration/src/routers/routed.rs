//! Gateways behind a router.
//!
//! ```text
//!   client ──── router ─┬── edge-1 ──── farm 1
//!                       └── edge-2 ──── farm 2
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};

use crate::fairway::{Fairway, text};
use crate::lab::{Host, Served, wire};
use crate::manifest::{all, slice};
use crate::servers::named;
use crate::site::{at, server, server6, vip, vip6};
use crate::{clients, wait};

/// The AS of the gateways.
pub const OURS: u32 = 64_512;
/// The AS of the router.
pub const THEIRS: u32 = 64_513;

/// The router's router ID.
pub const ID: &str = "198.18.1.1";

/// The router's address on the link to gateway `n`.
pub fn router(n: u8) -> IpAddr {
    Ipv4Addr::new(198, 18, n, 1).into()
}

/// The address of gateway `n` on that link.
pub fn edge(n: u8) -> IpAddr {
    Ipv4Addr::new(198, 18, n, 2).into()
}

fn on_link6(n: u8, host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x18, n.into(), 0, 0, 0, host).into()
}

/// The same of IPv6.
pub fn router6(n: u8) -> IpAddr {
    on_link6(n, 1)
}

/// The same of IPv6.
pub fn edge6(n: u8) -> IpAddr {
    on_link6(n, 2)
}

/// A gateway's host and the farm behind it, whose servers say the gateway's name.
#[derive(Debug)]
pub struct RoutedEdge {
    /// The gateway's host.
    pub host: Host,
    /// The gateway's name.
    pub name: String,
    number: u8,
    _farm: Host,
    _served: Served,
}

/// Gateways, their router, and a client behind it.
#[derive(Debug)]
pub struct RoutedSite {
    /// The client's host.
    pub client: Host,
    /// The router's host.
    pub router: Host,
    edges: Vec<RoutedEdge>,
}

impl RoutedSite {
    /// So many gateways, whose numbers begin with 1.
    pub fn new(count: u8) -> Result<Self> {
        let (client, router_host) = (Host::new("client")?, Host::new("router")?);
        wire((&client, "up"), (&router_host, "clients"))?;
        let net6 = |n: u16| Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, n).into();
        let clients: Vec<(IpAddr, u8)> = (11..41)
            .map(|n| (Ipv4Addr::new(198, 51, 100, n).into(), 24))
            .chain([(net6(0x11), 64)])
            .collect();
        client.addresses("up", &clients)?;
        client.ip("route add default via 198.51.100.1\nroute add default via 2001:db8:c::1")?;
        let of_router = [(Ipv4Addr::new(198, 51, 100, 1).into(), 24), (net6(1), 64)];
        router_host.addresses("clients", &of_router)?;
        for (setting, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // By ports, too: one client uses all gateways.
            ("ipv4/fib_multipath_hash_policy", "1"),
            ("ipv6/fib_multipath_hash_policy", "1"),
        ] {
            router_host.sysctl(setting, value)?;
        }
        let mut edges = Vec::new();
        for number in 1..=count {
            let name = format!("edge-{number}");
            let (host, farm) = (Host::new(&name)?, Host::new(&format!("farm-{number}"))?);
            let link = format!("e{number}");
            wire((&router_host, &link), (&host, "up"))?;
            router_host.addresses(&link, &[(router(number), 24), (router6(number), 64)])?;
            host.addresses("up", &[(edge(number), 24), (edge6(number), 64)])?;
            host.ip(&format!(
                "route add default via {}\nroute add default via {}",
                router(number),
                router6(number)
            ))?;
            wire((&host, "back"), (&farm, "up"))?;
            let inside6 = Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 1).into();
            let inside = Ipv4Addr::new(192, 0, 2, 1).into();
            host.addresses("back", &[(inside, 24), (inside6, 64)])?;
            farm.addresses("up", &[(server(0), 24), (server6(0), 64)])?;
            let ends = [at(server(0), 80), at(server6(0), 80)];
            let served = named(&farm, &ends.map(|end| (&*name, end)))?;
            edges.push(RoutedEdge {
                host,
                name,
                number,
                _farm: farm,
                _served: served,
            });
        }
        Ok(Self {
            client,
            router: router_host,
            edges,
        })
    }

    /// A gateway.
    pub fn edge(&self, number: u8) -> Result<&RoutedEdge> {
        let mut edges = self.edges.iter();
        edges.find(|it| it.number == number).context("no such edge")
    }

    /// Who answers at the Service's address.
    pub fn answers(&self, address: IpAddr) -> Result<BTreeSet<String>> {
        let ask = || clients::who(at(address, 80));
        let answers = self
            .client
            .run(|| (0..40).map(|_| ask()).collect::<Vec<_>>());
        let answers: std::io::Result<Vec<String>> = answers.into_iter().collect();
        Ok(answers?.into_iter().collect())
    }
}

/// The Service, and a pool with this `announce`.
pub fn web(announce: &str) -> String {
    let pool = format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: edge}}\n\
         spec: {{addresses: [203.0.113.0/28, \"2001:db8:f::/120\"], announce: {announce}}}\n"
    );
    let service = format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: web, annotations: {{fairway.dev/addresses: \"{},{}\"}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: web}}, ipFamilyPolicy: RequireDualStack, \
         ipFamilies: [IPv4, IPv6], ports: [{{port: 80}}]}}\n",
        vip(1),
        vip6(1),
    );
    all(&[&pool, &service])
}

/// The endpoints of the Service.
pub fn endpoints() -> String {
    let (v4, v6) = (
        slice("web", 80, &[server(0)]),
        slice("web", 80, &[server6(0)]),
    );
    all(&[&v4, &v6])
}

/// A router for gateways. `more` are more fields of its spec, in flow style.
pub fn peer(name: &str, asn: u32, address: IpAddr, more: &str) -> String {
    format!(
        "apiVersion: fairway.dev/v1alpha1\nkind: BGPPeer\nmetadata: {{name: {name}}}\n\
         spec: {{myASN: {OURS}, peerASN: {asn}, peerAddress: \"{address}\", \
         holdTime: 9s, connectTime: 2s{}{more}}}\n",
        if more.is_empty() { "" } else { ", " }
    )
}

/// The gateway's part of the router's configuration.
pub fn session(number: u8, more: &str) -> String {
    format!(
        "protocol bgp edge{number} from fairway {{ local {} as {THEIRS}; neighbor {} as {OURS}; {more} }}\n",
        router(number),
        edge(number)
    )
}

/// Fairway on a gateway, with that `announce` of the pool and these BGPPeers.
pub fn fairway(edge: &RoutedEdge, announce: &str, peers: &[&str]) -> Result<Fairway> {
    let mut fairway = Fairway::prepare(&edge.host)?.arguments(&["--node-name", &edge.name]);
    fairway.write("web.yaml", &web(announce))?;
    fairway.write("endpoints.yaml", &endpoints())?;
    fairway.write("peers.yaml", &all(peers))?;
    fairway.launch()?;
    fairway.ready()?;
    Ok(fairway)
}

/// Fairway on a gateway that announces the Service to the router.
pub fn started(site: &RoutedSite, number: u8, more: &str) -> Result<Fairway> {
    let tor = peer("tor", THEIRS, router(number), more);
    fairway(site.edge(number)?, "{bgp: {}}", &[&tor])
}

/// Waits until the session has that state and its row says each of `words`.
pub fn peer_is(fairway: &Fairway, name: &str, state: &str, words: &[&str]) -> Result<()> {
    wait::until_some(&format!("{name} is {state} {words:?}"), || {
        let rows = fairway.list("peers")?;
        let row = rows.iter().find(|row| text(row, "name") == name);
        let row = row.with_context(|| format!("no {name} in {rows:?}"))?;
        let said = row.to_string();
        match text(row, "state") == state && words.iter().all(|word| said.contains(word)) {
            true => Ok(()),
            false => bail!("{said}"),
        }
    })
}
