//! What `/metrics` shows.
//!
//! Two sources, one text. Series of a Service must come with its first traffic and go with the
//! Service, which a recorder can't do, so [`render`] makes them (and all gauges of state) from
//! the tables that there are anyway. What is counted where it happens and lives as long as the
//! process goes through the `metrics` macros into the [`Recorder`].

pub mod exposition;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::PoolCount;
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::{IpFamily, Protocol};
use fairway_config::service::{AppProtocol, PortKey};
use fairway_gateway_core::route::{EndpointSet, Why};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use self::exposition::{Exposition, Family, Kind, Labels};
use crate::counters::{CONNECT_BUCKETS, Counters};
use crate::port::Port;

/// Histogram: from a change in the store to its being worked in, in seconds.
pub const SYNC_DURATION: &str = "fairway_sync_duration_seconds";
/// Histogram: from a change, as the store dates it, to the first connection that it can serve, in
/// seconds.
pub const PROGRAMMING_DURATION: &str = "fairway_programming_duration_seconds";
/// Counter: reads and writes of the store that failed; label `operation`.
pub const STORE_ERRORS: &str = "fairway_store_errors_total";
/// Counter: looks at the manifests; bounded by time, however many changes there are.
pub const MANIFEST_PASSES: &str = "fairway_manifest_passes_total";
/// Gauge: problems that there are in the manifests now.
pub const MANIFEST_ERRORS: &str = "fairway_manifest_errors";
/// Counter: Events that the cluster could not be told.
pub const EVENTS_DROPPED: &str = "fairway_events_dropped_total";
/// Gauge: objects of which the store does not take what was decided.
pub const REJECTED_WRITES: &str = "fairway_rejected_writes";
/// Counter: announcements of addresses that were sent; label `kind`.
pub const ANNOUNCEMENTS: &str = "fairway_announcements_total";

/// Upper bounds of the buckets of both durations, in seconds.
const DURATION_BUCKETS: [f64; 12] = [
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

/// What [`render`] makes series of. A family whose field is empty or `None` is left out.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Fairway's version.
    pub version: &'static str,
    /// Every port that there is, with or without traffic.
    pub ports: BTreeMap<(ServiceName, PortKey), Arc<Port>>,
    /// Addresses of each pool.
    pub pools: BTreeMap<ClusterName, BTreeMap<IpFamily, PoolCount>>,
    /// Node ports by state: `used`, `free`.
    pub node_ports: BTreeMap<&'static str, u64>,
    /// Services by state: `ready`, `pending`, …
    pub services: BTreeMap<&'static str, u64>,
    /// Whether this gateway answers for an address.
    pub vips_owned: BTreeMap<IpAddr, bool>,
}

/// Everything that [`Snapshot`] holds, as text.
pub fn render(snapshot: &Snapshot) -> String {
    let mut out = Exposition::default();
    let info = Labels::default().with("version", snapshot.version);
    out.family("fairway_build_info", Kind::Gauge, "What is running.")
        .sample(&info, 1);
    render_state(&mut out, snapshot);
    render_ports(&mut out, snapshot);
    out.into_text()
}

fn render_state(out: &mut Exposition, snapshot: &Snapshot) {
    let none = Labels::default();
    let mut services = out.family("fairway_services", Kind::Gauge, "Services by state.");
    for (state, count) in &snapshot.services {
        services.sample(&none.with("state", state), count);
    }
    let mut node_ports = out.family("fairway_node_ports", Kind::Gauge, "Node ports by state.");
    for (state, count) in &snapshot.node_ports {
        node_ports.sample(&none.with("state", state), count);
    }
    let mut pools = out.family(
        "fairway_pool_addresses",
        Kind::Gauge,
        "Addresses of a pool by state.",
    );
    for (pool, counts) in &snapshot.pools {
        for (family, count) in counts {
            let labels = none.with("pool", pool).with("ip_family", family);
            pools.sample(&labels.with("state", "used"), count.used);
            pools.sample(&labels.with("state", "available"), count.available);
        }
    }
    let mut owned = out.family(
        "fairway_vip_owned",
        Kind::Gauge,
        "1 for an address that this gateway answers for, 0 for one that it does not.",
    );
    for (address, is_owned) in &snapshot.vips_owned {
        owned.sample(&none.with("address", address), u8::from(*is_owned));
    }
}

/// A port that has had traffic.
struct Touched<'a> {
    labels: Labels,
    protocol: Protocol,
    app: AppProtocol,
    counters: &'a Counters,
    endpoints: BTreeMap<&'static str, u64>,
}

fn render_ports(out: &mut Exposition, snapshot: &Snapshot) {
    let touched = snapshot
        .ports
        .iter()
        .filter(|(_, port)| port.counters.is_touched());
    let ports: Vec<Touched<'_>> = touched
        .map(|((service, key), port)| {
            let route = port.route();
            Touched {
                labels: Labels::default()
                    .with("namespace", &service.namespace)
                    .with("service", &service.name)
                    .with("port", key.port)
                    .with("protocol", key.protocol),
                protocol: key.protocol,
                app: route.app,
                counters: &port.counters,
                endpoints: endpoint_states(&route.endpoints),
            }
        })
        .collect();
    let all = || ports.iter();
    let tcp = || ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let udp = || ports.iter().filter(|port| port.protocol == Protocol::Udp);
    let http = || ports.iter().filter(|port| port.app != AppProtocol::Opaque);

    let mut family = out.family(
        "fairway_connections_total",
        Kind::Counter,
        "Connections that ended, and UDP flows that began, by result.",
    );
    for Touched {
        labels, counters, ..
    } in all()
    {
        family.sample(
            &labels.with("result", "completed"),
            counters.completed.get(),
        );
        family.sample(&labels.with("result", "failed"), counters.failed.get());
    }
    let mut family = out.family(
        "fairway_connections_active",
        Kind::Gauge,
        "TCP connections open now.",
    );
    for Touched {
        labels, counters, ..
    } in tcp()
    {
        family.sample(labels, counters.active.get());
    }
    let mut family = out.family("fairway_flows_active", Kind::Gauge, "UDP flows now.");
    for Touched {
        labels, counters, ..
    } in udp()
    {
        family.sample(labels, counters.flows.get());
    }
    let mut family = out.family(
        "fairway_flows_evicted_total",
        Kind::Counter,
        "UDP flows that had to go for others before their time: the table was full, or their client had \
         its share.",
    );
    for Touched {
        labels, counters, ..
    } in udp()
    {
        family.sample(labels, counters.flows_evicted.get());
    }
    let mut family = out.family(
        "fairway_receive_bytes_total",
        Kind::Counter,
        "Bytes from clients.",
    );
    for Touched {
        labels, counters, ..
    } in all()
    {
        family.sample(labels, counters.received.get());
    }
    let mut family = out.family(
        "fairway_transmit_bytes_total",
        Kind::Counter,
        "Bytes to clients.",
    );
    for Touched {
        labels, counters, ..
    } in all()
    {
        family.sample(labels, counters.transmitted.get());
    }
    let mut family = out.family(
        "fairway_datagrams_total",
        Kind::Counter,
        "Datagrams from clients (receive) and to clients (transmit).",
    );
    for Touched {
        labels, counters, ..
    } in udp()
    {
        family.sample(
            &labels.with("direction", "receive"),
            counters.datagrams_received.get(),
        );
        family.sample(
            &labels.with("direction", "transmit"),
            counters.datagrams_transmitted.get(),
        );
    }
    let mut family = out.family(
        "fairway_connect_duration_seconds",
        Kind::Histogram,
        "How long connecting to an endpoint took, where it worked.",
    );
    for Touched {
        labels, counters, ..
    } in tcp()
    {
        connect_duration(&mut family, labels, counters);
    }
    by_reason(
        out.family(
            "fairway_connect_errors_total",
            Kind::Counter,
            "Endpoints that could not be reached, by reason.",
        ),
        "reason",
        tcp().map(|port| (&port.labels, port.counters.connect_errors())),
    );
    by_reason(
        out.family(
            "fairway_rejected_total",
            Kind::Counter,
            "Clients turned away, by reason.",
        ),
        "reason",
        all().map(|port| (&port.labels, port.counters.rejected())),
    );
    by_reason(
        out.family(
            "fairway_http_requests_total",
            Kind::Counter,
            "HTTP requests by class of the response; none: the client went away before it.",
        ),
        "code",
        http().map(|port| (&port.labels, port.counters.responses())),
    );
    by_reason(
        out.family("fairway_endpoints", Kind::Gauge, "Endpoints by state."),
        "state",
        all().map(|port| (&port.labels, port.endpoints.clone())),
    );
}

fn by_reason<'a>(
    mut family: Family<'_>,
    label: &str,
    counts: impl Iterator<Item = (&'a Labels, BTreeMap<&'static str, u64>)>,
) {
    for (labels, counts) in counts {
        for (reason, count) in counts {
            family.sample(&labels.with(label, reason), count);
        }
    }
}

fn connect_duration(family: &mut Family<'_>, labels: &Labels, counters: &Counters) {
    let (buckets, sum) = counters.connect.get();
    let mut count = 0;
    for (index, bucket) in buckets.iter().enumerate() {
        count += bucket;
        let labels = match CONNECT_BUCKETS.get(index) {
            Some(bound) => labels.with("le", bound.as_secs_f64()),
            None => labels.with("le", "+Inf"),
        };
        family.sample_of("_bucket", &labels, count);
    }
    family.sample_of("_sum", labels, sum.as_secs_f64());
    family.sample_of("_count", labels, count);
}

/// How many endpoints there are in each state; `eligible` is always there, so that an alert on its
/// being 0 works.
fn endpoint_states(endpoints: &EndpointSet) -> BTreeMap<&'static str, u64> {
    let mut states = BTreeMap::from([("eligible", endpoints.eligible.len() as u64)]);
    for excluded in &endpoints.excluded {
        let state = match excluded.why {
            Why::NotReady => "not_ready",
            Why::Terminating => "terminating",
            Why::NotLocal => "not_local",
            Why::Hinted => "hinted",
            Why::WeightZero => "weight_zero",
            Why::Refused(_) => "refused",
            Why::NodeExcluded(_) => "node_excluded",
            Why::OtherFamily => "other_family",
        };
        *states.entry(state).or_default() += 1;
    }
    states
}

/// The process-wide recorder of the `metrics` macros, and what the process itself uses.
pub struct Recorder {
    handle: PrometheusHandle,
    process: metrics_process::Collector,
}

/// The recorder could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A histogram's buckets are wrong.
    #[error("metrics: {0}")]
    Build(#[from] BuildError),
    /// There is one already.
    #[error("metrics: a recorder is installed already")]
    Installed,
}

impl Recorder {
    /// Makes the `metrics` macros count. Once in a process.
    pub fn install() -> Result<Self, InstallError> {
        let duration = |name: &str| Matcher::Full(name.to_owned());
        let recorder = PrometheusBuilder::new()
            .with_recommended_naming(true)
            .set_buckets_for_metric(duration(SYNC_DURATION), &DURATION_BUCKETS)?
            .set_buckets_for_metric(duration(PROGRAMMING_DURATION), &DURATION_BUCKETS)?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| InstallError::Installed)?;
        metrics::describe_histogram!(SYNC_DURATION, "From a change to its being worked in.");
        metrics::describe_histogram!(
            PROGRAMMING_DURATION,
            "From a change to the first connection that it can serve."
        );
        metrics::describe_counter!(STORE_ERRORS, "Reads and writes of the store that failed.");
        metrics::describe_counter!(
            MANIFEST_PASSES,
            "How often the manifests were looked at for changes."
        );
        metrics::describe_gauge!(MANIFEST_ERRORS, "Problems in the manifests now.");
        // There from the start: a rate needs a zero to rise from.
        for operation in [
            "read", "write", "status", "watch", "lease", "report", "snapshot",
        ] {
            metrics::counter!(STORE_ERRORS, "operation" => operation).absolute(0);
        }
        metrics::counter!(EVENTS_DROPPED).absolute(0);
        metrics::describe_counter!(EVENTS_DROPPED, "Events that the cluster could not be told.");
        metrics::gauge!(REJECTED_WRITES).set(0.0);
        metrics::describe_gauge!(
            REJECTED_WRITES,
            "Services and pools of which the store does not take what was decided."
        );
        metrics::gauge!(MANIFEST_ERRORS).set(0.0);
        // A start is no change, so it records nothing.
        let _ = metrics::histogram!(PROGRAMMING_DURATION);
        // Nothing announces yet, and that is what the zero says.
        for kind in ["arp", "ndp"] {
            metrics::counter!(ANNOUNCEMENTS, "kind" => kind).absolute(0);
        }
        metrics::describe_counter!(ANNOUNCEMENTS, "Announcements of addresses that were sent.");
        let process = metrics_process::Collector::default();
        process.describe();
        Ok(Self { handle, process })
    }

    /// What was recorded, and the process's own figures, as text to follow that of [`render`].
    pub fn render(&self) -> String {
        self.process.collect();
        self.handle.render()
    }

    /// Works off what histograms have collected. To be called every few seconds: without it a
    /// process that nobody scrapes grows.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

#[cfg(test)]
mod tests;
