//! L2Advertisements as `spec.announce.layer2`, as far as it can say the same, and what is not
//! carried over of them and of BGPAdvertisements.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Map, json};

use super::imported::Imported;
use super::metallb::{Advertisement, Found, MetalLbPool};
use super::selectors;
use crate::announce::is_interface_name;
use crate::crd::AddressPoolSpec;
use crate::field::Shown;
use crate::selector::SelectorExt as _;

/// Adds the announcement of a pool to its draft, and says what can't be carried over.
pub(super) fn convert(
    pool: &MetalLbPool,
    name: &str,
    found: &Found,
    spec: &mut AddressPoolSpec,
    imported: &mut Imported,
) {
    let layer2 = of_pool(pool, &found.layer2);
    let bgp = of_pool(pool, &found.bgp);
    for advertisement in &bgp {
        imported.said.push(format!(
            "AddressPool {name}: {advertisement} is not carried over: Fairway does not announce by \
             BGP yet, so routers have to be told of these addresses by other means."
        ));
    }
    for advertisement in layer2.iter().filter(|it| !it.others.is_empty()) {
        imported.warnings.push(format!(
            "AddressPool {name}: of {advertisement} this is not carried over: {}.",
            advertisement.others.join(", ")
        ));
    }
    if layer2.is_empty() {
        if bgp.is_empty() {
            imported.said.push(format!(
                "AddressPool {name}: no L2Advertisement and no BGPAdvertisement selects it: MetalLB \
                 gives its addresses out and announces them nowhere."
            ));
        }
        return;
    }
    let names: Vec<String> = layer2.iter().map(ToString::to_string).collect();
    let names = names.join(", ");
    let Some((interfaces, nodes)) = restriction(&layer2) else {
        imported.warnings.push(format!(
            "AddressPool {name}: {names} restrict interfaces and nodes in a way that one \
             announce.layer2 can't say, so it is left open: announce from everywhere."
        ));
        return;
    };
    let mut fields = Map::new();
    let (interfaces, odd): (BTreeSet<_>, BTreeSet<_>) =
        interfaces.into_iter().partition(|it| is_interface_name(it));
    if !odd.is_empty() {
        imported.warnings.push(format!(
            "AddressPool {name}: {names} name interfaces that can't be called so: {}.",
            odd.iter()
                .map(|it| Shown(it).to_string())
                .collect::<Vec<_>>()
                .join(", ")
        ));
        if interfaces.is_empty() {
            return;
        }
    }
    if !interfaces.is_empty() {
        fields.insert("interfaces".to_owned(), json!(interfaces));
    }
    if nodes != LabelSelector::default() {
        fields.insert("nodeSelector".to_owned(), json!(nodes));
    }
    if fields.is_empty() {
        imported.said.push(format!(
            "AddressPool {name}: {names} announces it from everywhere, which needs no field."
        ));
        return;
    }
    imported.said.push(format!(
        "AddressPool {name}: announce.layer2 has the interfaces and nodes of {names}; this version \
         of Fairway does not act on it, the addresses have to reach the gateway by other means."
    ));
    spec.announce.layer2 = Some(fields);
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
