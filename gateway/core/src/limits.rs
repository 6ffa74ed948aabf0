//! How much of one port its clients have: connections at a time, and new ones in a second.
//!
//! [`ClientLimits`] counts over all workers. A client is a [`ClientNetwork`]. Its entry has the number of its open
//! connections and a token bucket (`bucket`), and goes when it has neither a connection nor a bucket that is not full.
//!
//! Memory is bounded, and nobody is refused for want of it. Clients with open connections are no more than there are
//! connections, which the process bounds by its file descriptors. Of quiet clients, which are remembered for their
//! buckets alone, a port remembers [`QUIET`] at most, and all ports of a process as many as a [`ClientRoom`] has. One
//! more makes the table forget the one that was seen least recently: that one may be quick again sooner than its rate
//! says, which costs nobody else anything. An entry takes some 70 bytes with its index; a table that never had a client
//! takes a pointer.
//!
//! The shards have a lock each. A worker holds one for the time of a look-up, and where a client is refused for as
//! long as it takes to tell the kernel so.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use fairway_config::port_limits::{ConnectionRate, LimitsInForce};

pub use self::bucket::TokenBucket;
use crate::client_network::ClientNetwork;
use crate::client_room::ClientRoom;
use crate::hash_seed::HashSeed;
use crate::lru::Lru;
use crate::route::Tick;

mod bucket;
pub mod recent;
#[cfg(test)]
mod tests;

/// The most quiet clients that one port remembers.
pub const QUIET: usize = 65_536;

/// The most quiet clients that all ports of a process remember: some 20 MB.
pub const QUIET_ROOM: usize = 1 << 18;

/// The number of shards. Each has a lock of its own.
const SHARDS: usize = 16;

/// See [`ClientLimits::buckets`].
pub const PARTS: usize = SHARDS;

/// A shard with memory for this many times the clients that it has gives memory back.
const SPARSE: usize = 8;

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverLimit {
    /// It has as many connections as it may have.
    Connections,
    /// It makes new ones too fast. It may make the next one in this time.
    Rate(Duration),
}

/// The clients of one port.
#[derive(Debug)]
pub struct ClientLimits {
    seed: HashSeed,
    room: Arc<ClientRoom>,
    shards: OnceLock<Box<[Mutex<LimitShard>; SHARDS]>>,
}

impl ClientLimits {
    /// Without clients. The seed keeps clients from choosing addresses that meet in one bucket of the index.
    pub fn new(seed: u64, room: Arc<ClientRoom>) -> Self {
        Self {
            seed: HashSeed(seed),
            room,
            shards: OnceLock::new(),
        }
    }

    /// A client wants one more connection. Where it gets it, [`Self::leave`] has to follow once. Where it does not,
    /// `refuse` is called, before any other worker can let a connection of this client go; whether it has told somebody
    /// who has to hear when the client may come again.
    ///
    /// # Errors
    /// The limit that it is over.
    pub fn enter(
        &self,
        client: ClientNetwork,
        limits: &LimitsInForce,
        now: Tick,
        refuse: impl FnOnce(OverLimit) -> bool,
    ) -> Result<(), OverLimit> {
        let mut shard = self.shard(client);
        let verdict = shard.enter(client, limits, now, &self.room);
        if let Err(over) = verdict
            && refuse(over)
            && let Some(entry) = shard.entry_mut(client)
        {
            entry.is_told |= over == OverLimit::Connections;
        }
        verdict
    }

    /// A connection of a client has ended. Whether somebody was told that the client has too many, and has to hear that
    /// it may come again.
    pub fn leave(&self, client: ClientNetwork) -> bool {
        self.shard(client).leave(client, &self.room)
    }

    /// Forgets the clients that have no connection and whose buckets are full. To be called from time to time. Holds the
    /// lock of one shard at a time.
    pub fn expire(&self, now: Tick, rate: Option<ConnectionRate>) {
        for shard in self.shards.get().into_iter().flat_map(|it| it.iter()) {
            lock(shard).expire(now, rate, &self.room);
        }
    }

    /// The clients whose buckets are not full, with these: those of one of [`PARTS`] parts. For another process.
    pub fn buckets(&self, part: usize) -> Vec<(ClientNetwork, TokenBucket)> {
        let Some(shard) = self.shards.get().and_then(|shards| shards.get(part)) else {
            return Vec::new();
        };
        let shard = lock(shard);
        let slots = shard.index.values();
        let entries = slots.filter_map(|slot| shard.entries.get(*slot as usize));
        let not_full = entries.filter(|entry| !entry.bucket.is_full());
        let mut found: Vec<_> = not_full.map(|it| (it.client, it.bucket)).collect();
        drop(shard);
        found.sort_by_key(|(_, bucket)| bucket.at);
        found
    }

    /// Goes on with a client's bucket that another process had, whose clock was this one's, too. Where there is no room
    /// for one more client, it is forgotten.
    pub fn go_on(&self, client: ClientNetwork, bucket: TokenBucket) {
        self.shard(client).go_on(client, bucket, &self.room);
    }

    /// How many clients are known.
    pub fn len(&self) -> usize {
        let shards = self.shards.get().into_iter().flat_map(|it| it.iter());
        shards.map(|shard| lock(shard).index.len()).sum()
    }

    /// Whether no client is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, client: ClientNetwork) -> MutexGuard<'_, LimitShard> {
        let seed = self.seed;
        let shards = self
            .shards
            .get_or_init(|| Box::new(std::array::from_fn(|_| Mutex::new(LimitShard::new(seed)))));
        // The top bits choose the shard. The map inside takes the top seven for its tags, so it has another seed.
        let hash = HashSeed(!self.seed.0).hash_one(client);
        lock(&shards[(hash >> 60) as usize % SHARDS])
    }
}

impl Drop for ClientLimits {
    fn drop(&mut self) {
        let shards = self.shards.get().into_iter().flat_map(|it| it.iter());
        let quiet: usize = shards.map(|shard| lock(shard).quiet.len()).sum();
        self.room.give(quiet);
    }
}

fn lock(shard: &Mutex<LimitShard>) -> MutexGuard<'_, LimitShard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is known of one client.
#[derive(Clone, Copy, Debug)]
struct LimitEntry {
    client: ClientNetwork,
    /// Its connections.
    open: u32,
    bucket: TokenBucket,
    /// Somebody was told that it has too many connections.
    is_told: bool,
}

#[derive(Debug)]
struct LimitShard {
    index: HashMap<ClientNetwork, u32, HashSeed>,
    entries: Vec<LimitEntry>,
    /// Places in `entries` that are free.
    free: Vec<u32>,
    /// The clients without a connection, by when they were seen last.
    quiet: Lru,
}

impl LimitShard {
    fn new(seed: HashSeed) -> Self {
        Self {
            index: HashMap::with_hasher(seed),
            entries: Vec::new(),
            free: Vec::new(),
            quiet: Lru::new(),
        }
    }

    fn entry_mut(&mut self, client: ClientNetwork) -> Option<&mut LimitEntry> {
        let slot = *self.index.get(&client)?;
        self.entries.get_mut(slot as usize)
    }

    fn enter(
        &mut self,
        client: ClientNetwork,
        limits: &LimitsInForce,
        now: Tick,
        room: &ClientRoom,
    ) -> Result<(), OverLimit> {
        let Some(slot) = self.index.get(&client).copied() else {
            // A client that nothing is known of is over no limit: each is at least one.
            let mut bucket = TokenBucket::full(now);
            if let Some(rate) = limits.rate {
                let _ = bucket.take(rate, now);
            }
            self.append(LimitEntry {
                client,
                open: 1,
                bucket,
                is_told: false,
            });
            return Ok(());
        };
        let entry = &mut self.entries[slot as usize];
        if limits
            .per_client
            .is_some_and(|most| entry.open >= most.get())
        {
            return Err(OverLimit::Connections);
        }
        let is_quiet = entry.open == 0;
        if let Some(rate) = limits.rate
            && let Err(wait) = entry.bucket.take(rate, now)
        {
            if is_quiet {
                self.quiet.touch(slot);
            }
            return Err(OverLimit::Rate(wait));
        }
        entry.open += 1;
        if is_quiet {
            self.quiet.remove(slot);
            room.give(1);
        }
        Ok(())
    }

    fn leave(&mut self, client: ClientNetwork, room: &ClientRoom) -> bool {
        let Some(slot) = self.index.get(&client).copied() else {
            return false;
        };
        // The shards of a table have about the same number of clients.
        let held = self.quiet.len() * SHARDS;
        let entry = &mut self.entries[slot as usize];
        entry.open = entry.open.saturating_sub(1);
        let was_told = std::mem::take(&mut entry.is_told);
        if entry.open > 0 {
            return was_told;
        }
        if entry.bucket.is_full() {
            self.forget(slot);
            return was_told;
        }
        if held >= QUIET || !room.take(held) {
            let Some(oldest) = self.quiet.oldest() else {
                self.forget(slot);
                return was_told;
            };
            self.quiet.remove(oldest);
            self.forget(oldest);
        }
        self.quiet.push(slot);
        was_told
    }

    fn go_on(&mut self, client: ClientNetwork, bucket: TokenBucket, room: &ClientRoom) {
        if let Some(entry) = self.entry_mut(client) {
            entry.bucket = bucket;
            return;
        }
        let held = self.quiet.len() * SHARDS;
        if held >= QUIET || !room.take(held) {
            return;
        }
        self.append(LimitEntry {
            client,
            open: 0,
            bucket,
            is_told: false,
        });
        if let Some(slot) = self.index.get(&client) {
            self.quiet.push(*slot);
        }
    }

    fn append(&mut self, entry: LimitEntry) {
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
        self.index.insert(entry.client, slot);
    }

    /// Forgets a client that is not in the list of quiet ones.
    fn forget(&mut self, slot: u32) {
        self.index.remove(&self.entries[slot as usize].client);
        self.free.push(slot);
    }

    fn expire(&mut self, now: Tick, rate: Option<ConnectionRate>, room: &ClientRoom) {
        while let Some(oldest) = self.quiet.oldest() {
            let bucket = &self.entries[oldest as usize].bucket;
            if rate.is_some_and(|rate| !bucket.is_full_for_sure(rate, now)) {
                break;
            }
            self.quiet.remove(oldest);
            self.forget(oldest);
            room.give(1);
        }
        // Not for a small gain: a table that grows again soon would be copied in vain.
        if self.index.len() * SPARSE <= self.index.capacity().max(self.entries.capacity()) {
            self.shrink();
        }
    }

    /// Copies the entries to new memory of the size that they need.
    fn shrink(&mut self) {
        let seed = *self.index.hasher();
        let mut old = std::mem::replace(self, Self::new(seed));
        while let Some(oldest) = old.quiet.oldest() {
            old.quiet.remove(oldest);
            let entry = old.entries[oldest as usize];
            old.index.remove(&entry.client);
            self.append(entry);
            if let Some(slot) = self.index.get(&entry.client) {
                self.quiet.push(*slot);
            }
        }
        for slot in old.index.into_values() {
            self.append(old.entries[slot as usize]);
        }
    }
}
