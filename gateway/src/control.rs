//! The control task: objects in, routes built, listeners programmed, reports out.
//!
//! It alone decides, on a thread of its own; workers only see the result. The start, a change of an object,
//! of the host's addresses or of a DNS answer all take the same path: take in, build, program, report.
//!
//! This file has the loop. `announce` says what may be announced, `serving` hands a new route to a Service's ports,
//! `transparent` has what dialling from clients' addresses needs, `reporting` makes the reports, `report_queue` knows which were sent, `drain_queue` which ports and endpoints drain;
//! `ending` is the end, and `handover` its part when one process takes over from another.

mod announce;
mod drain_queue;
mod ending;
mod handover;
mod report_queue;
mod reporting;
mod serving;
mod transparent;
mod transparent_services;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fairway_config::drained::DrainedEndpoints;
use fairway_config::exchange::Batch;
use fairway_config::names::ServiceName;
use fairway_config::net::AddressRange;
use fairway_gateway_core::build::Builder;
use fairway_gateway_core::route::Route;
use fairway_gateway_core::source_pool::SourcePool;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::drain_queue::{DrainQueue, Draining};
pub(crate) use self::handover::{HandoverRequest, TakenAnnouncing};
use self::report_queue::ReportQueue;
use self::transparent_services::TransparentServices;
use crate::announcing::Announcing;
use crate::bgp::control::BgpControl;
use crate::bgp::shown::BgpShown;
use crate::checks::CheckThread;
use crate::descriptors::Share;
use crate::dials::Dials;
use crate::dns::{DnsAnswer, DnsNames};
use crate::engine::Cut;
use crate::fleet::{AddressReportOutbox, RunningFleet};
use crate::handed::HandedSegment;
use crate::host;
use crate::inherited::Inherited;
use crate::kernel_routes::control::KernelRoutesControl;
use crate::local::{self, LocalRoutes};
use crate::metrics::{PROGRAMMING_DURATION, SYNC_DURATION};
use crate::node_proxy::NodeProxy;
use crate::port::Port;
use crate::programmer::{Opener, Programmer};
use crate::published::{Ports, Published};
use crate::reports::ReportSink;
use crate::settings::GatewaySettings;
use crate::shared::GatewayShared;
use crate::slot::Health;
use crate::stalls::WorkerLoops;
use crate::worker::WorkerThreads;

/// The most batches that are taken in before the next build: a flood of batches must not delay it without end.
const COALESCED: usize = 1024;

/// How often clients are forgotten whose affinity has timed out.
const EXPIRY: Duration = Duration::from_secs(60);

/// How often refused clients are collected, at least.
const COLLECT: Duration = Duration::from_secs(15);

/// The control task of a gateway.
pub(crate) struct ControlTask {
    settings: GatewaySettings,
    shared: Arc<GatewayShared>,
    published: Arc<Published>,
    builder: Builder,
    names: DnsNames,
    dials: Dials,
    checks: CheckThread,
    programmer: Programmer,
    bgp: BgpControl,
    kernel_routes: KernelRoutesControl,
    services: BTreeMap<ServiceName, ServedService>,
    /// How many file descriptors the ports of each namespace hold.
    shares: BTreeMap<Arc<str>, Arc<Share>>,
    /// The ports and endpoints that drain.
    draining: DrainQueue,
    /// When clients are forgotten next whose affinity has timed out.
    expiry: Instant,
    /// When refused clients are collected next.
    collect: Instant,
    /// The seed of the last port: each port's round-robin starts with another endpoint.
    seed: u64,
    /// Whether every object that there was at the start has been taken in.
    synced: bool,
    /// The host's addresses with their interfaces.
    links: host::HostAddresses,
    /// The version of the source-address pool that the workers have.
    source_pool: Option<u64>,
    /// The sequence of the last batch that was taken in.
    taken: u64,
    /// The revision of the store up to that batch.
    revision: u64,
    reports: ReportQueue,
    announcing: Announcing,
    node_proxy: NodeProxy,
    transparent: TransparentServices,
    /// The loops that carry traffic.
    loops: WorkerLoops,
    /// What the fleet says of addresses.
    address_reports: Arc<AddressReportOutbox>,
    /// Runs from the first pool on that announces on layer 2.
    fleet: Option<RunningFleet>,
    /// What another process of this gateway had, for the fleet to go on with.
    continuations: Vec<HandedSegment>,
    /// When starting it is tried again.
    fleet_retry: Option<Instant>,
    /// The addresses for which the kernel must not answer by itself; none: that has not been said yet.
    guarded: Option<Vec<AddressRange>>,
    /// Cancelled when connections are not to have their time to drain.
    cut: CancellationToken,
}

/// What is kept of a Service while its route changes.
#[derive(Default)]
struct ServedService {
    route: Option<Arc<Route>>,
    ports: Ports,
    health: Option<Arc<Health>>,
}

/// What the control task waits for.
enum ControlEvent {
    Stop,
    Objects(Batch),
    StoreGone,
    Host(host::HostAddresses),
    Routes(local::Changed),
    Names(Vec<DnsAnswer>),
    Dials,
    Checks,
    Addresses,
    /// Somebody has asked this process to drain, or to end that.
    Drain(bool),
    /// Somebody drains endpoints, or ends that.
    Drained(Arc<DrainedEndpoints>),
    NodeProxy,
    /// A process takes over, here or from here.
    Handover(HandoverRequest),
    Time,
}

impl ControlTask {
    pub(crate) async fn new(
        settings: GatewaySettings,
        shared: Arc<GatewayShared>,
        published: Arc<Published>,
        bgp: Arc<BgpShown>,
        (workers, inherited): (Vec<WorkerThreads>, Option<Inherited>),
        cut: CancellationToken,
    ) -> Self {
        let routes = LocalRoutes::open(settings.make_local).await;
        let loops = workers.iter();
        let loops = loops.map(|worker| (worker.mailbox().clone(), worker.beat().clone()));
        let loops: WorkerLoops = loops.collect();
        let fleet = &settings.fleet;
        let (members, key) = (fleet.members.iter().cloned(), fleet.key.clone());
        let announcing = Announcing::new(settings.name.clone(), members, key);
        let announceable = announcing.subscribe();
        let kernel_routes = KernelRoutesControl::new(
            announceable.clone(),
            loops.clone(),
            published.kernel_routes.clone(),
        );
        let bgp = BgpControl::new(settings.name.clone(), announceable, loops.clone(), bgp);
        let opener = Opener::new(workers, shared.descriptors.clone(), routes);
        let mut opener = opener.with_reader_timeout(shared.reader_timeout);
        opener.inherit(inherited);
        if settings.steering {
            opener.steer();
            if let Some(refusals) = opener.refusals() {
                // Nobody else sets it.
                let _ = shared.refusals.set(refusals.clone());
            }
        }
        let programmer = Programmer::new(opener, settings.drain_timeout);
        let mut builder = Builder::new(settings.core.clone());
        builder.set_drained(settings.drained.clone());
        published.set_drained(settings.drained.clone());
        Self {
            shared,
            published,
            builder,
            names: DnsNames::new(settings.name_server),
            dials: Dials::default(),
            checks: CheckThread::default(),
            programmer,
            bgp,
            kernel_routes,
            services: BTreeMap::new(),
            shares: BTreeMap::new(),
            draining: DrainQueue::default(),
            expiry: Instant::now() + EXPIRY,
            collect: Instant::now() + COLLECT,
            seed: 0,
            synced: false,
            links: host::HostAddresses::new(),
            source_pool: None,
            taken: 0,
            revision: 0,
            reports: ReportQueue::default(),
            announcing,
            node_proxy: NodeProxy::default(),
            transparent: TransparentServices::new(settings.transparent_mark),
            loops,
            address_reports: Arc::default(),
            fleet: None,
            continuations: Vec::new(),
            fleet_retry: None,
            guarded: None,
            cut,
            settings,
        }
    }

    /// Runs until `shutdown`, then drains.
    pub(crate) async fn run(
        mut self,
        mut objects: mpsc::Receiver<Batch>,
        mut handover: mpsc::Receiver<HandoverRequest>,
        reports: ReportSink,
        shutdown: CancellationToken,
    ) {
        let (sender, mut addresses) = watch::channel(None);
        let watching = tokio::spawn(host::watch(sender));
        let (sender, mut routes) = mpsc::channel(1);
        let watching_routes = tokio::spawn(local::watch(sender));
        // Where node ports are served and what must not be dialled depends on the addresses.
        tokio::select! {
            () = shutdown.cancelled() => {}
            known = addresses.wait_for(Option::is_some) => {
                let known = known.ok().and_then(|known| known.clone());
                self.host(known.unwrap_or_default());
            }
        }
        let mut store = true;
        let mut drain_asked = self.shared.drain_asked.subscribe();
        let mut drained = self.shared.drained.subscribe();
        loop {
            let due = self.due();
            // Objects last: a flood of them must not delay the other events.
            let event = tokio::select! {
                biased;
                () = shutdown.cancelled() => ControlEvent::Stop,
                () = sleep_until(due) => ControlEvent::Time,
                Ok(()) = addresses.changed() => {
                    ControlEvent::Host(addresses.borrow_and_update().clone().unwrap_or_default())
                }
                Some(changed) = routes.recv() => ControlEvent::Routes(changed),
                answers = self.names.answers() => ControlEvent::Names(answers),
                () = self.dials.told() => ControlEvent::Dials,
                () = self.checks.told() => ControlEvent::Checks,
                () = self.address_reports.told() => ControlEvent::Addresses,
                Ok(()) = drain_asked.changed() => ControlEvent::Drain(*drain_asked.borrow_and_update()),
                Ok(()) = drained.changed() => ControlEvent::Drained(drained.borrow_and_update().clone()),
                () = self.node_proxy.changed() => ControlEvent::NodeProxy,
                Some(request) = handover.recv() => ControlEvent::Handover(request),
                batch = objects.recv(), if store => batch.map_or(ControlEvent::StoreGone, ControlEvent::Objects),
            };
            match event {
                ControlEvent::Stop => break,
                ControlEvent::StoreGone => store = false,
                ControlEvent::Objects(batch) => self.objects(batch, &mut objects).await,
                ControlEvent::Host(known) => {
                    self.host(known);
                    self.rebuild().await;
                    let touched = self.programmer.addresses_changed().await;
                    self.report(touched);
                }
                ControlEvent::Routes(changed) => {
                    let touched = self.programmer.routes_changed(changed).await;
                    self.report(touched);
                }
                ControlEvent::Names(answers) => {
                    self.names(answers).await;
                    // A flood of answers must not delay objects either.
                    if let Ok(batch) = objects.try_recv() {
                        self.objects(batch, &mut objects).await;
                    }
                }
                ControlEvent::Dials => self.dials.schedule(Instant::now()),
                ControlEvent::Checks => self.report(self.checks.take_changes()),
                ControlEvent::Addresses => self.reports.set_addresses(self.address_reports.take()),
                ControlEvent::Drain(is_asked) => {
                    self.announcing.set_asked_to_drain(is_asked);
                    if self.announce_pools().await {
                        self.announce_services();
                    }
                }
                ControlEvent::Drained(drained) => {
                    self.builder.set_drained(drained.clone());
                    self.rebuild().await;
                    self.published.set_drained(drained);
                }
                ControlEvent::Handover(request) => {
                    if self.hand_over(request).await {
                        break;
                    }
                }
                ControlEvent::NodeProxy => self.report(self.forwarded_services()),
                ControlEvent::Time => {
                    self.look_at_dials();
                    self.drain();
                    self.expire();
                    self.collect_refused();
                    self.retry_fleet();
                    self.look_at_ways_back().await;
                    let touched = self.programmer.retry().await;
                    self.report(touched);
                }
            }
            self.programmer.tell();
            let revision = if self.synced { self.revision } else { 0 };
            if let Some(batch) = self.reports.take(revision) {
                reports(batch);
            }
            if self.synced {
                self.published.set_done(self.taken);
            }
        }
        watching.abort();
        watching_routes.abort();
        if self.shared.handed_over.load(Ordering::Acquire) {
            // Nothing is taken back of what the other process goes on with.
            self.fleet = None;
        }
        if let Some(fleet) = &mut self.fleet {
            // What is to be said of it would come too late for others.
            fleet.leave().await;
            self.reports.set_addresses(self.address_reports.take());
            let revision = if self.synced { self.revision } else { 0 };
            if let Some(batch) = self.reports.take(revision) {
                reports(batch);
            }
        }
        self.stop().await;
    }

    /// Takes the host's addresses in.
    fn host(&mut self, known: host::HostAddresses) {
        self.builder
            .set_host_addresses(known.keys().copied().collect());
        self.published.set_host(host::told(&known));
        self.bgp.set_links(&known);
        self.links = known;
        self.source_pool = None;
        self.set_source_pool();
    }

    /// Gives the workers the source-address pool, if it has changed.
    fn set_source_pool(&mut self) {
        let (version, own) = self.builder.own_addresses();
        if self.source_pool == Some(version) {
            return;
        }
        let own = own.iter().filter_map(|own| self.links.get_key_value(own));
        let pool = SourcePool::new(own.map(|(address, it)| (*address, it.link)));
        self.shared.source_pool.store(Arc::new(pool));
        self.source_pool = Some(version);
    }

    /// Takes in a batch of objects, with those that wait behind it.
    async fn objects(&mut self, first: Batch, more: &mut mpsc::Receiver<Batch>) {
        let began = std::time::Instant::now();
        let mut synced = first.synced;
        let mut since = first.since;
        self.taken = first.sequence;
        self.revision = first.revision;
        self.builder.apply(&first);
        self.announcing.apply(&first.changes);
        self.bgp.apply(&first.changes);
        for _ in 1..COALESCED {
            let Ok(batch) = more.try_recv() else { break };
            synced |= batch.synced;
            since = since.into_iter().chain(batch.since).min();
            self.taken = batch.sequence;
            self.revision = batch.revision;
            self.builder.apply(&batch);
            self.announcing.apply(&batch.changes);
            self.bgp.apply(&batch.changes);
        }
        // Nothing is decided before all objects are here.
        self.synced |= synced;
        if !self.synced {
            return;
        }
        let programmed = self.rebuild().await;
        if !self.published.is_synced() {
            self.programmer.synced().await;
            self.shared.fleet.set_joining(self.wants_fleet());
            self.published.set_synced();
            self.start_fleet();
        }
        let took = began.elapsed().as_secs_f64();
        metrics::histogram!(SYNC_DURATION, "component" => "gateway").record(took);
        if let Some(since) = since.filter(|_| programmed) {
            let took = since.elapsed().as_secs_f64();
            metrics::histogram!(PROGRAMMING_DURATION).record(took);
        }
    }

    /// Takes in answers of name servers, and builds once for all of them.
    async fn names(&mut self, answers: Vec<DnsAnswer>) {
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
        self.note_lacking();
        self.report(affected);
    }

    /// Builds the routes that have changed and programs them. Returns whether any of them has a listener.
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
        // Before that the other process tells routers.
        let may_announce = !self.shared.taking_over.load(Ordering::Acquire);
        if may_announce {
            self.bgp.settle();
        }
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
        self.note_lacking();
        let mut programmed = false;
        let mut updates = Vec::with_capacity(built.len());
        let mut services = BTreeSet::new();
        for (service, route) in built {
            services.insert(service.clone());
            let wanted = self.serve(&service, route);
            programmed |= !wanted.is_empty();
            updates.push((service, wanted));
        }
        let has_moved = self.announce_pools().await;
        if may_announce {
            self.kernel_routes.settle();
        }
        updates.extend(self.settle_transparent().await);
        services.extend(self.programmer.apply(updates).await);
        if has_moved {
            self.announce_services();
        }
        services.extend(self.builder.take_reapplied());
        self.report(services);
        programmed
    }

    /// Drains the endpoints that the route of a port no longer lists.
    fn drain_endpoints(&mut self, port: Arc<Port>) {
        let drain = self.settings.drain_timeout;
        let drained = port.drain(std::time::Instant::now(), drain);
        if drained.cut {
            self.programmer.cut(Cut::Port(port.number));
        }
        if let Some(until) = drained.next {
            let until = Instant::from_std(until);
            self.draining.push(until, Draining::Endpoints(port));
        }
    }

    /// Cuts the ports and endpoints whose time to drain is over.
    fn drain(&mut self) {
        for draining in self.draining.take_due(Instant::now()) {
            match draining {
                Draining::Port(port) => {
                    port.cut.cancel();
                    self.programmer.cut(Cut::Port(port.number));
                }
                Draining::Endpoints(port) => self.drain_endpoints(port),
            }
        }
    }

    /// Forgets clients whose affinity has timed out.
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

    /// Collects refused clients also while nobody asks for metrics. Another process that takes a closed port and
    /// leaves it again between two looks is not noticed, and its clients would count as refused.
    fn collect_refused(&mut self) {
        if Instant::now() < self.collect {
            return;
        }
        self.collect = Instant::now() + COLLECT;
        if let Some(refusals) = self.shared.refusals.get().cloned() {
            let now = self.shared.clock.now();
            tokio::task::spawn_blocking(move || refusals.collect(now));
        }
    }

    /// Looks which endpoints are unreachable, and reports the Services where that has changed.
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
        let drain = self.draining.next_due();
        let due = drain.into_iter().chain(self.programmer.next_retry());
        let due = due.chain(self.fleet_due()).chain(self.transparent.due());
        due.chain([self.expiry, self.collect])
            .chain(self.dials.due())
            .min()
    }
}

/// Sleeps until `due`; for ever where that is none.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
