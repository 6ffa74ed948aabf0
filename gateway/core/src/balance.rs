//! The algorithms by which one of a port's endpoints is chosen (`fairway.dev/balance`), as pure functions of the
//! endpoints, what they carry, the time, and a counter of turns. Who asks them is [`crate::pick`].
//!
//! | | a choice costs | here |
//! |---|---|---|
//! | round-robin, weighted-round-robin | constant time; by weight the logarithm of the number | [`Chooser`], `turns` |
//! | least-connections | a pass over the endpoints | [`Chooser`], `least_connections` |
//! | random-two | as round-robin | [`Chooser`], `random_two` |
//! | source-hash | a pass over the endpoints, a hash each | [`crate::rank`] |
//! | maglev | a hash, and finding the endpoint by its address | [`maglev`] |
//!
//! None takes a lock. With a slow start, a turn or a draw that falls on an endpoint which has come back counts with
//! the chance of its [share](slow_start::share), else the next one is looked at: nothing has to be computed anew
//! while the share grows. What follows from the client's address alone has no slow start: gateways would differ in
//! it.

mod carried;
mod draw;
mod least_connections;
pub mod maglev;
pub mod presence;
mod random_two;
pub mod slow_start;

use std::time::Duration;

use fairway_config::balance::{Balance, BalanceAlgorithm};

use self::carried::Carried;
use self::draw::{drawn, scale};
use self::least_connections::least_connections;
use self::random_two::Lots;
use crate::route::{Endpoint, Tick};
use crate::turns::Turns;

/// An endpoint as the algorithms see it.
pub trait Balanced: AsRef<Endpoint> {
    /// The connections, requests and UDP flows that it has now.
    fn connections(&self) -> u64;

    /// When it came back, if it was away or is new: its slow start begins there.
    fn returned(&self) -> Option<Tick>;
}

impl<E: Balanced> Balanced for &E {
    fn connections(&self) -> u64 {
        (**self).connections()
    }

    fn returned(&self) -> Option<Tick> {
        (**self).returned()
    }
}

/// Chooses one of a fixed list of endpoints, whoever the client is. It is made with the list, and replaced with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Chooser {
    method: ChoiceMethod,
    slow_start: Option<Duration>,
}

/// An algorithm with what it has computed of the list.
#[derive(Clone, Debug, PartialEq)]
enum ChoiceMethod {
    EqualTurns,
    WeightedTurns(Turns),
    LeastConnections,
    RandomTwo(Lots),
}

/// How often a turn or a draw that falls on an endpoint in its slow start may be given to the next one. The last one
/// is taken in any case: all may be in their slow start.
const RETRIES: usize = 24;

impl Chooser {
    /// That of `endpoints`; `balance` is what is said of the port. With an algorithm by the client's address the
    /// endpoints take turns here: nobody asks it.
    pub fn new<E: AsRef<Endpoint>>(balance: Option<Balance>, endpoints: &[E]) -> Self {
        let weights = endpoints.iter().map(|it| it.as_ref().weight);
        let method = match balance.map(|balance| balance.algorithm) {
            Some(BalanceAlgorithm::RoundRobin) => ChoiceMethod::EqualTurns,
            Some(BalanceAlgorithm::LeastConnections) => ChoiceMethod::LeastConnections,
            Some(BalanceAlgorithm::RandomTwo) => ChoiceMethod::RandomTwo(Lots::of(weights)),
            None
            | Some(
                BalanceAlgorithm::WeightedRoundRobin
                | BalanceAlgorithm::SourceHash
                | BalanceAlgorithm::Maglev,
            ) => ChoiceMethod::WeightedTurns(Turns::of(weights)),
        };
        Self {
            method,
            slow_start: balance.and_then(|balance| balance.slow_start),
        }
    }

    /// One of `endpoints`, with which it was made; none where there is none. `turn` gives the next number of a counter.
    pub fn choose<'e, E: Balanced>(
        &self,
        endpoints: &'e [E],
        now: Tick,
        turn: impl Fn() -> u64,
    ) -> Option<&'e E> {
        if let ChoiceMethod::LeastConnections = self.method {
            let carried = |at: usize| Some(self.carried(endpoints.get(at)?, now));
            return endpoints.get(least_connections(endpoints.len(), carried, turn)?);
        }
        let mut found = None;
        for _ in 0..=RETRIES {
            let number = turn();
            let place = |turns: &Turns| endpoints.get(turns.place(endpoints.len(), || number)?);
            let endpoint = match &self.method {
                ChoiceMethod::EqualTurns | ChoiceMethod::LeastConnections => place(&Turns::Equal),
                ChoiceMethod::WeightedTurns(turns) => place(turns),
                ChoiceMethod::RandomTwo(lots) => self.better_of_two(endpoints, lots, now, number),
            }?;
            found = Some(endpoint);
            if self.accepts(endpoint, now, number) {
                break;
            }
        }
        found
    }

    /// Of two endpoints that are drawn, the one with fewer connections.
    fn better_of_two<'e, E: Balanced>(
        &self,
        endpoints: &'e [E],
        lots: &Lots,
        now: Tick,
        number: u64,
    ) -> Option<&'e E> {
        let (first, second) = lots.two(number)?;
        let first = endpoints.get(first)?;
        let Some(second) = second.and_then(|at| endpoints.get(at)) else {
            return Some(first);
        };
        let order = self.carried(second, now).compare(&self.carried(first, now));
        Some(if order.is_lt() { second } else { first })
    }

    fn carried<E: Balanced>(&self, endpoint: &E, now: Tick) -> Carried {
        let weight = u32::from(endpoint.as_ref().weight.max(1));
        Carried {
            weight: weight * self.share(endpoint, now),
            connections: endpoint.connections(),
        }
    }

    /// Whether an endpoint takes the turn with this number: with the chance of its share.
    fn accepts<E: Balanced>(&self, endpoint: &E, now: Tick, number: u64) -> bool {
        let share = self.share(endpoint, now);
        // Another number than the one that has drawn the endpoint.
        share == slow_start::WHOLE
            || scale(drawn(!number), slow_start::WHOLE.into()) < u64::from(share)
    }

    fn share<E: Balanced>(&self, endpoint: &E, now: Tick) -> u32 {
        match self.slow_start {
            Some(over) => slow_start::share(endpoint.returned(), over, now),
            None => slow_start::WHOLE,
        }
    }
}

#[cfg(test)]
mod tests;
