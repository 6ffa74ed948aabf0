//! Clients over a limit that the kernel refuses by itself for a moment.
//!
//! A worker that refuses a client of a steered connection tells the kernel so. For a second at most, or until the client
//! may make its next connection, the program refuses what comes from it before it is accepted, and counts it. Then one
//! more is accepted, and judged by the worker anew. Where a connection of the client ends, the kernel hears that at
//! once.
//!
//! The program looks for blocks only at listen addresses that have an owner: the port that has blocked somebody there
//! last. All others pay nothing.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use fairway_config::net::ListenAddr;
use fairway_gateway_core::client_network::ClientNetwork;
use fairway_gateway_core::route::Tick;

use super::Steering;
use crate::counters::Rejection;
use crate::kernel_blocks::KernelBlocks;
use crate::port::Port;
use crate::slot::Slot;

/// The blocked clients, and the listen addresses at which the program looks for them.
#[derive(Debug)]
pub(crate) struct ClientBlocks {
    steering: Arc<Steering>,
    places: Mutex<BTreeMap<ListenAddr, OwnedPlace>>,
}

/// A listen address with an owner.
#[derive(Debug)]
struct OwnedPlace {
    slot: Arc<Slot>,
    port: Weak<Port>,
    /// How many refused connections were collected: those for their number, and those for their rate.
    collected: [u64; 2],
}

/// What they are counted as.
const REASONS: [Rejection; 2] = [Rejection::ConnectionsPerClient, Rejection::ConnectionRate];

/// The number by which the program knows a port: 0 is nobody.
fn owner(port: u32) -> u32 {
    port.wrapping_add(1).max(1)
}

impl KernelBlocks for ClientBlocks {
    fn unblock(&self, port: u32, client: ClientNetwork) {
        self.steering.unblock(owner(port), client);
    }
}

impl ClientBlocks {
    /// Nobody is blocked yet.
    pub(super) fn new(steering: Arc<Steering>) -> Self {
        Self {
            steering,
            places: Mutex::default(),
        }
    }

    /// The kernel refuses a client of a port by itself for that long, where connections of this slot are steered.
    /// Whether it does.
    pub(crate) fn block(
        &self,
        slot: &Arc<Slot>,
        port: &Arc<Port>,
        client: ClientNetwork,
        why: Rejection,
        time: Duration,
    ) -> bool {
        let owner = owner(port.number);
        if slot.owner.load(Ordering::Relaxed) != owner && !self.own(slot, port) {
            return false;
        }
        let is_rate = why == Rejection::ConnectionRate;
        self.steering.block(owner, client, time, is_rate)
    }

    /// Has the program look for blocked clients of a port at a slot.
    fn own(&self, slot: &Arc<Slot>, port: &Arc<Port>) -> bool {
        let mut places = self.lock();
        if let Some(mut before) = places.remove(&slot.listen) {
            before.collect(self.steering.blocked(slot.listen), None);
        }
        let owner = owner(port.number);
        if !self.steering.set_owner(slot.listen, owner) {
            return false;
        }
        slot.owner.store(owner, Ordering::Relaxed);
        let place = OwnedPlace {
            slot: slot.clone(),
            port: Arc::downgrade(port),
            collected: [0; 2],
        };
        places.insert(slot.listen, place);
        true
    }

    /// Nobody's clients are refused at a listen address any more, for now.
    pub(crate) fn disown(&self, listen: ListenAddr) {
        let mut places = self.lock();
        if let Some(mut place) = places.remove(&listen) {
            place.collect(self.steering.blocked(listen), None);
            self.steering.set_owner(listen, 0);
            place.slot.owner.store(0, Ordering::Relaxed);
        }
    }

    /// Adds the connections of blocked clients to the counters of each port. One short system call for each place
    /// where somebody was blocked.
    pub(super) fn collect(&self, now: Tick) {
        let mut places = self.lock();
        places.retain(|listen, place| {
            place.collect(self.steering.blocked(*listen), Some(now));
            place.port.strong_count() > 0
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ListenAddr, OwnedPlace>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnedPlace {
    /// The kernel has refused so many connections so far. Without a time they count, and not as of the last minute.
    fn collect(&mut self, counts: [u64; 2], now: Option<Tick>) {
        let Some(port) = self.port.upgrade() else {
            return;
        };
        for ((why, count), collected) in REASONS.into_iter().zip(counts).zip(&mut self.collected) {
            let new = count.saturating_sub(*collected);
            *collected = count;
            match now {
                Some(now) => port.refuse_many(why, new, now),
                None if new > 0 => port.counters.reject_many(why, new),
                None => {}
            }
        }
    }
}
