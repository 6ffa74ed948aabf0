//! What a client's connection works with, and what the worker does with it afterwards.

use std::time::Instant;

use fairway_gateway_core::http1::{FieldTable, HeadLimits};
use fairway_gateway_core::route::Tick;

use super::pool::EndpointPool;
use super::timer::HttpTimer;
use crate::engine::next::Environment;

/// What the worker does with a connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpNext {
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
pub(crate) struct HttpEnvironment<'a> {
    pub(crate) base: Environment<'a>,
    pub(crate) pool: &'a mut EndpointPool,
    /// The fields of the head that is being read.
    pub(crate) table: &'a mut FieldTable,
    /// How large a head may be.
    pub(crate) limits: &'a HeadLimits,
    /// What is written next: a head, or what is made of a body. It is empty between two writes.
    pub(crate) scratch: &'a mut Vec<u8>,
    /// When the round began.
    pub(crate) now: Instant,
    /// The process accepts nothing any more: no connection is kept.
    pub(crate) draining: bool,
}

impl HttpEnvironment<'_> {
    /// Now, on the process's clock.
    pub(super) fn tick(&self) -> Tick {
        self.base.shared.clock.at(self.now)
    }
}
