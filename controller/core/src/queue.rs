//! The order in which Services are served, and what they wait for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::StoredService;
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::IpFamily;
use fairway_config::time::Timestamp;

/// Stands for a Service inside the controller while the Service is there.
pub(crate) type ServiceSlot = usize;

/// The order in which Services are served: by age, then name; the slot comes along.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueKey {
    born: Timestamp,
    pub(crate) name: ServiceName,
    pub(crate) slot: ServiceSlot,
}

/// Services in their order.
pub(crate) type ServiceQueue = BTreeSet<QueueKey>;

/// What a Service that lacks something waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum WaitsFor {
    /// A free address of a pool that has none.
    Pool(ClusterName, IpFamily),
    /// The end of the free addresses of a pool: it would be said in another sentence.
    PoolEmpty(ClusterName, IpFamily),
    /// What a namespace holds of a pool with a quota.
    Quota(ClusterName, Arc<str>),
    /// A change of who holds an address.
    Address(IpAddr),
    /// A change of what is shared under a key.
    Sharing(Arc<str>),
    /// A change of who holds a node port.
    NodePort(u16),
    /// Any free node port.
    AnyNodePort,
}

impl QueueKey {
    pub(crate) fn of(slot: ServiceSlot, stored: &StoredService) -> Self {
        Self {
            born: stored.service.created.unwrap_or(stored.first_seen),
            name: stored.service.name.clone(),
            slot,
        }
    }
}
