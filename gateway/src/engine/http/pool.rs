//! The connections of a worker to endpoints that carry requests: those that a client's connection uses, and those that
//! wait for another request.
//!
//! Each has a number, which is the token of its events. One that is used belongs to the client's connection; one that
//! waits belongs to the pool, and is closed as soon as anything comes from its endpoint. The last one that was put back
//! is taken first, so those that a quiet hour does not need run out of time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fairway_config::net::EndpointAddr;
use fairway_gateway_core::route::Tick;

use super::io::{self, Peeked};
use crate::connection_use::ConnectionUse;
use crate::engine::owners::ConnectionOwner;
use crate::engine::poll::EventFlags;
use crate::engine::side::Side;
use crate::engine::slab::Slab;
use crate::hops::Hops;

/// What a connection may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    pub(super) port: u32,
    pub(super) endpoint: EndpointAddr,
    pub(super) kind: ConnectionUse,
    hops: u64,
}

impl PoolKey {
    pub(super) fn new(
        port: u32,
        endpoint: EndpointAddr,
        kind: ConnectionUse,
        hops: Option<Hops>,
    ) -> Self {
        Self {
            port,
            endpoint,
            kind,
            hops: hops.map_or(0, Hops::key),
        }
    }
}

/// A connection to an endpoint.
pub(super) struct EndpointConnection {
    pub(super) side: Side,
    /// Its number in the pool.
    pub(super) number: u32,
    pub(super) key: PoolKey,
    /// Since when its endpoint was trusted when it was made.
    pub(super) trusted_since: Tick,
    /// It has carried a request before.
    pub(super) is_reused: bool,
}

/// What the pool knows of a connection.
enum PooledEntry {
    /// It is the connection of this client's connection.
    Used(u32),
    /// It waits for a request.
    Idle(Box<EndpointConnection>),
}

/// The list of those that wait.
const IDLE: u8 = 0;

/// All connections of a worker that carry requests to endpoints.
pub(crate) struct EndpointPool {
    entries: Slab<PooledEntry, 1>,
    idle: HashMap<PoolKey, Vec<u32>>,
    idle_count: usize,
    /// The most that wait.
    most: usize,
}

impl EndpointPool {
    /// A pool where so many connections may wait.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            entries: Slab::new(),
            idle: HashMap::new(),
            idle_count: 0,
            most,
        }
    }

    /// A number for a connection that a client's connection is about to make.
    pub(super) fn reserve(&mut self, port: u32, user: u32) -> u32 {
        let owner = ConnectionOwner { port, place: 0 };
        self.entries.insert(PooledEntry::Used(user), owner)
    }

    /// The connection of that number is closed.
    pub(super) fn release(&mut self, number: u32) {
        drop(self.entries.remove(number));
    }

    /// Whose the connection of that number is. One that waits, and has an event, is closed if need be.
    pub(crate) fn user(&mut self, number: u32, flags: EventFlags) -> Option<u32> {
        match self.entries.get(number)? {
            PooledEntry::Used(user) => Some(*user),
            PooledEntry::Idle(connection) => {
                connection.side.note(flags);
                let side = &mut connection.side;
                // What an event tells of may have been read since: the connection was in use a moment ago.
                let has_come = side.readable && !matches!(io::peek(side), Peeked::Nothing);
                if side.ended || side.failed || has_come {
                    self.close(number);
                }
                None
            }
        }
    }

    /// Takes a connection that may be used so, of who has trusted its endpoint since the same time.
    pub(super) fn take(
        &mut self,
        key: &PoolKey,
        trusted_since: Tick,
        user: u32,
    ) -> Option<Box<EndpointConnection>> {
        loop {
            let number = self.idle.get_mut(key)?.pop()?;
            self.idle_count -= 1;
            self.entries.delist(number);
            let entry = self.entries.get(number)?;
            let PooledEntry::Idle(mut connection) =
                std::mem::replace(entry, PooledEntry::Used(user))
            else {
                return None;
            };
            if connection.trusted_since == trusted_since {
                connection.is_reused = true;
                return Some(connection);
            }
            self.release(number);
        }
    }

    /// Puts a connection back that has nothing to do.
    pub(super) fn give(&mut self, connection: Box<EndpointConnection>, now: Instant) {
        let number = connection.number;
        if self.most == 0 {
            return self.release(number);
        }
        if self.idle_count >= self.most
            && let Some(oldest) = self.entries.due(IDLE, now, Duration::ZERO)
        {
            self.close(oldest);
        }
        let key = connection.key;
        let Some(entry) = self.entries.get(number) else {
            return;
        };
        *entry = PooledEntry::Idle(connection);
        self.entries.enlist(number, IDLE, now);
        self.idle.entry(key).or_default().push(number);
        self.idle_count += 1;
    }

    /// Closes some of those that have waited for so long.
    pub(crate) fn expire(&mut self, now: Instant, after: Duration, most: usize) {
        for _ in 0..most {
            let Some(number) = self.entries.due(IDLE, now, after) else {
                return;
            };
            self.close(number);
        }
    }

    /// Since when the one has waited that has waited the longest.
    pub(crate) fn since(&mut self) -> Option<Instant> {
        self.entries.since(IDLE)
    }

    /// Closes those of a port that wait.
    pub(crate) fn close_of_port(&mut self, port: u32) {
        for number in self.entries.of_port(port) {
            self.close(number);
        }
    }

    /// Closes all that wait.
    pub(crate) fn close_idle(&mut self) {
        for number in self.entries.numbers() {
            self.close(number);
        }
    }

    /// Numbers that were given back may be given out again.
    pub(crate) fn reclaim(&mut self) {
        self.entries.reclaim();
    }

    /// Closes a connection that waits.
    fn close(&mut self, number: u32) {
        let Some(PooledEntry::Idle(connection)) = self.entries.get(number) else {
            return;
        };
        let key = connection.key;
        if let Some(idle) = self.idle.get_mut(&key) {
            // The oldest ones are at the front, and are those that run out of time.
            if let Some(at) = idle.iter().position(|it| *it == number) {
                idle.remove(at);
                self.idle_count -= 1;
            }
            if idle.is_empty() {
                self.idle.remove(&key);
            }
        }
        self.release(number);
    }
}
