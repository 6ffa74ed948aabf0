//! One port of a Service, shared by TCP, UDP and HTTP: its current route, and the state that a new route must not
//! reset.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fairway_config::exchange::ClaimKind;
use fairway_config::net::EndpointAddr;
use fairway_gateway_core::affinity::AffinityRoom;
use fairway_gateway_core::pick::Balancer;
use fairway_gateway_core::reachability::{DialFailure, FailedDials, Reachability};
use fairway_gateway_core::route::{Endpoint, RoutePort, Tick};
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, Gauge, Rejection};
use crate::descriptors::Share;
use crate::dial_changes::DialChanges;

/// One port of a Service. It stays while the port is in its Service, whatever route it has.
#[derive(Debug)]
pub struct Port {
    /// The number of the port, local to this process.
    pub(crate) number: u32,
    route: ArcSwap<RoutePort>,
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

/// The state of one endpoint of one port, which a new route must not reset.
#[derive(Debug)]
pub struct EndpointState {
    /// The outcome of its last dials.
    reachability: Reachability,
    /// Connections and UDP flows to it now.
    pub active: Gauge,
    /// Cancelled when the endpoint, or the whole port, is gone and its time to drain is over: its connections end.
    pub cut: CancellationToken,
    /// When its time to drain is over, where the route no longer lists it.
    leaving: Mutex<Option<Instant>>,
}

impl EndpointState {
    /// The dials that have failed since one last worked; none where the last one worked.
    pub fn failed_dials(&self) -> Option<FailedDials> {
        self.reachability.failed_dials()
    }
}

/// Counts as a connection, a request or a UDP flow of an endpoint until it is dropped.
#[derive(Debug)]
pub(crate) struct Active(Arc<EndpointState>);

impl Active {
    /// Counts one more.
    pub(crate) fn new(state: Arc<EndpointState>) -> Self {
        state.active.increment();
        Self(state)
    }

    /// The endpoint's state.
    pub(crate) fn state(&self) -> &EndpointState {
        &self.0
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.decrement();
    }
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
            route: ArcSwap::new(route),
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

    /// The current route. Takes no lock.
    pub fn route(&self) -> arc_swap::Guard<Arc<RoutePort>> {
        self.route.load()
    }

    /// Replaces the route.
    pub fn set_route(&self, route: Arc<RoutePort>) {
        self.route.store(route);
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
        route: &'a RoutePort,
        client: IpAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<&'a Endpoint> {
        self.balancer.pick(route, client.to_canonical(), now, tried)
    }

    /// Forgets the clients whose affinity has timed out. To be called from time to time.
    pub fn expire(&self, now: Tick) {
        self.balancer.expire(&self.route(), now);
    }

    /// The endpoint for a UDP flow of a client, none of `tried` among them.
    pub fn pick_for_flow<'a>(
        &self,
        route: &'a RoutePort,
        client: SocketAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<&'a Endpoint> {
        self.balancer.pick_for_flow(route, client, now, tried)
    }

    /// The state of `endpoint`. It is created where there is none yet. Takes a lock.
    pub fn endpoint(&self, endpoint: EndpointAddr) -> Arc<EndpointState> {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let state = || EndpointState {
            reachability: Reachability::default(),
            active: Gauge::default(),
            cut: self.cut.child_token(),
            leaving: Mutex::default(),
        };
        endpoints
            .entry(endpoint)
            .or_insert_with(|| Arc::new(state()))
            .clone()
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
        if endpoint.reachability.failed(why, now) {
            self.changes.tell(&self.route.load().service);
        }
    }

    /// Counts a datagram that the endpoint of a UDP flow, or a router on the way, has refused. (UDP has no dial.)
    pub(crate) fn datagram_failed(&self, endpoint: &EndpointState, why: DialFailure, now: Tick) {
        self.counters.connect_error(why);
        // Other errors may come from the datagram itself, as from its length.
        let is_of_the_endpoint = matches!(why, DialFailure::Refused | DialFailure::Unreachable);
        if is_of_the_endpoint && endpoint.reachability.failed(why, now) {
            self.changes.tell(&self.route.load().service);
        }
    }

    /// Counts a dial of an endpoint that worked, which took `took`.
    pub(crate) fn dial_worked(&self, endpoint: &EndpointState, took: Duration) {
        self.counters.connect.observe(took);
        self.answered(endpoint);
    }

    /// Notes that an endpoint has answered.
    pub(crate) fn answered(&self, endpoint: &EndpointState) {
        if endpoint.reachability.worked() {
            self.changes.tell(&self.route.load().service);
        }
    }

    /// Finds the eligible endpoints that are unreachable now, and sets [`Self::unreachable`].
    pub(crate) fn review(&self, now: Tick) -> Vec<(EndpointAddr, FailedDials)> {
        let route = self.route.load();
        let endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let eligible = route.endpoints.eligible.iter();
        let unreachable: Vec<_> = eligible
            .filter_map(|endpoint| {
                let failed = endpoints.get(&endpoint.addr)?.reachability.failed_dials()?;
                failed
                    .is_unreachable(now)
                    .then_some((endpoint.addr, failed))
            })
            .collect();
        if unreachable.is_empty() && self.unreachable.load().is_empty() {
            return unreachable;
        }
        let addresses = unreachable.iter().map(|(addr, _)| *addr).collect();
        self.unreachable.store(Arc::new(addresses));
        unreachable
    }

    /// Whether an endpoint is eligible and was dialled, and the last dial worked.
    pub(crate) fn is_reached(&self, endpoint: EndpointAddr) -> bool {
        let route = self.route.load();
        let mut eligible = route.endpoints.eligible.iter();
        if !eligible.any(|eligible| eligible.addr == endpoint) {
            return false;
        }
        let endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let state = endpoints.get(&endpoint);
        state.is_some_and(|state| state.failed_dials().is_none())
    }

    /// The eligible endpoints that were unreachable at the last review of dials, ordered by
    /// address. Takes no lock.
    pub fn unreachable(&self) -> arc_swap::Guard<Arc<Vec<EndpointAddr>>> {
        self.unreachable.load()
    }

    /// The endpoints that were dialled, with their states.
    pub fn endpoints(&self) -> Vec<(EndpointAddr, Arc<EndpointState>)> {
        let endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        endpoints
            .iter()
            .map(|(addr, state)| (*addr, state.clone()))
            .collect()
    }

    /// Drains the endpoints that the route no longer lists: they keep their connections for `drain`, and are cut
    /// then.
    pub fn drain(&self, now: Instant, drain: Duration) -> Drained {
        let route = self.route.load();
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
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
            state.reachability.worked();
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
