//! From claims to sockets: applies the difference between what Services claim and what stands.
//!
//! Each claim is one place (address, port, protocol) and, while it has endpoints, one socket on
//! each worker. A place that passes from one Service to another keeps its sockets. What can't stand
//! is the state of that place alone, tried again until it can.

mod entry;
mod opener;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use fairway_config::exchange::{ClaimKind, ListenerReport, ListenerState};
use fairway_config::names::ServiceName;
use fairway_config::net::{ListenAddr, Protocol};
use tokio::time::Instant;

pub(crate) use self::entry::Wanted;
use self::entry::{Claimants, Entry, Failed, Standing};
pub(crate) use self::opener::Opener;
use crate::binding::Binding;
use crate::engine::Command;
use crate::port::Port;
use crate::slot::{Place, Slot, Target};
use crate::socket::BindError;

/// How often it is looked whether the last connection to an address that retires has ended.
const RETIRE: Duration = Duration::from_millis(100);

/// What stands, and for whom.
#[derive(Debug)]
pub(crate) struct Programmer {
    opener: Opener,
    entries: BTreeMap<Place, Entry>,
    /// The places of each Service, in order.
    services: BTreeMap<ServiceName, Box<[Place]>>,
    retries: BTreeSet<(Instant, Place)>,
    /// External addresses that nobody claims any more, and the ports that may have connections
    /// there yet.
    retiring: BTreeMap<IpAddr, Vec<Arc<Port>>>,
}

impl Programmer {
    /// Nothing stands yet.
    pub(crate) fn new(opener: Opener) -> Self {
        Self {
            opener,
            entries: BTreeMap::new(),
            services: BTreeMap::new(),
            retries: BTreeSet::new(),
            retiring: BTreeMap::new(),
        }
    }

    /// Each of these Services wants this from now on, and nothing else. Returns the Services whose
    /// listeners may have another state now.
    pub(crate) async fn apply(
        &mut self,
        updates: Vec<(ServiceName, Vec<Wanted>)>,
    ) -> BTreeSet<ServiceName> {
        let mut touched: BTreeSet<Place> = BTreeSet::new();
        // All let go before anyone takes: so a place passes on in one step.
        for (service, wanted) in updates {
            let mut places: Vec<Place> = wanted.iter().map(|wanted| wanted.place).collect();
            places.sort_unstable();
            touched.extend(&places);
            let before = self.services.remove(&service).unwrap_or_default();
            for gone in &before {
                if places.binary_search(gone).is_ok() {
                    continue;
                }
                touched.insert(*gone);
                if let Some(entry) = self.entries.get_mut(gone) {
                    entry.claimants.remove(&service);
                }
            }
            if !places.is_empty() {
                self.services.insert(service.clone(), places.into());
            }
            for wanted in wanted {
                self.claim(&service, wanted);
            }
        }
        self.settle(touched).await
    }

    fn claim(&mut self, service: &ServiceName, wanted: Wanted) {
        let place = wanted.place;
        if wanted.target.kind() == ClaimKind::Vip {
            self.retiring.remove(&place.listen.0.ip());
        }
        let entry = self.entries.entry(place).or_insert_with(|| Entry {
            slot: Arc::new(Slot {
                listen: place.listen,
                target: ArcSwap::from_pointee(wanted.target.clone()),
            }),
            owner: service.clone(),
            claimants: Claimants::default(),
            standing: Standing::New,
        });
        entry.claimants.insert(service.clone(), wanted);
    }

    /// Brings places to where they should be: closes first, then opens.
    async fn settle(&mut self, places: BTreeSet<Place>) -> BTreeSet<ServiceName> {
        let mut services = BTreeSet::new();
        let mut closing = Vec::new();
        let mut opening = Vec::new();
        for place in places {
            let Some(entry) = self.entries.get_mut(&place) else {
                continue;
            };
            if !entry.claimants.contains(&entry.owner)
                && let Some(next) = entry.claimants.first()
            {
                entry.owner = next.clone();
            }
            let Some(wanted) = entry.claimants.get(&entry.owner) else {
                if let Some(entry) = self.entries.remove(&place) {
                    self.forget(place, entry, &mut closing);
                }
                continue;
            };
            services.extend(entry.claimants.services());
            entry.slot.target.store(Arc::new(wanted.target.clone()));
            let open = wanted.target.is_open();
            match (&entry.standing, open) {
                (Standing::Listening(binding), true)
                    if binding.guard() == wanted.target.guard() =>
                {
                    if place.protocol == Protocol::Udp {
                        for worker in &self.opener.workers {
                            let sweep = Command::Sweep(entry.slot.clone());
                            worker.mailbox().send(sweep);
                        }
                    }
                }
                (Standing::Listening(binding), true) => {
                    // What a socket takes is settled before it is bound: so it needs another one.
                    // Its flows would end in any case, as their endpoints do.
                    binding.close();
                    closing.push(binding.clone());
                    entry.standing = Standing::New;
                    opening.push(place);
                }
                (Standing::Listening(binding), false) => {
                    binding.close();
                    self.opener.refuse(place);
                    closing.push(binding.clone());
                    entry.standing = Standing::Refusing;
                }
                (Standing::Refusing, false) => {}
                (Standing::New | Standing::Failed(_), _) | (Standing::Refusing, true) => {
                    opening.push(place);
                }
            }
        }
        for binding in closing {
            binding.closed().await;
        }
        for place in opening {
            self.open(place).await;
        }
        self.retire().await;
        services
    }

    /// A place that nobody wants any more.
    fn forget(&mut self, place: Place, entry: Entry, closing: &mut Vec<Binding>) {
        match entry.standing {
            Standing::Listening(binding) => {
                binding.close();
                closing.push(binding);
            }
            Standing::Failed(failed) => {
                self.retries.remove(&(failed.at, place));
            }
            Standing::New | Standing::Refusing => {}
        }
        self.opener.release(place);
        let address = place.listen.0.ip();
        if self.opener.routes.is_ours(address) {
            let ports = self.retiring.entry(address).or_default();
            if let Target::Port { port, .. } = &**entry.slot.target.load() {
                ports.push(port.clone());
            }
        }
    }

    /// Tries to let a place stand.
    async fn open(&mut self, place: Place) {
        let Some(entry) = self.entries.get(&place) else {
            return;
        };
        let slot = entry.slot.clone();
        let target = slot.target.load_full();
        let previous = match &entry.standing {
            Standing::Failed(failed) => Some((**failed).clone()),
            Standing::New | Standing::Listening(_) | Standing::Refusing => None,
        };
        if let Some(failed) = &previous {
            self.retries.remove(&(failed.at, place));
        }
        let standing = if target.is_open() {
            let binding = self.opener.bind(place, &target, &slot).await;
            binding.map(Standing::Listening)
        } else {
            // The kernel refuses for us, as long as the address is its own.
            let local = self.opener.ensure_local(place, &target).await;
            local.map(|()| {
                self.opener.refuse(place);
                Standing::Refusing
            })
        };
        let standing = standing.unwrap_or_else(|error| {
            let failed = Failed::next(previous.as_ref(), error, Instant::now());
            let is_news = previous.as_ref().is_none_or(|p| p.error != failed.error);
            if is_news {
                tracing::warn!(
                    listen = %place.listen, protocol = %place.protocol,
                    reason = failed.error.reason(), error = %failed.error, "listener can't stand"
                );
            }
            self.retries.insert((failed.at, place));
            Standing::Failed(Box::new(failed))
        });
        if let (Some(_), Standing::Listening(_) | Standing::Refusing) = (&previous, &standing) {
            tracing::info!(listen = %place.listen, protocol = %place.protocol, "listener stands");
        }
        if let Some(entry) = self.entries.get_mut(&place) {
            entry.standing = standing;
        }
    }

    /// When [`Self::retry`] has something to do.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        let retry = self.retries.first().map(|(at, _)| *at);
        let retire = (!self.retiring.is_empty()).then(|| Instant::now() + RETIRE);
        retry.into_iter().chain(retire).min()
    }

    /// Tries again what is due. Returns the Services whose listeners may have another state now.
    pub(crate) async fn retry(&mut self) -> BTreeSet<ServiceName> {
        let now = Instant::now();
        let due: Vec<Place> = self
            .retries
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, place)| *place)
            .collect();
        self.retry_places(due).await
    }

    /// The host's addresses changed: lets go of what lost its address, and tries again what lacked
    /// it. Returns the Services whose listeners may have another state now.
    pub(crate) async fn addresses_changed(&mut self) -> BTreeSet<ServiceName> {
        let mut lost = BTreeSet::new();
        for address in self.vips() {
            let routes = &mut self.opener.routes;
            if !routes.is_ours(address)
                && routes.is_local(address).await == Some(false)
                && !routes.add(address).await
            {
                lost.insert(address);
            }
        }
        let mut places = Vec::new();
        for (place, entry) in &mut self.entries {
            let is_lost = lost.contains(&place.listen.0.ip());
            match &entry.standing {
                Standing::Listening(binding) if is_lost => {
                    binding.close();
                    binding.closed().await;
                    entry.standing = Standing::New;
                    places.push(*place);
                }
                Standing::Refusing if is_lost => places.push(*place),
                Standing::Failed(failed)
                    if matches!(failed.error, BindError::AddressNotLocal(_)) =>
                {
                    places.push(*place);
                }
                _ => {}
            }
        }
        self.retry_places(places).await
    }

    async fn retry_places(&mut self, places: Vec<Place>) -> BTreeSet<ServiceName> {
        let mut services = BTreeSet::new();
        for place in places {
            self.open(place).await;
            if let Some(entry) = self.entries.get(&place) {
                services.extend(entry.claimants.services());
            }
        }
        self.retire().await;
        services
    }

    /// Removes routes to addresses that nobody claims and nobody is connected to any more.
    async fn retire(&mut self) {
        let quiet = self.retiring.iter().filter(|(address, ports)| {
            !self.is_vip(**address) && ports.iter().all(|port| port.counters.active.get() == 0)
        });
        let quiet: Vec<IpAddr> = quiet.map(|(address, _)| *address).collect();
        for address in quiet {
            self.retiring.remove(&address);
            self.opener.routes.remove(address).await;
        }
    }

    /// Everything has been said once: removes what a process before us left behind.
    pub(crate) async fn synced(&mut self) {
        let vips = self.vips();
        let retiring = &self.retiring;
        let wanted = |address: IpAddr| vips.contains(&address) || retiring.contains_key(&address);
        self.opener.routes.retain(wanted).await;
    }

    /// The external addresses that are claimed.
    fn vips(&self) -> BTreeSet<IpAddr> {
        let vips = self.entries.iter().filter(|(_, entry)| entry.is_vip());
        vips.map(|(place, _)| place.listen.0.ip()).collect()
    }

    /// Whether an external address is claimed.
    fn is_vip(&self, address: IpAddr) -> bool {
        let first = Place {
            listen: ListenAddr(SocketAddr::new(address, 0)),
            protocol: Protocol::Tcp,
        };
        // The places of one address stand together.
        self.entries
            .range(first..)
            .take_while(|(place, _)| place.listen.0.ip() == address)
            .any(|(_, entry)| entry.is_vip())
    }

    /// The listeners of a Service and how each is.
    pub(crate) fn listeners(&self, service: &ServiceName) -> Vec<ListenerReport> {
        let places = self.services.get(service).map(|places| &**places);
        let mut reports: Vec<_> = places
            .unwrap_or_default()
            .iter()
            .filter_map(|place| {
                let entry = self.entries.get(place)?;
                let wanted = entry.claimants.get(service)?;
                let state = if entry.owner != *service {
                    let (listen, protocol) = (place.listen, place.protocol);
                    BindError::Claimed {
                        listen,
                        protocol,
                        service: entry.owner.clone(),
                    }
                    .state()
                } else {
                    match &entry.standing {
                        Standing::Listening(_) => ListenerState::Listening,
                        Standing::New | Standing::Refusing => ListenerState::Refusing,
                        Standing::Failed(failed) => failed.error.state(),
                    }
                };
                Some(ListenerReport {
                    listen: place.listen,
                    protocol: place.protocol,
                    port: wanted.port,
                    kind: wanted.target.kind(),
                    state,
                })
            })
            .collect();
        reports.shrink_to_fit();
        reports
    }

    /// Closes every listener; established connections go on.
    pub(crate) async fn close(&mut self) {
        let mut closing = Vec::new();
        for entry in self.entries.values() {
            if let Standing::Listening(binding) = &entry.standing {
                binding.close();
                closing.push(binding.clone());
            }
        }
        for binding in closing {
            binding.closed().await;
        }
    }

    /// Connections whose port or endpoint is cut are to end now.
    pub(crate) fn cut(&self) {
        for worker in &self.opener.workers {
            worker.mailbox().send(Command::Cut);
        }
    }

    /// Nothing comes any more: workers are to say when their last connection has ended.
    pub(crate) fn drain(&self) {
        for worker in &self.opener.workers {
            worker.mailbox().send(Command::Drain);
        }
    }

    /// Ends the workers and what they still do, and removes our routes.
    pub(crate) async fn end(self) {
        self.opener.end().await;
    }
}
