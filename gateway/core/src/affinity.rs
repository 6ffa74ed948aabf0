//! Which endpoint each client was given: `sessionAffinity: ClientIP`.
//!
//! The [ranking](crate::rank) alone sends a client to the same endpoint as long as the endpoints stay the same.
//! When an endpoint joins that ranks higher for the client, this table keeps the client where it is, for the
//! Service's `timeoutSeconds`, counted from the client's last connection.
//!
//! The table is bounded (LRU): beyond [`CAPACITY`] the client that was seen least recently is forgotten, and goes by
//! the ranking next time. All tables of a process together are bounded, too ([`ClientRoom`]). A table that never had clients takes the memory of a pointer; the memory of clients whose
//! timeout is over is given back by [`Affinity::expire`]. Local to this process.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fairway_config::net::EndpointAddr;
use siphasher::sip::SipHasher13;

use crate::client_room::ClientRoom;
use crate::lru::Lru;
use crate::route::Tick;

/// The most clients that one port of a Service remembers.
pub const CAPACITY: usize = 65_536;

/// The most clients that all ports of a process remember: some 150 MB.
pub const ROOM: usize = 1 << 20;

/// A shard with memory for this many times the clients that it remembers gives memory back.
const SPARSE: usize = 8;

/// The number of shards. Each has a lock of its own, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// See [`Affinity::part`].
pub const PARTS: usize = SHARDS;

/// The affinity table of one port of a Service: from client to endpoint.
#[derive(Debug)]
pub struct Affinity {
    seed: u64,
    room: Arc<ClientRoom>,
    shards: OnceLock<Box<[Mutex<Shard>; SHARDS]>>,
}

impl Affinity {
    /// An empty table. The seed of the hash keeps clients from choosing addresses that fall into one shard.
    pub fn new(seed: u64) -> Self {
        Self::within(seed, Arc::new(ClientRoom::new(ROOM)))
    }

    /// An empty table that shares its room with others.
    pub fn within(seed: u64, room: Arc<ClientRoom>) -> Self {
        Self {
            seed,
            room,
            shards: OnceLock::new(),
        }
    }

    /// The endpoint of `client`, if its last connection is at most `timeout` ago and the endpoint is `usable`. The
    /// client counts as seen now.
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

    /// Notes that `client` got `endpoint` now.
    pub fn put(&self, client: IpAddr, endpoint: EndpointAddr, now: Tick) {
        let key = self.key(client);
        self.shard(key).put(key, endpoint, now, &self.room);
    }

    /// The clients that were seen since then, each with its endpoint and when it was seen last: those of one of
    /// [`PARTS`] parts, the one that was seen least recently first. For another process.
    pub fn part(&self, part: usize, since: Tick) -> Vec<(IpAddr, EndpointAddr, Tick)> {
        let Some(shard) = self.shards.get().and_then(|shards| shards.get(part)) else {
            return Vec::new();
        };
        let shard = lock(shard);
        let slots = shard.index.values();
        let entries = slots.filter_map(|slot| shard.entries.get(*slot as usize));
        let mut found: Vec<_> = entries
            .filter(|entry| entry.seen >= since)
            .map(|entry| (entry.key.client(), entry.endpoint, entry.seen))
            .collect();
        drop(shard);
        found.sort_by_key(|(_, _, seen)| *seen);
        found
    }

    /// Forgets the clients whose timeout is over, and gives back their memory. To be called from time to time. Holds
    /// the lock of one shard at a time, for a fraction of a millisecond.
    pub fn expire(&self, now: Tick, timeout: Duration) {
        for shard in self
            .shards
            .get()
            .into_iter()
            .flat_map(|shards| shards.iter())
        {
            let mut shard = lock(shard);
            let before = shard.index.len();
            shard.expire(now, timeout);
            self.room.give(before - shard.index.len());
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

    /// How many clients are remembered, those included whose timeout is over and which were not forgotten yet.
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
        // The top bits choose the shard: the map inside it uses the low ones.
        lock(&shards[(key.hash >> 60) as usize % SHARDS])
    }
}

impl Drop for Affinity {
    fn drop(&mut self) {
        self.room.give(self.len());
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

impl Key {
    fn client(self) -> IpAddr {
        IpAddr::from(self.address.to_be_bytes()).to_canonical()
    }
}

impl std::hash::Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A hasher that returns the hash that a [`Key`] has already.
#[derive(Clone, Copy, Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        // The map uses the top seven bits, too, of which four are the same in the whole shard. So the hash is
        // rotated.
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
struct AffinityEntry {
    key: Key,
    endpoint: EndpointAddr,
    seen: Tick,
}

#[derive(Debug)]
struct Shard {
    index: HashMap<Key, u32, BuildHasherDefault<Hashed>>,
    entries: Vec<AffinityEntry>,
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
    fn put(&mut self, key: Key, endpoint: EndpointAddr, now: Tick, room: &ClientRoom) {
        let entry = AffinityEntry {
            key,
            endpoint,
            seen: now,
        };
        if let Some(slot) = self.index.get(&key) {
            self.entries[*slot as usize] = entry;
            self.order.touch(*slot);
            return;
        }
        // The shards of a table hold about the same number of clients.
        let held = self.index.len() * SHARDS;
        if held >= CAPACITY || !room.take(held) {
            // All clients have the same timeout, so the one that was seen least recently is also the first to
            // expire.
            let Some(oldest) = self.order.oldest() else {
                return;
            };
            self.forget(oldest);
        }
        self.append(entry);
    }

    /// Remembers a client that is not remembered.
    fn append(&mut self, entry: AffinityEntry) {
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
        // Not for a small gain: a table that grows again soon would be copied in vain.
        if self.index.len() * SPARSE <= self.capacity() {
            self.shrink();
        }
    }

    fn capacity(&self) -> usize {
        self.entries.capacity().max(self.index.capacity())
    }

    /// Copies the entries to new memory of the size that they need.
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
