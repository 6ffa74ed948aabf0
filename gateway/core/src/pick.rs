//! The choice of an endpoint for a client.
//!
//! Which endpoints are eligible was decided when the route was [built](crate::build). Among these:
//! - a client with affinity goes to the endpoint that it had, else to the best of its [ranking](crate::rank);
//! - a UDP flow without affinity goes to the best of the ranking for its client's address and port, so that it gets
//!   the same endpoint after a restart;
//! - all other connections are spread by weighted round-robin. Shares are exact: in as many picks as the sum of the
//!   weights, each endpoint gets as many as its weight, however many threads pick.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fairway_config::net::EndpointAddr;

use crate::affinity::{Affinity, AffinityRoom};
use crate::rank;
use crate::route::{Endpoint, EndpointSet, RoutePort, Tick};
use crate::turns::Turns;

/// Chooses endpoints for one port of a Service. Keeps the state that a new route must not reset: the round-robin's
/// turn, and the affinity of clients. Shared by all workers, local to this process.
#[derive(Debug)]
pub struct Balancer {
    turn: AtomicU64,
    retry_turn: AtomicU64,
    affinity: Affinity,
}

impl Balancer {
    /// A balancer without state. The seed decides with which endpoint the round-robin begins, so that a thousand
    /// ports (or ten gateways) do not all begin with the first.
    pub fn new(seed: u64) -> Self {
        Self::within(seed, Arc::default())
    }

    /// The same. Its affinity table shares its room with others.
    pub fn within(seed: u64, room: Arc<AffinityRoom>) -> Self {
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
    /// With affinity the last endpoint is remembered, so a client whose endpoint could not be reached stays with
    /// the one that could. Without affinity a retry takes the next turn among the endpoints that are left: the
    /// connections of a dead endpoint are spread evenly, and do not all go to its neighbour.
    ///
    /// Without affinity this takes no lock and constant time (the logarithm of the number of endpoints where their
    /// weights differ). With affinity it takes one of 16 locks, and for a client that is not remembered a pass over
    /// the endpoints: see [`crate::rank`] for numbers.
    pub fn pick<'a>(
        &self,
        route: &'a RoutePort,
        client: IpAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<&'a Endpoint> {
        let endpoints = &*route.endpoints;
        match route.affinity {
            Some(timeout) => self.pick_for_client(&endpoints.eligible, client, now, timeout, tried),
            None => self.pick_in_turn(endpoints, tried),
        }
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
    pub fn pick_for_flow<'a>(
        &self,
        route: &'a RoutePort,
        client: SocketAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<&'a Endpoint> {
        let eligible = &route.endpoints.eligible;
        match route.affinity {
            Some(timeout) => self.pick_for_client(eligible, client.ip(), now, timeout, tried),
            None => rank::best_for_flow(client, untried(eligible, tried)),
        }
    }

    /// How many clients the affinity table remembers.
    pub fn affinity_entries(&self) -> usize {
        self.affinity.len()
    }

    fn pick_for_client<'a>(
        &self,
        eligible: &'a [Endpoint],
        client: IpAddr,
        now: Tick,
        timeout: Duration,
        tried: &[EndpointAddr],
    ) -> Option<&'a Endpoint> {
        let client = client.to_canonical();
        let mut kept = None;
        self.affinity.get(client, now, timeout, |endpoint| {
            kept = find(eligible, endpoint).filter(|endpoint| !tried.contains(&endpoint.addr));
            kept.is_some()
        });
        if kept.is_some() {
            return kept;
        }
        let best = rank::best(client, untried(eligible, tried))?;
        self.affinity.put(client, best.addr, now);
        Some(best)
    }

    fn pick_in_turn<'a>(
        &self,
        endpoints: &'a EndpointSet,
        tried: &[EndpointAddr],
    ) -> Option<&'a Endpoint> {
        let eligible = &endpoints.eligible;
        if tried.is_empty() {
            let at = endpoints
                .turns()
                .place(eligible.len(), || next(&self.turn))?;
            return eligible.get(at);
        }
        let untried: Vec<_> = untried(eligible, tried).collect();
        let turns = Turns::of(untried.iter().map(|endpoint| endpoint.weight));
        let at = turns.place(untried.len(), || next(&self.retry_turn))?;
        untried.get(at).copied()
    }
}

fn next(turn: &AtomicU64) -> u64 {
    turn.fetch_add(1, Ordering::Relaxed)
}

fn untried<'a>(
    eligible: &'a [Endpoint],
    tried: &[EndpointAddr],
) -> impl Iterator<Item = &'a Endpoint> {
    eligible
        .iter()
        .filter(|endpoint| !tried.contains(&endpoint.addr))
}

/// The endpoint with that address, in a list ordered by address.
fn find(eligible: &[Endpoint], addr: EndpointAddr) -> Option<&Endpoint> {
    let at = eligible
        .binary_search_by(|endpoint| endpoint.addr.cmp(&addr))
        .ok()?;
    eligible.get(at)
}

#[cfg(test)]
mod tests;
