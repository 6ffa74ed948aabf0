//! Which eligible endpoints get traffic now: those that are left when the ones that fail are taken out.
//!
//! A pure function of the eligible endpoints and of what is known of each. In this order:
//! 1. those that fail their checks are out; where all do, the checks say nothing of any of them, and are ignored;
//! 2. of the others those that have failed by their traffic are out, but never more than half of them (rounded up),
//!    and never the last one. What is wrong may be the gateway's own network; and where endpoints fail because
//!    they have too much to do, the rest would get all of it (Envoy has a panic threshold of half for this). Those
//!    that cost their clients time go first, then those that failed first.
//!
//! Those that should be out and are in are doubtful: they get their turns, and less time to answer
//! ([`crate::attempts`]).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use fairway_config::balance::Balance;
use fairway_config::net::EndpointAddr;

use crate::balance::{Balanced, Chooser};
use crate::health::HealthVerdict;
use crate::route::{Endpoint, Tick};

/// What changes while an endpoint is in the list, and is read where it stands.
pub trait LiveEndpoint {
    /// How many connections, requests and flows it has.
    fn active(&self) -> u64;

    /// Whether the endpoint, which is left alone, may have a connection that tries it. That one is its only one until
    /// it is known how it ended.
    fn claim_trial(&self, now: Tick) -> bool;

    /// When it came to those that get traffic; none: it was always there, or nobody has to know.
    fn returned(&self) -> Option<Tick> {
        None
    }
}

impl<T: LiveEndpoint + ?Sized> LiveEndpoint for Arc<T> {
    fn active(&self) -> u64 {
        (**self).active()
    }

    fn claim_trial(&self, now: Tick) -> bool {
        (**self).claim_trial(now)
    }

    fn returned(&self) -> Option<Tick> {
        (**self).returned()
    }
}

/// An eligible endpoint, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AvailableEndpoint<S> {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What its history said of it when the list was made.
    pub verdict: HealthVerdict,
    /// Its state, which goes on when the list is made anew.
    pub state: S,
}

impl<S> AsRef<Endpoint> for AvailableEndpoint<S> {
    fn as_ref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl<S: LiveEndpoint> Balanced for AvailableEndpoint<S> {
    fn connections(&self) -> u64 {
        self.state.active()
    }

    fn returned(&self) -> Option<Tick> {
        self.state.returned()
    }
}

/// The eligible endpoints of a port, sorted out. Replaced as a whole.
#[derive(Clone, Debug)]
pub struct Available<S> {
    /// Those that get traffic, ordered by address. It is empty only where no endpoint is eligible.
    pub endpoints: Vec<AvailableEndpoint<S>>,
    /// Those that get none but trials, ordered by address.
    pub out: Vec<AvailableEndpoint<S>>,
    /// All fail their checks, which are ignored therefore.
    pub ignores_checks: bool,
    /// Chooses one of those that get traffic.
    pub(crate) chooser: Chooser,
}

impl<S> Available<S> {
    /// Sorts out eligible endpoints, which come ordered by address, of a port that says nothing of balancing.
    pub fn new(eligible: impl IntoIterator<Item = AvailableEndpoint<S>>) -> Self {
        Self::balanced(eligible, None)
    }

    /// The same; `balance` is what is said of the port.
    pub fn balanced(
        eligible: impl IntoIterator<Item = AvailableEndpoint<S>>,
        balance: Option<Balance>,
    ) -> Self {
        let all: Vec<_> = eligible.into_iter().collect();
        let fails_checks = |it: &AvailableEndpoint<S>| it.verdict == HealthVerdict::FailsChecks;
        let ignores_checks = !all.is_empty() && all.iter().all(fails_checks);
        let left = all.iter().filter(|it| ignores_checks || !fails_checks(it));
        let most = most_out(left.count());

        let ejected = all
            .iter()
            .filter_map(|it| Some((order_out(it)?, it.endpoint.addr)));
        let mut ejected: Vec<_> = ejected.collect();
        ejected.sort_unstable();
        let ejected: BTreeSet<_> = ejected
            .into_iter()
            .take(most)
            .map(|(_, addr)| addr)
            .collect();

        let (out, endpoints): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| {
            fails_checks(it) && !ignores_checks || ejected.contains(&it.endpoint.addr)
        });
        Self {
            chooser: Chooser::new(balance, &endpoints),
            endpoints,
            out,
            ignores_checks,
        }
    }

    /// All eligible endpoints: first those that get traffic, then the others.
    pub fn all(&self) -> impl Iterator<Item = &AvailableEndpoint<S>> {
        self.endpoints.iter().chain(&self.out)
    }

    /// The eligible endpoint at this address.
    pub fn find(&self, addr: EndpointAddr) -> Option<&AvailableEndpoint<S>> {
        let find = |list: &'_ [AvailableEndpoint<S>]| {
            list.binary_search_by_key(&addr, |it| it.endpoint.addr).ok()
        };
        find(&self.endpoints)
            .and_then(|at| self.endpoints.get(at))
            .or_else(|| find(&self.out).and_then(|at| self.out.get(at)))
    }

    /// Whether the endpoint at this address is left alone.
    pub fn is_out(&self, addr: EndpointAddr) -> bool {
        let found = self.out.binary_search_by_key(&addr, |it| it.endpoint.addr);
        found.is_ok()
    }
}

/// How many of so many endpoints may be out by their traffic.
pub fn most_out(endpoints: usize) -> usize {
    endpoints.div_ceil(2).min(endpoints.saturating_sub(1))
}

/// The order in which ejected endpoints are taken out; none: it is not ejected.
fn order_out<S>(it: &AvailableEndpoint<S>) -> Option<(Reverse<bool>, Tick)> {
    match it.verdict {
        HealthVerdict::Ejected { since, is_slow } => Some((Reverse(is_slow), since)),
        HealthVerdict::Healthy | HealthVerdict::FailsChecks => None,
    }
}

#[cfg(test)]
mod tests;
