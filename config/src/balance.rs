//! How the endpoint for a connection is chosen among those that get traffic.

use std::time::Duration;

/// What a Service says of it for one port (`fairway.dev/balance`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The algorithm.
    pub algorithm: BalanceAlgorithm,
    /// How long an endpoint that has come back takes until it has its full share; none: it has it at once.
    pub slow_start: Option<Duration>,
}

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BalanceAlgorithm {
    /// In turn, whatever the endpoints' weights are.
    RoundRobin,
    /// In turn, as often as the weights say.
    WeightedRoundRobin,
    /// The one with the fewest connections for its weight.
    LeastConnections,
    /// Of two that are drawn by weight, the one with fewer connections for its weight.
    RandomTwo,
    /// By the client's address: the best of its ranking.
    SourceHash,
    /// By the client's address: a table.
    Maglev,
}

impl BalanceAlgorithm {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::LeastConnections,
        Self::RandomTwo,
        Self::SourceHash,
        Self::Maglev,
    ];

    /// As it stands in the annotation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::WeightedRoundRobin => "weighted-round-robin",
            Self::LeastConnections => "least-connections",
            Self::RandomTwo => "random-two",
            Self::SourceHash => "source-hash",
            Self::Maglev => "maglev",
        }
    }

    /// Whether the choice follows from the client's address alone, so that every gateway makes the same one.
    pub fn is_by_client(self) -> bool {
        match self {
            Self::SourceHash | Self::Maglev => true,
            Self::RoundRobin
            | Self::WeightedRoundRobin
            | Self::LeastConnections
            | Self::RandomTwo => false,
        }
    }
}
