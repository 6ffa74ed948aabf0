//! Coming from MetalLB: its IPAddressPools as AddressPools, its BGPPeers as Fairway's, and in words
//! what is not the same.
//!
//! [`metallb`] is a pure function of documents. What MetalLB can say and an AddressPool can't is
//! made wider, never narrower, and is told as a warning: an address that a Service holds is in an
//! AddressPool afterwards, whatever else does not fit. What routers are told is made narrower.
//!
//! Reading order: `metallb` reads MetalLB's objects and the Services (`documents`: their fields,
//! `bgp_objects`: those about routers), `addresses` and `selectors` turn their fields into ours,
//! `announce` and `bgp` say what becomes of the advertisements and `peers` of the routers, `live`
//! sees to the addresses that are held. `imported` is what comes of it, `draft` a pool on the way
//! there.
//!
//! Facts are of MetalLB 0.16: the CRDs `metallb.io/v1beta1` (BGPPeer: `v1beta2`), and how its
//! allocator reads them.

mod addresses;
mod announce;
mod bgp;
mod bgp_objects;
mod documents;
mod draft;
mod imported;
mod live;
mod metallb;
mod peers;
mod selectors;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::Value;

use self::draft::{Draft, NAMESPACE_NAME, free_name};
use self::imported::PRIORITY;
pub use self::imported::{Imported, ImportedPeer, ImportedPool};
use self::metallb::{Allocation, Found, MetalLbPool};
use self::peers::PeerNames;
use crate::annotations::parse;
use crate::crd::{AddressEntry, AddressPoolSpec, Announce};
use crate::field::Shown;
use crate::pool::{Forwarding, MAX_ENTRIES};

/// AddressPools for MetalLB's IPAddressPools and for the addresses that Services hold. Documents of
/// kinds that have nothing to do with it are passed over.
pub fn metallb<'v>(documents: impl IntoIterator<Item = &'v Value>) -> Imported {
    let mut imported = Imported::default();
    let found = metallb::find(documents, &mut imported);
    let peers = peers::convert(&found, &mut imported);
    let ranks = Ranks::of(&found.pools);
    let mut names = BTreeSet::new();
    let mut drafts: Vec<Draft> = found
        .pools
        .iter()
        .filter_map(|pool| draft(pool, (&found, &peers), &ranks, &mut names, &mut imported))
        .collect();
    live::keep(&found.holders, &mut drafts, &mut names, &mut imported);
    overlaps(&drafts, &mut imported);
    for draft in drafts {
        finish(draft, &mut names, &mut imported);
    }
    if !imported.pools.is_empty() {
        imported.said.push(
            "Fairway's gateways carry the traffic of these pools (forwarding: Proxy); MetalLB left \
             it to the nodes' kube-proxy."
                .to_owned(),
        );
    }
    imported
}

fn draft(
    pool: &MetalLbPool,
    (found, peers): (&Found, &PeerNames),
    ranks: &Ranks,
    names: &mut BTreeSet<String>,
    imported: &mut Imported,
) -> Option<Draft> {
    if !parse::is_dns_subdomain(&pool.name) {
        imported.warnings.push(format!(
            "{pool} is left out: no AddressPool can be called '{}'.",
            Shown(&pool.name)
        ));
        return None;
    }
    let name = free_name(&pool.name, &pool.namespace, names);
    if name != pool.name {
        imported.warnings.push(format!(
            "{pool} becomes AddressPool {name}, for there is another of its name and AddressPools \
             are in no namespace: Services that ask for pool {} get the other one.",
            pool.name
        ));
    }
    let (entries, origin_ranges) = addresses::convert(pool, imported);
    if entries.is_empty() {
        imported.warnings.push(format!(
            "{pool} is left out: it holds no address that can be given out."
        ));
        names.remove(&name);
        return None;
    }
    imported
        .said
        .push(format!("{pool} becomes AddressPool {name}."));
    if !pool.auto_assign {
        imported.said.push(format!(
            "AddressPool {name}: autoAssign: false, as before; only Services that ask for the pool \
             or the address get one."
        ));
    }
    if pool.avoid_buggy_ips {
        imported.said.push(format!(
            "AddressPool {name}: avoidBuggyIPs becomes avoidEnds: true. That leaves the first and \
             last address of a CIDR alone, too, and nothing of a range; entries are written so that \
             the same addresses are left alone as before."
        ));
    }
    let priority = ranks.of_pool(pool);
    if i64::from(priority) != PRIORITY {
        imported.said.push(match declared(pool) {
            Some(_) => format!("AddressPool {name}: priority: {priority}, as before."),
            None => format!(
                "AddressPool {name}: priority: {priority}, because it has none and goes after \
                 those that have one, and pools for everybody go last."
            ),
        });
    }
    let mut spec = AddressPoolSpec {
        addresses: Vec::new(),
        auto_assign: pool.auto_assign,
        avoid_ends: pool.avoid_buggy_ips,
        priority,
        service_selector: Default::default(),
        namespace_selector: Default::default(),
        quota_per_namespace: None,
        forwarding: Forwarding::default(),
        announce: Announce::default(),
    };
    if let Some(allocation) = &pool.allocation {
        restrict(&name, allocation, &mut spec, imported);
    }
    spec.announce = announce::convert(pool, &name, (found, peers), imported);
    Some(Draft {
        name,
        origin: Some((pool.namespace.clone(), pool.name.clone())),
        origin_ranges,
        entries,
        spec,
    })
}

/// `serviceAllocation`: a Service is in one of the namespaces, by name or by selector, and one of
/// the Service selectors selects it.
fn restrict(
    name: &str,
    allocation: &Allocation,
    spec: &mut AddressPoolSpec,
    imported: &mut Imported,
) {
    let mut namespaces = Vec::new();
    if !allocation.namespaces.is_empty() {
        namespaces.push(selectors::one_of(NAMESPACE_NAME, &allocation.namespaces));
    }
    namespaces.extend(allocation.namespace_selectors.iter().cloned());
    for (what, all, field) in [
        (
            "namespaceSelector",
            &namespaces,
            &mut spec.namespace_selector,
        ),
        (
            "serviceSelector",
            &allocation.service_selectors,
            &mut spec.service_selector,
        ),
    ] {
        match selectors::any_of(all) {
            Some(selector) => {
                if selector != Default::default() {
                    imported.said.push(format!(
                        "AddressPool {name}: {what} says what serviceAllocation said: {}.",
                        selectors::in_words(&selector)
                    ));
                }
                *field = selector;
            }
            None => imported.warnings.push(format!(
                "AddressPool {name} is open to more than before: serviceAllocation has {} \
                 alternatives that one {what} can't say, so it selects all. Label what they \
                 select alike and write that label there.",
                all.len()
            )),
        }
    }
}

/// The priority that a pool declares; MetalLB takes none and 0 for the same.
fn declared(pool: &MetalLbPool) -> Option<i64> {
    let priority = pool.allocation.as_ref()?.priority;
    (priority > 0).then_some(priority)
}

/// In which order pools go. In MetalLB pools with a `serviceAllocation` go first, by priority, then
/// those of them without one, then the pools for everybody.
struct Ranks {
    last: i64,
    any: bool,
}

impl Ranks {
    fn of(pools: &[MetalLbPool]) -> Self {
        Self {
            last: pools.iter().filter_map(declared).max().unwrap_or(0),
            any: pools.iter().any(|pool| pool.allocation.is_some()),
        }
    }

    fn of_pool(&self, pool: &MetalLbPool) -> i32 {
        let after = self.last.min(i64::from(i32::MAX) - 2).max(PRIORITY - 2);
        let rank = match (&pool.allocation, declared(pool)) {
            (_, Some(priority)) => priority.min(after),
            (Some(_), None) => after + 1,
            (None, _) if self.any => after + 2,
            (None, _) => PRIORITY,
        };
        i32::try_from(rank).unwrap_or(i32::MAX)
    }
}

/// MetalLB refuses pools that overlap, so they come from files that were never in force together.
fn overlaps(drafts: &[Draft], imported: &mut Imported) {
    for (index, draft) in drafts.iter().enumerate() {
        for other in drafts.iter().skip(index + 1) {
            if let Some(range) = draft.entries.overlap(&other.entries) {
                imported.warnings.push(format!(
                    "AddressPool {} and AddressPool {} both hold {range}: take it out of one of \
                     them.",
                    draft.name, other.name
                ));
            }
        }
    }
}

/// Writes the entries down, in several pools where there are too many for one.
fn finish(draft: Draft, names: &mut BTreeSet<String>, imported: &mut Imported) {
    let texts: Vec<String> = draft.entries.texts();
    for (index, part) in texts.chunks(MAX_ENTRIES).enumerate() {
        let name = match index {
            0 => draft.name.clone(),
            _ => free_name(&draft.name, "", names),
        };
        if index > 0 {
            imported.warnings.push(format!(
                "AddressPool {} has {} entries and may have {MAX_ENTRIES}: the rest is in \
                 AddressPool {name}, which Services that ask for the first do not get.",
                draft.name,
                texts.len()
            ));
        }
        imported.pools.push(ImportedPool {
            name,
            spec: AddressPoolSpec {
                addresses: part.iter().cloned().map(AddressEntry).collect(),
                ..draft.spec.clone()
            },
        });
    }
}
