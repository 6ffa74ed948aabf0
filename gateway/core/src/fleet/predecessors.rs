//! Whose connections an address still has: the member that has handed it over in a planned move goes on with those
//! that it has, and its successor passes their packets to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Fleet;
use super::former_owners::FormerOwner;
use super::message::{MemberName, TermState};
use super::timing::BootTime;

impl Fleet {
    /// To whom the packets of connections are to be passed that this member does not have: of each address the member
    /// that has handed it over no longer than `drain` ago, or offers it now. A member that is dead, has started anew,
    /// or owns the address again is none.
    pub fn predecessors(&self, now: BootTime, drain: Duration) -> BTreeMap<IpAddr, MemberName> {
        let former = self.predecessors.by_address.iter();
        let former = former.filter(|(address, it)| {
            now < it.since.after(drain)
                && self.is_predecessor(**address, it)
                && self.members.is_alive(&it.member, now)
        });
        let former = former.map(|(address, it)| (*address, it.member.clone()));
        let offered = self.offered(now).into_iter().filter_map(|address| {
            let (member, _) = self.offer_of(address, now)?;
            Some((address, member))
        });
        former.chain(offered).collect()
    }

    /// Whether an address was offered to this member since the last call.
    pub fn take_offer_news(&mut self) -> bool {
        std::mem::take(&mut self.predecessors.is_news)
    }

    /// These addresses are not taken from who offers them: nobody could pass the packets of its connections to it yet.
    pub fn hold_offers(&mut self, addresses: BTreeSet<IpAddr>) {
        self.predecessors.held = addresses;
    }

    /// Somebody says something new of an address.
    pub(super) fn note_offer(&mut self, address: IpAddr) {
        let mut theirs = self.members.terms(address);
        let is_offered = theirs.any(|(_, it)| it.state == TermState::Offered(self.own.clone()));
        self.predecessors.is_news |= is_offered;
    }

    /// This member begins a term of an address. Where nobody has offered it, who handed it over earlier still has its
    /// connections.
    pub(super) fn note_predecessor(&mut self, address: IpAddr, term: u64, now: BootTime) {
        if let Some((member, run)) = self.offer_of(address, now) {
            let predecessor = FormerOwner {
                member,
                run,
                term,
                since: now,
            };
            self.predecessors.by_address.insert(address, predecessor);
        }
    }

    /// Forgets those that have started anew, or have the address again, and what is announced no more.
    pub(super) fn forget_predecessors(&mut self) {
        let mut known = std::mem::take(&mut self.predecessors.by_address);
        known.retain(|address, it| self.is_predecessor(*address, it));
        self.predecessors.by_address = known;
    }

    fn is_predecessor(&self, address: IpAddr, it: &FormerOwner) -> bool {
        let is_same_run = self
            .members
            .get(&it.member)
            .is_some_and(|m| m.run == it.run);
        let mut theirs = self.members.terms(address);
        let has_it_again = theirs
            .any(|(name, term)| *name == it.member && term.goes_on() && term.number > it.term);
        is_same_run && !has_it_again && self.addresses.contains_key(&address)
    }

    /// The member that is alive and offers an address to this one, and its run.
    fn offer_of(&self, address: IpAddr, now: BootTime) -> Option<(MemberName, u64)> {
        let offers = self.members.terms(address).filter(|(name, term)| {
            term.state == TermState::Offered(self.own.clone()) && self.members.is_alive(name, now)
        });
        let (member, _) = offers.max_by_key(|(_, term)| term.number)?;
        let run = self.members.get(member)?.run;
        Some((member.clone(), run))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
