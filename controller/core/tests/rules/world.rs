//! A controller and a store that takes every write at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fairway_config::cluster::{Namespace, Node};
use fairway_config::exchange::*;
use fairway_config::names::ServiceName;
use fairway_config::net::AddressRange;
use fairway_config::pool::AddressPool;
use fairway_config::selector::{Expression, Selector};
use fairway_config::service::*;
use fairway_config::time::Timestamp;
use fairway_controller_core::{Counts, NodePortRange, Settings, State};

use crate::samples;
pub(crate) use crate::samples::port;

/// Fairway by default, and the allocator.
pub(crate) fn settings() -> Settings {
    Settings::standalone("fairway.dev/gateway".into(), NodePortRange::default())
}

/// A LoadBalancer Service `web/NAME` with port 80.
pub(crate) fn service(name: &str, created: i64) -> Service {
    samples::service(ServiceName::new("web", name), created, 80)
}

/// 10.0.0.0/30 without its ends.
pub(crate) fn pool() -> AddressPool {
    samples::pool("edge", range("10.0.0.0", "10.0.0.3"), true)
}

fn range(first: &str, last: &str) -> AddressRange {
    AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
}

/// A pool of other addresses, all of which are given out.
pub(crate) fn other_pool(name: &str, first: &str, last: &str) -> AddressPool {
    samples::pool(name, range(first, last), false)
}

/// Selects what has the label.
pub(crate) fn label(key: &str, value: &str) -> Selector {
    Selector::from(Expression::Equal(key.into(), value.into()))
}

fn gateway_status(name: &str, progress: GatewayProgress) -> GatewayStatus {
    GatewayStatus {
        row: GatewayRow {
            name: name.to_owned(),
            version: String::new(),
            ready: true,
            why: "it was stopped".to_owned(),
            listening: 0,
            failed: 0,
            addresses: 0,
            connections: 0,
            flows: 0,
            started: String::new(),
            omitted: 0,
            draining: None,
            members: 0,
            heard: 0,
            silent: Vec::new(),
        },
        stopped: false,
        progress,
        sessions: [].into(),
        untold_sessions: 0,
        endpoints: Arc::default(),
    }
}

pub(crate) struct World {
    state: State,
    services: BTreeMap<Arc<str>, Arc<StoredService>>,
    pools: BTreeMap<Arc<str>, PoolStatus>,
    /// Every status of each BGPPeer that was written.
    peers: BTreeMap<Arc<str>, Vec<BgpPeerStatus>>,
    pub(crate) now: i64,
    /// The statuses of pools and BGPPeers are not taken.
    pub(crate) loses_statuses: bool,
    /// Those whose status was not taken.
    lost_pools: BTreeSet<Arc<str>>,
    lost_peers: BTreeSet<Arc<str>>,
    /// Node ports that the allocator refuses.
    pub(crate) refuses: BTreeSet<u16>,
    /// A rule of the cluster is against every question.
    pub(crate) denies: bool,
    /// Those that it was asked for.
    pub(crate) asked: Vec<u16>,
    /// Counts the changes that concern gateways, as an API server does.
    pub(crate) revision: u64,
    /// So many writes there were at a time, at most.
    pub(crate) largest: usize,
}

impl World {
    pub(crate) fn new(settings: Settings, pools: Vec<AddressPool>) -> Self {
        let mut world = Self {
            state: State::new(settings),
            services: BTreeMap::new(),
            pools: BTreeMap::new(),
            peers: BTreeMap::new(),
            now: 5,
            loses_statuses: false,
            lost_pools: BTreeSet::new(),
            lost_peers: BTreeSet::new(),
            refuses: BTreeSet::new(),
            denies: false,
            asked: Vec::new(),
            revision: 0,
            largest: 0,
        };
        let pools = pools.into_iter();
        let changes = pools.map(|pool| Change::Pool(Arc::clone(&pool.name), Some(Arc::new(pool))));
        world.apply(changes.collect());
        world
    }

    /// These Services are there, or changed, all at once.
    pub(crate) fn put<const N: usize>(&mut self, services: [Service; N]) {
        let changes = services.into_iter().map(|service| {
            self.revision += 1;
            let name = service.name.clone();
            let old = self.services.get(&name.name);
            let stored = Arc::new(StoredService {
                held: old.map(|old| old.held.clone()).unwrap_or_default(),
                status: old.map(|old| old.status.clone()).unwrap_or_default(),
                version: old.map_or(1, |old| old.version + 1),
                revision: self.revision,
                source: Some("web.yaml, document 1".into()),
                ..StoredService::new(Arc::new(service))
            });
            self.services
                .insert(Arc::clone(&name.name), Arc::clone(&stored));
            Change::Service(name, Some(stored))
        });
        let changes = changes.collect();
        self.apply(changes);
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let gone = self.services.remove(name).unwrap();
        self.apply(vec![Change::Service(gone.service.name.clone(), None)]);
    }

    pub(crate) fn pool(&mut self, pool: AddressPool) {
        self.apply(vec![Change::Pool(
            Arc::clone(&pool.name),
            Some(Arc::new(pool)),
        )]);
    }

    pub(crate) fn delete_pool(&mut self, name: &str) {
        self.apply(vec![Change::Pool(name.into(), None)]);
    }

    pub(crate) fn namespace(&mut self, name: &str, label: (&str, &str)) {
        let namespace = Namespace {
            name: name.into(),
            labels: BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]),
        };
        self.apply(vec![Change::Namespace(
            name.into(),
            Some(Arc::new(namespace)),
        )]);
    }

    /// It is time to ask for node ports again.
    pub(crate) fn ask_again(&mut self, name: &str) {
        let name = ServiceName::new("web", name);
        self.state.refused_node_ports(&name);
        self.apply(vec![]);
    }

    /// It is time to write the statuses again that were not taken.
    pub(crate) fn write_again(&mut self) {
        for name in std::mem::take(&mut self.lost_pools) {
            self.state.refused_pool(&name);
        }
        for name in std::mem::take(&mut self.lost_peers) {
            self.state.refused_bgp_peer(&name);
        }
        self.apply(vec![]);
    }

    /// A node has these addresses; none: it is gone.
    pub(crate) fn node(&mut self, name: &str, addresses: &[&str]) {
        let node = Node {
            name: name.into(),
            internal_ips: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            external_ips: vec![],
            zone: None,
            labels: Default::default(),
            excluded: None,
            draining: None,
        };
        let node = (!addresses.is_empty()).then(|| Arc::new(node));
        self.apply(vec![Change::Node(name.into(), node)]);
    }

    /// A gateway says this of a Service as it is now.
    pub(crate) fn say(&mut self, name: &str, mut report: Report) {
        let stored = &self.services[name];
        report.applied = Some(AppliedService {
            service: Arc::clone(&stored.service),
            held: stored.held.clone(),
        });
        self.say_of_another(name, report);
    }

    /// A gateway says this of a Service, as it was or as it is elsewhere.
    pub(crate) fn say_of_another(&mut self, name: &str, report: Report) {
        let name = ServiceName::new("web", name);
        self.apply(vec![Change::Report(
            name,
            report.gateway.clone(),
            Some(Arc::new(report)),
        )]);
    }

    /// A gateway that is a process of its own says up to where it has applied the store.
    pub(crate) fn applied(&mut self, name: &str, revision: u64) {
        self.gateway(
            name,
            GatewayProgress::Applied {
                revision,
                since_start: true,
                untold: BTreeSet::new(),
            },
        );
    }

    /// A gateway that is a process of its own is so.
    pub(crate) fn gateway(&mut self, name: &str, progress: GatewayProgress) {
        let status = gateway_status(name, progress);
        self.apply(vec![Change::Gateway(name.into(), Some(Arc::new(status)))]);
    }

    /// A gateway that is a process of its own says this of its BGP sessions.
    pub(crate) fn sessions(&mut self, gateway: &str, sessions: &[BgpPeerRow]) {
        self.some_sessions(gateway, sessions, 0);
    }

    /// A gateway that is a process of its own says this of its BGP sessions, and that it has so many more.
    pub(crate) fn some_sessions(&mut self, gateway: &str, sessions: &[BgpPeerRow], more: usize) {
        let status = GatewayStatus {
            sessions: sessions.into(),
            untold_sessions: more,
            ..gateway_status(gateway, GatewayProgress::Gone)
        };
        self.apply(vec![Change::Gateway(
            gateway.into(),
            Some(Arc::new(status)),
        )]);
    }

    /// Every status of a BGPPeer that was written.
    pub(crate) fn peer_statuses(&self, name: &str) -> &[BgpPeerStatus] {
        self.peers.get(name).map_or(&[], Vec::as_slice)
    }

    /// A gateway says that it stops.
    pub(crate) fn stops(&mut self, name: &str) {
        let status = GatewayStatus {
            stopped: true,
            ..gateway_status(name, GatewayProgress::Gone)
        };
        self.apply(vec![Change::Gateway(name.into(), Some(Arc::new(status)))]);
    }

    /// A gateway says this of an external address; nothing: it says nothing of it any more.
    pub(crate) fn address(&mut self, gateway: &str, address: &str, report: Option<AddressReport>) {
        let (address, report) = (address.parse().unwrap(), report.map(Arc::new));
        self.apply(vec![Change::Address(address, gateway.into(), report)]);
    }

    /// So many seconds pass, and something happens that concerns no Service.
    pub(crate) fn pass(&mut self, seconds: i64) {
        self.now += seconds;
        self.apply(vec![]);
    }

    /// The owner of each address of a Service that is announced on layer 2.
    pub(crate) fn owners(&self, name: &str) -> Vec<Option<String>> {
        let owners = self.state.owners(&ServiceName::new("web", name));
        let owners = owners.into_iter();
        owners.map(|it| it.owner.map(|it| it.to_string())).collect()
    }

    /// Whether what that gateway says of an address may be what it said before it died.
    pub(crate) fn is_overtaken(&self, address: &str, gateway: &str) -> bool {
        let address = address.parse().unwrap();
        self.state.is_overtaken(address, gateway)
    }

    /// How many gateways serve a Service, of how many.
    pub(crate) fn serving(&self, name: &str) -> (usize, usize) {
        let traffic = self.state.traffic(&ServiceName::new("web", name)).unwrap();
        (traffic.serving, traffic.gateways)
    }

    /// Another controller finds what this one left.
    pub(crate) fn restart(&mut self, settings: Settings, pools: Vec<AddressPool>) {
        self.restart_with(settings, pools, &[]);
    }

    /// Another controller finds what this one left, and these gateways.
    pub(crate) fn restart_with(
        &mut self,
        settings: Settings,
        pools: Vec<AddressPool>,
        gateways: &[(&str, GatewayProgress)],
    ) {
        self.state = State::new(settings);
        let pools = pools.into_iter();
        let pools = pools.map(|pool| Change::Pool(Arc::clone(&pool.name), Some(Arc::new(pool))));
        let gateways = gateways.iter().map(|(name, progress)| {
            let status = gateway_status(name, progress.clone());
            Change::Gateway((*name).into(), Some(Arc::new(status)))
        });
        let services = self.services.values();
        let services =
            services.map(|it| Change::Service(it.service.name.clone(), Some(Arc::clone(it))));
        let changes = pools.chain(gateways).chain(services).collect();
        self.apply(changes);
    }

    pub(crate) fn apply(&mut self, mut changes: Vec<Change>) {
        for _ in 0..16 {
            self.state
                .apply(&Batch::synced(std::mem::take(&mut changes)));
            let writes = self.state.settle(Timestamp(self.now));
            self.largest = self.largest.max(writes.len());
            for write in writes {
                match write {
                    Write::NodePorts { name, numbers, .. } => {
                        let stored = self.services.get_mut(&name.name).unwrap();
                        self.asked.extend(numbers.values());
                        if self.denies {
                            let why = "denied the request: not now";
                            self.state.rejected_node_ports(&name, why, false);
                            continue;
                        }
                        if numbers.values().any(|it| self.refuses.contains(it)) {
                            let why = "it is allocated already";
                            self.state.rejected_node_ports(&name, why, true);
                            continue;
                        }
                        let mut service = Service::clone(&stored.service);
                        for port in &mut service.ports {
                            let key = port.key();
                            port.node_port = port.node_port.or(numbers.get(&key).copied());
                        }
                        let mut held = stored.held.clone();
                        held.node_ports.extend(numbers);
                        *stored = Arc::new(StoredService {
                            service: Arc::new(service),
                            held,
                            version: stored.version + 1,
                            ..StoredService::clone(stored)
                        });
                        changes.push(Change::Service(name, Some(Arc::clone(stored))));
                    }
                    Write::Pool { name, .. } if self.loses_statuses => {
                        self.lost_pools.insert(name);
                    }
                    Write::BgpPeer { name, .. } if self.loses_statuses => {
                        self.lost_peers.insert(name);
                    }
                    Write::Pool { name, status } => {
                        self.pools.insert(name, status);
                    }
                    Write::BgpPeer { name, status } => {
                        self.peers.entry(name).or_default().push(status);
                    }
                    Write::Service {
                        name, held, status, ..
                    } => {
                        let stored = self.services.get_mut(&name.name).unwrap();
                        let addresses = |status: &Status| -> Vec<_> {
                            status.ingress.iter().map(|ingress| ingress.ip).collect()
                        };
                        let mut revision = stored.revision;
                        if addresses(&stored.status) != addresses(&status) {
                            self.revision += 1;
                            revision = self.revision;
                        }
                        *stored = Arc::new(StoredService {
                            held,
                            status,
                            revision,
                            version: stored.version + 1,
                            ..StoredService::clone(stored)
                        });
                        changes.push(Change::Service(name.clone(), Some(Arc::clone(stored))));
                        self.check_exclusive(&name.name);
                    }
                }
            }
            if changes.is_empty() && !self.state.has_more() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// No port of an address that this Service has is with another one, too.
    fn check_exclusive(&self, name: &str) {
        let ours = &self.services[name].status.ingress;
        for (other, stored) in self.services.iter().filter(|(other, _)| ***other != *name) {
            for theirs in &stored.status.ingress {
                let same_address = ours.iter().filter(|ours| ours.ip == theirs.ip);
                for key in same_address.flat_map(|ours| ours.ports.iter().map(|p| p.key)) {
                    let both = theirs.ports.iter().any(|port| port.key == key);
                    assert!(!both, "{} {key} is with {name} and {other}", theirs.ip);
                }
            }
        }
    }

    pub(crate) fn held(&self, name: &str) -> &Held {
        &self.services[name].held
    }

    pub(crate) fn status(&self, name: &str) -> &Status {
        &self.services[name].status
    }

    pub(crate) fn pool_status(&self, name: &str) -> &PoolStatus {
        &self.pools[name]
    }

    /// Addresses, node ports in order, the health check's, and the reason of AddressAssigned.
    pub(crate) fn got(&self, name: &str) -> String {
        let held = self.held(name);
        let list = |items: Vec<String>| match items.len() {
            0 => "-".to_owned(),
            _ => items.join(","),
        };
        let numbers = held.node_ports.values().map(ToString::to_string);
        let health = held.health_check_node_port.map(|n| format!("+{n}"));
        let conditions = &self.status(name).conditions;
        let reason = conditions.get("fairway.dev/AddressAssigned");
        format!(
            "{} {} {}",
            list(held.addresses.iter().map(ToString::to_string).collect()),
            list(numbers.chain(health).collect()),
            reason.map_or("-", |condition| &condition.reason)
        )
    }

    /// Status and reason of a condition.
    pub(crate) fn condition(&self, name: &str, kind: &str) -> Option<(bool, &str)> {
        let condition = self.status(name).conditions.get(kind)?;
        Some((condition.status, &condition.reason))
    }

    /// The message of a condition.
    pub(crate) fn message(&self, name: &str, kind: &str) -> &str {
        &self.status(name).conditions.get(kind).unwrap().message
    }

    /// The Events that no status tells: each Service with the reason.
    pub(crate) fn events(&mut self) -> Vec<String> {
        let events = self.state.take_events().into_iter();
        let told = events.map(|(name, event)| format!("{} {}", name.name, event.reason));
        told.collect()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.counts()
    }

    /// What `explain` says under a heading.
    pub(crate) fn explain(&self, name: &str, heading: &str) -> Vec<String> {
        let name = &self.services[name].service.name;
        let sections = self.state.explain(name).unwrap();
        let section = sections.into_iter().find(|s| s.title == heading);
        section.unwrap().sentences
    }
}
