//! Servers behind Fairway: those of this crate, which run on threads of the test, and real ones,
//! which are programs.

mod dnsmasq;
mod exact;
mod graceful;
mod grpc;
mod iperf;
mod nginx;
mod plain;
mod web;

pub use dnsmasq::Dnsmasq;
pub use exact::{ExactPart, ExactServer};
pub use graceful::GracefulServer;
pub use grpc::{grpc_client, grpc_server};
pub use iperf::{IperfServer, iperf};
pub use nginx::{Nginx, nginx_stream_module};
pub(crate) use plain::{accept, listen};
pub use plain::{brief, echo, mute, named, named_udp, resetting, stopped, talkative};
pub use web::{SlowAnswer, named_http, slow_http, websocket_echo};
