//! Whole gateways that share many addresses, that many clients use, or that many things happen to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, ensure};
use fairway_gateway_core::fleet::SILENT;
use fairway_integration::lab::Served;
use fairway_integration::lan::announcers::Announcers;
use fairway_integration::lan::faults;
use fairway_integration::lan::gateways::{self, LanGateways, PORT, TARGET};
use fairway_integration::lan::judge;
use fairway_integration::lan::many;
use fairway_integration::lan::network::{Lan, Snooping, vip, vip6};
use fairway_integration::lan::observer::{ASKED_EVERY, LanObserver};
use fairway_integration::servers::named;
use fairway_integration::{clients, manifest, site, tests, wait};
use rustix::process::Signal;

tests![
    addresses_are_shared_and_only_those_of_who_leaves_move,
    four_thousand_addresses_of_one_segment_are_taken_over_in_time,
    clients_stay_on_their_endpoints_when_an_address_moves,
    one_owner_follows_another_through_faults_of_all_kinds,
];

/// Each of these tests has the machine for itself: what is looked at is time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long each address must have had one owner and no other one.
const SETTLED: Duration = Duration::from_secs(1);

/// So many servers the Service with affinity has.
const ENDPOINTS: u8 = 4;

/// So many clients use it.
const CLIENTS: u16 = 10_000;

/// So many of them ask at the same time.
const AT_ONCE: u16 = 4;

/// Gateways on a LAN, and the servers behind them. They go in this order.
struct FleetStage {
    gateways: LanGateways,
    lan: Lan,
    _farm: Served,
}

/// Gateways that hear each other, and have one address, [`first`].
fn stage(edges: u8, ranges: &[&str]) -> Result<FleetStage> {
    let lan = Lan::new(edges, Snooping::Off)?;
    let servers: Vec<(String, SocketAddr)> = (0..ENDPOINTS)
        .map(|n| (n.to_string(), SocketAddr::new(site::server(n), TARGET)))
        .chain([("6".to_owned(), SocketAddr::new(site::server6(0), TARGET))])
        .collect();
    let servers: Vec<(&str, SocketAddr)> =
        servers.iter().map(|(name, at)| (&**name, *at)).collect();
    let farm = named(&lan.farm, &servers)?;
    let service = manifest::load_balancer("first", first(), PORT, TARGET);
    let slice = manifest::slice("first", TARGET, &[site::server(0)]);
    let manifests = [gateways::announced_pool(ranges), service, slice].join("---\n");
    let mut gateways = LanGateways::prepare(&lan, &manifests, |_, it| it.log("info"))?;
    gateways.launch()?;
    lan.observe(&[first()], ASKED_EVERY)?
        .settled(&[first()], SETTLED)?;
    Ok(FleetStage {
        gateways,
        lan,
        _farm: farm,
    })
}

fn first() -> IpAddr {
    vip(0xff)
}

impl FleetStage {
    /// Each gateway is told of more Services.
    fn write(&mut self, name: &str, text: &str) -> Result<()> {
        let Self { lan, gateways, .. } = self;
        let mut edges = lan.edges.iter();
        edges.try_for_each(|edge| gateways.on(edge)?.write(name, text))
    }
}

/// How many addresses each has.
fn counts(owners: &BTreeMap<IpAddr, [u8; 6]>) -> BTreeMap<[u8; 6], usize> {
    let mut counts = BTreeMap::new();
    for owner in owners.values() {
        *counts.entry(*owner).or_default() += 1;
    }
    counts
}

fn addresses_are_shared_and_only_those_of_who_leaves_move() -> Result<()> {
    let _alone = alone();
    let addresses: Vec<IpAddr> = (1..=250).map(vip).collect();
    let mut stage = stage(3, &["198.19.1.0/24"])?;
    stage.write("many.yaml", &gateways::services(&addresses))?;
    let observer = stage.lan.observe(&addresses, SETTLED / 4)?;
    let before = observer.settled(&addresses, SETTLED)?;
    let shares = counts(&before);
    println!("shares: {shares:?}");
    // Within 20 % of even, where no gateway learns of the Services more than 3 s after the first one
    // (`gateway/core/tests/fleet/arrivals.rs`).
    ensure!(
        shares.len() == 3 && shares.values().all(|it| (67..=100).contains(it)),
        "{shares:?}"
    );
    let most = shares.iter().max_by_key(|(_, count)| **count);
    let leaves = stage.lan.edge_with(*most.context("nobody has any")?.0)?;
    let leaves = leaves.clone();
    stage.gateways.signal(&leaves, Signal::KILL)?;
    let during = wait::until_some("others have what it had", || {
        let owners = observer.settled(&addresses, SETTLED)?;
        ensure!(owners.values().all(|it| *it != leaves.hardware()));
        Ok(owners)
    })?;
    for (address, owner) in &before {
        ensure!(
            *owner == leaves.hardware() || during.get(address) == Some(owner),
            "{address} moved, although its owner was there"
        );
    }
    let shares = counts(&during);
    println!("shares of two: {shares:?}");
    stage.gateways.revive(&leaves)?;
    ensure!(
        observer.settled(&addresses, SETTLED)? == during,
        "moved by itself"
    );
    Ok(())
}

fn four_thousand_addresses_of_one_segment_are_taken_over_in_time() -> Result<()> {
    let _alone = alone();
    let takeover = many::takeover(3, 4000)?;
    let last = takeover.times.quantile(1.0).unwrap_or_default();
    let middle = takeover.times.quantile(0.5);
    println!(
        "shares {:?}; taken after {middle:?} in the middle, {last:?} at the end",
        takeover.shares
    );
    // On a machine that is busy. Alone it is some thousands of announcements in a second, after the half second of silence.
    ensure!(last < Duration::from_secs(10), "{last:?}");
    Ok(())
}

/// An address of a client that is behind the LAN's.
fn client(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(198, 18, high, low).into()
}

/// The endpoint of each client.
fn endpoints_of_clients(lan: &Lan, at: IpAddr) -> Result<BTreeMap<IpAddr, String>> {
    let to = SocketAddr::new(at, PORT);
    let ask = |n: u16| -> std::io::Result<(IpAddr, String)> {
        Ok((client(n), clients::who_from(client(n), to)?))
    };
    let some = |first: u16| {
        let all = (first..=CLIENTS).step_by(AT_ONCE.into()).map(ask);
        lan.client.run(|| all.collect::<std::io::Result<Vec<_>>>())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=AT_ONCE)
            .map(|n| scope.spawn(move || some(n)))
            .collect();
        let mut endpoints = BTreeMap::new();
        for thread in threads {
            let asked = thread
                .join()
                .map_err(|_| anyhow!("a client has panicked"))?;
            endpoints.extend(asked?);
        }
        Ok(endpoints)
    })
}

fn clients_stay_on_their_endpoints_when_an_address_moves() -> Result<()> {
    let _alone = alone();
    let mut stage = stage(3, &["198.19.1.0/24"])?;
    // Clients behind one host of the LAN: the gateways' neighbour caches need not hold all of them.
    stage
        .lan
        .client
        .ip("route add local 198.18.0.0/16 dev lo")?;
    for edge in &stage.lan.edges {
        edge.host.ip("route add 198.18.0.0/16 via 198.19.0.101")?;
    }
    let address = vip(1);
    let service = manifest::load_balancer("sticky", address, PORT, TARGET);
    let service = service.replace("selector:", "sessionAffinity: ClientIP, selector:");
    let slice = |endpoints: std::ops::Range<u8>| {
        let endpoints: Vec<IpAddr> = endpoints.map(site::server).collect();
        manifest::slice("sticky", TARGET, &endpoints)
    };
    stage.write("sticky.yaml", &service)?;
    stage.write("slice.yaml", &slice(0..ENDPOINTS))?;
    let observer = stage.lan.observe(&[address], ASKED_EVERY)?;
    let owner = |observer: &LanObserver| -> Result<[u8; 6]> {
        let owners = observer.settled(&[address], SETTLED)?;
        owners.get(&address).copied().context("nobody has it")
    };
    let mut last = owner(&observer)?;
    let mut before = endpoints_of_clients(&stage.lan, address)?;
    let used: BTreeSet<&String> = before.values().collect();
    ensure!(used.len() == usize::from(ENDPOINTS), "{used:?}");
    // First the gateway alone departs, then one endpoint together with the next gateway.
    for endpoints_left in [ENDPOINTS, ENDPOINTS - 1] {
        let edge = stage.lan.edge_with(last)?.clone();
        stage.gateways.signal(&edge, Signal::KILL)?;
        stage.write("slice.yaml", &slice(0..endpoints_left))?;
        wait::until("another one has the address", || {
            let named = judge::last_named(&observer.heard(), &[address]);
            named.get(&address).is_some_and(|it| *it != last)
        })?;
        last = owner(&observer)?;
        let gone = endpoints_left.to_string();
        let of_gone = before.iter().find(|(_, endpoint)| **endpoint == gone);
        if let Some((client, _)) = of_gone {
            wait::until_some("it knows that the endpoint is gone", || {
                let to = SocketAddr::new(address, PORT);
                let endpoint = stage.lan.client.run(|| clients::who_from(*client, to))?;
                ensure!(endpoint != gone, "{endpoint}");
                Ok(())
            })?;
        }
        let after = endpoints_of_clients(&stage.lan, address)?;
        let moved = before
            .iter()
            .filter(|(it, endpoint)| after.get(it) != Some(endpoint));
        let (had_to, others): (Vec<_>, Vec<_>) =
            moved.partition(|(_, endpoint)| **endpoint == gone);
        println!(
            "{} of {CLIENTS} moved, {} without need",
            had_to.len(),
            others.len()
        );
        ensure!(others.is_empty(), "{others:?}");
        // One of so many endpoints had its share, as far as chance is even.
        let share = usize::from(CLIENTS) / usize::from(ENDPOINTS);
        ensure!(had_to.len() <= share * 12 / 10, "{}", had_to.len());
        ensure!(had_to.is_empty() == (endpoints_left == ENDPOINTS));
        before = after;
    }
    Ok(())
}

/// Two answer for one address at once, or take connections there, for no longer than this. Where one of them may not hear
/// the other both answer for 700 ms (`gateway/core/tests/fleet.rs`). When two sides of a LAN meet again, the client
/// follows the announcement of the one that lets go then, and by ARP it believes no answer of another host for a second
/// (`locktime` in arp(7)): so long it goes on to connect to the former.
const BOTH: Duration = Duration::from_secs(2);

/// So long after its owner departed, and perhaps the next one, too, an address has an owner, on a machine that is busy.
const NOBODY: Duration = SILENT.saturating_mul(6);

fn one_owner_follows_another_through_faults_of_all_kinds() -> Result<()> {
    let _alone = alone();
    let addresses: Vec<IpAddr> = (1..=3).flat_map(|n| [vip(n), vip6(n)]).collect();
    let mut stage = stage(4, &["198.19.1.0/24", "2001:db8:c::f:0/112"])?;
    stage.write("few.yaml", &gateways::services(&addresses))?;
    let seed = match std::env::var("FAIRWAY_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    println!("FAIRWAY_SEED={seed}");
    let at = (&addresses[..], PORT);
    let record = faults::run(&stage.lan, &mut stage.gateways, at, seed, 6)?;
    let (both, nobody) = (record.longest_overlap(), record.longest_silence());
    println!(
        "two at once for {both:?}, nobody for {nobody:?}, the client's outage {:?}; {} frames, {} connections",
        record.unserved, record.frames, record.attempts
    );
    let story = record.story();
    ensure!(both <= BOTH, "{:?}\n{story}", record.both);
    ensure!(nobody <= NOBODY, "{:?}\n{story}", record.nobody);
    Ok(())
}
