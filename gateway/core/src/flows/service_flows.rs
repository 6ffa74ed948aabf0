//! The flows of one Service, and which of them goes first when one has to.

use std::collections::HashMap;
use std::net::IpAddr;

use fairway_config::names::ServiceName;
use fairway_config::net::ClientAddr;

use super::entry::{FlowEntry, HashSeed};
use super::numbered::SizeIndex;
use crate::lru::{LruLinks, LruList};

/// Of a Service's flows this part (an eighth) may be without an answer when one has to go.
const UNREPLIED_SHARE: usize = 8;

/// One client may have this part (a quarter) of its Service's flows when one has to go.
const CLIENT_SHARE: usize = 4;

/// A client may have this many flows in any case.
const CLIENT_LEAST: usize = 16;

/// To find a client's idlest flow, this many of its flows are looked at.
const SAMPLE: usize = 16;

/// The flows of one Service.
#[derive(Debug)]
pub(super) struct ServiceFlows {
    pub(super) name: ServiceName,
    /// The number of its namespace.
    pub(super) namespace: u32,
    unreplied: LruList,
    replied: LruList,
    clients: HashMap<ClientNetwork, Vec<u32>, HashSeed>,
    client_sizes: SizeIndex<ClientNetwork>,
}

/// What counts as one client: an IPv4 address, or a /64 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ClientNetwork(u128);

impl ClientNetwork {
    pub(super) fn of(client: ClientAddr) -> Self {
        Self(match client.0.ip().to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
        })
    }
}

impl ServiceFlows {
    /// A Service without flows.
    pub(super) fn new(name: ServiceName, namespace: u32, seed: HashSeed) -> Self {
        Self {
            name,
            namespace,
            unreplied: LruList::new(),
            replied: LruList::new(),
            clients: HashMap::with_hasher(seed),
            client_sizes: SizeIndex::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.unreplied.len() + self.replied.len()
    }

    /// Adds a flow that is not answered yet. Its index in the list of its client.
    pub(super) fn add(&mut self, links: &mut LruLinks, client: ClientAddr, slot: u32) -> u32 {
        self.unreplied.push(links, slot);
        let client = ClientNetwork::of(client);
        let list = self.clients.entry(client).or_default();
        let count = list.len();
        list.push(slot);
        self.client_sizes.change(client, count, count + 1);
        count as u32
    }

    /// A flow was answered for the first time.
    pub(super) fn replied(&mut self, links: &mut LruLinks, slot: u32) {
        self.unreplied.remove(links, slot);
        self.replied.push(links, slot);
    }

    /// A flow was used.
    pub(super) fn touch(&mut self, links: &mut LruLinks, replied: bool, slot: u32) {
        self.list(replied).touch(links, slot);
    }

    /// Removes a flow. The slot of the flow that has its index in its client's list now.
    pub(super) fn remove(
        &mut self,
        links: &mut LruLinks,
        entry: &FlowEntry,
        slot: u32,
    ) -> Option<u32> {
        self.list(entry.replied).remove(links, slot);
        let client = ClientNetwork::of(entry.key.client);
        let list = self.clients.get_mut(&client)?;
        let count = list.len();
        list.swap_remove(entry.in_client as usize);
        let moved = list.get(entry.in_client as usize).copied();
        self.client_sizes.change(client, count, count - 1);
        if count == 1 {
            self.clients.remove(&client);
        }
        moved
    }

    /// Gives the memory of its clients back.
    pub(super) fn shrink(&mut self) {
        self.clients.shrink_to_fit();
    }

    /// The flow that is idle the longest, of those that were answered or of the others.
    pub(super) fn oldest(&self, replied: bool) -> Option<u32> {
        if replied {
            self.replied.oldest()
        } else {
            self.unreplied.oldest()
        }
    }

    /// The slot of the flow that goes first. `turn` is a number that differs from call to call.
    pub(super) fn first(&self, turn: u32, entries: &[FlowEntry]) -> Option<u32> {
        let is_flood = self.unreplied.len() > self.len() / UNREPLIED_SHARE;
        if let Some(slots) = self.greedy_client() {
            let unreplied_alone = |slot: &u32| !is_flood || !entries[*slot as usize].replied;
            let idlest = sample(slots, turn)
                .filter(unreplied_alone)
                .min_by_key(|slot| entries[*slot as usize].seen);
            if idlest.is_some() {
                return idlest;
            }
        }
        let (unreplied, replied) = (self.unreplied.oldest(), self.replied.oldest());
        if is_flood {
            unreplied.or(replied)
        } else {
            replied.or(unreplied)
        }
    }

    fn list(&mut self, replied: bool) -> &mut LruList {
        if replied {
            &mut self.replied
        } else {
            &mut self.unreplied
        }
    }

    /// The flows of a client that has more than it may have when a flow has to go.
    fn greedy_client(&self) -> Option<&[u32]> {
        let (count, client) = self.client_sizes.largest()?;
        let most = (self.len() / CLIENT_SHARE).max(CLIENT_LEAST);
        let slots = (count > most).then(|| self.clients.get(&client))??;
        Some(slots)
    }
}

/// Some flows of one client; each turn looks at others. An exact order per client would cost time with
/// every datagram.
fn sample(slots: &[u32], turn: u32) -> impl Iterator<Item = u32> + '_ {
    let start = turn as usize % slots.len().max(1);
    let (before, after) = slots.split_at(start);
    after.iter().chain(before).take(SAMPLE).copied()
}

#[cfg(test)]
impl ServiceFlows {
    /// Checks that its lists agree with each other and with the table.
    pub(super) fn check(&self, number: u32, entries: &[FlowEntry]) {
        assert_eq!(self.client_sizes.iter().count(), self.clients.len());
        let listed: usize = self.clients.values().map(Vec::len).sum();
        assert_eq!(listed, self.len());
        for (count, client) in self.client_sizes.iter() {
            let slots = &self.clients[&client];
            assert_eq!(slots.len(), count);
            assert!(count > 0, "no client is left behind");
            for (at, slot) in slots.iter().enumerate() {
                let entry = &entries[*slot as usize];
                assert_eq!((entry.in_client as usize, entry.service), (at, number));
                assert_eq!(ClientNetwork::of(entry.key.client), client);
            }
        }
    }
}
