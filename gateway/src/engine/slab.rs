//! Connections by number, in lists by what they wait for, and in lists by whose they are.
//!
//! They live in chunks that never move, so that a thousand more cost a thousand more and never a
//! copy of all. A chunk without a connection gives its memory back, but for [`SPARE`] of them, and the lowest
//! numbers are given out first: so memory follows the connections that there are, and not the most that there
//! ever were. A number that is given back is given out again only after [`Slab::reclaim`]: events
//! that were fetched before are about the connection that had it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::owners::{ConnectionOwner, Owners};

/// Connections in one chunk: as many as a `u64` has bits.
const CHUNK: usize = u64::BITS as usize;

/// Chunks without a connection that keep their memory, at most: some hundred kilobytes, so that a few
/// connections that come and go allocate nothing.
const SPARE: usize = 16;

/// No connection.
const NONE: u32 = u32::MAX;

/// Values by number, each in one list of `LISTS` at most; of lists there are 32 at most. A list is in the order in which its members
/// came, which is that in which their time comes.
pub(super) struct Slab<T, const LISTS: usize> {
    chunks: Vec<Chunk<T>>,
    /// The chunks that have a free number.
    open: BTreeSet<usize>,
    /// Chunks that have memory and no value.
    spare: usize,
    /// Given back, and not yet to be given out again.
    gone: Vec<u32>,
    len: usize,
    lists: [Ends; LISTS],
    /// A bit for each list that has a member.
    filled: u32,
    owners: Owners,
}

/// Numbers that follow each other.
struct Chunk<T> {
    /// None while nothing is there.
    entries: Option<Box<[SlabEntry<T>]>>,
    /// A bit for each number that may be given out.
    free: u64,
}

impl<T> Chunk<T> {
    /// Takes the lowest free number, if there is one.
    fn take(&mut self) -> Option<usize> {
        let at = (self.free != 0).then(|| self.free.trailing_zeros())?;
        self.free &= self.free - 1;
        self.entries
            .get_or_insert_with(|| (0..CHUNK).map(|_| SlabEntry::default()).collect());
        Some(at as usize)
    }
}

struct SlabEntry<T> {
    value: Option<T>,
    /// Whose it is, and the one before and behind it in its owner's list.
    owner: Option<ConnectionOwner>,
    owned_before: u32,
    owned_behind: u32,
    list: Option<u8>,
    previous: u32,
    next: u32,
    since: Option<Instant>,
}

impl<T> Default for SlabEntry<T> {
    fn default() -> Self {
        Self {
            value: None,
            owner: None,
            owned_before: NONE,
            owned_behind: NONE,
            list: None,
            previous: NONE,
            next: NONE,
            since: None,
        }
    }
}

#[derive(Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

impl<T, const LISTS: usize> Slab<T, LISTS> {
    pub(super) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            open: BTreeSet::new(),
            spare: 0,
            gone: Vec::new(),
            len: 0,
            lists: [Ends {
                first: NONE,
                last: NONE,
            }; LISTS],
            filled: 0,
            owners: Owners::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Numbers that have been given out.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> + use<T, LISTS> {
        0..u32::try_from(self.chunks.len() * CHUNK).unwrap_or(NONE)
    }

    /// The numbers of the values that belong to a port.
    pub(super) fn of_port(&mut self, port: u32) -> Vec<u32> {
        let firsts = self.owners.of_port(port);
        self.behind(firsts)
    }

    /// The same of a place.
    pub(super) fn of_place(&mut self, place: u32) -> Vec<u32> {
        let firsts = self.owners.of_place(place);
        self.behind(firsts)
    }

    /// For how many values there is memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        let chunks = self.chunks.iter();
        chunks.filter(|chunk| chunk.entries.is_some()).count() * CHUNK
    }

    pub(super) fn insert(&mut self, value: T, owner: ConnectionOwner) -> u32 {
        let number = self.take();
        if let Some(entry) = self.entry(number) {
            entry.value = Some(value);
            self.len += 1;
            self.own(number, owner);
        }
        number
    }

    /// The lowest free number. (There are never as many file descriptors as a u32 counts.)
    fn take(&mut self) -> u32 {
        let first = self.open.first().copied();
        let number = first.unwrap_or(self.chunks.len());
        if first.is_none() {
            self.open.insert(number);
            self.chunks.push(Chunk {
                entries: None,
                free: u64::MAX,
            });
        }
        let Some(chunk) = self.chunks.get_mut(number) else {
            return NONE;
        };
        let was_spare = chunk.free == u64::MAX && chunk.entries.is_some();
        let at = chunk.take();
        if chunk.free == 0 {
            self.open.remove(&number);
        }
        self.spare -= usize::from(was_spare);
        let number = at.map(|at| number * CHUNK + at);
        number.map_or(NONE, |number| number as u32)
    }

    pub(super) fn get(&mut self, number: u32) -> Option<&mut T> {
        self.entry(number)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        self.delist(number);
        let value = self.entry(number)?.value.take()?;
        self.disown(number);
        self.len -= 1;
        self.gone.push(number);
        Some(value)
    }

    /// Numbers that were given back may be given out again.
    pub(super) fn reclaim(&mut self) {
        for number in self.gone.drain(..) {
            let number = number as usize;
            let Some(chunk) = self.chunks.get_mut(number / CHUNK) else {
                continue;
            };
            if chunk.free == 0 {
                self.open.insert(number / CHUNK);
            }
            chunk.free |= 1 << (number % CHUNK);
            if chunk.free != u64::MAX {
                continue;
            }
            if self.spare < SPARE {
                self.spare += 1;
            } else {
                chunk.entries = None;
            }
        }
        // After many at once: it takes four bytes for each.
        if self.gone.capacity() > SPARE * CHUNK {
            self.gone = Vec::new();
        }
    }

    /// Puts a value at the end of a list, and out of the one that it was in.
    pub(super) fn enlist(&mut self, number: u32, list: u8, now: Instant) {
        self.delist(number);
        let Some(ends) = self.lists.get(usize::from(list)).copied() else {
            return;
        };
        let Some(entry) = self.entry(number) else {
            return;
        };
        entry.list = Some(list);
        entry.since = Some(now);
        entry.previous = ends.last;
        entry.next = NONE;
        match self.entry(ends.last) {
            Some(last) => last.next = number,
            None => self.set_ends(list, |ends| ends.first = number),
        }
        self.set_ends(list, |ends| ends.last = number);
    }

    /// Takes a value out of its list.
    pub(super) fn delist(&mut self, number: u32) {
        let Some(entry) = self.entry(number) else {
            return;
        };
        let Some(list) = entry.list.take() else {
            return;
        };
        let (previous, next) = (entry.previous, entry.next);
        match self.entry(previous) {
            Some(entry) => entry.next = next,
            None => self.set_ends(list, |ends| ends.first = next),
        }
        match self.entry(next) {
            Some(entry) => entry.previous = previous,
            None => self.set_ends(list, |ends| ends.last = previous),
        }
    }

    /// A bit for each list that has a member.
    pub(super) fn filled(&self) -> u32 {
        self.filled
    }

    /// Since when the first of a list is in it.
    pub(super) fn since(&mut self, list: u8) -> Option<Instant> {
        let first = self.lists.get(usize::from(list))?.first;
        self.entry(first)?.since
    }

    /// The first of a list, where it has been there for so long; out of the list.
    pub(super) fn due(&mut self, list: u8, now: Instant, after: Duration) -> Option<u32> {
        let first = self.lists.get(usize::from(list))?.first;
        let since = self.entry(first)?.since?;
        if now.saturating_duration_since(since) < after {
            return None;
        }
        self.delist(first);
        Some(first)
    }

    /// Puts a value into its owner's list: behind the first, so that the first stays what it is.
    fn own(&mut self, number: u32, owner: ConnectionOwner) {
        let first = self.owners.first(owner);
        let second = match first.and_then(|first| self.entry(first)) {
            Some(first) => std::mem::replace(&mut first.owned_behind, number),
            None => {
                self.owners.set_first(owner, Some(number));
                NONE
            }
        };
        if let Some(second) = self.entry(second) {
            second.owned_before = number;
        }
        if let Some(entry) = self.entry(number) {
            entry.owner = Some(owner);
            entry.owned_before = first.unwrap_or(NONE);
            entry.owned_behind = second;
        }
    }

    /// Takes a value out of its owner's list.
    fn disown(&mut self, number: u32) {
        let Some(entry) = self.entry(number) else {
            return;
        };
        let Some(owner) = entry.owner.take() else {
            return;
        };
        let (before, behind) = (entry.owned_before, entry.owned_behind);
        match self.entry(before) {
            Some(entry) => entry.owned_behind = behind,
            None => {
                let first = (behind != NONE).then_some(behind);
                self.owners.set_first(owner, first);
            }
        }
        if let Some(entry) = self.entry(behind) {
            entry.owned_before = before;
        }
    }

    /// These, and all that follow them in their owners' lists.
    fn behind(&mut self, firsts: Vec<u32>) -> Vec<u32> {
        let mut numbers = Vec::new();
        for mut number in firsts {
            while let Some(entry) = self.entry(number) {
                let behind = entry.owned_behind;
                numbers.push(number);
                number = behind;
            }
        }
        numbers
    }

    fn set_ends(&mut self, list: u8, set: impl FnOnce(&mut Ends)) {
        if let Some(ends) = self.lists.get_mut(usize::from(list)) {
            set(ends);
            let bit = 1 << list;
            match ends.first {
                NONE => self.filled &= !bit,
                _ => self.filled |= bit,
            }
        }
    }

    fn entry(&mut self, number: u32) -> Option<&mut SlabEntry<T>> {
        let number = number as usize;
        let chunk = self.chunks.get_mut(number / CHUNK)?;
        chunk.entries.as_mut()?.get_mut(number % CHUNK)
    }
}
