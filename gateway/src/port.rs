//! One port of a Service, shared by TCP, UDP and HTTP: its current route, and the state that a new route must not
//! reset.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fairway_config::exchange::ClaimKind;
use fairway_config::net::EndpointAddr;
use fairway_gateway_core::affinity::AffinityRoom;
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::health::{
    CheckVerdict, FailureRun, HealthFailure, HealthSuccess, HealthVerdict,
};
use fairway_gateway_core::pick::{Balancer, Picked};
use fairway_gateway_core::route::{Endpoint, RoutePort, Tick};
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, Rejection};
use crate::descriptors::Share;
use crate::dial_changes::DialChanges;
use crate::endpoint_state::EndpointState;
use crate::routed::{Routed, ServingEndpoints};

/// One port of a Service. It stays while the port is in its Service, whatever route it has.
#[derive(Debug)]
pub struct Port {
    /// The number of the port, local to this process.
    pub(crate) number: u32,
    routed: ArcSwap<Routed>,
    balancer: Balancer,
    /// The counters of the port.
    pub counters: Counters,
    endpoints: Mutex<BTreeMap<EndpointAddr, Arc<EndpointState>>>,
    /// The eligible endpoints that are unreachable, ordered by address. The list is replaced as a whole, so that
    /// reading it takes no lock.
    unreachable: ArcSwap<Vec<EndpointAddr>>,
    /// Where it is noted that an endpoint becomes unreachable or is reached again.
    changes: Arc<DialChanges>,
    /// The port's share of the file descriptors.
    pub(crate) share: Arc<Share>,
    /// Cancelled when the port is gone and its time to drain is over: every connection ends.
    pub cut: CancellationToken,
}

/// An endpoint that fails, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailingEndpoint {
    pub(crate) addr: EndpointAddr,
    pub(crate) run: FailureRun,
    /// It gets no traffic but trials.
    pub(crate) is_out: bool,
    /// Its last dials have failed, so many that it counts as unreachable.
    pub(crate) is_unreachable: bool,
}

/// The outcome of [`Port::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// When to call it again; none: no endpoint drains.
    pub next: Option<Instant>,
    /// Whether endpoints were cut that have connections.
    pub cut: bool,
}

impl Port {
    /// A port with its first route. `seed` decides with which endpoint its round-robin starts.
    pub fn new(route: Arc<RoutePort>, seed: u64) -> Self {
        Self::with_changes(route, seed, Arc::default())
    }

    /// The same. Endpoints that become unreachable or are reached again are noted in `changes`.
    pub(crate) fn with_changes(
        route: Arc<RoutePort>,
        seed: u64,
        changes: Arc<DialChanges>,
    ) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            // It wraps around after four thousand million ports: the first are long gone by then.
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            routed: ArcSwap::from_pointee(Routed::new(route)),
            balancer: Balancer::new(seed),
            counters: Counters::default(),
            endpoints: Mutex::default(),
            unreachable: ArcSwap::default(),
            changes,
            share: Arc::default(),
            cut: CancellationToken::new(),
        }
    }

    /// The same port. Its affinity table shares its room with all ports. To be called before it has clients.
    pub(crate) fn remembering(mut self, seed: u64, room: Arc<AffinityRoom>) -> Self {
        self.balancer = Balancer::within(seed, room);
        self
    }

    /// The same port. Its file descriptors count for its namespace, too.
    pub(crate) fn within(mut self, namespace: Arc<Share>) -> Self {
        self.share = Share::within(namespace);
        self
    }

    /// The current route, with the endpoints that get traffic now. Takes no lock.
    pub fn route(&self) -> arc_swap::Guard<Arc<Routed>> {
        self.routed.load()
    }

    /// Replaces the route.
    pub fn set_route(&self, route: Arc<RoutePort>) {
        let _lock = self.lock_states();
        self.routed.store(Arc::new(Routed::new(route)));
    }

    /// Sorts the endpoints out anew, when they are next asked for: what is known of one of them has changed.
    fn renew(&self) {
        let _lock = self.lock_states();
        let route = self.routed.load().shared_route();
        self.routed.store(Arc::new(Routed::new(route)));
    }

    fn lock_states(&self) -> MutexGuard<'_, BTreeMap<EndpointAddr, Arc<EndpointState>>> {
        self.endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoints of a route of this port, sorted out. Takes a lock once after each change.
    pub fn available<'a>(&self, routed: &'a Routed) -> &'a ServingEndpoints {
        routed.available(|eligible| {
            let mut states = self.lock_states();
            let mut state = |endpoint: &Endpoint| self.state_of(endpoint.addr, &mut states);
            eligible.iter().map(&mut state).collect()
        })
    }

    /// Whether a client may connect to a listener of this kind. A rejected client is counted.
    ///
    /// # Errors
    /// The reason why it may not.
    pub fn admit(
        &self,
        route: &RoutePort,
        kind: ClaimKind,
        client: IpAddr,
    ) -> Result<(), Rejection> {
        let verdict = match kind {
            _ if route.options.closed => Err(Rejection::ProxyProtocol),
            ClaimKind::Vip if !route.sources.admit(client) => Err(Rejection::SourceRange),
            ClaimKind::NodePort if route.loop_guard.contains(&client.to_canonical()) => {
                Err(Rejection::Loop)
            }
            _ => Ok(()),
        };
        if let Err(why) = verdict {
            self.counters.reject(why);
        }
        verdict
    }

    /// The endpoint for a client's connection or request, none of `tried` among them.
    pub fn pick<'a>(
        &self,
        route: &'a Routed,
        client: IpAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<Picked<'a, Arc<EndpointState>>> {
        let available = self.available(route);
        self.note_presence(route, available, now);
        let client = client.to_canonical();
        let picked = self.balancer.pick(route, available, client, now, tried)?;
        self.note_return(&picked);
        Some(picked)
    }

    /// Notes for a slow start which endpoints get traffic from now on, and which get none any more.
    fn note_presence(&self, routed: &Routed, available: &ServingEndpoints, now: Tick) {
        routed.note_presence(|| {
            let states = self.lock_states();
            let is_first = states.values().all(|state| state.presence.is_unknown());
            for (addr, state) in states.iter() {
                if available.find(*addr).is_some() && !available.is_out(*addr) {
                    state.presence.enter(is_first, now);
                } else {
                    state.presence.leave();
                }
            }
        });
    }

    /// An endpoint that is out of the list may have come back by being asked whether it may be tried.
    fn note_return(&self, picked: &Picked<'_, Arc<EndpointState>>) {
        if picked.is_doubtful && picked.at.state.health.verdict() == HealthVerdict::Healthy {
            self.changed();
        }
    }

    /// What is known of an endpoint has changed.
    fn changed(&self) {
        self.renew();
        self.changes.tell(&self.routed.load().service);
    }

    /// Notes what a check says of an endpoint; none: no check is made.
    pub fn set_checked(&self, endpoint: EndpointAddr, verdict: Option<CheckVerdict>, now: Tick) {
        if self.endpoint(endpoint).health.set_checked(verdict, now) {
            self.changed();
        }
    }

    /// Forgets the clients whose affinity has timed out. To be called from time to time.
    pub fn expire(&self, now: Tick) {
        self.balancer.expire(&self.route(), now);
    }

    /// The endpoint for a UDP flow of a client, none of `tried` among them.
    pub fn pick_for_flow<'a>(
        &self,
        route: &'a Routed,
        client: SocketAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<Picked<'a, Arc<EndpointState>>> {
        let available = self.available(route);
        self.note_presence(route, available, now);
        let picked = self
            .balancer
            .pick_for_flow(route, available, client, now, tried)?;
        self.note_return(&picked);
        Some(picked)
    }

    /// The state of `endpoint`. It is created where there is none yet. Takes a lock.
    pub fn endpoint(&self, endpoint: EndpointAddr) -> Arc<EndpointState> {
        self.state_of(endpoint, &mut self.lock_states())
    }

    fn state_of(
        &self,
        endpoint: EndpointAddr,
        states: &mut BTreeMap<EndpointAddr, Arc<EndpointState>>,
    ) -> Arc<EndpointState> {
        let state = || Arc::new(EndpointState::new(self.cut.child_token()));
        states.entry(endpoint).or_insert_with(state).clone()
    }

    /// Counts a failed dial of an endpoint, which took `took`.
    pub(crate) fn dial_failed(
        &self,
        endpoint: &EndpointState,
        why: DialFailure,
        took: Duration,
        now: Tick,
    ) {
        self.counters.connect_error(why);
        self.counters.connect.observe(took);
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let began = Tick(now.0.saturating_sub(took));
        if endpoint.health.dial_failed(why, began, now) {
            self.changed();
        }
    }

    /// Counts a datagram that the endpoint of a UDP flow, or a router on the way, has refused. (UDP has no dial.)
    pub(crate) fn datagram_failed(&self, endpoint: &EndpointState, why: DialFailure, now: Tick) {
        self.counters.connect_error(why);
        // Other errors may come from the datagram itself, as from its length.
        let is_of_the_endpoint = matches!(why, DialFailure::Refused | DialFailure::Unreachable);
        if is_of_the_endpoint && endpoint.health.failed(HealthFailure::Datagram(why), now) {
            self.changed();
        }
    }

    /// Counts a new connection that an endpoint has reset before it said anything.
    pub(crate) fn was_reset(&self, endpoint: &EndpointState, now: Tick) {
        self.counters.connect_error(DialFailure::Reset);
        if endpoint.health.failed(HealthFailure::Reset, now) {
            self.changed();
        }
    }

    /// Counts a dial of an endpoint that worked, which took `took`.
    pub(crate) fn dial_worked(&self, endpoint: &EndpointState, took: Duration, now: Tick) {
        self.counters.connect.observe(took);
        if endpoint.health.connected(now) {
            self.changed();
        }
    }

    /// Notes that an endpoint has said something on a connection of opaque bytes.
    pub(crate) fn spoke(&self, endpoint: &EndpointState, now: Tick) {
        if endpoint.health.worked(HealthSuccess::FirstByte, now) {
            self.changed();
        }
    }

    /// Notes that an endpoint has answered a request or a datagram.
    pub(crate) fn answered(&self, endpoint: &EndpointState, now: Tick) {
        if endpoint.health.worked(HealthSuccess::Answer, now) {
            self.changed();
        }
    }

    /// Finds the eligible endpoints that fail now, and sets [`Self::unreachable`].
    pub(crate) fn review(&self, now: Tick) -> Vec<FailingEndpoint> {
        let routed = self.routed.load_full();
        let available = self.available(&routed);
        let failing: Vec<_> = available
            .all()
            .filter_map(|it| {
                let run = it.state.health.run()?;
                let is_out = available.is_out(it.endpoint.addr);
                let failing = FailingEndpoint {
                    addr: it.endpoint.addr,
                    run,
                    is_out: is_out && it.verdict != HealthVerdict::FailsChecks && !run.is_old(now),
                    is_unreachable: run.is_unreachable(now),
                };
                (failing.is_out || failing.is_unreachable).then_some(failing)
            })
            .collect();
        if failing.is_empty() && self.unreachable.load().is_empty() {
            return failing;
        }
        let mut addresses: Vec<_> = failing.iter().map(|it| it.addr).collect();
        addresses.sort_unstable();
        self.unreachable.store(Arc::new(addresses));
        failing
    }

    /// Whether there was any traffic, or a check: without either nothing is known of any endpoint.
    pub(crate) fn knows_endpoints(&self) -> bool {
        !self.lock_states().is_empty()
    }

    /// Whether an endpoint is eligible and was dialled, and the last dial worked.
    pub(crate) fn is_reached(&self, endpoint: EndpointAddr) -> bool {
        let routed = self.routed.load_full();
        let found = self.available(&routed).find(endpoint);
        found.is_some_and(|it| it.state.health.run().is_none())
    }

    /// The eligible endpoints that failed at the last review of dials, ordered by
    /// address. Takes no lock.
    pub fn unreachable(&self) -> arc_swap::Guard<Arc<Vec<EndpointAddr>>> {
        self.unreachable.load()
    }

    /// The endpoints that have a state, with it: all eligible ones once there was traffic.
    pub fn states(&self) -> Vec<(EndpointAddr, Arc<EndpointState>)> {
        self.lock_states()
            .iter()
            .map(|(addr, state)| (*addr, state.clone()))
            .collect()
    }

    /// Drains the endpoints that the route no longer lists: they keep their connections for `drain`, and are cut
    /// then.
    pub fn drain(&self, now: Instant, drain: Duration) -> Drained {
        let mut endpoints = self.lock_states();
        let route = self.routed.load();
        let mut next: Option<Instant> = None;
        let mut cut = false;
        endpoints.retain(|addr, state| {
            let mut leaving = state.leaving.lock().unwrap_or_else(PoisonError::into_inner);
            if route.endpoints.lists(*addr) {
                *leaving = None;
                return true;
            }
            let until = *leaving.get_or_insert(now + drain);
            // If it is listed again later, it may be another server.
            state.health.forget();
            // Where others hold the state, the endpoint is being dialled or has connections.
            let used = Arc::strong_count(state) > 1;
            if until <= now || !used {
                cut |= used;
                state.cut.cancel();
                return false;
            }
            next = Some(next.map_or(until, |next| next.min(until)));
            true
        });
        Drained { next, cut }
    }
}

#[cfg(test)]
mod slow_start_tests;
