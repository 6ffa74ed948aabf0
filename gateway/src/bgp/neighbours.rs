//! What the control task hands over to the thread of BGP.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use fairway_config::bgp_peer::BgpPeer;
use fairway_config::names::ClusterName;

use super::handed::FrozenRouters;
use crate::host::HostAddresses;

/// The routers, and what else sessions depend on.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    pub(super) peers: BTreeMap<ClusterName, Arc<BgpPeer>>,
    pub(super) links: Arc<HostAddresses>,
    pub(super) stage: SpeakerStage,
}

/// What the thread is told when another process takes over.
#[derive(Debug)]
pub(super) enum SpeakerCommand {
    /// Touch no connection from now on, and say what another process needs to go on.
    Freeze(Sender<FrozenRouters>),
    /// Nobody goes on with them: go on.
    Thaw,
    /// Another process has the sessions of these names. End the others.
    Leave(BTreeSet<String>),
}

/// How far the end of the process has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SpeakerStage {
    /// It goes on.
    #[default]
    Announcing,
    /// Everything is to be withdrawn, and sessions stay.
    Withdrawing,
    /// Sessions end.
    Ending,
}
