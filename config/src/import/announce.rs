//! The advertisements of a pool as its `spec.announce`: L2Advertisements, as far as one
//! `announce.layer2` can say the same, and what is not carried over of them and of
//! BGPAdvertisements.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::bgp;
use super::imported::Imported;
use super::metallb::{Advertisement, Found, MetalLbPool};
use super::peers::PeerNames;
use super::selectors;
use crate::announce::is_interface_name;
use crate::crd::{Announce, AnnounceLayer2, InterfaceText};
use crate::field::Shown;
use crate::selector::SelectorExt as _;

/// How the pool called `name` is announced; says what can't be carried over.
pub(super) fn convert(
    pool: &MetalLbPool,
    name: &str,
    (found, peers): (&Found, &PeerNames),
    imported: &mut Imported,
) -> Announce {
    let layer2 = of_pool(pool, &found.layer2);
    let bgp = of_pool(pool, &found.bgp);
    for advertisement in layer2.iter().chain(&bgp) {
        if !advertisement.others.is_empty() {
            imported.warnings.push(format!(
                "AddressPool {name}: of {advertisement} this is not carried over: {}.",
                advertisement.others.join(", ")
            ));
        }
    }
    if layer2.is_empty() && bgp.is_empty() {
        imported.said.push(format!(
            "AddressPool {name}: no L2Advertisement and no BGPAdvertisement selects it: MetalLB gives \
             its addresses out and announces them nowhere."
        ));
    }
    Announce {
        layer2: by_layer2(&layer2, name, imported),
        bgp: bgp::convert(&bgp, name, found, peers, imported),
        routes: None,
    }
}

fn by_layer2(
    all: &[&Advertisement],
    name: &str,
    imported: &mut Imported,
) -> Option<AnnounceLayer2> {
    if all.is_empty() {
        return None;
    }
    let names: Vec<String> = all.iter().map(ToString::to_string).collect();
    let names = names.join(", ");
    let Some((interfaces, node_selector)) = restriction(all) else {
        imported.warnings.push(format!(
            "AddressPool {name}: {names} restrict interfaces and nodes in a way that one \
             announce.layer2 can't say, so it is left open: announce from everywhere."
        ));
        return Some(AnnounceLayer2::default());
    };
    let (interfaces, odd): (Vec<_>, Vec<_>) =
        interfaces.into_iter().partition(|it| is_interface_name(it));
    if !odd.is_empty() {
        let odd: Vec<String> = odd.iter().map(|it| format!("'{}'", Shown(it))).collect();
        imported.warnings.push(format!(
            "AddressPool {name}: {names} name {}, which no interface can be called: left out.",
            odd.join(", ")
        ));
        if interfaces.is_empty() {
            // An empty list would stand for all of them.
            return None;
        }
    }
    let layer2 = AnnounceLayer2 {
        interfaces: interfaces.into_iter().map(InterfaceText).collect(),
        node_selector,
    };
    let announce = Announce {
        layer2: Some(layer2.clone()),
        ..Announce::default()
    };
    if let Some(why) = bgp::why_not(&announce) {
        imported.warnings.push(format!(
            "AddressPool {name}: {names} can't be carried over: {why}."
        ));
        return None;
    }
    imported
        .said
        .push(match layer2 == AnnounceLayer2::default() {
            true => format!(
                "AddressPool {name}: announce.layer2 is empty: from everywhere, as {names} said."
            ),
            false => format!(
                "AddressPool {name}: announce.layer2 has the interfaces and nodes of {names}."
            ),
        });
    Some(layer2)
}

/// Those that select the pool: by name or by label, and all pools where they name none.
fn of_pool<'a>(pool: &MetalLbPool, all: &'a [Advertisement]) -> Vec<&'a Advertisement> {
    all.iter()
        .filter(|advertisement| {
            let spec = &advertisement.spec;
            let by_name = spec.ip_address_pools.contains(&pool.name);
            let by_label = spec.ip_address_pool_selectors.iter().any(|selector| {
                selectors::parsed(selector).is_some_and(|it| it.matches(&pool.labels))
            });
            let all_pools =
                spec.ip_address_pools.is_empty() && spec.ip_address_pool_selectors.is_empty();
            advertisement.namespace == pool.namespace && (by_name || by_label || all_pools)
        })
        .collect()
}

/// Interfaces and nodes from which any of the advertisements announces, none for all; nothing where
/// the interfaces are others on one node than on the other, or the nodes take several selectors.
fn restriction(all: &[&Advertisement]) -> Option<(BTreeSet<String>, LabelSelector)> {
    let of = |it: &Advertisement| {
        let interfaces: BTreeSet<String> = it.spec.interfaces.iter().cloned().collect();
        selectors::any_of(&it.spec.node_selectors).map(|nodes| (interfaces, nodes))
    };
    let each: Vec<_> = all.iter().map(|it| of(it)).collect::<Option<_>>()?;
    let open = (BTreeSet::new(), LabelSelector::default());
    if each.contains(&open) {
        return Some(open);
    }
    let (first, rest) = each.split_first()?;
    if rest.iter().all(|(_, nodes)| *nodes == first.1) {
        let unrestricted = each.iter().any(|(interfaces, _)| interfaces.is_empty());
        let interfaces = match unrestricted {
            true => BTreeSet::new(),
            false => each.iter().flat_map(|(it, _)| it.iter().cloned()).collect(),
        };
        return Some((interfaces, first.1.clone()));
    }
    if rest.iter().all(|(interfaces, _)| *interfaces == first.0) {
        let nodes: Vec<_> = each.iter().map(|(_, nodes)| nodes.clone()).collect();
        return Some((first.0.clone(), selectors::any_of(&nodes)?));
    }
    None
}
