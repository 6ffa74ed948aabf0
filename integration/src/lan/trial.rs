//! One trial: an edge departs while clients ask, and comes back.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::announcers::Announcers;
use super::held::{HeldConnections, HeldOutcome};
use super::judge::{self, HeardNaming};
use super::network::{Lan, LanEdge};
use super::observer::ASKED_EVERY;
use super::outage::{Attempt, AttemptEnd, OutageFigures, figures};
use super::prober::Prober;
use crate::wait;

/// How an edge departs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeDeparture {
    /// kill -9.
    Killed,
    /// SIGSTOP: the process is there and does nothing.
    Frozen,
    /// Its cable is pulled.
    Unplugged,
    /// Its port passes nothing on, neither to peers nor to clients, and the link stays up.
    CutOff,
    /// SIGTERM: it is asked to stop.
    Asked,
    /// It is asked to hand over what it owns, and goes on.
    Drained,
}

impl EdgeDeparture {
    /// Those that nobody has planned.
    pub const UNPLANNED: [Self; 4] = [Self::Killed, Self::Frozen, Self::Unplugged, Self::CutOff];

    /// Those that somebody asks for.
    pub const PLANNED: [Self; 2] = [Self::Asked, Self::Drained];

    /// Whether somebody has asked for it.
    pub fn is_planned(self) -> bool {
        Self::PLANNED.contains(&self)
    }

    /// It departs.
    pub fn begin(self, lan: &Lan, on: &mut dyn Announcers, edge: &LanEdge) -> Result<()> {
        match self {
            Self::Killed => on.signal(edge, Signal::KILL),
            Self::Frozen => on.signal(edge, Signal::STOP),
            Self::Unplugged => lan.unplug(edge),
            Self::CutOff => lan.part(&[edge]),
            Self::Asked => on.signal(edge, Signal::TERM),
            Self::Drained => on.drain(edge, false),
        }
    }

    /// It comes back.
    pub fn end(self, lan: &Lan, on: &mut dyn Announcers, edge: &LanEdge) -> Result<()> {
        match self {
            Self::Killed | Self::Asked => on.revive(edge),
            Self::Drained => on.drain(edge, true),
            Self::Frozen => on.signal(edge, Signal::CONT),
            Self::Unplugged => lan.plug(edge),
            Self::CutOff => lan.heal(&[edge]),
        }
    }
}

impl fmt::Display for EdgeDeparture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "kill -9",
            Self::Frozen => "SIGSTOP",
            Self::Unplugged => "link down",
            Self::CutOff => "cut off",
            Self::Asked => "SIGTERM",
            Self::Drained => "drain",
        })
    }
}

/// What a trial is about.
#[derive(Clone, Copy, Debug)]
pub struct TrialPlan<'a> {
    /// The addresses that are announced, and asked for by ARP and NDP all the time.
    pub addresses: &'a [IpAddr],
    /// The port that serves at each.
    pub port: u16,
    /// How an edge departs.
    pub departure: EdgeDeparture,
    /// How many connections are held meanwhile.
    pub held: usize,
    /// When a successor is waited for no longer.
    pub patience: Duration,
}

/// What came of a trial.
#[derive(Clone, Debug)]
pub struct TrialRecord {
    /// What a client of an address saw: an address of each family that the edge had which departed.
    pub seen: BTreeMap<IpAddr, OutageFigures>,
    /// What became of the connections that were held.
    pub held: HeldOutcome,
    /// Whom the witness heard, from before the departure until all was settled after the return.
    pub heard: Vec<HeardNaming>,
    /// What was said to the client meanwhile.
    pub overheard: Vec<HeardNaming>,
    /// The edge that departed.
    pub departed: [u8; 6],
    /// When it departed, when it was called back, and the end.
    pub times: [Instant; 3],
    /// Who had each address before, while it was away, and after it had come back.
    pub owners: [BTreeMap<IpAddr, [u8; 6]>; 3],
}

impl TrialRecord {
    /// The longest time that two hosts answered for one address at once, as far as clients reached both.
    pub fn longest_overlap(&self) -> Duration {
        judge::longest_overlap(&self.heard)
    }
}

/// How long each address must have had one owner before an edge departs: one trial follows another.
const SETTLED_BEFORE: Duration = Duration::from_millis(300);

/// The same after one has come back: longer than a gateway listens before it takes part.
const SETTLED: Duration = Duration::from_secs(1);

/// How long the last address may move after the first one.
const MOVED: Duration = Duration::from_secs(3);

/// So many attempts must have been answered in a row.
pub(super) const IN_A_ROW: usize = 30;

/// Runs a trial. The LAN and what announces on it are as they were when it is over, but for owners.
pub fn run(lan: &Lan, on: &mut dyn Announcers, plan: &TrialPlan<'_>) -> Result<TrialRecord> {
    let observer = lan.observe(plan.addresses, ASKED_EVERY)?;
    let overheard = lan.overhear()?;
    let before = observer.settled(plan.addresses, SETTLED_BEFORE)?;
    let (edge, tried) = choose(lan, &before)?;
    let mut held = HeldConnections::open(
        &lan.client,
        SocketAddr::new(*tried.first().context("it has no address")?, plan.port),
        plan.held,
    )?;
    let probers: Result<Vec<(IpAddr, Prober)>> = tried
        .into_iter()
        .map(|ip| {
            Ok((
                ip,
                Prober::start(&lan.client, SocketAddr::new(ip, plan.port))?,
            ))
        })
        .collect();
    let probers = probers?;
    for (ip, prober) in &probers {
        wait::until(&format!("{} serves {ip}", edge.name), || {
            is_served(&prober.last(IN_A_ROW), |line| on.has_served(edge, line))
        })?;
    }
    let departed_at = Instant::now();
    plan.departure.begin(lan, on, edge)?;
    // Where nobody follows, the figures say so.
    let followed = wait::until_within(plan.patience, "others serve", || {
        probers.iter().all(|(_, prober)| {
            let is_another = |line: &str| {
                let mut others = lan.edges.iter().filter(|it| it.number != edge.number);
                others.any(|it| on.has_served(it, line))
            };
            is_served(&prober.last(IN_A_ROW), is_another)
        })
    });
    let seen: Result<BTreeMap<_, _>> = probers
        .into_iter()
        .map(|(ip, prober)| Ok((ip, figures(&prober.finish()?))))
        .collect();
    let seen = seen?;
    must_have_departed(plan, &seen, followed.is_ok())?;
    let outcome = held.ask();
    drop(held);
    // The others of its addresses may have other successors, a little later. Whoever answers beside its successor is
    // found by the judge.
    let mut during = BTreeMap::new();
    let _ = wait::until_within(MOVED, "all its addresses have moved", || {
        during = judge::last_named(&observer.heard(), plan.addresses);
        during.values().all(|it| *it != edge.hardware())
    });
    let back_at = Instant::now();
    plan.departure.end(lan, on, edge)?;
    let after = observer.settled(plan.addresses, SETTLED)?;
    Ok(TrialRecord {
        seen,
        held: outcome,
        heard: observer.finish()?,
        overheard: overheard.finish()?,
        departed: edge.hardware(),
        times: [departed_at, back_at, Instant::now()],
        owners: [before, during, after],
    })
}

/// One that nobody follows has to be missed: else it has not departed, and its figures would be told as good ones.
pub(super) fn must_have_departed(
    plan: &TrialPlan<'_>,
    seen: &BTreeMap<IpAddr, OutageFigures>,
    is_followed: bool,
) -> Result<()> {
    let is_missed = seen.values().any(|it| it.outage >= plan.patience / 2);
    ensure!(
        is_followed || is_missed,
        "nobody follows, and clients are served all the same: {seen:?}"
    );
    Ok(())
}

/// The edge that has the most addresses, and one of each family that it has.
fn choose<'a>(
    lan: &'a Lan,
    owners: &BTreeMap<IpAddr, [u8; 6]>,
) -> Result<(&'a LanEdge, Vec<IpAddr>)> {
    let mut of_each: BTreeMap<[u8; 6], Vec<IpAddr>> = BTreeMap::new();
    for (address, owner) in owners {
        of_each.entry(*owner).or_default().push(*address);
    }
    let (owner, addresses) = of_each
        .iter()
        .max_by_key(|(_, all)| (judge::one_of_each_family(all).len(), all.len()))
        .context("there are no addresses")?;
    Ok((lan.edge_with(*owner)?, judge::one_of_each_family(addresses)))
}

/// Whether these are enough attempts, and all were answered by whom they should.
pub(super) fn is_served(last: &[Attempt], is_by: impl Fn(&str) -> bool) -> bool {
    let is_good = |it: &Attempt| matches!(&it.end, AttemptEnd::Answered(line) if is_by(line));
    last.len() == IN_A_ROW && last.iter().all(is_good)
}
