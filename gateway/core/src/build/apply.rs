//! Takes changes of objects in: brings the indexes up to date, and marks the Services whose routes may change.

use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::endpoints::EndpointSlice;
use fairway_config::exchange::{Batch, Change, StoredService};
use fairway_config::names::{NamespacedName, ServiceName};

use super::Builder;
use super::services::{held_addresses, mark};

impl Builder {
    /// Takes changes in, and marks the Services whose routes they may change.
    pub fn apply(&mut self, batch: &Batch) {
        for change in &batch.changes {
            match change {
                Change::Service(name, stored) => self.apply_service(name, stored.as_ref()),
                Change::EndpointSlice(name, from_endpoints, slice) => {
                    self.apply_slice(name, *from_endpoints, slice.as_ref());
                }
                Change::Node(name, node) => {
                    let own = self.cluster.settings.node_name.as_ref() == Some(name);
                    if self.cluster.set_node(name, node.as_ref()) {
                        mark(&mut self.services, &mut self.dirty, &self.on_nodes);
                        self.all_dirty |= own;
                    }
                }
                Change::Pool(name, pool) => {
                    if self.cluster.set_pool(name, pool.as_ref()) {
                        self.outside = None;
                        self.all_dirty = true;
                    }
                }
                Change::Namespace(..)
                | Change::Secret(..)
                | Change::BgpPeer(..)
                | Change::PeerPassword(..)
                | Change::Probing(..)
                | Change::PoolStatus(..)
                | Change::BgpPeerStatus(..)
                | Change::Report(..)
                | Change::Gateway(..)
                | Change::Address(..)
                | Change::Member(..)
                | Change::FleetKey(..) => {}
            }
        }
        self.synced |= batch.synced;
    }

    /// Notes a Service; none: it is gone.
    fn apply_service(&mut self, name: &ServiceName, stored: Option<&Arc<StoredService>>) {
        let id = match stored {
            Some(_) => Some(self.services.id_or_new(name)),
            None => self.services.id(name),
        };
        let Some(entry) = id.and_then(|id| self.services.get_mut(id)) else {
            return;
        };
        let old = std::mem::replace(&mut entry.stored, stored.cloned());
        if is_alike(old.as_deref(), stored.map(Arc::as_ref)) {
            return;
        }
        self.reapplied.insert(name.clone());
        mark(&mut self.services, &mut self.dirty, &id);
        let (before, now) = (
            held_addresses(old.as_deref()),
            held_addresses(stored.map(Arc::as_ref)),
        );
        if before != now {
            self.hold(before, now);
        }
        let (before, now) = (
            cluster_ips(old.as_deref()),
            cluster_ips(stored.map(Arc::as_ref)),
        );
        if before != now {
            self.have_cluster_ips(name, before, now);
        }
    }

    /// Notes that a Service has the cluster IPs `now`, in place of those in `before`. The Services that have
    /// one of them as an endpoint are marked: a cluster IP is never dialled.
    fn have_cluster_ips(&mut self, name: &ServiceName, before: &[IpAddr], now: &[IpAddr]) {
        for (addresses, has) in [(before, false), (now, true)] {
            for address in addresses {
                self.cluster.guard.set_cluster_ip(*address, name, has);
                let dialling: Vec<_> = self.by_endpoint.by(*address).collect();
                mark(&mut self.services, &mut self.dirty, &dialling);
            }
        }
    }

    /// Notes that a Service holds the external addresses `now`, in place of those in `before`.
    fn hold(&mut self, before: &[IpAddr], now: &[IpAddr]) {
        let Some(outside) = &mut self.outside else {
            return;
        };
        let guard = &self.cluster.guard;
        for address in before.iter().filter(|address| !guard.is_pool(**address)) {
            if let Some(count) = outside.get_mut(address) {
                *count -= 1;
                if *count == 0 {
                    outside.remove(address);
                    self.all_dirty = true;
                }
            }
        }
        for address in now.iter().filter(|address| !guard.is_pool(**address)) {
            let count = outside.entry(*address).or_default();
            *count += 1;
            self.all_dirty |= *count == 1;
        }
    }

    /// Notes an EndpointSlice (or a v1 Endpoints) of a Service; none: it is gone.
    fn apply_slice(
        &mut self,
        name: &NamespacedName,
        from_endpoints: bool,
        slice: Option<&Arc<EndpointSlice>>,
    ) {
        let owner = slice.and_then(|slice| slice.service.as_ref());
        let owner = owner.map(|owner| self.services.id_or_new(owner));
        // The usual case: the slice is known, and belongs to the same Service as before.
        if let Some(entry) = owner.and_then(|owner| self.services.get_mut(owner))
            && let Ok(at) = entry.slice(from_endpoints, name)
            && let (Some(place), Some(slice)) = (entry.slices.get_mut(at), slice)
        {
            let before = std::mem::replace(place, slice.clone());
            if entry.stored.is_some() && before != *slice {
                mark(&mut self.services, &mut self.dirty, &owner);
            }
            return;
        }
        let key = (from_endpoints, name.clone());
        let before = match owner {
            Some(owner) => self.slice_owners.insert(key, owner),
            None => self.slice_owners.remove(&key),
        };
        if let Some(entry) = before.and_then(|before| self.services.get_mut(before))
            && let Ok(at) = entry.slice(from_endpoints, name)
        {
            entry.slices.remove(at);
            mark(&mut self.services, &mut self.dirty, &before);
        }
        if let Some(entry) = owner.and_then(|owner| self.services.get_mut(owner))
            && let (Err(at), Some(slice)) = (entry.slice(from_endpoints, name), slice)
        {
            entry.slices.reserve_exact(1);
            entry.slices.insert(at, slice.clone());
            if entry.stored.is_some() {
                mark(&mut self.services, &mut self.dirty, &owner);
            }
        }
    }
}

/// Whether two versions of a Service lead to the same route. The status does not count: it changes with every
/// report of a gateway, this one's included.
fn is_alike(a: Option<&StoredService>, b: Option<&StoredService>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => {
            a.held == b.held
                && a.first_seen == b.first_seen
                && (Arc::ptr_eq(&a.service, &b.service) || a.service == b.service)
        }
        (None, None) => true,
        _ => false,
    }
}

fn cluster_ips(stored: Option<&StoredService>) -> &[IpAddr] {
    stored.map_or(&[], |stored| &stored.service.cluster_ips)
}
