//! Planned moves: a member that leaves or drains offers what it owns, and goes on until it is taken. So does one with
//! an address that others are to have before it, or that it can serve no more, or whose endpoints it does not reach.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Fleet;
use super::candidacy::{Ability, Contest, EndpointReach};
use super::handover::Handover;
use super::message::{MemberName, MemberStage, Term, TermState};
use super::timing::BootTime;

/// How long an offer waits for the other to begin its term.
const OFFER: Duration = Duration::from_millis(400);

/// A member that drains may do so for days. Where nobody takes an address, it is offered again to all after this time.
const ROUND: Duration = Duration::from_secs(5);

/// Those that are preferred to the owner may be about to open their listeners: they are asked again after this time.
const PREFERRED_ROUND: Duration = Duration::from_secs(1);

/// So long a member goes on with what it can serve no more: the one that can from now on may not know so yet.
const CEASES: Duration = Duration::from_secs(2);

impl Fleet {
    /// It is about to stop: it offers what it owns to others. [`Self::owned`] is empty when all is taken.
    pub fn leave(&mut self) {
        self.handover = Handover::Leaving;
    }

    /// Whether it is to own nothing that another member can own. It offers what it owns to those that are ready and do
    /// not drain, and goes on with what nobody takes. It takes what no other member takes: an address that it alone
    /// can serve keeps an owner. When this ends nothing comes back, except that offers which nobody has taken are over.
    pub fn set_draining(&mut self, is_draining: bool) {
        self.handover = match (self.handover, is_draining) {
            (Handover::Leaving, _) => Handover::Leaving,
            (_, true) => Handover::Draining,
            (_, false) => Handover::None,
        };
    }

    /// Offers what it hands over: to the next one where one does not take it.
    pub(super) fn offer(&mut self, now: BootTime) {
        self.take_offers_back();
        let handed_over: Vec<IpAddr> = match self.handover {
            Handover::None => self.due.handed_over.iter().copied().collect(),
            Handover::Draining | Handover::Leaving => {
                self.terms.owned().map(|(address, _)| address).collect()
            }
        };
        if handed_over.is_empty() {
            return;
        }
        let mut ready = self.others_at(MemberStage::Ready, now);
        ready.retain(|name| self.members.is_in_touch(name, now));
        let mut draining = match self.handover {
            Handover::Leaving => self.others_at(MemberStage::Draining, now),
            Handover::None | Handover::Draining => BTreeSet::new(),
        };
        draining.retain(|name| self.members.is_in_touch(name, now));
        for address in handed_over {
            let Some(term) = self.terms.of(address).cloned() else {
                continue;
            };
            let Some(contest) = self.addresses.get_mut(&address) else {
                continue;
            };
            let all = contest.candidates.iter();
            let of_ready = all.clone().filter(|name| ready.contains(*name));
            let preferred = of_ready.clone().filter(|name| contest.is_preferred(name));
            // It goes on itself before those that are not preferred, unless it is to have nothing.
            let others = of_ready
                .filter(|name| self.handover != Handover::None && !contest.is_preferred(name));
            let candidates = preferred.chain(others);
            let candidates = candidates.chain(all.filter(|name| draining.contains(*name)));
            let mut untold = candidates.clone();
            let next = untold.find(|it| !contest.offered.contains(it)).cloned();
            let first = candidates.clone().next().cloned();
            let goes_on = contest.ability != Ability::Ceasing;
            let wait = match self.handover {
                Handover::Draining if next.is_none() && goes_on => ROUND,
                // Often nobody reaches them, and there may be thousands of such addresses.
                Handover::None
                    if next.is_none() && goes_on && contest.reach == EndpointReach::Failing =>
                {
                    ROUND
                }
                Handover::None if next.is_none() && goes_on => PREFERRED_ROUND,
                _ => OFFER,
            };
            if matches!(term.state, TermState::Offered(_)) && now < contest.offered_at.after(wait) {
                continue;
            }
            let is_patient = goes_on || now < contest.ceasing_since.after(CEASES);
            if next.is_none() && !is_patient {
                self.give_up(address, now);
                continue;
            }
            let Some(next) = next.or_else(|| {
                contest.offered.clear();
                first
            }) else {
                continue;
            };
            contest.offered.push(next.clone());
            contest.offered_at = now;
            let (number, state) = (term.number, TermState::Offered(next));
            self.terms.set(address, Term { number, state });
        }
    }

    /// Whom an address is offered to first, where this member drains: the best candidate that is ready.
    pub fn successor(&self, address: IpAddr, now: BootTime) -> Option<&MemberName> {
        let contest = self.addresses.get(&address)?;
        let ready = contest.candidates.iter();
        let mut ready = ready.filter(|name| self.is_ready(name, now));
        let preferred = ready.clone().find(|name| contest.is_preferred(name));
        preferred.or_else(|| ready.next())
    }

    /// Whether that member is alive and hands over what it owns.
    pub fn is_draining(&self, member: &str, now: BootTime) -> bool {
        let stage = self.members.get(member).map(|it| it.stage);
        let is_so = matches!(stage, Some(MemberStage::Draining | MemberStage::Leaving));
        is_so && self.members.is_alive(member, now)
    }

    /// What this member does not hand over any more it goes on with.
    fn take_offers_back(&mut self) {
        if self.handover != Handover::None {
            return;
        }
        let offered = self.terms.offered.iter();
        let offered = offered.filter(|it| !self.due.handed_over.contains(*it));
        let offered: Vec<IpAddr> = offered.copied().collect();
        for address in offered {
            let Some(number) = self.terms.of(address).map(|it| it.number) else {
                continue;
            };
            let state = TermState::Owned;
            self.terms.set(address, Term { number, state });
            if let Some(contest) = self.addresses.get_mut(&address) {
                contest.offered.clear();
            }
        }
    }

    /// The addresses that others offer to this member. One that drains takes only what it is offered by one that stops,
    /// and one that others are preferred to, or that does not know whether it reaches the endpoints, only from one that stops
    /// or drains: two of them do not hand an address to and fro.
    pub(super) fn offered(&self, now: BootTime) -> BTreeSet<IpAddr> {
        let takes_from = |name: &MemberName, is_preferred: bool| {
            let stage = self.members.get(name).map(|it| it.stage);
            let takes = match stage {
                Some(MemberStage::Leaving) => true,
                Some(MemberStage::Draining) => self.handover == Handover::None,
                _ => self.handover == Handover::None && is_preferred,
            };
            takes && self.members.is_in_touch(name, now)
        };
        // By what is offered, which is little, and not by all addresses: this is asked at each heartbeat.
        let offers = self.members.offers_to(&self.own);
        let offers = offers.filter(|(name, address)| {
            let contest = self.addresses.get(address);
            let is_preferred = contest.is_some_and(|it| {
                it.is_preferred(&self.own) && it.reach == EndpointReach::NothingAgainst
            });
            contest.is_some_and(Contest::is_able)
                && self.terms.of(*address).is_none()
                && takes_from(name, is_preferred)
        });
        offers.map(|(_, address)| address).collect()
    }
}
