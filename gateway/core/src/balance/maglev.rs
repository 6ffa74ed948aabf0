//! Maglev hashing: a table from a client's hash to an endpoint (Eisenbud et al., *Maglev: a fast and reliable software
//! network load balancer*, NSDI 2016, section 3.4).
//!
//! Every endpoint has an order of its own over the slots of the table. They take turns, and each takes the first slot
//! of its order that is free. So each has as many slots as the others (or as its weight says), give or take one, and
//! most slots stay with their endpoint when another one comes or goes. A choice is one hash and one look, however
//! many endpoints there are.
//!
//! Gateways that know the same endpoints have the same table, also those of different versions and machines. So all
//! of it is fixed here, and tests hold it to golden values:
//! - a table has [`SLOTS`] slots;
//! - `hash(key, bytes)` is SipHash-2-4. An endpoint's bytes are its address (16 bytes, IPv4 as IPv4-mapped) and its
//!   port (2 bytes, big endian); a client's are its address (likewise);
//! - an endpoint's order is `offset`, `offset + skip`, `offset + 2 * skip`, …, modulo the slots, with
//!   `offset = hash(OFFSET, endpoint) mod SLOTS` and `skip = hash(SKIP, endpoint) mod (SLOTS - 1) + 1`;
//! - the next turn is that of the endpoint with the least `slots that it has / weight`, and of several the one with
//!   the lower address. With equal weights that is the paper's order: all in a row, again and again;
//! - a client's slot is `h mod SLOTS` with `h = hash(CLIENT, client)`, and where that endpoint is not to be had, the
//!   next one is `h / SLOTS mod (SLOTS - 1) + 1` slots behind it, and so on. (The slot right behind would not do: two
//!   orders meet in a pattern, so half of an endpoint's clients would go to one other.)

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::hash::Hasher;
use std::net::IpAddr;

use fairway_config::net::EndpointAddr;
use siphasher::sip::SipHasher24;

use crate::octets::octets;

/// The slots of every table, a prime number. A share is off by one slot at most, so with 164 endpoints of equal
/// weight each share is within 1 % of the others' (the paper wants 100 slots for an endpoint, too); with 1,000 within
/// 6 %. It is Cilium's default. The next size that others use, 65,537, has four times the memory and the time to
/// compute for each port and each change: this one takes 32 KiB. What is beyond the first 16,381 endpoints of a port
/// has no slot and gets nothing.
pub const SLOTS: usize = 16_381;

/// Never to be changed, as [`SLOTS`]: with others every client would have another endpoint, and gateways of different
/// versions would choose differently.
const OFFSET: (u64, u64) = (0x6661_6972_7761_7921, 0x6f66_6673_6574_0000);
const SKIP: (u64, u64) = (0x6661_6972_7761_7921, 0x736b_6970_0000_0000);
const CLIENT: (u64, u64) = (0x6661_6972_7761_7921, 0x636c_6965_6e74_0000);

/// A table for a list of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaglevTable {
    /// The index of each slot's endpoint in the list; empty where there is no endpoint.
    slots: Box<[u16]>,
}

impl MaglevTable {
    /// The table of these endpoints, which are ordered by address, with their weights.
    pub fn of(endpoints: impl IntoIterator<Item = (EndpointAddr, u16)>) -> Self {
        let takers: Vec<_> = (0..)
            .zip(endpoints)
            .take(SLOTS)
            .map(|(at, (addr, weight))| Taker::new(at, addr, weight))
            .collect();
        if takers.is_empty() {
            return Self {
                slots: Box::default(),
            };
        }
        let mut taken: Vec<Option<u16>> = vec![None; SLOTS];
        let mut takers = BinaryHeap::from(takers);
        for _ in 0..SLOTS {
            let Some(mut taker) = takers.peek_mut() else {
                break;
            };
            // It finds its new place in the heap when the loop lets go of it.
            taker.take_first_free(&mut taken);
        }
        Self {
            slots: taken.into_iter().map(Option::unwrap_or_default).collect(),
        }
    }

    /// The index of the client's endpoint; none where there is no endpoint.
    pub fn of_client(&self, client: IpAddr) -> Option<usize> {
        self.indices(client).next()
    }

    /// The index of the client's endpoint, and then those of the client's other slots: where the endpoint is not to be
    /// had, its clients go to all others alike, and on every gateway to the same ones. An index comes as often as it
    /// has slots.
    pub fn indices(&self, client: IpAddr) -> impl Iterator<Item = usize> {
        let mut hasher = SipHasher24::new_with_keys(CLIENT.0, CLIENT.1);
        hasher.write(&octets(client));
        let (hash, slots) = (hasher.finish(), SLOTS as u64);
        let (mut slot, step) = (hash % slots, hash / slots % (slots - 1) + 1);
        (0..self.slots.len()).map_while(move |_| {
            let at = self.slots.get(slot as usize)?;
            slot = (slot + step) % slots;
            Some(usize::from(*at))
        })
    }

    /// The index of each slot's endpoint.
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// An endpoint while slots are taken.
#[derive(Debug, PartialEq, Eq)]
struct Taker {
    /// Its index in the list.
    at: u16,
    weight: u16,
    /// How many slots it has.
    has: u32,
    /// The slot that it looks at next.
    next: usize,
    skip: usize,
}

impl Taker {
    fn new(at: u16, addr: EndpointAddr, weight: u16) -> Self {
        let hash = |key: (u64, u64)| {
            let mut hasher = SipHasher24::new_with_keys(key.0, key.1);
            hasher.write(&octets(addr.0.ip()));
            hasher.write(&addr.0.port().to_be_bytes());
            hasher.finish()
        };
        Self {
            at,
            weight: weight.max(1),
            has: 0,
            next: (hash(OFFSET) % SLOTS as u64) as usize,
            skip: (hash(SKIP) % (SLOTS as u64 - 1)) as usize + 1,
        }
    }

    /// Takes the first free slot of its order. There is one: the number of slots is a prime, so the order has all of
    /// them.
    fn take_first_free(&mut self, slots: &mut [Option<u16>]) {
        self.has += 1;
        for _ in 0..SLOTS {
            let slot = self.next;
            self.next = (slot + self.skip) % SLOTS;
            if let Some(free) = slots.get_mut(slot).filter(|slot| slot.is_none()) {
                *free = Some(self.at);
                return;
            }
        }
    }
}

impl Ord for Taker {
    /// The greatest one has the next turn: it has the fewest slots for its weight.
    fn cmp(&self, other: &Self) -> Ordering {
        let mine = u64::from(self.has) * u64::from(other.weight);
        let theirs = u64::from(other.has) * u64::from(self.weight);
        theirs.cmp(&mine).then_with(|| other.at.cmp(&self.at))
    }
}

impl PartialOrd for Taker {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests;
