//! MetalLB's objects and the Services, as far as an import needs them.
//!
//! They come from an API server, which has checked them, or were written by a person: what can't be
//! read is reported and left out.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde::Deserialize;
use serde_json::Value;

use super::bgp_objects::{self, BfdProfile, CommunityNames, MetalLbPeer};
use super::documents::{decode, metadata, other_fields, part};
use super::imported::Imported;
use super::selectors;
use crate::field::Shown;

/// The API group of MetalLB's objects.
const GROUP: &str = "metallb.io/";

/// The annotations by which a Service asks for a pool, the one that wins first.
const ADDRESS_POOL: [&str; 3] = [
    crate::annotations::POOL,
    "metallb.io/address-pool",
    "metallb.universe.tf/address-pool",
];

/// What MetalLB writes on a Service that it gave an address.
const ALLOCATED_FROM: [&str; 2] = [
    "metallb.io/ip-allocated-from-pool",
    "metallb.universe.tf/ip-allocated-from-pool",
];

/// Everything that an import needs.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) pools: Vec<MetalLbPool>,
    pub(super) layer2: Vec<Advertisement>,
    pub(super) bgp: Vec<Advertisement>,
    pub(super) peers: Vec<MetalLbPeer>,
    pub(super) bfd_profiles: Vec<BfdProfile>,
    pub(super) communities: Vec<CommunityNames>,
    pub(super) holders: Vec<Holder>,
}

/// An IPAddressPool.
#[derive(Debug)]
pub(super) struct MetalLbPool {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) addresses: Vec<String>,
    pub(super) auto_assign: bool,
    pub(super) avoid_buggy_ips: bool,
    pub(super) allocation: Option<Allocation>,
}

impl fmt::Display for MetalLbPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "IPAddressPool {}/{}",
            Shown(&self.namespace),
            Shown(&self.name)
        )
    }
}

/// `spec.serviceAllocation` of an IPAddressPool.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Allocation {
    pub(super) priority: i64,
    pub(super) namespaces: Vec<String>,
    pub(super) namespace_selectors: Vec<LabelSelector>,
    pub(super) service_selectors: Vec<LabelSelector>,
}

/// An L2Advertisement or a BGPAdvertisement.
#[derive(Debug)]
pub(super) struct Advertisement {
    kind: &'static str,
    pub(super) namespace: String,
    name: String,
    pub(super) spec: AdvertisementSpec,
    /// Fields with something in them that mean nothing to Fairway.
    pub(super) others: Vec<String>,
}

impl fmt::Display for Advertisement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}/{}",
            self.kind,
            Shown(&self.namespace),
            Shown(&self.name)
        )
    }
}

/// `spec` of an L2Advertisement or of a BGPAdvertisement.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AdvertisementSpec {
    pub(super) ip_address_pools: Vec<String>,
    pub(super) ip_address_pool_selectors: Vec<LabelSelector>,
    pub(super) interfaces: Vec<String>,
    pub(super) node_selectors: Vec<LabelSelector>,
    pub(super) peers: Vec<String>,
    pub(super) communities: Vec<String>,
    pub(super) local_pref: Option<i64>,
    pub(super) aggregation_length: Option<i32>,
    pub(super) aggregation_length_v6: Option<i32>,
}

/// Fields that both kinds have.
const PLACED: &[&str] = &[
    "ipAddressPools",
    "ipAddressPoolSelectors",
    "interfaces",
    "nodeSelectors",
];

/// Fields of BGPAdvertisements.
const PLACED_OF_BGP: &[&str] = &[
    "peers",
    "communities",
    "localPref",
    "aggregationLength",
    "aggregationLengthV6",
];

/// A Service of type LoadBalancer that holds addresses.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) class: Option<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// The pool that it asks for by name.
    pub(super) pool: Option<String>,
    /// Whether MetalLB says that the addresses are its.
    pub(super) from_metallb: bool,
    /// With which other namespaces it shares, as the annotation says it.
    pub(super) sharing_namespaces: Option<String>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Service {}/{}",
            Shown(&self.namespace),
            Shown(&self.name)
        )
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetalLbPoolSpec {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default = "yes")]
    auto_assign: bool,
    #[serde(default, rename = "avoidBuggyIPs")]
    avoid_buggy_ips: bool,
    service_allocation: Option<Value>,
}

fn yes() -> bool {
    true
}

/// Takes the objects out of the documents, in the order of their names.
pub(super) fn find<'v>(
    documents: impl IntoIterator<Item = &'v Value>,
    imported: &mut Imported,
) -> Found {
    let mut found = Found::default();
    for document in documents {
        let field = |name: &str| {
            document
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (version, kind) = (field("apiVersion"), field("kind"));
        let read = match (version, kind) {
            ("v1", "Service") => holder(document).map(|holder| found.holders.extend(holder)),
            (version, "IPAddressPool") if version.starts_with(GROUP) => {
                pool(document, imported).map(|pool| found.pools.push(pool))
            }
            (version, "L2Advertisement") if version.starts_with(GROUP) => {
                advertisement("L2Advertisement", &[], document).map(|it| found.layer2.push(it))
            }
            (version, "BGPAdvertisement") if version.starts_with(GROUP) => {
                let read = advertisement("BGPAdvertisement", PLACED_OF_BGP, document);
                read.map(|it| found.bgp.push(it))
            }
            (version, "BGPPeer") if version.starts_with(GROUP) => {
                bgp_objects::peer(document).map(|it| found.peers.push(it))
            }
            (version, "BFDProfile") if version.starts_with(GROUP) => {
                bgp_objects::bfd_profile(document).map(|it| found.bfd_profiles.push(it))
            }
            (version, "Community") if version.starts_with(GROUP) => {
                bgp_objects::communities(document).map(|it| found.communities.push(it))
            }
            (version, "AddressPool") if version.starts_with(GROUP) => Err(
                "is of a kind that MetalLB has no longer had since 0.14: make it an IPAddressPool"
                    .to_owned(),
            ),
            _ => Ok(()),
        };
        if let Err(why) = read {
            let name = document.pointer("/metadata/name").and_then(Value::as_str);
            imported.warnings.push(format!(
                "{kind} {} is left out: it {why}.",
                Shown(name.unwrap_or("without a name"))
            ));
        }
    }
    found
        .pools
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    found
        .holders
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    // One object can be in two files, and twice in the output of two commands.
    found
        .pools
        .dedup_by(|a, b| (&a.namespace, &a.name) == (&b.namespace, &b.name));
    found
        .peers
        .sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    found
        .peers
        .dedup_by(|a, b| (&a.namespace, &a.name) == (&b.namespace, &b.name));
    found.holders.dedup_by(|a, b| {
        (&a.namespace, &a.name) == (&b.namespace, &b.name) && a.addresses == b.addresses
    });
    found
}

fn pool(document: &Value, imported: &mut Imported) -> Result<MetalLbPool, String> {
    let metadata = metadata(document)?;
    let spec: MetalLbPoolSpec = part(document, "spec")?.ok_or("has no spec")?;
    let mut pool = MetalLbPool {
        namespace: metadata.namespace,
        name: metadata.name,
        labels: metadata.labels,
        addresses: spec.addresses,
        auto_assign: spec.auto_assign,
        avoid_buggy_ips: spec.avoid_buggy_ips,
        allocation: None,
    };
    if let Some(value) = spec.service_allocation {
        let allocation: Allocation =
            decode(value).map_err(|why| format!("can't be read: spec.serviceAllocation: {why}"))?;
        let legal = |all: &[LabelSelector]| all.iter().all(|it| selectors::parsed(it).is_some());
        if legal(&allocation.namespace_selectors) && legal(&allocation.service_selectors) {
            pool.allocation = Some(allocation);
        } else {
            imported.warnings.push(format!(
                "{pool} becomes open to more than before: a selector of its serviceAllocation is \
                 none that Kubernetes knows."
            ));
            pool.allocation = Some(Allocation {
                priority: allocation.priority,
                ..Allocation::default()
            });
        }
    }
    Ok(pool)
}

fn advertisement(
    kind: &'static str,
    placed: &[&str],
    document: &Value,
) -> Result<Advertisement, String> {
    let metadata = metadata(document)?;
    Ok(Advertisement {
        kind,
        namespace: metadata.namespace,
        name: metadata.name,
        spec: part(document, "spec")?.unwrap_or_default(),
        others: other_fields(document, &[PLACED, placed]),
    })
}

/// A Service that holds addresses; nothing for one that holds none.
fn holder(document: &Value) -> Result<Option<Holder>, String> {
    let spec = |name: &str| document.get("spec")?.get(name)?.as_str();
    let ingress = document
        .pointer("/status/loadBalancer/ingress")
        .and_then(Value::as_array);
    let addresses: Vec<IpAddr> = ingress
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.get("ip")?.as_str()?.parse().ok())
        .collect();
    if spec("type") != Some("LoadBalancer") || addresses.is_empty() {
        return Ok(None);
    }
    let metadata = metadata(document)?;
    let annotation = |names: &[&str]| {
        let found = names
            .iter()
            .find_map(|name| metadata.annotations.get(*name));
        found.filter(|text| !text.is_empty()).cloned()
    };
    Ok(Some(Holder {
        pool: annotation(&ADDRESS_POOL),
        from_metallb: annotation(&ALLOCATED_FROM).is_some(),
        sharing_namespaces: annotation(&[crate::annotations::SHARING_NAMESPACES]),
        namespace: metadata.namespace,
        name: metadata.name,
        labels: metadata.labels,
        class: spec("loadBalancerClass").map(str::to_owned),
        addresses,
    }))
}
