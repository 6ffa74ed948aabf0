//! The route of a port, and its endpoints sorted out: replaced together, so that a pick has both of one moment.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use fairway_gateway_core::available::{Available, AvailableEndpoint};
use fairway_gateway_core::route::{Endpoint, RoutePort};

use crate::endpoint_state::EndpointState;

/// The eligible endpoints of a port with their states, sorted out.
pub type ServingEndpoints = Available<Arc<EndpointState>>;

/// A route as a port has it.
#[derive(Debug)]
pub struct Routed {
    route: Arc<RoutePort>,
    /// Made when it is first asked for: most ports of a large cluster have no traffic.
    available: OnceLock<ServingEndpoints>,
    is_presence_noted: OnceLock<()>,
}

impl Routed {
    /// A route whose endpoints are not sorted out yet.
    pub(crate) fn new(route: Arc<RoutePort>) -> Self {
        Self {
            route,
            available: OnceLock::new(),
            is_presence_noted: OnceLock::new(),
        }
    }

    /// The route alone.
    pub(crate) fn shared_route(&self) -> Arc<RoutePort> {
        self.route.clone()
    }

    /// The endpoints, sorted out. `states` gives the state of each.
    pub(crate) fn available(
        &self,
        states: impl FnOnce(&[Endpoint]) -> Vec<Arc<EndpointState>>,
    ) -> &ServingEndpoints {
        self.available.get_or_init(|| {
            let eligible = &self.route.endpoints.eligible;
            let states = states(eligible).into_iter();
            let all = eligible.iter().zip(states);
            let all = all.map(|(endpoint, state)| AvailableEndpoint {
                endpoint: endpoint.clone(),
                verdict: state.health.verdict(),
                state,
            });
            Available::balanced(all, self.route.options.balance)
        })
    }

    /// Has noted by `note`, once, which endpoints get traffic with this route, if the port has a slow start.
    pub(crate) fn note_presence(&self, note: impl FnOnce()) {
        let balance = self.route.options.balance;
        if balance.is_some_and(|balance| balance.slow_start.is_some()) {
            self.is_presence_noted.get_or_init(note);
        }
    }
}

impl Deref for Routed {
    type Target = RoutePort;

    fn deref(&self) -> &RoutePort {
        &self.route
    }
}
