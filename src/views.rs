//! What the admin address shows of controller, store and gateway together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{ClaimKind, ListenerState};
use fairway_config::names::ServiceName;
use fairway_config::problem::Problem;
use fairway_config::view::{
    EndpointRow, Explanation, GatewayRow, ListenerRow, PoolRow, Readiness, Section, ServiceRow,
};
use fairway_controller::{DirectoryStore, Handle, Store as _};
use fairway_gateway::Gateway;
use fairway_gateway::admin::Views;
use fairway_gateway::metrics::{self, Recorder, Snapshot};

/// Everything of a process that runs both.
pub(crate) struct Whole {
    controller: Handle<DirectoryStore>,
    store: Arc<DirectoryStore>,
    gateway: Gateway,
    recorder: Recorder,
}

impl Whole {
    pub(crate) fn new(
        controller: Handle<DirectoryStore>,
        store: Arc<DirectoryStore>,
        gateway: Gateway,
        recorder: Recorder,
    ) -> Self {
        Self {
            controller,
            store,
            gateway,
            recorder,
        }
    }

    /// Works off what histograms have collected.
    pub(crate) fn upkeep(&self) {
        self.recorder.upkeep();
    }

    /// The external addresses, and whether this host answers for each.
    fn vips(&self) -> BTreeMap<IpAddr, bool> {
        let mut vips = BTreeMap::new();
        for ListenerRow { listener, .. } in self.gateway.listeners() {
            if listener.kind == ClaimKind::Vip {
                let stands = !matches!(listener.state, ListenerState::Failed { .. });
                *vips.entry(listener.listen.0.ip()).or_default() |= stands;
            }
        }
        vips
    }

    fn snapshot(&self) -> Snapshot {
        let counts = self.controller.counts();
        let ports = self.gateway.ports().into_iter();
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            ports: ports
                .map(|(service, port)| ((service, port.route().key), port))
                .collect(),
            pools: counts.pools,
            node_ports: BTreeMap::from([
                ("used", as_u64(counts.node_ports.used)),
                ("free_static", as_u64(counts.node_ports.free_static)),
                ("free_dynamic", as_u64(counts.node_ports.free_dynamic)),
            ]),
            services: BTreeMap::from([
                ("assigned", as_u64(counts.services.assigned)),
                ("pending", as_u64(counts.services.pending)),
                ("other", as_u64(counts.services.other)),
            ]),
            vips_owned: self.vips(),
        }
    }
}

impl Views for Whole {
    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").to_owned()
    }

    fn services(&self) -> Vec<ServiceRow> {
        self.controller.services()
    }

    fn endpoints(&self) -> Vec<EndpointRow> {
        self.gateway.endpoints()
    }

    fn pools(&self) -> Vec<PoolRow> {
        self.controller.pools()
    }

    fn gateways(&self) -> Vec<GatewayRow> {
        let readiness = self.readiness();
        vec![GatewayRow {
            ready: readiness.ready,
            why: readiness.missing.join("; "),
            ..self.gateway.row()
        }]
    }

    fn listeners(&self) -> Vec<ListenerRow> {
        self.gateway.listeners()
    }

    fn problems(&self) -> Vec<Problem> {
        self.store.problems()
    }

    fn explain(&self, service: &ServiceName) -> Option<Explanation> {
        let about = format!("Service {service}");
        let problems = self.store.problems().into_iter();
        let problems: Vec<String> = problems
            .filter(|it| it.object == about)
            .map(|it| it.to_string())
            .collect();
        let known = self.controller.explain(service);
        // A Service that could never be read is not known, and just then people ask.
        if known.is_none() && problems.is_empty() {
            return None;
        }
        let mut sections = known.unwrap_or_default();
        sections.extend(self.gateway.explain(service));
        if !problems.is_empty() {
            sections.push(Section {
                title: "Problems".to_owned(),
                sentences: problems,
            });
        }
        Some(Explanation {
            service: service.to_string(),
            sections,
        })
    }

    fn readiness(&self) -> Readiness {
        // In this order: what follows from a batch is told before the batch is done. So what both
        // have done is everything only if nothing else has been told since they were asked.
        let done = self.controller.done().min(self.gateway.done());
        let mut missing = self.controller.missing();
        missing.extend(self.gateway.missing());
        // Each may be idle while the other's last word is still on its way to it.
        if missing.is_empty() && done < self.store.sequence() {
            missing.push("the latest changes are being worked in".to_owned());
        }
        Readiness {
            ready: missing.is_empty(),
            missing,
        }
    }

    fn metrics(&self) -> String {
        metrics::render(&self.snapshot()) + &self.recorder.render()
    }
}

fn as_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
