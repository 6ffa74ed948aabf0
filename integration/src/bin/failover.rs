//! Measures how long clients are not served when a gateway departs: Fairway's on a LAN and behind a router, and
//! keepalived and MetalLB beside it. Prints a page in Markdown. Run it by `cargo xtask bench failover`. By hand: the number of runs,
//! and words of which one at least must be in a group's name (`fairway: kill`) for it to be measured.

use std::env;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use fairway_integration::cluster::Cluster;
use fairway_integration::in_cluster::ClusterFleet;
use fairway_integration::lan::announcers::Announcers;
use fairway_integration::lan::departure::{EdgeDeparture, TrialPlan};
use fairway_integration::lan::faults::{self, FaultRecord};
use fairway_integration::lan::gateways::{self, LanGateways};
use fairway_integration::lan::held::HeldOutcome;
use fairway_integration::lan::judge;
use fairway_integration::lan::keepalived::Keepaliveds;
use fairway_integration::lan::many::{self, ManyTaken};
use fairway_integration::lan::metallb::MetalLbs;
use fairway_integration::lan::network::{Lan, Snooping, vip, vip6};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::lan::outage::{Distribution, OutageFigures};
use fairway_integration::lan::routed::{self, RoutedGateways, routed_addresses};
use fairway_integration::lan::trial::{self, TrialRecord};
use fairway_integration::servers::named;
use fairway_integration::{figures, harness};

/// Runs of each departure, of Fairway.
const RUNS: usize = 50;
/// For each so many runs a peer has one.
const RUNS_OF_A_PEER: usize = 10;
/// Gateways on the LAN.
const EDGES: u8 = 3;
/// The same where faults of all kinds follow each other.
const EDGES_WITH_FAULTS: u8 = 4;
/// Addresses on one segment, where there are very many.
const MANY: u16 = 4000;
/// So many of a group's runs may go wrong in a row: then the others would, too, and each takes minutes.
const BROKEN_IN_A_ROW: usize = 3;
/// Addresses of each family.
const ADDRESSES: u8 = 4;
/// Connections that are held in a planned departure.
const HELD: usize = 1000;
/// How long a gateway is cut off from the API server, and how long the last time: longer than its Lease lasts.
const API_CUT: Duration = Duration::from_secs(3);
const LONG_API_CUT: Duration = Duration::from_secs(40);
/// When a successor is waited for no longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is wanted: in all runs but one in fifty, and in all.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(2);

/// Who announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailoverWay {
    /// On layer 2.
    Fairway,
    /// By BGP, with BFD.
    FairwayRouted,
    /// With its default, an advertisement a second.
    Keepalived,
    /// With ten a second.
    FastKeepalived,
    /// Its speakers, on layer 2.
    MetalLb,
}

impl FailoverWay {
    const ALL: [Self; 5] = [
        Self::Fairway,
        Self::FairwayRouted,
        Self::Keepalived,
        Self::FastKeepalived,
        Self::MetalLb,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Fairway => "Fairway",
            Self::FairwayRouted => "Fairway, BGP with BFD",
            Self::Keepalived => "keepalived, advert_int 1",
            Self::FastKeepalived => "keepalived, advert_int 0.1",
            Self::MetalLb => "MetalLB, layer 2",
        }
    }

    fn is_fairway(self) -> bool {
        matches!(self, Self::Fairway | Self::FairwayRouted)
    }

    fn addresses(self) -> Vec<IpAddr> {
        match self {
            Self::FairwayRouted => routed_addresses(ADDRESSES),
            _ => lan_addresses(),
        }
    }

    fn start(self, lan: &Lan, addresses: &[IpAddr]) -> Result<RunningWay> {
        let keepalived = |interval| Keepaliveds::start(lan, addresses, gateways::PORT, interval);
        Ok(match self {
            Self::Fairway => RunningWay::OnLan(Box::new(fairways(lan, addresses)?)),
            Self::FairwayRouted => RunningWay::Routed(RoutedGateways::start(lan, addresses)?),
            Self::Keepalived => RunningWay::OnLan(Box::new(keepalived(1.0)?)),
            Self::FastKeepalived => RunningWay::OnLan(Box::new(keepalived(0.1)?)),
            Self::MetalLb => {
                RunningWay::OnLan(Box::new(MetalLbs::start(lan, addresses, gateways::PORT)?))
            }
        })
    }
}

/// What announces, while it runs.
enum RunningWay {
    OnLan(Box<dyn Announcers>),
    Routed(RoutedGateways),
}

impl RunningWay {
    fn trial(&mut self, lan: &Lan, plan: &TrialPlan<'_>) -> Result<TrialRecord> {
        match self {
            Self::OnLan(announcers) => trial::run(lan, announcers.as_mut(), plan),
            Self::Routed(gateways) => routed::run(lan, gateways, plan),
        }
    }
}

fn lan_addresses() -> Vec<IpAddr> {
    let numbers = 1..=u16::from(ADDRESSES);
    numbers.flat_map(|n| [vip(n), vip6(n)]).collect()
}

fn fairways(lan: &Lan, addresses: &[IpAddr]) -> Result<LanGateways> {
    let pool = gateways::announced_pool(&["198.19.1.0/24", "2001:db8:c::f:0/112"]);
    let manifests = [pool, gateways::services(addresses)].join("---\n");
    let mut all = LanGateways::prepare(lan, &manifests, |_, gateway| gateway.log("warn"))?;
    all.launch()?;
    Ok(all)
}

/// The runs of one way and one departure.
#[derive(Debug)]
struct FailoverGroup {
    way: FailoverWay,
    departure: EdgeDeparture,
    records: Vec<TrialRecord>,
    /// What went wrong in runs that have no figures.
    broken: Vec<String>,
}

fn main() -> Result<()> {
    let mut arguments = env::args().skip(1);
    harness::prepare()?;
    let runs = match arguments.next() {
        Some(text) => text.parse().context("the number of runs")?,
        None => RUNS,
    };
    let words: Vec<String> = arguments.map(|word| word.to_lowercase()).collect();
    let is_wanted = |name: &str| {
        let lower = name.to_lowercase();
        words.is_empty() || words.iter().any(|word| lower.contains(word))
    };
    let mut groups = Vec::new();
    for way in FailoverWay::ALL {
        for departure in EdgeDeparture::UNPLANNED
            .into_iter()
            .chain(EdgeDeparture::PLANNED)
            // keepalived does not drain, and routers are not told of it.
            .filter(|it| way == FailoverWay::Fairway || *it != EdgeDeparture::Drained)
        {
            let runs = match way.is_fairway() {
                true => runs,
                false => runs.div_ceil(RUNS_OF_A_PEER),
            };
            if is_wanted(&format!("{}: {departure}", way.name())) {
                groups.push(group(way, departure, runs)?);
            }
        }
    }
    let cuts = is_wanted("API server")
        .then(|| api_server_cuts(runs))
        .transpose()?;
    let history = is_wanted("faults").then(|| history(runs)).transpose()?;
    let taken = is_wanted("many")
        .then(|| many::takeover(EDGES, MANY))
        .transpose()?;
    println!(
        "{}",
        page(&groups, cuts.as_deref(), history.as_ref(), taken.as_ref())
    );
    Ok(())
}

/// Measures one way and one departure.
fn group(way: FailoverWay, departure: EdgeDeparture, runs: usize) -> Result<FailoverGroup> {
    let addresses = way.addresses();
    let plan = TrialPlan {
        addresses: &addresses,
        port: gateways::PORT,
        departure,
        held: match departure.is_planned() {
            true => HELD,
            false => 0,
        },
        patience: PATIENCE,
    };
    let mut group = FailoverGroup {
        way,
        departure,
        records: Vec::new(),
        broken: Vec::new(),
    };
    let (start, mut broken_in_a_row) = (Instant::now(), 0);
    let mut stage = None;
    for n in 1..=runs {
        // After a run that went wrong everything is made anew.
        let (running, _farm, lan) = match &mut stage {
            Some(stage) => stage,
            none => {
                let lan = Lan::new(EDGES, Snooping::Mld)?;
                let farm = named(&lan.farm, &gateways::endpoints())?;
                let running = way.start(&lan, &addresses)?;
                none.insert((running, farm, lan))
            }
        };
        let outcome = running.trial(lan, &plan);
        let said = match &outcome {
            Ok(record) => {
                let seen = record.seen.values().map(|it| it.outage.as_millis());
                format!("{:?} ms", seen.collect::<Vec<_>>())
            }
            Err(error) => format!("{error:#}"),
        };
        let spent = start.elapsed().as_secs();
        eprintln!(
            "{}, {departure}, {n} of {runs}, {spent} s: {said}",
            way.name()
        );
        match outcome {
            Ok(record) => {
                group.records.push(record);
                broken_in_a_row = 0;
            }
            Err(error) => {
                group.broken.push(format!("{error:#}"));
                broken_in_a_row += 1;
                if broken_in_a_row == BROKEN_IN_A_ROW {
                    break;
                }
                stage = None;
            }
        }
    }
    Ok(group)
}

/// In a cluster the owner of an address is cut off from the API server, so many times.
fn api_server_cuts(runs: usize) -> Result<Vec<OutageFigures>> {
    let cluster = Cluster::start()?;
    let fleet = ClusterFleet::new(&cluster)?;
    let address = vip(1);
    let observer = fleet.lan.observe(&[address], ASKED_EVERY)?;
    fleet.service("web", "")?;
    fleet.it.has("web", &[address])?;
    let owner = fleet.owner(&observer, ("web", address))?;
    let mut seen = Vec::new();
    for n in 1..=runs {
        let time = if n == runs { LONG_API_CUT } else { API_CUT };
        let figures = fleet.cut_off_from_api_server(owner, address, time)?;
        eprintln!("Fairway, cut off from the API server, {n} of {runs}: {figures:?}");
        seen.push(figures);
    }
    Ok(seen)
}

/// So many faults of all kinds, one after another, on a LAN of its own.
fn history(count: usize) -> Result<(u64, usize, FaultRecord)> {
    let addresses = lan_addresses();
    let lan = Lan::new(EDGES_WITH_FAULTS, Snooping::Off)?;
    let _farm = named(&lan.farm, &gateways::endpoints())?;
    let mut fairways = fairways(&lan, &addresses)?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    eprintln!("{count} faults, seed {seed}");
    let record = faults::run(
        &lan,
        &mut fairways,
        (&addresses, gateways::PORT),
        seed,
        count,
    )?;
    Ok((seed, count, record))
}

/// The figures of one family in a group.
fn of_family(group: &FailoverGroup, is_v4: bool) -> Vec<OutageFigures> {
    let seen = group.records.iter().flat_map(|record| &record.seen);
    seen.filter(|(ip, _)| ip.is_ipv4() == is_v4)
        .map(|(_, it)| *it)
        .collect()
}

fn millis(time: Option<Duration>) -> String {
    time.map_or(String::new(), |time| {
        format!("{:.0}", time.as_secs_f64() * 1e3)
    })
}

/// The longest time that two answered at once, in each run: before the return, and from then on.
fn overlaps(record: &TrialRecord) -> [Duration; 2] {
    let back = record.times[1];
    let (before, after): (Vec<_>, Vec<_>) = record.heard.iter().partition(|it| it.at < back);
    [before, after].map(|heard| judge::longest_overlap(&heard))
}

fn page(
    groups: &[FailoverGroup],
    cuts: Option<&[OutageFigures]>,
    history: Option<&(u64, usize, FaultRecord)>,
    taken: Option<&ManyTaken>,
) -> String {
    let mut text = format!(
        "# Failover\n\nMeasured by `cargo xtask bench failover` on {}. {EDGES} gateways, a client and servers \
         are network namespaces on a bridge with MLD snooping, all on the same cores. A client starts an attempt every \
         10 ms, a connection of its own with a question and its answer, and gives each up after 200 ms. The outage is \
         the longest gap between starts of attempts that succeeded. A gateway departs that has an address of each \
         family, comes back, and so on: nothing goes back by itself. Another host asks for every address every \
         {} ms, by ARP and NDP, and takes down who answers: two at once is the longest time between the first answer of \
         one host and the last one of another that was there before it, until the gateway came back, and from then on. \
         keepalived has the addresses on the interface, and each edge answers by itself: addresses of one that is killed \
         or frozen stay there and go on being served, so two hosts answer for as long as the measuring looks. With MetalLB (its speakers and a real control plane) every \
         edge has the addresses on its loopback interface and answers by itself, as kube-proxy does there: one whose speaker \
         is killed or frozen goes on serving until another one says that it has the address. With BGP a \
         router (BIRD, BFD with 100 ms and three packets) leads to the addresses, and sends all that a client says to one \
         of them to one gateway. The client's pause is the longest time between two starts of attempts: no shorter outage \
         can be told. Times are in milliseconds.\n\n\
         ## Unplanned\n\n\
         | who | departure | family | runs | min | p50 | p90 | max | ≤ {} s | > {} s | two at once | after the return | \
         client's pause |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        figures::today_here(),
        ASKED_EVERY.as_millis(),
        SHORT.as_secs(),
        LONG.as_secs(),
    );
    for group in groups.iter().filter(|it| !it.departure.is_planned()) {
        let both: Vec<[Duration; 2]> = group.records.iter().map(overlaps).collect();
        // By BGP nobody owns an address.
        let longest = |n: usize| match group.way {
            FailoverWay::FairwayRouted => String::new(),
            _ => millis(both.iter().map(|it| it[n]).max()),
        };
        for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
            let all = of_family(group, is_v4);
            let times = Distribution::new(all.iter().map(|it| it.outage));
            let _ = writeln!(
                text,
                "| {} | {} | {family} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                group.way.name(),
                group.departure,
                times.count(),
                millis(times.quantile(0.0)),
                millis(times.quantile(0.5)),
                millis(times.quantile(0.9)),
                millis(times.quantile(1.0)),
                times.within(SHORT),
                times.count() - times.within(LONG),
                longest(0),
                longest(1),
                millis(all.iter().map(|it| it.pause).max()),
            );
        }
    }
    text += &planned(groups);
    text += &cuts.map(api_server_section).unwrap_or_default();
    if let Some((seed, count, record)) = history {
        let _ = write!(
            text,
            "\n## Faults at random\n\n{EDGES_WITH_FAULTS} gateways, {count} faults of all these kinds and deafness to \
             another gateway, one after another and two at a time (seed {seed}). A client asks for {} addresses every \
             {} ms and connects to each every {} ms. A capture on its interface takes down who answers (ARP, NDP) and \
             who takes its connections (the source of SYN-ACK), with the kernel's times: {} frames, {} connections. The \
             longest time that two answered for one address at once: {} ms. The longest time that nobody answered for \
             one: {} ms. The client's longest outage at one: {} ms.\n",
            lan_addresses().len(),
            ASKED_EVERY.as_millis(),
            faults::CONNECTS_EVERY.as_millis(),
            record.frames,
            record.attempts,
            record.longest_overlap().as_millis(),
            record.longest_silence().as_millis(),
            record.unserved.as_millis(),
        );
    }
    if let Some(taken) = taken {
        let _ = write!(
            text,
            "\n## {MANY} addresses on one segment\n\nOf {EDGES} gateways, which have {:?} of them, the first one is killed, \
             once. Another one announces, or answers for, half of its addresses within {} ms, and all within {} ms.\n",
            taken.shares,
            millis(taken.times.quantile(0.5)),
            millis(taken.times.quantile(1.0)),
        );
    }
    text += "\n## Who is not here\n\nOf kube-vip no release could be built from its Go module with a checksum that others know. \
             Published by others, on other machines and by other measures: PureLB 2.2 to 6.7 s, MetalLB 5 to 10 s, Cilium \
             10 to 20 s.\n";
    let broken = groups.iter().filter(|it| !it.broken.is_empty());
    for group in broken {
        let _ = writeln!(
            text,
            "\n{}, {}: {} runs went wrong and are in no figure, the first one so: {}",
            group.way.name(),
            group.departure,
            group.broken.len(),
            group.broken.first().map_or("", String::as_str)
        );
    }
    text
}

fn api_server_section(cuts: &[OutageFigures]) -> String {
    let outages = Distribution::new(cuts.iter().map(|it| it.outage));
    let sum = |of: fn(&OutageFigures) -> usize| cuts.iter().map(of).sum::<usize>();
    format!(
        "\n## Cut off from the API server\n\n3 gateways and a controller in a cluster with a real control plane. The gateway \
         that owns an address is cut off from the API server, {} times for {} s each and once for {} s: nothing \
         is to happen to clients. Of {} attempts {} failed; the outage was {} ms at least, {} ms at most.\n",
        cuts.len().saturating_sub(1),
        API_CUT.as_secs(),
        LONG_API_CUT.as_secs(),
        sum(|it| it.attempts),
        sum(|it| it.failed),
        millis(outages.quantile(0.0)),
        millis(outages.quantile(1.0)),
    )
}

fn planned(groups: &[FailoverGroup]) -> String {
    let mut text = format!(
        "\n## Planned\n\nSIGTERM, or `fairway drain`, while {HELD} connections are held. Wanted: no attempt fails, and the \
         longest gap is at most 50 ms.\n\n\
         | who | departure | family | runs | attempts | failed | longest gap p50 | max | connections that were held | \
         ended |\n\
         |---|---|---|---|---|---|---|---|---|---|\n"
    );
    for group in groups.iter().filter(|it| it.departure.is_planned()) {
        let held = group
            .records
            .iter()
            .fold(HeldOutcome::default(), |sum, it| HeldOutcome {
                alive: sum.alive + it.held.alive,
                ended: sum.ended + it.held.ended,
                silent: sum.silent + it.held.silent,
            });
        for (family, is_v4) in [("IPv4", true), ("IPv6", false)] {
            let all = of_family(group, is_v4);
            let times = Distribution::new(all.iter().map(|it| it.outage));
            let sum = |of: fn(&OutageFigures) -> usize| all.iter().map(of).sum::<usize>();
            let _ = writeln!(
                text,
                "| {} | {} | {family} | {} | {} | {} | {} | {} | {} | {} |",
                group.way.name(),
                group.departure,
                times.count(),
                sum(|it| it.attempts),
                sum(|it| it.failed),
                millis(times.quantile(0.5)),
                millis(times.quantile(1.0)),
                held.alive + held.ended + held.silent,
                held.ended + held.silent,
            );
        }
    }
    text
}
