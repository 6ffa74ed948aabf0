//! Three servers that say their names, and how often each has answered.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::lab::Served;
use crate::servers::{named, named_udp};
use crate::site::{Site, at, server};

/// Servers `a`, `b` and `c` on port 80 of the farm's first addresses, TCP and UDP.
pub fn three(site: &Site) -> Result<(Served, Served)> {
    let servers = [
        ("a", at(server(0), 80)),
        ("b", at(server(1), 80)),
        ("c", at(server(2), 80)),
    ];
    Ok((
        named(&site.farm, &servers)?,
        named_udp(&site.farm, &servers)?,
    ))
}

/// How often each answered.
pub fn count(answers: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for answer in answers {
        *shares.entry(answer).or_default() += 1;
    }
    shares
}
