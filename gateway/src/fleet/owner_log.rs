//! The log of what this gateway owns.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

/// The most addresses that one line names.
const NAMED: usize = 5;

/// One line of the log for addresses that are owned now, or are no more.
pub(super) fn say(interface: &str, addresses: &BTreeSet<IpAddr>, is_owned: bool) {
    if addresses.is_empty() {
        return;
    }
    let mut named = String::new();
    for (n, address) in addresses.iter().take(NAMED).enumerate() {
        let comma = if n > 0 { ", " } else { "" };
        let _ = write!(named, "{comma}{address}");
    }
    if addresses.len() > NAMED {
        named.push_str(", …");
    }
    let count = addresses.len();
    match is_owned {
        true => tracing::info!(interface, count, addresses = named, "owns addresses"),
        false => tracing::info!(
            interface,
            count,
            addresses = named,
            "owns addresses no more"
        ),
    }
}
