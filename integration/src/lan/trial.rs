//! One trial: an edge departs while clients ask, and comes back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::announcers::Announcers;
use super::departure::{TrialPlan, depart};
use super::held::HeldOutcome;
use super::judge::{self, HeardNaming};
use super::network::{Lan, LanEdge};
use super::observer::ASKED_EVERY;
use super::outage::OutageFigures;
use crate::wait;

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

/// Runs a trial. The LAN and what announces on it are as they were when it is over, but for owners.
pub fn run(lan: &Lan, on: &mut dyn Announcers, plan: &TrialPlan<'_>) -> Result<TrialRecord> {
    let observer = lan.observe(plan.addresses, ASKED_EVERY)?;
    let overheard = lan.overhear()?;
    let before = observer.settled(plan.addresses, SETTLED_BEFORE)?;
    let (edge, tried) = choose(lan, &before)?;
    let clients = depart(lan, on, plan, (edge, &tried))?;
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
        seen: clients.seen,
        held: clients.held,
        heard: observer.finish()?,
        overheard: overheard.finish()?,
        departed: edge.hardware(),
        times: [clients.departed_at, back_at, Instant::now()],
        owners: [before, during, after],
    })
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
