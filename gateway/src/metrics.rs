//! What `/metrics` shows.
//!
//! The text has two sources. The series of a Service come and go with the Service, which a recorder can't do. So
//! [`render`] makes these, and all gauges of state, from tables that exist anyway. Counters that live as long as the
//! process go through the `metrics` macros into the [`Recorder`].
//!
//! Reading order: [`MetricsSnapshot`], what there is to show; [`render`]; `ports`, the series of Services;
//! [`recorder`]; [`exposition`], the formats.

pub mod exposition;
mod ports;
pub mod recorder;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::PoolCount;
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::net::IpFamily;
use fairway_config::service::PortKey;
use fairway_config::view::BgpPeerRow;

use self::exposition::{Exposition, Labels, MetricKind};
pub use self::recorder::{InstallError, Recorder};
use crate::port::Port;

/// Histogram: the time from a change in the store until it is applied, in seconds.
pub const SYNC_DURATION: &str = "fairway_sync_duration_seconds";
/// Histogram: the time from a change, as the store dates it, until connections can use it, in seconds.
pub const PROGRAMMING_DURATION: &str = "fairway_programming_duration_seconds";
/// Counter: reads and writes of the store that failed; label `operation`.
pub const STORE_ERRORS: &str = "fairway_store_errors_total";
/// Counter: passes over the manifests. Their rate is bounded, however many changes there are.
pub const MANIFEST_PASSES: &str = "fairway_manifest_passes_total";
/// Gauge: problems that there are in the manifests now.
pub const MANIFEST_ERRORS: &str = "fairway_manifest_errors";
/// Counter: Events that the cluster could not be told.
pub const EVENTS_DROPPED: &str = "fairway_events_dropped_total";
/// Counter: lines of the log that found no room, as its reader did not take them.
pub const LOG_LINES_DROPPED: &str = "fairway_log_lines_dropped_total";
/// Counter: frames that announce an address on layer 2; label `kind`.
pub const ANNOUNCEMENTS: &str = "fairway_announcements_total";
/// Counter: answers to ARP requests and neighbor solicitations; label `protocol`.
pub const NEIGHBOR_ANSWERS: &str = "fairway_neighbor_answers_total";
/// Counter: conflicts that began, with hosts that answer for an address which this gateway owns.
pub const ADDRESS_CONFLICTS: &str = "fairway_address_conflicts_total";
/// Counter: packets of connections that another gateway has, which were passed to it.
pub const PASSED_PACKETS: &str = "fairway_passed_packets_total";
/// Gauge: addresses that have come from another gateway, which has connections of them; label `state`.
pub const PASSING_ADDRESSES: &str = "fairway_passing_addresses";
/// Gauge: since when this gateway drains, in seconds since 1970; 0: it does not.
pub const DRAINING_SINCE: &str = "fairway_draining_since_seconds";
/// Gauge: addresses on layer 2 that this gateway owns while it drains.
pub const DRAINING_ADDRESSES: &str = "fairway_draining_addresses";
/// Gauge: objects whose write the store rejects.
pub const REJECTED_WRITES: &str = "fairway_rejected_writes";

/// Counter: messages of the fleet; label `direction`.
pub const HEARTBEATS: &str = "fairway_heartbeats_total";
/// Gauge: the other gateways of the fleet; label `state`.
pub const FLEET_MEMBERS: &str = "fairway_fleet_members";
/// Counter: connections that other gateways have made to have an endpoint of this node dialled; label `answer`.
pub const RELAYED: &str = "fairway_relayed_connections_total";
/// The `answer` of [`RELAYED`] to who is no gateway with our key.
pub const UNANSWERED: &str = "none";
/// Counter: datagrams at the fleet's port that do not count; label `reason`.
pub const HEARTBEATS_REJECTED: &str = "fairway_heartbeat_rejected_total";
/// Counter: pauses in which nothing is received, as too much came; label `of`.
pub const RECEIVE_PAUSES: &str = "fairway_receive_pauses_total";
/// Counter: probes of endpoints; label `result`.
pub const CHECKS: &str = "fairway_checks_total";
/// Gauge: different probes that are made again and again.
pub const CHECK_PROBES: &str = "fairway_check_probes";
/// Gauge: by how much their intervals are stretched; 1: not at all.
pub const CHECK_STRETCH: &str = "fairway_check_stretch";

/// The data of which [`render`] makes series.
#[derive(Clone, Debug, Default)]
pub struct MetricsSnapshot {
    /// Fairway's version.
    pub version: &'static str,
    /// The commit that it was built from, or `unknown`.
    pub revision: &'static str,
    /// Every port that there is, with or without traffic.
    pub ports: BTreeMap<(ServiceName, PortKey), Arc<Port>>,
    /// Addresses of each pool.
    pub pools: BTreeMap<ClusterName, BTreeMap<IpFamily, PoolCount>>,
    /// Node ports by state: `used`, `free_static`, `free_dynamic`.
    pub node_ports: BTreeMap<&'static str, u64>,
    /// Services by state: `assigned`, `pending`, `other`.
    pub services: BTreeMap<&'static str, u64>,
    /// Services that gateways are to serve, by the reason of their condition `Programmed`.
    pub programmed: BTreeMap<&'static str, u64>,
    /// Gateways by state: `ready`, `not_ready`, `silent`, `stopped`.
    pub gateways: BTreeMap<&'static str, u64>,
    /// Whether this gateway answers for an address.
    pub vips_owned: BTreeMap<IpAddr, bool>,
    /// How often this gateway became the owner of an address, or ceased to be.
    pub vip_transitions: BTreeMap<IpAddr, u64>,
    /// Addresses that gateways announce on layer 2, by state: `owned`, `idle`, `unowned`, `conflict`.
    pub addresses: BTreeMap<&'static str, u64>,
    /// The routers that this gateway has BGP sessions with.
    pub bgp_peers: Vec<BgpPeerRow>,
    /// How many addresses are routes in a kernel table; none: no pool asks for it.
    pub kernel_routes: Option<usize>,
}

/// Everything that [`MetricsSnapshot`] holds, as text.
pub fn render(snapshot: &MetricsSnapshot) -> String {
    let mut out = Exposition::default();
    let info = Labels::default()
        .with("version", snapshot.version)
        .with("revision", snapshot.revision);
    out.family("fairway_build_info", MetricKind::Gauge, "What is running.")
        .sample(&info, 1);
    render_state(&mut out, snapshot);
    render_bgp(&mut out, &snapshot.bgp_peers);
    let help = "Addresses that this gateway has put into the kernel's table for routing daemons.";
    let mut routes = out.family("fairway_kernel_routes", MetricKind::Gauge, help);
    if let Some(count) = snapshot.kernel_routes {
        routes.sample(&Labels::default(), count);
    }
    ports::render(&mut out, &snapshot.ports);
    out.into_text()
}

fn render_state(out: &mut Exposition, snapshot: &MetricsSnapshot) {
    let none = Labels::default();
    let mut services = out.family("fairway_services", MetricKind::Gauge, "Services by state.");
    for (state, count) in &snapshot.services {
        services.sample_with(&none, ("state", state), count);
    }
    let mut programmed = out.family(
        "fairway_services_programmed",
        MetricKind::Gauge,
        "Services that gateways are to serve, by the reason of the condition fairway.dev/Programmed.",
    );
    for (reason, count) in &snapshot.programmed {
        programmed.sample_with(&none, ("reason", reason), count);
    }
    let mut gateways = out.family(
        "fairway_gateways",
        MetricKind::Gauge,
        "Gateways that the controller has heard of, by state.",
    );
    for (state, count) in &snapshot.gateways {
        gateways.sample_with(&none, ("state", state), count);
    }
    let mut node_ports = out.family(
        "fairway_node_ports",
        MetricKind::Gauge,
        "Node ports by state.",
    );
    for (state, count) in &snapshot.node_ports {
        node_ports.sample_with(&none, ("state", state), count);
    }
    let mut pools = out.family(
        "fairway_pool_addresses",
        MetricKind::Gauge,
        "Addresses of a pool by state.",
    );
    for (pool, counts) in &snapshot.pools {
        for (family, count) in counts {
            let labels = none.with("pool", pool).with("ip_family", family);
            pools.sample_with(&labels, ("state", "used"), count.used);
            pools.sample_with(&labels, ("state", "available"), count.available);
        }
    }
    let mut owned = out.family(
        "fairway_vip_owned",
        MetricKind::Gauge,
        "1 for an address that this gateway answers for, 0 for one that it does not.",
    );
    for (address, is_owned) in &snapshot.vips_owned {
        owned.sample(&none.with("address", address), u8::from(*is_owned));
    }
    let mut transitions = out.family(
        "fairway_vip_transitions_total",
        MetricKind::Counter,
        "How often this gateway became the owner of an address, or ceased to be.",
    );
    for (address, count) in &snapshot.vip_transitions {
        transitions.sample(&none.with("address", address), count);
    }
    let mut addresses = out.family(
        "fairway_addresses",
        MetricKind::Gauge,
        "Addresses that gateways announce on layer 2, by state.",
    );
    for (state, count) in &snapshot.addresses {
        addresses.sample_with(&none, ("state", state), count);
    }
}

fn render_bgp(out: &mut Exposition, peers: &[BgpPeerRow]) {
    let labels = |peer: &BgpPeerRow| Labels::default().with("peer", &peer.name);
    let mut up = out.family(
        "fairway_bgp_session_up",
        MetricKind::Gauge,
        "1 for a router that has a BGP session with this gateway, 0 for one that should.",
    );
    for peer in peers {
        up.sample(&labels(peer), u8::from(peer.is_established()));
    }
    let mut prefixes = out.family(
        "fairway_bgp_prefixes",
        MetricKind::Gauge,
        "Prefixes that a router has been told.",
    );
    for peer in peers {
        prefixes.sample(&labels(peer), peer.prefixes);
    }
    let mut updates = out.family(
        "fairway_bgp_updates_total",
        MetricKind::Counter,
        "UPDATE messages of a session with a router; those received were dropped.",
    );
    for peer in peers {
        let labels = labels(peer);
        updates.sample_with(&labels, ("direction", "transmit"), peer.updates_sent);
        updates.sample_with(&labels, ("direction", "receive"), peer.updates_received);
    }
    let mut bfd = out.family(
        "fairway_bfd_session_up",
        MetricKind::Gauge,
        "1 for a router that BFD hears, and that hears it.",
    );
    for peer in peers {
        if let Some(state) = &peer.bfd {
            bfd.sample(&labels(peer), u8::from(state == "Up"));
        }
    }
}

#[cfg(test)]
mod tests;
