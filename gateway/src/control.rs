//! The control task: objects in, routes built, listeners programmed, reports out.
//!
//! It is the only one that decides, on a thread of its own; workers only ever see the outcome.
//! Start-up, a change of an object, of the host's addresses or of a DNS answer all take the same
//! path: take in, build, program, report.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use fairway_config::exchange::{AppliedService, Batch, Report, ReportBatch, Unlisted};
use fairway_config::names::ServiceName;
use fairway_config::net::Protocol;
use fairway_config::service::Notice;
use fairway_gateway_core::build::Builder;
use fairway_gateway_core::route::Route;
use fairway_gateway_core::source_pool::SourcePool;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::descriptors::Share;
use crate::dials::Dials;
use crate::engine::Cut;
use crate::health;
use crate::host;
use crate::local::{self, LocalRoutes};
use crate::metrics::{PROGRAMMING_DURATION, SYNC_DURATION};
use crate::names::{NameAnswer, Names};
use crate::port::Port;
use crate::programmer::{Opener, Programmer, Wanted};
use crate::published::{Ports, Published, Shown};
use crate::reports::ReportSink;
use crate::settings::Settings;
use crate::shared::Shared;
use crate::slot::{BindKey, Health, Target};
use crate::worker::WorkerThreads;

/// Batches taken in before the next build, at most: a flood must not keep what is built waiting.
const COALESCED: usize = 1024;

/// The reason of the notice about a DNS name, here and where routes are built.
const NAME_NOT_RESOLVED: &str = "NameNotResolved";

/// How often clients are forgotten whose time with their endpoint is over.
const EXPIRY: Duration = Duration::from_secs(60);

/// How long connections have to end once they are cut.
const CUT: Duration = Duration::from_secs(1);

/// The control task's own.
pub(crate) struct Control {
    settings: Settings,
    shared: Arc<Shared>,
    published: Arc<Published>,
    builder: Builder,
    names: Names,
    dials: Dials,
    programmer: Programmer,
    services: BTreeMap<ServiceName, Served>,
    /// How many file descriptors the ports of each namespace hold.
    shares: BTreeMap<Arc<str>, Arc<Share>>,
    /// When ports and endpoints that go have had their time.
    drains: BTreeMap<Instant, Vec<Drain>>,
    /// When clients are forgotten whose time with their endpoint is over.
    expiry: Instant,
    /// Makes each port's round-robin start elsewhere.
    seed: u64,
    /// Whether every object that there was at the start has been taken in.
    synced: bool,
    /// The host's addresses and their links.
    links: host::Addresses,
    /// Which of the builder's own addresses the workers know.
    source_pool: Option<u64>,
    /// The sequence of the last batch that was taken in.
    taken: u64,
    /// Up to which revision of the store that was.
    revision: u64,
    /// And which one was last said.
    said_revision: u64,
    /// Reports that are still to be said.
    unsent: BTreeMap<ServiceName, Option<Arc<Report>>>,
    sent: BTreeMap<ServiceName, Arc<Report>>,
    /// Told where connections are not to have their time to drain.
    cut: CancellationToken,
}

/// What is kept of a Service between its rebuilds.
#[derive(Default)]
struct Served {
    route: Option<Arc<Route>>,
    ports: Ports,
    health: Option<Arc<Health>>,
}

/// What has its time to go.
enum Drain {
    /// A whole port.
    Port(Arc<Port>),
    /// Some endpoints of a port.
    Endpoints(Arc<Port>),
}

/// What comes in.
enum Event {
    Stop,
    Objects(Batch),
    StoreGone,
    Host(host::Addresses),
    Routes(local::Changed),
    Names(Vec<NameAnswer>),
    Dials,
    Time,
}

impl Control {
    pub(crate) async fn new(
        settings: Settings,
        shared: Arc<Shared>,
        published: Arc<Published>,
        workers: Vec<WorkerThreads>,
        cut: CancellationToken,
    ) -> Self {
        let routes = LocalRoutes::open(settings.make_local).await;
        let mut opener = Opener::new(workers, shared.descriptors.clone(), routes);
        if settings.steering {
            opener.steer();
            if let Some(refusals) = opener.refusals() {
                // Nobody else sets it.
                let _ = shared.refusals.set(refusals.clone());
            }
        }
        let programmer = Programmer::new(opener, settings.drain_timeout);
        Self {
            shared,
            published,
            builder: Builder::new(settings.core.clone()),
            names: Names::new(settings.name_server),
            dials: Dials::default(),
            programmer,
            services: BTreeMap::new(),
            shares: BTreeMap::new(),
            drains: BTreeMap::new(),
            expiry: Instant::now() + EXPIRY,
            seed: 0,
            synced: false,
            links: host::Addresses::new(),
            source_pool: None,
            taken: 0,
            revision: 0,
            said_revision: 0,
            unsent: BTreeMap::new(),
            sent: BTreeMap::new(),
            cut,
            settings,
        }
    }

    /// Runs until `shutdown`, then drains.
    pub(crate) async fn run(
        mut self,
        mut objects: mpsc::Receiver<Batch>,
        reports: ReportSink,
        shutdown: CancellationToken,
    ) {
        let (sender, mut addresses) = watch::channel(None);
        let watching = tokio::spawn(host::watch(sender));
        let (sender, mut routes) = mpsc::channel(1);
        let watching_routes = tokio::spawn(local::watch(sender));
        // Without them it is not known where node ports are served and what must not be dialled.
        tokio::select! {
            () = shutdown.cancelled() => {}
            known = addresses.wait_for(Option::is_some) => {
                let known = known.ok().and_then(|known| known.clone());
                self.host(known.unwrap_or_default());
            }
        }
        let mut store = true;
        loop {
            let due = self.due();
            // Objects last: a flood of them must not keep the rest waiting.
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => Event::Stop,
                () = sleep_until(due) => Event::Time,
                Ok(()) = addresses.changed() => {
                    Event::Host(addresses.borrow_and_update().clone().unwrap_or_default())
                }
                Some(changed) = routes.recv() => Event::Routes(changed),
                answers = self.names.answers() => Event::Names(answers),
                () = self.dials.told() => Event::Dials,
                batch = objects.recv(), if store => batch.map_or(Event::StoreGone, Event::Objects),
            };
            match event {
                Event::Stop => break,
                Event::StoreGone => store = false,
                Event::Objects(batch) => self.objects(batch, &mut objects).await,
                Event::Host(known) => {
                    self.host(known);
                    self.rebuild().await;
                    let touched = self.programmer.addresses_changed().await;
                    self.report(touched);
                }
                Event::Routes(changed) => {
                    let touched = self.programmer.routes_changed(changed).await;
                    self.report(touched);
                }
                Event::Names(answers) => {
                    self.names(answers).await;
                    // Nor must a flood of answers keep objects waiting.
                    if let Ok(batch) = objects.try_recv() {
                        self.objects(batch, &mut objects).await;
                    }
                }
                Event::Dials => self.dials.schedule(Instant::now()),
                Event::Time => {
                    self.look_at_dials();
                    self.drain();
                    self.expire();
                    let touched = self.programmer.retry().await;
                    self.report(touched);
                }
            }
            self.programmer.tell();
            // Together: what is wrong with a Service is said before it counts as applied.
            let revision = if self.synced { self.revision } else { 0 };
            if !self.unsent.is_empty() || self.said_revision != revision {
                self.said_revision = revision;
                reports(ReportBatch {
                    reports: std::mem::take(&mut self.unsent).into_iter().collect(),
                    revision,
                });
            }
            if self.synced {
                self.published.set_done(self.taken);
            }
        }
        watching.abort();
        watching_routes.abort();
        self.stop().await;
    }

    /// The host has these addresses now.
    fn host(&mut self, known: host::Addresses) {
        self.builder
            .set_host_addresses(known.keys().copied().collect());
        self.links = known;
        self.source_pool = None;
        self.set_source_pool();
    }

    /// Tells the workers which addresses they may dial from, where that has changed.
    fn set_source_pool(&mut self) {
        let (version, own) = self.builder.own_addresses();
        if self.source_pool == Some(version) {
            return;
        }
        let own = own.iter().filter_map(|own| self.links.get_key_value(own));
        let pool = SourcePool::new(own.map(|(address, link)| (*address, *link)));
        self.shared.source_pool.store(Arc::new(pool));
        self.source_pool = Some(version);
    }

    /// Takes in a batch and those that wait behind it.
    async fn objects(&mut self, first: Batch, more: &mut mpsc::Receiver<Batch>) {
        let began = std::time::Instant::now();
        let mut synced = first.synced;
        let mut since = first.since;
        self.taken = first.sequence;
        self.revision = first.revision;
        self.builder.apply(&first);
        for _ in 1..COALESCED {
            let Ok(batch) = more.try_recv() else { break };
            synced |= batch.synced;
            since = since.into_iter().chain(batch.since).min();
            self.taken = batch.sequence;
            self.revision = batch.revision;
            self.builder.apply(&batch);
        }
        // Nothing is decided before everything is there.
        self.synced |= synced;
        if !self.synced {
            return;
        }
        let programmed = self.rebuild().await;
        if !self.published.is_synced() {
            self.programmer.synced().await;
            self.published.set_synced();
        }
        let took = began.elapsed().as_secs_f64();
        metrics::histogram!(SYNC_DURATION, "component" => "gateway").record(took);
        if let Some(since) = since.filter(|_| programmed) {
            let took = since.elapsed().as_secs_f64();
            metrics::histogram!(PROGRAMMING_DURATION).record(took);
        }
    }

    /// Takes in what name servers said. All of it is built together.
    async fn names(&mut self, answers: Vec<NameAnswer>) {
        let mut affected = BTreeSet::new();
        let mut any_changed = false;
        for answer in answers {
            let name = answer.name.clone();
            let (changed, other_problem) = self.names.learn(answer);
            if changed {
                self.builder.name_changed(&name);
                any_changed = true;
            }
            if changed || other_problem {
                affected.extend(self.builder.services_of(&name).cloned());
            }
        }
        if any_changed {
            self.rebuild().await;
        }
        self.report(affected);
    }

    /// Builds what changed and programs it. Returns whether there is anything in it to connect to.
    async fn rebuild(&mut self) -> bool {
        if !self.synced {
            return false;
        }
        let names = &self.names;
        let resolved = |host: &fairway_config::endpoints::EndpointHost| match host {
            fairway_config::endpoints::EndpointHost::Ip(address) => vec![*address],
            fairway_config::endpoints::EndpointHost::Name(name) => names.addresses(name),
        };
        let built = self.builder.build(&resolved);
        self.set_source_pool();
        let changed = self.builder.take_changed_names().into_keys();
        let changed: Vec<_> = changed
            .map(|name| {
                let services = self.builder.services_of(&name);
                let namespaces = services.map(|service| service.namespace.clone());
                let namespaces: BTreeSet<_> = namespaces.collect();
                (name, namespaces)
            })
            .collect();
        self.names.want(changed);
        let mut programmed = false;
        let mut updates = Vec::with_capacity(built.len());
        let mut services = BTreeSet::new();
        for (service, route) in built {
            services.insert(service.clone());
            let wanted = self.serve(&service, route);
            programmed |= !wanted.is_empty();
            updates.push((service, wanted));
        }
        services.extend(self.programmer.apply(updates).await);
        services.extend(self.builder.take_reapplied());
        self.report(services);
        programmed
    }

    /// A Service has another route now: its ports get it, and what it wants comes back.
    fn serve(&mut self, service: &ServiceName, route: Option<Arc<Route>>) -> Vec<Wanted> {
        let mut served = self.services.remove(service).unwrap_or_default();
        let mut before: BTreeMap<_, _> = served.ports.iter().cloned().collect();
        let mut ports = Vec::new();
        let mut wanted = Vec::new();
        let share = self.shares.entry(service.namespace.clone()).or_default();
        let share = share.clone();
        for route in route.iter().flat_map(|route| &route.ports) {
            let port = match before.remove(&route.key) {
                Some(port) => {
                    port.set_route(route.clone());
                    port
                }
                None => {
                    self.seed = self.seed.wrapping_add(1);
                    let changes = self.dials.changes().clone();
                    let port = Port::with_changes(route.clone(), self.seed, changes);
                    Arc::new(port.within(share.clone()))
                }
            };
            wanted.extend(route.claims.iter().map(|claim| Wanted {
                place: BindKey {
                    listen: claim.listen,
                    protocol: claim.protocol,
                },
                port: route.key.port,
                target: Target::Port {
                    port: port.clone(),
                    kind: claim.kind,
                },
            }));
            self.drain_endpoints(port.clone());
            ports.push((route.key, port));
        }
        ports.sort_unstable_by_key(|(key, _)| *key);
        served.ports = ports.into();
        let tick = self.shared.clock.now();
        self.dials
            .changed(service, &served.ports, tick, Instant::now());
        for port in before.into_values() {
            let until = Instant::now() + self.settings.drain_timeout;
            self.drains
                .entry(until)
                .or_default()
                .push(Drain::Port(port));
        }
        if let Some(check) = route.as_ref().and_then(|route| route.health_check.as_ref()) {
            let health = served.health.take().unwrap_or_else(|| {
                let local_endpoints = AtomicUsize::new(0);
                Arc::new(Health {
                    service: service.clone(),
                    local_endpoints,
                    connections: health::connections(),
                    share: Share::within(share.clone()),
                })
            });
            health
                .local_endpoints
                .store(check.local_endpoints, std::sync::atomic::Ordering::Relaxed);
            wanted.extend(check.listen.iter().map(|listen| Wanted {
                place: BindKey {
                    listen: *listen,
                    protocol: Protocol::Tcp,
                },
                port: listen.0.port(),
                target: Target::Health(health.clone()),
            }));
            served.health = Some(health);
        } else {
            served.health = None;
        }
        if route.is_some() {
            served.route = route;
            self.services.insert(service.clone(), served);
        }
        // Nobody else has it: it is that of no port any more.
        if Arc::strong_count(&share) == 2 {
            self.shares.remove(&service.namespace);
        }
        wanted
    }

    fn drain_endpoints(&mut self, port: Arc<Port>) {
        let drain = self.settings.drain_timeout;
        let drained = port.drain(std::time::Instant::now(), drain);
        if drained.cut {
            self.programmer.cut(Cut::Port(port.number));
        }
        if let Some(until) = drained.next {
            let until = Instant::from_std(until);
            self.drains
                .entry(until)
                .or_default()
                .push(Drain::Endpoints(port));
        }
    }

    /// Cuts what has had its time.
    fn drain(&mut self) {
        let now = Instant::now();
        while let Some(first) = self.drains.first_entry() {
            if *first.key() > now {
                return;
            }
            for drain in first.remove() {
                match drain {
                    Drain::Port(port) => {
                        port.cut.cancel();
                        self.programmer.cut(Cut::Port(port.number));
                    }
                    Drain::Endpoints(port) => self.drain_endpoints(port),
                }
            }
        }
    }

    /// Forgets clients whose time with their endpoint is over.
    fn expire(&mut self) {
        if Instant::now() < self.expiry {
            return;
        }
        self.expiry = Instant::now() + EXPIRY;
        let now = self.shared.clock.now();
        for served in self.services.values() {
            for (_, port) in served.ports.iter() {
                port.expire(now);
            }
        }
    }

    /// Looks which endpoints are unreachable, and reports where that has changed.
    fn look_at_dials(&mut self) {
        let services = &self.services;
        let ports = |service: &ServiceName| {
            let served = services.get(service);
            served.map(|served| &*served.ports).unwrap_or_default()
        };
        let tick = self.shared.clock.now();
        let changed = self.dials.look(ports, tick, Instant::now());
        self.report(changed);
    }

    fn due(&self) -> Option<Instant> {
        let drain = self.drains.keys().next().copied();
        let due = drain.into_iter().chain(self.programmer.next_retry());
        due.chain([self.expiry]).chain(self.dials.due()).min()
    }

    /// Reports of these Services, where there is something new to say.
    fn report(&mut self, services: BTreeSet<ServiceName>) {
        for service in services {
            let Some(served) = self.services.get(&service) else {
                self.published.remove(&service);
                if self.sent.remove(&service).is_some() {
                    self.unsent.insert(service, None);
                }
                continue;
            };
            let Some(route) = &served.route else { continue };
            let mut notices = route.notices.clone();
            for name in self.builder.names_of(&service) {
                let Some(message) = self.names.problem(name) else {
                    continue;
                };
                // The route can only say that there is no address; here it is known why.
                notices.retain(|notice| {
                    &*notice.reason != NAME_NOT_RESOLVED || !notice.message.contains(&**name)
                });
                notices.push(Notice {
                    reason: NAME_NOT_RESOLVED.into(),
                    message,
                });
            }
            let mut listeners = self.programmer.listeners(&service);
            self.dials
                .mark(&service, &served.ports, &mut listeners, &self.shared.clock);
            listeners.extend(route.lost.iter().cloned());
            let stored = self.builder.stored(&service);
            let report = Arc::new(Report {
                gateway: self.settings.name.clone(),
                applied: stored.map(|stored| AppliedService {
                    service: Arc::clone(&stored.service),
                    held: stored.held.clone(),
                }),
                listeners,
                refused_endpoints: route.refused.clone(),
                eligible_endpoints: route.ports.iter().map(|p| p.endpoints.eligible.len()).sum(),
                notices,
                unlisted: Unlisted::default(),
            });
            let shown = Shown {
                route: route.clone(),
                ports: served.ports.clone(),
                report: report.clone(),
            };
            self.published.set(&service, shown);
            if self.sent.get(&service) != Some(&report) {
                self.sent.insert(service.clone(), report.clone());
                self.unsent.insert(service, Some(report));
            }
        }
    }

    /// Stops accepting, and ends when the last connection has, or its time is over.
    async fn stop(mut self) {
        tracing::info!("no longer accepting, connections drain");
        self.programmer.close().await;
        self.programmer.drain();
        self.shared.connections.close();
        let is_over = tokio::select! {
            () = self.shared.connections.wait() => false,
            () = tokio::time::sleep(self.settings.drain_timeout) => {
                tracing::warn!("time to drain is over, connections are cut");
                true
            }
            () = self.cut.cancelled() => true,
        };
        if is_over {
            let draining = self
                .drains
                .into_values()
                .flatten()
                .map(|drain| match drain {
                    Drain::Port(port) | Drain::Endpoints(port) => port,
                });
            let serving = self
                .services
                .into_values()
                .flat_map(|served| served.ports.to_vec())
                .map(|(_, port)| port);
            for port in draining.chain(serving) {
                port.cut.cancel();
            }
            self.programmer.cut(Cut::All);
            let _ = tokio::time::timeout(CUT, self.shared.connections.wait()).await;
        }
        self.programmer.end().await;
    }
}

/// Never, where there is nothing to wait for.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
