//! The series of the ports of Services.
//!
//! Their number is bounded (ARCHITECTURE.md, «Metrics have a budget»). A port without traffic has at most eight: those
//! that alerts use, or that show its state. A counter by reason has a series only for reasons that have occurred.
//! Traffic adds the other series.

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_config::names::ServiceName;
use fairway_config::net::Protocol;
use fairway_config::service::{AppProtocol, PortKey};
use fairway_gateway_core::health::HealthVerdict;
use fairway_gateway_core::route::{EndpointSet, Exclusion};

use super::exposition::{Exposition, Family, Labels, MetricKind};
use crate::counters::{CONNECT_BUCKETS, Counters, Rejection};
use crate::port::Port;

/// A port and what its series are made of.
struct PortSeries<'a> {
    labels: Labels,
    protocol: Protocol,
    app: AppProtocol,
    /// It forwards to node ports, so forwarding loops are possible.
    may_loop: bool,
    /// It has had traffic.
    touched: bool,
    counters: &'a Counters,
    endpoints: BTreeMap<&'static str, u64>,
    unreachable: usize,
    /// The endpoints that fail their check; none: they are not checked.
    failing_checks: Option<usize>,
}

impl<'a> PortSeries<'a> {
    fn new((service, key): &(ServiceName, PortKey), port: &'a Port) -> Self {
        let route = port.route();
        let is_checked = route.options.health_check.is_some();
        let failing_checks = is_checked.then(|| {
            let all = port.available(&route).all();
            all.filter(|it| it.verdict == HealthVerdict::FailsChecks)
                .count()
        });
        Self {
            labels: Labels::default()
                .with("namespace", &service.namespace)
                .with("service", &service.name)
                .with("port", key.port)
                .with("protocol", key.protocol),
            protocol: key.protocol,
            app: route.app,
            may_loop: !route.loop_guard.is_empty(),
            touched: port.counters.is_touched(),
            counters: &port.counters,
            endpoints: endpoint_states(&route.endpoints),
            unreachable: port.unreachable().len(),
            failing_checks,
        }
    }
}

/// Writes the families of ports.
pub(super) fn render(out: &mut Exposition, ports: &BTreeMap<(ServiceName, PortKey), Arc<Port>>) {
    let rows: Vec<PortSeries<'_>> = ports
        .iter()
        .map(|(of, port)| PortSeries::new(of, port))
        .collect();
    render_state(out, &rows);
    render_traffic(out, &rows);
    render_reasons(out, &rows);
}

/// The series of a port's state, with and without traffic.
fn render_state(out: &mut Exposition, rows: &[PortSeries<'_>]) {
    let mut family = out.family(
        "fairway_endpoints",
        MetricKind::Gauge,
        "Endpoints by state; eligible: those that get traffic.",
    );
    for row in rows {
        for (state, count) in &row.endpoints {
            family.sample_with(&row.labels, ("state", state), count);
        }
    }
    let mut family = out.family(
        "fairway_endpoints_unreachable",
        MetricKind::Gauge,
        "Eligible endpoints that fail by their traffic: those that are left alone, and those whose last dials have \
         failed, three or more.",
    );
    for row in rows {
        family.sample(&row.labels, row.unreachable);
    }
    let mut family = out.family(
        "fairway_endpoints_failing_checks",
        MetricKind::Gauge,
        "Eligible endpoints that fail their check. Where all do, checks are ignored and all get traffic.",
    );
    for row in rows {
        if let Some(count) = row.failing_checks {
            family.sample(&row.labels, count);
        }
    }
    let mut family = out.family(
        "fairway_connections_total",
        MetricKind::Counter,
        "Connections that ended, and UDP flows that began, by result.",
    );
    for row in rows {
        let Counters {
            completed, failed, ..
        } = row.counters;
        family.sample_with(&row.labels, ("result", "completed"), completed.get());
        family.sample_with(&row.labels, ("result", "failed"), failed.get());
    }
}

/// The series that traffic adds.
fn render_traffic(out: &mut Exposition, rows: &[PortSeries<'_>]) {
    let all = || rows.iter().filter(|row| row.touched);
    let tcp = || all().filter(|row| row.protocol == Protocol::Tcp);
    let udp = || all().filter(|row| row.protocol == Protocol::Udp);

    let mut family = out.family(
        "fairway_connections_active",
        MetricKind::Gauge,
        "TCP connections open now.",
    );
    for row in tcp() {
        family.sample(&row.labels, row.counters.active.get());
    }
    let mut family = out.family("fairway_flows_active", MetricKind::Gauge, "UDP flows now.");
    for row in udp() {
        family.sample(&row.labels, row.counters.flows.get());
    }
    let mut family = out.family(
        "fairway_flows_evicted_total",
        MetricKind::Counter,
        "UDP flows that were evicted for others before their time, for there was no room: --udp-flows, file \
         descriptors, ports of the host, or the flows that the port may have.",
    );
    for row in udp() {
        let evicted = row.counters.flows_evicted.get();
        if evicted > 0 {
            family.sample(&row.labels, evicted);
        }
    }
    let mut family = out.family(
        "fairway_receive_bytes_total",
        MetricKind::Counter,
        "Bytes from clients.",
    );
    for row in all() {
        family.sample(&row.labels, row.counters.received.get());
    }
    let mut family = out.family(
        "fairway_transmit_bytes_total",
        MetricKind::Counter,
        "Bytes to clients.",
    );
    for row in all() {
        family.sample(&row.labels, row.counters.transmitted.get());
    }
    let mut family = out.family(
        "fairway_datagrams_total",
        MetricKind::Counter,
        "Datagrams from clients (receive) and to clients (transmit).",
    );
    for row in udp() {
        let Counters {
            datagrams_received,
            datagrams_transmitted,
            ..
        } = row.counters;
        let (received, transmitted) = (datagrams_received.get(), datagrams_transmitted.get());
        family.sample_with(&row.labels, ("direction", "receive"), received);
        family.sample_with(&row.labels, ("direction", "transmit"), transmitted);
    }
    let mut family = out.family(
        "fairway_connect_duration_seconds",
        MetricKind::Histogram,
        "How long dials of endpoints took, those that failed included.",
    );
    for row in tcp() {
        connect_duration(&mut family, &row.labels, row.counters);
    }
}

/// Counters by reason.
fn render_reasons(out: &mut Exposition, rows: &[PortSeries<'_>]) {
    by_reason(
        out.family(
            "fairway_connect_errors_total",
            MetricKind::Counter,
            "Dials of endpoints that failed, datagrams that they refused, and new connections that they reset before \
             they said anything, by reason.",
        ),
        "reason",
        rows.iter()
            .map(|row| (row, row.counters.connect_errors(), &[] as &[&str])),
    );
    by_reason(
        out.family(
            "fairway_client_address_lost_total",
            MetricKind::Counter,
            "Connections of ports with client-address: transparent whose endpoint sees the gateway's address, by reason.",
        ),
        "reason",
        rows.iter()
            .map(|row| (row, row.counters.lost_addresses(), &[] as &[&str])),
    );
    by_reason(
        out.family(
            "fairway_datagrams_dropped_total",
            MetricKind::Counter,
            "Datagrams of clients and endpoints that were dropped, by reason.",
        ),
        "reason",
        rows.iter()
            .map(|row| (row, row.counters.datagrams_dropped(), &[] as &[&str])),
    );
    by_reason(
        out.family(
            "fairway_rejected_total",
            MetricKind::Counter,
            "Clients turned away, by reason; of UDP, datagrams. no_endpoint: the kernel refuses them at a closed \
             port, and counts them where it steers connections (CAP_BPF); else they are not seen and not counted.",
        ),
        "reason",
        rows.iter().map(|row| {
            const NO_ENDPOINT: &str = Rejection::NoEndpoint.as_str();
            const LOOP: &str = Rejection::Loop.as_str();
            let always: &[&str] = if row.may_loop {
                &[NO_ENDPOINT, LOOP]
            } else {
                &[NO_ENDPOINT]
            };
            (row, row.counters.rejected(), always)
        }),
    );
    by_reason(
        out.family(
            "fairway_connection_timeouts_total",
            MetricKind::Counter,
            "TCP connections that were ended for what did not come, by reason. idle: no byte either way for as long as \
             the port allows; client, endpoint: it took none of the bytes that waited for it, or did not answer.",
        ),
        "reason",
        rows.iter()
            .map(|row| (row, row.counters.timeouts(), &[] as &[&str])),
    );
    by_reason(
        out.family(
            "fairway_http_requests_total",
            MetricKind::Counter,
            "HTTP requests by class of the response; none: the client went away before it.",
        ),
        "code",
        rows.iter()
            .filter(|row| row.app != AppProtocol::Opaque)
            .map(|row| (row, row.counters.responses(), &["2xx", "5xx"] as &[&str])),
    );
}

/// Writes the counts that are not 0, and those in `always`: a rate needs a series that starts at 0.
fn by_reason<'a>(
    mut family: Family<'_>,
    label: &str,
    counts: impl Iterator<
        Item = (
            &'a PortSeries<'a>,
            BTreeMap<&'static str, u64>,
            &'a [&'a str],
        ),
    >,
) {
    for (row, counts, always) in counts {
        for (reason, count) in counts {
            if count > 0 || always.contains(&reason) {
                family.sample_with(&row.labels, (label, reason), count);
            }
        }
    }
}

fn connect_duration(family: &mut Family<'_>, labels: &Labels, counters: &Counters) {
    let (buckets, sum) = counters.connect.get();
    let mut count = 0;
    for (index, bucket) in buckets.iter().enumerate() {
        count += bucket;
        match CONNECT_BUCKETS.get(index) {
            Some(bound) => family.bucket(labels, bound.as_secs_f64(), count),
            None => family.bucket(labels, f64::INFINITY, count),
        }
    }
    family.sample_of("_sum", labels, sum.as_secs_f64());
    family.sample_of("_count", labels, count);
}

/// The number of endpoints in each state. `eligible` is always there, so that an alert can compare it with 0.
fn endpoint_states(endpoints: &EndpointSet) -> BTreeMap<&'static str, u64> {
    let mut states = BTreeMap::from([("eligible", endpoints.eligible.len() as u64)]);
    for excluded in &endpoints.excluded {
        let state = match excluded.why {
            Exclusion::NotReady => "not_ready",
            Exclusion::Terminating => "terminating",
            Exclusion::NotLocal => "not_local",
            Exclusion::Hinted => "hinted",
            Exclusion::WeightZero => "weight_zero",
            Exclusion::Draining(_) => "draining",
            Exclusion::Refused(_) => "refused",
            Exclusion::NodeExcluded(_) => "node_excluded",
            Exclusion::OtherFamily => "other_family",
        };
        *states.entry(state).or_default() += 1;
    }
    states
}
