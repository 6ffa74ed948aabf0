//! Which Service gets a listen address that several request.
//!
//! The controller gives no address and port to two Services. But where one passes from a Service to
//! another, the two changes may arrive in either order. Until both are here, the older Service has the claim,
//! or of two of one age the first by name: that does not depend on the order.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use fairway_config::time::Timestamp;

use super::claim_requests::{ClaimKey, ClaimRequest};
use super::services::{Id, ServiceIndex};

/// The owner of each claim. What each Service requests is in its
/// [`ServiceEntry`](super::services::ServiceEntry).
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The Service that has a key: of those that request it the oldest, then the first by name.
    owners: HashMap<ClaimKey, Id>,
    /// The other Services that request a key, in that order. Nearly always there is none, so this map is small
    /// and a request needs no comparison with the owner.
    waiting: HashMap<ClaimKey, Vec<Id>>,
}

/// What changes of claims concern.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Keys that another set of Services requests now.
    pub(super) keys: Vec<ClaimKey>,
    /// The other Services that request one of them.
    pub(super) rivals: Vec<Id>,
}

impl Claims {
    /// Sets what a Service requests, and its creation time. Adds to `moved` what that concerns.
    pub(super) fn set(
        &mut self,
        services: &mut ServiceIndex,
        id: Id,
        age: Timestamp,
        requests: Vec<ClaimRequest>,
        moved: &mut Moved,
    ) {
        let Some(entry) = services.get_mut(id) else {
            return;
        };
        let same_age = entry.age == age;
        if same_age && *entry.requests == *requests {
            return;
        }
        let before = std::mem::replace(&mut entry.requests, requests.into());
        entry.age = age;
        let services = &*services;
        let now = services.get(id).map_or(&[][..], |entry| &entry.requests);
        let stays = |request: &ClaimRequest, in_list: &[ClaimRequest]| {
            same_age
                && in_list
                    .binary_search_by_key(&request.key(), ClaimRequest::key)
                    .is_ok()
        };
        for request in before.iter().filter(|request| !stays(request, now)) {
            self.let_go(request.key(), id, moved);
        }
        for request in now.iter().filter(|request| !stays(request, &before)) {
            self.take(services, request.key(), id, moved);
        }
    }

    /// The owner of what a Service requests.
    pub(super) fn owner_of(&self, request: &ClaimRequest, id: Id) -> Id {
        let key = request.key();
        if self.waiting.contains_key(&key) {
            self.owner(key).unwrap_or(id)
        } else {
            id
        }
    }

    /// The owner of a key.
    pub(super) fn owner(&self, key: ClaimKey) -> Option<Id> {
        self.owners.get(&key).copied()
    }

    fn let_go(&mut self, key: ClaimKey, id: Id, moved: &mut Moved) {
        moved.keys.push(key);
        let Some(waiting) = self.waiting.get_mut(&key) else {
            self.owners.remove(&key);
            return;
        };
        if let Some(owner) = self.owners.get_mut(&key) {
            if *owner == id {
                *owner = waiting.remove(0);
            } else {
                waiting.retain(|other| *other != id);
            }
            moved.rivals.push(*owner);
        }
        moved.rivals.extend(waiting.iter().copied());
        if waiting.is_empty() {
            self.waiting.remove(&key);
        }
    }

    fn take(&mut self, services: &ServiceIndex, key: ClaimKey, id: Id, moved: &mut Moved) {
        moved.keys.push(key);
        let owner = match self.owners.entry(key) {
            Entry::Vacant(vacant) => {
                vacant.insert(id);
                return;
            }
            Entry::Occupied(owner) => owner.into_mut(),
        };
        let rank = |id: Id| services.get(id).map(|entry| (entry.age, &entry.name));
        let waiting = self.waiting.entry(key).or_default();
        moved.rivals.push(*owner);
        moved.rivals.extend(waiting.iter().copied());
        let mut last = id;
        if rank(last) < rank(*owner) {
            std::mem::swap(&mut last, owner);
        }
        let at = waiting.partition_point(|other| rank(*other) < rank(last));
        waiting.insert(at, last);
    }
}
