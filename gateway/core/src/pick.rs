//! The choice of an endpoint for a client.
//!
//! Which endpoints are eligible was decided when the route was [built](crate::build), and which of them get traffic
//! now when one of them failed or came back ([`crate::available`]). Among these:
//! - a client with affinity goes to the endpoint that it had, else to the best of its [ranking](crate::rank), whatever
//!   else is said of the port;
//! - where the port says `source-hash` or `maglev`, it follows from the client's address, for TCP and UDP alike;
//! - a UDP flow of a port that says nothing goes to the best of the ranking for its client's address and port, so that
//!   it gets the same endpoint after a restart;
//! - all else goes by the port's other [algorithms](crate::balance), of which weighted round-robin is the default. Its
//!   shares are exact: in as many picks as the sum of the weights, each endpoint gets as many as its weight, however
//!   many threads pick.
//!
//! An endpoint that is left alone is tried from time to time, by one connection at a time. With affinity, and by UDP
//! flows, it is tried by a client that belongs to it. A connection that has tried all others tries it, too.
//!
//! The ranking and the table are over all eligible endpoints, whether they get traffic just now or not: so a client
//! whose endpoint fails returns to it when it is back, and every gateway has the same endpoint for it, whatever each
//! has seen fail.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fairway_config::balance::{Balance, BalanceAlgorithm};
use fairway_config::net::EndpointAddr;

use crate::affinity::{Affinity, ROOM};
use crate::available::{Available, AvailableEndpoint, LiveEndpoint};
use crate::balance::Chooser;
use crate::client_room::ClientRoom;
use crate::health::HealthVerdict;
use crate::rank;
use crate::route::{RoutePort, Tick};

/// Chooses endpoints for one port of a Service. Keeps the state that a new route must not reset: the round-robin's
/// turn, and the affinity of clients. Shared by all workers, local to this process.
#[derive(Debug)]
pub struct Balancer {
    turn: AtomicU64,
    retry_turn: AtomicU64,
    affinity: Affinity,
}

/// An endpoint that was chosen.
#[derive(Debug)]
pub struct Picked<'a, S> {
    /// Which.
    pub at: &'a AvailableEndpoint<S>,
    /// It has failed lately.
    pub is_doubtful: bool,
    /// No other one is left to try after it.
    pub is_last: bool,
}

impl Balancer {
    /// A balancer without state. The seed decides with which endpoint the round-robin begins, so that a thousand
    /// ports (or ten gateways) do not all begin with the first.
    pub fn new(seed: u64) -> Self {
        Self::within(seed, Arc::new(ClientRoom::new(ROOM)))
    }

    /// The same. Its affinity table shares its room with others.
    pub fn within(seed: u64, room: Arc<ClientRoom>) -> Self {
        // Far from the overflow, where the order of turns would break once.
        let start = seed >> 1;
        Self {
            turn: AtomicU64::new(start),
            retry_turn: AtomicU64::new(start),
            affinity: Affinity::within(seed, room),
        }
    }

    /// The endpoint for a client's connection, without those in `tried`; none where none is left.
    ///
    /// With affinity a client whose endpoint can't be reached goes on to the next one of its ranking, and back when it
    /// can. Without affinity a retry takes the next turn among the endpoints that are left: the
    /// connections of a dead endpoint are spread evenly, and do not all go to its neighbour.
    ///
    /// Without affinity this takes no lock and constant time (the logarithm of the number of endpoints where their
    /// weights differ), while no endpoint is due to be tried. With affinity it takes one of 16 locks, and for a client
    /// that is not remembered a pass over the endpoints: see [`crate::rank`] for numbers.
    pub fn pick<'a, S: LiveEndpoint>(
        &self,
        route: &RoutePort,
        available: &'a Available<S>,
        client: IpAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<Picked<'a, S>> {
        let at = match route.affinity {
            Some(timeout) => self.pick_for_client(available, client, now, timeout, tried),
            None => self.pick_by_algorithm(route, available, client, now, tried),
        };
        Some(picked(at?, available, tried))
    }

    /// Forgets the clients whose affinity has timed out; all clients where the port has no affinity any more. To be
    /// called from time to time.
    pub fn expire(&self, route: &RoutePort, now: Tick) {
        match route.affinity {
            Some(timeout) => self.affinity.expire(now, timeout),
            None => self.affinity.expire(Tick(u64::MAX), Duration::ZERO),
        }
    }

    /// The endpoint for a UDP flow of a client, without those in `tried`; none where none is left.
    ///
    /// Without affinity this is a pass over the endpoints: see [`crate::rank`] for numbers.
    pub fn pick_for_flow<'a, S: LiveEndpoint>(
        &self,
        route: &RoutePort,
        available: &'a Available<S>,
        client: SocketAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<Picked<'a, S>> {
        let at = match route.affinity {
            Some(timeout) => self.pick_for_client(available, client.ip(), now, timeout, tried),
            None if route.options.balance.is_some() => {
                self.pick_by_algorithm(route, available, client.ip(), now, tried)
            }
            None => {
                let wanted = rank::best_for_flow(client, available.all())?;
                if may_have(wanted, available, now, tried) {
                    Some(wanted)
                } else {
                    best_left(available, tried, |left| rank::best_for_flow(client, left))
                }
            }
        };
        Some(picked(at?, available, tried))
    }

    /// The affinity table.
    pub fn affinity(&self) -> &Affinity {
        &self.affinity
    }

    /// How many clients the affinity table remembers.
    pub fn affinity_entries(&self) -> usize {
        self.affinity.len()
    }

    fn pick_for_client<'a, S: LiveEndpoint>(
        &self,
        available: &'a Available<S>,
        client: IpAddr,
        now: Tick,
        timeout: Duration,
        tried: &[EndpointAddr],
    ) -> Option<&'a AvailableEndpoint<S>> {
        let client = client.to_canonical();
        let mut kept = None;
        self.affinity.get(client, now, timeout, |endpoint| {
            kept = available.find(endpoint);
            kept.is_some()
        });
        let wanted = match kept {
            Some(kept) => kept,
            None => {
                let best = rank::best(client, available.all())?;
                self.affinity.put(client, best.endpoint.addr, now);
                best
            }
        };
        if may_have(wanted, available, now, tried) {
            return Some(wanted);
        }
        best_left(available, tried, |left| rank::best(client, left))
    }

    fn pick_by_algorithm<'a, S: LiveEndpoint>(
        &self,
        route: &RoutePort,
        available: &'a Available<S>,
        client: IpAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<&'a AvailableEndpoint<S>> {
        let balance = route.options.balance;
        let may_have = |wanted: &&'a _| may_have(*wanted, available, now, tried);
        let found = match (balance.map(|balance| balance.algorithm), &route.table) {
            (Some(BalanceAlgorithm::SourceHash), _) => {
                rank::best(client, available.all()).filter(may_have)
            }
            (Some(BalanceAlgorithm::Maglev), Some(table)) => {
                let eligible = &route.endpoints.eligible;
                let find = |at: usize| available.find(eligible.get(at)?.addr);
                let mut found = table.indices(client).take(SLOTS_TRIED).map(find);
                let wanted = found.next().flatten().filter(may_have);
                wanted.or_else(|| found.flatten().find(|it| is_left(it, available, tried)))
            }
            _ => return self.pick_in_turn(balance, available, now, tried),
        };
        found.or_else(|| best_left(available, tried, |left| rank::best(client, left)))
    }

    fn pick_in_turn<'a, S: LiveEndpoint>(
        &self,
        balance: Option<Balance>,
        available: &'a Available<S>,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<&'a AvailableEndpoint<S>> {
        if tried.is_empty() {
            let due = last_resort(available, tried).find(|it| it.state.claim_trial(now));
            if due.is_some() {
                return due;
            }
            let chooser = &available.chooser;
            return chooser.choose(&available.endpoints, now, || next(&self.turn));
        }
        best_left(available, tried, |left| {
            let chooser = Chooser::new(balance, &left);
            let chosen = chooser.choose(&left, now, || next(&self.retry_turn));
            chosen.copied()
        })
    }
}

/// How many slots of a table are looked at for an endpoint that gets traffic.
const SLOTS_TRIED: usize = 512;

/// Whether an endpoint gets traffic and was not tried.
fn is_left<S>(it: &AvailableEndpoint<S>, available: &Available<S>, tried: &[EndpointAddr]) -> bool {
    let addr = it.endpoint.addr;
    !tried.contains(&addr) && !available.is_out(addr)
}

/// Whether a client may have the endpoint that it belongs to.
fn may_have<S: LiveEndpoint>(
    wanted: &AvailableEndpoint<S>,
    available: &Available<S>,
    now: Tick,
    tried: &[EndpointAddr],
) -> bool {
    let addr = wanted.endpoint.addr;
    if tried.contains(&addr) {
        return false;
    }
    if !available.is_out(addr) {
        return true;
    }
    // Who has waited for another one already tries none that may let it wait again.
    tried.is_empty()
        && wanted.verdict != HealthVerdict::FailsChecks
        && wanted.state.claim_trial(now)
}

/// What `choose` takes of the endpoints that were not tried; of those that are left alone for what their traffic did,
/// where no other is left. (One that fails its checks gets nothing: whoever takes it out of service counts on that.)
fn best_left<'a, S>(
    available: &'a Available<S>,
    tried: &[EndpointAddr],
    choose: impl Fn(Vec<&'a AvailableEndpoint<S>>) -> Option<&'a AvailableEndpoint<S>>,
) -> Option<&'a AvailableEndpoint<S>> {
    let left: Vec<_> = untried(&available.endpoints, tried).collect();
    if !left.is_empty() {
        return choose(left);
    }
    choose(last_resort(available, tried).collect())
}

fn last_resort<'a, S>(
    available: &'a Available<S>,
    tried: &[EndpointAddr],
) -> impl Iterator<Item = &'a AvailableEndpoint<S>> {
    untried(&available.out, tried).filter(|it| it.verdict != HealthVerdict::FailsChecks)
}

/// The choice, with what follows from it for the time that the endpoint has.
fn picked<'a, S>(
    at: &'a AvailableEndpoint<S>,
    available: &'a Available<S>,
    tried: &[EndpointAddr],
) -> Picked<'a, S> {
    let addr = at.endpoint.addr;
    let mut left = untried(&available.endpoints, tried).chain(last_resort(available, tried));
    Picked {
        at,
        is_doubtful: at.verdict != HealthVerdict::Healthy,
        is_last: left.all(|it| it.endpoint.addr == addr),
    }
}

fn next(turn: &AtomicU64) -> u64 {
    turn.fetch_add(1, Ordering::Relaxed)
}

fn untried<'a, S>(
    list: &'a [AvailableEndpoint<S>],
    tried: &[EndpointAddr],
) -> impl Iterator<Item = &'a AvailableEndpoint<S>> {
    list.iter().filter(|it| !tried.contains(&it.endpoint.addr))
}

#[cfg(test)]
mod algorithm_tests;
#[cfg(test)]
mod tests;
