//! The L4 data plane from outside: objects in, bytes through, on loopback addresses.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod carrying;
mod client_address;
mod delivery;
mod dns;
mod ejection;
mod harness;
mod http_sources;
mod listeners;
mod local;
mod loops;
mod reachability;
mod restart;
mod stalls;
mod steered;
mod tcp;
mod udp;
