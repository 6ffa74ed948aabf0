//! An order of use over the slots of a table: oldest first, every step in constant time.
//!
//! A doubly linked list by slot number, so that a table that is bounded can tell what to drop
//! without a search. It holds numbers only; the table holds what they stand for.

/// No slot.
const NONE: u32 = u32::MAX;

/// The order in which slots were last used.
#[derive(Clone, Debug)]
pub(crate) struct Recency {
    links: Vec<Link>,
    oldest: u32,
    newest: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
}

impl Recency {
    /// Of no slots.
    pub(crate) fn new() -> Self {
        Self {
            links: Vec::new(),
            oldest: NONE,
            newest: NONE,
            len: 0,
        }
    }

    /// How many slots are in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A slot that is not in the order becomes its newest.
    pub(crate) fn push(&mut self, slot: u32) {
        let index = slot as usize;
        if self.links.len() <= index {
            self.links.resize(
                index + 1,
                Link {
                    older: NONE,
                    newer: NONE,
                },
            );
        }
        self.links[index] = Link {
            older: self.newest,
            newer: NONE,
        };
        match self.newest {
            NONE => self.oldest = slot,
            newest => self.links[newest as usize].newer = slot,
        }
        self.newest = slot;
        self.len += 1;
    }

    /// A slot that is in the order leaves it.
    pub(crate) fn remove(&mut self, slot: u32) {
        self.len -= 1;
        let Link { older, newer } = self.links[slot as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.links[newer as usize].older = older,
        }
    }

    /// A slot that is in the order becomes its newest.
    pub(crate) fn touch(&mut self, slot: u32) {
        if self.newest != slot {
            self.remove(slot);
            self.push(slot);
        }
    }

    /// The slot that was used least recently.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}
