//! One port of a Service as TCP, UDP and HTTP share it: the route of the moment, and what outlives it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use fairway_config::exchange::ClaimKind;
use fairway_config::net::EndpointAddr;
use fairway_gateway_core::pick::Balancer;
use fairway_gateway_core::route::{Endpoint, RoutePort, Tick};
use tokio_util::sync::CancellationToken;

use crate::counters::{Counters, Gauge, Rejection};
use crate::descriptors::Share;

/// One port of a Service. Lives as long as the port is in its Service, through every rebuild.
#[derive(Debug)]
pub struct Port {
    /// Tells the ports of this process apart.
    pub(crate) number: u32,
    route: ArcSwap<RoutePort>,
    balancer: Balancer,
    /// What is counted.
    pub counters: Counters,
    endpoints: Mutex<BTreeMap<EndpointAddr, Arc<EndpointState>>>,
    /// The file descriptors that it holds.
    pub(crate) share: Arc<Share>,
    /// Ends every connection of the port: its Service is gone and has had its time to drain.
    pub cut: CancellationToken,
}

/// What outlives rebuilds of one endpoint of one port.
#[derive(Debug)]
pub struct EndpointState {
    /// Connections and flows to it now.
    pub active: Gauge,
    /// Ends its connections: it, or the whole port, is listed no more and has had its time to
    /// drain.
    pub cut: CancellationToken,
    /// When it is cut, as it is listed no more.
    leaving: Mutex<Option<Instant>>,
}

/// Counts as a connection, or a flow, of an endpoint for as long as it lives.
#[derive(Debug)]
pub(crate) struct Active(Arc<EndpointState>);

impl Active {
    /// One more.
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

/// How it stands with endpoints that are listed no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// When it is to be looked again, if ever.
    pub next: Option<Instant>,
    /// Some that have connections were cut.
    pub cut: bool,
}

impl Port {
    /// A port with its first route. `seed` makes its round-robin start somewhere.
    pub fn new(route: Arc<RoutePort>, seed: u64) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            // Four thousand million ports later the first are long gone.
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            route: ArcSwap::new(route),
            balancer: Balancer::new(seed),
            counters: Counters::default(),
            endpoints: Mutex::default(),
            share: Arc::default(),
            cut: CancellationToken::new(),
        }
    }

    /// The route of the moment. Takes no lock.
    pub fn route(&self) -> arc_swap::Guard<Arc<RoutePort>> {
        self.route.load()
    }

    /// Another route from now on.
    pub fn set_route(&self, route: Arc<RoutePort>) {
        self.route.store(route);
    }

    /// Whether a client may come in by a claim of this kind; counted where not.
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

    /// The endpoint for a client, none of `tried` among them: the one choice for TCP, UDP and HTTP.
    pub fn pick<'a>(
        &self,
        route: &'a RoutePort,
        client: IpAddr,
        now: Tick,
        tried: &[EndpointAddr],
    ) -> Option<&'a Endpoint> {
        self.balancer.pick(route, client.to_canonical(), now, tried)
    }

    /// Forgets the clients whose time with their endpoint is over. To be called now and then.
    pub fn expire(&self, now: Tick) {
        self.balancer.expire(&self.route(), now);
    }

    /// What outlives rebuilds of `endpoint`.
    pub fn endpoint(&self, endpoint: EndpointAddr) -> Arc<EndpointState> {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let state = || EndpointState {
            active: Gauge::default(),
            cut: self.cut.child_token(),
            leaving: Mutex::default(),
        };
        endpoints
            .entry(endpoint)
            .or_insert_with(|| Arc::new(state()))
            .clone()
    }

    /// The endpoints that have had traffic, and their states.
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

    /// Looks after endpoints that the route lists no more: they keep their connections until
    /// `drain` is over and are cut then.
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
            // One that is held elsewhere is just being dialled, or has connections.
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

/// The process's monotonic clock as [`Tick`]s.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Now.
    pub fn now(&self) -> Tick {
        Tick(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}
