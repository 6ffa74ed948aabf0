//! Asks the API server for node ports, where that allocates them.
//!
//! In a cluster the API server is the allocator, and `allocateLoadBalancerNodePorts: false` keeps
//! it from giving any. Where such a Service itself says that its traffic goes to node ports, the
//! API server is asked for numbers that are not known to be taken, from the dynamic band first
//! (KEP-3668). It may refuse a number that is taken meanwhile. Then it is asked for others, each
//! time after a longer wait, which the controller's loop keeps. What it gave is never taken back.
//! Where no number is left the Service waits until one is free, without a cost for others.

use std::collections::BTreeSet;

use fairway_config::exchange::Write;
use fairway_config::net::Protocol;
use fairway_config::service::{PortKey, Service};

use crate::allocations::Allocations;
use crate::index::{Index, IndexedService};
use crate::node_port_request::{NodePortRequest, Place};
use crate::ports::Use;
use crate::queue::{QueueKey, ServiceSlot};
use crate::wants;

/// The Services for which node ports have to be requested.
#[derive(Debug, Default)]
pub(crate) struct NodePortRequester {
    /// Services whose request is due.
    due: BTreeSet<ServiceSlot>,
    /// Services that wait for a free number.
    waiting: BTreeSet<Place>,
}

impl NodePortRequester {
    /// The request for this Service is due.
    pub(crate) fn add(&mut self, slot: ServiceSlot) {
        self.due.insert(slot);
    }

    /// The Service is gone.
    pub(crate) fn remove(&mut self, slot: ServiceSlot, entry: &IndexedService) {
        self.due.remove(&slot);
        if let Some(place) = entry
            .node_port_request
            .as_ref()
            .and_then(|it| it.place.as_ref())
        {
            self.waiting.remove(place);
        }
    }

    /// The requests to send now, and the Services whose status has to say something new. Services
    /// that were `written` just now come later: both writes would be made from one version, and the
    /// second one refused.
    pub(crate) fn plan(
        &mut self,
        allocations: &mut Allocations,
        index: &mut Index,
        written: &BTreeSet<ServiceSlot>,
    ) -> (Vec<Write>, Vec<ServiceSlot>) {
        let (mut writes, mut news) = (Vec::new(), Vec::new());
        let freed = allocations.numbers.take_freed();
        for slot in std::mem::take(&mut self.due) {
            if written.contains(&slot) {
                self.due.insert(slot);
            } else {
                self.plan_one(allocations, index, slot, &mut writes, &mut news);
            }
        }
        while freed && let Some((needed, QueueKey { slot, .. })) = self.waiting.first() {
            let (needed, slot) = (*needed, *slot);
            if allocations.numbers.free() < needed {
                break;
            }
            self.waiting.pop_first();
            if written.contains(&slot) {
                self.due.insert(slot);
            } else {
                self.plan_one(allocations, index, slot, &mut writes, &mut news);
            }
        }
        (writes, news)
    }

    fn plan_one(
        &mut self,
        allocations: &mut Allocations,
        index: &mut Index,
        slot: ServiceSlot,
        writes: &mut Vec<Write>,
        news: &mut Vec<ServiceSlot>,
    ) {
        let Some(entry) = index.get_mut(slot) else {
            return;
        };
        if let Some(place) = entry
            .node_port_request
            .as_mut()
            .and_then(|it| it.place.take())
        {
            self.waiting.remove(&place);
        }
        match plan(allocations, slot, entry) {
            Plan::Nothing => {}
            Plan::Ask(write) => writes.push(write),
            Plan::NoneLeft { needed, is_news } => {
                let place = (needed, entry.rank.clone());
                self.waiting.insert(place.clone());
                entry.node_port_request.get_or_insert_default().place = Some(place);
                news.extend(is_news.then_some(slot));
            }
        }
    }
}

/// The ports that need a number and have none.
pub(crate) fn missing(allocations: &Allocations, service: &Service) -> Vec<PortKey> {
    if !wants::asks_for_numbers(&allocations.settings, service) {
        return Vec::new();
    }
    let ports = service.ports.iter();
    ports
        .filter(|port| port.node_port.is_none() && port.protocol != Protocol::Sctp)
        .map(|port| port.key())
        .collect()
}

/// Why a Service does not have its numbers.
pub(crate) fn error<'a>(allocations: &Allocations, entry: &'a IndexedService) -> Option<&'a str> {
    let error = entry.node_port_request.as_ref()?.error.as_deref()?;
    (!missing(allocations, &entry.stored.service).is_empty()).then_some(error)
}

/// Releases the numbers that were asked for.
pub(crate) fn release(
    allocations: &mut Allocations,
    slot: ServiceSlot,
    request: Option<&NodePortRequest>,
) {
    for number in request.into_iter().flat_map(|it| it.numbers.values()) {
        allocations.numbers.release(*number, slot);
    }
}

/// Allocates again the numbers that were asked for, after everything of the Service was released
/// and allocated again. Where the Service has a newer version, that shows the result: the request has
/// ended.
pub(crate) fn keep(allocations: &mut Allocations, slot: ServiceSlot, entry: &mut IndexedService) {
    let Some(request) = &mut entry.node_port_request else {
        return;
    };
    let numbers = std::mem::take(&mut request.numbers);
    if request.from != Some(entry.stored.version) {
        request.from = None;
        return;
    }
    for (key, number) in numbers {
        let wanted = Use::Port(key);
        if allocations
            .numbers
            .may_take(number, slot, wanted, true)
            .is_ok()
        {
            let name = &entry.stored.service.name;
            allocations.numbers.take(number, slot, name, wanted);
            request.numbers.insert(key, number);
        }
    }
}

/// The request to send now. Nothing where no number is missing, or the answer has not come yet.
fn plan(allocations: &mut Allocations, slot: ServiceSlot, entry: &mut IndexedService) -> Plan {
    let service = &entry.stored.service;
    let missing = missing(allocations, service);
    if missing.is_empty() {
        release(allocations, slot, entry.node_port_request.take().as_deref());
        return Plan::Nothing;
    }
    let request = entry.node_port_request.get_or_insert_default();
    let version = entry.stored.version;
    if request.from == Some(version) || (request.error.is_some() && !request.due) {
        return Plan::Nothing;
    }
    for key in &missing {
        let wanted = Use::Port(*key);
        if request.numbers.contains_key(key) {
            continue;
        }
        let twin = request.numbers.iter().find_map(|(other, number)| {
            let is_twin = other.port == key.port && other.protocol != key.protocol;
            is_twin.then_some(*number)
        });
        let numbers = &allocations.numbers;
        let other = || {
            let other = numbers.lowest_but(&request.refused);
            // All numbers that are left were refused before: one of them may be free by now.
            other.or_else(|| {
                request.refused.clear();
                numbers.lowest().ok()
            })
        };
        let Some(number) = twin.or_else(other) else {
            release(allocations, slot, Some(request));
            request.numbers.clear();
            request.due = true;
            let error = Some("none is left".to_owned());
            let is_news = request.error != error;
            request.error = error;
            // TCP and UDP of one port share a number.
            let ports: BTreeSet<_> = missing.iter().map(|key| key.port).collect();
            let needed = ports.len();
            return Plan::NoneLeft { needed, is_news };
        };
        allocations
            .numbers
            .take(number, slot, &service.name, wanted);
        request.numbers.insert(*key, number);
    }
    request.from = Some(version);
    request.due = false;
    Plan::Ask(Write::NodePorts {
        name: service.name.clone(),
        version,
        numbers: request.numbers.clone(),
    })
}

/// What [`plan`] answers.
#[derive(Debug)]
enum Plan {
    /// There is no request to send.
    Nothing,
    /// Fewer numbers are free than are needed. `is_news`: the status does not say so yet.
    NoneLeft { needed: usize, is_news: bool },
    /// Send this request.
    Ask(Write),
}

/// The request was refused. Where one of the numbers was the reason, other numbers are asked for
/// next; else the same ones.
pub(crate) fn refused(
    allocations: &mut Allocations,
    slot: ServiceSlot,
    entry: &mut IndexedService,
    why: &str,
    blames_number: bool,
) {
    let request = entry.node_port_request.get_or_insert_default();
    release(allocations, slot, Some(request));
    let numbers = std::mem::take(&mut request.numbers);
    if blames_number {
        request.refused.extend(numbers.into_values());
    }
    request.from = None;
    request.error = Some(why.to_owned());
}

/// The result of the request is not known: it is sent again, unless the Service shows the numbers.
pub(crate) fn again(entry: &mut IndexedService) {
    if let Some(request) = &mut entry.node_port_request {
        request.from = None;
        request.due = true;
    }
}
