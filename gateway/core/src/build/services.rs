//! Everything that is known of each Service, in one list.
//!
//! The name of a Service comes up in the change that brings it, in its EndpointSlices and in its claims.
//! Each lookup by name reads memory that is not in the processor's caches (a name is two strings), and among
//! thousands of Services these lookups are most of the cost of a change. So a name is looked up once, where a
//! change comes in. From there on the Service is an [`Id`]: an index into a list, where everything that a
//! change needs lies together.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use fairway_config::endpoints::EndpointSlice;
use fairway_config::exchange::StoredService;
use fairway_config::names::{NamespacedName, ServiceName};
use fairway_config::service::ServiceType;
use fairway_config::time::Timestamp;

use super::claim_requests::ClaimRequest;
use crate::route::Route;

/// The number of a Service, valid as long as anything of the Service is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Id(u32);

impl Id {
    pub(super) const FIRST: Self = Self(0);
    pub(super) const LAST: Self = Self(u32::MAX);
}

/// A v1 Endpoints (`true`) and an EndpointSlice may have the same name. Slices come first.
pub(super) type SliceKey = (bool, NamespacedName);

/// One Service and what belongs to it.
#[derive(Debug)]
pub(super) struct ServiceEntry {
    pub(super) name: ServiceName,
    pub(super) stored: Option<Arc<StoredService>>,
    /// Ordered by key. Nearly always one, so this is no map: a node of a BTreeMap has room for eleven.
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    pub(super) route: Option<Arc<Route>>,
    /// The listen addresses that it requests, ordered by key, each once.
    pub(super) requests: Box<[ClaimRequest]>,
    /// Its creation time: of several Services that request one listen address, the oldest gets it.
    pub(super) age: Timestamp,
    /// The DNS names that its route depends on, in order.
    pub(super) names: Box<[Arc<str>]>,
    /// Its endpoints on the host itself, in order.
    pub(super) on_host: Box<[SocketAddr]>,
    /// Its route depends on the Nodes.
    pub(super) on_nodes: bool,
    /// The next build makes its route anew.
    pub(super) dirty: bool,
}

impl ServiceEntry {
    fn new(name: ServiceName) -> Self {
        Self {
            name,
            stored: None,
            slices: Vec::new(),
            route: None,
            requests: Box::default(),
            age: Timestamp::default(),
            names: Box::default(),
            on_host: Box::default(),
            on_nodes: false,
            dirty: false,
        }
    }

    /// The index of the slice with this key, or where it is to be inserted.
    pub(super) fn slice(
        &self,
        from_endpoints: bool,
        name: &NamespacedName,
    ) -> Result<usize, usize> {
        self.slices.binary_search_by(|slice| {
            let key = (slice.from_endpoints, &slice.name);
            key.cmp(&(from_endpoints, name))
        })
    }

    /// Whether nothing is known of the Service but its name.
    pub(super) fn is_empty(&self) -> bool {
        self.stored.is_none() && self.slices.is_empty()
    }
}

/// The Services of which anything is known, by id and by name.
#[derive(Debug, Default)]
pub(super) struct ServiceIndex {
    entries: Vec<Option<ServiceEntry>>,
    vacant: Vec<Id>,
    by_name: HashMap<ServiceName, Id>,
}

impl ServiceIndex {
    /// The Service of that name, if anything is known of it.
    pub(super) fn id(&self, name: &ServiceName) -> Option<Id> {
        self.by_name.get(name).copied()
    }

    /// The Service of that name, which is added where nothing was known of it.
    pub(super) fn id_or_new(&mut self, name: &ServiceName) -> Id {
        if let Some(id) = self.id(name) {
            return id;
        }
        let entry = Some(ServiceEntry::new(name.clone()));
        let id = match self.vacant.pop() {
            Some(id) => {
                if let Some(place) = self.entries.get_mut(id.0 as usize) {
                    *place = entry;
                }
                id
            }
            None => {
                self.entries.push(entry);
                Id((self.entries.len() - 1) as u32)
            }
        };
        self.by_name.insert(name.clone(), id);
        id
    }

    pub(super) fn get(&self, id: Id) -> Option<&ServiceEntry> {
        self.entries.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut ServiceEntry> {
        self.entries.get_mut(id.0 as usize)?.as_mut()
    }

    /// Removes a Service of which nothing is known any more. Its id may be given to another one.
    pub(super) fn remove(&mut self, id: Id) -> Option<ServiceEntry> {
        let entry = self.entries.get_mut(id.0 as usize)?.take()?;
        self.by_name.remove(&entry.name);
        self.vacant.push(id);
        Some(entry)
    }

    /// All Services, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &ServiceEntry)> {
        let numbered = (0..).map(Id).zip(&self.entries);
        numbered.filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }
}

/// Marks Services as dirty: the next build makes their routes anew.
pub(super) fn mark<'a>(
    services: &mut ServiceIndex,
    dirty: &mut Vec<Id>,
    ids: impl IntoIterator<Item = &'a Id>,
) {
    for id in ids {
        if let Some(entry) = services.get_mut(*id)
            && !std::mem::replace(&mut entry.dirty, true)
        {
            dirty.push(*id);
        }
    }
}

/// The external addresses that a Service holds. Those of a Service that is no longer a LoadBalancer do not
/// count: it is about to give them back.
pub(super) fn held_addresses(stored: Option<&StoredService>) -> &[IpAddr] {
    match stored {
        Some(stored) if stored.service.kind == ServiceType::LoadBalancer => &stored.held.addresses,
        _ => &[],
    }
}
