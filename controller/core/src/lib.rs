//! Which address, which node port, which status, which writes.
//!
//! [`State`] is fed with what a store knows ([`State::apply`]) and answers with what should be
//! written ([`State::settle`]). It is a value: no clock, no runtime, no Kubernetes client.
//!
//! Reading order:
//! 1. `settings`: class and node-port range; `wants`: what a Service is entitled to;
//! 2. `addresses`, `pools`, `nodes`, `holders`, `ports`: what there is and who has it; `allocations`: all of it,
//!    with the rules of who may have what;
//! 3. `queue`: the order in which Services are served, and what they wait for; `index`: the
//!    Services; `assign`: who gets what; `node_port_requester`: node ports that somebody else allocates, by
//!    `node_port_request`s;
//! 4. `refusal`, `status`, `explain`: the same reasons, for statuses and for people;
//! 5. `state`: what is fed and asked.
//!
//! Invariants:
//! - No (address, protocol, port) and no node port is ever with two Services.
//! - What a Service has it keeps, until it asks for something else. Pools may be edited or deleted
//!   under it. The one thing that can't be told from a changed request: where a Service asks for a
//!   pool by name and its address now lies in another pool, it moves to the pool that it asks for.
//!   Where those who share an address no longer may, the older one stays: what the store holds does
//!   not say which of them changed.
//! - An address of a node is given to nobody. Who has it when the node comes keeps it.
//! - The result follows from the objects and from what is held, not from the order of events.
//! - What was written and not yet seen counts as taken, and what was let go of is free when the
//!   store shows so: a crash between two writes leaves nothing with two Services. Where nobody lets
//!   go of anything it leaves no trace at all, because writes go out in the order of giving. What
//!   is let go of goes to whoever waits when the store shows it, so that a crash in the middle of
//!   several releases can change who gets which.
//! - The cost of a change is that of the change (`benches/change.rs`): no step looks at all Services,
//!   but for a change of an AddressPool, or of a node that has an address of one. Thousands on one address, thousands of addresses under one
//!   key and thousands of ports cost their own change no more than their number.

pub mod events;

mod addresses;
mod allocations;
mod assign;
mod explain;
mod gateways;
mod holders;
mod index;
mod node_port_request;
mod node_port_requester;
mod nodes;
mod pools;
mod ports;
mod programmed;
mod queue;
mod refusal;
mod settings;
mod state;
mod status;
mod wants;

pub use settings::{NodePortRange, NotANodePortRange, Settings};
pub use state::{Counts, NodePortCounts, PoolView, ServiceCounts, ServiceTraffic, State};
