//! Which endpoint each client was given: `sessionAffinity: ClientIP`.
//!
//! The [ranking](crate::rank) alone would keep a client where it is as long as endpoints stay what
//! they are. The table on top of it keeps a client when an endpoint joins that would rank higher,
//! for as long as the Service's `timeoutSeconds`, counted from the client's last connection.
//!
//! Bounded: past [`CAPACITY`] the client that was seen least recently is forgotten, which costs it
//! no more than a fresh look at the ranking. A table that never had clients takes a pointer; one whose
//! clients' time is over gives their memory back when it [expires](Affinity::expire).

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fairway_config::net::EndpointAddr;
use siphasher::sip::SipHasher13;

use crate::lru::Lru;
use crate::route::Tick;

/// Clients that one port of a Service remembers at most.
pub const CAPACITY: usize = 65_536;

/// A part that has memory for this many times the clients that it remembers gives it back.
const SPARSE: usize = 8;

/// The table is in parts with a lock each, so that workers seldom meet.
const SHARDS: usize = 16;

/// From client to endpoint, for one port of a Service.
#[derive(Debug)]
pub struct Affinity {
    seed: u64,
    shards: OnceLock<Box<[Mutex<Shard>; SHARDS]>>,
}

impl Affinity {
    /// An empty table. The seed keeps clients from choosing addresses that meet in one shard.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            shards: OnceLock::new(),
        }
    }

    /// The endpoint that `client` was given, if that is no longer ago than `timeout` and `usable`
    /// says yes to it. It counts as seen now.
    pub fn get(
        &self,
        client: IpAddr,
        now: Tick,
        timeout: Duration,
        usable: impl FnOnce(EndpointAddr) -> bool,
    ) -> Option<EndpointAddr> {
        self.shards.get()?;
        let key = self.key(client);
        let mut shard = self.shard(key);
        let slot = *shard.index.get(&key)?;
        let entry = shard.entries.get_mut(slot as usize)?;
        let idle = now.0.saturating_sub(entry.seen.0);
        if u128::from(idle) > timeout.as_millis() || !usable(entry.endpoint) {
            return None;
        }
        // Workers read the clock before they get here, so `now` may lie before what another wrote.
        entry.seen = entry.seen.max(now);
        let endpoint = entry.endpoint;
        shard.order.touch(slot);
        Some(endpoint)
    }

    /// `client` was given `endpoint` now.
    pub fn put(&self, client: IpAddr, endpoint: EndpointAddr, now: Tick) {
        let key = self.key(client);
        self.shard(key).put(key, endpoint, now);
    }

    /// Forgets the clients whose time is over, and gives back the memory that they took. To be called now and
    /// then. Each lock is held for a part of the table, a fraction of a millisecond.
    pub fn expire(&self, now: Tick, timeout: Duration) {
        for shard in self
            .shards
            .get()
            .into_iter()
            .flat_map(|shards| shards.iter())
        {
            lock(shard).expire(now, timeout);
        }
    }

    /// How many clients there is memory for.
    pub fn capacity(&self) -> usize {
        let shards = self
            .shards
            .get()
            .into_iter()
            .flat_map(|shards| shards.iter());
        shards.map(|shard| lock(shard).capacity()).sum()
    }

    /// How many clients are remembered, those among them whose time is over but whose place was
    /// not needed yet.
    pub fn len(&self) -> usize {
        let shards = self
            .shards
            .get()
            .map(|shards| shards.iter())
            .into_iter()
            .flatten();
        shards.map(|shard| lock(shard).index.len()).sum()
    }

    /// Whether no client is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn key(&self, client: IpAddr) -> Key {
        let address = match client {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        let mut hasher = SipHasher13::new_with_keys(self.seed, !self.seed);
        hasher.write(&address.to_le_bytes());
        Key {
            hash: hasher.finish(),
            address,
        }
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        let shards = self.shards.get_or_init(Box::default);
        // The top bits: the map inside the shard goes by the low ones.
        lock(&shards[(key.hash >> 60) as usize % SHARDS])
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A client's address and its hash, computed once for shard and map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    hash: u64,
    address: u128,
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// Hands on the hash that a [`Key`] brings along.
#[derive(Clone, Copy, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        // The map takes its tags from the top seven bits, four of which are the same for the whole
        // shard: turned, so that they are not.
        self.0.rotate_left(32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    key: Key,
    endpoint: EndpointAddr,
    seen: Tick,
}

#[derive(Debug)]
struct Shard {
    index: HashMap<Key, u32, BuildHasherDefault<Hashed>>,
    entries: Vec<Remembered>,
    /// Places in `entries` that are free.
    free: Vec<u32>,
    order: Lru,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            index: HashMap::default(),
            entries: Vec::new(),
            free: Vec::new(),
            order: Lru::new(),
        }
    }
}

impl Shard {
    fn put(&mut self, key: Key, endpoint: EndpointAddr, now: Tick) {
        let entry = Remembered {
            key,
            endpoint,
            seen: now,
        };
        if let Some(slot) = self.index.get(&key) {
            self.entries[*slot as usize] = entry;
            self.order.touch(*slot);
            return;
        }
        // One timeout for the whole table makes the oldest the first to expire, too: whether it
        // has or not, it is the one to go.
        if self.index.len() >= CAPACITY / SHARDS
            && let Some(oldest) = self.order.oldest()
        {
            self.forget(oldest);
        }
        self.append(entry);
    }

    /// Remembers a client that is not remembered.
    fn append(&mut self, entry: Remembered) {
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.index.insert(entry.key, slot);
        self.order.push(slot);
    }

    /// Forgets a client that is remembered.
    fn forget(&mut self, slot: u32) {
        self.order.remove(slot);
        self.index.remove(&self.entries[slot as usize].key);
        self.free.push(slot);
    }

    fn expire(&mut self, now: Tick, timeout: Duration) {
        while let Some(oldest) = self.order.oldest() {
            let idle = now.0.saturating_sub(self.entries[oldest as usize].seen.0);
            if u128::from(idle) <= timeout.as_millis() {
                break;
            }
            self.forget(oldest);
        }
        // One that grows again soon would be copied for nothing.
        if self.index.len() * SPARSE <= self.capacity() {
            self.shrink();
        }
    }

    fn capacity(&self) -> usize {
        self.entries.capacity().max(self.index.capacity())
    }

    /// Copies what there is to where it takes no more memory than it needs.
    fn shrink(&mut self) {
        let mut old = std::mem::take(self);
        while let Some(oldest) = old.order.oldest() {
            old.order.remove(oldest);
            self.append(old.entries[oldest as usize]);
        }
    }
}

#[cfg(test)]
mod tests;
