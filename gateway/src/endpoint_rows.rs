//! The rows of `get endpoints`: every endpoint of a Service, its state, and the reason for it.

use std::collections::BTreeMap;

use fairway_config::drained::DrainedEndpoints;
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::{EndpointAddr, Protocol};
use fairway_config::view::EndpointRow;
use fairway_gateway_core::endpoint_health::ShownHealth;
use fairway_gateway_core::health::{CheckVerdict, FailureRun};
use fairway_gateway_core::route::{Exclusion, Tick};

use crate::clock::Clock;
use crate::published::PublishedService;
use crate::routed::ServingEndpoints;

/// The rows of one Service, port by port.
pub(crate) fn endpoint_rows(
    service: &ServiceName,
    shown: &PublishedService,
    drained: &DrainedEndpoints,
    clock: &Clock,
) -> Vec<EndpointRow> {
    let mut rows = Vec::new();
    let now = clock.now();
    for (key, port) in shown.ports.iter() {
        let route = port.route().clone();
        // Where nobody has asked for the endpoints yet, they are not sorted out for showing them alone.
        let available = port.knows_endpoints().then(|| port.available(&route));
        let states: BTreeMap<_, _> = port.states().into_iter().collect();
        let since = |endpoint, node: &Option<ClusterName>| drained.since(endpoint, node.as_deref());
        let active = |endpoint| states.get(&endpoint).map_or(0, |state| state.active.get());
        let row = |endpoint, node: &Option<ClusterName>, state: &str, why: String| EndpointRow {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            port: key.port,
            protocol: key.protocol,
            endpoint,
            state: state.to_owned(),
            why,
            node: node.as_ref().map(ToString::to_string),
            active: active(endpoint),
            draining: since(endpoint, node),
        };
        rows.extend(route.endpoints.eligible.iter().map(|endpoint| {
            let health = states.get(&endpoint.addr).map(|state| state.health());
            let (state, mut why) = match (health, available) {
                (Some(health), Some(available)) => {
                    let standing = EndpointStanding::of(available, endpoint.addr);
                    eligible(&health, standing, now, clock)
                }
                _ => ("eligible", "gets traffic".to_owned()),
            };
            if let Some(since) = since(endpoint.addr, &endpoint.node) {
                why += &format!("; it is drained since {since}, and no other one is ready");
            }
            row(endpoint.addr, &endpoint.node, state, why)
        }));
        rows.extend(route.endpoints.excluded.iter().map(|excluded| {
            let mut why = excluded.why.to_string();
            if let Exclusion::Draining(_) = excluded.why {
                why += &match (active(excluded.addr), key.protocol) {
                    (left, Protocol::Udp) => format!("; flows left: {left}"),
                    (left, _) => format!("; connections left: {left}"),
                };
            }
            row(excluded.addr, &excluded.node, excluded.why.state(), why)
        }));
    }
    rows
}

/// How an eligible endpoint stands among the others.
#[derive(Clone, Copy)]
struct EndpointStanding {
    /// It gets no traffic but trials.
    is_out: bool,
    /// There is no other.
    is_single: bool,
    /// All fail their checks.
    ignores_checks: bool,
}

impl EndpointStanding {
    fn of(available: &ServingEndpoints, addr: EndpointAddr) -> Self {
        Self {
            is_out: available.is_out(addr),
            is_single: available.all().count() == 1,
            ignores_checks: available.ignores_checks,
        }
    }
}

/// The state of an eligible endpoint, and the reason to show.
fn eligible(
    health: &ShownHealth,
    standing: EndpointStanding,
    now: Tick,
    clock: &Clock,
) -> (&'static str, String) {
    if let Some(CheckVerdict::Failing { since, why }) = &health.checked {
        let since = clock.timestamp(*since);
        let end = if standing.ignores_checks {
            "; it still gets its share, for all endpoints fail theirs"
        } else {
            ""
        };
        let why = format!("fails its checks since {since}: {why}{end}");
        return ("failing-checks", why);
    }
    let Some(run) = health.run else {
        return ("eligible", "gets traffic".to_owned());
    };
    let FailureRun {
        count, since, why, ..
    } = run;
    let times = match count {
        1 => "once".to_owned(),
        _ => format!("{count} times"),
    };
    let (since, last) = (clock.timestamp(since), clock.timestamp(run.last));
    if run.is_old(now) {
        let why = format!("gets traffic; when it was last tried, at {last}, it failed: {why}");
        return ("eligible", why);
    }
    let rest = if standing.is_out {
        let next = health.ejection.map(|it| it.next_trial);
        match next.filter(|next| *next > now) {
            Some(next) => format!("is left alone, and tried at {}", clock.timestamp(next)),
            None => "is left alone, and tried by the next connection".to_owned(),
        }
    } else if !run.is_unreachable(now) {
        let why = format!("gets traffic; the last try failed at {last}: {why} {times}");
        return ("eligible", why);
    } else if standing.is_single {
        "still gets its share, for there is no other".to_owned()
    } else {
        "still gets its share, for half of them are left alone already".to_owned()
    };
    let why = format!("is unreachable since {since}: {why} {times}; it {rest}");
    ("unreachable", why)
}
