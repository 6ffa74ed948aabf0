//! The addresses that nobody owns, and when this member takes one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Fleet;
use super::candidacy::Contest;
use super::handover::Handover;
use super::message::{MemberName, MemberStage};
use super::timing::{ASKS, BootTime, LEARNS, LISTENS, STEP};

/// An address that nobody owns.
#[derive(Debug)]
pub(super) struct VacantAddress {
    address: IpAddr,
    since: BootTime,
    /// The candidates that may take it, in their order: those that are preferred, the others, and those that drain;
    /// of each kind the best first.
    takers: Vec<MemberName>,
    /// So many of them are of the first kind that there is.
    first_kind: usize,
    /// Since when all of these are known to know the address, and to have told what they took; none: one may not have
    /// heard of it yet.
    known_since: Option<BootTime>,
    /// Its first term may begin: no other host uses it, as far as that has to be known.
    may_begin: bool,
}

impl VacantAddress {
    /// Those that share such addresses out among them. The others take what none of these takes.
    fn first(&self) -> &[MemberName] {
        self.takers.get(..self.first_kind).unwrap_or_default()
    }
}

/// A member that is alive, as all vacant addresses need it.
#[derive(Clone, Copy, Debug)]
struct AliveMember {
    stage: MemberStage,
    stage_since: BootTime,
    /// Since when it knows the same addresses as this member.
    agrees_since: Option<BootTime>,
}

/// Candidates of an address that are alike.
#[derive(Debug, Default)]
struct TakerKind {
    /// The best first.
    names: Vec<MemberName>,
    /// Since when all of them have been so.
    there_since: BootTime,
    /// Since when all of them know the same addresses as this member, unless one is behind.
    known_since: Option<BootTime>,
    is_behind: bool,
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
        let first = it.first();
        let free = first.iter().find(|name| load(name) < share);
        if let Some(name) = free.or(first.first()).cloned() {
            *loads.entry(name.clone()).or_default() += 1;
            places.insert(it.address, name);
        }
    }
    places
}

impl Fleet {
    /// Begins terms of the addresses that are this member's to take.
    pub(super) fn take_vacant(&mut self, now: BootTime) {
        self.to_ask.clear();
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
            let ahead = it.takers.iter().take_while(|name| **name != self.own);
            let ahead = ahead.filter(|name| first != Some(*name)).count();
            let Some(contest) = self.addresses.get(&it.address).filter(|it| it.is_able()) else {
                continue;
            };
            // Whom the spread names comes first, and then all others in the order of their hashes.
            let turn = if first == Some(&self.own) {
                it.since
            } else {
                // Another one may need as long as we did until its listeners are open.
                let since = it.since.max(contest.able_since);
                let place = u32::try_from(ahead + 1).unwrap_or(u32::MAX);
                let since = match it.known_since {
                    _ if !self.is_fresh(it.address) => since,
                    Some(known) => since.max(known).after(ASKS),
                    None => since.after(LEARNS),
                };
                since.after(STEP.saturating_mul(place))
            };
            match it.may_begin {
                _ if now < turn => {}
                true => begun.push(it.address),
                // Whose turn it is asks, and nobody else: hundreds would ask after each new address.
                false => drop(self.to_ask.insert(it.address)),
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
        let load = |name: &MemberName| match *name == self.own {
            true => self.terms.owned_count,
            false => self.members.get(name).map_or(0, |it| it.owned),
        };
        let loads = taking.into_iter().map(|name| {
            let load = load(&name);
            (name, load)
        });
        loads.collect()
    }

    /// The addresses that nobody owns, but those for which a better candidate will be ready in a moment.
    fn vacant(&self, now: BootTime) -> Vec<VacantAddress> {
        let mut alive: BTreeMap<&MemberName, AliveMember> = BTreeMap::new();
        let mut seen: BTreeSet<IpAddr> = self.due.unowned.clone();
        for name in self.members.names() {
            let member = self.members.get(name);
            match member.filter(|_| self.members.is_alive(name, now)) {
                Some(it) => {
                    let it = AliveMember {
                        stage: it.stage,
                        stage_since: it.stage_since,
                        agrees_since: it.agrees_since,
                    };
                    alive.insert(name, it);
                }
                // Who is silent owns nothing any more, whatever it has said.
                None => seen.extend(self.members.owned_by(name)),
            }
        }
        let mut vacant = Vec::new();
        for address in seen {
            if self.terms.of(address).is_none()
                && let Some(contest) = self.addresses.get(&address)
                && contest.candidates.contains(&self.own)
                && let Some(it) = self.vacancy(address, contest, &alive, now)
            {
                vacant.push(it);
            }
        }
        vacant
    }

    fn vacancy(
        &self,
        address: IpAddr,
        contest: &Contest,
        alive: &BTreeMap<&MemberName, AliveMember>,
        now: BootTime,
    ) -> Option<VacantAddress> {
        let mut since = contest.vacant_since;
        for (name, term) in self.members.terms(address) {
            if term.goes_on() {
                let silent_from = self.members.silent_from(name).unwrap_or(since);
                if now < silent_from {
                    return None;
                }
                since = since.max(silent_from);
            }
        }
        let mut kinds: [TakerKind; 3] = Default::default();
        for name in &contest.candidates {
            let of_ready = match contest.is_preferred(name) {
                true => 0,
                false => 1,
            };
            let (kind, stage_since, agrees_since) = if *name == self.own {
                let kind = match self.handover {
                    Handover::None => of_ready,
                    Handover::Draining | Handover::Leaving => 2,
                };
                (kind, since, Some(since))
            } else {
                let Some(it) = alive.get(name) else {
                    continue;
                };
                let kind = match it.stage {
                    MemberStage::Listening if now < it.stage_since.after(LISTENS) => return None,
                    MemberStage::Listening | MemberStage::Leaving => continue,
                    MemberStage::Ready => of_ready,
                    MemberStage::Draining => 2,
                };
                (kind, it.stage_since, it.agrees_since)
            };
            if let Some(kind) = kinds.get_mut(kind) {
                kind.names.push(name.clone());
                kind.there_since = kind.there_since.max(stage_since);
                kind.is_behind |= agrees_since.is_none();
                kind.known_since = kind.known_since.max(agrees_since);
            }
        }
        let first = kinds.iter().find(|it| !it.names.is_empty())?;
        Some(VacantAddress {
            address,
            since: since.max(first.there_since),
            first_kind: first.names.len(),
            known_since: first.known_since.filter(|_| !first.is_behind),
            takers: kinds.into_iter().flat_map(|it| it.names).collect(),
            may_begin: self.is_free_for_first_term(address, now),
        })
    }
}
