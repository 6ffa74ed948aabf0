//! Makes the status of a Service: its [`conditions`](fairway_config::conditions) and `status.loadBalancer`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{
    ClaimKind, Condition, ConditionMap, Ingress, IngressPort, IpMode, ListenerState, Report, Status,
};
use fairway_config::net::{IpFamily, Protocol};
use fairway_config::pool::Forwarding;
use fairway_config::service::{Service, ServiceType};
use fairway_config::time::Timestamp;

use crate::allocations::Allocations;
use crate::assign::missing_numbers;
use crate::gateways::{GatewayTable, Heard};
use crate::index::{IndexedService, Standing};
use crate::layer2::{self, Layer2Address};
use crate::node_port_requester;
use crate::ports::{NumberRefusal, Use};
use crate::programmed::{self, Beforehand};
use crate::refusal::PoolRefusal;
use crate::wants::{self, NumberWant};
use fairway_config::conditions::{
    ACCEPTED, ADDRESS_ASSIGNED, ADDRESS_CONFLICT, ANNOUNCED, ENDPOINTS_ALLOWED, GATEWAY_NOTICE,
    NODE_PORTS_ALLOCATED, OUT_OF_POOL, PROGRAMMED, SOURCE_CURRENT,
};

/// How many failures a message names.
const FAILURES_NAMED: usize = 3;

/// Makes the status of a Service from what it was granted, and says in which state it is.
///
/// Until gateways have reported, what they reported before stays: a controller that has just begun
/// must not write what it would take back a moment later.
pub(crate) fn status(
    allocations: &Allocations,
    entry: &IndexedService,
    gateways: &GatewayTable,
    now: Timestamp,
) -> (Status, Standing) {
    let service = &*entry.stored.service;
    let mut heard = gateways.heard(entry);
    let mut layer2 = Vec::new();
    let mut conditions = Conditions {
        before: &entry.last_status().conditions,
        now,
        made: ConditionMap::default(),
    };
    let mut standing = Standing::NotOurs;
    let mut ingress = Vec::new();
    if wants::wants_address(&allocations.settings, service) {
        standing = address_assigned(allocations, entry, &mut conditions);
        out_of_pool(allocations, entry, &mut conditions);
        layer2 = layer2::addresses_of(allocations, gateways, entry);
        heard.keeps |= entry.as_found && !layer2.is_empty() && gateways.awaits_addresses();
        ingress = entry
            .granted
            .addresses
            .iter()
            .map(|address| {
                let on_layer2 = layer2.iter().find(|it| it.address == *address);
                ingress_of(allocations, entry, *address, on_layer2, &heard)
            })
            .collect();
    }
    node_ports_allocated(allocations, entry, &mut conditions);
    if allocations.settings.allocates_node_ports || standing != Standing::NotOurs {
        accepted(service, &ingress, &mut conditions);
        if let Some(problem) = &entry.stored.source_problem {
            let source = entry.stored.source.as_deref().unwrap_or("the source");
            let message = format!("The last good form is in force. {source}: {problem}");
            conditions.put(SOURCE_CURRENT, false, "SourceUnreadable", message);
        }
        if carries_traffic(service) {
            let ours = standing != Standing::NotOurs;
            programmed(entry, &ingress, ours, &layer2, &heard, &mut conditions);
        }
    }
    let mut conditions = conditions.made;
    conditions.shrink();
    (
        Status {
            ingress,
            conditions,
            has_foreign_ingress: false,
        },
        standing,
    )
}

/// Whether gateways serve the Service, and what else they report.
fn programmed(
    entry: &IndexedService,
    ingress: &[Ingress],
    ours: bool,
    layer2: &[Layer2Address<'_>],
    heard: &Heard<'_>,
    conditions: &mut Conditions<'_>,
) {
    let before = conditions.before.get(PROGRAMMED);
    let said_by_gateways = before.is_some_and(|it| programmed::is_of_gateways(&it.reason));
    let verdict = match programmed::beforehand(entry, ingress, ours) {
        Beforehand::NothingToServe => None,
        Beforehand::Is(verdict) => Some(verdict),
        Beforehand::AskGateways if heard.keeps && said_by_gateways => {
            return conditions.keep([
                PROGRAMMED,
                ENDPOINTS_ALLOWED,
                GATEWAY_NOTICE,
                ANNOUNCED,
                ADDRESS_CONFLICT,
            ]);
        }
        Beforehand::AskGateways => Some(layer2::programmed(&heard.serving, layer2, ingress.len())),
    };
    if let Some(verdict) = verdict {
        conditions.put(PROGRAMMED, verdict.status, &verdict.reason, verdict.message);
    }
    if let Some(message) = layer2::announced_sentence(layer2) {
        conditions.put(ANNOUNCED, true, "Layer2", message);
    }
    if let Some(message) = layer2::conflict_sentence(layer2) {
        conditions.put(ADDRESS_CONFLICT, true, layer2::ADDRESS_CONFLICT, message);
    }
    reported(heard.reports, conditions);
}

/// The conditions of a Service while they are made.
struct Conditions<'a> {
    before: &'a ConditionMap,
    now: Timestamp,
    made: ConditionMap,
}

impl Conditions<'_> {
    /// `since` changes only with `status`, as Kubernetes' API conventions demand.
    fn put(&mut self, kind: &'static str, status: bool, reason: &str, message: String) {
        let before = self.before.get_key_value(kind);
        let since = before
            .filter(|(_, before)| before.status == status)
            .map_or(self.now, |(_, before)| before.since);
        let kind = before.map_or_else(|| Arc::from(kind), |(kind, _)| Arc::clone(kind));
        let reason = match before {
            Some((_, before)) if *before.reason == *reason => Arc::clone(&before.reason),
            _ => Arc::from(reason),
        };
        let condition = Condition {
            status,
            reason,
            message,
            since,
        };
        self.made.insert(kind, condition);
    }

    /// Keeps these conditions as they were.
    fn keep(&mut self, kinds: impl IntoIterator<Item = &'static str>) {
        for kind in kinds {
            if let Some((kind, condition)) = self.before.get_key_value(kind) {
                self.made.insert(Arc::clone(kind), condition.clone());
            }
        }
    }
}

/// Whether gateways serve Services of this type.
pub(crate) fn carries_traffic(service: &Service) -> bool {
    matches!(
        service.kind,
        ServiceType::NodePort | ServiceType::LoadBalancer
    )
}

fn address_assigned(
    allocations: &Allocations,
    entry: &IndexedService,
    conditions: &mut Conditions<'_>,
) -> Standing {
    let held = &entry.granted.addresses;
    let refusals = allocations.refusals(&entry.stored.service, held);
    let list: Vec<_> = held.iter().map(ToString::to_string).collect();
    let list = list.join(" and ");
    let verb = if held.len() == 1 { "is" } else { "are" };
    let Some(first) = refusals.first() else {
        let message = match held.is_empty() {
            true => String::new(),
            false => format!("{list} {verb} assigned."),
        };
        conditions.put(ADDRESS_ASSIGNED, true, "Assigned", message);
        return Standing::Assigned;
    };
    let mut sentences: Vec<String> = Vec::new();
    if !held.is_empty() {
        // The condition is False, so its message begins with what is missing.
        let families = allocations.families(&entry.stored.service, held);
        let has = |family: IpFamily| held.iter().any(|it| IpFamily::of(*it) == family);
        let missing = families.into_iter().find(|family| !has(*family));
        sentences.push(match missing {
            Some(family) => {
                format!("The {family} address is missing; only {list} {verb} assigned.")
            }
            None => format!("A requested address is missing; only {list} {verb} assigned."),
        });
    }
    sentences.extend(refusals.iter().map(|refusal| refusal.summary()));
    let message = sentences.join(" ");
    conditions.put(ADDRESS_ASSIGNED, false, first.reason(), message);
    Standing::Pending
}

/// The reason and the sentence for an address that no pool would give to its holder now.
pub(crate) fn out_of_pool_sentence(
    allocations: &Allocations,
    service: &Service,
    address: IpAddr,
) -> Option<(&'static str, String)> {
    if let Some(node) = allocations.nodes.node(address) {
        return Some((
            "NodeAddress",
            format!(
                "{address} is an address of node '{node}' and would be given to nobody now: what is sent to the node goes to the Service, which keeps the address until it lets go of it."
            ),
        ));
    }
    let mut pools = allocations.pools.containing(address).peekable();
    if pools.peek().is_none() {
        return Some((
            "OutOfPool",
            format!(
                "{address} is in no AddressPool any more; the Service keeps it until it lets go of it."
            ),
        ));
    }
    let mut not_usable = None;
    for pool in pools {
        match allocations.standing_in_pool(pool, service, address) {
            Ok(()) => return None,
            Err(refusal @ PoolRefusal::NotUsable(_)) => {
                not_usable.get_or_insert((pool.name(), refusal.why()));
            }
            Err(_) => {}
        }
    }
    if let Some((name, why)) = not_usable {
        return Some((
            "PoolNotUsable",
            format!(
                "{address} is of AddressPool '{name}', and {why}; the Service keeps the address until it lets go of it."
            ),
        ));
    }
    Some((
        "NotSelected",
        format!(
            "The AddressPool of {address} does not select the Service any more; the Service keeps the address until it lets go of it."
        ),
    ))
}

fn out_of_pool(allocations: &Allocations, entry: &IndexedService, conditions: &mut Conditions<'_>) {
    let service = &entry.stored.service;
    let addresses = entry.granted.addresses.iter();
    let mut reason = None;
    let mut sentences = Vec::new();
    for (why, sentence) in addresses.filter_map(|a| out_of_pool_sentence(allocations, service, *a))
    {
        reason.get_or_insert(why);
        sentences.push(sentence);
    }
    if let Some(reason) = reason {
        conditions.put(OUT_OF_POOL, true, reason, sentences.join(" "));
    }
}

/// Why ports or the health check of a Service have no number.
pub(crate) fn number_refusals(
    allocations: &Allocations,
    entry: &IndexedService,
) -> Vec<(Use, Option<u16>, NumberRefusal)> {
    let slot = entry.rank.slot;
    missing_numbers(&entry.stored.service, &entry.granted)
        .into_iter()
        .filter_map(|(wanted, want)| match want {
            NumberWant::Unreadable => Some((wanted, None, NumberRefusal::Unreadable)),
            NumberWant::Asked(number) => {
                let refusal = allocations
                    .numbers
                    .may_take(number, slot, wanted, false)
                    .err()?;
                Some((wanted, Some(number), refusal))
            }
            _ => Some((wanted, None, allocations.numbers.lowest().err()?)),
        })
        .collect()
}

fn node_ports_allocated(
    allocations: &Allocations,
    entry: &IndexedService,
    conditions: &mut Conditions<'_>,
) {
    if !allocations.settings.allocates_node_ports {
        return node_ports_asked_for(allocations, entry, conditions);
    }
    let refusals = number_refusals(allocations, entry);
    let granted = &entry.granted;
    if let Some((_, _, first)) = refusals.first() {
        let sentences: Vec<_> = refusals
            .iter()
            .map(|(wanted, number, refusal)| refusal.sentence(*wanted, *number))
            .collect();
        let message = sentences.join(" ");
        conditions.put(NODE_PORTS_ALLOCATED, false, first.reason(), message);
    } else if !granted.node_ports.is_empty() || granted.health_check_node_port.is_some() {
        let message = "Every port has its node port.".to_owned();
        conditions.put(NODE_PORTS_ALLOCATED, true, "Allocated", message);
    }
}

fn node_ports_asked_for(
    allocations: &Allocations,
    entry: &IndexedService,
    conditions: &mut Conditions<'_>,
) {
    let service = &entry.stored.service;
    if let Some(sentence) = asked_sentence(allocations, entry) {
        conditions.put(NODE_PORTS_ALLOCATED, false, "NodePortsRefused", sentence);
    } else if wants::asks_for_numbers(&allocations.settings, service)
        && node_port_requester::missing(allocations, service).is_empty()
    {
        let message = "Every port has its node port.".to_owned();
        conditions.put(NODE_PORTS_ALLOCATED, true, "Allocated", message);
    }
}

/// The sentence for node ports that the API server refuses.
pub(crate) fn asked_sentence(allocations: &Allocations, entry: &IndexedService) -> Option<String> {
    let error = node_port_requester::error(allocations, entry)?;
    let missing = node_port_requester::missing(allocations, &entry.stored.service);
    let ports: Vec<String> = missing.iter().map(ToString::to_string).collect();
    Some(format!(
        "Node ports for {} were asked of the API server, because the Service says forward-to: node-ports and allocates none, and are not to be had: {error}. Others are asked for now and then.",
        ports.join(", ")
    ))
}

fn accepted(service: &Service, ingress: &[Ingress], conditions: &mut Conditions<'_>) {
    let mut reason: Option<&str> = None;
    let mut messages: Vec<String> = Vec::new();
    for notice in &service.notices {
        reason.get_or_insert(&notice.reason);
        messages.push(notice.message.clone());
    }
    let sctp = service
        .ports
        .iter()
        .filter(|p| p.protocol == Protocol::Sctp);
    let sctp: Vec<_> = sctp.map(|port| port.key().to_string()).collect();
    let by_nodes = ingress.iter().filter(|it| it.ip_mode == IpMode::Vip);
    let by_nodes = by_nodes.count();
    let is_carried = by_nodes > 0 && by_nodes == ingress.len();
    if !sctp.is_empty() && carries_traffic(service) && !is_carried {
        reason.get_or_insert(UNSUPPORTED_PROTOCOL);
        messages.push(format!(
            "SCTP is not carried: {} gets no traffic",
            sctp.join(", ")
        ));
    }
    let features = service.gateway_features();
    if by_nodes > 0 && !features.is_empty() {
        reason.get_or_insert("ForwardingNode");
        messages.push(format!(
            "kube-proxy carries the traffic, for the AddressPool says forwarding: Node, and does not know {}: no effect",
            features.join(", ")
        ));
    }
    if let Some(reason) = reason {
        conditions.put(ACCEPTED, false, reason, messages.join("; "));
    }
}

/// The `error` of a port whose protocol Fairway does not carry.
const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";

/// What gateways report of a Service besides whether they serve it.
fn reported(reports: &[Arc<Report>], conditions: &mut Conditions<'_>) {
    let refused: BTreeMap<_, _> = reports
        .iter()
        .flat_map(|report| &report.refused_endpoints)
        .map(|refused| (refused.endpoint, &refused.why))
        .collect();
    if !refused.is_empty() {
        let mut sentences: Vec<String> = refused
            .iter()
            .take(FAILURES_NAMED)
            .map(|(endpoint, why)| format!("{endpoint} {why}"))
            .collect();
        // All gateways refuse nearly the same endpoints.
        let unlisted = reports.iter().map(|it| it.unlisted.refused_endpoints);
        let more = refused.len().saturating_sub(FAILURES_NAMED) + unlisted.max().unwrap_or(0);
        if more > 0 {
            sentences.push(format!("{more} more endpoints are refused"));
        }
        let message = format!("No traffic is sent to: {}", sentences.join("; "));
        conditions.put(ENDPOINTS_ALLOWED, false, "EndpointsRefused", message);
    }

    let notices: Vec<_> = reports
        .iter()
        .flat_map(|report| report.notices.iter().map(|n| (&report.gateway, n)))
        .collect();
    if let Some((_, first)) = notices.first() {
        let mut messages: Vec<_> = notices
            .iter()
            .take(FAILURES_NAMED)
            .map(|(gateway, notice)| format!("Gateway {gateway}: {}", notice.message))
            .collect();
        let unlisted = reports.iter().map(|it| it.unlisted.notices);
        let more = notices.len().saturating_sub(FAILURES_NAMED) + unlisted.sum::<usize>();
        if more > 0 {
            messages.push(format!("{more} more notices"));
        }
        conditions.put(GATEWAY_NOTICE, true, &first.reason, messages.join("; "));
    }
}

fn ingress_of(
    allocations: &Allocations,
    entry: &IndexedService,
    address: IpAddr,
    on_layer2: Option<&Layer2Address<'_>>,
    heard: &Heard<'_>,
) -> Ingress {
    let service = &entry.stored.service;
    let before = || {
        let mut ingress = entry.last_status().ingress.iter();
        ingress.find(|ingress| ingress.ip == address)
    };
    let mut pools = allocations.pools.containing(address);
    let ip_mode = match pools.next().map(|pool| pool.config.forwarding) {
        Some(Forwarding::Proxy) => IpMode::Proxy,
        Some(Forwarding::Node) => IpMode::Vip,
        // The address is in no pool any more: the mode stays as it was.
        None => before().map_or(IpMode::Proxy, |ingress| ingress.ip_mode),
    };
    // Clients of an address that is announced on layer 2 reach the listeners of its owner alone.
    let owner = on_layer2.and_then(|it| it.heard_owner(&heard.serving));
    let reports = heard.reports.iter();
    let reports = reports.filter(|report| owner.is_none_or(|owner| *owner == report.gateway));
    let mut failed = BTreeMap::new();
    for listener in reports.flat_map(|report| &report.listeners) {
        if let ListenerState::Failed { reason, .. } = &listener.state
            && listener.kind == ClaimKind::Vip
            && listener.listen.0.ip() == address
        {
            let key = (listener.protocol, listener.port);
            failed.entry(key).or_insert(reason.as_str());
        }
    }
    let ports = service.ports.iter().map(|port| {
        let key = port.key();
        let error = match key.protocol {
            Protocol::Sctp if ip_mode == IpMode::Proxy => Some(UNSUPPORTED_PROTOCOL),
            protocol if !heard.keeps => failed.get(&(protocol, key.port)).copied(),
            _ => before()
                .and_then(|ingress| ingress.ports.iter().find(|port| port.key == key))
                .and_then(|port| port.error.as_deref()),
        };
        let error = error.map(Arc::from);
        IngressPort { key, error }
    });
    let ports = ports.collect();
    Ingress {
        ip: address,
        hostname: service.asks.hostname.clone(),
        ip_mode,
        ports,
    }
}
