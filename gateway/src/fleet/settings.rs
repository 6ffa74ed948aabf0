//! The settings of a fleet.

use std::sync::Arc;

use fairway_config::exchange::{FleetKey, FleetMember};

/// The UDP port at which gateways hear each other, unless told otherwise.
pub const DEFAULT_PORT: u16 = 9902;

/// The settings of a fleet. They do not change while the gateway runs.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// The other gateways, where they are known from the start.
    pub members: Vec<FleetMember>,
    /// What their messages are authenticated with, where that is known from the start.
    pub key: Option<Arc<FleetKey>>,
    /// The other gateways and the key are told by a store, the key last: without it this gateway does not know
    /// whether it is alone, and owns nothing.
    pub waits_for_key: bool,
    /// The UDP port at which all of them listen.
    pub port: u16,
}

impl Default for FleetSettings {
    fn default() -> Self {
        Self {
            members: Vec::new(),
            key: None,
            waits_for_key: false,
            port: DEFAULT_PORT,
        }
    }
}
