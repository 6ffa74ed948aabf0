//! An index from ports and slots to their connections, so that a cut looks at no others.

use std::collections::{BTreeMap, BTreeSet};

/// The owner of a connection: the number of its port, and that of the place where it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionOwner {
    pub(super) port: u32,
    pub(super) place: u32,
}

/// The first connection of each owner. The others are linked behind it (see `slab`).
#[derive(Debug, Default)]
pub(super) struct Owners {
    first: BTreeMap<ConnectionOwner, u32>,
    /// The same owners: place, then port.
    by_place: BTreeSet<(u32, u32)>,
}

impl Owners {
    /// The first connection of an owner.
    pub(super) fn first(&self, owner: ConnectionOwner) -> Option<u32> {
        self.first.get(&owner).copied()
    }

    /// Sets the first connection of an owner; none: the owner has no connection any more.
    pub(super) fn set_first(&mut self, owner: ConnectionOwner, first: Option<u32>) {
        match first {
            Some(first) => {
                if self.first.insert(owner, first).is_none() {
                    self.by_place.insert((owner.place, owner.port));
                }
            }
            None => {
                self.first.remove(&owner);
                self.by_place.remove(&(owner.place, owner.port));
            }
        }
    }

    /// The first connections of all owners of a port.
    pub(super) fn of_port(&self, port: u32) -> Vec<u32> {
        let from = ConnectionOwner { port, place: 0 };
        let to = ConnectionOwner {
            port,
            place: u32::MAX,
        };
        self.first
            .range(from..=to)
            .map(|(_, first)| *first)
            .collect()
    }

    /// The same for a place.
    pub(super) fn of_place(&self, place: u32) -> Vec<u32> {
        let owners = self.by_place.range((place, 0)..=(place, u32::MAX));
        let owners = owners.map(|(place, port)| ConnectionOwner {
            port: *port,
            place: *place,
        });
        owners.filter_map(|owner| self.first(owner)).collect()
    }
}
