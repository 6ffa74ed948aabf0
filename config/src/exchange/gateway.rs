//! What a gateway says of itself, and what is known of one that is a process of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::bgp_sessions::BgpPeerRow;
use crate::names::{ClusterName, ServiceName};

/// What a gateway says of itself: a row of `get gateways`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRow {
    /// Its name: the node's.
    pub name: String,
    /// Fairway's version.
    pub version: String,
    /// Whether every listener that can stand stands and every status is written.
    pub ready: bool,
    /// Why it is not ready, in a sentence; empty where it is.
    pub why: String,
    /// Listeners that take traffic.
    pub listening: usize,
    /// Listeners that can't.
    pub failed: usize,
    /// External addresses that it owns.
    #[serde(default)]
    pub addresses: usize,
    /// TCP connections now.
    pub connections: u64,
    /// UDP flows now.
    pub flows: u64,
    /// When it started; RFC 3339.
    pub started: String,
    /// How many Services fail that it could not report to the cluster, for want of room.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub omitted: usize,
    /// Why it hands the addresses over that it owns: the end of a sentence, as in `because its Node is cordoned`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Arc<str>>,
    /// How many other gateways it knows of with which it announces addresses on layer 2.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub members: usize,
    /// How many of them hear it and are heard by it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub heard: usize,
    /// Some of the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<ClusterName>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A gateway that is a process of its own, as its Lease says.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayStatus {
    /// Its row in `get gateways`.
    pub row: GatewayRow,
    /// Which Services it serves.
    pub progress: GatewayProgress,
    /// It has said that it stops: that nothing is heard of it is no fault.
    pub stopped: bool,
    /// Its BGP sessions, in the order of the names of the routers; none where it stops.
    pub sessions: Arc<[BgpPeerRow]>,
    /// How many more it has, of which it had no room to tell.
    pub untold_sessions: usize,
    /// How many endpoints it has for each Service, where there was room to report that.
    pub endpoints: Arc<EndpointCounts>,
}

/// Which Services a gateway serves, as far as it says.
#[derive(Clone, Debug, PartialEq)]
pub enum GatewayProgress {
    /// It has stopped, is stopping, or its Lease has run out.
    Gone,
    /// It is alive, and its reports of Services can't be relied on.
    Behind {
        /// Why, a sentence.
        why: String,
    },
    /// It has programmed every Service up to this revision of the store. There is a [`Report`](super::Report) for
    /// each Service that is not served completely; every other one takes traffic at every port.
    Applied {
        /// See [`StoredService::revision`](super::StoredService::revision).
        revision: u64,
        /// It has said so since this process began: a Lease that was found at the start may be
        /// older than the objects that were found.
        since_start: bool,
        /// Namespaces of which it had no room to report everything: a Service there that has no
        /// report need not be served.
        untold: BTreeSet<Arc<str>>,
    },
}

/// How many endpoints there are of each Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointCounts(BTreeMap<Arc<str>, BTreeMap<Box<str>, u32>>);

impl EndpointCounts {
    /// The number for one Service, where it is known.
    pub fn get(&self, service: &ServiceName) -> Option<u32> {
        let of_namespace = self.0.get(&service.namespace)?;
        of_namespace.get(&*service.name).copied()
    }
}

impl FromIterator<(ServiceName, u32)> for EndpointCounts {
    fn from_iter<T: IntoIterator<Item = (ServiceName, u32)>>(all: T) -> Self {
        let mut counts = Self::default();
        for (service, count) in all {
            let of_namespace = counts.0.entry(service.namespace).or_default();
            of_namespace.insert(service.name.as_ref().into(), count);
        }
        counts
    }
}
