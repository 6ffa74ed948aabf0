//! What tables and metrics show of the state: pools, traffic and numbers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{PoolCount, PoolStatus};
use fairway_config::names::ClusterName;
use fairway_config::net::IpFamily;
use fairway_config::pool::AddressPool;

use crate::count_labels::{AddressCount, GatewayCount, ProgrammedCount};
use crate::index::Standing;

/// A pool for `get pools`.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// What its author declared.
    pub pool: Arc<AddressPool>,
    /// What its status says.
    pub status: PoolStatus,
}

/// How many gateways serve a Service, and how many endpoints it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceTraffic {
    /// Gateways that serve every port of the Service as it is now.
    pub serving: usize,
    /// Gateways that are alive.
    pub gateways: usize,
    /// Endpoints that traffic can go to, over all ports; nothing: not known.
    pub endpoints: Option<usize>,
}

/// The numbers for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Addresses of each pool and family.
    pub pools: BTreeMap<ClusterName, BTreeMap<IpFamily, PoolCount>>,
    /// Node ports.
    pub node_ports: NodePortCounts,
    /// Services.
    pub services: ServiceCounts,
    /// Services that gateways are to serve, by the reason of `Programmed`; every reason is there.
    pub programmed: BTreeMap<ProgrammedCount, usize>,
    /// Gateways that are processes of their own, by their state; empty where they are not.
    pub gateways: BTreeMap<GatewayCount, usize>,
    /// External addresses that gateways announce on layer 2, by their state; every state is there.
    pub addresses: BTreeMap<AddressCount, usize>,
}

/// Who owns an external address that gateways announce on layer 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressOwner {
    /// The address.
    pub address: IpAddr,
    /// The gateway; nothing: none does.
    pub owner: Option<ClusterName>,
}

/// Node ports by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodePortCounts {
    /// Held by a Service.
    pub used: usize,
    /// Free in the static band.
    pub free_static: usize,
    /// Free in the dynamic band.
    pub free_dynamic: usize,
}

/// Services by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceCounts {
    /// Have the addresses that they want.
    pub assigned: usize,
    /// Lack an address.
    pub pending: usize,
    /// Want no address of ours.
    pub other: usize,
}

impl ServiceCounts {
    pub(crate) fn of(&mut self, standing: Standing) -> &mut usize {
        match standing {
            Standing::Assigned => &mut self.assigned,
            Standing::Pending => &mut self.pending,
            Standing::NotOurs => &mut self.other,
        }
    }
}
