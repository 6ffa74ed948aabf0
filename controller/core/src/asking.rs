//! Asks for node ports where somebody else allocates them.
//!
//! In a cluster the API server is the allocator, and `allocateLoadBalancerNodePorts: false` keeps it
//! from giving any. Where such a Service itself says that its traffic goes to node ports, the API
//! server is asked for numbers that are not known to be taken, from the dynamic band first
//! (KEP-3668). It may refuse: somebody was faster. Then it is asked for others, each time after a
//! longer wait, which is the store's to keep. What it gave is never taken back.

use std::collections::{BTreeMap, BTreeSet};

use fairway_config::exchange::Write;
use fairway_config::net::Protocol;
use fairway_config::service::{PortKey, Service};

use crate::index::{Entry, Slot};
use crate::ledger::Ledger;
use crate::ports::Use;
use crate::wants;

/// What is asked for a Service.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    /// Numbers that count as taken, because they were asked for.
    numbers: BTreeMap<PortKey, u16>,
    /// The version of the Service that was asked for them; none: to be asked.
    from: Option<u64>,
    /// Numbers that were refused.
    refused: BTreeSet<u16>,
    /// Why, or that there is none left.
    error: Option<String>,
    /// The wait after a refusal is over. Until then no change of the Service asks again: saying so in
    /// its status is one.
    due: bool,
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
    let error = entry.asking.error.as_deref()?;
    (!missing(ledger, &entry.stored.service).is_empty()).then_some(error)
}

/// Takes off the ledger what was asked for.
pub(crate) fn release(ledger: &mut Ledger, slot: Slot, asking: &Asking) {
    for number in asking.numbers.values() {
        ledger.numbers.release(*number, slot);
    }
}

/// Puts back what was asked for, after the Service has been taken down and has got what it has: a
/// newer version shows what came of it.
pub(crate) fn keep(ledger: &mut Ledger, slot: Slot, entry: &mut Entry) {
    let asking = &mut entry.asking;
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
pub(crate) fn plan(ledger: &mut Ledger, slot: Slot, entry: &mut Entry) -> Plan {
    let service = &entry.stored.service;
    let missing = missing(ledger, service);
    let asking = &mut entry.asking;
    if missing.is_empty() {
        release(ledger, slot, asking);
        *asking = Asking::default();
        return Plan::Nothing;
    }
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
        let Some(number) = twin.or_else(|| ledger.numbers.lowest_but(&asking.refused)) else {
            release(ledger, slot, asking);
            asking.numbers.clear();
            // What was refused may be free by now.
            let were_refused = !std::mem::take(&mut asking.refused).is_empty();
            let said = asking.error.clone();
            if !were_refused || said.is_none() {
                asking.error = Some("none is left".to_owned());
            }
            asking.due = true;
            return Plan::NoneLeft(asking.error != said);
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
pub(crate) enum Plan {
    /// Nothing is to be asked.
    Nothing,
    /// There is no number that could be asked for; whether that is news.
    NoneLeft(bool),
    /// This.
    Ask(Write),
}

/// The numbers were refused: others are to be asked for.
pub(crate) fn refused(ledger: &mut Ledger, slot: Slot, entry: &mut Entry, why: &str) {
    let asking = &mut entry.asking;
    release(ledger, slot, asking);
    asking.refused.extend(asking.numbers.values());
    asking.numbers.clear();
    asking.from = None;
    asking.error = Some(why.to_owned());
}

/// It is not known what came of it: the same is to be asked again, unless the Service shows it.
pub(crate) fn again(entry: &mut Entry) {
    entry.asking.from = None;
    entry.asking.due = true;
}
