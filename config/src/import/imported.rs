//! The result of an import.

use serde_json::{Value, json};

use crate::bgp_peer::BGP_PORT;
use crate::crd::{AddressPoolSpec, BgpPeerSpec, HoldTimeText};
use crate::pool::Forwarding;

/// The priority of a pool that says none.
pub(super) const PRIORITY: i64 = 100;

/// What an import comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imported {
    /// The AddressPools, in the order in which they should be printed.
    pub pools: Vec<ImportedPool>,
    /// The BGPPeers.
    pub peers: Vec<ImportedPeer>,
    /// What each object becomes, in sentences.
    pub said: Vec<String>,
    /// What a person has to look at before going on, in sentences.
    pub warnings: Vec<String>,
}

/// An AddressPool that an import makes.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedPool {
    /// Its name.
    pub name: String,
    /// What it declares.
    pub spec: AddressPoolSpec,
}

/// A BGPPeer that an import makes.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedPeer {
    /// Its name.
    pub name: String,
    /// What it declares.
    pub spec: BgpPeerSpec,
}

impl ImportedPool {
    /// As a manifest, without the fields that say what is so anyway.
    pub fn manifest(&self) -> Value {
        let usual = [
            ("serviceSelector", json!({})),
            ("namespaceSelector", json!({})),
            ("announce", json!({})),
            ("avoidEnds", json!(false)),
            ("priority", json!(PRIORITY)),
            ("forwarding", json!(Forwarding::default())),
        ];
        manifest("AddressPool", &self.name, json!(self.spec), &usual)
    }
}

impl ImportedPeer {
    /// As a manifest, without the fields that say what is so anyway.
    pub fn manifest(&self) -> Value {
        let usual = [
            ("peerPort", json!(BGP_PORT)),
            ("holdTime", json!(HoldTimeText::usual())),
            ("ebgpMultiHop", json!(false)),
            ("ttlSecurity", json!(false)),
            ("enableGracefulRestart", json!(false)),
        ];
        manifest("BGPPeer", &self.name, json!(self.spec), &usual)
    }
}

fn manifest(kind: &str, name: &str, mut spec: Value, usual: &[(&str, Value)]) -> Value {
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|name, value| {
            !usual
                .iter()
                .any(|(known, default)| name == known && value == default)
        });
    }
    json!({
        "apiVersion": "fairway.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    })
}
