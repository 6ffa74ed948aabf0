//! A LAN on which gateways announce addresses, and the means to judge how they do it.
//!
//! ```text
//!                  bridge (with or without MLD snooping)
//!     ┌──────────┬───┴──────┬───────────┬──────────────┐
//!   edge-1 …   edge-7     client     witness     other witness
//!   198.19.0.1 … 7        .101        .102         .103           198.19.0.0/16
//!   2001:db8:c::1 … 7     ::101       …                           2001:db8:c::/64
//!     │          │         external addresses: 198.19.1.n, 2001:db8:c::f:n
//!     └────┬─────┘
//!        farm              192.0.2.11…30: the servers; they see an edge as 192.0.2.N
//! ```
//! Reading order:
//! - [`network`]: the hosts and the bridge; cables that are pulled, sides that are parted.
//! - [`frames`]: ARP and NDP as bytes.
//! - [`observer`]: asks for addresses from a host of its own and takes down who answers.
//! - [`judge`]: who answered when, whether two did at once, how long nobody did.
//! - [`prober`]: a client that starts an attempt every 10 ms; [`outage`]: its figures.
//! - [`held`]: connections that live long.
//! - [`announcers`]: what announces on the edges; [`gateways`]: Fairway; [`keepalived`], [`metallb`]: peers,
//!   which have their programs and servers from `edge_programs`.
//! - [`departure`]: an edge departs while clients use it. [`trial`]: it comes back, and what came of it; [`routed`]: the
//!   same by BGP, with the witness as the router.
//! - [`many`]: thousands of addresses, whose gateway is killed.
//! - [`faults`]: a seeded history of departures of all kinds, and how owners followed each other.

pub mod announcers;
pub mod departure;
mod edge_programs;
pub mod faults;
pub mod frames;
pub mod gateways;
pub mod held;
pub mod judge;
pub mod keepalived;
pub mod many;
pub mod metallb;
pub mod network;
pub mod observer;
pub mod outage;
pub mod prober;
pub mod routed;
pub mod trial;
