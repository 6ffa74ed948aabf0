//! What a gateway says of itself and of Services, as annotations of its Lease.
//!
//! A gateway says up to which revision it has applied the store, and then names the Services that do
//! not take traffic. What is not named is well, so everything has to fit: an object's annotations have
//! 256 KiB. The list is compressed. Where it is still too long, first the numbers of endpoints go,
//! which nothing rests on. Then Services are left out, evenly among namespaces, and the gateway says
//! in which: there its silence counts for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairway_config::exchange::{
    ClaimKind, EndpointCounts, GatewayRow, ListenerReport, ListenerState, RefusedEndpoint, Report,
    Unlisted,
};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::service::Notice;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

/// How the gateway is, in JSON.
pub(super) const GATEWAY: &str = "fairway.dev/gateway";

/// How its Services are, in JSON that is compressed: `base64 -d | gunzip` shows it.
pub(super) const SERVICES: &str = "fairway.dev/services";

/// The two annotations together have at most so many bytes: this leaves room for those of others.
const MAX_BYTES: usize = 192 << 10;

/// Who writes more than this into a Lease is not read: it would be unpacked in memory.
const MAX_UNPACKED: u64 = 64 << 20;

/// Of one Service so much of each kind is said in full, as much as a status names; the rest is counted.
const NAMED: usize = 3;

/// And so many more of its ports that fail are listed, each with its reason alone: that ends in
/// `ingress[].ports[].error`.
const PORTS: usize = 64;

/// How a gateway says that it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySelfReport {
    /// What people are shown.
    pub row: GatewayRow,
    /// Up to which revision of the store its listeners are programmed.
    pub applied: u64,
    /// It takes no new connections any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopping: bool,
    /// Why what it says of Services can't be relied on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<String>,
    /// The namespaces of which not everything is said.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) untold: BTreeSet<Arc<str>>,
}

impl GatewaySelfReport {
    /// A gateway that has applied the store up to a revision.
    pub fn new(row: GatewayRow, applied: u64) -> Self {
        Self {
            row,
            applied,
            stopping: false,
            behind: None,
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

/// How Services are that are not all well.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ServicesText {
    /// Names by namespace, by the number of endpoints. Those with none refuse at every port.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    endpoints: BTreeMap<u32, BTreeMap<Arc<str>, Vec<Arc<str>>>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    services: Vec<ServiceText>,
}

/// How a Service is of which there is more to say.
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

fn is_none(unlisted: &Unlisted) -> bool {
    *unlisted == Unlisted::default()
}

/// What has to be said of a Service.
enum ReportDetail {
    /// It is well: the number of its endpoints, where there is room.
    Well(u32),
    /// It has no endpoint, and that is all.
    NoEndpoints,
    /// More than that.
    Detailed(ServiceText),
}

fn report_detail(name: &ServiceName, report: &Report) -> ReportDetail {
    let is_ill = |it: &&ListenerReport| it.state != ListenerState::Listening;
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
    // What can't stand comes first, and what is not listed of it is counted.
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
        ListenerState::Listening | ListenerState::Refusing => {}
    }
    listener
}

/// The annotations for this gateway and its Services.
pub(super) fn encode(
    mut gateway: GatewaySelfReport,
    reports: &BTreeMap<ServiceName, Arc<Report>>,
) -> Annotations {
    let entries: Vec<_> = reports
        .iter()
        .map(|(name, report)| (name, report_detail(name, report)))
        .collect();
    let text = |gateway: &GatewaySelfReport, services: &ServicesText| Annotations {
        gateway: serde_json::to_string(gateway).unwrap_or_default(),
        services: pack(services),
    };
    for with_counts in [true, false] {
        let all = text(&gateway, &services_text(entries.iter(), with_counts));
        if all.len() <= MAX_BYTES {
            return all;
        }
    }
    // How well it can be compressed is not known before it is.
    let mut room = MAX_BYTES * 8;
    loop {
        let (fitting, omitted) = choose(&entries, room);
        gateway.row.omitted = omitted.len();
        gateway.untold = omitted
            .iter()
            .map(|name| Arc::clone(&name.namespace))
            .collect();
        let some = text(&gateway, &services_text(fitting.into_iter(), false));
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

fn services_text<'a>(
    entries: impl Iterator<Item = &'a (&'a ServiceName, ReportDetail)>,
    with_counts: bool,
) -> ServicesText {
    let mut text = ServicesText::default();
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

/// Of what has to be said, as much as has so much room before it is compressed, and who is left out.
/// The namespace that has the least of it is next: none can take the room of another.
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
    // By what a namespace has when it gets what is next of it.
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
    // Memory takes everything.
    let written = serde_json::to_vec(text).is_ok_and(|json| packed.write_all(&json).is_ok());
    let packed = packed.finish().unwrap_or_default();
    if written {
        STANDARD.encode(packed)
    } else {
        String::new()
    }
}

/// What a gateway has said of Services.
#[derive(Debug, Default)]
pub(super) struct Decoded {
    /// Those that are not well, or of which there is something else to say.
    pub(super) reports: BTreeMap<ServiceName, Arc<Report>>,
    pub(super) endpoints: Arc<EndpointCounts>,
}

/// Reads how a gateway says that it is.
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
    // Most of those without an endpoint have nothing else to say: they share one report.
    let nothing = Arc::new(Report {
        gateway: Arc::clone(gateway),
        applied: None,
        listeners: Vec::new(),
        refused_endpoints: Vec::new(),
        eligible_endpoints: 0,
        notices: Vec::new(),
        unlisted: Unlisted::default(),
    });
    let mut decoded = Decoded::default();
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
