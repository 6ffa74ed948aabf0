//! Which endpoint gets a connection: routes, eligible endpoints, balancing, affinity, UDP flows.
//!
//! Pure: no runtime, no clock, no socket. Time comes in as a [`Tick`](route::Tick), seeds come in as arguments.
//!
//! Reading order:
//! 1. [`route`]: what the data plane needs to know of one Service, as plain values;
//! 2. [`guard`]: what must never be dialled;
//! 3. [`eligible`]: every readiness, traffic-policy and topology rule, in one function;
//! 4. [`build`]: from stored objects to routes, at the cost of what changed;
//! 5. [`rank`], [`affinity`], `turns`, [`pick`]: from a client to an endpoint;
//! 6. [`reachability`]: whether an endpoint is reached, by what its last dials came to;
//! 7. [`flows`]: the UDP flow table;
//! 8. [`source_pool`]: which of the host's addresses endpoints are dialled from.

pub mod affinity;
pub mod build;
pub mod eligible;
pub mod flows;
pub mod guard;
mod lru;
pub mod pick;
pub mod rank;
pub mod reachability;
pub mod route;
pub mod source_pool;
#[cfg(test)]
mod testing;
mod turns;
