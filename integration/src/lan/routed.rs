//! The same trials where a router leads to the addresses: gateways announce them by BGP with BFD to BIRD, and clients
//! reach them through it. The router is the LAN's witness.
//!
//! The router sends all that a client says to one address the same way (a hash over both addresses), so a client of the
//! gateway that departs has no other one until the router turns away.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::announcers::Announcers;
use super::departure::{TrialPlan, depart};
use super::gateways::{self, LanGateways};
use super::judge;
use super::network::{Lan, LanEdge, WITNESS, addresses};
use super::trial::TrialRecord;
use crate::clients;
use crate::lab::Host;
use crate::routers::Bird;
use crate::site::{vip, vip6};

/// The gateways' number of an autonomous system, and the router's.
const AS: [u32; 2] = [64_512, 64_513];

/// How often an address is asked to find out who serves it.
const ASKED: usize = 5;

/// Gateways on each edge, and the router that they tell of their addresses.
#[derive(Debug)]
pub struct RoutedGateways {
    gateways: LanGateways,
    bird: Bird,
    addresses: Vec<IpAddr>,
    edges: Vec<LanEdge>,
}

/// So many addresses of each family, which are in no subnet of the LAN.
pub fn routed_addresses(count: u8) -> Vec<IpAddr> {
    let both = |n| [vip(n), vip6(u16::from(n))];
    (1..=count).flat_map(both).collect()
}

impl RoutedGateways {
    /// Started on each edge; the router knows all ways.
    pub fn start(lan: &Lan, addresses: &[IpAddr]) -> Result<Self> {
        let router = prepare_router(lan)?;
        let [ours, theirs] = AS;
        let sessions = lan.edges.iter().map(|edge| {
            let (number, ip) = (edge.number, edge.ip());
            format!(
                "protocol bgp edge{number} from fairway {{ local {router} as {theirs}; neighbor {ip} as {ours}; \
                 bfd on; }}\n"
            )
        });
        let bird = Bird::start(
            &lan.witness,
            &router.to_string(),
            &sessions.collect::<String>(),
        )?;
        let announced = format!(
            "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: routed}}\n\
             spec: {{addresses: [203.0.113.0/24, \"2001:db8:f::/120\"], announce: {{bgp: {{}}}}}}\n---\n\
             apiVersion: fairway.dev/v1alpha1\nkind: BGPPeer\nmetadata: {{name: router}}\n\
             spec: {{myASN: {ours}, peerASN: {theirs}, peerAddress: \"{router}\", holdTime: 9s, connectTime: 1s, \
             bfd: {{}}}}\n"
        );
        let manifests = [announced, gateways::services(addresses)].join("---\n");
        let mut gateways = LanGateways::prepare(lan, &manifests, |_, it| it.log("warn"))?;
        gateways.launch()?;
        let all = Self {
            gateways,
            bird,
            addresses: addresses.to_vec(),
            edges: lan.edges.clone(),
        };
        all.are_known()?;
        Ok(all)
    }

    /// Waits until the router reaches every address by every edge.
    pub fn are_known(&self) -> Result<()> {
        for address in &self.addresses {
            let ways = self.edges.iter().map(|edge| match address {
                IpAddr::V4(_) => edge.ip(),
                IpAddr::V6(_) => edge.ip6(),
            });
            self.bird.reaches(*address, &ways.collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// The witness becomes the client's router; its address.
fn prepare_router(lan: &Lan) -> Result<IpAddr> {
    let (v4, v6) = addresses(WITNESS);
    for (setting, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
        lan.witness.sysctl(setting, value)?;
    }
    for (setting, value) in [
        // The router is no detour that the client is to be spared.
        ("ipv4/conf/all/accept_redirects", "0"),
        ("ipv4/conf/lan/accept_redirects", "0"),
        ("ipv6/conf/lan/accept_redirects", "0"),
        // A flow label of its own for each connection would be a way of its own.
        ("ipv6/auto_flowlabels", "0"),
    ] {
        lan.client.sysctl(setting, value)?;
    }
    lan.client.ip(&format!(
        "route add 203.0.113.0/24 via {v4}\nroute add 2001:db8:f::/64 via {v6}"
    ))?;
    Ok(v4.into())
}

impl Announcers for RoutedGateways {
    fn signal(&mut self, edge: &LanEdge, signal: Signal) -> Result<()> {
        self.gateways.signal(edge, signal)
    }

    fn drain(&mut self, edge: &LanEdge, is_over: bool) -> Result<()> {
        self.gateways.drain(edge, is_over)
    }

    fn revive(&mut self, edge: &LanEdge) -> Result<()> {
        self.gateways.revive(edge)
    }

    fn has_served(&self, edge: &LanEdge, line: &str) -> bool {
        self.gateways.has_served(edge, line)
    }
}

/// Runs a trial, as [`super::trial::run`] does. Nobody owns an address here, so there is nothing to be told of owners.
pub fn run(lan: &Lan, on: &mut RoutedGateways, plan: &TrialPlan<'_>) -> Result<TrialRecord> {
    on.are_known()?;
    let (edge, tried) = choose(lan, on, plan)?;
    let clients = depart(lan, on, plan, (edge, &tried))?;
    let back_at = Instant::now();
    plan.departure.end(lan, on, edge)?;
    on.are_known()?;
    Ok(TrialRecord {
        seen: clients.seen,
        held: clients.held,
        heard: Vec::new(),
        overheard: Vec::new(),
        departed: edge.hardware(),
        times: [clients.departed_at, back_at, Instant::now()],
        owners: Default::default(),
    })
}

/// The edge that serves the client at most addresses, and one of each family that it serves.
fn choose<'a>(
    lan: &'a Lan,
    on: &RoutedGateways,
    plan: &TrialPlan<'_>,
) -> Result<(&'a LanEdge, Vec<IpAddr>)> {
    let mut of_each: BTreeMap<u8, Vec<IpAddr>> = BTreeMap::new();
    for address in plan.addresses {
        let to = SocketAddr::new(*address, plan.port);
        let number = server_of(&lan.client, on, to)?;
        of_each.entry(number).or_default().push(*address);
    }
    let (number, served) = of_each
        .iter()
        .map(|(number, all)| (number, judge::one_of_each_family(all)))
        .max_by_key(|(_, all)| all.len())
        .context("there are no addresses")?;
    Ok((lan.edge(*number)?, served))
}

/// The edge by which a client reaches an address.
fn server_of(client: &Host, on: &RoutedGateways, to: SocketAddr) -> Result<u8> {
    let lines = client.run(|| -> std::io::Result<Vec<String>> {
        (0..ASKED)
            .map(|_| clients::ask(&mut clients::connect_tcp(to)?, "who"))
            .collect()
    })?;
    let edge = on
        .edges
        .iter()
        .find(|edge| on.has_served(edge, lines.first().map_or("", String::as_str)));
    let edge = edge.with_context(|| format!("nobody has served {lines:?}"))?;
    ensure!(
        lines.iter().all(|line| on.has_served(edge, line)),
        "{to} is reached by several ways: {lines:?}"
    );
    Ok(edge.number)
}
