//! Things that have a name and, while they are there, a small number.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::ops::{Index, IndexMut};

use crate::hash_seed::HashSeed;

/// Values by name, each with a number that no other one has while it is there. A number that was given back
/// is given out again, so the numbers stay small.
#[derive(Debug)]
pub(super) struct NumberedMap<K, V> {
    numbers: HashMap<K, u32, HashSeed>,
    values: Vec<V>,
    free: Vec<u32>,
}

impl<K: Clone + Eq + Hash, V> NumberedMap<K, V> {
    pub(super) fn new(seed: HashSeed) -> Self {
        Self {
            numbers: HashMap::with_hasher(seed),
            values: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The number of a name that is there.
    pub(super) fn number(&self, name: &K) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// Adds a name that is not there. Its number.
    pub(super) fn insert(&mut self, name: &K, value: V) -> u32 {
        let number = match self.free.pop() {
            Some(free) => {
                self.values[free as usize] = value;
                free
            }
            None => {
                self.values.push(value);
                (self.values.len() - 1) as u32
            }
        };
        self.numbers.insert(name.clone(), number);
        number
    }

    /// Removes a name. Its value stays in its place until the number is given out again.
    pub(super) fn remove(&mut self, name: &K) {
        if let Some(number) = self.numbers.remove(name) {
            self.free.push(number);
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.values.len(), self.numbers.len() + self.free.len());
        self.numbers.len()
    }
}

impl<K, V> Index<u32> for NumberedMap<K, V> {
    type Output = V;

    fn index(&self, number: u32) -> &V {
        &self.values[number as usize]
    }
}

impl<K, V> IndexMut<u32> for NumberedMap<K, V> {
    fn index_mut(&mut self, number: u32) -> &mut V {
        &mut self.values[number as usize]
    }
}

/// How many flows each of several has. Those that have none are not in it.
#[derive(Debug)]
pub(super) struct SizeIndex<K>(BTreeSet<(usize, K)>);

impl<K: Copy + Ord> SizeIndex<K> {
    pub(super) fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// One has `after` flows now and had `before`.
    pub(super) fn change(&mut self, key: K, before: usize, after: usize) {
        self.0.remove(&(before, key));
        if after > 0 {
            self.0.insert((after, key));
        }
    }

    /// The one that has the most, and how many that is.
    pub(super) fn largest(&self) -> Option<(usize, K)> {
        self.0.last().copied()
    }

    /// All of them with their sizes, the smallest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, K)> + '_ {
        self.0.iter().copied()
    }
}
