//! Announcing: the control task says what may be announced, and starts the fleet where a pool announces on layer 2.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fairway_config::names::ServiceName;
use fairway_config::net::AddressRange;
use fairway_config::pool::Forwarding;
use fairway_gateway_core::fleet::EndpointReach;
use tokio::time::Instant;

use super::{ControlTask, ServedService};
use crate::announcing::AnnouncedService;
use crate::checks::service_reach;
use crate::clock::wall_time;
use crate::fleet::{FleetInputs, RunningFleet};
use crate::handed::HandedSegment;
use crate::metrics::DRAINING_SINCE;

/// How long it is waited until the kernel is told, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(2);

/// When starting the fleet is tried again.
const RETRY: Duration = Duration::from_secs(10);

impl ControlTask {
    /// Takes in pools, Nodes and other gateways. The kernel is kept from answering for the pools' addresses before
    /// any of them is made local: else it would answer at once, whoever owns them. Returns whether
    /// [`Self::announce_services`] has to follow.
    pub(super) async fn announce_pools(&mut self) -> bool {
        self.watch_node_proxy();
        let has_moved = self.announcing.settle(&self.builder);
        self.show_draining();
        let ranges = self.announcing.layer2_ranges();
        if self.guarded.as_ref() != Some(&ranges) {
            self.guard(&ranges).await;
            self.guarded = Some(ranges);
            self.start_fleet();
        }
        has_moved
    }

    /// Shows whether this gateway drains.
    fn show_draining(&self) {
        let draining = self.announcing.draining();
        if self.published.draining() == draining {
            return;
        }
        let since = draining.as_ref().map_or(0, |_| wall_time().0);
        metrics::gauge!(DRAINING_SINCE).set(since as f64);
        match &draining {
            Some(why) => {
                tracing::info!(%why, "drains: it hands over the addresses that it owns");
            }
            None => tracing::info!("drains no more: it may take addresses again"),
        }
        self.published.set_draining(draining);
    }

    /// Takes in all Services anew.
    pub(super) fn announce_services(&mut self) {
        let services = self.services.keys();
        let announced: Vec<_> = services
            .map(|service| (service, self.announced(service)))
            .collect();
        self.announcing.set_services(announced);
    }

    /// A Service as what may be announced follows from it.
    pub(super) fn announced(&self, service: &ServiceName) -> AnnouncedService {
        let served = self.services.get(service);
        let route = served.and_then(|served| served.route.as_ref());
        let mut listeners = self.programmer.listeners(service);
        let forwarded = route.iter().flat_map(|route| &route.forwarded);
        listeners.extend(forwarded.map(|place| self.node_proxy.report(place)));
        AnnouncedService {
            listeners,
            local_nodes: route.and_then(|route| route.local_nodes.clone()),
            reach: served.map_or_else(EndpointReach::default, |it| service_reach(&it.ports)),
        }
    }

    /// Asks the Node's own proxy whether it works, where that forwards for addresses which are announced here.
    pub(super) fn watch_node_proxy(&mut self) {
        let mut pools = self.builder.pools();
        if self.builder.own_node().is_some() && pools.any(|it| it.forwarding == Forwarding::Node) {
            self.node_proxy.start();
        }
    }

    /// The Services for which the Node's own proxy forwards.
    pub(super) fn forwarded_services(&self) -> BTreeSet<ServiceName> {
        let is_forwarded = |served: &ServedService| {
            let route = served.route.as_ref();
            route.is_some_and(|route| !route.forwarded.is_empty())
        };
        let services = self.services.iter();
        let forwarded = services.filter(|(_, served)| is_forwarded(served));
        forwarded.map(|(service, _)| service.clone()).collect()
    }

    /// Keeps the kernel from answering for these addresses, and waits a moment until it is told. With none, what a
    /// former process has left in place is removed.
    async fn guard(&self, ranges: &[AddressRange]) {
        let layer2 = &self.settings.layer2;
        layer2.guard(ranges.to_vec());
        let told = async {
            while !ranges.is_empty() && !layer2.is_guarding() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, told).await.is_err() {
            tracing::warn!(
                "the kernel was not told in time for which addresses it must not answer"
            );
        }
    }

    /// Starts the fleet where a pool announces on layer 2. At a start of the process only when all Services have their
    /// listeners: a gateway that takes part counts as one that takes what it may, and of several that start together
    /// the first one would have all addresses, for nothing goes back by itself.
    pub(super) fn start_fleet(&mut self) {
        self.fleet_retry = None;
        let is_early = self.shared.taking_over.load(Ordering::Acquire);
        if is_early || self.fleet.is_some() || !self.wants_fleet() || !self.published.is_synced() {
            return;
        }
        let fleet = RunningFleet::start(FleetInputs {
            own: self.settings.name.clone(),
            port: self.settings.fleet.port,
            waits_for_key: self.settings.fleet.waits_for_key,
            announceable: self.announcing.subscribe(),
            loops: self.loops.clone(),
            reports: self.address_reports.clone(),
            shared: self.shared.clone(),
            layer2: self.settings.layer2.clone(),
            drain_timeout: self.settings.drain_timeout,
            continuations: std::mem::take(&mut self.continuations),
        });
        match fleet {
            Ok(fleet) => self.fleet = Some(fleet),
            Err(error) => {
                self.fleet_retry = Some(Instant::now() + RETRY);
                // There is nobody who would end the wait.
                self.shared.fleet.set_joining(false);
                tracing::error!(%error, "addresses can't be announced on layer 2; trying again");
            }
        }
    }

    /// Announces what another process of this gateway has announced so far.
    pub(super) fn go_on_announcing(&mut self, segments: Vec<HandedSegment>) {
        self.continuations = segments;
        self.start_fleet();
    }

    /// Whether a pool announces on layer 2.
    pub(super) fn wants_fleet(&self) -> bool {
        let ranges = self.guarded.as_ref();
        ranges.is_some_and(|ranges| !ranges.is_empty())
    }

    /// When starting the fleet is tried again, if it has failed.
    pub(super) fn fleet_due(&self) -> Option<Instant> {
        self.fleet_retry
    }

    /// Tries to start the fleet again, if that is due.
    pub(super) fn retry_fleet(&mut self) {
        if self.fleet_retry.is_some_and(|at| at <= Instant::now()) {
            self.start_fleet();
        }
    }
}
