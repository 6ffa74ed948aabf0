//! Which connections belong to a port, and to a place: whoever ends those of one looks at no others.

use std::collections::{BTreeMap, BTreeSet};

/// Whose a connection is: numbers of the port that it is for, and of the place where it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionOwner {
    pub(super) port: u32,
    pub(super) place: u32,
}

/// The first connection of each owner. The others follow by their links.
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

    /// That one is an owner's first from now on; none: it has no connection any more.
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

    /// The same of a place.
    pub(super) fn of_place(&self, place: u32) -> Vec<u32> {
        let owners = self.by_place.range((place, 0)..=(place, u32::MAX));
        let owners = owners.map(|(place, port)| ConnectionOwner {
            port: *port,
            place: *place,
        });
        owners.filter_map(|owner| self.first(owner)).collect()
    }
}
