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
use fairway_config::port_limits::LimitsInForce;
use fairway_gateway_core::affinity::Affinity;
use fairway_gateway_core::client_network::ClientNetwork;
use fairway_gateway_core::client_room::ClientRoom;
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::health::{
    CheckVerdict, FailureRun, HealthFailure, HealthHistory, HealthSuccess, HealthVerdict,
};
use fairway_gateway_core::limits::{ClientLimits, OverLimit};
use fairway_gateway_core::pick::{Balancer, Picked};
use fairway_gateway_core::route::{Endpoint, RoutePort, Tick};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::counters::{Counters, Rejection};
use crate::descriptors::Share;
use crate::dial_changes::DialChanges;
use crate::endpoint_state::EndpointState;
use crate::port_clients::{CountedClient, PortClients};
use crate::refusal_words::in_words;
use crate::routed::{Routed, ServingEndpoints};

/// One port of a Service. It stays while the port is in its Service, whatever route it has.
#[derive(Debug)]
pub struct Port {
    /// The number of the port, local to this process.
    pub(crate) number: u32,
    routed: ArcSwap<Routed>,
    balancer: Balancer,
    clients: Arc<PortClients>,
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
            clients: Arc::new(PortClients::new(seed)),
            counters: Counters::default(),
            endpoints: Mutex::default(),
            unreachable: ArcSwap::default(),
            changes,
            share: Arc::default(),
            cut: CancellationToken::new(),
        }
    }

    /// The same port. What it remembers of clients shares its room with all ports. To be called before it has clients.
    pub(crate) fn remembering(
        mut self,
        seed: u64,
        affinity_room: Arc<ClientRoom>,
        clients: PortClients,
    ) -> Self {
        self.balancer = Balancer::within(seed, affinity_room);
        self.clients = Arc::new(clients);
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
        clock: &Clock,
    ) -> Result<(), Rejection> {
        let verdict = match kind {
            _ if route.options.closed => Err(Rejection::ProxyProtocol),
            _ if route.options.limits.closed => Err(Rejection::Unreadable),
            ClaimKind::Vip if route.sources.denies(client) => Err(Rejection::DenyRange),
            ClaimKind::Vip if !route.sources.allows(client) => Err(Rejection::SourceRange),
            ClaimKind::NodePort if route.loop_guard.contains(&client.to_canonical()) => {
                Err(Rejection::Loop)
            }
            _ => Ok(()),
        };
        if let Err(why) = verdict {
            self.refuse_many(why, 1, clock.now());
        }
        verdict
    }

    /// Counts one more connection, or flow, of a client. Where the client is over a limit, `refuse` is called before any of
    /// its connections can end; whether it has told the kernel.
    ///
    /// # Errors
    /// The limit that the client is over; not counted yet.
    pub(crate) fn enter(
        &self,
        route: &RoutePort,
        client: IpAddr,
        now: Tick,
        refuse: impl FnOnce(ClientNetwork, OverLimit) -> bool,
    ) -> Result<CountedClient, Rejection> {
        let port = (self.number, route.key.protocol);
        self.clients.enter(port, &route.limits, client, now, refuse)
    }

    /// Counts a connection, or flow, that another process has handed over, whatever limit its client is over; none where
    /// the port has no limit.
    pub(crate) fn take_in(
        &self,
        route: &RoutePort,
        client: IpAddr,
        now: Tick,
    ) -> Option<CountedClient> {
        if !route.limits.counts_clients() {
            return None;
        }
        let port = (self.number, route.key.protocol);
        let none = LimitsInForce::default();
        let counted = self.clients.enter(port, &none, client, now, |_, _| false);
        counted.ok()
    }

    /// Counts clients that were refused for a limit, or by a list of addresses, and says so in the log now and then.
    pub(crate) fn refuse_many(&self, why: Rejection, count: u64, now: Tick) {
        if count == 0 {
            return;
        }
        self.counters.reject_many(why, count);
        if let Some(log) = self.clients.note_refused(why, count, now) {
            let route = self.routed.load();
            log.say(&route.service, route.key, &in_words(why, &route), now);
        }
    }

    /// Who was refused in the last minute, by reason.
    pub(crate) fn refused_lately(&self, now: Tick) -> Vec<(Rejection, u64)> {
        self.clients.refused_lately(now)
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

    /// A probe of the endpoint's own port has ended: what it has shown; none: it has failed. So many in a row (`rise`) end
    /// what its traffic has found.
    pub fn probed(
        &self,
        endpoint: EndpointAddr,
        shown: Option<HealthSuccess>,
        rise: u16,
        now: Tick,
    ) {
        if self.endpoint(endpoint).health.probed(shown, rise, now) {
            self.changed();
        }
    }

    /// Which endpoint each client was given, where that is remembered.
    pub(crate) fn affinity(&self) -> &Affinity {
        self.balancer.affinity()
    }

    /// How much its clients have, and how fast they were.
    pub(crate) fn client_limits(&self) -> &ClientLimits {
        self.clients.limits()
    }

    /// What is known of its endpoints, for another process.
    pub(crate) fn health(&self) -> Vec<(EndpointAddr, HealthHistory)> {
        let states = self.lock_states();
        let known = states.iter();
        known
            .map(|(addr, state)| (*addr, state.health.history()))
            .collect()
    }

    /// Goes on with what another process knew of an endpoint. One that the route does not list may be another server.
    pub(crate) fn go_on_with(&self, endpoint: EndpointAddr, known: HealthHistory) {
        if self.route().endpoints.lists(endpoint) {
            self.endpoint(endpoint).health.go_on(known);
            self.changed();
        }
    }

    /// What the check of an endpoint says.
    pub(crate) fn checked(&self, endpoint: EndpointAddr) -> Option<CheckVerdict> {
        let state = self.lock_states().get(&endpoint).cloned();
        state?.health().checked
    }

    /// Forgets the clients whose affinity has timed out, and those that no limit needs to know any more. To be called
    /// from time to time.
    pub fn expire(&self, now: Tick) {
        let route = self.route();
        self.balancer.expire(&route, now);
        self.clients.expire(&route.limits, now);
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

    /// The address of the endpoint that has this state; none where it is an endpoint of this port no more.
    pub(crate) fn address_of(&self, state: &Arc<EndpointState>) -> Option<EndpointAddr> {
        let states = self.lock_states();
        let mut all = states.iter();
        let (addr, _) = all.find(|(_, it)| Arc::ptr_eq(it, state))?;
        Some(*addr)
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

    /// Counts a connection that has ended because the endpoint's machine has acknowledged nothing. What was asked began
    /// `took` ago.
    pub(crate) fn went_silent(&self, endpoint: &EndpointState, took: Duration, now: Tick) {
        self.counters.connect_error(DialFailure::Silent);
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let began = Tick(now.0.saturating_sub(took));
        if endpoint.health.went_silent(began, now) {
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
        if endpoint.health.answered(now) {
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
