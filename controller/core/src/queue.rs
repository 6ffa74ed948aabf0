//! The order in which Services are served, and what they wait for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::StoredService;
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::IpFamily;
use fairway_config::time::Timestamp;

/// The number of a Service inside the controller, for as long as the Service exists.
pub(crate) type ServiceSlot = usize;

/// The order in which Services are served: by age, then by name.
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
    /// That a pool has no free address any more: then the message has to say so.
    PoolEmpty(ClusterName, IpFamily),
    /// A change of how many addresses of a pool with a quota a namespace holds.
    Quota(ClusterName, Arc<str>),
    /// A change of the holders of an address.
    Address(IpAddr),
    /// A change of the addresses under a sharing key.
    Sharing(Arc<str>),
    /// A change of the holder of a node port.
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
