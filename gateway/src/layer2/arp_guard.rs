//! What the kernel must not say about external addresses.
//!
//! The kernel answers ARP requests for each address that is local, on each interface, and a local route is enough
//! (`arp_process` in net/ipv4/arp.c). It also names such an address as the sender of its own requests, when it sends
//! a datagram from there: whoever is asked takes that for the address's place, so a gateway that does not own the
//! address would take it away from the one that does. Both is forbidden for all addresses of pools, whoever owns them.
//! For IPv6 the kernel does neither where an address is local by a route (`ndisc_recv_ns` and `ndisc_solicit` in
//! net/ipv6/ndisc.c).
//!
//! An address that an interface has is left alone: it may be how this host is reached. Not so where that interface
//! speaks no ARP, like the loopback or the dummy of kube-proxy in IPVS mode.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use fairway_config::net::AddressRange;

use super::arp_settings::ArpSettings;
use super::arp_table::{self, ArpTable};
use super::host_links::HostLinks;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ArpGuard {
    by: GuardMeans,
    settings: ArpSettings,
    own: BTreeSet<IpAddr>,
    /// Whether what a former process has left behind was taken over or removed.
    has_taken_over: bool,
}

/// By what the kernel is kept quiet.
#[derive(Debug, Default)]
enum GuardMeans {
    /// There is nothing to guard.
    #[default]
    Nothing,
    /// This table of nftables.
    Table(ArpTable),
    /// Settings of interfaces, for this table could not be written.
    Settings(ArpTable),
    /// Neither could be had, because of this.
    Neither(ArpTable, Arc<str>),
}

impl ArpGuard {
    /// Guards these addresses. `interfaces` are those that are announced on.
    pub(super) fn set(
        &mut self,
        guarded: &[AddressRange],
        interfaces: &BTreeSet<Box<str>>,
        links: &HostLinks,
    ) {
        let own = own_addresses(guarded, links);
        for address in own.difference(&self.own) {
            tracing::warn!(
                %address,
                "an interface of this host has an address of a pool that is announced on layer 2: the kernel answers \
                 for it, whichever gateway owns it"
            );
        }
        let table = table_for(guarded, &own, links);
        self.own = own;
        let is_same = match &self.by {
            GuardMeans::Nothing => table.ranges.is_empty() && self.has_taken_over,
            GuardMeans::Table(now) | GuardMeans::Neither(now, _) => *now == table,
            GuardMeans::Settings(now) => *now == table && self.settings.are_of(interfaces),
        };
        if is_same {
            return;
        }
        if !table.ranges.is_empty() {
            self.write(table, interfaces);
        } else {
            self.put_back();
            // What a process that was killed has left behind.
            if !self.has_taken_over && matches!(arp_table::exists(), Ok(true)) {
                remove_table();
            }
        }
        self.has_taken_over = true;
    }

    fn write(&mut self, table: ArpTable, interfaces: &BTreeSet<Box<str>>) {
        let error = match arp_table::write(&table) {
            Ok(()) => {
                if !matches!(self.by, GuardMeans::Table(_)) {
                    tracing::info!(
                        "the kernel answers no ARP requests for external addresses (nftables)"
                    );
                    self.settings.put_back();
                }
                self.by = GuardMeans::Table(table);
                return;
            }
            Err(error) => error,
        };
        self.by = match self.settings.set(interfaces) {
            Ok(()) => {
                if !matches!(self.by, GuardMeans::Settings(_)) {
                    tracing::warn!(
                        %error,
                        "no nftables: arp_ignore and arp_announce of the interfaces keep the kernel from answering \
                         ARP requests for external addresses. On these interfaces it answers for no address of \
                         another interface either, and it goes on answering for an external address that an \
                         interface has"
                    );
                }
                GuardMeans::Settings(table)
            }
            Err(settings) => {
                let why = format!(
                    "the kernel can't be kept from answering ARP requests for it (nftables: {error}; arp_ignore: \
                     {settings})"
                );
                if !matches!(&self.by, GuardMeans::Neither(_, before) if **before == *why) {
                    tracing::warn!(%error, %settings, "the kernel answers ARP requests for external addresses");
                }
                GuardMeans::Neither(table, why.into())
            }
        };
    }

    /// Sets right what somebody else has changed, and tries again what could not be done.
    pub(super) fn look(&mut self) {
        let table = match &self.by {
            GuardMeans::Table(table) if !arp_table::is_whole(table).unwrap_or(true) => {
                tracing::warn!(
                    "the table «arp fairway» of nftables was removed or changed: it is made again"
                );
                table.clone()
            }
            // An interface that has come has the settings of a new one.
            GuardMeans::Settings(table) | GuardMeans::Neither(table, _) => table.clone(),
            GuardMeans::Nothing | GuardMeans::Table(_) => return,
        };
        let interfaces = self.settings.interfaces();
        self.write(table, &interfaces);
    }

    /// Gives back what was taken.
    pub(super) fn put_back(&mut self) {
        self.settings.put_back();
        if let GuardMeans::Table(_) = std::mem::take(&mut self.by) {
            remove_table();
        }
    }

    /// Why the kernel answers for guarded addresses, if it does.
    pub(super) fn kernel_answers(&self) -> Option<Arc<str>> {
        match &self.by {
            GuardMeans::Neither(_, why) => Some(why.clone()),
            GuardMeans::Nothing | GuardMeans::Table(_) | GuardMeans::Settings(_) => None,
        }
    }

    /// The guarded addresses for which the kernel answers, since an interface has them.
    pub(super) fn own_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.own
    }
}

fn remove_table() {
    if let Err(error) = arp_table::remove() {
        tracing::warn!(%error, "the table «arp fairway» of nftables was not removed");
    }
}

/// The guarded addresses that an interface of this host has. For IPv6 the kernel answers on each of them.
fn own_addresses(guarded: &[AddressRange], links: &HostLinks) -> BTreeSet<IpAddr> {
    let answering = links
        .values()
        .filter(|link| link.speaks_arp && link.hardware.is_some());
    let addresses = answering.flat_map(|link| link.addresses.iter().copied());
    addresses
        .filter(|address| guarded.iter().any(|range| range.contains(*address)))
        .collect()
}

/// The table for these addresses: without those of interfaces, in order, each range as long as it can be.
fn table_for(guarded: &[AddressRange], own: &BTreeSet<IpAddr>, links: &HostLinks) -> ArpTable {
    let mut wanted: Vec<(u32, u32)> = guarded
        .iter()
        .filter_map(|range| match (range.first(), range.last()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => Some((first.to_bits(), last.to_bits())),
            _ => None,
        })
        .collect();
    wanted.sort_unstable();
    let mut merged: Vec<(u32, u32)> = Vec::new();
    for (first, last) in wanted {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    let own = own.iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(address.to_bits()),
        IpAddr::V6(_) => None,
    });
    for taken in own {
        let around = merged.iter().flat_map(|&(first, last)| {
            if taken < first || last < taken {
                return vec![(first, last)];
            }
            let before = taken.checked_sub(1).filter(|end| first <= *end);
            let after = taken.checked_add(1).filter(|start| *start <= last);
            let before = before.map(|end| (first, end));
            let after = after.map(|start| (start, last));
            before.into_iter().chain(after).collect()
        });
        merged = around.collect();
    }
    let is_guarded = |address: Ipv4Addr| {
        let address = address.to_bits();
        merged
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&address))
    };
    let senders: BTreeMap<Box<str>, Ipv4Addr> = links
        .iter()
        .filter(|(_, link)| link.speaks_arp)
        .filter_map(|(name, link)| Some((name.clone(), link.ipv4(|it| !is_guarded(it))?)))
        .collect();
    let range = |(first, last)| (Ipv4Addr::from_bits(first), Ipv4Addr::from_bits(last));
    ArpTable {
        ranges: merged.into_iter().map(range).collect(),
        senders,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use fairway_gateway_core::layer2::HardwareAddress;

    use super::super::host_links::HostLink;
    use super::*;

    fn range(text: &str) -> AddressRange {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        AddressRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap()
    }

    fn link(speaks_arp: bool, addresses: &[&str]) -> HostLink {
        HostLink {
            index: 1,
            hardware: Some(HardwareAddress([2, 0, 0, 0, 0, 1])),
            is_up: true,
            speaks_arp,
            port_of: None,
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
        }
    }

    fn shown(guarded: &[&str], links: &[(&str, HostLink)]) -> (Vec<String>, Vec<String>) {
        let guarded: Vec<_> = guarded.iter().map(|it| range(it)).collect();
        let links = links.iter().map(|(name, it)| ((*name).into(), it.clone()));
        let links: HostLinks = links.collect();
        let own = own_addresses(&guarded, &links);
        let table = table_for(&guarded, &own, &links);
        let ranges = table.ranges.iter().map(|(a, b)| format!("{a}-{b}"));
        let senders = table
            .senders
            .iter()
            .map(|(name, it)| format!("{name} {it}"));
        (ranges.collect(), senders.collect())
    }

    #[test]
    fn ranges_are_joined_and_those_of_ipv6_are_left_out() {
        let (ranges, _) = shown(
            &[
                "203.0.113.8-203.0.113.15",
                "203.0.113.0-203.0.113.7",
                "198.51.100.1",
                "203.0.113.4-203.0.113.5",
                "2001:db8::1-2001:db8::9",
                "255.255.255.254-255.255.255.255",
            ],
            &[],
        );
        assert_eq!(
            ranges,
            [
                "198.51.100.1-198.51.100.1",
                "203.0.113.0-203.0.113.15",
                "255.255.255.254-255.255.255.255"
            ]
        );
    }

    #[test]
    fn an_address_of_an_interface_is_left_to_the_kernel() {
        let links = [
            (
                "eth0",
                link(true, &["192.0.2.12", "192.0.2.10", "2001:db8::1"]),
            ),
            // The loopback speaks no ARP: the kernel would answer for it on the others.
            ("lo", link(false, &["127.0.0.1", "192.0.2.15"])),
        ];
        let (ranges, senders) = shown(&["192.0.2.10-192.0.2.19"], &links);
        assert_eq!(ranges, ["192.0.2.11-192.0.2.11", "192.0.2.13-192.0.2.19"]);
        assert_eq!(senders, ["eth0 192.0.2.12"]);
        let (ranges, senders) = shown(&["192.0.2.12"], &links);
        assert_eq!((ranges.len(), senders.len()), (0, 1));
    }
}
