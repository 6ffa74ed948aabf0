//! Active checks of endpoints: the shell of [`fairway_gateway_core::checks`].
//!
//! A thread of its own with a runtime of its own, so that neither workers nor the control task wait for a probe, a TLS
//! handshake or an endpoint that sends without end. It exists from the first port on whose Service asks for checks.
//! [`outbox`]: the control task says which ports are checked; [`thread`]: makes the probes that are due, and tells ports what
//! they have shown; [`probe`]: one of them, from the connection to the outcome, with [`tcp`], [`http`], [`grpc`] and [`tls`];
//! [`log`]: a bounded number of lines; [`reach`]: what checks say of all endpoints of a port together.
//!
//! Probes go by the rules of traffic: an address that is never dialled is none of theirs either
//! ([`fairway_gateway_core::checks::targets`]), one to a node port starts with few hops, and the socket of each is one of the
//! budget and of its port's share. What this host lacks says nothing of an endpoint. Each ends with its time-out, and takes
//! no more than a bounded number of bytes before: what an endpoint does costs its own check.

mod failure;
mod grpc;
mod http;
mod log;
mod outbox;
mod probe;
mod reach;
mod tcp;
#[cfg(test)]
mod tests;
mod thread;
mod tls;

pub(crate) use self::reach::{ignored_checks, service_reach};
pub(crate) use self::thread::CheckThread;

/// The outcomes of probes, as the label `result` of the metric.
pub(crate) const RESULTS: [&str; 3] = ["passed", "failed", "not_made"];
