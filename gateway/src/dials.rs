//! Endpoints that fail, as the control task sees them.
//!
//! A worker that sees an endpoint become unreachable, left alone, or reached again, notes the name of the Service
//! ([`DialChanges`]). The control task looks at these Services, at most once a second, and logs a bounded
//! number of lines ([`Dials`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fairway_config::exchange::{ListenerReport, ListenerState};
use fairway_config::names::ServiceName;
use fairway_config::net::EndpointAddr;
use fairway_config::service::PortKey;
use fairway_gateway_core::route::Tick;
use fairway_gateway_core::service_lines::ServiceLines;
use tokio::time::Instant;

use crate::clock::Clock;
use crate::dial_changes::DialChanges;
use crate::port::{FailingEndpoint, Port};

/// The shortest time between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// How often Services with endpoints that fail are looked at again. An endpoint that nobody dials stops
/// counting as unreachable after a while, and no worker notes that.
const REVIEW: Duration = Duration::from_secs(15);

/// Which endpoints fail, and when to look again.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    changes: Arc<DialChanges>,
    /// When to look next.
    due: Option<Instant>,
    looked: Option<Instant>,
    /// The endpoints that fail of each Service that has some, and whether the endpoint is unreachable. (Those that are
    /// left alone after one time-out are not known to be.)
    failing: BTreeMap<ServiceName, BTreeMap<(PortKey, EndpointAddr), bool>>,
    log: Log,
}

impl Dials {
    /// Where ports note changes.
    pub(crate) fn changes(&self) -> &Arc<DialChanges> {
        &self.changes
    }

    /// Waits until a change is noted. [`Self::schedule`] has to follow.
    pub(crate) async fn told(&self) {
        self.changes.told().await;
    }

    /// Sets [`Self::due`], because a change was noted.
    pub(crate) fn schedule(&mut self, now: Instant) {
        let at = self.looked.map_or(now, |looked| now.max(looked + PAUSE));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// When [`Self::look`] has something to do.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks at the Services that were noted, and at those with endpoints that fail. Returns the Services whose
    /// report may have changed.
    pub(crate) fn look<'a>(
        &mut self,
        ports: impl Fn(&ServiceName) -> &'a [(PortKey, Arc<Port>)],
        tick: Tick,
        now: Instant,
    ) -> BTreeSet<ServiceName> {
        if self.due.is_none_or(|due| due > now) {
            return BTreeSet::new();
        }
        self.looked = Some(now);
        let mut services = self.changes.take();
        services.extend(self.failing.keys().cloned());
        services.retain(|service| self.look_at(service, ports(service), tick));
        self.log.flush(tick);
        let is_open = !self.failing.is_empty() || self.log.lines.has_unsaid();
        self.due = is_open.then(|| now + REVIEW);
        services
    }

    /// A Service has another route, or is gone: forgets the endpoints that it no longer has.
    pub(crate) fn changed(
        &mut self,
        service: &ServiceName,
        ports: &[(PortKey, Arc<Port>)],
        tick: Tick,
    ) {
        if self.failing.contains_key(service) {
            self.look_at(service, ports, tick);
        }
    }

    /// Sets the state of listening listeners to [`ListenerState::Unreachable`] where no endpoint of their port is
    /// reached.
    pub(crate) fn mark(
        &self,
        service: &ServiceName,
        ports: &[(PortKey, Arc<Port>)],
        listeners: &mut [ListenerReport],
        clock: &Clock,
    ) {
        let Some(failing) = self.failing.get(service) else {
            return;
        };
        for (key, port) in ports {
            let of_port = failing
                .iter()
                .filter(|((other, _), is_unreachable)| other == key && **is_unreachable);
            let count = of_port.count();
            if count == 0 || count < port.route().endpoints.eligible.len() {
                continue;
            }
            let message = unreached(port, clock);
            for listener in &mut *listeners {
                let is_of_port = (listener.protocol, listener.port) == (key.protocol, key.port);
                if is_of_port && listener.state == ListenerState::Listening {
                    let message = message.clone();
                    listener.state = ListenerState::Unreachable { message };
                }
            }
        }
    }

    /// Looks at the endpoints of one Service. Returns whether the set of those that fail has changed.
    fn look_at(
        &mut self,
        service: &ServiceName,
        ports: &[(PortKey, Arc<Port>)],
        tick: Tick,
    ) -> bool {
        let before = self.failing.remove(service).unwrap_or_default();
        let mut after = BTreeMap::new();
        for (key, port) in ports {
            for failing in port.review(tick) {
                let at = (*key, failing.addr);
                after.insert(at, failing.is_unreachable);
                if !before.contains_key(&at) {
                    self.log.failing(service, *key, &failing, tick);
                }
            }
        }
        for (key, addr) in before.keys().filter(|at| !after.contains_key(*at)) {
            let port = ports.iter().find(|(other, _)| other == key);
            let is_reached = port.is_some_and(|(_, port)| port.is_reached(*addr));
            self.log.over(service, *key, *addr, is_reached);
        }
        let is_news = before != after;
        if !after.is_empty() {
            self.failing.insert(service.clone(), after);
        }
        is_news
    }
}

/// How many endpoints a message names.
const NAMED: usize = 3;

/// The end of a sentence about a port without a reachable endpoint. It contains nothing that changes with each
/// dial, because the controller writes the status anew when the sentence changes.
fn unreached(port: &Port, clock: &Clock) -> String {
    let unreachable = port.unreachable();
    let failed: Vec<_> = port
        .states()
        .into_iter()
        .filter(|(addr, _)| unreachable.contains(addr))
        .filter_map(|(addr, state)| Some((addr, state.health().run?)))
        .collect();
    let mut named: Vec<String> = failed
        .iter()
        .take(NAMED)
        .map(|(addr, failed)| {
            let since = clock.timestamp(failed.since);
            format!("{addr} since {since} ({})", failed.why)
        })
        .collect();
    if failed.len() > NAMED {
        named.push(format!("{} more", failed.len() - NAMED));
    }
    format!("no endpoint is reached: {}", named.join(", "))
}

/// The lines in the log, and their bound.
#[derive(Debug, Default)]
struct Log {
    lines: ServiceLines,
    /// The endpoints that were logged as unreachable. Only of these the end is logged.
    said: BTreeSet<(ServiceName, PortKey, EndpointAddr)>,
}

impl Log {
    fn failing(
        &mut self,
        service: &ServiceName,
        port: PortKey,
        failing: &FailingEndpoint,
        now: Tick,
    ) {
        self.flush(now);
        if !self.lines.may_say(service) {
            return;
        }
        let endpoint = failing.addr;
        self.said.insert((service.clone(), port, endpoint));
        let (reason, failures) = (failing.run.why.as_str(), failing.run.count);
        if failing.is_out {
            tracing::warn!(
                %service, %port, %endpoint, reason, failures,
                "endpoint is not reached: it is left alone, and tried from time to time"
            );
        } else {
            tracing::warn!(
                %service, %port, %endpoint, reason, failures,
                "endpoint is not reached: its last dials have failed, and it still gets its share"
            );
        }
    }

    fn over(
        &mut self,
        service: &ServiceName,
        port: PortKey,
        endpoint: EndpointAddr,
        is_reached: bool,
    ) {
        // Logged only for endpoints that were logged as unreachable, so it has the same bound.
        if !self.said.remove(&(service.clone(), port, endpoint)) {
            return;
        }
        if is_reached {
            tracing::info!(%service, %port, %endpoint, "endpoint is reached again");
        } else {
            tracing::info!(
                %service, %port, %endpoint,
                "endpoint is no longer known to fail: it is not eligible, or nobody dials it"
            );
        }
    }

    /// Says how many lines had no room in the minute that is over.
    fn flush(&mut self, now: Tick) {
        let unsaid = self.lines.turn(now);
        if unsaid > 0 {
            tracing::warn!(
                endpoints = unsaid,
                "more endpoints were not reached: see fairway get endpoints"
            );
        }
    }
}

#[cfg(test)]
mod tests;
