//! What the control task hands over to the thread of BGP.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_config::bgp_peer::BgpPeer;
use fairway_config::names::ClusterName;

use crate::host::HostAddresses;

/// The routers, and what else sessions depend on.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours {
    pub(super) peers: BTreeMap<ClusterName, Arc<BgpPeer>>,
    pub(super) links: Arc<HostAddresses>,
    pub(super) stage: SpeakerStage,
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
