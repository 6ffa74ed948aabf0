//! MetalLB's BGPPeers as Fairway's.

use std::collections::{BTreeMap, BTreeSet};

use super::bgp_objects::MetalLbPeer;
use super::draft::free_name;
use super::imported::{Imported, ImportedPeer};
use super::metallb::Found;
use crate::annotations::parse;
use crate::bgp_peer::BGP_PORT;
use crate::crd::{
    AddressText, AsNumberField, BfdSpec, BgpPeerSpec, ConnectTimeText, DurationText, HoldTimeText,
    InterfaceText, RouterIdText, SecretPlace,
};
use crate::field::Shown;
use crate::object::read;

/// What MetalLB takes where a BFDProfile says nothing.
const BFD_MILLISECONDS: i32 = 300;
const BFD_PACKETS: i32 = 3;

/// What became of MetalLB's BGPPeers: the names by namespace and name.
pub(super) type PeerNames = BTreeMap<(String, String), String>;

/// Adds a BGPPeer for each of MetalLB's, and says what can't be carried over.
pub(super) fn convert(found: &Found, imported: &mut Imported) -> PeerNames {
    let mut names = PeerNames::new();
    let mut taken = BTreeSet::new();
    for peer in &found.peers {
        if !parse::is_dns_subdomain(&peer.name) {
            imported.warnings.push(format!(
                "{peer} is left out: no BGPPeer can be called '{}'.",
                Shown(&peer.name)
            ));
            continue;
        }
        let name = free_name(&peer.name, &peer.namespace, &mut taken);
        let mut warnings = Vec::new();
        let mut converted = ImportedPeer {
            spec: spec(peer, &name, found, &mut warnings),
            name,
        };
        if let Some(why) = why_not(&converted) {
            imported
                .warnings
                .push(format!("{peer} is left out: {why}."));
            taken.remove(&converted.name);
            continue;
        }
        let name = converted.name.clone();
        converted.spec.password_secret = secret(peer, &name, &mut warnings);
        imported
            .said
            .push(format!("{peer} becomes BGPPeer {name} of Fairway."));
        imported.warnings.extend(warnings);
        names.insert((peer.namespace.clone(), peer.name.clone()), name);
        imported.peers.push(converted);
    }
    names
}

/// Why Fairway can't have such a peer: whoever reads it says so.
fn why_not(peer: &ImportedPeer) -> Option<String> {
    let problems = match read(&peer.manifest()) {
        Ok(read) => read.object.problems().to_vec(),
        Err(unreadable) => unreadable.problems,
    };
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    (!problems.is_empty()).then(|| problems.join("; "))
}

fn spec(peer: &MetalLbPeer, name: &str, found: &Found, warnings: &mut Vec<String>) -> BgpPeerSpec {
    let spec = &peer.spec;
    let said = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    if !peer.others.is_empty() {
        warnings.push(format!(
            "BGPPeer {name}: of {peer} this is not carried over: {}.",
            peer.others.join(", ")
        ));
    }
    BgpPeerSpec {
        my_asn: AsNumberField(spec.my_asn),
        peer_asn: (spec.peer_asn != 0).then_some(AsNumberField(spec.peer_asn)),
        dynamic_asn: said(&spec.dynamic_asn),
        peer_address: said(&spec.peer_address).map(AddressText),
        interface: said(&spec.interface).map(InterfaceText),
        peer_port: match spec.peer_port {
            0 => i32::from(BGP_PORT),
            port => port,
        },
        source_address: said(&spec.source_address).map(AddressText),
        router_id: said(&spec.router_id).map(RouterIdText),
        hold_time: said(&spec.hold_time).map_or_else(HoldTimeText::usual, HoldTimeText),
        keepalive_time: said(&spec.keepalive_time).map(DurationText),
        connect_time: said(&spec.connect_time).map(ConnectTimeText),
        password: None,
        password_secret: None,
        bfd: bfd(peer, name, found, warnings),
        ebgp_multi_hop: spec.ebgp_multi_hop,
        ttl_security: false,
        enable_graceful_restart: spec.enable_graceful_restart,
        node_selectors: spec.node_selectors.clone(),
        next_hop: None,
    }
}

fn bfd(
    peer: &MetalLbPeer,
    name: &str,
    found: &Found,
    warnings: &mut Vec<String>,
) -> Option<BfdSpec> {
    let wanted = &peer.spec.bfd_profile;
    if wanted.is_empty() {
        return None;
    }
    let mut profiles = found.bfd_profiles.iter();
    let profile = profiles.find(|it| it.namespace == peer.namespace && it.name == *wanted);
    let Some(profile) = profile else {
        warnings.push(format!(
            "BGPPeer {name}: {peer} names the BFDProfile {}, which is not there: it has no BFD.",
            Shown(wanted)
        ));
        return None;
    };
    if !profile.others.is_empty() {
        warnings.push(format!(
            "BGPPeer {name}: of BFDProfile {} this is not carried over: {}.",
            Shown(wanted),
            profile.others.join(", ")
        ));
    }
    let spec = &profile.spec;
    Some(BfdSpec {
        receive_interval: spec.receive_interval.unwrap_or(BFD_MILLISECONDS),
        transmit_interval: spec.transmit_interval.unwrap_or(BFD_MILLISECONDS),
        detect_multiplier: spec.detect_multiplier.unwrap_or(BFD_PACKETS),
    })
}

/// A password is carried over to no manifest, which may end in a repository.
fn secret(peer: &MetalLbPeer, name: &str, warnings: &mut Vec<String>) -> Option<SecretPlace> {
    let secret = &peer.spec.password_secret;
    if !peer.spec.password.is_empty() {
        warnings.push(format!(
            "BGPPeer {name}: the password that stands in {peer} is not carried over: put it into a \
             Secret of type kubernetes.io/basic-auth and name that in passwordSecret, or in manifests \
             of fairway standalone write it under password."
        ));
        return None;
    }
    if secret.name.is_empty() {
        return None;
    }
    let place = SecretPlace {
        name: secret.name.clone(),
        namespace: match secret.namespace.as_str() {
            "" => peer.namespace.clone(),
            namespace => namespace.to_owned(),
        },
    };
    warnings.push(format!(
        "BGPPeer {name}: passwordSecret names {}/{}: gateways read Secrets of Fairway's own namespace \
         alone, and those that gateway.passwordSecrets of the chart names.",
        Shown(&place.namespace),
        Shown(&place.name)
    ));
    Some(place)
}
