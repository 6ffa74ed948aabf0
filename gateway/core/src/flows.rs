//! The UDP flow table, sans-I/O: which flows there are, and for how long.
//!
//! A flow is a client's socket and the address it sends to. It lives for [`Limits::unreplied`]
//! after its last datagram until its endpoint answers, then for [`Limits::replied`] after the last
//! one either way: the two timeouts of Linux' conntrack (`nf_conntrack_udp_timeout`, 30 s, and
//! `nf_conntrack_udp_timeout_stream`, 120 s; Documentation/networking/nf_conntrack-sysctl.rst). A flow of a port with an
//! idle time of its own lives for that in place of [`Limits::replied`], and no longer before it is answered either.
//!
//! The table is bounded. When it is full, a flow is evicted for each new one: a flow of the namespace that
//! has the most, and there of the Service that has the most (`shares`). So a namespace never loses a flow to
//! another one while it has no more than its fair share, the bound divided by the number of namespaces that
//! have flows, and a Service none to another Service of its namespace while it has no more than its fair
//! share of that: max-min fairness by longest queue drop (Suter et al., «Design considerations for
//! supporting TCP with per-flow queueing», 1998). As long as there is room, nobody is bounded.
//!
//! Every operation takes constant time, or the logarithm of the number of namespaces, Services and clients
//! where a flow comes or goes. [`FlowTable::expire`] looks at two flows of each Service and at those that
//! go.

use std::collections::HashMap;
use std::time::Duration;

use fairway_config::names::ServiceName;

use self::entry::FlowEntry;
pub use self::entry::{FlowId, FlowKey};
use self::shares::FlowShares;
use crate::hash_seed::HashSeed;
use crate::route::Tick;

mod entry;
mod numbered;
mod service_flows;
mod shares;

/// Bounds and timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most flows there may be; at least 1.
    pub flows: usize,
    /// How long a flow lives after its last datagram while its endpoint has not answered.
    pub unreplied: Duration,
    /// How long a flow lives after its last datagram once its endpoint has answered.
    pub replied: Duration,
}

/// The flows of one worker.
#[derive(Debug)]
pub struct FlowTable {
    limits: Limits,
    serial: u32,
    entries: Vec<FlowEntry>,
    free: Vec<u32>,
    by_key: HashMap<FlowKey, u32, HashSeed>,
    shares: FlowShares,
}

impl FlowTable {
    /// An empty table. The seed keeps clients from choosing addresses that meet in one bucket.
    pub fn new(seed: u64, limits: Limits) -> Self {
        let seed = HashSeed(seed);
        Self {
            limits,
            serial: 0,
            entries: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::with_hasher(seed),
            shares: FlowShares::new(seed),
        }
    }

    /// From now on there may be that many flows. No flow is evicted by this.
    pub fn set_limit(&mut self, flows: usize) {
        self.limits.flows = flows;
    }

    /// A datagram came from a client. Finds its flow, which lives on from now. A flow whose time is over is
    /// not found, whether [`Self::expire`] has been called since or not.
    pub fn received(&mut self, key: FlowKey, now: Tick) -> Option<FlowId> {
        let slot = *self.by_key.get(&key)?;
        if self.entries[slot as usize].deadline(&self.limits) < now {
            return None;
        }
        self.touch(slot, now);
        Some(self.entries[slot as usize].id)
    }

    /// Opens a flow of a Service, which may be idle so long if that is said. Its id, and the id of the flow that was
    /// evicted for it. A flow of the same key is replaced.
    pub fn open(
        &mut self,
        key: FlowKey,
        service: &ServiceName,
        idle: Option<Duration>,
        now: Tick,
    ) -> (FlowId, Option<FlowId>) {
        let gone = self.make_room(&key, service);
        let gone = gone.map(|slot| self.drop_entry(slot));
        let slot = self.free.pop().unwrap_or(self.entries.len() as u32);
        let id = FlowId::new(self.serial, slot);
        self.serial = self.serial.wrapping_add(1);
        let idle = idle.map_or(0, |idle| {
            u32::try_from(idle.as_millis()).unwrap_or(u32::MAX).max(1)
        });
        let (service, in_client) = self.shares.add(service, key.client, idle, slot);
        let entry = FlowEntry {
            key,
            id,
            seen: now,
            replied: false,
            idle,
            service,
            in_client,
        };
        match self.entries.get_mut(slot as usize) {
            Some(free) => *free = entry,
            None => self.entries.push(entry),
        }
        self.by_key.insert(key, slot);
        (id, gone)
    }

    /// The endpoint answered on a flow, which lives on from now. Where the answer belongs; nothing if the
    /// flow is gone.
    pub fn replied(&mut self, id: FlowId, now: Tick) -> Option<FlowKey> {
        let slot = self.slot(id)?;
        let entry = &mut self.entries[slot as usize];
        if !entry.replied {
            entry.replied = true;
            self.shares.replied(entry.service, entry.idle, slot);
        }
        self.touch(slot, now);
        Some(self.entries[slot as usize].key)
    }

    /// Ends a flow; whether there was one.
    pub fn close(&mut self, id: FlowId) -> bool {
        let slot = self.slot(id);
        slot.map(|slot| self.drop_entry(slot)).is_some()
    }

    /// Evicts a flow of a Service for another flow of the same Service, which has its share of something
    /// outside the table. Where the Service has none, a flow of its namespace goes.
    pub fn evict_of(&mut self, service: &ServiceName) -> Option<FlowId> {
        let slot = self.shares.first_of(service, self.serial, &self.entries)?;
        Some(self.drop_entry(slot))
    }

    /// Evicts a flow for one of that Service, as [`Self::open`] does in a full table: for what nobody has a
    /// share of, such as the ports of the host.
    pub fn evict_for(&mut self, service: &ServiceName) -> Option<FlowId> {
        let slot = self.shares.first(service, self.serial, &self.entries)?;
        Some(self.drop_entry(slot))
    }

    /// Evicts one of these flows, by their slots: one that was never answered if there is one among those that are looked
    /// at, and of those the idlest. For a port that has as many as it may have.
    pub fn evict_among(&mut self, slots: &[u32]) -> Option<FlowId> {
        let slots = service_flows::sample(slots, self.serial);
        let is_there = |slot: &u32| {
            let entry = self.entries.get(*slot as usize);
            entry.is_some_and(|entry| entry.id != FlowId::NONE)
        };
        let first = slots.filter(is_there).min_by_key(|slot| {
            let entry = &self.entries[*slot as usize];
            (entry.replied, entry.seen)
        });
        Some(self.drop_entry(first?))
    }

    /// Ends the flows whose time is over, and returns their ids.
    pub fn expire(&mut self, now: Tick) -> Vec<FlowId> {
        let is_over = |slot: &u32| self.entries[*slot as usize].deadline(&self.limits) < now;
        let mut gone = Vec::new();
        // The oldest flows of each Service, then those that follow.
        let over: Vec<u32> = self.shares.oldest().filter(is_over).collect();
        for first in over {
            let like = self.entries[first as usize];
            let mut next = Some(first);
            while let Some(slot) = next
                && self.entries[slot as usize].deadline(&self.limits) < now
            {
                gone.push(self.drop_entry(slot));
                next = self.shares.oldest_like(&like);
            }
        }
        gone
    }

    /// Whether there is a flow of that key, be its time over or not.
    pub fn knows(&self, key: FlowKey) -> bool {
        self.by_key.contains_key(&key)
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether the endpoint of a flow has answered.
    pub fn has_replied(&self, id: FlowId) -> bool {
        let slot = self.slot(id);
        slot.is_some_and(|slot| self.entries[slot as usize].replied)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The slot of a flow that is there.
    fn slot(&self, id: FlowId) -> Option<u32> {
        let entry = self.entries.get(id.slot() as usize)?;
        (entry.id == id).then_some(id.slot())
    }

    /// The flow that has to go before one of that key can come.
    fn make_room(&self, key: &FlowKey, service: &ServiceName) -> Option<u32> {
        if let Some(same) = self.by_key.get(key) {
            return Some(*same);
        }
        if self.len() < self.limits.flows.max(1) {
            return None;
        }
        self.shares.first(service, self.serial, &self.entries)
    }

    fn touch(&mut self, slot: u32, now: Tick) {
        let entry = &mut self.entries[slot as usize];
        entry.seen = entry.seen.max(now);
        self.shares.touch(entry, slot);
    }

    fn drop_entry(&mut self, slot: u32) -> FlowId {
        let entry = self.entries[slot as usize];
        self.by_key.remove(&entry.key);
        self.entries[slot as usize].id = FlowId::NONE;
        if let Some(moved) = self.shares.remove(&entry, slot) {
            self.entries[moved as usize].in_client = entry.in_client;
        }
        self.free.push(slot);
        entry.id
    }
}

impl FlowEntry {
    /// The last moment at which it lives.
    fn deadline(&self, limits: &Limits) -> Tick {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let timeout = match (self.replied, u64::from(self.idle)) {
            (true, 0) => millis(limits.replied),
            (false, 0) => millis(limits.unreplied),
            (true, idle) => idle,
            (false, idle) => idle.min(millis(limits.unreplied)),
        };
        Tick(self.seen.0.saturating_add(timeout))
    }
}

#[cfg(test)]
mod tests;
