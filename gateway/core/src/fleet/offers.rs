//! Planned moves: a member that leaves offers what it owns, and goes on until it is taken.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Fleet;
use super::message::{MemberName, Term, TermState};
use super::timing::BootTime;

/// How long an offer waits for the other to begin its term.
const OFFER: Duration = Duration::from_millis(400);

impl Fleet {
    /// Offers what it owns to those that are ready, where it leaves: to the next one where one does not take it.
    pub(super) fn offer(&mut self, now: BootTime) {
        if !self.is_leaving {
            return;
        }
        let names = self.members.names();
        let ready: BTreeSet<_> = names
            .filter(|name| self.is_ready(name, now))
            .cloned()
            .collect();
        let mut offers = Vec::new();
        for (address, term) in self.terms.owned() {
            let Some(contest) = self.addresses.get_mut(&address) else {
                continue;
            };
            if matches!(term.state, TermState::Offered(_)) && now < contest.offered_at.after(OFFER)
            {
                continue;
            }
            let free = |name: &&MemberName| ready.contains(*name);
            let next = contest.candidates.iter().filter(free);
            let next = next
                .clone()
                .find(|it| !contest.offered.contains(it))
                .or_else(|| {
                    contest.offered.clear();
                    contest.candidates.iter().find(free)
                });
            if let Some(next) = next.cloned() {
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
        }
        for (address, term) in offers {
            self.terms.set(address, term);
        }
    }

    /// The addresses that others offer to this member.
    pub(super) fn offered(&self) -> Vec<IpAddr> {
        let able = self.addresses.iter().filter(|(_, contest)| contest.is_able);
        let able = able.filter(|(address, _)| self.terms.of(**address).is_none());
        let offered = able.filter(|(address, _)| {
            let mut theirs = self.members.terms(**address);
            theirs.any(|(_, term)| term.state == TermState::Offered(self.own.clone()))
        });
        offered.map(|(address, _)| *address).collect()
    }
}
