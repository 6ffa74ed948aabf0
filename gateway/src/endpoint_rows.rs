//! The rows of `get endpoints`: every endpoint of a Service, its state, and the reason for it.

use std::collections::BTreeMap;

use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::view::EndpointRow;
use fairway_gateway_core::reachability::FailedDials;
use fairway_gateway_core::route::Tick;

use crate::clock::Clock;
use crate::published::PublishedService;

/// The rows of one Service, port by port.
pub(crate) fn endpoint_rows(
    service: &ServiceName,
    shown: &PublishedService,
    clock: &Clock,
) -> Vec<EndpointRow> {
    let mut rows = Vec::new();
    let now = clock.now();
    for (key, port) in shown.ports.iter() {
        let route = port.route().clone();
        let states: BTreeMap<_, _> = port.endpoints().into_iter().collect();
        let row = |endpoint, node: &Option<ClusterName>, state: &str, why: String| EndpointRow {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            port: key.port,
            protocol: key.protocol,
            endpoint,
            state: state.to_owned(),
            why,
            node: node.as_ref().map(ToString::to_string),
            active: states.get(&endpoint).map_or(0, |state| state.active.get()),
        };
        rows.extend(route.endpoints.eligible.iter().map(|endpoint| {
            let failed = states
                .get(&endpoint.addr)
                .and_then(|state| state.failed_dials());
            let (state, why) = match failed {
                None => ("eligible", "gets traffic".to_owned()),
                Some(failed) => failing(&failed, now, clock),
            };
            row(endpoint.addr, &endpoint.node, state, why)
        }));
        rows.extend(route.endpoints.excluded.iter().map(|excluded| {
            row(
                excluded.addr,
                &excluded.node,
                excluded.why.state(),
                excluded.why.to_string(),
            )
        }));
    }
    rows
}

/// The state of an eligible endpoint whose last dials have failed, and the reason to show.
fn failing(failed: &FailedDials, now: Tick, clock: &Clock) -> (&'static str, String) {
    let FailedDials {
        count, since, why, ..
    } = failed;
    let times = match count {
        1 => "once".to_owned(),
        _ => format!("{count} times"),
    };
    let (since, last) = (clock.timestamp(*since), clock.timestamp(failed.last));
    if failed.is_unreachable(now) {
        let why = format!("is unreachable since {since}: {why}, {times}; it still gets its share");
        ("unreachable", why)
    } else if failed.is_old(now) {
        let why = format!("gets traffic; when it was last dialled, at {last}, it failed: {why}");
        ("eligible", why)
    } else {
        let why = format!("gets traffic; its last dial failed at {last}: {why}, {times}");
        ("eligible", why)
    }
}
