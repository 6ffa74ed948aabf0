//! The programmer: opens and closes listeners until they match what Services claim.
//!
//! Each claim is one bind key (address, port, protocol) and, while it has endpoints, one socket on each worker.
//! A bind key that passes from one Service to another keeps its sockets. A listener that can't be opened has a
//! failed state, which concerns no other, and is tried again until it can.

mod bind_state;
mod opener;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::{ListenerReport, ListenerState};
use fairway_config::names::ServiceName;
use fairway_config::net::{ListenAddr, Protocol};
use tokio::time::Instant;

pub(crate) use self::bind_state::Wanted;
use self::bind_state::{BindState, Claimants, Failed, PlaceState};
pub(crate) use self::opener::Opener;
use crate::binding::Binding;
use crate::change_log::{ChangeLog, LoggedChange};
use crate::engine::{Cut, WorkerCommand};
use crate::local::Changed;
use crate::slot::{BindKey, Slot};
use crate::socket::BindError;
use crate::steering::WhenClosed;

/// How often it is checked whether the last connection to a bind key that nobody claims any more has ended.
const RETIRE: Duration = Duration::from_millis(100);

/// The listeners, and which Services they serve.
#[derive(Debug)]
pub(crate) struct Programmer {
    opener: Opener,
    entries: BTreeMap<BindKey, PlaceState>,
    /// The bind keys of each Service, ordered.
    services: BTreeMap<ServiceName, Box<[BindKey]>>,
    retries: BTreeSet<(Instant, BindKey)>,
    /// Bind keys of external addresses that nobody claims any more, and that may still have connections.
    retiring: BTreeMap<BindKey, Retiring>,
    /// How long those connections have.
    drain_timeout: Duration,
    /// Whether all Services of the start have been applied.
    synced: bool,
    /// Changes that are still to be logged.
    changes: ChangeLog,
}

/// A bind key that nobody claims any more.
#[derive(Debug)]
struct Retiring {
    slot: Arc<Slot>,
    /// When the time to drain of its connections is over.
    until: Instant,
}

impl Programmer {
    /// A programmer without listeners.
    pub(crate) fn new(opener: Opener, drain_timeout: Duration) -> Self {
        Self {
            opener,
            entries: BTreeMap::new(),
            services: BTreeMap::new(),
            retries: BTreeSet::new(),
            retiring: BTreeMap::new(),
            drain_timeout,
            synced: false,
            changes: ChangeLog::default(),
        }
    }

    /// Logs the changes since the last call.
    pub(crate) fn tell(&mut self) {
        self.opener.routes.changes.write();
        self.changes.write();
    }

    /// Sets the listeners that each of these Services requests. Returns the Services whose listeners may have
    /// another state now.
    pub(crate) async fn apply(
        &mut self,
        updates: Vec<(ServiceName, Vec<Wanted>)>,
    ) -> BTreeSet<ServiceName> {
        let mut touched: BTreeSet<BindKey> = BTreeSet::new();
        // All claims that end go first. So a bind key passes to another Service in one step.
        for (service, wanted) in updates {
            let mut places: Vec<BindKey> = wanted.iter().map(|wanted| wanted.place).collect();
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
        let entry = self.entries.entry(place).or_insert_with(|| PlaceState {
            // It keeps its connections, unless they are being cut.
            slot: match self.retiring.remove(&place) {
                Some(retiring) if !retiring.slot.cut.is_cancelled() => retiring.slot,
                _ => Arc::new(Slot::new(place.listen, wanted.target.clone())),
            },
            owner: service.clone(),
            claimants: Claimants::default(),
            standing: BindState::New,
        });
        entry.claimants.insert(service.clone(), wanted);
    }

    /// Brings listeners to the state that their claims request. Closes some first, then opens others.
    async fn settle(&mut self, places: BTreeSet<BindKey>) -> BTreeSet<ServiceName> {
        let mut services = BTreeSet::new();
        let mut closing = Vec::new();
        let mut opening = Vec::new();
        let mut counting = Vec::new();
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
            let is_same = entry.slot.target.load().is_same_port(&wanted.target);
            if matches!(entry.standing, BindState::Refusing) && !is_same {
                self.opener.collect_refused(place);
            }
            entry.slot.target.store(Arc::new(wanted.target.clone()));
            if !is_same {
                self.opener.disown(place);
            }
            let open = wanted.target.is_open();
            match (&entry.standing, open) {
                (BindState::Listening(binding), true)
                    if binding.hop_filter() == wanted.target.hop_filter() =>
                {
                    if place.protocol == Protocol::Udp {
                        for worker in &self.opener.workers {
                            let sweep = WorkerCommand::Sweep(entry.slot.clone());
                            worker.mailbox().send(sweep);
                        }
                    }
                }
                (BindState::Listening(binding), true) => {
                    // The filter is set before bind(2), so another one needs another socket. The flows would end
                    // anyway, because their endpoints do.
                    binding.close();
                    closing.push(binding.clone());
                    entry.standing = BindState::New;
                    opening.push(place);
                }
                (BindState::Listening(binding), false) => {
                    binding.close();
                    match self.opener.when_closed(place) {
                        WhenClosed::Refuse => self.opener.refuse(place, &entry.slot),
                        WhenClosed::Count => counting.push((place, entry.slot.clone())),
                    }
                    closing.push(binding.clone());
                    entry.standing = BindState::Refusing;
                }
                (BindState::Refusing, false) => {}
                (BindState::New | BindState::Failed(_), _) | (BindState::Refusing, true) => {
                    opening.push(place);
                }
            }
        }
        for binding in closing {
            binding.closed().await;
        }
        // While their sockets were there, clients were not refused.
        for (place, slot) in counting {
            self.opener.refuse(place, &slot);
        }
        for place in opening {
            self.open(place).await;
        }
        self.retire().await;
        services
    }

    /// Closes a listener that nobody requests any more.
    fn forget(&mut self, place: BindKey, entry: PlaceState, closing: &mut Vec<Binding>) {
        let is_vip = entry.is_vip();
        match entry.standing {
            BindState::Listening(binding) => {
                binding.close();
                closing.push(binding);
            }
            BindState::Failed(failed) => {
                self.retries.remove(&(failed.at, place));
            }
            BindState::New | BindState::Refusing => {}
        }
        self.opener.release(place);
        if is_vip {
            let until = Instant::now() + self.drain_timeout;
            let slot = entry.slot;
            self.retiring.insert(place, Retiring { slot, until });
        }
    }

    /// Tries to open a listener.
    async fn open(&mut self, place: BindKey) {
        let Some(entry) = self.entries.get(&place) else {
            return;
        };
        let slot = entry.slot.clone();
        let target = slot.target.load_full();
        let previous = match &entry.standing {
            BindState::Failed(failed) => Some((**failed).clone()),
            BindState::New | BindState::Listening(_) | BindState::Refusing => None,
        };
        if let Some(failed) = &previous {
            self.retries.remove(&(failed.at, place));
        }
        let standing = if target.is_open() {
            let binding = self.opener.bind(place, &target, &slot).await;
            binding.map(BindState::Listening)
        } else {
            // Without a socket the kernel refuses connections, if the address is local.
            let local = self.opener.ensure_local(place, &target).await;
            local.map(|()| {
                self.opener.refuse(place, &slot);
                BindState::Refusing
            })
        };
        let standing = standing.unwrap_or_else(|error| {
            let failed = Failed::next(previous.as_ref(), error, Instant::now());
            let is_news = previous.as_ref().is_none_or(|p| p.error != failed.error);
            if is_news {
                let change = LoggedChange::ListenerFailed {
                    reason: failed.error.reason().to_owned(),
                    error: failed.error.to_string(),
                };
                self.changes
                    .note(change, format!("{}/{}", place.listen, place.protocol));
            }
            self.retries.insert((failed.at, place));
            BindState::Failed(Box::new(failed))
        });
        if let (Some(_), BindState::Listening(_) | BindState::Refusing) = (&previous, &standing) {
            let listener = format!("{}/{}", place.listen, place.protocol);
            self.changes.note(LoggedChange::ListenerRecovered, listener);
        }
        if let Some(entry) = self.entries.get_mut(&place) {
            entry.standing = standing;
        }
    }

    /// When [`Self::retry`] has something to do next.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        let retry = self.retries.first().map(|(at, _)| *at);
        let retire = (!self.retiring.is_empty()).then(|| Instant::now() + RETIRE);
        retry.into_iter().chain(retire).min()
    }

    /// Tries failed listeners again that are due. Returns the Services whose listeners may have another state now.
    pub(crate) async fn retry(&mut self) -> BTreeSet<ServiceName> {
        let now = Instant::now();
        let due: Vec<BindKey> = self
            .retries
            .iter()
            .take_while(|(at, _)| *at <= now)
            .map(|(_, place)| *place)
            .collect();
        self.retry_places(due).await
    }

    /// The host's addresses have changed. Returns the Services whose listeners may have another state now.
    pub(crate) async fn addresses_changed(&mut self) -> BTreeSet<ServiceName> {
        let vips = self.vips();
        self.locate(vips).await
    }

    /// Local routes have changed, perhaps ours. Returns the Services whose listeners may have another state now.
    pub(crate) async fn routes_changed(&mut self, changed: Changed) -> BTreeSet<ServiceName> {
        let addresses = match changed {
            Changed::Anything => self.vips(),
            Changed::Addresses(mut addresses) => {
                addresses.retain(|address| self.is_vip(*address));
                if addresses.is_empty() {
                    return BTreeSet::new();
                }
                addresses
            }
        };
        self.opener.routes.look().await;
        if self.synced {
            self.retain_routes().await;
        }
        self.locate(addresses).await
    }

    /// Makes external addresses local again where they are not. Closes the listeners whose address is lost, and
    /// tries those again that failed for lack of it.
    async fn locate(&mut self, addresses: BTreeSet<IpAddr>) -> BTreeSet<ServiceName> {
        let mut places = Vec::new();
        for address in addresses {
            let routes = &mut self.opener.routes;
            let is_lost = !routes.is_ours(address)
                && routes.is_local(address).await == Some(false)
                && !routes.add(address).await;
            for (place, entry) in self.entries.range_mut(first_at(address)..) {
                if place.listen.0.ip() != address {
                    break;
                }
                match &entry.standing {
                    BindState::Listening(binding) if is_lost => {
                        binding.close();
                        binding.closed().await;
                        entry.standing = BindState::New;
                        places.push(*place);
                    }
                    BindState::Refusing if is_lost => places.push(*place),
                    BindState::Failed(failed)
                        if matches!(failed.error, BindError::AddressNotLocal(_)) =>
                    {
                        places.push(*place);
                    }
                    _ => {}
                }
            }
        }
        self.retry_places(places).await
    }

    async fn retry_places(&mut self, places: Vec<BindKey>) -> BTreeSet<ServiceName> {
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

    /// Cuts the connections to bind keys that nobody claims when their time to drain is over. Removes the routes of
    /// addresses that nobody claims and nobody is connected to any more.
    async fn retire(&mut self) {
        let now = Instant::now();
        let mut over = Vec::new();
        let mut quiet = BTreeSet::new();
        self.retiring.retain(|place, retiring| {
            let slot = &retiring.slot;
            if slot.active.get() == 0 {
                quiet.insert(place.listen.0.ip());
                return false;
            }
            if retiring.until <= now && !slot.cut.is_cancelled() {
                slot.cut.cancel();
                over.push(slot.number);
            }
            true
        });
        for place in over {
            self.cut(Cut::Slot(place));
        }
        for address in quiet {
            if !self.is_used(address) {
                self.opener.routes.remove(address).await;
            }
        }
    }

    /// All Services of the start have been applied: removes routes that an earlier process has left behind.
    pub(crate) async fn synced(&mut self) {
        self.synced = true;
        self.opener.leave_rest(self.entries.keys().copied());
        self.retain_routes().await;
    }

    /// Removes our routes to addresses that are not in use.
    async fn retain_routes(&mut self) {
        let ours = self.opener.routes.ours();
        for address in ours {
            if !self.is_used(address) {
                self.opener.routes.remove(address).await;
            }
        }
    }

    /// Whether an external address is claimed, or somebody may still be connected to it.
    fn is_used(&self, address: IpAddr) -> bool {
        let mut retiring = self.retiring.range(first_at(address)..);
        let retires = retiring
            .next()
            .is_some_and(|(place, _)| place.listen.0.ip() == address);
        retires || self.is_vip(address)
    }

    /// The external addresses that are claimed.
    fn vips(&self) -> BTreeSet<IpAddr> {
        let vips = self.entries.iter().filter(|(_, entry)| entry.is_vip());
        vips.map(|(place, _)| place.listen.0.ip()).collect()
    }

    /// Whether an external address is claimed.
    fn is_vip(&self, address: IpAddr) -> bool {
        self.entries
            .range(first_at(address)..)
            .take_while(|(place, _)| place.listen.0.ip() == address)
            .any(|(_, entry)| entry.is_vip())
    }

    /// The listeners of a Service with their states.
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
                        BindState::Listening(_) => ListenerState::Listening,
                        BindState::New | BindState::Refusing => ListenerState::Refusing,
                        BindState::Failed(failed) => failed.error.state(),
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

    /// The slot of a bind key that is claimed.
    pub(crate) fn slot(&self, place: BindKey) -> Option<&Arc<Slot>> {
        Some(&self.entries.get(&place)?.slot)
    }

    /// Whether a bind key has sockets, or connections to it are steered.
    pub(crate) fn is_listening(&self, place: BindKey) -> bool {
        let entry = self.entries.get(&place);
        entry.is_some_and(|entry| matches!(entry.standing, BindState::Listening(_)))
    }

    /// Closes every listener; established connections go on.
    pub(crate) async fn close(&mut self) {
        let mut closing = Vec::new();
        for entry in self.entries.values() {
            if let BindState::Listening(binding) = &entry.standing {
                binding.close();
                closing.push(binding.clone());
            }
        }
        for binding in closing {
            binding.closed().await;
        }
    }

    /// Tells the workers to cut those of these connections whose time to drain is over.
    pub(crate) fn cut(&self, cut: Cut) {
        for worker in &self.opener.workers {
            worker.mailbox().send(WorkerCommand::Cut(cut));
        }
    }

    /// Tells the workers that the port of that number has another idle time now.
    pub(crate) fn review(&self, port: u32) {
        for worker in &self.opener.workers {
            worker.mailbox().send(WorkerCommand::Review(port));
        }
    }

    /// Tells the workers that no connection comes any more.
    pub(crate) fn drain(&self) {
        for worker in &self.opener.workers {
            worker.mailbox().send(WorkerCommand::Drain);
        }
    }

    /// Ends the workers with all connections, and removes our routes if no other process has taken them over.
    pub(crate) async fn end(self, keep_routes: bool) {
        self.opener.end(keep_routes).await;
    }
}

/// The first bind key that an address can have: those of one address are together in the maps.
fn first_at(address: IpAddr) -> BindKey {
    BindKey {
        listen: ListenAddr(SocketAddr::new(address, 0)),
        protocol: Protocol::Tcp,
    }
}
