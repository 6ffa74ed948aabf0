//! A flow and its names.

use fairway_config::net::{ClientAddr, ListenAddr};

use crate::route::Tick;

/// What tells flows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Who sends.
    pub client: ClientAddr,
    /// Where to.
    pub listen: ListenAddr,
}

/// Names a flow, and no other one of the same table among the four thousand million that come next.
/// Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(u64);

impl FlowId {
    /// No flow has it.
    pub const NONE: Self = Self(u64::MAX);

    pub(super) fn new(serial: u32, slot: u32) -> Self {
        Self((u64::from(serial) << 32) | u64::from(slot))
    }

    /// A number below `Limits::flows`, that of no other flow as long as there is this one.
    pub fn slot(self) -> u32 {
        // The lower half.
        self.0 as u32
    }
}

/// One flow in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct FlowEntry {
    pub(super) key: FlowKey,
    pub(super) id: FlowId,
    pub(super) seen: Tick,
    pub(super) replied: bool,
    /// How long it may be idle, in milliseconds; 0: as long as [`super::Limits`] say.
    pub(super) idle: u32,
    /// The number of its Service.
    pub(super) service: u32,
    /// Where it stands in the list of its client.
    pub(super) in_client: u32,
}
