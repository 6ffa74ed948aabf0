//! Lists of the slots of a table by their last use (LRU): the oldest first, every step in constant time.
//!
//! Doubly linked lists by slot number, so that a table that is bounded can tell what to drop without a
//! search. They hold numbers only; the table holds what they stand for.

/// No slot.
const NONE: u32 = u32::MAX;

/// The links of all lists of one table's slots. A slot is in at most one list.
#[derive(Clone, Debug, Default)]
pub(crate) struct LruLinks(Vec<Link>);

#[derive(Clone, Copy, Debug)]
struct Link {
    older: u32,
    newer: u32,
}

/// One list. Every call has to be given the same links.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LruList {
    oldest: u32,
    newest: u32,
    len: usize,
}

impl LruList {
    /// Of no slots.
    pub(crate) fn new() -> Self {
        Self {
            oldest: NONE,
            newest: NONE,
            len: 0,
        }
    }

    /// How many slots are in it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A slot that is in no list becomes the newest of this one.
    pub(crate) fn push(&mut self, links: &mut LruLinks, slot: u32) {
        let links = &mut links.0;
        let index = slot as usize;
        if links.len() <= index {
            let unlinked = Link {
                older: NONE,
                newer: NONE,
            };
            links.resize(index + 1, unlinked);
        }
        links[index] = Link {
            older: self.newest,
            newer: NONE,
        };
        match self.newest {
            NONE => self.oldest = slot,
            newest => links[newest as usize].newer = slot,
        }
        self.newest = slot;
        self.len += 1;
    }

    /// A slot that is in this list leaves it.
    pub(crate) fn remove(&mut self, links: &mut LruLinks, slot: u32) {
        let links = &mut links.0;
        self.len -= 1;
        let Link { older, newer } = links[slot as usize];
        match older {
            NONE => self.oldest = newer,
            older => links[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => links[newer as usize].older = older,
        }
    }

    /// A slot that is in this list becomes its newest.
    pub(crate) fn touch(&mut self, links: &mut LruLinks, slot: u32) {
        if self.newest != slot {
            self.remove(links, slot);
            self.push(links, slot);
        }
    }

    /// The slot that was used least recently.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }
}

/// One list with links of its own.
#[derive(Clone, Debug)]
pub(crate) struct Lru {
    links: LruLinks,
    list: LruList,
}

impl Lru {
    /// Of no slots.
    pub(crate) fn new() -> Self {
        Self {
            links: LruLinks::default(),
            list: LruList::new(),
        }
    }

    /// How many slots are in it.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// A slot that is not in it becomes its newest.
    pub(crate) fn push(&mut self, slot: u32) {
        self.list.push(&mut self.links, slot);
    }

    /// A slot that is in it leaves it.
    pub(crate) fn remove(&mut self, slot: u32) {
        self.list.remove(&mut self.links, slot);
    }

    /// A slot that is in it becomes its newest.
    pub(crate) fn touch(&mut self, slot: u32) {
        self.list.touch(&mut self.links, slot);
    }

    /// The slot that was used least recently.
    pub(crate) fn oldest(&self) -> Option<u32> {
        self.list.oldest()
    }
}
