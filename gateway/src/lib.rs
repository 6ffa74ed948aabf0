//! The shell of the gateway: from stored objects to bytes on an endpoint.
//!
//! Reading order:
//! 1. [`gateway`]: the handle that the rest of the program holds; [`settings`]; [`reports`];
//! 2. `control`: the one task that decides: objects in, routes built, listeners programmed, reports
//!    out. It is fed by `host` (the addresses of this host), `names` (DNS) and `dials` (endpoints that
//!    are not reached);
//! 3. `programmer`: from claims to sockets, with `socket` (binding) and `local` (routes that make a
//!    VIP local); `slot`: one place to listen and whom it serves; `binding`: its sockets;
//! 4. `worker`: two threads for each processor: one for `engine`, one for `tasks`; `context`:
//!    what the tasks of one share, `shared`: what all do;
//! 5. `engine`: TCP connections from accept until the client has the last byte, and UDP flows, with
//!    `delivery`, `pipes` they borrow, `descriptors` and `flow_pool` they need leave from, [`icmp`] by which UDP
//!    clients are told what went wrong, and `hops` that end loops;
//!    `health`: `healthCheckNodePort`;
//! 6. [`port`]: what TCP, UDP and HTTP share of a port; `open`: a client's connection that counts as one of
//!    it; [`counters`]: what its metrics are made of;
//! 7. [`http`]: ports that are balanced by request, on pingora;
//! 8. [`admin`], [`metrics`]: what people and scrapers see.
//!
//! Invariants:
//! - A failure is the state of one listener, tried again until it is mended; never the end of the
//!   process.
//! - A connection's way from accept to endpoint takes no lock that another worker holds for long:
//!   the route is swapped, never edited.
//! - A change of one Service touches its own listeners alone; a place that passes from one Service
//!   to another keeps its sockets.
//! - Memory is bounded by what is open: an idle connection holds no buffer, a slow reader holds one.
//! - Only routes that carry Fairway's own protocol number are ever removed, and none while a client
//!   of its address has not got all that was written to it, or its time to drain is not over.

pub mod admin;
mod beat;
mod binding;
pub mod clock;
mod context;
mod control;
pub mod counters;
mod deeds;
mod delivery;
mod descriptors;
mod dial_changes;
mod dials;
mod engine;
mod flow_pool;
pub mod gateway;
mod health;
mod hops;
mod host;
pub mod http;
pub mod icmp;
pub mod local;
pub mod metrics;
mod names;
mod open;
mod own_http;
mod part;
mod pinning;
mod pipes;
pub mod port;
mod programmer;
mod published;
pub mod reports;
pub mod settings;
mod shared;
mod slot;
mod socket;
mod steering;
mod tasks;
mod worker;

pub use crate::gateway::Gateway;
pub use crate::settings::Settings;
