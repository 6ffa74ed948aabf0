//! The settings of a store over an API server, and the times that all of its parts go by.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fairway_config::class::ClassFilter;
use fairway_config::names::ServiceName;
use fairway_config::object::{Kind, ObjectKey};
use fairway_config::time::Timestamp;

use super::leadership::Leadership;

/// A connection on which nothing has come for this long counts as dead; in seconds. The API server
/// ends a watch after this time by itself, and the next one goes on where it ended.
pub(super) const WATCH_SECONDS: u32 = 60;

/// How long a request may take. Shorter than what a leader has left of its lease when it may still
/// write, so that no request of a former leader is on its way when the next one begins.
pub(super) const REQUEST: Duration = Duration::from_secs(4);

/// How a store over an API server is set up.
#[derive(Clone, Debug)]
pub struct KubernetesSettings {
    /// Which LoadBalancer Services are ours.
    pub class: ClassFilter,
    /// What is read.
    pub reads: Reads,
    /// Whether this process leads: else it writes nothing.
    pub leadership: Leadership,
    /// Fairway's own namespace, in which gateways have their Leases.
    pub namespace: String,
    /// This process' own name, in Events.
    pub instance: Arc<str>,
}

/// What is read from the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// What a controller decides on: Services, AddressPools, the labels of Namespaces, and the
    /// addresses of Nodes; and the BGPPeers, of which it writes how their sessions are.
    Controller,
    /// What a gateway serves: Services, EndpointSlices, Nodes and AddressPools; and the BGPPeers to
    /// which it announces.
    Gateway,
}

impl Reads {
    pub(super) fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Controller => &[
                Kind::Namespace,
                Kind::Node,
                Kind::AddressPool,
                Kind::BgpPeer,
                Kind::Service,
            ],
            Self::Gateway => &[
                Kind::Node,
                Kind::AddressPool,
                Kind::BgpPeer,
                Kind::Service,
                Kind::EndpointSlice,
            ],
        }
    }

    /// Those without which nothing can be decided or served.
    pub(super) fn indispensable(self) -> impl Iterator<Item = Kind> {
        let kinds = self.kinds().iter().copied();
        kinds.filter(|kind| !may_be_unknown(*kind))
    }
}

/// Whether a cluster may have no such kind, so that there are no objects of it: a cluster whose
/// CustomResourceDefinitions are of an earlier version has no BGPPeers (Helm leaves the definitions
/// alone in an upgrade). AddressPools were there from the first version on.
pub(super) fn may_be_unknown(kind: Kind) -> bool {
    kind == Kind::BgpPeer
}

pub(super) fn key_of(name: &ServiceName) -> ObjectKey {
    ObjectKey {
        kind: Kind::Service,
        namespace: Some(Arc::clone(&name.namespace)),
        name: Arc::clone(&name.name),
    }
}

pub(super) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |since| since.as_secs().cast_signed()))
}

#[cfg(test)]
mod tests {
    use super::super::election::{DURATION, WRITES};
    use super::*;

    #[test]
    fn what_an_earlier_version_wrote_down_is_enough_to_serve_from() {
        let kinds: Vec<_> = Reads::Gateway.indispensable().collect();
        let earlier = [
            Kind::Node,
            Kind::AddressPool,
            Kind::Service,
            Kind::EndpointSlice,
        ];
        assert_eq!(kinds, earlier);
    }

    #[test]
    fn a_request_of_a_former_leader_has_ended_before_the_next_one_leads() {
        assert!(DURATION - WRITES > REQUEST);
    }
}
