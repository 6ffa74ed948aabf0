//! The terms of one member: what it owns, in the order of its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::message::{Term, TermChange, TermChanges, TermState};

/// So many addresses fit into one message: see [`super::wire`].
const IN_ONE: usize = 16;

/// So many messages about terms go to one member at a time.
const AT_ONCE: usize = 32;

/// So many terms that are over are told of. Of older ones a member learns by getting all anew.
const OVER: usize = 1024;

/// The terms of this member.
#[derive(Debug, Default)]
pub(super) struct OwnTerms {
    pub(super) version: u64,
    /// By address, with the version that changed them.
    terms: BTreeMap<IpAddr, (Term, u64)>,
    order: BTreeMap<u64, IpAddr>,
    /// How many of them go on, and which are offered to others.
    pub(super) owned_count: usize,
    pub(super) offered: BTreeSet<IpAddr>,
    over: usize,
    /// Who knows less than this version gets all.
    floor: u64,
}

impl OwnTerms {
    /// Those of a member whose terms had this version in another process: others are told all anew.
    pub(super) fn after(version: u64) -> Self {
        Self {
            version,
            floor: version,
            ..Self::default()
        }
    }

    /// The term of an address that goes on.
    pub(super) fn of(&self, address: IpAddr) -> Option<&Term> {
        let (term, _) = self.terms.get(&address)?;
        term.goes_on().then_some(term)
    }

    /// The number of the last term of an address that this member has told of.
    pub(super) fn last_number(&self, address: IpAddr) -> u64 {
        self.terms.get(&address).map_or(0, |(term, _)| term.number)
    }

    /// The addresses that it owns.
    pub(super) fn owned(&self) -> impl Iterator<Item = (IpAddr, &Term)> {
        let all = self.terms.iter();
        all.filter(|(_, (term, _))| term.goes_on())
            .map(|(address, (term, _))| (*address, term))
    }

    pub(super) fn set(&mut self, address: IpAddr, term: Term) {
        self.version += 1;
        let is_over = !term.goes_on();
        match term.state {
            TermState::Offered(_) => self.offered.insert(address),
            TermState::Owned | TermState::Over => self.offered.remove(&address),
        };
        self.owned_count += usize::from(!is_over);
        let former = self.terms.insert(address, (term, self.version));
        self.order.insert(self.version, address);
        if let Some((former, version)) = former {
            self.order.remove(&version);
            self.over -= usize::from(!former.goes_on());
            self.owned_count -= usize::from(former.goes_on());
        }
        self.over += usize::from(is_over);
        if self.over > OVER {
            self.terms.retain(|_, (term, _)| term.goes_on());
            let terms = &self.terms;
            self.order.retain(|_, address| terms.contains_key(address));
            (self.over, self.floor) = (0, self.version);
        }
    }

    /// What a member has to be told that knows all up to this version.
    pub(super) fn changes_after(&self, known: u64) -> Vec<TermChanges> {
        let mut after = if known < self.floor { 0 } else { known };
        let mut all = Vec::new();
        while after < self.version && all.len() < AT_ONCE {
            let next = self.order.range(after + 1..).take(IN_ONE);
            let changed: Vec<TermChange> = next
                .filter_map(|(version, address)| {
                    let (term, _) = self.terms.get(address)?;
                    Some(TermChange {
                        version: *version,
                        address: *address,
                        term: term.clone(),
                    })
                })
                .collect();
            let upto = match changed.last() {
                Some(last) if changed.len() == IN_ONE => last.version,
                _ => self.version,
            };
            all.push(TermChanges {
                after,
                upto,
                changed,
            });
            after = upto;
        }
        all
    }

    /// Ends the term of an address.
    pub(super) fn end(&mut self, address: IpAddr) {
        if let Some(term) = self.of(address) {
            let number = term.number;
            self.set(
                address,
                Term {
                    number,
                    state: TermState::Over,
                },
            );
        }
    }
}
