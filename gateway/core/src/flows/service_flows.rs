//! The flows of one Service, and which of them goes first when one has to.

use std::collections::HashMap;

use fairway_config::names::ServiceName;
use fairway_config::net::ClientAddr;

use super::entry::FlowEntry;
use super::numbered::SizeIndex;
use crate::client_network::ClientNetwork;
use crate::hash_seed::HashSeed;
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
    unreplied: IdleLists,
    replied: IdleLists,
    clients: HashMap<ClientNetwork, Vec<u32>, HashSeed>,
    client_sizes: SizeIndex<ClientNetwork>,
}

/// Flows by how long they may be idle, and of each time by their last use: so in each list the first is the first whose
/// time is over. There are few times: what the annotations of one Service say.
#[derive(Debug, Default)]
struct IdleLists(Vec<(u32, LruList)>);

impl IdleLists {
    fn len(&self) -> usize {
        self.0.iter().map(|(_, list)| list.len()).sum()
    }

    fn oldest(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().filter_map(|(_, list)| list.oldest())
    }

    fn list(&self, idle: u32) -> Option<&LruList> {
        let mut lists = self.0.iter();
        lists.find(|(of, _)| *of == idle).map(|(_, list)| list)
    }

    fn list_mut(&mut self, idle: u32) -> Option<&mut LruList> {
        let mut lists = self.0.iter_mut();
        lists.find(|(of, _)| *of == idle).map(|(_, list)| list)
    }

    fn push(&mut self, links: &mut LruLinks, idle: u32, slot: u32) {
        match self.list_mut(idle) {
            Some(list) => list.push(links, slot),
            None => {
                let mut list = LruList::new();
                list.push(links, slot);
                self.0.push((idle, list));
            }
        }
    }

    fn remove(&mut self, links: &mut LruLinks, idle: u32, slot: u32) {
        if let Some(list) = self.list_mut(idle) {
            list.remove(links, slot);
            // The time may have been one of an annotation that was edited since.
            if list.len() == 0 {
                self.0.retain(|(of, _)| *of != idle);
            }
        }
    }

    fn touch(&mut self, links: &mut LruLinks, idle: u32, slot: u32) {
        if let Some(list) = self.list_mut(idle) {
            list.touch(links, slot);
        }
    }
}

impl ServiceFlows {
    /// A Service without flows.
    pub(super) fn new(name: ServiceName, namespace: u32, seed: HashSeed) -> Self {
        Self {
            name,
            namespace,
            unreplied: IdleLists::default(),
            replied: IdleLists::default(),
            clients: HashMap::with_hasher(seed),
            client_sizes: SizeIndex::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.unreplied.len() + self.replied.len()
    }

    /// Adds a flow that is not answered yet. Its index in the list of its client.
    pub(super) fn add(
        &mut self,
        links: &mut LruLinks,
        client: ClientAddr,
        idle: u32,
        slot: u32,
    ) -> u32 {
        self.unreplied.push(links, idle, slot);
        let client = ClientNetwork::of(client.0.ip());
        let list = self.clients.entry(client).or_default();
        let count = list.len();
        list.push(slot);
        self.client_sizes.change(client, count, count + 1);
        count as u32
    }

    /// A flow was answered for the first time.
    pub(super) fn replied(&mut self, links: &mut LruLinks, idle: u32, slot: u32) {
        self.unreplied.remove(links, idle, slot);
        self.replied.push(links, idle, slot);
    }

    /// A flow was used.
    pub(super) fn touch(&mut self, links: &mut LruLinks, entry: &FlowEntry, slot: u32) {
        self.lists(entry.replied).touch(links, entry.idle, slot);
    }

    /// Removes a flow. The slot of the flow that has its index in its client's list now.
    pub(super) fn remove(
        &mut self,
        links: &mut LruLinks,
        entry: &FlowEntry,
        slot: u32,
    ) -> Option<u32> {
        self.lists(entry.replied).remove(links, entry.idle, slot);
        let client = ClientNetwork::of(entry.key.client.0.ip());
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

    /// The flows that are idle the longest, one of each list.
    pub(super) fn oldest(&self) -> impl Iterator<Item = u32> + '_ {
        self.unreplied.oldest().chain(self.replied.oldest())
    }

    /// The one of the list that this flow is, or was, in.
    pub(super) fn oldest_like(&self, entry: &FlowEntry) -> Option<u32> {
        let lists = match entry.replied {
            true => &self.replied,
            false => &self.unreplied,
        };
        lists.list(entry.idle)?.oldest()
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
        let idlest = |lists: &IdleLists| {
            let oldest = lists.oldest();
            oldest.min_by_key(|slot| entries[*slot as usize].seen)
        };
        let (unreplied, replied) = (idlest(&self.unreplied), idlest(&self.replied));
        if is_flood {
            unreplied.or(replied)
        } else {
            replied.or(unreplied)
        }
    }

    fn lists(&mut self, replied: bool) -> &mut IdleLists {
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
pub(super) fn sample(slots: &[u32], turn: u32) -> impl Iterator<Item = u32> + '_ {
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
                assert_eq!(ClientNetwork::of(entry.key.client.0.ip()), client);
            }
        }
    }
}
