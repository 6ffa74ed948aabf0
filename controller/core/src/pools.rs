//! AddressPools in the order in which they are tried, with what is free in each.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{Condition, ConditionMap, PoolCount, PoolStatus};
use fairway_config::names::ClusterName;
use fairway_config::net::{AddressRange, IpFamily, from_bits, to_bits};
use fairway_config::pool::AddressPool;
use fairway_config::time::Timestamp;

use crate::addresses::FreeAddresses;
use fairway_config::conditions::{OVERLAPS, READY};

/// How many nodes a message names at most.
const NODES_NAMED: usize = 3;

/// A pool and what is free in it.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) config: Arc<AddressPool>,
    v4: FreeAddresses,
    v6: FreeAddresses,
    /// Distinct addresses that a namespace holds, each with its number of Services; kept only for
    /// a pool with a quota.
    by_namespace: HashMap<Arc<str>, BTreeMap<IpAddr, u32>>,
    used: [u128; 2],
    /// Addresses of nodes, which are given to no Service.
    nodes: BTreeMap<IpAddr, ClusterName>,
    /// Addresses that another host uses, with its hardware address: they are given to nobody who does not ask for
    /// them.
    aside: BTreeMap<IpAddr, Box<str>>,
    /// Addresses that gateways are asked for.
    probing: BTreeMap<IpAddr, u64>,
    /// Ranges shared with other pools.
    overlaps: BTreeMap<ClusterName, Vec<AddressRange>>,
    /// Used and available by family, as its status says; none: the status has to be made again.
    told: Option<[[u128; 2]; 2]>,
}

/// All pools, by [`Precedence`](fairway_config::pool::Precedence).
#[derive(Debug, Default)]
pub(crate) struct Pools {
    pools: Vec<Pool>,
}

impl Pool {
    fn new(config: Arc<AddressPool>) -> Self {
        Self {
            v4: FreeAddresses::of(&config.blocks, IpFamily::IPv4),
            v6: FreeAddresses::of(&config.blocks, IpFamily::IPv6),
            config,
            by_namespace: HashMap::new(),
            used: [0, 0],
            nodes: BTreeMap::new(),
            aside: BTreeMap::new(),
            probing: BTreeMap::new(),
            overlaps: BTreeMap::new(),
            told: None,
        }
    }

    pub(crate) fn name(&self) -> &ClusterName {
        &self.config.name
    }

    pub(crate) fn free(&self, family: IpFamily) -> &FreeAddresses {
        match family {
            IpFamily::IPv4 => &self.v4,
            IpFamily::IPv6 => &self.v6,
        }
    }

    fn free_mut(&mut self, family: IpFamily) -> &mut FreeAddresses {
        match family {
            IpFamily::IPv4 => &mut self.v4,
            IpFamily::IPv6 => &mut self.v6,
        }
    }

    /// Whether `address` is in the pool, with the ends that `avoidEnds` leaves out.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.free(IpFamily::of(address)).covers(to_bits(address))
    }

    /// Notes that its status has to be made again.
    pub(crate) fn touch(&mut self) {
        self.told = None;
    }

    /// The lowest address that is free.
    pub(crate) fn lowest(&mut self, family: IpFamily) -> Option<IpAddr> {
        self.free_mut(family)
            .lowest()
            .map(|bits| from_bits(family, bits))
    }

    /// Whether the quota of `namespace` is used up, with the `planned` addresses that it is about
    /// to take.
    pub(crate) fn quota_spent(&self, namespace: &str, planned: &[IpAddr]) -> bool {
        let Some(quota) = self.config.quota_per_namespace else {
            return false;
        };
        let held = self.by_namespace.get(namespace);
        let planned = planned
            .iter()
            .filter(|a| self.contains(**a) && held.is_none_or(|held| !held.contains_key(*a)))
            .count();
        held.map_or(0, BTreeMap::len) + planned >= quota as usize
    }

    /// Whether `namespace` holds `address` already, so that another Service on it uses up no quota.
    pub(crate) fn held_by_namespace(&self, namespace: &str, address: IpAddr) -> bool {
        self.by_namespace
            .get(namespace)
            .is_some_and(|held| held.contains_key(&address))
    }

    /// Total, used and available of each family that the pool has addresses of.
    pub(crate) fn counts(&self) -> BTreeMap<IpFamily, PoolCount> {
        IpFamily::ALL
            .into_iter()
            .filter(|&family| !self.free(family).is_empty())
            .map(|family| {
                let free = self.free(family);
                let count = PoolCount {
                    total: free.total(),
                    used: self.used[family as usize],
                    available: free.available(),
                };
                (family, count)
            })
            .collect()
    }

    /// Its status. Conditions that do not change keep their transition time from `before`.
    pub(crate) fn status(&self, before: Option<&PoolStatus>, now: Timestamp) -> PoolStatus {
        let mut conditions = ConditionMap::default();
        let mut put = |kind: &'static str, status: bool, reason: &str, message: String| {
            let kind: Arc<str> = Arc::from(kind);
            let since = before
                .and_then(|b| b.conditions.get(&kind))
                .filter(|c| c.status == status)
                .map_or(now, |c| c.since);
            conditions.insert(
                kind,
                Condition {
                    status,
                    reason: Arc::from(reason),
                    message,
                    since,
                },
            );
        };
        match self.config.notices.first() {
            _ if !self.config.problems.is_empty() => {
                let all = self.config.problems.iter().map(ToString::to_string);
                let message = format!(
                    "Nothing is given out of it: {}. Who has an address of it keeps it.",
                    all.collect::<Vec<_>>().join("; ")
                );
                put(READY, false, "NotUsable", message);
            }
            None => {
                let sentences = ["Addresses can be given out.".to_owned()];
                let sentences = sentences.into_iter().chain(self.left_out());
                let sentences = sentences.chain(self.used_by_others());
                put(
                    READY,
                    true,
                    "Ready",
                    sentences.collect::<Vec<_>>().join(" "),
                );
            }
            Some(first) => {
                let messages = self.config.notices.iter().map(|n| n.message.clone());
                let messages = messages.chain(self.left_out());
                let messages: Vec<_> = messages.chain(self.used_by_others()).collect();
                put(READY, false, &first.reason, messages.join("; "));
            }
        }
        if !self.overlaps.is_empty() {
            let shared: Vec<String> = self
                .overlaps
                .iter()
                .map(|(pool, ranges)| {
                    let ranges: Vec<_> = ranges.iter().map(ToString::to_string).collect();
                    format!("with pool '{pool}' in {}", ranges.join(", "))
                })
                .collect();
            let message = format!(
                "Overlaps {}. An address in both is given out once; it belongs to the pool with the lower priority number, then to the first by name.",
                shared.join("; ")
            );
            put(OVERLAPS, true, "PoolsOverlap", message);
        }
        PoolStatus {
            conditions,
            counts: self.counts(),
            probing: self.probing.clone(),
        }
    }
}

impl Pool {
    /// The sentence about addresses in the pool that other hosts use.
    fn used_by_others(&self) -> Option<String> {
        let named = self.aside.iter().take(NODES_NAMED);
        let named: Vec<String> = named
            .map(|(address, hardware)| format!("{address} ({hardware})"))
            .collect();
        let more = match self.aside.len().saturating_sub(NODES_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let subject = match self.aside.len() {
            0 => return None,
            1 => "1 address is left out for a while, because another host uses it".to_owned(),
            count => {
                format!("{count} addresses are left out for a while, because other hosts use them")
            }
        };
        Some(format!("{subject}: {}{more}.", named.join(", ")))
    }

    /// The sentence about addresses in the pool that are nodes'.
    fn left_out(&self) -> Option<String> {
        let named = self.nodes.iter().take(NODES_NAMED);
        let named: Vec<String> = named
            .map(|(address, node)| format!("{address} ({node})"))
            .collect();
        let more = match self.nodes.len().saturating_sub(NODES_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (subject, object) = match self.nodes.len() {
            0 => return None,
            1 => ("1 address is".to_owned(), "it is a node's"),
            count => (format!("{count} addresses are"), "they are nodes'"),
        };
        Some(format!(
            "{subject} left out, because {object}: {}{more}.",
            named.join(", ")
        ))
    }
}

impl Pools {
    /// Pools with every address free.
    pub(crate) fn new<'a>(configs: impl Iterator<Item = &'a Arc<AddressPool>>) -> Self {
        let mut pools: Vec<Pool> = configs
            .map(|config| Pool::new(Arc::clone(config)))
            .collect();
        pools.sort_by_cached_key(|pool| pool.config.precedence());
        for i in 0..pools.len() {
            let overlaps = pools
                .iter()
                .enumerate()
                .filter(|&(j, _)| j != i)
                .filter_map(|(_, other)| {
                    let ranges = pools[i].config.overlaps(&other.config);
                    (!ranges.is_empty()).then(|| (other.name().clone(), ranges))
                })
                .collect();
            pools[i].overlaps = overlaps;
        }
        Self { pools }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.pools.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pool> {
        self.pools.iter_mut()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| &**pool.name() == name)
    }

    /// The pools that `address` lies in, in order.
    pub(crate) fn containing(&self, address: IpAddr) -> impl Iterator<Item = &Pool> {
        self.pools.iter().filter(move |pool| pool.contains(address))
    }

    /// Whether gateways announce an address on layer 2.
    pub(crate) fn is_announced(&self, address: IpAddr) -> bool {
        let pool = self.containing(address).next();
        pool.is_some_and(|pool| pool.config.announce.layer2.is_some())
    }

    /// Notes that `address` belongs to a node, or to none. `held`: a Service holds it. True: it is
    /// in a pool.
    pub(crate) fn put_node(
        &mut self,
        address: IpAddr,
        node: Option<&ClusterName>,
        held: bool,
    ) -> bool {
        let family = IpFamily::of(address);
        let mut concerns = false;
        for pool in self.pools.iter_mut().filter(|p| p.contains(address)) {
            concerns = true;
            match node {
                Some(node) => {
                    pool.nodes.insert(address, node.clone());
                    pool.free_mut(family).reserve(to_bits(address), held);
                }
                None => {
                    pool.nodes.remove(&address);
                    if !pool.aside.contains_key(&address) {
                        pool.free_mut(family).unreserve(to_bits(address), held);
                    }
                }
            }
            pool.touch();
        }
        concerns
    }

    /// Notes that another host uses `address`, with its hardware address, or does so no more. `held`: a Service holds
    /// it.
    pub(crate) fn put_aside(&mut self, address: IpAddr, hardware: Option<&str>, held: bool) {
        let family = IpFamily::of(address);
        for pool in self.pools.iter_mut().filter(|p| p.contains(address)) {
            match hardware {
                Some(hardware) => {
                    pool.aside.insert(address, hardware.into());
                    pool.free_mut(family).reserve(to_bits(address), held);
                }
                None => {
                    pool.aside.remove(&address);
                    if !pool.nodes.contains_key(&address) {
                        pool.free_mut(family).unreserve(to_bits(address), held);
                    }
                }
            }
            pool.touch();
        }
    }

    /// These are the addresses that gateways are asked for.
    pub(crate) fn set_probing(&mut self, asked: impl Iterator<Item = (IpAddr, u64)>) {
        let mut by_pool = vec![BTreeMap::new(); self.pools.len()];
        for (address, number) in asked {
            let place = self.pools.iter().position(|it| it.contains(address));
            if let Some(of_pool) = place.and_then(|it| by_pool.get_mut(it)) {
                of_pool.insert(address, number);
            }
        }
        for (pool, probing) in self.pools.iter_mut().zip(by_pool) {
            if pool.probing != probing {
                pool.probing = probing;
                pool.touch();
            }
        }
    }

    /// Notes that a Service of `namespace` holds `address`; `first` where no other Service does.
    pub(crate) fn take(&mut self, address: IpAddr, namespace: &Arc<str>, first: bool) {
        let family = IpFamily::of(address);
        for pool in self.pools.iter_mut().filter(|p| p.contains(address)) {
            if first {
                pool.free_mut(family).take(to_bits(address));
                pool.used[family as usize] += 1;
            }
            if pool.config.quota_per_namespace.is_some() {
                *pool
                    .by_namespace
                    .entry(Arc::clone(namespace))
                    .or_default()
                    .entry(address)
                    .or_default() += 1;
            }
        }
    }

    /// Notes that a Service does not hold `address` any more; `last` where no other Service does.
    pub(crate) fn release(&mut self, address: IpAddr, namespace: &Arc<str>, last: bool) {
        let family = IpFamily::of(address);
        for pool in self.pools.iter_mut().filter(|p| p.contains(address)) {
            if last {
                pool.free_mut(family).give_back(to_bits(address));
                pool.used[family as usize] -= 1;
            }
            if let Some(held) = pool.by_namespace.get_mut(namespace) {
                if let Some(services) = held.get_mut(&address) {
                    *services -= 1;
                    if *services == 0 {
                        held.remove(&address);
                    }
                }
                if held.is_empty() {
                    pool.by_namespace.remove(namespace);
                }
            }
        }
    }

    /// The pools whose status has to be made again since the last call.
    pub(crate) fn drain_untold(&mut self) -> impl Iterator<Item = &Pool> {
        self.pools.iter_mut().filter_map(|pool| {
            let now = IpFamily::ALL.map(|family| {
                let used = pool.used[family as usize];
                [used, pool.free(family).available()]
            });
            (pool.told.replace(now) != Some(now)).then_some(&*pool)
        })
    }
}
