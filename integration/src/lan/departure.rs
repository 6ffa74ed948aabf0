//! An edge departs while clients use it, whatever leads them to it: what they see, and whether others serve them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::announcers::Announcers;
use super::held::{HeldConnections, HeldOutcome};
use super::network::{Lan, LanEdge};
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

/// What clients saw of a departure.
#[derive(Clone, Debug)]
pub struct ClientRecord {
    /// What a client of an address saw: an address of each family that the edge served which departed.
    pub seen: BTreeMap<IpAddr, OutageFigures>,
    /// What became of the connections that were held.
    pub held: HeldOutcome,
    /// When it departed.
    pub departed_at: Instant,
}

/// So many attempts must have been answered in a row.
const IN_A_ROW: usize = 30;

/// An edge departs, by whom clients are served at these addresses, and others serve them. It does not come back.
pub(super) fn depart(
    lan: &Lan,
    on: &mut dyn Announcers,
    plan: &TrialPlan<'_>,
    (edge, addresses): (&LanEdge, &[IpAddr]),
) -> Result<ClientRecord> {
    let to = |ip| SocketAddr::new(ip, plan.port);
    let first = *addresses.first().context("it serves no address")?;
    let mut held = HeldConnections::open(&lan.client, to(first), plan.held)?;
    let probers: Result<Vec<(IpAddr, Prober)>> = addresses
        .iter()
        .map(|ip| Ok((*ip, Prober::start(&lan.client, to(*ip))?)))
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
    Ok(ClientRecord {
        seen,
        held: held.ask(),
        departed_at,
    })
}

/// One that nobody follows has to be missed: else it has not departed, and its figures would be told as good ones.
fn must_have_departed(
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

/// Whether these are enough attempts, and all were answered by whom they should.
fn is_served(last: &[Attempt], is_by: impl Fn(&str) -> bool) -> bool {
    let is_good = |it: &Attempt| matches!(&it.end, AttemptEnd::Answered(line) if is_by(line));
    last.len() == IN_A_ROW && last.iter().all(is_good)
}
