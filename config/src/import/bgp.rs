//! BGPAdvertisements as `spec.announce.bgp`.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::json;

use super::imported::Imported;
use super::metallb::{Advertisement, Found};
use super::peers::PeerNames;
use super::selectors;
use crate::crd::{Announce, AnnounceBgp, CommunityText, PeerNameText};
use crate::field::Shown;
use crate::object::read;

/// The announcement of the pool called `name` by these advertisements. Where one field can't say them
/// it is none: a router that is told more, or of a prefix without its communities, may pass on what
/// was to stay.
pub(super) fn convert(
    all: &[&Advertisement],
    name: &str,
    found: &Found,
    peers: &PeerNames,
    imported: &mut Imported,
) -> Option<AnnounceBgp> {
    if all.is_empty() {
        return None;
    }
    let shown: Vec<String> = all.iter().map(ToString::to_string).collect();
    let shown = shown.join(", ");
    let each = all.iter().map(|it| one(it, name, found, peers, imported));
    let merged = each.collect::<Result<Vec<_>, _>>().and_then(merge);
    let why = match merged {
        Ok(bgp) => match why_not(&by_bgp(&bgp)) {
            None => {
                imported.said.push(format!(
                    "AddressPool {name}: announce.bgp says what {shown} said."
                ));
                return Some(bgp);
            }
            Some(why) => why,
        },
        Err(why) => why,
    };
    imported.warnings.push(format!(
        "AddressPool {name}: {shown} can't be carried over: {why}. No router is told of these \
         addresses."
    ));
    None
}

/// One advertisement, or why announce.bgp can't say it.
fn one(
    advertisement: &Advertisement,
    name: &str,
    found: &Found,
    peers: &PeerNames,
    imported: &mut Imported,
) -> Result<AnnounceBgp, String> {
    let spec = &advertisement.spec;
    let node_selector = selectors::any_of(&spec.node_selectors)
        .ok_or("its nodeSelectors are alternatives that one nodeSelector can't say")?;
    let communities = spec
        .communities
        .iter()
        .map(|text| community(text, &advertisement.namespace, found))
        .collect::<Result<Vec<_>, _>>()?;
    let mut named = BTreeSet::new();
    for peer in &spec.peers {
        let key = (advertisement.namespace.clone(), peer.clone());
        let known = peers.get(&key);
        if known.is_none() {
            imported.warnings.push(format!(
                "AddressPool {name}: {advertisement} names the BGPPeer {}, which is not carried over: \
                 until there is one of that name it is not told of these addresses.",
                Shown(peer)
            ));
        }
        named.insert(PeerNameText(known.unwrap_or(peer).clone()));
    }
    Ok(AnnounceBgp {
        peers: named.into_iter().collect(),
        communities,
        // What Go writes for one that is not given.
        local_preference: spec.local_pref.filter(|it| *it != 0),
        aggregation_length: spec.aggregation_length.filter(|it| *it != 32),
        aggregation_length_v6: spec.aggregation_length_v6.filter(|it| *it != 128),
        node_selector,
    })
}

/// A community by its value or its name.
fn community(text: &str, namespace: &str, found: &Found) -> Result<CommunityText, String> {
    if text.contains(':') {
        return Ok(CommunityText(text.to_owned()));
    }
    let mut names = found.communities.iter();
    names
        .find_map(|it| it.values.get(text).filter(|_| it.namespace == namespace))
        .map(|value| CommunityText(value.clone()))
        .ok_or_else(|| format!("no Community says what '{}' is", Shown(text)))
}

/// Several advertisements as one: they may differ in the peers, or in the nodes.
fn merge(mut all: Vec<AnnounceBgp>) -> Result<AnnounceBgp, String> {
    for it in &mut all {
        it.communities.sort();
        it.communities.dedup();
    }
    let first = all.first().cloned().unwrap_or_default();
    let alike = |change: fn(&mut AnnounceBgp)| {
        let changed = |it: &AnnounceBgp| {
            let mut it = it.clone();
            change(&mut it);
            it
        };
        all.iter().all(|it| changed(it) == changed(&first))
    };
    if alike(|it| it.peers.clear()) {
        let is_for_all = all.iter().any(|it| it.peers.is_empty());
        let named: BTreeSet<_> = all.iter().flat_map(|it| it.peers.iter().cloned()).collect();
        return Ok(AnnounceBgp {
            peers: match is_for_all {
                true => Vec::new(),
                false => named.into_iter().collect(),
            },
            ..first
        });
    }
    if alike(|it| it.node_selector = LabelSelector::default()) {
        let nodes: Vec<_> = all.iter().map(|it| it.node_selector.clone()).collect();
        if let Some(node_selector) = selectors::any_of(&nodes) {
            return Ok(AnnounceBgp {
                node_selector,
                ..first
            });
        }
    }
    Err(
        "they differ in more than their peers or their nodes, and a pool has one announce.bgp"
            .to_owned(),
    )
}

fn by_bgp(bgp: &AnnounceBgp) -> Announce {
    Announce {
        bgp: Some(bgp.clone()),
        ..Announce::default()
    }
}

/// Why an AddressPool can't be announced so: whoever reads it says so.
pub(super) fn why_not(announce: &Announce) -> Option<String> {
    let pool = json!({
        "apiVersion": "fairway.dev/v1alpha1",
        "kind": "AddressPool",
        "metadata": {"name": "pool"},
        "spec": {"addresses": ["192.0.2.1"], "announce": announce},
    });
    let problems = match read(&pool) {
        Ok(read) => read.object.problems().to_vec(),
        Err(unreadable) => unreadable.problems,
    };
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    (!problems.is_empty()).then(|| problems.join("; "))
}
