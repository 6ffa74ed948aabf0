//! The addresses that Services hold: each of them has to be in a pool afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::addresses::Entries;
use super::draft::{Draft, NAMESPACE_NAME, free_name};
use super::imported::Imported;
use super::metallb::Holder;
use super::selectors;
use crate::annotations::parse;
use crate::crd::{AddressPoolSpec, Announce};
use crate::pool::Forwarding;
use crate::selector::{Expression, Selector, SelectorExt as _};

/// The pool of what was in none.
const LEFT_OVER: &str = "metallb-left-over";

/// Puts every address that a Service holds into a pool, and says what else these Services need.
pub(super) fn keep(
    holders: &[Holder],
    drafts: &mut Vec<Draft>,
    names: &mut BTreeSet<String>,
    imported: &mut Imported,
) {
    let mut held: BTreeMap<IpAddr, Vec<&Holder>> = BTreeMap::new();
    for holder in holders {
        for address in holder.addresses.iter().copied() {
            if place(holder, address, drafts, names, imported) {
                held.entry(address).or_default().push(holder);
            }
        }
    }
    for (address, sharers) in &held {
        for holder in sharers {
            may_keep(holder, *address, drafts, imported);
        }
        share(*address, sharers, imported);
    }
    classes(&held, imported);
}

/// Puts an address into a pool, if it is in none; false where it stays outside.
fn place(
    holder: &Holder,
    address: IpAddr,
    drafts: &mut Vec<Draft>,
    names: &mut BTreeSet<String>,
    imported: &mut Imported,
) -> bool {
    if drafts.iter().any(|draft| draft.entries.contains(address)) {
        return true;
    }
    let origin = drafts
        .iter()
        .position(|draft| draft.came_from_here(address));
    if origin.is_none() && holder.class.is_some() && !holder.from_metallb {
        let class = holder.class.as_deref().unwrap_or_default();
        imported.warnings.push(format!(
            "{holder} holds {address}, which no IPAddressPool has, and its loadBalancerClass is \
             '{class}': it is taken for another provider's and passed over."
        ));
        return false;
    }
    let asked = || {
        let asked = holder.pool.as_ref()?;
        drafts.iter().position(|draft| {
            draft.origin.as_ref().is_some_and(|(_, name)| name == asked) && draft.name == *asked
        })
    };
    let known = drafts
        .iter()
        .position(|draft| draft.origin.is_none())
        .filter(|_| origin.is_none());
    let index = match origin.or_else(asked).or(known) {
        Some(index) => index,
        None => {
            drafts.push(left_over(names));
            drafts.len() - 1
        }
    };
    let Some(draft) = drafts.get_mut(index) else {
        return false;
    };
    let why = match origin {
        Some(_) => "which avoidBuggyIPs leaves alone",
        None => "which no IPAddressPool has",
    };
    match draft.entries.add(address) {
        Ok(()) => {
            imported.warnings.push(format!(
                "{holder} holds {address}, {why}: it is an entry of its own of AddressPool {}.",
                draft.name
            ));
            true
        }
        Err(problem) => {
            imported.warnings.push(format!(
                "{holder} holds {address}, {why}, and no AddressPool can have it: it {problem}."
            ));
            if draft.entries.is_empty() {
                names.remove(&draft.name);
                drafts.remove(index);
            }
            false
        }
    }
}

fn left_over(names: &mut BTreeSet<String>) -> Draft {
    Draft {
        name: free_name(LEFT_OVER, "", names),
        origin: None,
        origin_ranges: Vec::new(),
        entries: Entries::default(),
        spec: AddressPoolSpec {
            addresses: Vec::new(),
            // These addresses were not meant to be given to other Services.
            auto_assign: false,
            avoid_ends: false,
            priority: 100,
            service_selector: Default::default(),
            namespace_selector: Default::default(),
            quota_per_namespace: None,
            forwarding: Forwarding::default(),
            announce: Announce::default(),
        },
    }
}

/// Says where a Service would not get its address from its pool if it had to ask again.
fn may_keep(holder: &Holder, address: IpAddr, drafts: &[Draft], imported: &mut Imported) {
    let homes: Vec<&Draft> = drafts
        .iter()
        .filter(|draft| draft.entries.contains(address))
        .collect();
    if let Some(asked) = &holder.pool
        && !homes.iter().any(|draft| draft.name == *asked)
    {
        imported.warnings.push(format!(
            "{holder} holds {address} and asks for pool {asked}, which does not have it: take the \
             annotation away, or it may get another address."
        ));
    }
    for draft in homes {
        let selects = selectors::parsed(&draft.spec.service_selector)
            .is_none_or(|it| it.matches(&holder.labels));
        // Of a namespace nothing but its name is known here.
        let of_namespace = selectors::parsed(&draft.spec.namespace_selector).is_none_or(|it| {
            let of_name = |it: &Expression| selectors::label(it) == NAMESPACE_NAME;
            let by_name: Selector = it.into_iter().filter(of_name).collect();
            let name = (NAMESPACE_NAME.to_owned(), holder.namespace.clone());
            by_name.matches(&BTreeMap::from([name]))
        });
        if !selects || !of_namespace {
            imported.warnings.push(format!(
                "{holder} holds {address} of AddressPool {}, which does not select it: it keeps it, \
                 with the condition fairway.dev/OutOfPool, and would not get it again.",
                draft.name
            ));
        }
    }
}

/// MetalLB shares an address among namespaces by the key alone; in Fairway both sides have to name
/// the other, or only the first has the address.
fn share(address: IpAddr, sharers: &[&Holder], imported: &mut Imported) {
    for holder in sharers {
        let agreed: Vec<&str> = holder
            .sharing_namespaces
            .as_deref()
            .map(|text| parse::list(text).collect())
            .unwrap_or_default();
        let others: BTreeSet<&str> = sharers
            .iter()
            .map(|other| other.namespace.as_str())
            .filter(|namespace| *namespace != holder.namespace)
            .collect();
        if agreed.contains(&"*") || others.iter().all(|it| agreed.contains(it)) {
            continue;
        }
        let all: BTreeSet<&str> = others.into_iter().chain(agreed).collect();
        let all: Vec<&str> = all.into_iter().collect();
        imported.warnings.push(format!(
            "{holder} shares {address} with other namespaces, to which it has to agree before \
             Fairway takes over: kubectl annotate service -n {} {} {}={}",
            holder.namespace,
            holder.name,
            crate::annotations::SHARING_NAMESPACES,
            all.join(",")
        ));
    }
}

/// How Fairway has to be started so that the Services are its own.
fn classes(held: &BTreeMap<IpAddr, Vec<&Holder>>, imported: &mut Imported) {
    let mut services: BTreeMap<Option<&str>, BTreeSet<(&str, &str)>> = BTreeMap::new();
    for holder in held.values().flatten() {
        services
            .entry(holder.class.as_deref())
            .or_default()
            .insert((&holder.namespace, &holder.name));
    }
    for (class, services) in services {
        let count = match services.len() {
            1 => "1 Service".to_owned(),
            count => format!("{count} Services"),
        };
        imported.said.push(match class {
            None => format!(
                "{count} without a loadBalancerClass hold addresses that are in these pools: stop \
                 MetalLB's controller, then start Fairway with --default-class, and they keep them."
            ),
            Some(class) => format!(
                "{count} of loadBalancerClass {class} hold addresses that are in these pools: \
                 stop MetalLB's controller, then start Fairway with --class {class}, and they keep \
                 them; the field itself can't be changed."
            ),
        });
    }
}
