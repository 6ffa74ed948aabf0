//! Who listens where: who gets what several Services want to claim.
//!
//! The controller gives no address and port to two Services, but what one lets go and another
//! takes may arrive in either order. Until both have, the older Service (then the first by name)
//! has the claim, which depends on the two alone and not on who came first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use fairway_config::time::Timestamp;

use super::services::{Id, Services};
use super::wants::{Place, Want};

/// Who has what; what each Service wants is in its [`ServiceEntry`](super::services::ServiceEntry).
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// The Services that have a place: the oldest, then the first by name, of those that want it.
    owners: HashMap<Place, Id>,
    /// Who else wants a place, in that order. Nearly always nobody, so that whoever wants a place
    /// need not be held against its owner.
    waiting: HashMap<Place, Vec<Id>>,
}

/// What a change of claims touches.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// Places of which the claimants changed.
    pub(super) places: Vec<Place>,
    /// Who else wants one of them.
    pub(super) rivals: Vec<Id>,
}

impl Claims {
    /// A Service of that age now wants this. Adds to `moved` what that touches.
    pub(super) fn set(
        &mut self,
        services: &mut Services,
        id: Id,
        age: Timestamp,
        wants: Vec<Want>,
        moved: &mut Moved,
    ) {
        let Some(entry) = services.get_mut(id) else {
            return;
        };
        let same_age = entry.age == age;
        if same_age && *entry.wants == *wants {
            return;
        }
        let before = std::mem::replace(&mut entry.wants, wants.into());
        entry.age = age;
        let services = &*services;
        let now = services.get(id).map_or(&[][..], |entry| &entry.wants);
        let stays = |want: &Want, in_list: &[Want]| {
            same_age
                && in_list
                    .binary_search_by_key(&want.place(), Want::place)
                    .is_ok()
        };
        for want in before.iter().filter(|want| !stays(want, now)) {
            self.let_go(want.place(), id, moved);
        }
        for want in now.iter().filter(|want| !stays(want, &before)) {
            self.take(services, want.place(), id, moved);
        }
    }

    /// Who has what a Service wants.
    pub(super) fn owner_of(&self, want: &Want, id: Id) -> Id {
        let place = want.place();
        if self.waiting.contains_key(&place) {
            self.owner(place).unwrap_or(id)
        } else {
            id
        }
    }

    /// Who has a place.
    pub(super) fn owner(&self, place: Place) -> Option<Id> {
        self.owners.get(&place).copied()
    }

    fn let_go(&mut self, place: Place, id: Id, moved: &mut Moved) {
        moved.places.push(place);
        let Some(waiting) = self.waiting.get_mut(&place) else {
            self.owners.remove(&place);
            return;
        };
        if let Some(owner) = self.owners.get_mut(&place) {
            if *owner == id {
                *owner = waiting.remove(0);
            } else {
                waiting.retain(|other| *other != id);
            }
            moved.rivals.push(*owner);
        }
        moved.rivals.extend(waiting.iter().copied());
        if waiting.is_empty() {
            self.waiting.remove(&place);
        }
    }

    fn take(&mut self, services: &Services, place: Place, id: Id, moved: &mut Moved) {
        moved.places.push(place);
        let owner = match self.owners.entry(place) {
            Entry::Vacant(vacant) => {
                vacant.insert(id);
                return;
            }
            Entry::Occupied(owner) => owner.into_mut(),
        };
        let rank = |id: Id| services.get(id).map(|entry| (entry.age, &entry.name));
        let waiting = self.waiting.entry(place).or_default();
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
