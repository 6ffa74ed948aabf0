//! Serving: a Service's ports and health check get a new route.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fairway_config::names::ServiceName;
use fairway_config::net::Protocol;
use fairway_gateway_core::route::Route;
use tokio::time::Instant;

use super::ControlTask;
use super::drain_queue::Draining;
use crate::descriptors::Share;
use crate::health;
use crate::port::Port;
use crate::port_clients::PortClients;
use crate::programmer::Wanted;
use crate::slot::{BindKey, Health, Target};

impl ControlTask {
    /// Hands the new route of a Service to its ports; none: it carries no traffic any more. Returns the
    /// listeners that it requests.
    pub(super) fn serve(
        &mut self,
        service: &ServiceName,
        route: Option<Arc<Route>>,
    ) -> Vec<Wanted> {
        let mut served = self.services.remove(service).unwrap_or_default();
        let mut before: BTreeMap<_, _> = served.ports.iter().cloned().collect();
        let mut ports = Vec::new();
        let mut wanted = Vec::new();
        let share = self.shares.entry(service.namespace.clone()).or_default();
        let share = share.clone();
        for route in route.iter().flat_map(|route| &route.ports) {
            let mut was_checked = false;
            let port = match before.remove(&route.key) {
                Some(port) => {
                    let before = port.route();
                    was_checked = before.options.health_check.is_some();
                    let is_idle_the_same = before.limits.idle == route.limits.idle;
                    drop(before);
                    port.set_route(route.clone());
                    if !is_idle_the_same {
                        self.programmer.review(port.number);
                    }
                    port
                }
                None => {
                    self.seed = self.seed.wrapping_add(1);
                    let changes = self.dials.changes().clone();
                    let port = Port::with_changes(route.clone(), self.seed, changes);
                    let shared = &self.shared;
                    let blocks = shared.refusals.get();
                    let clients = PortClients::within(
                        self.seed,
                        shared.limit_room.clone(),
                        blocks.map(|refusals| refusals.blocks().clone() as _),
                        shared.refusal_log.clone(),
                    );
                    let room = shared.affinity_room.clone();
                    let port = port.remembering(self.seed, room, clients);
                    Arc::new(port.within(share.clone()))
                }
            };
            self.checks.set(&port, was_checked, &self.shared);
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
        self.transparent
            .set_service(service, route.as_deref(), &self.settings.name);
        ports.sort_unstable_by_key(|(key, _)| *key);
        served.ports = ports.into();
        let tick = self.shared.clock.now();
        self.dials.changed(service, &served.ports, tick);
        for port in before.into_values() {
            self.checks.remove(&port);
            let until = Instant::now() + self.settings.drain_timeout;
            self.draining.push(until, Draining::Port(port));
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
                .store(check.local_endpoints, Ordering::Relaxed);
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
        // No other port of the namespace has this share any more.
        if Arc::strong_count(&share) == 2 {
            self.shares.remove(&service.namespace);
        }
        wanted
    }
}
