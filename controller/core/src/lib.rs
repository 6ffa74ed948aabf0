//! Which address, which node port, which status, which writes.
//!
//! [`State`] is fed with what a store knows ([`State::apply`]) and answers with what should be
//! written ([`State::settle`]). It is a value: no clock, no runtime, no Kubernetes client.
//!
//! Reading order:
//! 1. `settings`: class and node-port range; `wants`: what a Service asks for and may have;
//! 2. `addresses`, `pools`, `nodes`: the addresses there are; `holders`: who has which address and
//!    shares it; `ports`: node ports; `allocations`: all of these, with the rules of who may have
//!    what;
//! 3. `queue`: the order in which Services are served, and what they wait for; `index`: the
//!    Services; `assign`: who gets what; `node_port_requester`: asks the API server for node ports,
//!    one `node_port_request` for each Service;
//! 4. `refusal`, `status`, `explain`: the same reasons, for statuses and for people;
//! 5. `gateways` and `programmed`: what gateways report, and the condition `Programmed`;
//!    `address_probes` and `probing`: which addresses are asked for before they are shown;
//!    `address_reports` and `address_verdict`: who owns which external address, `layer2`: what that
//!    means for a Service; `peers`: which of them have a session with which router; `state`: the value that is fed and asked; `counts`: what tables and
//!    metrics show of it.
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
//! - What was written counts as taken before the store shows it, and what was released is free only
//!   when the store shows that: so a crash between two writes gives nothing to two Services. Where
//!   nothing is released a crash changes nothing at all, because writes are made in the order in
//!   which things were given. What is released goes to the Service that waits for it when the store
//!   shows the release, so a crash in the middle of several releases can change who gets which.
//! - The cost of a change does not grow with the number of Services (`benches/change.rs`): no step
//!   looks at all of them, except after a change of an AddressPool, or of a node that has an
//!   address of a pool. The same holds for thousands of Services on one address, of addresses under
//!   one sharing key, and of ports.

pub mod events;

mod address_probes;
mod address_reports;
mod address_verdict;
mod addresses;
mod allocations;
mod assign;
mod count_labels;
mod counts;
mod explain;
mod gateways;
mod holders;
mod index;
mod layer2;
mod node_port_request;
mod node_port_requester;
mod nodes;
mod peers;
mod pools;
mod ports;
mod probing;
mod programmed;
mod queue;
mod refusal;
mod settings;
mod state;
mod status;
mod wants;

pub use count_labels::{AddressCount, GatewayCount, ProgrammedCount};
pub use counts::{AddressOwner, Counts, NodePortCounts, PoolView, ServiceCounts, ServiceTraffic};
pub use settings::{NodePortRange, NotANodePortRange, Settings};
pub use state::State;
