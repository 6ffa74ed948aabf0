//! What a client's connection works with, and what the worker does with it afterwards.

use std::time::Instant;

use fairway_gateway_core::http1::{FieldTable, HeadLimits};
use fairway_gateway_core::route::Tick;

use super::pool::EndpointPool;
use super::timer::HttpTimer;
use crate::engine::next::Environment;

/// What the worker does with a connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum HttpNext {
    /// Nothing: its timer goes on.
    Stay,
    /// It starts this timer, in place of the one before.
    Wait(HttpTimer),
    /// It starts this timer, and lets the connection go on in the next round.
    WaitAndMore(HttpTimer),
    /// It lets the connection go on in the next round, after the others.
    More,
    /// The connection carries bytes as they are from now on.
    Upgrade,
    /// It hands the connection to the tasks of the worker: the client speaks h2.
    Hand,
    /// It removes the connection.
    Over,
}

/// What a connection works with.
pub(in crate::engine) struct HttpEnvironment<'a> {
    pub(in crate::engine) base: Environment<'a>,
    pub(in crate::engine) pool: &'a mut EndpointPool,
    /// The fields of the head that is being read.
    pub(in crate::engine) table: &'a mut FieldTable,
    /// How large a head may be.
    pub(in crate::engine) limits: &'a HeadLimits,
    /// What is written next: a head, or what is made of a body. It is empty between two writes.
    pub(in crate::engine) scratch: &'a mut Vec<u8>,
    /// When the round began.
    pub(in crate::engine) now: Instant,
    /// The process accepts nothing any more: no connection is kept.
    pub(in crate::engine) draining: bool,
}

impl HttpEnvironment<'_> {
    /// Now, on the process's clock.
    pub(super) fn tick(&self) -> Tick {
        self.base.shared.clock.at(self.now)
    }
}
