//! Servers behind Fairway: those of this crate, which run on threads of the test, and real ones,
//! which are programs.

mod dnsmasq;
mod grpc;
mod iperf;
mod nginx;
mod plain;
mod web;

pub use dnsmasq::Dnsmasq;
pub use grpc::{grpc_client, grpc_server};
pub use iperf::iperf;
pub use nginx::Nginx;
pub use plain::{brief, echo, mute, named, named_udp, resetting, stopped};
pub use web::{named_http, websocket_echo};
