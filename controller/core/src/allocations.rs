//! Addresses and node ports: which there are, who has them, and who may have those that are free.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::cluster::Namespace;
use fairway_config::exchange::Held;
use fairway_config::names::ClusterName;
use fairway_config::net::IpFamily;
use fairway_config::selector::SelectorExt as _;
use fairway_config::service::{IpFamilyPolicy, Service};

use crate::address_probes::AddressProbes;
use crate::holders::{AddressHolders, Leaving};
use crate::nodes::NodeAddresses;
use crate::pools::{Pool, Pools};
use crate::ports::NodePorts;
use crate::queue::{ServiceSlot, WaitsFor};
use crate::refusal::{AddressRefusal, PoolRefusal, Trial};
use crate::settings::Settings;
use crate::wants;

/// The label that every namespace has, whether its object is known or not.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// How many addresses under one sharing key a Service tries to join: a bound on the cost where
/// thousands of addresses have one key and the same port.
const JOINABLE: usize = 64;

/// How much a Service wants an address that is given to it. Each includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum AddressPreference {
    /// The Service asks for it.
    Asked,
    /// The author's copy of the status names it.
    Wish,
    /// It is the first that is free.
    Any,
}

/// Everything that is allocated, and the rules of allocation.
#[derive(Debug)]
pub(crate) struct Allocations {
    pub(crate) settings: Settings,
    pub(crate) pools: Pools,
    pub(crate) holders: AddressHolders,
    pub(crate) numbers: NodePorts,
    pub(crate) nodes: NodeAddresses,
    pub(crate) probes: AddressProbes,
    pub(crate) namespaces: HashMap<ClusterName, Arc<Namespace>>,
}

impl Allocations {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            numbers: NodePorts::new(settings.node_ports),
            settings,
            pools: Pools::default(),
            holders: AddressHolders::default(),
            nodes: NodeAddresses::default(),
            probes: AddressProbes::default(),
            namespaces: HashMap::new(),
        }
    }

    /// Whether gateways announce an address on layer 2.
    pub(crate) fn is_announced(&self, address: IpAddr) -> bool {
        self.pools.is_announced(address)
    }

    /// Whether an address that is about to be taken has to be asked for before it is shown: nobody has it, nobody asked
    /// for it, and gateways will announce it.
    pub(crate) fn is_to_be_probed(&self, service: &Service, address: IpAddr) -> bool {
        let family = IpFamily::of(address);
        self.is_announced(address)
            && self.holders.of(address).is_empty()
            && wants::asked_address(service, family).is_none()
            && !wishes(service, family).any(|wish| wish == address)
    }

    /// Whether a Service may lose an address that it was given: another host uses it, and the Service was not shown
    /// with it.
    pub(crate) fn is_refused_by_probe(&self, address: IpAddr, shown: &[&Held]) -> bool {
        self.probes.is_aside(address) && !shown.iter().any(|it| it.addresses.contains(&address))
    }

    /// Notes that a Service holds an address.
    pub(crate) fn take_address(
        &mut self,
        address: IpAddr,
        slot: ServiceSlot,
        service: &Arc<Service>,
        leaving: Leaving,
    ) {
        let first = self.holders.add(address, slot, service, leaving);
        self.pools.take(address, &service.name.namespace, first);
    }

    /// Notes that a Service does not hold an address any more.
    pub(crate) fn release_address(&mut self, address: IpAddr, service: &Service) {
        let last = self.holders.remove(address, &service.name);
        self.pools.release(address, &service.name.namespace, last);
        if last {
            self.probes.let_go(address);
        }
    }

    /// The families that a Service is to have, given what it holds.
    pub(crate) fn families(&self, service: &Service, held: &[IpAddr]) -> Vec<IpFamily> {
        wants::families(service, held, || {
            let wish = service.status_addresses.iter().find(|address| {
                self.pools
                    .containing(**address)
                    .any(|pool| self.selects(pool, service, None).is_ok())
            });
            wish.map(|wish| IpFamily::of(*wish))
                .or_else(|| {
                    IpFamily::ALL.into_iter().find(|&family| {
                        self.pools.iter().any(|pool| {
                            !pool.free(family).is_empty()
                                && self.selects(pool, service, None).is_ok()
                        })
                    })
                })
                .unwrap_or(IpFamily::IPv4)
        })
    }

    /// Whether a pool selects a Service.
    fn selects(
        &self,
        pool: &Pool,
        service: &Service,
        asked: Option<IpAddr>,
    ) -> Result<(), PoolRefusal> {
        if let Some(problem) = pool.config.problems.first() {
            return Err(PoolRefusal::NotUsable(problem.to_string()));
        }
        let requested = service.asks.pool.as_ref();
        if let Some(requested) = requested.filter(|requested| *requested != pool.name()) {
            return Err(PoolRefusal::NotRequested(requested.clone()));
        }
        if !pool.config.service_selector.matches(&service.labels) {
            return Err(PoolRefusal::Service);
        }
        if !self.selects_namespace(pool, &service.name.namespace) {
            return Err(PoolRefusal::Namespace);
        }
        if !pool.config.auto_assign && requested.is_none() && asked.is_none() {
            return Err(PoolRefusal::NotAutomatic);
        }
        Ok(())
    }

    fn selects_namespace(&self, pool: &Pool, namespace: &Arc<str>) -> bool {
        let selector = &pool.config.namespace_selector;
        if selector.selects_all() {
            return true;
        }
        match self.namespaces.get(namespace) {
            Some(known) if known.labels.contains_key(NAMESPACE_NAME_LABEL) => {
                selector.matches(&known.labels)
            }
            known => {
                let mut labels = known.map_or_else(BTreeMap::new, |known| known.labels.clone());
                labels.insert(NAMESPACE_NAME_LABEL.into(), namespace.to_string());
                selector.matches(&labels)
            }
        }
    }

    /// Why a pool in which the address lies would not give it to the Service now.
    pub(crate) fn standing_in_pool(
        &self,
        pool: &Pool,
        service: &Service,
        address: IpAddr,
    ) -> Result<(), PoolRefusal> {
        self.selects(pool, service, Some(address))
    }

    /// Whether a pool gives a Service an address that is not asked for by number.
    fn admits(
        &self,
        pool: &Pool,
        service: &Service,
        family: IpFamily,
        planned: &[IpAddr],
    ) -> Result<(), PoolRefusal> {
        self.selects(pool, service, None)?;
        let free = pool.free(family);
        if free.is_empty() {
            return Err(PoolRefusal::NoFamily(family));
        }
        if let Some(quota) = pool.config.quota_per_namespace
            && pool.quota_spent(&service.name.namespace, planned)
        {
            return Err(PoolRefusal::Quota(quota));
        }
        if free.available() == 0 {
            return Err(PoolRefusal::Full(family, free.to_give()));
        }
        Ok(())
    }

    /// Whether a Service may have exactly this address. An address at the end of a block is fine:
    /// `avoidEnds` is about addresses that nobody asked for.
    pub(crate) fn may_have(
        &self,
        service: &Service,
        address: IpAddr,
        asked: bool,
        planned: &[IpAddr],
    ) -> Result<(), AddressRefusal> {
        if let Some(pool) = &service.asks.pool {
            match self.pools.get(pool) {
                None => return Err(AddressRefusal::NoSuchPool(pool.clone())),
                Some(known) if !known.contains(address) => {
                    return Err(AddressRefusal::NotInPool(address, pool.clone()));
                }
                Some(_) => {}
            }
        }
        let mut trials = Vec::new();
        let mut admitted = false;
        for pool in self.pools.containing(address) {
            let namespace = &service.name.namespace;
            let spent =
                pool.quota_spent(namespace, planned) && !pool.held_by_namespace(namespace, address);
            let refusal = match self.selects(pool, service, asked.then_some(address)) {
                Err(refusal) => refusal,
                Ok(()) if spent => {
                    PoolRefusal::Quota(pool.config.quota_per_namespace.unwrap_or_default())
                }
                Ok(()) => {
                    admitted = true;
                    break;
                }
            };
            trials.push(trial(pool, refusal));
        }
        if !admitted && trials.is_empty() {
            return Err(AddressRefusal::InNoPool(address));
        }
        if !admitted {
            return Err(AddressRefusal::NotGiven(address, trials));
        }
        if let Some(node) = self.nodes.node(address) {
            return Err(AddressRefusal::NodeAddress(address, node.clone()));
        }
        self.holders
            .may_join(address, service)
            .map_err(|clash| AddressRefusal::Clash(address, clash))
    }

    /// The address of `family` that a Service is to have, looked for with each preference up to
    /// `preference`.
    pub(crate) fn find(
        &mut self,
        service: &Service,
        family: IpFamily,
        preference: AddressPreference,
        planned: &[IpAddr],
    ) -> Option<IpAddr> {
        if service.asks.unreadable_address(family).is_some() {
            return None;
        }
        if let Some(asked) = wants::asked_address(service, family) {
            return self
                .may_have(service, asked, true, planned)
                .is_ok()
                .then_some(asked);
        }
        if preference >= AddressPreference::Wish {
            let wish = wishes(service, family)
                .find(|wish| self.may_have(service, *wish, false, planned).is_ok());
            if wish.is_some() {
                return wish;
            }
        }
        if preference < AddressPreference::Any {
            return None;
        }
        if let Some(shared) = self.joinable(service, family, planned) {
            return Some(shared);
        }
        let name = self
            .pools
            .iter()
            .find(|pool| self.admits(pool, service, family, planned).is_ok())?
            .name()
            .clone();
        self.pools
            .iter_mut()
            .find(|pool| *pool.name() == name)?
            .lowest(family)
    }

    /// The first address under the Service's sharing key that it can join: who names a key wants
    /// to share, so that comes before a fresh address. Only the first [`JOINABLE`] are looked at.
    fn joinable(&self, service: &Service, family: IpFamily, planned: &[IpAddr]) -> Option<IpAddr> {
        let key = service.asks.sharing_key.as_ref()?;
        let mut candidates: Vec<_> = self
            .holders
            .under_key(key)
            .filter(|address| IpFamily::of(*address) == family)
            .take(JOINABLE)
            .filter_map(|address| {
                let place = self.pools.iter().position(|pool| pool.contains(address))?;
                Some((place, address))
            })
            .collect();
        candidates.sort();
        candidates
            .into_iter()
            .map(|(_, address)| address)
            .find(|address| self.may_have(service, *address, false, planned).is_ok())
    }

    /// Why a Service has no address of `family`; nothing where it could have one.
    pub(crate) fn refusal(
        &self,
        service: &Service,
        family: IpFamily,
        planned: &[IpAddr],
    ) -> Option<AddressRefusal> {
        if let Some(request) = service.asks.unreadable_address(family) {
            return Some(AddressRefusal::RequestUnreadable(request.message.clone()));
        }
        if let Some(asked) = wants::asked_address(service, family) {
            return self.may_have(service, asked, true, planned).err();
        }
        if self.pools.is_empty() {
            return Some(AddressRefusal::NoPools);
        }
        if let Some(pool) = &service.asks.pool
            && self.pools.get(pool).is_none()
        {
            return Some(AddressRefusal::NoSuchPool(pool.clone()));
        }
        let mut trials = Vec::new();
        for pool in self.pools.iter() {
            match self.admits(pool, service, family, planned) {
                Ok(()) => return None,
                Err(refusal) => trials.push(trial(pool, refusal)),
            }
        }
        Some(AddressRefusal::EveryPool(family, trials))
    }

    /// All reasons for which a Service lacks an address that it wants, given what it has.
    pub(crate) fn refusals(&self, service: &Service, held: &[IpAddr]) -> Vec<AddressRefusal> {
        let families = self.families(service, held);
        let has = |family: IpFamily| held.iter().any(|a| IpFamily::of(*a) == family);
        let mut refusals: Vec<AddressRefusal> = service
            .asks
            .addresses
            .iter()
            .filter(|address| !families.contains(&IpFamily::of(**address)))
            .map(|address| AddressRefusal::FamilyNotWanted(*address))
            .collect();
        let preferred = service.ip_family_policy == IpFamilyPolicy::PreferDualStack;
        for &family in families.iter().filter(|family| !has(**family)) {
            let asked = wants::asked_address(service, family).is_some();
            // PreferDualStack: one family is enough, unless an address of the other one was asked
            // for.
            if preferred && !held.is_empty() && !asked {
                continue;
            }
            refusals.push(
                self.refusal(service, family, held)
                    .unwrap_or(AddressRefusal::OnlyOneFamily(family)),
            );
        }
        refusals
    }

    /// What a Service that lacks a family waits for.
    pub(crate) fn waits(&self, service: &Service, held: &[IpAddr], waits: &mut Vec<WaitsFor>) {
        let namespace = &service.name.namespace;
        let by_number = |address: IpAddr, waits: &mut Vec<WaitsFor>| {
            waits.push(WaitsFor::Address(address));
            for pool in self.pools.containing(address) {
                if pool.config.quota_per_namespace.is_some() {
                    waits.push(WaitsFor::Quota(pool.name().clone(), Arc::clone(namespace)));
                }
            }
        };
        let families = self.families(service, held);
        let missing = families
            .into_iter()
            .filter(|family| !held.iter().any(|a| IpFamily::of(*a) == *family));
        for family in missing {
            // Only a change of the Service itself ends this wait.
            if service.asks.unreadable_address(family).is_some() {
                continue;
            }
            if let Some(asked) = wants::asked_address(service, family) {
                by_number(asked, waits);
                continue;
            }
            for wish in wishes(service, family) {
                by_number(wish, waits);
            }
            if let Some(key) = &service.asks.sharing_key {
                waits.push(WaitsFor::Sharing(Arc::clone(key)));
            }
            for pool in self.pools.iter() {
                let name = pool.name();
                match self.admits(pool, service, family, held) {
                    Ok(()) => waits.push(WaitsFor::PoolEmpty(name.clone(), family)),
                    Err(PoolRefusal::Full(..)) => waits.push(WaitsFor::Pool(name.clone(), family)),
                    Err(PoolRefusal::Quota(_)) => {}
                    Err(_) => continue,
                }
                if pool.config.quota_per_namespace.is_some() {
                    waits.push(WaitsFor::Quota(name.clone(), Arc::clone(namespace)));
                }
            }
        }
    }
}

/// The addresses of a family that the author's copy of the status names.
fn wishes(service: &Service, family: IpFamily) -> impl Iterator<Item = IpAddr> {
    let all = service.status_addresses.iter().copied();
    all.filter(move |address| IpFamily::of(*address) == family)
}

fn trial(pool: &Pool, refusal: PoolRefusal) -> Trial {
    Trial {
        pool: pool.name().clone(),
        priority: pool.config.priority,
        refusal,
    }
}
