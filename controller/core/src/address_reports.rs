//! What gateways say of external addresses, and of which addresses it has been unsettled for long.
//!
//! While an address goes from one gateway to another, two may say that they own it, or none: their reports come
//! one after the other. So that counts only when it has lasted for [`UNSETTLED`]. Time comes with
//! [`AddressReports::review`]; gateways renew their Leases all the time, so it is called often enough.
//!
//! One that is dead says nothing new: until its Lease has run out there stands in it that it owns what another one has
//! taken. So who owns an address by an older term counts only if it was heard again since.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::AddressReport;
use fairway_config::names::ClusterName;
use fairway_config::time::Timestamp;

/// How long an address may have no owner, or several, before people are told; in seconds. A gateway that has
/// something new to say of an address says it in less.
pub(crate) const UNSETTLED: i64 = 10;

/// So long after an address became unsettled a gateway that is heard knows of it; in seconds. A Lease that is on its
/// way meanwhile does not.
const KNOWN: i64 = 2;

/// What gateways say of addresses.
#[derive(Debug, Default)]
pub(crate) struct AddressReports {
    /// By address, in the order of the gateways' names.
    reports: BTreeMap<IpAddr, Vec<(ClusterName, Arc<AddressReport>)>>,
    /// Addresses of which the verdict may have changed since the last review.
    touched: BTreeSet<IpAddr>,
    unsettled: BTreeMap<IpAddr, Unsettled>,
    /// When each gateway was heard the last time.
    heard: BTreeMap<ClusterName, Timestamp>,
    /// Those that were heard since the last review.
    heard_now: BTreeSet<ClusterName>,
}

/// An address that has not one owner.
#[derive(Clone, Copy, Debug)]
struct Unsettled {
    since: Timestamp,
    lasts: bool,
}

impl AddressReports {
    /// Takes in the report of a gateway on an address; nothing: there is none any more. Answers whether it
    /// concerns the Services that have the address.
    pub(crate) fn put(
        &mut self,
        address: IpAddr,
        gateway: &ClusterName,
        report: Option<&Arc<AddressReport>>,
    ) -> bool {
        let of_address = self.reports.entry(address).or_default();
        let at = of_address.partition_point(|(name, _)| name < gateway);
        let is_there = of_address.get(at).is_some_and(|(name, _)| name == gateway);
        let before = is_there.then(|| of_address.remove(at).1);
        if let Some(report) = report {
            of_address.insert(at, (Arc::clone(gateway), Arc::clone(report)));
        }
        if of_address.is_empty() {
            self.reports.remove(&address);
        }
        let is_alike = match (&before, report) {
            (Some(before), Some(report)) => is_alike(before, report),
            (None, None) => true,
            _ => false,
        };
        if !is_alike {
            self.touched.insert(address);
        }
        !is_alike
    }

    /// Everything that gateways say of an address, in the order of their names.
    pub(crate) fn of(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = (&ClusterName, &AddressReport)> {
        let reports = self.reports.get(&address).into_iter().flatten();
        reports.map(|(name, report)| (name, &**report))
    }

    /// Whether no gateway has said anything of any address.
    pub(crate) fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// A gateway has renewed its Lease.
    pub(crate) fn hear(&mut self, gateway: &ClusterName) {
        self.heard_now.insert(Arc::clone(gateway));
    }

    /// There is no such gateway any more.
    pub(crate) fn forget(&mut self, gateway: &ClusterName) {
        self.heard.remove(gateway);
        self.heard_now.remove(gateway);
    }

    /// Whether what a gateway says of an address that is unsettled is what it still says.
    pub(crate) fn still_says(&self, address: IpAddr, gateway: &ClusterName) -> bool {
        let since = self.unsettled.get(&address).map(|it| it.since);
        let heard = self.heard.get(gateway);
        since.is_some_and(|since| heard.is_some_and(|at| since.0 + KNOWN <= at.0))
    }

    /// A gateway counts now, or does not any more: the verdicts on all addresses may have changed.
    pub(crate) fn touch_all(&mut self) {
        self.touched.extend(self.reports.keys());
        self.touched.extend(self.unsettled.keys());
    }

    /// Brings up to date which addresses have been unsettled for long, and answers with those of which that has
    /// changed.
    pub(crate) fn review(
        &mut self,
        now: Timestamp,
        is_settled: impl Fn(&Self, IpAddr) -> bool,
    ) -> Vec<IpAddr> {
        let mut changed = Vec::new();
        for gateway in std::mem::take(&mut self.heard_now) {
            let before = self.heard.insert(Arc::clone(&gateway), now);
            let is_news = |since: Timestamp| {
                let known = since.0 + KNOWN;
                known <= now.0 && before.is_none_or(|before| before.0 < known)
            };
            let news = self.unsettled.iter().filter(|(address, it)| {
                it.lasts
                    && is_news(it.since)
                    && self.of(**address).any(|(name, _)| *name == gateway)
            });
            changed.extend(news.map(|(address, _)| *address));
        }
        for address in std::mem::take(&mut self.touched) {
            if !self.reports.contains_key(&address) || is_settled(self, address) {
                if self.unsettled.remove(&address).is_some_and(|it| it.lasts) {
                    changed.push(address);
                }
            } else {
                let began = Unsettled {
                    since: now,
                    lasts: false,
                };
                self.unsettled.entry(address).or_insert(began);
            }
        }
        for (address, unsettled) in &mut self.unsettled {
            if !unsettled.lasts && unsettled.since.0 + UNSETTLED <= now.0 {
                unsettled.lasts = true;
                changed.push(*address);
            }
        }
        changed
    }

    /// Whether it has been unsettled for long.
    pub(crate) fn lasts(&self, address: IpAddr) -> bool {
        self.unsettled.get(&address).is_some_and(|it| it.lasts)
    }
}

/// Whether two reports are the same for the Services that have the address.
fn is_alike(one: &AddressReport, other: &AddressReport) -> bool {
    let hardware = |report: &AddressReport| {
        let conflict = report.conflict.as_ref();
        conflict.map(|it| it.hardware_address.clone())
    };
    (one.state, &one.owner, one.term, hardware(one))
        == (other.state, &other.owner, other.term, hardware(other))
}
