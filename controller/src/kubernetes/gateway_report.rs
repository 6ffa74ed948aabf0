//! The report of a gateway on itself and its Services, as annotations of its Lease.
//!
//! A gateway says up to which revision it has applied the store, and names the Services that take
//! no traffic. A Service that is not named is served, so all of them have to fit: an object's
//! annotations have 256 KiB. The list is compressed. Where it is still too long the numbers of
//! endpoints are left out first, because nothing depends on them. Then Services are left out,
//! evenly among namespaces, and the gateway says in which namespaces: there no Service counts as
//! served because it is not named.
//!
//! What it says of external addresses stands beside the Services. Of those that others own nobody needs to
//! hear: where there is no room they are left out before any Service is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_config::exchange::{
    AddressReport, AddressState, BgpPeerRow, ClaimKind, EndpointCounts, GatewayRow, ListenerReport,
    ListenerState, RefusedEndpoint, Report, Unlisted,
};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::service::Notice;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// How the gateway is, in JSON.
pub(super) const GATEWAY: &str = "fairway.dev/gateway";

/// How its Services are, in JSON that is compressed: `base64 -d | gunzip` shows it.
pub(super) const SERVICES: &str = "fairway.dev/services";

/// The two annotations together have at most this many bytes, which leaves room for those of
/// others.
const MAX_BYTES: usize = 192 << 10;

/// A longer report is not read, because it is unpacked in memory; in bytes.
const MAX_UNPACKED: u64 = 64 << 20;

/// How many listeners, endpoints and notices of one Service are reported in full, as many as a
/// status names; the rest is counted.
const NAMED: usize = 3;

/// How many more of its failing ports are listed with their reason alone, which
/// `ingress[].ports[].error` shows.
const PORTS: usize = 64;

/// What a gateway says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySelfReport {
    /// What people are shown.
    pub row: GatewayRow,
    /// Up to which revision of the store its listeners are programmed.
    pub applied: u64,
    /// It is stopping: it takes no new connections.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// Why its reports of Services can't be relied on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// The addresses of its interfaces, with their prefixes: where other gateways may speak to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Its BGP sessions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<BgpPeerRow>,
    /// How many more it has: of each BGPPeer that is not among them nobody knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) untold_sessions: usize,
    /// The namespaces of which Services had to be left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) untold: BTreeSet<Arc<str>>,
}

/// How many BGP sessions a gateway tells of, and how many bytes of the reason of each.
const SESSIONS: usize = 256;
const REASON: usize = 256;

impl GatewaySelfReport {
    /// These are its BGP sessions.
    pub fn set_sessions(&mut self, mut sessions: Vec<BgpPeerRow>) {
        // Always the same ones are told.
        sessions.sort_by(|one, other| one.name.cmp(&other.name));
        self.untold_sessions = sessions.len().saturating_sub(SESSIONS);
        sessions.truncate(SESSIONS);
        for row in &mut sessions {
            row.why.truncate(row.why.floor_char_boundary(REASON));
        }
        self.sessions = sessions;
    }

    /// Whether both say the same of BGP sessions, apart from what changes all the time.
    pub(super) fn has_like_sessions(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.sessions, &other.sessions);
        self.untold_sessions == other.untold_sessions
            && ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(one, it)| one.says_alike(it))
    }

    /// A gateway that has applied the store up to a revision.
    pub fn new(row: GatewayRow, applied: u64) -> Self {
        Self {
            row,
            applied,
            stopping: false,
            behind: None,
            addresses: Vec::new(),
            sessions: Vec::new(),
            untold_sessions: 0,
            untold: BTreeSet::new(),
        }
    }
}

/// The annotations of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Annotations {
    pub(super) gateway: String,
    pub(super) services: String,
}

impl Annotations {
    fn len(&self) -> usize {
        self.gateway.len() + self.services.len()
    }
}

/// Why annotations can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReportReadError {
    #[error("it does not say which Services it has programmed; its version may be an older one")]
    Missing,
    #[error("what it says can't be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("what it says of Services can't be unpacked: {0}")]
    Packed(String),
}

/// The Services that are not served completely.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ServicesText {
    /// Names by namespace, by the number of endpoints. Those with none refuse at every port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    endpoints: BTreeMap<u32, BTreeMap<Arc<str>, Vec<Arc<str>>>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    services: Vec<ServiceText>,
    /// What is said of external addresses.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    addresses: BTreeMap<IpAddr, Arc<AddressReport>>,
}

/// The full report of one Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceText {
    service: ServiceName,
    #[serde(default)]
    endpoints: usize,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    listeners: Vec<ListenerReport>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refused_endpoints: Vec<RefusedEndpoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notices: Vec<Notice>,
    #[serde(default, skip_serializing_if = "is_none")]
    unlisted: Unlisted,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

fn is_none(unlisted: &Unlisted) -> bool {
    *unlisted == Unlisted::default()
}

/// How much has to be said of a Service.
enum ReportDetail {
    /// It is served: the number of its endpoints, where there is room.
    Well(u32),
    /// It has no endpoint, and that is all.
    NoEndpoints,
    /// More than that.
    Detailed(ServiceText),
}

fn report_detail(name: &ServiceName, report: &Report) -> ReportDetail {
    let is_ill = |it: &&ListenerReport| !it.state.is_well();
    let refuses = |it: &&ListenerReport| it.state == ListenerState::Refusing;
    let ill = report.listeners.iter().filter(is_ill);
    let says_more = report.unlisted != Unlisted::default()
        || !report.refused_endpoints.is_empty()
        || !report.notices.is_empty();
    if !says_more && report.eligible_endpoints == 0 && ill.clone().all(|it| refuses(&it)) {
        return ReportDetail::NoEndpoints;
    }
    if !says_more && ill.clone().next().is_none() {
        return ReportDetail::Well(u32::try_from(report.eligible_endpoints).unwrap_or(u32::MAX));
    }
    // Listeners that fail come first; those that are not listed are counted.
    let (refusing, failing): (Vec<_>, Vec<_>) = ill.partition(refuses);
    let failing_count = failing.len();
    let ill: Vec<_> = failing.into_iter().chain(refusing).collect();
    let mut listeners: Vec<_> = ill.iter().take(NAMED).copied().cloned().collect();
    let others = ill.iter().skip(NAMED);
    let of_ports = others.filter(|it| it.kind == ClaimKind::Vip);
    listeners.extend(of_ports.take(PORTS).map(|it| without_message(it)));
    let listed = listeners.iter().filter(|it| !refuses(it)).count();
    ReportDetail::Detailed(ServiceText {
        service: name.clone(),
        endpoints: report.eligible_endpoints,
        unlisted: Unlisted {
            failing_listeners: failing_count - listed + report.unlisted.failing_listeners,
            refused_endpoints: report.refused_endpoints.len().saturating_sub(NAMED),
            notices: report.notices.len().saturating_sub(NAMED),
        },
        listeners,
        refused_endpoints: first(&report.refused_endpoints),
        notices: first(&report.notices),
    })
}

fn first<T: Clone>(all: &[T]) -> Vec<T> {
    all.iter().take(NAMED).cloned().collect()
}

fn without_message(listener: &ListenerReport) -> ListenerReport {
    let mut listener = listener.clone();
    match &mut listener.state {
        ListenerState::Failed { message, .. } | ListenerState::Unreachable { message } => {
            message.clear();
        }
        ListenerState::Listening | ListenerState::Forwarded | ListenerState::Refusing => {}
    }
    listener
}

/// The annotations for this gateway, its Services and external addresses.
pub(super) fn encode(
    mut gateway: GatewaySelfReport,
    reports: &BTreeMap<ServiceName, Arc<Report>>,
    addresses: &BTreeMap<IpAddr, Arc<AddressReport>>,
) -> Annotations {
    let entries: Vec<_> = reports
        .iter()
        .map(|(name, report)| (name, report_detail(name, report)))
        .collect();
    let text = |gateway: &GatewaySelfReport, services: &ServicesText| Annotations {
        gateway: serde_json::to_string(gateway).unwrap_or_default(),
        services: pack(services),
    };
    let evidence = evidence(addresses);
    for (with_counts, addresses) in [(true, addresses), (false, addresses), (false, &evidence)] {
        let services = services_text(entries.iter(), with_counts, addresses);
        let all = text(&gateway, &services);
        if all.len() <= MAX_BYTES {
            return all;
        }
    }
    // How well a list can be compressed is known only when it is compressed.
    let mut room = MAX_BYTES * 8;
    loop {
        let (fitting, omitted) = choose(&entries, room);
        gateway.row.omitted = omitted.len();
        gateway.untold = omitted
            .iter()
            .map(|name| Arc::clone(&name.namespace))
            .collect();
        let services = services_text(fitting.into_iter(), false, &evidence);
        let some = text(&gateway, &services);
        if some.len() <= MAX_BYTES {
            return some;
        }
        if room < 1024 {
            break;
        }
        room /= 2;
    }
    // The names of the namespaces alone are too many.
    gateway.untold.clear();
    gateway.behind = Some("it has no room to say in which namespaces Services fail".to_owned());
    text(&gateway, &ServicesText::default())
}

/// What others have to know of addresses: which of them this gateway owns, or can't own for a conflict, and what the
/// controller asked.
fn evidence(
    addresses: &BTreeMap<IpAddr, Arc<AddressReport>>,
) -> BTreeMap<IpAddr, Arc<AddressReport>> {
    let needed = |report: &AddressReport| {
        matches!(report.state, AddressState::Owned | AddressState::Conflict)
            || report.probe.is_some()
    };
    let needed = addresses.iter().filter(|(_, report)| needed(report));
    needed
        .map(|(address, report)| {
            let short = AddressReport {
                why: Arc::default(),
                interfaces: Vec::new(),
                ..AddressReport::clone(report)
            };
            (*address, Arc::new(short))
        })
        .collect()
}

fn services_text<'a>(
    entries: impl Iterator<Item = &'a (&'a ServiceName, ReportDetail)>,
    with_counts: bool,
    addresses: &BTreeMap<IpAddr, Arc<AddressReport>>,
) -> ServicesText {
    let mut text = ServicesText {
        addresses: addresses.clone(),
        ..ServicesText::default()
    };
    for (name, entry) in entries {
        let endpoints = match entry {
            ReportDetail::Detailed(service) => {
                text.services.push(service.clone());
                continue;
            }
            ReportDetail::NoEndpoints => 0,
            ReportDetail::Well(count) if with_counts => *count,
            ReportDetail::Well(_) => continue,
        };
        let of_count = text.endpoints.entry(endpoints).or_default();
        let of_namespace = of_count.entry(Arc::clone(&name.namespace)).or_default();
        of_namespace.push(Arc::clone(&name.name));
    }
    text
}

/// The Services that fit into this many bytes before compression, and those that are left out. The
/// next one is always taken from the namespace that has used the least, so that no namespace can
/// take the room of another.
fn choose<'a>(
    entries: &'a [(&'a ServiceName, ReportDetail)],
    room: usize,
) -> (
    Vec<&'a (&'a ServiceName, ReportDetail)>,
    Vec<&'a ServiceName>,
) {
    let size = |(name, entry): &(&ServiceName, ReportDetail)| match entry {
        ReportDetail::Detailed(text) => serde_json::to_string(text).unwrap_or_default().len() + 1,
        ReportDetail::NoEndpoints | ReportDetail::Well(_) => name.name.len() + 3,
    };
    let needed: Vec<_> = entries
        .iter()
        .filter(|(_, entry)| !matches!(entry, ReportDetail::Well(_)))
        .collect();
    let namespaces = needed.chunk_by(|(one, _), (other, _)| one.namespace == other.namespace);
    let mut queues: Vec<_> = namespaces
        .map(|of| of.iter().map(|it| (size(it), *it)))
        .collect();
    // By what a namespace will have used when it gets its next Service.
    let mut turns = BTreeMap::new();
    for (at, queue) in queues.iter_mut().enumerate() {
        turns.extend(queue.next().map(|(size, next)| ((size, at), (size, next))));
    }
    let (mut used, mut fitting, mut omitted) = (0, Vec::new(), Vec::new());
    while let Some(((mut has, at), (size, next))) = turns.pop_first() {
        if used + size > room {
            omitted.push(next.0);
            has -= size;
        } else {
            used += size;
            fitting.push(next);
        }
        let next = queues.get_mut(at).and_then(Iterator::next);
        turns.extend(next.map(|(size, next)| ((has + size, at), (size, next))));
    }
    (fitting, omitted)
}

fn pack(text: &ServicesText) -> String {
    let mut packed = GzEncoder::new(Vec::new(), Compression::new(5));
    // Writing into memory does not fail.
    let written = serde_json::to_vec(text).is_ok_and(|json| packed.write_all(&json).is_ok());
    let packed = packed.finish().unwrap_or_default();
    if written {
        STANDARD.encode(packed)
    } else {
        String::new()
    }
}

/// The reports of a gateway on Services, decoded.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    /// The Services that are not served completely, or of which there is something else to say.
    pub(super) reports: BTreeMap<ServiceName, Arc<Report>>,
    pub(super) endpoints: Arc<EndpointCounts>,
    /// What it says of external addresses.
    pub(super) addresses: BTreeMap<IpAddr, Arc<AddressReport>>,
}

/// Reads what a gateway says of itself.
pub(super) fn decode_gateway(text: &str) -> Result<GatewaySelfReport, ReportReadError> {
    match text {
        "" => Err(ReportReadError::Missing),
        text => Ok(serde_json::from_str(text)?),
    }
}

/// Reads what a gateway says of Services.
pub(super) fn decode_services(
    gateway: &ClusterName,
    text: &str,
) -> Result<Decoded, ReportReadError> {
    if text.is_empty() {
        return Err(ReportReadError::Missing);
    }
    let packed = STANDARD.decode(text);
    let packed = packed.map_err(|error| ReportReadError::Packed(error.to_string()))?;
    let mut json = Vec::new();
    GzDecoder::new(&*packed)
        .take(MAX_UNPACKED)
        .read_to_end(&mut json)
        .map_err(|error| ReportReadError::Packed(error.to_string()))?;
    let text: ServicesText = serde_json::from_slice(&json)?;
    // Most Services without an endpoint have nothing else to report: they share one report.
    let nothing = Arc::new(Report::new(Arc::clone(gateway)));
    let mut decoded = Decoded {
        addresses: text.addresses,
        ..Decoded::default()
    };
    let mut counts = Vec::new();
    for (count, namespaces) in text.endpoints {
        for (namespace, names) in namespaces {
            for name in names {
                let service = ServiceName::new(Arc::clone(&namespace), name);
                if count == 0 {
                    decoded.reports.insert(service, Arc::clone(&nothing));
                } else {
                    counts.push((service, count));
                }
            }
        }
    }
    decoded.endpoints = Arc::new(counts.into_iter().collect());
    for it in text.services {
        let report = Report {
            listeners: it.listeners,
            refused_endpoints: it.refused_endpoints,
            eligible_endpoints: it.endpoints,
            notices: it.notices,
            unlisted: it.unlisted,
            ..Report::clone(&nothing)
        };
        decoded.reports.insert(it.service, Arc::new(report));
    }
    Ok(decoded)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
