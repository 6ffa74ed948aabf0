//! Everything that is known of each Service, in one place.
//!
//! A Service has many names to it: in the change that brings it, in its EndpointSlices, in what it
//! claims. Each lookup by name touches memory that nobody has touched for a while, several times
//! over, since a name is two strings elsewhere; among thousands of Services that is what a change
//! costs. So a name is looked up once, where a change comes in, and from there on a Service is its
//! [`Id`]: a place in a list, where everything that a change of it needs lies side by side.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use fairway_config::endpoints::EndpointSlice;
use fairway_config::exchange::StoredService;
use fairway_config::names::{NamespacedName, ServiceName};
use fairway_config::time::Timestamp;

use super::wants::Want;
use crate::route::Route;

/// Stands for a Service as long as anything of it is known.
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
    /// In the order of their keys. Nearly always one: a map would take the room of eleven.
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    pub(super) route: Option<Arc<Route>>,
    /// What it wants to claim, ordered by place, each place once.
    pub(super) wants: Box<[Want]>,
    /// Since when it is there, as far as its claims go.
    pub(super) age: Timestamp,
    /// The DNS names that its route depends on, in order.
    pub(super) names: Box<[Arc<str>]>,
    /// Its endpoints on the host itself, in order.
    pub(super) on_host: Box<[SocketAddr]>,
    /// Its route depends on the Nodes.
    pub(super) on_nodes: bool,
    /// Its route is to be made anew.
    pub(super) dirty: bool,
}

impl ServiceEntry {
    fn new(name: ServiceName) -> Self {
        Self {
            name,
            stored: None,
            slices: Vec::new(),
            route: None,
            wants: Box::default(),
            age: Timestamp::default(),
            names: Box::default(),
            on_host: Box::default(),
            on_nodes: false,
            dirty: false,
        }
    }

    /// Where the slice with this key is, or belongs.
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

    /// Nothing is known of the Service but its name.
    pub(super) fn is_empty(&self) -> bool {
        self.stored.is_none() && self.slices.is_empty()
    }
}

/// All Services of which anything is known.
#[derive(Debug, Default)]
pub(super) struct Services {
    entries: Vec<Option<ServiceEntry>>,
    vacant: Vec<Id>,
    by_name: HashMap<ServiceName, Id>,
}

impl Services {
    /// The Service of that name, if anything is known of it.
    pub(super) fn id(&self, name: &ServiceName) -> Option<Id> {
        self.by_name.get(name).copied()
    }

    /// The Service of that name; from now on it is there.
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

    /// Nothing is known of the Service any more; its id may come to stand for another.
    pub(super) fn remove(&mut self, id: Id) -> Option<ServiceEntry> {
        let entry = self.entries.get_mut(id.0 as usize)?.take()?;
        self.by_name.remove(&entry.name);
        self.vacant.push(id);
        Some(entry)
    }

    /// All, in no order that means anything.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Id, &ServiceEntry)> {
        let numbered = (0..).map(Id).zip(&self.entries);
        numbered.filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }
}
