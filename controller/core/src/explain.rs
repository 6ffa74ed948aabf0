//! Sentences for `fairway explain`: why a Service has its address and its node ports.

use fairway_config::annotations::CONTROLLER;
use fairway_config::conditions::PROGRAMMED;
use fairway_config::exchange::GatewayProgress;
use fairway_config::field::Shown;
use fairway_config::net::IpFamily;
use fairway_config::service::{Service, ServiceType};
use fairway_config::view::Section;

use crate::allocations::Allocations;
use crate::gateways::GatewayTable;
use crate::index::IndexedService;
use crate::layer2;
use crate::status::{asked_sentence, number_refusals, out_of_pool_sentence};
use crate::wants;

/// How many gateways are listed.
const GATEWAYS: usize = 20;

/// The sections `Address`, `Node ports`, `Traffic` and `Source`.
pub(crate) fn explain(
    allocations: &Allocations,
    gateways: &GatewayTable,
    entry: &IndexedService,
) -> Vec<Section> {
    let section = |title: &str, sentences: Vec<String>| Section {
        title: title.to_owned(),
        sentences,
    };
    let sections = [
        section("Address", address(allocations, gateways, entry)),
        section("Node ports", node_ports(allocations, entry)),
        section("Traffic", traffic(gateways, entry)),
        section("Source", source(entry)),
    ];
    // Objects of an API server come from no file.
    let told = sections.into_iter().filter(|it| !it.sentences.is_empty());
    told.collect()
}

/// Whether gateways that are processes of their own serve a Service, and what each of them says.
/// What one in this process does is its own to tell.
fn traffic(gateways: &GatewayTable, entry: &IndexedService) -> Vec<String> {
    let condition = entry.last_status().conditions.get(PROGRAMMED);
    let Some(condition) = condition.filter(|_| gateways.are_processes()) else {
        return Vec::new();
    };
    let mut sentences = vec![sentence(&condition.message)];
    let heard = gateways.heard(entry);
    let living = heard.serving.gateways.iter();
    sentences.extend(living.map(|(name, verdict)| verdict.sentence(name)));
    let draining = gateways.processes().filter_map(|(name, status)| {
        let why = status.row.draining.as_ref()?;
        Some(format!("Gateway {name} drains, because {why}."))
    });
    sentences.extend(draining);
    let gone = gateways
        .processes()
        .filter(|(_, status)| status.progress == GatewayProgress::Gone);
    sentences.extend(
        gone.map(|(name, status)| format!("Gateway {name} does not count: {}.", status.row.why)),
    );
    let more = sentences.len().saturating_sub(GATEWAYS + 1);
    if more > 0 {
        sentences.truncate(GATEWAYS + 1);
        sentences.push(format!("{more} more gateways are not listed here."));
    }
    sentences
}

fn sentence(message: &str) -> String {
    format!("{}.", message.trim_end_matches('.'))
}

fn address(
    allocations: &Allocations,
    gateways: &GatewayTable,
    entry: &IndexedService,
) -> Vec<String> {
    let service = &*entry.stored.service;
    if !wants::wants_address(&allocations.settings, service) {
        return vec![why_no_address(allocations, service)];
    }
    let mut sentences = Vec::new();
    for &address in &entry.granted.addresses {
        if let Some((_, sentence)) = out_of_pool_sentence(allocations, service, address) {
            sentences.push(sentence);
        } else if let Some(pool) = allocations.pools.containing(address).next() {
            let name = pool.name();
            let priority = pool.config.priority;
            let family = IpFamily::of(address);
            let why = if wants::asked_address(service, family) == Some(address) {
                "it was asked for"
            } else if entry.stored.source.is_none() {
                // In a cluster the status is the memory: it does not say why the address was given.
                "it was free when it was given, and stays"
            } else if service.status_addresses.contains(&address) {
                "the status in its manifest names it"
            } else {
                "it was the lowest free one when it was given, and stays"
            };
            sentences.push(format!(
                "{address} is from pool '{name}' (priority {priority}): {why}."
            ));
        }
        let others: Vec<_> = allocations
            .holders
            .of(address)
            .iter()
            .filter(|holder| holder.slot != entry.rank.slot)
            .map(|holder| holder.service.name.to_string())
            .collect();
        if !others.is_empty() {
            let mut others = others;
            others.sort();
            sentences.push(format!("{address} is shared with {}.", others.join(", ")));
        }
    }
    for it in layer2::addresses_of(allocations, gateways, entry) {
        sentences.push(it.verdict.sentence(it.address, it.lasts));
    }
    sentences.extend(allocations.probe_sentences(entry));
    sentences.extend(not_shared(allocations, entry));
    for refusal in allocations.refusals(service, &entry.granted.addresses) {
        sentences.extend(refusal.sentences());
    }
    sentences
}

/// How many addresses under its key a Service is told that it does not share.
const NOT_SHARED: usize = 3;

/// The addresses under its sharing key that a Service does not share, and which Service is the
/// reason.
fn not_shared(allocations: &Allocations, entry: &IndexedService) -> Vec<String> {
    let service = &*entry.stored.service;
    let Some(key) = &service.asks.sharing_key else {
        return Vec::new();
    };
    let granted = &entry.granted.addresses;
    allocations
        .holders
        .under_key(key)
        .filter(|address| !granted.contains(address))
        .filter_map(|address| {
            let clash = allocations.holders.may_join(address, service).err()?;
            Some(format!(
                "It does not share {address}, which others have under its sharing key '{}': {}.",
                Shown(key),
                clash.why()
            ))
        })
        .take(NOT_SHARED)
        .collect()
}

fn why_no_address(allocations: &Allocations, service: &Service) -> String {
    if service.kind != ServiceType::LoadBalancer {
        return format!(
            "It is of type {}, and gets no external address.",
            service.kind.as_str()
        );
    }
    if service.deleting {
        return "It is being deleted, and has let go of its address.".into();
    }
    if service.asks.ignore {
        return "Its annotation kube-vip.io/ignore says hands off.".into();
    }
    if let Some(other) = &service.asks.other_controller {
        return format!(
            "The controller {other} has taken it, as its condition or its annotation {CONTROLLER} says. The controller of class {} that is asked here leaves it alone. Where that other controller is gone for good, remove the annotation.",
            allocations.settings.class.name
        );
    }
    match &service.class {
        Some(class) => format!(
            "Its loadBalancerClass is {class}; Fairway serves {}.",
            allocations.settings.class.name
        ),
        None => format!(
            "It has no loadBalancerClass, and Fairway is not the default: start the controller with --default-class, or make it anew with loadBalancerClass: {}, which can't be set on a LoadBalancer that is there.",
            allocations.settings.class.name
        ),
    }
}

fn node_ports(allocations: &Allocations, entry: &IndexedService) -> Vec<String> {
    let granted = &entry.granted;
    let mut sentences: Vec<String> = granted
        .node_ports
        .iter()
        .map(|(key, number)| format!("Port {key} has node port {number}."))
        .collect();
    if let Some(number) = granted.health_check_node_port {
        sentences.push(format!("The health check answers on node port {number}."));
    }
    if allocations.settings.allocates_node_ports {
        let refusals = number_refusals(allocations, entry);
        sentences.extend(
            refusals
                .iter()
                .map(|(wanted, number, refusal)| refusal.sentence(*wanted, *number)),
        );
    }
    sentences.extend(asked_sentence(allocations, entry));
    if sentences.is_empty() {
        let service = &entry.stored.service;
        sentences.push(match service.kind {
            ServiceType::LoadBalancer if !service.allocate_node_ports => {
                "None: allocateLoadBalancerNodePorts is false.".into()
            }
            kind => format!("None: it is of type {}.", kind.as_str()),
        });
    }
    sentences
}

fn source(entry: &IndexedService) -> Vec<String> {
    let mut sentences = Vec::new();
    if let Some(source) = &entry.stored.source {
        sentences.push(format!("It comes from {source}."));
    }
    if let Some(problem) = &entry.stored.source_problem {
        sentences.push(format!(
            "The source can't be read just now, so its last good form is in force: {problem}."
        ));
    }
    for notice in &entry.stored.service.notices {
        sentences.push(sentence(&notice.message));
    }
    sentences
}
