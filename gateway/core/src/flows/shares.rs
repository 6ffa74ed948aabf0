//! Who has how many flows, and whose flow goes first when one has to.
//!
//! It is a flow of the namespace that has the most flows, and there of the Service that has the most. Where
//! the Service that wants a new flow has as many as the largest, its own flow goes. So no namespace loses a
//! flow to another one while it has no more than its fair share, however many Services the other one has;
//! and no Service loses one to another Service of its namespace.
//!
//! Of the flows of that Service this one goes:
//! - where more than an eighth were never answered, the one of those that is idle the longest: a flood from
//!   forged addresses evicts its own flows;
//! - else the idlest flow of a client that has more than a quarter, if there is such a client: an address
//!   (IPv4) or a /64 (IPv6), which one host may have whole;
//! - else the one that is idle the longest of those that were answered: so new clients have time to
//!   be answered.
//!
//! A client with more than a quarter is looked at for the first rule too, if some of its flows were not
//! answered.

use std::sync::Arc;

use fairway_config::names::ServiceName;
use fairway_config::net::ClientAddr;

use super::entry::FlowEntry;
use super::numbered::{NumberedMap, SizeIndex};
use super::service_flows::ServiceFlows;
use crate::hash_seed::HashSeed;
use crate::lru::LruLinks;

/// The flows of each namespace and Service.
#[derive(Debug)]
pub(super) struct FlowShares {
    seed: HashSeed,
    namespaces: NumberedMap<Arc<str>, NamespaceFlows>,
    namespace_sizes: SizeIndex<u32>,
    services: NumberedMap<ServiceName, ServiceFlows>,
    links: LruLinks,
}

#[derive(Debug)]
struct NamespaceFlows {
    len: usize,
    service_sizes: SizeIndex<u32>,
}

impl FlowShares {
    pub(super) fn new(seed: HashSeed) -> Self {
        Self {
            seed,
            namespaces: NumberedMap::new(seed),
            namespace_sizes: SizeIndex::new(),
            services: NumberedMap::new(seed),
            links: LruLinks::default(),
        }
    }

    /// Adds a flow of a Service that is not answered yet. The Service's number, and the flow's index in the
    /// list of its client.
    pub(super) fn add(
        &mut self,
        service: &ServiceName,
        client: ClientAddr,
        idle: u32,
        slot: u32,
    ) -> (u32, u32) {
        let number = self.number(service);
        let flows = &mut self.services[number];
        let count = flows.len();
        let in_client = flows.add(&mut self.links, client, idle, slot);
        let namespace = flows.namespace;
        self.change(namespace, number, count, count + 1);
        (number, in_client)
    }

    /// A flow was answered for the first time.
    pub(super) fn replied(&mut self, service: u32, idle: u32, slot: u32) {
        self.services[service].replied(&mut self.links, idle, slot);
    }

    /// A flow was used.
    pub(super) fn touch(&mut self, entry: &FlowEntry, slot: u32) {
        self.services[entry.service].touch(&mut self.links, entry, slot);
    }

    /// Removes a flow. The slot of the flow that has its index in its client's list now.
    pub(super) fn remove(&mut self, entry: &FlowEntry, slot: u32) -> Option<u32> {
        let number = entry.service;
        let flows = &mut self.services[number];
        let count = flows.len();
        let moved = flows.remove(&mut self.links, entry, slot);
        let namespace = flows.namespace;
        if count == 1 {
            flows.shrink();
            let name = flows.name.clone();
            self.services.remove(&name);
            if self.namespaces[namespace].len == 1 {
                self.namespaces.remove(&name.namespace);
            }
        }
        self.change(namespace, number, count, count - 1);
        moved
    }

    /// The slot of the flow that goes for a new one of that Service. `turn` is a number that differs from
    /// call to call.
    pub(super) fn first(
        &self,
        service: &ServiceName,
        turn: u32,
        entries: &[FlowEntry],
    ) -> Option<u32> {
        let (most, largest) = self.namespace_sizes.largest()?;
        let own = self.namespaces.number(&service.namespace);
        let own = own.filter(|own| self.namespaces[*own].len >= most);
        self.first_in(own.unwrap_or(largest), service, turn, entries)
    }

    /// The slot of the flow that goes for another one of the same Service; one of its namespace, where it
    /// has none itself.
    pub(super) fn first_of(
        &self,
        service: &ServiceName,
        turn: u32,
        entries: &[FlowEntry],
    ) -> Option<u32> {
        if let Some(own) = self.services.number(service) {
            return self.services[own].first(turn, entries);
        }
        let namespace = self.namespaces.number(&service.namespace)?;
        self.first_in(namespace, service, turn, entries)
    }

    /// The flows of each Service that are idle the longest: of those that were answered, and of the
    /// others.
    pub(super) fn oldest(&self) -> impl Iterator<Item = u32> + '_ {
        let services = self.namespace_sizes.iter().flat_map(|(_, namespace)| {
            let sizes = &self.namespaces[namespace].service_sizes;
            sizes.iter().map(|(_, service)| &self.services[service])
        });
        services.flat_map(ServiceFlows::oldest)
    }

    /// The flow of the same Service that is idle the longest of those that may be idle as long as this one, and were
    /// answered or not as this one was.
    pub(super) fn oldest_like(&self, entry: &FlowEntry) -> Option<u32> {
        self.services[entry.service].oldest_like(entry)
    }

    fn first_in(
        &self,
        namespace: u32,
        service: &ServiceName,
        turn: u32,
        entries: &[FlowEntry],
    ) -> Option<u32> {
        let (most, largest) = self.namespaces[namespace].service_sizes.largest()?;
        let own = self.services.number(service).filter(|own| {
            let flows = &self.services[*own];
            flows.namespace == namespace && flows.len() >= most
        });
        self.services[own.unwrap_or(largest)].first(turn, entries)
    }

    /// A Service has `after` flows now and had `before`, one more or one less.
    fn change(&mut self, namespace: u32, service: u32, before: usize, after: usize) {
        let flows = &mut self.namespaces[namespace];
        flows.service_sizes.change(service, before, after);
        let len = flows.len;
        flows.len = len + after - before;
        self.namespace_sizes.change(namespace, len, flows.len);
    }

    fn number(&mut self, service: &ServiceName) -> u32 {
        if let Some(number) = self.services.number(service) {
            return number;
        }
        let none = NamespaceFlows {
            len: 0,
            service_sizes: SizeIndex::new(),
        };
        let namespace = self.namespaces.number(&service.namespace);
        let namespace =
            namespace.unwrap_or_else(|| self.namespaces.insert(&service.namespace, none));
        let flows = ServiceFlows::new(service.clone(), namespace, self.seed);
        self.services.insert(service, flows)
    }
}

#[cfg(test)]
impl FlowShares {
    /// Checks that all lists agree with each other and with the table.
    pub(super) fn check(&self, entries: &[FlowEntry]) {
        let mut services = 0;
        assert_eq!(self.namespace_sizes.iter().count(), self.namespaces.len());
        for (len, namespace) in self.namespace_sizes.iter() {
            let flows = &self.namespaces[namespace];
            assert!(len > 0, "no namespace is left behind");
            assert_eq!(flows.len, len);
            let listed: usize = flows.service_sizes.iter().map(|(count, _)| count).sum();
            assert_eq!(listed, len);
            for (count, number) in flows.service_sizes.iter() {
                let service = &self.services[number];
                assert_eq!(self.services.number(&service.name), Some(number));
                assert_eq!((service.namespace, service.len()), (namespace, count));
                assert!(count > 0, "no Service is left behind");
                service.check(number, entries);
                services += 1;
            }
        }
        assert_eq!(self.services.len(), services);
    }
}
