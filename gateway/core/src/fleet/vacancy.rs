//! The addresses that nobody owns, and when this member takes one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::first_terms::NotAsked;
use super::handover::Handover;
use super::message::{MemberName, MemberStage};
use super::timing::{BootTime, LISTENS, OPENS, STEP};
use super::{Contest, Fleet};

/// An address that nobody owns.
#[derive(Debug)]
pub(super) struct VacantAddress {
    address: IpAddr,
    since: BootTime,
    /// The candidates that are ready, the best first.
    ready: Vec<MemberName>,
    /// Those that drain, likewise: they take what none of the others takes.
    draining: Vec<MemberName>,
}

/// Who is to take each of these addresses: the best candidate that has not its even share yet. Members that
/// know the same say the same.
fn spread(
    vacant: &[VacantAddress],
    mut loads: BTreeMap<MemberName, usize>,
) -> BTreeMap<IpAddr, MemberName> {
    let all = vacant.len() + loads.values().sum::<usize>();
    let share = all.div_ceil(loads.len().max(1));
    let mut places = BTreeMap::new();
    for it in vacant {
        let load = |name: &&MemberName| loads.get(*name).copied().unwrap_or(0);
        let takers = match it.ready.is_empty() {
            true => &it.draining,
            false => &it.ready,
        };
        let free = takers.iter().find(|name| load(name) < share);
        if let Some(name) = free.or(takers.first()).cloned() {
            *loads.entry(name.clone()).or_default() += 1;
            places.insert(it.address, name);
        }
    }
    places
}

impl Fleet {
    /// Begins terms of the addresses that are this member's to take.
    pub(super) fn take_vacant(&mut self, now: BootTime) {
        if self.handover == Handover::Leaving {
            return;
        }
        let vacant = self.vacant(now);
        let places = match vacant.is_empty() {
            true => BTreeMap::new(),
            false => spread(&vacant, self.loads(now)),
        };
        let mut begun = Vec::new();
        for it in vacant {
            let first = places.get(&it.address);
            let ahead = it.ready.iter().chain(&it.draining);
            let ahead = ahead.take_while(|name| **name != self.own);
            let ahead = ahead.filter(|name| first != Some(*name)).count();
            let Some(contest) = self.addresses.get(&it.address).filter(|it| it.is_able) else {
                continue;
            };
            // Whom the spread names comes first, and then all others in the order of their hashes.
            let turn = if first == Some(&self.own) {
                it.since
            } else {
                // Messages do not say for which addresses another one has its listeners: it may need as long as we did.
                let since = it.since.max(contest.able_since);
                let place = u32::try_from(ahead + 1).unwrap_or(u32::MAX);
                let opening = match self.is_fresh(it.address) {
                    true => OPENS,
                    false => Duration::ZERO,
                };
                since.after(opening).after(STEP.saturating_mul(place))
            };
            if turn <= now {
                begun.push(it.address);
            }
        }
        let offered = self.offered(now).into_iter();
        begun.extend(offered.filter(|it| !self.predecessors.is_held(*it)));
        for address in begun {
            self.begin_term(address, now);
        }
    }

    /// Whether nobody is known to have owned an address: no client waits for its next owner.
    fn is_fresh(&self, address: IpAddr) -> bool {
        self.members.terms(address).next().is_none() && self.terms.last_number(address) == 0
    }

    /// How many addresses each member has that takes part: those that are alive and ready, and this one like them. Where
    /// there are none, those that drain.
    fn loads(&self, now: BootTime) -> BTreeMap<MemberName, usize> {
        let mut taking = self.others_at(MemberStage::Ready, now);
        if self.handover == Handover::None {
            taking.insert(self.own.clone());
        }
        if taking.is_empty() {
            taking = self.others_at(MemberStage::Draining, now);
            taking.insert(self.own.clone());
        }
        let mut loads: BTreeMap<_, _> = taking.into_iter().map(|name| (name, 0)).collect();
        for address in self.addresses.keys() {
            if let Some((owner, _)) = self.owner(*address, now)
                && let Some(load) = loads.get_mut(owner)
            {
                *load += 1;
            }
        }
        loads
    }

    /// The addresses that nobody owns, but those for which a better candidate will be ready in a moment.
    fn vacant(&self, now: BootTime) -> Vec<VacantAddress> {
        let mut vacant = Vec::new();
        for (address, contest) in &self.addresses {
            if self.terms.of(*address).is_none()
                && contest.candidates.contains(&self.own)
                && let Some(it) = self.vacancy(*address, contest, now)
            {
                vacant.push(it);
            }
        }
        vacant
    }

    fn vacancy(&self, address: IpAddr, contest: &Contest, now: BootTime) -> Option<VacantAddress> {
        let mut since = contest.vacant_since;
        match self.free_for_first_term(address, now) {
            Ok(None) => {}
            Ok(Some(free)) => since = since.max(free),
            Err(NotAsked) => return None,
        }
        for (name, _) in self
            .members
            .terms(address)
            .filter(|(_, term)| term.goes_on())
        {
            let silent_from = self.members.silent_from(name).unwrap_or(since);
            if now < silent_from {
                return None;
            }
            since = since.max(silent_from);
        }
        let (mut ready, mut draining) = (Vec::new(), Vec::new());
        let mut draining_since = since;
        for name in &contest.candidates {
            if *name == self.own {
                match self.handover {
                    Handover::None => ready.push(name.clone()),
                    Handover::Draining | Handover::Leaving => draining.push(name.clone()),
                }
                continue;
            }
            let Some(member) = self
                .members
                .get(name)
                .filter(|_| self.members.is_alive(name, now))
            else {
                continue;
            };
            match member.stage {
                MemberStage::Listening if now < member.stage_since.after(LISTENS) => return None,
                MemberStage::Listening | MemberStage::Leaving => {}
                MemberStage::Ready => {
                    since = since.max(member.stage_since);
                    ready.push(name.clone());
                }
                MemberStage::Draining => {
                    draining_since = draining_since.max(member.stage_since);
                    draining.push(name.clone());
                }
            }
        }
        if ready.is_empty() {
            since = since.max(draining_since);
        }
        Some(VacantAddress {
            address,
            since,
            ready,
            draining,
        })
    }
}
