//! Which Services hold which address, and which may share one.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::names::ServiceName;
use fairway_config::service::{PortKey, Service};
use fairway_config::sharing::{self, SharingClash};

use crate::queue::ServiceSlot;

/// A Service that holds an address, as it was when it took it.
#[derive(Debug)]
pub(crate) struct AddressHolder {
    pub(crate) slot: ServiceSlot,
    pub(crate) service: Arc<Service>,
    /// What it has released here and the store still shows.
    pub(crate) leaving: Leaving,
}

impl AddressHolder {
    /// A port that it has released and that `service` has or wants.
    fn leaves_one_of(&self, service: &Service) -> Option<PortKey> {
        let Leaving::Ports(ports) = &self.leaving else {
            return None;
        };
        let wants = |key: &PortKey| service.ports.iter().any(|port| port.key() == *key);
        ports.iter().copied().find(wants)
    }
}

/// What a Service has released while the store does not show that yet. No other Service gets it
/// before, or a crash between two writes would leave it with both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// These ports of the address; often none.
    Ports(Vec<PortKey>),
    /// The address as a whole.
    Address,
}

/// Every address that a Service holds, in a pool or in none.
///
/// The Services that stay on one address have the same sharing key, no port in common, and allow
/// each other's namespaces: none is added that does not fit. So a newcomer is compared with one of
/// them and with an index of their ports, however many share the address.
#[derive(Debug, Default)]
pub(crate) struct AddressHolders {
    /// By name.
    by_address: HashMap<IpAddr, Vec<AddressHolder>>,
    by_key: HashMap<Arc<str>, BTreeSet<IpAddr>>,
    /// The Service that has a port of an address that is shared, or could be.
    ports: HashMap<(IpAddr, PortKey), Arc<Service>>,
}

/// Why an address that is held can't be joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Clash {
    /// The two can't share it.
    Sharing(ServiceName, SharingClash),
    /// The holder has released it, and the store does not show that yet.
    Leaving(ServiceName),
}

impl AddressHolders {
    /// Who holds `address`.
    pub(crate) fn of(&self, address: IpAddr) -> &[AddressHolder] {
        self.by_address.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Every address with its holders.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, &[AddressHolder])> {
        self.by_address.iter().map(|(a, t)| (*a, t.as_slice()))
    }

    /// The addresses that are shared, or could be, under `key`, in order.
    pub(crate) fn under_key(&self, key: &str) -> impl Iterator<Item = IpAddr> {
        self.by_key.get(key).into_iter().flatten().copied()
    }

    /// The sharing key of the Services that stay on `address`.
    pub(crate) fn sharing_key(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.staying(address)
            .next()?
            .service
            .asks
            .sharing_key
            .as_ref()
    }

    /// Whether a Service that has `address` may keep it beside its other holders.
    pub(crate) fn may_stay(&self, address: IpAddr, service: &Service) -> bool {
        self.clash(address, service).is_none()
    }

    /// Whether a Service may be added to the holders of `address`.
    pub(crate) fn may_join(&self, address: IpAddr, service: &Service) -> Result<(), Clash> {
        let holders = self.of(address);
        let leaves = |holder: &&AddressHolder| holder.leaving == Leaving::Address;
        if let Some(holder) = holders.iter().find(leaves) {
            return Err(Clash::Leaving(holder.service.name.clone()));
        }
        if let Some(clash) = self.clash(address, service) {
            return Err(clash);
        }
        for holder in holders {
            if let Some(port) = holder.leaves_one_of(service) {
                let clash = SharingClash::Port(port);
                return Err(Clash::Sharing(holder.service.name.clone(), clash));
            }
        }
        Ok(())
    }

    /// Whether the store still shows another Service with what this one has on `address`.
    pub(crate) fn is_leaving(&self, address: IpAddr, service: &Service) -> bool {
        let mut others = self
            .of(address)
            .iter()
            .filter(|holder| holder.service.name != service.name);
        others.any(|holder| {
            holder.leaving == Leaving::Address || holder.leaves_one_of(service).is_some()
        })
    }

    /// Why a Service can't share `address` with the Services that stay on it.
    fn clash(&self, address: IpAddr, service: &Service) -> Option<Clash> {
        let with = |holder: &Service, clash| Clash::Sharing(holder.name.clone(), clash);
        let first = &self.staying(address).next()?.service;
        if let Some(clash) = sharing::keys_differ(service, first) {
            return Some(with(first, clash));
        }
        if let Some(holder) = self.without_consent(address, service).next() {
            let clash = sharing::no_consent(service, &holder.service)?;
            return Some(with(&holder.service, clash));
        }
        let (key, holder) = self.same_ports(address, service).next()?;
        Some(with(holder, SharingClash::Port(key)))
    }

    /// The holders that have to be looked at again if a Service on `address` changes into
    /// `service`.
    pub(crate) fn rivals(&self, address: IpAddr, service: &Service) -> Vec<ServiceSlot> {
        let holders = self.of(address);
        let first = self.staying(address).next();
        if first.is_some_and(|it| sharing::keys_differ(service, &it.service).is_some()) {
            return holders.iter().map(|holder| holder.slot).collect();
        }
        let leaving = holders
            .iter()
            .filter(|holder| holder.leaving == Leaving::Address);
        let holders = self
            .same_ports(address, service)
            .filter_map(|(_, holder)| holders.get(position(holders, &holder.name).ok()?));
        leaving
            .chain(self.without_consent(address, service))
            .chain(holders)
            .map(|holder| holder.slot)
            .collect()
    }

    fn staying(&self, address: IpAddr) -> impl Iterator<Item = &AddressHolder> {
        let holders = self.of(address).iter();
        holders.filter(|holder| holder.leaving != Leaving::Address)
    }

    fn without_consent(
        &self,
        address: IpAddr,
        service: &Service,
    ) -> impl Iterator<Item = &AddressHolder> {
        let namespace = &service.name.namespace;
        // They are ordered by namespace, so the first and the last tell whether there is another
        // namespace.
        let holders = self.of(address);
        let ends = [holders.first(), holders.last()];
        let alone = ends
            .iter()
            .flatten()
            .all(|holder| holder.service.name.namespace == *namespace);
        let others = self
            .staying(address)
            .take(if alone { 0 } else { usize::MAX });
        others.filter(move |holder| sharing::no_consent(service, &holder.service).is_some())
    }

    fn same_ports(
        &self,
        address: IpAddr,
        service: &Service,
    ) -> impl Iterator<Item = (PortKey, &Service)> {
        service.ports.iter().filter_map(move |port| {
            let key = port.key();
            Some((key, &**self.ports.get(&(address, key))?))
        })
    }

    /// Adds a holder. True: it is the first one.
    pub(crate) fn add(
        &mut self,
        address: IpAddr,
        slot: ServiceSlot,
        service: &Arc<Service>,
        leaving: Leaving,
    ) -> bool {
        if let Some(key) = &service.asks.sharing_key {
            self.by_key
                .entry(Arc::clone(key))
                .or_default()
                .insert(address);
            if leaving != Leaving::Address {
                for port in &service.ports {
                    self.ports
                        .insert((address, port.key()), Arc::clone(service));
                }
            }
        }
        // Nearly always one holder: a list would allocate room for four.
        let alone = || Vec::with_capacity(1);
        let holders = self.by_address.entry(address).or_insert_with(alone);
        let at = position(holders, &service.name).unwrap_or_else(|at| at);
        let holder = AddressHolder {
            slot,
            service: Arc::clone(service),
            leaving,
        };
        holders.insert(at, holder);
        holders.len() == 1
    }

    /// Removes a holder. True: it was the last one.
    pub(crate) fn remove(&mut self, address: IpAddr, service: &ServiceName) -> bool {
        let Some(holders) = self.by_address.get_mut(&address) else {
            return false;
        };
        let Ok(at) = position(holders, service) else {
            return false;
        };
        let gone = holders.remove(at);
        let last = holders.is_empty();
        if let Some(key) = &gone.service.asks.sharing_key {
            if gone.leaving != Leaving::Address {
                for port in &gone.service.ports {
                    self.ports.remove(&(address, port.key()));
                }
            }
            let is_under = |t: &AddressHolder| t.service.asks.sharing_key.as_ref() == Some(key);
            if !holders.iter().any(is_under)
                && let Some(addresses) = self.by_key.get_mut(key)
            {
                addresses.remove(&address);
                if addresses.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
        if last {
            self.by_address.remove(&address);
        }
        last
    }
}

fn position(holders: &[AddressHolder], name: &ServiceName) -> Result<usize, usize> {
    holders.binary_search_by(|holder| holder.service.name.cmp(name))
}

impl Clash {
    /// The reason in conditions, a CamelCase word.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Sharing(_, clash) => clash.reason(),
            Self::Leaving(_) => "AddressHeld",
        }
    }

    /// Why it can't be joined, as the end of a sentence about the address.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::Sharing(holder, clash) => format!("Service {holder} holds it, and {clash}"),
            Self::Leaving(holder) => {
                format!("Service {holder} has let go of it, which is still to be written")
            }
        }
    }
}
