//! Who has how many flows, and whose goes first where one has to.
//!
//! It is one of the Service that has the most; of the one that wants another flow, where no other one has
//! more. Of the flows of that Service:
//! - where more than an eighth were never answered, the one of those that is idle the longest: a flood from
//!   invented addresses drives out itself;
//! - else the idlest one of a client that has more than a quarter, if there is such a client: an address
//!   (IPv4) or a /64 (IPv6), which one host may have whole;
//! - else the one that is idle the longest of those that were answered: so new clients have their time to
//!   be answered.
//!
//! A client with more than a quarter also answers for the first rule, if its flows are among those that
//! were not answered.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use fairway_config::names::ServiceName;
use fairway_config::net::ClientAddr;

use super::entry::{FlowEntry, HashSeed};
use crate::lru::{LruLinks, LruList};

/// Of a Service's flows this part (an eighth) may be without an answer when one has to go.
const UNREPLIED_SHARE: usize = 8;

/// One client may have this part (a quarter) of its Service's flows when one has to go.
const CLIENT_SHARE: usize = 4;

/// So many flows a client may have in any case.
const CLIENT_LEAST: usize = 16;

/// How many flows of a client are looked at to find about its idlest one.
const SAMPLE: usize = 16;

/// The flows of each Service and client.
#[derive(Debug)]
pub(super) struct FlowShares {
    seed: HashSeed,
    numbers: HashMap<ServiceName, u32, HashSeed>,
    services: Vec<ServiceFlows>,
    free: Vec<u32>,
    /// How many flows each Service has that has any.
    by_size: BTreeSet<(usize, u32)>,
    links: LruLinks,
}

#[derive(Debug)]
struct ServiceFlows {
    name: ServiceName,
    unreplied: LruList,
    replied: LruList,
    clients: HashMap<ClientNetwork, Vec<u32>, HashSeed>,
    /// How many flows each client has.
    by_size: BTreeSet<(usize, ClientNetwork)>,
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

impl FlowShares {
    pub(super) fn new(seed: HashSeed) -> Self {
        Self {
            seed,
            numbers: HashMap::with_hasher(seed),
            services: Vec::new(),
            free: Vec::new(),
            by_size: BTreeSet::new(),
            links: LruLinks::default(),
        }
    }

    /// One more flow of a Service, which is not answered yet. The Service's number, and where the flow
    /// stands in the list of its client.
    pub(super) fn add(
        &mut self,
        service: &ServiceName,
        client: ClientAddr,
        slot: u32,
    ) -> (u32, u32) {
        let number = self.number(service);
        let flows = &mut self.services[number as usize];
        let count = flows.len();
        self.by_size.remove(&(count, number));
        self.by_size.insert((count + 1, number));
        flows.unreplied.push(&mut self.links, slot);
        (number, flows.add(ClientNetwork::of(client), slot))
    }

    /// A flow was answered for the first time.
    pub(super) fn replied(&mut self, service: u32, slot: u32) {
        let flows = &mut self.services[service as usize];
        flows.unreplied.remove(&mut self.links, slot);
        flows.replied.push(&mut self.links, slot);
    }

    /// A flow was used.
    pub(super) fn touch(&mut self, service: u32, replied: bool, slot: u32) {
        let flows = &mut self.services[service as usize];
        flows.list(replied).touch(&mut self.links, slot);
    }

    /// A flow is gone. The slot of the one that stands in its place in its client's list now.
    pub(super) fn remove(&mut self, entry: &FlowEntry, slot: u32) -> Option<u32> {
        let number = entry.service;
        let flows = &mut self.services[number as usize];
        let count = flows.len();
        flows.list(entry.replied).remove(&mut self.links, slot);
        let moved = flows.remove(ClientNetwork::of(entry.key.client), entry.in_client);
        self.by_size.remove(&(count, number));
        if count > 1 {
            self.by_size.insert((count - 1, number));
        } else {
            flows.clients.shrink_to_fit();
            self.numbers.remove(&flows.name);
            self.free.push(number);
        }
        moved
    }

    /// The slot of the flow that goes for a new one of that Service.
    pub(super) fn first(
        &self,
        service: &ServiceName,
        turn: u32,
        entries: &[FlowEntry],
    ) -> Option<u32> {
        let (most, largest) = *self.by_size.last()?;
        let own = self.numbers.get(service).copied();
        let own = own.filter(|own| self.services[*own as usize].len() >= most);
        let flows = &self.services[own.unwrap_or(largest) as usize];
        flows.first(turn, entries)
    }

    /// The slot of the flow that goes for another one of the same Service.
    pub(super) fn first_of(
        &self,
        service: &ServiceName,
        turn: u32,
        entries: &[FlowEntry],
    ) -> Option<u32> {
        let number = *self.numbers.get(service)?;
        self.services[number as usize].first(turn, entries)
    }

    /// Of each Service the flows that are idle the longest: of those that were answered, and of the
    /// others.
    pub(super) fn oldest(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_size.iter().flat_map(|(_, number)| {
            let flows = &self.services[*number as usize];
            [flows.unreplied.oldest(), flows.replied.oldest()]
                .into_iter()
                .flatten()
        })
    }

    /// Of one Service's flows that were answered, or of the others, the one that is idle the longest.
    pub(super) fn oldest_of(&self, service: u32, replied: bool) -> Option<u32> {
        let flows = &self.services[service as usize];
        if replied {
            flows.replied.oldest()
        } else {
            flows.unreplied.oldest()
        }
    }

    fn number(&mut self, service: &ServiceName) -> u32 {
        if let Some(number) = self.numbers.get(service) {
            return *number;
        }
        let flows = ServiceFlows {
            name: service.clone(),
            unreplied: LruList::new(),
            replied: LruList::new(),
            clients: HashMap::with_hasher(self.seed),
            by_size: BTreeSet::new(),
        };
        let number = match self.free.pop() {
            Some(free) => {
                self.services[free as usize] = flows;
                free
            }
            None => {
                self.services.push(flows);
                (self.services.len() - 1) as u32
            }
        };
        self.numbers.insert(service.clone(), number);
        number
    }
}

impl ServiceFlows {
    fn len(&self) -> usize {
        self.unreplied.len() + self.replied.len()
    }

    fn list(&mut self, replied: bool) -> &mut LruList {
        if replied {
            &mut self.replied
        } else {
            &mut self.unreplied
        }
    }

    fn add(&mut self, client: ClientNetwork, slot: u32) -> u32 {
        let list = self.clients.entry(client).or_default();
        let count = list.len();
        list.push(slot);
        self.by_size.remove(&(count, client));
        self.by_size.insert((count + 1, client));
        count as u32
    }

    fn remove(&mut self, client: ClientNetwork, at: u32) -> Option<u32> {
        let list = self.clients.get_mut(&client)?;
        let count = list.len();
        list.swap_remove(at as usize);
        let moved = list.get(at as usize).copied();
        self.by_size.remove(&(count, client));
        if count > 1 {
            self.by_size.insert((count - 1, client));
        } else {
            self.clients.remove(&client);
        }
        moved
    }

    /// The slot of the flow that goes first.
    fn first(&self, turn: u32, entries: &[FlowEntry]) -> Option<u32> {
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

    /// The flows of a client that has more than it may where one has to go.
    fn greedy_client(&self) -> Option<&[u32]> {
        let (count, client) = self.by_size.last()?;
        let most = (self.len() / CLIENT_SHARE).max(CLIENT_LEAST);
        let slots = (*count > most).then(|| self.clients.get(client))??;
        Some(slots)
    }
}

/// Some flows of one client, which move through its list with each turn. An exact order per client would
/// cost every datagram.
fn sample(slots: &[u32], turn: u32) -> impl Iterator<Item = u32> + '_ {
    let start = turn as usize % slots.len().max(1);
    let (before, after) = slots.split_at(start);
    after.iter().chain(before).take(SAMPLE).copied()
}

#[cfg(test)]
impl FlowShares {
    /// Checks that all lists agree with each other and with the table.
    pub(super) fn check(&self, entries: &[FlowEntry]) {
        assert_eq!(self.by_size.len(), self.numbers.len());
        assert_eq!(self.services.len(), self.numbers.len() + self.free.len());
        for (count, number) in &self.by_size {
            let flows = &self.services[*number as usize];
            assert_eq!(self.numbers.get(&flows.name), Some(number));
            assert_eq!(flows.len(), *count);
            assert!(*count > 0, "no Service is left behind");
            assert_eq!(flows.by_size.len(), flows.clients.len());
            let listed: usize = flows.clients.values().map(Vec::len).sum();
            assert_eq!(listed, *count);
            for (count, client) in &flows.by_size {
                let slots = &flows.clients[client];
                assert_eq!(slots.len(), *count);
                assert!(*count > 0, "no client is left behind");
                for (at, slot) in slots.iter().enumerate() {
                    let entry = &entries[*slot as usize];
                    assert_eq!((entry.in_client as usize, entry.service), (at, *number));
                    assert_eq!(ClientNetwork::of(entry.key.client), *client);
                }
            }
        }
    }
}
