//! Planned moves: a member that leaves or drains offers what it owns, and goes on until it is taken.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Fleet;
use super::handover::Handover;
use super::message::{MemberName, MemberStage, Term, TermState};
use super::timing::BootTime;

/// How long an offer waits for the other to begin its term.
const OFFER: Duration = Duration::from_millis(400);

/// A member that drains may do so for days. Where nobody takes an address, it is offered again to all after this time.
const ROUND: Duration = Duration::from_secs(5);

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

    /// Offers what it owns, where it hands over: to the next one where one does not take it.
    pub(super) fn offer(&mut self, now: BootTime) {
        if self.handover == Handover::None {
            self.take_offers_back();
            return;
        }
        let is_leaving = self.handover == Handover::Leaving;
        let mut takers = vec![self.others_at(MemberStage::Ready, now)];
        if is_leaving {
            takers.push(self.others_at(MemberStage::Draining, now));
        }
        for names in &mut takers {
            names.retain(|name| self.members.is_in_touch(name, now));
        }
        let mut offers = Vec::new();
        for (address, term) in self.terms.owned() {
            let Some(contest) = self.addresses.get_mut(&address) else {
                continue;
            };
            let candidates = takers.iter().flat_map(|alive| {
                let all = contest.candidates.iter();
                all.filter(|name| alive.contains(*name))
            });
            let next = candidates
                .clone()
                .find(|it| !contest.offered.contains(it))
                .cloned();
            let wait = match next.is_none() && !is_leaving {
                true => ROUND,
                false => OFFER,
            };
            if matches!(term.state, TermState::Offered(_)) && now < contest.offered_at.after(wait) {
                continue;
            }
            let Some(next) = next.or_else(|| {
                let first = candidates.clone().next().cloned();
                contest.offered.clear();
                first
            }) else {
                continue;
            };
            contest.offered.push(next.clone());
            contest.offered_at = now;
            let state = TermState::Offered(next);
            offers.push((
                address,
                Term {
                    number: term.number,
                    state,
                },
            ));
        }
        for (address, term) in offers {
            self.terms.set(address, term);
        }
    }

    /// Whom an address is offered to first, where this member drains: the best candidate that is ready.
    pub fn successor(&self, address: IpAddr, now: BootTime) -> Option<&MemberName> {
        let mut candidates = self.addresses.get(&address)?.candidates.iter();
        candidates.find(|name| self.is_ready(name, now))
    }

    /// Whether that member is alive and hands over what it owns.
    pub fn is_draining(&self, member: &str, now: BootTime) -> bool {
        let stage = self.members.get(member).map(|it| it.stage);
        let is_so = matches!(stage, Some(MemberStage::Draining | MemberStage::Leaving));
        is_so && self.members.is_alive(member, now)
    }

    fn take_offers_back(&mut self) {
        let owned = self.terms.owned();
        let offered = owned.filter(|(_, term)| term.state != TermState::Owned);
        let offered: Vec<_> = offered.map(|(address, it)| (address, it.number)).collect();
        for (address, number) in offered {
            let state = TermState::Owned;
            self.terms.set(address, Term { number, state });
            if let Some(contest) = self.addresses.get_mut(&address) {
                contest.offered.clear();
            }
        }
    }

    /// The addresses that others offer to this member. One that drains takes only what it is offered by one that stops:
    /// two that drain do not hand an address to and fro.
    pub(super) fn offered(&self, now: BootTime) -> BTreeSet<IpAddr> {
        let takes_from = |name: &MemberName| {
            let stage = self.members.get(name).map(|it| it.stage);
            let takes = self.handover != Handover::Draining || stage == Some(MemberStage::Leaving);
            takes && self.members.is_in_touch(name, now)
        };
        // By what is offered, which is little, and not by all addresses: this is asked at each heartbeat.
        let offers = self.members.offers_to(&self.own);
        let offers = offers.filter(|(name, address)| {
            let contest = self.addresses.get(address);
            contest.is_some_and(|it| it.is_able)
                && self.terms.of(*address).is_none()
                && takes_from(name)
        });
        offers.map(|(_, address)| address).collect()
    }
}
