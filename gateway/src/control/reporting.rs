//! What the gateway reports of its Services.

use std::collections::BTreeSet;
use std::sync::Arc;

use fairway_config::exchange::{AppliedService, Report, Unlisted};
use fairway_config::names::ServiceName;
use fairway_config::service::Notice;

use super::ControlTask;
use crate::announcing::AnnouncedService;
use crate::checks::ignored_checks;
use crate::published::PublishedService;

/// The reason of the notice about a DNS name, here and where routes are built.
const NAME_NOT_RESOLVED: &str = "NameNotResolved";

impl ControlTask {
    /// Makes the reports of these Services, and publishes them for the admin address.
    pub(super) fn report(&mut self, services: BTreeSet<ServiceName>) {
        for service in services {
            let Some(served) = self.services.get(&service) else {
                self.announcing
                    .set_service(&service, &AnnouncedService::default());
                self.published.remove(&service);
                self.reports.remove(service);
                continue;
            };
            let Some(route) = &served.route else { continue };
            let mut notices = route.notices.clone();
            for name in self.builder.names_of(&service) {
                let Some(message) = self.names.problem(name) else {
                    continue;
                };
                // The route only says that there is no address. Here the reason is known.
                notices.retain(|notice| {
                    &*notice.reason != NAME_NOT_RESOLVED || !notice.message.contains(&**name)
                });
                notices.push(Notice {
                    reason: NAME_NOT_RESOLVED.into(),
                    message,
                });
            }
            notices.extend(ignored_checks(&served.ports).map(|key| {
                let message = format!(
                    "all endpoints of port {key} fail their check from gateway {}, so it is ignored: traffic goes to all \
                     of them",
                    self.settings.name
                );
                Notice::new("ChecksIgnored", message)
            }));
            notices.extend(self.lost_addresses(route));
            let announced = self.announced(&service);
            self.announcing.set_service(&service, &announced);
            let mut listeners = announced.listeners;
            self.dials
                .mark(&service, &served.ports, &mut listeners, &self.shared.clock);
            listeners.extend(route.lost.iter().cloned());
            let stored = self.builder.stored(&service);
            let of_ports = route.ports.iter().map(|it| it.endpoints.eligible.len());
            // Ports of SCTP are forwarded alone.
            let of_places = route.forwarded.iter().map(|it| it.endpoints);
            let eligible_endpoints = of_ports.sum::<usize>().max(of_places.sum());
            let report = Arc::new(Report {
                gateway: self.settings.name.clone(),
                applied: stored.map(|stored| AppliedService {
                    service: Arc::clone(&stored.service),
                    held: stored.held.clone(),
                }),
                listeners,
                refused_endpoints: route.refused.clone(),
                eligible_endpoints,
                notices,
                unlisted: Unlisted::default(),
            });
            let published = PublishedService {
                route: route.clone(),
                ports: served.ports.clone(),
                report: report.clone(),
            };
            self.published.set(&service, published);
            self.reports.set(service, report);
        }
    }
}
