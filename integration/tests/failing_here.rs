//! Endpoints that fail their checks at one gateway while others reach them: who has the address then, on layer 2 and by BGP.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Host;
use fairway_integration::lan::gateways::{self, LanGateways};
use fairway_integration::lan::network::{Lan, LanEdge, Snooping, vip as lan_vip, vip6 as lan_vip6};
use fairway_integration::lan::observer::{ASKED_EVERY, LanObserver};
use fairway_integration::routers::Bird;
use fairway_integration::routers::routed::{ID, RoutedSite, edge, edge6, session, started};
use fairway_integration::servers::named;
use fairway_integration::site::{server, server6, vip, vip6};
use fairway_integration::{clients, site, tests, wait};

tests![
    on_layer_2_the_address_goes_to_a_gateway_that_reaches_the_endpoints,
    a_router_of_bgp_goes_by_the_gateway_that_reaches_the_endpoints,
];

/// How each endpoint is checked.
const CHECKED: &str =
    "annotations: {fairway.dev/health-check: 'tcp;interval=500ms;timeout=400ms', ";

/// How long an address must have had one owner and no other one.
const SETTLED: Duration = Duration::from_secs(1);

/// How a gateway loses its servers.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// The cable of its inner network is pulled.
    LinkDown,
    /// What it sends to them is lost on the way.
    Swallowed,
}

impl Loss {
    fn begin(self, host: &Host) -> Result<()> {
        match self {
            Self::LinkDown => host.ip("link set back down"),
            Self::Swallowed => host.ip(&neighbours("replace")),
        }
    }

    fn end(self, host: &Host) -> Result<()> {
        match self {
            Self::LinkDown => {
                // The kernel takes IPv6 addresses away from a link that is down.
                host.sysctl("ipv6/conf/back/keep_addr_on_down", "1")?;
                host.ip("link set back up")
            }
            Self::Swallowed => host.ip(&neighbours("delete")),
        }
    }
}

/// The servers at a hardware address that nobody has.
fn neighbours(act: &str) -> String {
    [server(0), server6(0)]
        .map(|it| format!("neighbour {act} {it} lladdr 02:00:00:00:00:99 dev back"))
        .join("\n")
}

fn checked(manifests: &str) -> String {
    manifests.replace("annotations: {", CHECKED)
}

/// The gateway that answers for all addresses.
fn owner(lan: &Lan, observer: &LanObserver, addresses: &[IpAddr]) -> Result<LanEdge> {
    let owners = observer.settled(addresses, SETTLED)?;
    let first = owners.values().next().context("nobody has an address")?;
    ensure!(owners.values().all(|it| it == first), "{owners:?}");
    Ok(lan.edge_with(*first)?.clone())
}

/// Waits until none of its endpoints fails.
fn reaches_again(gateway: &Fairway) -> Result<()> {
    wait::until_some("it reaches its servers again", || {
        for service in ["default/s0", "default/s1"] {
            let said = gateway.cli_output(&["explain", "service", service])?;
            ensure!(!said.contains("fail"), "{said}");
        }
        Ok(())
    })
}

fn on_layer_2_the_address_goes_to_a_gateway_that_reaches_the_endpoints() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    let _farm = named(&lan.farm, &gateways::endpoints())?;
    let addresses = [lan_vip(1), lan_vip6(1)];
    let pool = gateways::announced_pool(&["198.19.1.0/24", "2001:db8:c::f:0/112"]);
    let manifests = [pool, checked(&gateways::services(&addresses))].join("---\n");
    for edge in &lan.edges {
        edge.host.sysctl("ipv6/conf/back/keep_addr_on_down", "1")?;
    }
    let mut all = LanGateways::prepare(&lan, &manifests, |_, it| it.log("info"))?;
    all.launch()?;
    let observer = lan.observe(&addresses, ASKED_EVERY)?;
    observer.settled(&addresses, SETTLED)?;
    let [one, other] = &lan.edges[..] else {
        bail!("two gateways");
    };
    for loss in [Loss::Swallowed, Loss::LinkDown] {
        // Whoever has which address: one gateway after the other has both, as the other one loses its servers.
        for (loses, takes) in [(other, one), (one, other)] {
            let began = Instant::now();
            loss.begin(&loses.host)?;
            wait::until_some("the one that reaches the servers has the addresses", || {
                let has = owner(&lan, &observer, &addresses)?;
                ensure!(has.number == takes.number, "{} has them", has.name);
                Ok(())
            })?;
            println!(
                "{loss:?} at {}: {} ms",
                loses.name,
                began.elapsed().as_millis()
            );
            for address in addresses {
                let who = lan
                    .client
                    .run(|| clients::who(site::at(address, gateways::PORT)))?;
                ensure!(who == "farm", "{who}");
            }
            // It says why, and nothing moves by itself when it is mended.
            all.on(loses)?
                .explains("default/s0", &["fails its checks since 2"])?;
            loss.end(&loses.host)?;
            reaches_again(all.on(loses)?)?;
            let has = owner(&lan, &observer, &addresses)?;
            ensure!(
                has.number == takes.number,
                "moved by itself to {}",
                has.name
            );
        }
        // Where nobody reaches them nothing moves. The owner is the last to lose them: else the other one might not know
        // yet that it does not reach them either.
        for edge in [one, other] {
            loss.begin(&edge.host)?;
            for service in ["default/s0", "default/s1"] {
                all.on(edge)?
                    .explains(service, &["all endpoints", "fail their check"])?;
            }
        }
        let has = owner(&lan, &observer, &addresses)?;
        ensure!(has.number == other.number, "{} has them", has.name);
        // It is the first to reach them again, for the same reason.
        for edge in [other, one] {
            loss.end(&edge.host)?;
            reaches_again(all.on(edge)?)?;
        }
        let has = owner(&lan, &observer, &addresses)?;
        ensure!(has.number == other.number, "{} has them", has.name);
    }
    Ok(())
}

fn a_router_of_bgp_goes_by_the_gateway_that_reaches_the_endpoints() -> Result<()> {
    let site = RoutedSite::new(2)?;
    let sessions: String = (1..=2).map(|n| session(n, "")).collect();
    let bird = Bird::start(&site.router, ID, &sessions)?;
    let gateways = [started(&site, 1, "")?, started(&site, 2, "")?];
    for gateway in &gateways {
        let web = std::fs::read_to_string(gateway.manifests().join("web.yaml"))?;
        gateway.write("web.yaml", &checked(&web))?;
    }
    let reached_by = |numbers: &[u8]| -> Result<()> {
        let v4: Vec<IpAddr> = numbers.iter().map(|n| edge(*n)).collect();
        let v6: Vec<IpAddr> = numbers.iter().map(|n| edge6(*n)).collect();
        bird.reaches(vip(1), &v4)?;
        bird.reaches(vip6(1), &v6)
    };
    reached_by(&[1, 2])?;
    let loss = Loss::Swallowed;
    let began = Instant::now();
    loss.begin(&site.edge(1)?.host)?;
    reached_by(&[2])?;
    println!(
        "the router left the first one after {} ms",
        began.elapsed().as_millis()
    );
    ensure!(site.answers(vip(1))? == ["edge-2".to_owned()].into());
    // Both fail: both are a last resort, so clients find whichever the check is wrong about.
    loss.begin(&site.edge(2)?.host)?;
    reached_by(&[1, 2])?;
    loss.end(&site.edge(1)?.host)?;
    reached_by(&[1])?;
    ensure!(site.answers(vip6(1))? == ["edge-1".to_owned()].into());
    loss.end(&site.edge(2)?.host)?;
    reached_by(&[1, 2])
}
