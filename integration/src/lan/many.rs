//! Very many addresses on one segment, and how long it takes until the last one of those has moved that a gateway had
//! which is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::announcers::Announcers;
use super::gateways::{self, LanGateways};
use super::network::{Lan, Snooping, vip};
use super::observer::LanObserver;
use super::outage::Distribution;
use crate::servers::named;
use crate::wait;

/// How often each address is asked for: rarely, for there are many.
const ASKED_EVERY: Duration = Duration::from_secs(1);

/// Each address must have had one owner for so long.
const SETTLED: Duration = Duration::from_secs(3);

/// What was seen.
#[derive(Debug)]
pub struct ManyTaken {
    /// How many addresses each gateway had, the most first.
    pub shares: Vec<usize>,
    /// How long after the death of the first one each of its addresses was announced or answered for by another.
    pub times: Distribution,
}

/// Gateways with so many addresses, one of which is killed: that with the most.
pub fn takeover(edges: u8, count: u16) -> Result<ManyTaken> {
    let addresses: Vec<IpAddr> = (0x100..0x100 + count).map(vip).collect();
    let lan = Lan::new(edges, Snooping::Off)?;
    let _farm = named(&lan.farm, &gateways::endpoints())?;
    let last = vip(0x100 + count).to_string();
    let pool = gateways::announced_pool(&[&format!("{}-{last}", vip(1)), "2001:db8:c::f:0/112"]);
    // An address beforehand, by which they know that they hear each other.
    let first = gateways::services(&[vip(1)]).replace("s0", "first");
    let manifests = [pool, first].join("---\n");
    let mut gateways = LanGateways::prepare(&lan, &manifests, |_, it| it.log("warn"))?;
    gateways.launch()?;
    lan.observe(&[vip(1)], ASKED_EVERY / 10)?
        .settled(&[vip(1)], ASKED_EVERY)?;
    let services = gateways::services(&addresses).replace(
        "type: LoadBalancer,",
        "type: LoadBalancer, allocateLoadBalancerNodePorts: false,",
    );
    for edge in &lan.edges {
        gateways.on(edge)?.write("many.yaml", &services)?;
    }
    let observer = lan.observe(&addresses, ASKED_EVERY)?;
    let owners = wait::until_some("each address has had one owner", || {
        one_owner_of_each(&observer, &addresses)
    })?;
    let mut of_each: BTreeMap<[u8; 6], BTreeSet<IpAddr>> = BTreeMap::new();
    for (address, owner) in owners {
        of_each.entry(owner).or_default().insert(address);
    }
    let mut shares: Vec<usize> = of_each.values().map(BTreeSet::len).collect();
    shares.sort_unstable_by(|one, other| other.cmp(one));
    let (departs, its) = of_each
        .iter()
        .max_by_key(|(_, all)| all.len())
        .context("nobody owns anything")?;
    observer.forget();
    let killed = Instant::now();
    gateways.signal(lan.edge_with(*departs)?, Signal::KILL)?;
    let mut taken = BTreeMap::new();
    wait::until("others have all that it had", || {
        taken = taken_after(&observer, its, (*departs, killed));
        taken.len() == its.len()
    })?;
    Ok(ManyTaken {
        shares,
        times: Distribution::new(taken.into_values()),
    })
}

fn one_owner_of_each(
    observer: &LanObserver,
    addresses: &[IpAddr],
) -> Result<BTreeMap<IpAddr, [u8; 6]>> {
    let since = Instant::now().checked_sub(SETTLED);
    let mut of_each: BTreeMap<IpAddr, BTreeSet<[u8; 6]>> = BTreeMap::new();
    for it in observer.heard_since(since.context("the machine has just started")?) {
        let naming = it.naming;
        of_each
            .entry(naming.address)
            .or_default()
            .insert(naming.hardware);
    }
    let owners = addresses.iter().filter_map(|it| {
        let all = of_each.get(it)?;
        (all.len() == 1).then_some((*it, *all.first()?))
    });
    let owners: BTreeMap<IpAddr, [u8; 6]> = owners.collect();
    ensure!(owners.len() == addresses.len(), "{} have one", owners.len());
    Ok(owners)
}

/// When each of these addresses was first named by another host than that, since then.
fn taken_after(
    observer: &LanObserver,
    addresses: &BTreeSet<IpAddr>,
    (departed, since): ([u8; 6], Instant),
) -> BTreeMap<IpAddr, Duration> {
    let mut taken = BTreeMap::new();
    for it in observer.heard_since(since) {
        let naming = it.naming;
        if naming.hardware != departed && addresses.contains(&naming.address) {
            let after = it.at.duration_since(since);
            let first = taken.entry(naming.address).or_insert(after);
            *first = after.min(*first);
        }
    }
    taken
}
