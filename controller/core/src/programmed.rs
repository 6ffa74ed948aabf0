//! Whether gateways serve a Service: the condition `Programmed`, made from the reports of all
//! gateways.
//!
//! A gateway that says nothing is no evidence. A gateway counts for a Service only while it is
//! alive and has programmed the present form of the Service. Then it serves the Service if it takes
//! traffic for every port.
//!
//! There are two kinds of gateways. One in this process reports every listener of a Service, and
//! which form of the Service they are of ([`Report::applied`]). One that is a process of its own says
//! up to which revision it has applied the store, and reports only the Services that are not well: of
//! all others up to that revision it says that they are ([`GatewayProgress`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use fairway_config::exchange::{
    ClaimKind, GatewayProgress, GatewayStatus, Ingress, IpMode, ListenerReport, ListenerState,
    Report,
};
use fairway_config::names::ClusterName;
use fairway_config::net::Protocol;
use fairway_config::service::{PortKey, ServiceType};

use crate::index::IndexedService;

/// How many gateways, listeners or ports a message names.
const NAMED: usize = 3;

/// How one gateway serves one Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GatewayVerdict<'a> {
    /// It takes traffic for every port.
    Serves,
    /// It is alive, and has not programmed the present form of the Service, or can't say that it
    /// has.
    Behind,
    /// These ports have no endpoint and refuse clients.
    NoEndpoints(Vec<PortKey>),
    /// These ports have endpoints, and the gateway reaches none of them; with its message on the
    /// first.
    Unreachable(Vec<PortKey>, &'a str),
    /// These listeners can't take traffic, and so many more that are not listed.
    Fails(Vec<&'a ListenerReport>, usize),
}

impl GatewayVerdict<'_> {
    /// What people are told of one gateway.
    pub(crate) fn sentence(&self, gateway: &str) -> String {
        match self {
            Self::Serves => format!("Gateway {gateway} serves it."),
            Self::Behind => format!(
                "Gateway {gateway} has not yet said that it has programmed this version of it."
            ),
            Self::NoEndpoints(ports) => format!(
                "Gateway {gateway} refuses clients at {}: it has no endpoint for them.",
                list(ports)
            ),
            Self::Unreachable(ports, message) => format!(
                "Gateway {gateway} reaches no endpoint for {}: {message}.",
                list(ports)
            ),
            Self::Fails(listeners, unlisted) => {
                let failure = |listener: &&ListenerReport| match &listener.state {
                    ListenerState::Failed { message, .. } => Some(format!(
                        "{}/{}: {message}",
                        listener.listen, listener.protocol
                    )),
                    _ => None,
                };
                let named: Vec<String> = listeners.iter().filter_map(failure).take(NAMED).collect();
                let more = listeners.len().saturating_sub(NAMED) + unlisted;
                let more = match more {
                    0 => String::new(),
                    more => format!("; {more} more listeners fail"),
                };
                format!(
                    "Gateway {gateway} does not take its traffic: {}{more}.",
                    named.join("; ")
                )
            }
        }
    }
}

/// How all gateways serve one Service.
#[derive(Debug)]
pub(crate) struct Serving<'a> {
    /// Each gateway that is alive, in the order of names.
    pub(crate) gateways: Vec<(&'a ClusterName, GatewayVerdict<'a>)>,
    /// No gateway has reported since this controller began: until then the condition of its
    /// predecessor stays, where the Service has not changed.
    pub(crate) unheard: bool,
    /// Whether they are processes of their own; else there is one, in this process.
    pub(crate) are_processes: bool,
}

/// The content of the condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgrammedCondition {
    pub(crate) status: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl ProgrammedCondition {
    pub(crate) fn not(reason: &str, message: impl Into<String>) -> Self {
        Self {
            status: false,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }
}

/// How gateways that are processes of their own serve a Service.
pub(crate) fn of_processes<'a>(
    entry: &IndexedService,
    gateways: &'a BTreeMap<ClusterName, Arc<GatewayStatus>>,
    reports: &'a [Arc<Report>],
) -> Serving<'a> {
    let mut serving = Serving {
        gateways: Vec::with_capacity(gateways.len()),
        unheard: false,
        are_processes: true,
    };
    let mut heard = false;
    for (name, status) in gateways {
        let verdict = match &status.progress {
            GatewayProgress::Gone => continue,
            GatewayProgress::Behind { .. } => {
                heard = true;
                GatewayVerdict::Behind
            }
            GatewayProgress::Applied {
                revision,
                since_start,
                untold,
            } => {
                heard |= since_start;
                serving.unheard |= !since_start;
                let at = reports.partition_point(|report| report.gateway < *name);
                let report = reports.get(at).filter(|report| report.gateway == *name);
                if !is_written(entry) || entry.stored.revision > *revision {
                    GatewayVerdict::Behind
                } else if let Some(report) = report {
                    judge(entry, report)
                } else if untold.contains(&entry.stored.service.name.namespace) {
                    GatewayVerdict::Behind
                } else {
                    GatewayVerdict::Serves
                }
            }
        };
        serving.gateways.push((name, verdict));
    }
    serving.unheard &= !heard;
    serving
}

/// How the gateway in this process serves a Service.
pub(crate) fn of_reports<'a>(entry: &IndexedService, reports: &'a [Arc<Report>]) -> Serving<'a> {
    let verdict = |report: &'a Arc<Report>| {
        let is_current = report.applied.as_ref().is_some_and(|applied| {
            applied.held == entry.granted && applied.service.is_served_alike(&entry.stored.service)
        });
        let verdict = match judge(entry, report) {
            _ if !is_current => GatewayVerdict::Behind,
            GatewayVerdict::Serves if !lists_all(entry, report) => GatewayVerdict::Behind,
            verdict => verdict,
        };
        (&report.gateway, verdict)
    };
    Serving {
        gateways: reports.iter().map(verdict).collect(),
        unheard: false,
        are_processes: false,
    }
}

/// Whether the store shows the addresses that the Service was granted: before that no gateway can
/// know of them.
fn is_written(entry: &IndexedService) -> bool {
    let shown = entry.stored.status.ingress.iter().map(|ingress| ingress.ip);
    shown.eq(entry.granted.addresses.iter().copied())
}

/// The ports that gateways carry.
fn carried(entry: &IndexedService) -> impl Iterator<Item = PortKey> {
    let keys = entry.stored.service.ports.iter().map(|port| port.key());
    keys.filter(|key| key.protocol != Protocol::Sctp)
}

/// Whether there is a listener for every port: on each address, and on a node port where the
/// Service has no other.
fn lists_all(entry: &IndexedService, report: &Report) -> bool {
    let service = &entry.stored.service;
    let is_there = |key: PortKey, on: &dyn Fn(&ListenerReport) -> bool| {
        report
            .listeners
            .iter()
            .any(|it| (it.protocol, it.port) == (key.protocol, key.port) && on(it))
    };
    let addresses = match service.kind {
        ServiceType::LoadBalancer => &*entry.granted.addresses,
        _ => &[],
    };
    carried(entry).all(|key| {
        if addresses.is_empty() {
            return is_there(key, &|it| it.kind == ClaimKind::NodePort);
        }
        addresses.iter().all(|address| {
            is_there(key, &|it| {
                it.kind == ClaimKind::Vip && it.listen.0.ip() == *address
            })
        })
    })
}

/// What a report says of a Service. A listener that it does not list is no fault here.
fn judge<'a>(entry: &IndexedService, report: &'a Report) -> GatewayVerdict<'a> {
    let failing: Vec<_> = report
        .listeners
        .iter()
        .filter(|it| matches!(it.state, ListenerState::Failed { .. }))
        .collect();
    if !failing.is_empty() || report.unlisted.failing_listeners > 0 {
        let unlisted = report.unlisted.failing_listeners;
        return GatewayVerdict::Fails(failing, unlisted);
    }
    if report.eligible_endpoints == 0 {
        return GatewayVerdict::NoEndpoints(carried(entry).collect());
    }
    let ports = |is: fn(&ListenerState) -> bool| {
        let those = report.listeners.iter().filter(|it| is(&it.state));
        let mut ports: Vec<_> = those
            .filter(|it| it.kind != ClaimKind::HealthCheck)
            .map(|it| PortKey {
                protocol: it.protocol,
                port: it.port,
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    let refusing = ports(|state| matches!(state, ListenerState::Refusing));
    if !refusing.is_empty() {
        return GatewayVerdict::NoEndpoints(refusing);
    }
    let unreachable = ports(|state| matches!(state, ListenerState::Unreachable { .. }));
    if !unreachable.is_empty() {
        let mut words = report.listeners.iter().filter_map(|it| match &it.state {
            ListenerState::Unreachable { message } => Some(message.as_str()),
            _ => None,
        });
        return GatewayVerdict::Unreachable(unreachable, words.next().unwrap_or_default());
    }
    GatewayVerdict::Serves
}

impl<'a> Serving<'a> {
    /// How this gateway alone serves it.
    pub(crate) fn of(&self, gateway: &ClusterName) -> Serving<'a> {
        let is_it = |it: &&(&ClusterName, GatewayVerdict<'_>)| it.0 == gateway;
        Serving {
            gateways: self.gateways.iter().filter(is_it).cloned().collect(),
            unheard: self.unheard,
            are_processes: self.are_processes,
        }
    }

    /// How many of those that live serve it.
    pub(crate) fn count(&self) -> usize {
        let serves =
            |(_, verdict): &&(&ClusterName, GatewayVerdict<'_>)| *verdict == GatewayVerdict::Serves;
        self.gateways.iter().filter(serves).count()
    }

    /// The condition of a Service that has the addresses it needs.
    ///
    /// A listener that fails makes it False even where another gateway serves: clients that reach
    /// the failing one are not served. A gateway that is behind, or has no endpoint (as most nodes
    /// with `externalTrafficPolicy: Local`), does not, as long as another gateway serves.
    pub(crate) fn verdict(&self) -> ProgrammedCondition {
        if self.gateways.is_empty() && !self.are_processes {
            return ProgrammedCondition::not(
                "GatewayBehind",
                "This process has not yet programmed the Service",
            );
        }
        if self.gateways.is_empty() {
            return ProgrammedCondition::not(
                "NoGateway",
                "No gateway is alive to carry the traffic: label an edge node with \
                 fairway.dev/edge=true, or see what fairway get gateways says",
            );
        }
        if let Some(verdict) = self.failing() {
            return verdict;
        }
        if self.count() > 0 {
            return ProgrammedCondition {
                status: true,
                reason: "Programmed".to_owned(),
                message: "A gateway takes traffic for every port.".to_owned(),
            };
        }
        self.without_endpoints().unwrap_or_else(|| self.behind())
    }

    fn failing(&self) -> Option<ProgrammedCondition> {
        let mut listeners = Vec::new();
        let mut more = 0;
        for (gateway, verdict) in &self.gateways {
            if let GatewayVerdict::Fails(failing, unlisted) = verdict {
                listeners.extend(failing.iter().map(|listener| (gateway, *listener)));
                more += unlisted;
            }
        }
        let failure = |listener: &ListenerReport| match &listener.state {
            ListenerState::Failed { reason, message } => Some((reason.clone(), message.clone())),
            _ => None,
        };
        let Some((_, first)) = listeners.first() else {
            return (more > 0).then(|| {
                ProgrammedCondition::not("ListenersFailed", format!("{more} listeners fail"))
            });
        };
        let (reason, _) = failure(first)?;
        let mut sentences: Vec<String> = listeners
            .iter()
            .take(NAMED)
            .map(|(gateway, listener)| {
                let (listen, protocol) = (listener.listen, listener.protocol);
                let message = failure(listener).map_or_else(String::new, |(_, message)| message);
                format!("Gateway {gateway}, {listen}/{protocol}: {message}")
            })
            .collect();
        more += listeners.len().saturating_sub(NAMED);
        if more > 0 {
            sentences.push(format!("{more} more listeners fail"));
        }
        Some(ProgrammedCondition::not(&reason, sentences.join("; ")))
    }

    /// The condition where every gateway that has programmed the Service has no endpoint, or
    /// reaches none.
    fn without_endpoints(&self) -> Option<ProgrammedCondition> {
        let mut refusing = None;
        for (gateway, verdict) in &self.gateways {
            match verdict {
                GatewayVerdict::Unreachable(ports, message) => {
                    return Some(ProgrammedCondition::not(
                        "EndpointsUnreachable",
                        format!(
                            "No endpoint can be reached for {}. Gateway {gateway}: {message}",
                            list(ports)
                        ),
                    ));
                }
                GatewayVerdict::NoEndpoints(ports) => {
                    refusing.get_or_insert(ports);
                }
                _ => {}
            }
        }
        refusing.map(|ports| {
            ProgrammedCondition::not(
                "NoEndpoints",
                format!(
                    "No endpoint is ready for {}: clients are refused there.",
                    list(ports)
                ),
            )
        })
    }

    fn behind(&self) -> ProgrammedCondition {
        let behind = self
            .gateways
            .iter()
            .filter(|(_, verdict)| *verdict == GatewayVerdict::Behind);
        let mut names: Vec<String> = behind.map(|(name, _)| name.to_string()).collect();
        let more = names.len().saturating_sub(NAMED);
        names.truncate(NAMED);
        if more > 0 {
            names.push(format!("{more} more"));
        }
        let verb = if names.len() == 1 { "has" } else { "have" };
        let what = if names.len() == 1 {
            "Gateway"
        } else {
            "Gateways"
        };
        ProgrammedCondition::not(
            "GatewayBehind",
            format!(
                "{what} {} {verb} not yet programmed this version of the Service",
                names.join(", ")
            ),
        )
    }
}

fn list(ports: &[PortKey]) -> String {
    let mut names: Vec<String> = ports.iter().take(NAMED).map(ToString::to_string).collect();
    if ports.len() > NAMED {
        names.push(format!("{} more ports", ports.len() - NAMED));
    }
    let what = if ports.len() == 1 { "port" } else { "ports" };
    format!("{what} {}", names.join(", "))
}

/// What is known of the condition before the reports of gateways are looked at.
pub(crate) enum Beforehand {
    /// Gateways have nothing to serve.
    NothingToServe,
    /// No gateway can serve it as it is.
    Is(ProgrammedCondition),
    /// The reports decide.
    AskGateways,
}

/// What is known of the condition before the reports of gateways are looked at. `ours`: the Service
/// gets its addresses from this controller.
pub(crate) fn beforehand(entry: &IndexedService, ingress: &[Ingress], ours: bool) -> Beforehand {
    let numbers = &entry.granted.node_ports;
    if !ours && numbers.is_empty() {
        return Beforehand::NothingToServe;
    }
    let is_by_nodes = !ingress.is_empty() && ingress.iter().all(|it| it.ip_mode == IpMode::Vip);
    if carried(entry).next().is_none() && !is_by_nodes {
        return Beforehand::Is(ProgrammedCondition::not(
            UNSUPPORTED_PROTOCOL,
            "The Service has no port that Fairway carries",
        ));
    }
    if !ours {
        let missing = carried(entry).find(|key| !numbers.contains_key(key));
        return missing.map_or(Beforehand::AskGateways, |key| {
            let message = format!("Port {key} has no node port that a gateway could listen on");
            Beforehand::Is(ProgrammedCondition::not(NODE_PORT_NOT_ALLOCATED, message))
        });
    }
    if ingress.is_empty() {
        return Beforehand::Is(ProgrammedCondition::not(
            ADDRESS_NOT_ASSIGNED,
            "There is no address yet that a gateway could listen on",
        ));
    }
    Beforehand::AskGateways
}

const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
const NODE_PORT_NOT_ALLOCATED: &str = "NodePortNotAllocated";
const ADDRESS_NOT_ASSIGNED: &str = "AddressNotAssigned";

/// Whether a reason comes from reports of gateways: then the condition may stay until they report
/// again.
pub(crate) fn is_of_gateways(reason: &str) -> bool {
    ![
        UNSUPPORTED_PROTOCOL,
        NODE_PORT_NOT_ALLOCATED,
        ADDRESS_NOT_ASSIGNED,
    ]
    .contains(&reason)
}
