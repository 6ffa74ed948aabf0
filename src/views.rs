//! What the admin address shows of controller, store and gateway together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::conditions;
use fairway_config::drained::DrainTarget;
use fairway_config::exchange::{AddressReport, ClaimKind, ListenerState, Report};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::problem::Problem;
use fairway_config::service::ServiceType;
use fairway_config::view::{
    AddressRow, BgpPeerRow, ConditionRow, EndpointRow, Explanation, GatewayRow, ListenerRow,
    OwnerRow, PoolRow, Readiness, Section, ServiceRow,
};
use fairway_controller::{Follower, Handle, OwnAddress, Store};
use fairway_controller_core::{Counts, GatewayCount};
use fairway_gateway::Gateway;
use fairway_gateway::admin::Views;
use fairway_gateway::metrics::{self, MetricsSnapshot, Recorder};

use crate::drained::EndpointDrains;

/// What the admin address can ask of the objects of a process, whether the process decides on them
/// or not.
pub(crate) trait ServiceViews: Send + Sync {
    /// See [`Views::services`].
    fn services(&self) -> Vec<ServiceRow>;
    /// See [`Views::pools`].
    fn pools(&self) -> Vec<PoolRow>;
    /// Gateways that are processes of their own.
    fn gateways(&self) -> Vec<GatewayRow>;
    /// The BGP sessions of gateways that are processes of their own.
    fn peers(&self) -> Vec<BgpPeerRow>;
    /// What gateways say of external addresses.
    fn addresses(&self) -> Vec<AddressRow>;
    /// What the gateway of this process says of them.
    fn own_addresses(&self) -> BTreeMap<IpAddr, OwnAddress>;
    /// Why a Service has what it has; nothing where that is not known here.
    fn explain(&self, service: &ServiceName) -> Option<Vec<Section>>;
    /// Whether this process decides, and is told by gateways how they are.
    fn decides(&self) -> bool;
    /// What is counted, where this process decides.
    fn counts(&self) -> Option<Counts>;
    /// What is held back now, and why.
    fn problems(&self) -> Vec<Problem>;
    /// See [`Views::note`].
    fn note(&self) -> Option<String>;
    /// What is missing until everything is decided and written, a sentence each.
    fn missing(&self) -> Vec<String>;
    /// What keeps a gateway in this process from hearing what it is to serve, besides what it says itself.
    fn unheard(&self) -> Vec<String>;
    /// How much the store has told.
    fn told(&self) -> u64;
    /// The number of the latest batch that has been worked in.
    fn done(&self) -> u64;
}

impl<S: Store> ServiceViews for Handle<S> {
    fn services(&self) -> Vec<ServiceRow> {
        Handle::services(self)
    }

    fn pools(&self) -> Vec<PoolRow> {
        Handle::pools(self)
    }

    fn gateways(&self) -> Vec<GatewayRow> {
        Handle::gateways(self)
    }

    fn peers(&self) -> Vec<BgpPeerRow> {
        Handle::peers(self)
    }

    fn addresses(&self) -> Vec<AddressRow> {
        Handle::addresses(self)
    }

    fn own_addresses(&self) -> BTreeMap<IpAddr, OwnAddress> {
        Handle::own_addresses(self)
    }

    fn explain(&self, service: &ServiceName) -> Option<Vec<Section>> {
        Handle::explain(self, service)
    }

    fn decides(&self) -> bool {
        true
    }

    fn counts(&self) -> Option<Counts> {
        Some(Handle::counts(self))
    }

    fn problems(&self) -> Vec<Problem> {
        Handle::problems(self)
    }

    fn note(&self) -> Option<String> {
        None
    }

    fn missing(&self) -> Vec<String> {
        Handle::missing(self)
    }

    fn unheard(&self) -> Vec<String> {
        // The controller hears the same store: what it misses is among what is missing.
        Vec::new()
    }

    fn told(&self) -> u64 {
        Handle::told(self)
    }

    fn done(&self) -> u64 {
        Handle::done(self)
    }
}

/// The objects of a process that decides nothing (a gateway).
pub(crate) struct FollowerViews<S> {
    pub(crate) follower: Follower,
    pub(crate) store: Arc<S>,
    /// The name of the gateway in this process.
    pub(crate) gateway: ClusterName,
}

impl<S: Store> ServiceViews for FollowerViews<S> {
    fn services(&self) -> Vec<ServiceRow> {
        let own = self.store.own_addresses();
        let mut rows = self.follower.services();
        for row in &mut rows {
            let said = row.external_ips.iter();
            let said = said.filter_map(|address| Some((address, &own.get(address)?.report)));
            let owners = said.map(|(address, report)| OwnerRow {
                address: *address,
                owner: report.owner_by(&self.gateway).map(str::to_owned),
            });
            row.owners = owners.collect();
        }
        rows
    }

    fn pools(&self) -> Vec<PoolRow> {
        self.follower.pools()
    }

    fn gateways(&self) -> Vec<GatewayRow> {
        Vec::new()
    }

    fn peers(&self) -> Vec<BgpPeerRow> {
        Vec::new()
    }

    fn addresses(&self) -> Vec<AddressRow> {
        let own = self.store.own_addresses().into_iter();
        let rows = own.map(|(address, own)| AddressRow {
            address,
            gateway: self.gateway.to_string(),
            report: AddressReport::clone(&own.report),
        });
        rows.collect()
    }

    fn own_addresses(&self) -> BTreeMap<IpAddr, OwnAddress> {
        self.store.own_addresses()
    }

    fn decides(&self) -> bool {
        false
    }

    fn explain(&self, service: &ServiceName) -> Option<Vec<Section>> {
        let mut rows = self.follower.services().into_iter();
        let row = rows.find(|row| {
            (&*row.namespace, &*row.name) == (&*service.namespace, &*service.name)
                && row.kind == ServiceType::LoadBalancer
        })?;
        let own = self.store.own_addresses();
        let mut sentences = told(&row);
        for address in &row.external_ips {
            let own = own.get(address);
            sentences.extend(own.map(|own| own.report.sentence(*address, &self.gateway)));
        }
        Some(vec![Section {
            title: "Address".to_owned(),
            sentences,
        }])
    }

    fn counts(&self) -> Option<Counts> {
        None
    }

    fn problems(&self) -> Vec<Problem> {
        self.store.problems()
    }

    fn note(&self) -> Option<String> {
        None
    }

    fn missing(&self) -> Vec<String> {
        self.store.outstanding()
    }

    fn unheard(&self) -> Vec<String> {
        self.store.outstanding()
    }

    fn told(&self) -> u64 {
        self.store.sequence()
    }

    fn done(&self) -> u64 {
        // There are no decisions to wait for.
        u64::MAX
    }
}

/// Whether the gateway of this process takes traffic on every listener of a Service.
fn is_served(report: &Report) -> bool {
    let mut listeners = report.listeners.iter();
    listeners.len() > 0 && listeners.all(|it| it.state.is_well())
}

/// What the controller says of a Service, for people who ask a gateway.
fn told(row: &ServiceRow) -> Vec<String> {
    let mut sentences: Vec<String> = row
        .external_ips
        .iter()
        .map(|ip| format!("The controller says that it has {ip}."))
        .collect();
    let concern = |it: &&ConditionRow| match it.kind.as_str() {
        // What this gateway says itself, below, says it better.
        conditions::PROGRAMMED | conditions::ANNOUNCED => false,
        conditions::ADDRESS_ASSIGNED => it.status != "True",
        _ => true,
    };
    let conditions = row.conditions.iter().filter(concern);
    sentences.extend(conditions.map(|it| it.message.clone()));
    if sentences.is_empty() {
        sentences.push(
            "The controller says nothing of it: it has another loadBalancerClass, or none while \
             Fairway is not the default, or no controller runs."
                .to_owned(),
        );
    }
    sentences
}

/// The parts of a process that the admin address shows.
pub(crate) struct ProcessViews {
    known: Arc<dyn ServiceViews>,
    gateway: Option<Gateway>,
    /// Where this process has no cluster.
    drains: Option<Arc<EndpointDrains>>,
    recorder: Recorder,
}

impl ProcessViews {
    pub(crate) fn new(
        known: Arc<dyn ServiceViews>,
        gateway: Option<Gateway>,
        drains: Option<Arc<EndpointDrains>>,
        recorder: Recorder,
    ) -> Self {
        Self {
            known,
            gateway,
            drains,
            recorder,
        }
    }

    /// The number of the latest batch that the store has published.
    pub(crate) fn told(&self) -> u64 {
        self.known.told()
    }

    /// The number of the latest batch that controller and gateway have worked in.
    pub(crate) fn done(&self) -> u64 {
        let gateway = self.gateway.as_ref().map_or(u64::MAX, Gateway::done);
        self.known.done().min(gateway)
    }

    /// Folds the histograms of the recorder.
    pub(crate) fn upkeep(&self) {
        self.recorder.upkeep();
    }

    /// Forgets drained endpoints that no Service has had for long. Blocks for a while.
    pub(crate) fn sweep_drains(&self) {
        if let (Some(gateway), Some(drains)) = (&self.gateway, &self.drains)
            && self.readiness().ready
        {
            drains.sweep(gateway);
        }
    }

    /// The external addresses, and whether this host answers for each: of those that are announced on layer 2,
    /// whether this gateway owns them.
    fn vips(&self, own: &BTreeMap<IpAddr, OwnAddress>) -> BTreeMap<IpAddr, bool> {
        let mut vips = BTreeMap::new();
        for ListenerRow { listener, .. } in self.listeners() {
            if listener.kind == ClaimKind::Vip {
                let stands = !matches!(listener.state, ListenerState::Failed { .. });
                *vips.entry(listener.listen.0.ip()).or_default() |= stands;
            }
        }
        for (address, own) in own {
            let stands = vips.entry(*address).or_default();
            *stands &= own.is_owned();
        }
        vips
    }

    fn snapshot(&self) -> MetricsSnapshot {
        let own = self.known.own_addresses();
        let vips = self.vips(&own);
        // One that is not announced on layer 2 never moves.
        let transitions = |address: &IpAddr| own.get(address).map_or(0, |own| own.transitions);
        let mut snapshot = MetricsSnapshot {
            version: env!("CARGO_PKG_VERSION"),
            revision: env!("FAIRWAY_REVISION"),
            vip_transitions: vips.keys().map(|it| (*it, transitions(it))).collect(),
            vips_owned: vips,
            ..MetricsSnapshot::default()
        };
        if let Some(gateway) = &self.gateway {
            snapshot.bgp_peers = gateway.peers();
            snapshot.kernel_routes = gateway.kernel_routes();
            let ports = gateway.ports().into_iter();
            snapshot.ports = ports
                .map(|(service, port)| ((service, port.route().key), port))
                .collect();
        }
        if let Some(counts) = self.known.counts() {
            snapshot.pools = counts.pools;
            snapshot.node_ports = BTreeMap::from([
                ("used", as_u64(counts.node_ports.used)),
                ("free_static", as_u64(counts.node_ports.free_static)),
                ("free_dynamic", as_u64(counts.node_ports.free_dynamic)),
            ]);
            snapshot.services = BTreeMap::from([
                ("assigned", as_u64(counts.services.assigned)),
                ("pending", as_u64(counts.services.pending)),
                ("other", as_u64(counts.services.other)),
            ]);
            let programmed = counts.programmed.iter();
            snapshot.programmed = programmed
                .map(|(reason, count)| (reason.as_str(), as_u64(*count)))
                .collect();
            let addresses = counts.addresses.iter();
            snapshot.addresses = addresses
                .map(|(state, count)| (state.as_str(), as_u64(*count)))
                .collect();
            let mut gateways = counts.gateways;
            if self.gateway.is_some() {
                // The one in this process, as `get gateways` has it.
                gateways.extend(GatewayCount::ALL.map(|state| (state, 0)));
                let is_ready = self.readiness().ready;
                let state = if is_ready {
                    GatewayCount::Ready
                } else {
                    GatewayCount::NotReady
                };
                gateways.insert(state, 1);
            }
            let gateways = gateways.iter();
            snapshot.gateways = gateways
                .map(|(state, count)| (state.as_str(), as_u64(*count)))
                .collect();
        }
        snapshot
    }
}

impl Views for ProcessViews {
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn services(&self) -> Vec<ServiceRow> {
        let mut rows = self.known.services();
        if let Some(gateway) = &self.gateway {
            for row in &mut rows {
                row.refused = gateway.refused(&ServiceName::new(&*row.namespace, &*row.name));
            }
        }
        // Where this process decides, the rows have the reports of all gateways already.
        if let Some(gateway) = self.gateway.as_ref().filter(|_| !self.known.decides()) {
            for row in &mut rows {
                let name = ServiceName::new(&*row.namespace, &*row.name);
                if let Some(report) = gateway.report(&name) {
                    row.serving = Some(usize::from(is_served(&report)));
                    row.gateways = Some(1);
                    row.endpoints = Some(report.eligible_endpoints);
                }
            }
        }
        rows
    }

    fn endpoints(&self) -> Vec<EndpointRow> {
        let gateway = self.gateway.as_ref();
        gateway.map(Gateway::endpoints).unwrap_or_default()
    }

    fn pools(&self) -> Vec<PoolRow> {
        self.known.pools()
    }

    fn gateways(&self) -> Vec<GatewayRow> {
        // Whether it serves what it is told to, and is told: what the controller in the same process has
        // still to write is no fault of it.
        let row = self.gateway.as_ref().map(|gateway| {
            let row = gateway.row();
            let why = Some(row.why.clone()).filter(|why| !why.is_empty());
            let missing: Vec<String> = why.into_iter().chain(self.known.unheard()).collect();
            let own = self.known.own_addresses();
            GatewayRow {
                addresses: own.values().filter(|own| own.is_owned()).count(),
                ready: missing.is_empty(),
                why: missing.join("; "),
                ..row
            }
        });
        row.into_iter().chain(self.known.gateways()).collect()
    }

    fn listeners(&self) -> Vec<ListenerRow> {
        let gateway = self.gateway.as_ref();
        gateway.map(Gateway::listeners).unwrap_or_default()
    }

    fn addresses(&self) -> Vec<AddressRow> {
        self.known.addresses()
    }

    fn peers(&self) -> Vec<BgpPeerRow> {
        let gateway = self.gateway.iter();
        let own = gateway.flat_map(Gateway::peers);
        own.chain(self.known.peers()).collect()
    }

    fn problems(&self) -> Vec<Problem> {
        let own = self.drains.iter().filter_map(|drains| drains.problem());
        self.known.problems().into_iter().chain(own).collect()
    }

    fn note(&self) -> Option<String> {
        self.known.note()
    }

    fn explain(&self, service: &ServiceName) -> Option<Explanation> {
        let about = format!("Service {service}");
        let mut problems = self.known.problems();
        problems.retain(|it| it.object == about);
        let has_error = problems.iter().any(Problem::is_error);
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let mut sections = self.known.explain(service).unwrap_or_default();
        if let Some(gateway) = &self.gateway {
            sections.extend(gateway.explain(service));
        }
        // A Service that could never be read has no row, but it has problems to show.
        if sections.is_empty() && problems.is_empty() {
            return None;
        }
        let is_it = |row: &ServiceRow| {
            (&*row.namespace, &*row.name) == (&*service.namespace, &*service.name)
        };
        let rows = self.known.services();
        let row = rows.iter().find(|row| is_it(row));
        let held_back = has_error || row.is_some_and(|row| row.source_problem.is_some());
        if !problems.is_empty() {
            sections.push(Section {
                title: "Problems".to_owned(),
                sentences: problems,
            });
        }
        Some(Explanation {
            service: service.to_string(),
            sections,
            held_back,
        })
    }

    fn readiness(&self) -> Readiness {
        // `done` is read before `told`: what follows from a batch is published before the batch
        // counts as done. So all is done only where nothing was published after `done` was read.
        let mut done = self.known.done();
        if let Some(gateway) = &self.gateway {
            done = done.min(gateway.done());
        }
        let mut missing = self.known.missing();
        missing.extend(self.gateway.iter().flat_map(Gateway::missing));
        // Controller and gateway may both be idle while a batch is on its way between them.
        if missing.is_empty() && done < self.known.told() {
            missing.push("the latest changes are being worked in".to_owned());
        }
        Readiness {
            ready: missing.is_empty(),
            missing,
        }
    }

    fn log_filter(&self) -> String {
        crate::logs::filter()
    }

    fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        crate::logs::set_filter(filter)
    }

    fn set_draining(&self, gateway: &str, is_asked: bool) -> Result<(), String> {
        let Some(own) = &self.gateway else {
            return Err("there is no gateway in this process".to_owned());
        };
        if !self.known.decides() {
            return Err(format!(
                "this gateway belongs to a cluster, where its Node says so: fairway drain {gateway} without --admin"
            ));
        }
        let name = own.row().name;
        if name != gateway {
            return Err(format!("the gateway here is {name}, not {gateway}"));
        }
        own.set_asked_to_drain(is_asked);
        Ok(())
    }

    fn set_drained(&self, target: DrainTarget, is_drained: bool) -> Result<(), String> {
        match (&self.gateway, &self.drains) {
            (Some(gateway), Some(drains)) => drains.set(gateway, target, is_drained),
            (None, _) => Err("there is no gateway in this process".to_owned()),
            (Some(_), None) => Err(
                "this gateway belongs to a cluster, which says itself where endpoints get no traffic: kubectl drain NODE \
                 moves the pods of a node, and the annotation fairway.dev/weight: \"0\" on an EndpointSlice keeps new \
                 connections away from its endpoints"
                    .to_owned(),
            ),
        }
    }

    fn metrics(&self) -> String {
        if let Some(gateway) = &self.gateway {
            gateway.observe();
        }
        metrics::render(&self.snapshot()) + &self.recorder.render()
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
