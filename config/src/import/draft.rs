//! AddressPools while they are made, and their names.

use std::collections::BTreeSet;

use super::addresses::Entries;
use crate::annotations::parse;
use crate::crd::AddressPoolSpec;
use crate::net::AddressRange;

/// The label that every namespace has, with its name.
pub(super) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// An AddressPool while it is made.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    /// The namespace and the name of the IPAddressPool; none for a pool of what was in none.
    pub(super) origin: Option<(String, String)>,
    /// What MetalLB's entries held, avoided addresses among them.
    pub(super) origin_ranges: Vec<AddressRange>,
    pub(super) entries: Entries,
    pub(super) spec: AddressPoolSpec,
}

impl Draft {
    /// Where the ranges of the IPAddressPool hold `address`.
    pub(super) fn came_from_here(&self, address: std::net::IpAddr) -> bool {
        self.origin_ranges
            .iter()
            .any(|range| range.contains(address))
    }
}

/// A name that is not taken yet, `name` if it can be had, and takes it.
pub(super) fn free_name(name: &str, namespace: &str, names: &mut BTreeSet<String>) -> String {
    let mut candidate = name.to_owned();
    let mut number = if namespace.is_empty() { 2 } else { 1 };
    while names.contains(&candidate) || !parse::is_dns_subdomain(&candidate) {
        // A name can be so long that nothing fits behind it.
        let short: String = name.chars().take(150).collect();
        let short = short.trim_end_matches(['-', '.']);
        candidate = match number {
            1 => format!("{namespace}-{short}"),
            _ => format!("{short}-{number}"),
        };
        number += 1;
    }
    names.insert(candidate.clone());
    candidate
}
