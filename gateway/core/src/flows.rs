//! The UDP flow table, sans-I/O: which flows there are, and for how long.
//!
//! A flow is a client's socket and the address it sends to. It lives for [`Limits::unreplied`]
//! after its last datagram until its endpoint answers, then for [`Limits::replied`] after the last
//! one either way: the two timeouts of Linux' conntrack (`nf_conntrack_udp_timeout`, 30 s, and
//! `nf_conntrack_udp_timeout_stream`, 120 s; Documentation/networking/nf_conntrack-sysctl.rst).
//!
//! The table is bounded. When it is full, the flow that is idle the longest goes: of those that were
//! never answered where they are more than an eighth, so that a flood from invented addresses drives out
//! itself, and of those that were answered where they are fewer, so that new clients have their time to
//! be answered. One client address has a bound of its own, so that it can't drive out others.
//!
//! Every operation takes constant time, [`FlowTable::expire`] for each flow that goes.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::time::Duration;

use fairway_config::net::{ClientAddr, ListenAddr};
use siphasher::sip::SipHasher13;

use crate::recency::Recency;
use crate::route::Tick;

/// A full table has room for this part of it (an eighth) of flows that were not answered yet.
const UNREPLIED_SHARE: usize = 8;

/// What tells flows apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// Who sends.
    pub client: ClientAddr,
    /// Where to.
    pub listen: ListenAddr,
}

/// Names a flow, and no other one of the same table among the four thousand million that come next.
/// Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(u64);

impl FlowId {
    /// No flow has it.
    const NONE: Self = Self(u64::MAX);

    fn new(serial: u32, slot: u32) -> Self {
        Self((u64::from(serial) << 32) | u64::from(slot))
    }

    /// A number below [`Limits::flows`], that of no other flow as long as there is this one.
    pub fn slot(self) -> u32 {
        // The lower half.
        self.0 as u32
    }
}

/// Bounds and timeouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows at most; at least 1.
    pub flows: usize,
    /// Flows of one client address at most; at least 1.
    pub per_client: usize,
    /// How long a flow may be idle that its endpoint has not answered.
    pub unreplied: Duration,
    /// How long a flow may be idle that its endpoint has answered.
    pub replied: Duration,
}

impl Default for Limits {
    /// 65,536 flows, 8,192 of one client (which may be a NAT), conntrack's timeouts.
    fn default() -> Self {
        Self {
            flows: 65_536,
            per_client: 8_192,
            unreplied: Duration::from_secs(30),
            replied: Duration::from_secs(120),
        }
    }
}

/// The flows of one worker.
#[derive(Debug)]
pub struct FlowTable {
    limits: Limits,
    serial: u32,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_key: HashMap<FlowKey, u32, Seed>,
    by_client: HashMap<IpAddr, Vec<u32>, Seed>,
    unreplied: Recency,
    replied: Recency,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: FlowKey,
    id: FlowId,
    seen: Tick,
    replied: bool,
    /// Where it stands in the list of its client.
    in_client: u32,
}

impl FlowTable {
    /// An empty table. The seed keeps clients from choosing addresses that meet in one bucket.
    pub fn new(seed: u64, limits: Limits) -> Self {
        let seed = Seed(seed);
        Self {
            limits,
            serial: 0,
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::with_hasher(seed),
            by_client: HashMap::with_hasher(seed),
            unreplied: Recency::new(),
            replied: Recency::new(),
        }
    }

    /// A datagram came from a client: its flow, if it has one, which this keeps alive. A flow whose
    /// time is over is none, whether [`Self::expire`] has been called since or not.
    pub fn received(&mut self, key: FlowKey, now: Tick) -> Option<FlowId> {
        let slot = *self.by_key.get(&key)?;
        if self.slots[slot as usize].deadline(&self.limits) < now {
            return None;
        }
        self.touch(slot, now);
        Some(self.slots[slot as usize].id)
    }

    /// A new flow, and the flow that had to go for it. A flow of the same key is
    /// replaced.
    pub fn open(&mut self, key: FlowKey, now: Tick) -> (FlowId, Option<FlowId>) {
        let gone = self.make_room(&key).map(|slot| self.drop_slot(slot));
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        let id = FlowId::new(self.serial, slot);
        self.serial = self.serial.wrapping_add(1);
        let of_client = self.by_client.entry(key.client.0.ip()).or_default();
        let entry = Slot {
            key,
            id,
            seen: now,
            replied: false,
            in_client: of_client.len() as u32,
        };
        of_client.push(slot);
        match self.slots.get_mut(slot as usize) {
            Some(free) => *free = entry,
            None => self.slots.push(entry),
        }
        self.by_key.insert(key, slot);
        self.unreplied.push(slot);
        (id, gone)
    }

    /// The endpoint answered on a flow, which keeps it alive: where the answer belongs; nothing if
    /// the flow is gone.
    pub fn replied(&mut self, id: FlowId, now: Tick) -> Option<FlowKey> {
        let slot = self.slot(id)?;
        let entry = &mut self.slots[slot as usize];
        if !entry.replied {
            entry.replied = true;
            self.unreplied.remove(slot);
            self.replied.push(slot);
        }
        self.touch(slot, now);
        Some(self.slots[slot as usize].key)
    }

    /// Ends a flow; whether there was one.
    pub fn close(&mut self, id: FlowId) -> bool {
        let slot = self.slot(id);
        slot.map(|slot| self.drop_slot(slot)).is_some()
    }

    /// Ends the flows whose time is over. Their ids.
    pub fn expire(&mut self, now: Tick) -> Vec<FlowId> {
        let mut gone = Vec::new();
        while let Some(slot) = self.expired(now) {
            gone.push(self.drop_slot(slot));
        }
        gone
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The slot of a flow that is there.
    fn slot(&self, id: FlowId) -> Option<u32> {
        let entry = self.slots.get(id.slot() as usize)?;
        (entry.id == id).then_some(id.slot())
    }

    fn expired(&self, now: Tick) -> Option<u32> {
        let oldest = [self.unreplied.oldest(), self.replied.oldest()];
        let mut slots = oldest.into_iter().flatten();
        slots.find(|slot| self.slots[*slot as usize].deadline(&self.limits) < now)
    }

    /// The flow that has to go before one of that key can come.
    fn make_room(&self, key: &FlowKey) -> Option<u32> {
        if let Some(same) = self.by_key.get(key) {
            return Some(*same);
        }
        let of_client = self.by_client.get(&key.client.0.ip()).map(Vec::as_slice);
        let of_client = of_client.unwrap_or_default();
        if of_client.len() >= self.limits.per_client.max(1) {
            return self.idlest(of_client);
        }
        if self.len() < self.limits.flows.max(1) {
            return None;
        }
        let (unreplied, replied) = (self.unreplied.oldest(), self.replied.oldest());
        if self.unreplied.len() > self.limits.flows / UNREPLIED_SHARE {
            unreplied.or(replied)
        } else {
            replied.or(unreplied)
        }
    }

    /// About the idlest flow of one client: the idlest of 16 that move through the list with each new
    /// flow. An exact order per client would cost every datagram.
    fn idlest(&self, of_client: &[u32]) -> Option<u32> {
        let start = self.serial as usize % of_client.len().max(1);
        let sample = of_client
            .iter()
            .cycle()
            .skip(start)
            .take(of_client.len().min(16));
        let slots = sample.map(|slot| (&self.slots[*slot as usize], *slot));
        slots
            .min_by_key(|(entry, _)| entry.seen)
            .map(|(_, slot)| slot)
    }

    fn touch(&mut self, slot: u32, now: Tick) {
        let entry = &mut self.slots[slot as usize];
        entry.seen = entry.seen.max(now);
        if entry.replied {
            self.replied.touch(slot);
        } else {
            self.unreplied.touch(slot);
        }
    }

    fn drop_slot(&mut self, slot: u32) -> FlowId {
        let Slot {
            key,
            id,
            replied,
            in_client,
            ..
        } = self.slots[slot as usize];
        if replied {
            self.replied.remove(slot);
        } else {
            self.unreplied.remove(slot);
        }
        self.by_key.remove(&key);
        self.slots[slot as usize].id = FlowId::NONE;
        let moved = take_out(&mut self.by_client, key.client.0.ip(), in_client);
        if let Some(moved) = moved {
            self.slots[moved as usize].in_client = in_client;
        }
        self.free.push(slot);
        id
    }
}

impl Slot {
    /// The last moment at which it lives.
    fn deadline(&self, limits: &Limits) -> Tick {
        let timeout = if self.replied {
            limits.replied
        } else {
            limits.unreplied
        };
        let timeout = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        Tick(self.seen.0.saturating_add(timeout))
    }
}

/// Takes the entry at `at` out of a list; the slot that has moved there in its place.
fn take_out<K: Hash + Eq>(lists: &mut HashMap<K, Vec<u32>, Seed>, key: K, at: u32) -> Option<u32> {
    let list = lists.get_mut(&key)?;
    list.swap_remove(at as usize);
    let moved = list.get(at as usize).copied();
    if list.is_empty() {
        lists.remove(&key);
    }
    moved
}

/// Builds hashers of one seed.
#[derive(Clone, Copy, Debug)]
struct Seed(u64);

impl BuildHasher for Seed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, !self.0)
    }
}

#[cfg(test)]
mod tests;
