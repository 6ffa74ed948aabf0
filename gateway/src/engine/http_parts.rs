//! What a worker has for HTTP connections.

use std::collections::VecDeque;
use std::time::Instant;

use fairway_gateway_core::http1::{FieldTable, HeadLimits};

use super::http::{EndpointPool, HttpConnection, HttpTimer};
use super::slab::Slab;

/// What a worker has for HTTP connections.
pub(super) struct HttpParts {
    pub(super) connections: Slab<HttpConnection, { HttpTimer::COUNT }>,
    pub(super) pool: EndpointPool,
    pub(super) table: FieldTable,
    pub(super) limits: HeadLimits,
    pub(super) scratch: Vec<u8>,
    /// The connections that go on in the next round.
    pub(super) again: Vec<u32>,
    /// When the round began.
    pub(super) now: Instant,
    /// The numbers of connections to be looked at, because something is cut; because their port has another idle time;
    /// because the process accepts nothing any more.
    pub(super) cutting: VecDeque<u32>,
    pub(super) reviewing: VecDeque<u32>,
    pub(super) finishing: VecDeque<u32>,
}

impl HttpParts {
    /// No connections, and room for so many to endpoints that wait.
    pub(super) fn new(pooled: usize) -> Self {
        Self {
            connections: Slab::new(),
            pool: EndpointPool::new(pooled),
            table: FieldTable::default(),
            limits: HeadLimits::default(),
            scratch: Vec::new(),
            again: Vec::new(),
            now: Instant::now(),
            cutting: VecDeque::new(),
            reviewing: VecDeque::new(),
            finishing: VecDeque::new(),
        }
    }

    /// Whether no work is left for the next round.
    pub(super) fn is_done(&self) -> bool {
        self.again.is_empty()
            && self.cutting.is_empty()
            && self.reviewing.is_empty()
            && self.finishing.is_empty()
    }
}
