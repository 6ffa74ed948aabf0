//! Asks for node ports where somebody else allocates them.
//!
//! In a cluster the API server is the allocator, and `allocateLoadBalancerNodePorts: false` keeps it
//! from giving any. Where such a Service itself says that its traffic goes to node ports, the API
//! server is asked for numbers that are not known to be taken, from the dynamic band first
//! (KEP-3668). It may refuse: somebody was faster. Then it is asked for others, each time after a
//! longer wait, which is the store's to keep. What it gave is never taken back. Where none is left the
//! Service waits, at no cost to others, until a number is free.

use std::collections::BTreeSet;

use fairway_config::exchange::Write;
use fairway_config::net::Protocol;
use fairway_config::service::{PortKey, Service};

use crate::index::{Entry, Index};
use crate::ledger::Ledger;
use crate::node_port_request::{NodePortRequest, Place};
use crate::ports::Use;
use crate::queue::{QueueKey, ServiceSlot};
use crate::wants;

/// Whose turn it is to ask.
#[derive(Debug, Default)]
pub(crate) struct Askers {
    /// Those whose time has come.
    due: BTreeSet<ServiceSlot>,
    /// Those who wait for a free number.
    waiting: BTreeSet<Place>,
}

impl Askers {
    /// It is time to see what this one needs.
    pub(crate) fn add(&mut self, slot: ServiceSlot) {
        self.due.insert(slot);
    }

    /// The Service is gone.
    pub(crate) fn remove(&mut self, slot: ServiceSlot, entry: &Entry) {
        self.due.remove(&slot);
        if let Some(place) = entry.asking.as_ref().and_then(|it| it.place.as_ref()) {
            self.waiting.remove(place);
        }
    }

    /// What is to be asked now, and the Services of which there is something to say. Those that were
    /// `written` just now come later: the two would be made from one version, and the second be refused.
    pub(crate) fn plan(
        &mut self,
        ledger: &mut Ledger,
        index: &mut Index,
        written: &BTreeSet<ServiceSlot>,
    ) -> (Vec<Write>, Vec<ServiceSlot>) {
        let (mut writes, mut news) = (Vec::new(), Vec::new());
        let freed = ledger.numbers.take_freed();
        for slot in std::mem::take(&mut self.due) {
            if written.contains(&slot) {
                self.due.insert(slot);
            } else {
                self.plan_one(ledger, index, slot, &mut writes, &mut news);
            }
        }
        while freed && let Some((needed, QueueKey { slot, .. })) = self.waiting.first() {
            let (needed, slot) = (*needed, *slot);
            if ledger.numbers.free() < needed {
                break;
            }
            self.waiting.pop_first();
            if written.contains(&slot) {
                self.due.insert(slot);
            } else {
                self.plan_one(ledger, index, slot, &mut writes, &mut news);
            }
        }
        (writes, news)
    }

    fn plan_one(
        &mut self,
        ledger: &mut Ledger,
        index: &mut Index,
        slot: ServiceSlot,
        writes: &mut Vec<Write>,
        news: &mut Vec<ServiceSlot>,
    ) {
        let Some(entry) = index.get_mut(slot) else {
            return;
        };
        if let Some(place) = entry.asking.as_mut().and_then(|it| it.place.take()) {
            self.waiting.remove(&place);
        }
        match plan(ledger, slot, entry) {
            Plan::Nothing => {}
            Plan::Ask(write) => writes.push(write),
            Plan::NoneLeft { needed, is_news } => {
                let place = (needed, entry.rank.clone());
                self.waiting.insert(place.clone());
                entry.asking.get_or_insert_default().place = Some(place);
                news.extend(is_news.then_some(slot));
            }
        }
    }
}

/// The ports that need a number and have none.
pub(crate) fn missing(ledger: &Ledger, service: &Service) -> Vec<PortKey> {
    if !wants::asks_for_numbers(&ledger.settings, service) {
        return Vec::new();
    }
    let ports = service.ports.iter();
    ports
        .filter(|port| port.node_port.is_none() && port.protocol != Protocol::Sctp)
        .map(|port| port.key())
        .collect()
}

/// What keeps a Service from its numbers.
pub(crate) fn error<'a>(ledger: &Ledger, entry: &'a Entry) -> Option<&'a str> {
    let error = entry.asking.as_ref()?.error.as_deref()?;
    (!missing(ledger, &entry.stored.service).is_empty()).then_some(error)
}

/// Takes off the ledger what was asked for.
pub(crate) fn release(ledger: &mut Ledger, slot: ServiceSlot, asking: Option<&NodePortRequest>) {
    for number in asking.into_iter().flat_map(|it| it.numbers.values()) {
        ledger.numbers.release(*number, slot);
    }
}

/// Puts back what was asked for, after the Service has been taken down and has got what it has: a
/// newer version shows what came of it.
pub(crate) fn keep(ledger: &mut Ledger, slot: ServiceSlot, entry: &mut Entry) {
    let Some(asking) = &mut entry.asking else {
        return;
    };
    let numbers = std::mem::take(&mut asking.numbers);
    if asking.from != Some(entry.stored.version) {
        asking.from = None;
        return;
    }
    for (key, number) in numbers {
        let wanted = Use::Port(key);
        if ledger.numbers.may_take(number, slot, wanted, true).is_ok() {
            let name = &entry.stored.service.name;
            ledger.numbers.take(number, slot, name, wanted);
            asking.numbers.insert(key, number);
        }
    }
}

/// What is to be asked now. Nothing where nothing is missing, or an answer is still to come.
fn plan(ledger: &mut Ledger, slot: ServiceSlot, entry: &mut Entry) -> Plan {
    let service = &entry.stored.service;
    let missing = missing(ledger, service);
    if missing.is_empty() {
        release(ledger, slot, entry.asking.take().as_deref());
        return Plan::Nothing;
    }
    let asking = entry.asking.get_or_insert_default();
    let version = entry.stored.version;
    if asking.from == Some(version) || (asking.error.is_some() && !asking.due) {
        return Plan::Nothing;
    }
    for key in &missing {
        let wanted = Use::Port(*key);
        if asking.numbers.contains_key(key) {
            continue;
        }
        let twin = asking.numbers.iter().find_map(|(other, number)| {
            let is_twin = other.port == key.port && other.protocol != key.protocol;
            is_twin.then_some(*number)
        });
        let numbers = &ledger.numbers;
        let other = || {
            let other = numbers.lowest_but(&asking.refused);
            // All that are left were refused: one of them may be free by now.
            other.or_else(|| {
                asking.refused.clear();
                numbers.lowest().ok()
            })
        };
        let Some(number) = twin.or_else(other) else {
            release(ledger, slot, Some(asking));
            asking.numbers.clear();
            asking.due = true;
            let error = Some("none is left".to_owned());
            let is_news = asking.error != error;
            asking.error = error;
            // One number does for both protocols of a port.
            let ports: BTreeSet<_> = missing.iter().map(|key| key.port).collect();
            let needed = ports.len();
            return Plan::NoneLeft { needed, is_news };
        };
        ledger.numbers.take(number, slot, &service.name, wanted);
        asking.numbers.insert(*key, number);
    }
    asking.from = Some(version);
    asking.due = false;
    Plan::Ask(Write::NodePorts {
        name: service.name.clone(),
        version,
        numbers: asking.numbers.clone(),
    })
}

/// What [`plan`] answers.
#[derive(Debug)]
enum Plan {
    /// Nothing is to be asked.
    Nothing,
    /// There are not as many free numbers as are needed; whether that is news.
    NoneLeft { needed: usize, is_news: bool },
    /// This.
    Ask(Write),
}

/// The question was turned down: where one of the numbers was the reason others are to be asked for,
/// else there is nothing wrong with them.
pub(crate) fn refused(
    ledger: &mut Ledger,
    slot: ServiceSlot,
    entry: &mut Entry,
    why: &str,
    blames_number: bool,
) {
    let asking = entry.asking.get_or_insert_default();
    release(ledger, slot, Some(asking));
    let numbers = std::mem::take(&mut asking.numbers);
    if blames_number {
        asking.refused.extend(numbers.into_values());
    }
    asking.from = None;
    asking.error = Some(why.to_owned());
}

/// It is not known what came of it: the same is to be asked again, unless the Service shows it.
pub(crate) fn again(entry: &mut Entry) {
    if let Some(asking) = &mut entry.asking {
        asking.from = None;
        asking.due = true;
    }
}
