//! Announcing to routers: a thread with all BGP sessions and BFD.
//!
//! Each gateway tells the routers of every address that it can serve, so there is no owner; a router that knows
//! several ways to an address spreads its traffic over them. What is said and when is decided without I/O
//! ([`fairway_gateway_core::bgp`], [`fairway_gateway_core::bfd`]).
//!
//! Reading order: [`control`], the control task's end; `neighbours`, what it hands over; `asks`, what a
//! router is told of an address; `speaker`, the thread;
//! `peer`, one router; `dial`, the socket of a session; `find`, a router without an address; `bfd`, the sockets of
//! BFD; [`shown`], what is shown of it; `handed`, `settings`, `peer/handover`, `speaker/handover`: sessions go over to another
//! process, or come from one.
//!
//! One router does not hold up others: a turn of the loop reads a bounded number of bytes of each, nothing waits for
//! one, and what it does not take is bounded.

mod asks;
mod bfd;
pub(crate) mod control;
mod dial;
mod find;
pub(crate) mod handed;
mod neighbours;
mod peer;
mod settings;
pub(crate) mod shown;
mod speaker;
