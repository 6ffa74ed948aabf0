//! The reports of gateways, and which Services a new report concerns.
//!
//! A gateway that has applied more of the store reports a higher revision
//! ([`GatewayProgress::Applied`]). That concerns only the Services that changed between the two
//! revisions; an index by revision finds them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{AddressReport, GatewayProgress, GatewayStatus, Report};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::time::Timestamp;

use crate::address_probes::Respondents;
use crate::address_reports::AddressReports;
use crate::address_verdict::{self, AddressVerdict};
use crate::count_labels::GatewayCount;
use crate::index::IndexedService;
use crate::programmed::{self, Serving};
use crate::queue::ServiceSlot;

/// The reports of all gateways.
#[derive(Debug)]
pub(crate) struct GatewayTable {
    /// Whether gateways are processes of their own; else there is one, in this process.
    are_processes: bool,
    gateways: BTreeMap<ClusterName, Arc<GatewayStatus>>,
    /// What they report of each Service, in the order of their names.
    reports: HashMap<ServiceName, Vec<Arc<Report>>>,
    /// The Services by [`fairway_config::exchange::StoredService::revision`].
    by_revision: BTreeSet<(u64, ServiceSlot)>,
    /// What they report of external addresses.
    addresses: AddressReports,
}

/// Which Services a report of a gateway concerns.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Concerned {
    pub(crate) all: bool,
    /// Those that have changed after the first of these revisions, up to the second.
    pub(crate) revisions: Option<(u64, u64)>,
    pub(crate) namespaces: BTreeSet<Arc<str>>,
}

/// What all gateways report of one Service.
#[derive(Debug)]
pub(crate) struct Heard<'a> {
    /// No gateway has reported yet: what was written before stays.
    pub(crate) keeps: bool,
    pub(crate) serving: Serving<'a>,
    pub(crate) reports: &'a [Arc<Report>],
}

impl GatewayTable {
    pub(crate) fn new(are_processes: bool) -> Self {
        Self {
            are_processes,
            gateways: BTreeMap::new(),
            reports: HashMap::new(),
            by_revision: BTreeSet::new(),
            addresses: AddressReports::default(),
        }
    }

    /// Takes in the state of a gateway. Nothing: it is gone.
    pub(crate) fn put(
        &mut self,
        name: &ClusterName,
        status: Option<&Arc<GatewayStatus>>,
    ) -> Concerned {
        let before = match status {
            Some(status) => self.gateways.insert(Arc::clone(name), Arc::clone(status)),
            None => self.gateways.remove(name),
        };
        let progress = |status: Option<&Arc<GatewayStatus>>| match status {
            Some(status) => status.progress.clone(),
            None => GatewayProgress::Gone,
        };
        let (before, now) = (progress(before.as_ref()), progress(status));
        match status {
            // One whose Lease runs out is not heard.
            Some(_) if now != GatewayProgress::Gone => self.addresses.hear(name),
            Some(_) => {}
            None => self.addresses.forget(name),
        }
        if (before == GatewayProgress::Gone) != (now == GatewayProgress::Gone) {
            // It counts from now on, or does not any more.
            self.addresses.touch_all();
        }
        concerned(&before, &now)
    }

    /// Takes in the report of a gateway on an external address. Nothing: there is no report any more. Answers
    /// whether it concerns the Services that have the address.
    pub(crate) fn put_address(
        &mut self,
        address: IpAddr,
        gateway: &ClusterName,
        report: Option<&Arc<AddressReport>>,
    ) -> bool {
        self.addresses.put(address, gateway, report)
    }

    /// Who owns an address, by what the gateways that live say.
    pub(crate) fn verdict(&self, address: IpAddr) -> AddressVerdict<'_> {
        let mut verdict = self.verdict_by(&self.addresses, address);
        if self.are_processes
            && let AddressVerdict::Owned { others, .. } = &mut verdict
        {
            others.retain(|name| self.addresses.still_says(address, name));
        }
        verdict
    }

    /// Whether a gateway says that it owns an address that another one has taken since, and has not been heard again:
    /// it may be dead.
    pub(crate) fn is_overtaken(&self, address: IpAddr, gateway: &str) -> bool {
        let verdict = self.verdict_by(&self.addresses, address);
        match &verdict {
            AddressVerdict::Owned { others, .. } => others.iter().any(|name| {
                ***name == *gateway
                    && self.are_processes
                    && !self.addresses.still_says(address, name)
            }),
            _ => false,
        }
    }

    fn verdict_by<'a>(&self, addresses: &'a AddressReports, address: IpAddr) -> AddressVerdict<'a> {
        // One that stops goes on answering until others have its addresses. When it has stopped it says nothing.
        let lives = |name: &ClusterName| {
            let status = self.gateways.get(name);
            status.is_some_and(|it| it.stopped || it.progress != GatewayProgress::Gone)
        };
        let said = addresses.of(address);
        let said = said.filter(|&(name, _)| !self.are_processes || lives(name));
        address_verdict::judge(said, self.are_processes, lives)
    }

    /// Whether an address has had no owner, or several, for longer than a gateway takes to report.
    pub(crate) fn lasts(&self, address: IpAddr) -> bool {
        self.addresses.lasts(address)
    }

    /// The addresses of which that has changed since the last call.
    pub(crate) fn review_addresses(&mut self, now: Timestamp) -> Vec<IpAddr> {
        let mut addresses = std::mem::take(&mut self.addresses);
        let changed = addresses.review(now, |all, it| self.verdict_by(all, it).is_settled());
        self.addresses = addresses;
        changed
    }

    /// Whether the gateway in this process has not said anything of any address yet.
    pub(crate) fn awaits_addresses(&self) -> bool {
        !self.are_processes && self.addresses.is_empty()
    }

    /// Takes in the report of a gateway on a Service. Nothing: there is no report any more.
    pub(crate) fn put_report(
        &mut self,
        name: &ServiceName,
        gateway: &ClusterName,
        report: Option<&Arc<Report>>,
    ) {
        if report.is_none() && !self.reports.contains_key(name) {
            return;
        }
        let reports = self.reports.entry(name.clone()).or_default();
        let at = reports.partition_point(|other| other.gateway < *gateway);
        let is_there = reports.get(at).is_some_and(|it| it.gateway == *gateway);
        match report {
            Some(report) if is_there => {
                if let Some(before) = reports.get_mut(at) {
                    *before = Arc::clone(report);
                }
            }
            Some(report) => {
                reports.reserve_exact(1);
                reports.insert(at, Arc::clone(report));
            }
            None if is_there => {
                reports.remove(at);
            }
            None => {}
        }
        if reports.is_empty() {
            self.reports.remove(name);
        }
    }

    /// Notes the revision of the present form of a Service, in place of the one before.
    pub(crate) fn put_service(&mut self, slot: ServiceSlot, before: Option<u64>, now: Option<u64>) {
        if before == now {
            return;
        }
        if let Some(before) = before {
            self.by_revision.remove(&(before, slot));
        }
        if let Some(now) = now {
            self.by_revision.insert((now, slot));
        }
    }

    /// The Services that changed after one revision, up to another.
    pub(crate) fn changed(&self, (after, upto): (u64, u64)) -> impl Iterator<Item = ServiceSlot> {
        use std::ops::Bound::{Excluded, Included};
        let range = (
            Excluded((after, ServiceSlot::MAX)),
            Included((upto, ServiceSlot::MAX)),
        );
        let is_range = after < upto;
        let found = is_range.then(|| self.by_revision.range(range));
        found.into_iter().flatten().map(|(_, slot)| *slot)
    }

    /// What gateways report of a Service.
    pub(crate) fn heard(&self, entry: &IndexedService) -> Heard<'_> {
        let reports = self.reports.get(&entry.stored.service.name);
        let reports = reports.map_or(&[][..], Vec::as_slice);
        let serving = if self.are_processes {
            programmed::of_processes(entry, &self.gateways, reports)
        } else {
            programmed::of_reports(entry, reports)
        };
        let unheard = match self.are_processes {
            true => serving.unheard && serving.count() == 0,
            false => reports.is_empty(),
        };
        Heard {
            keeps: unheard && entry.as_found,
            serving,
            reports,
        }
    }

    /// The gateways that may answer what they are asked.
    pub(crate) fn respondents(&self) -> Respondents {
        if !self.are_processes {
            return Respondents::Own;
        }
        let alive = self.gateways.iter();
        let alive = alive.filter(|(_, it)| it.progress != GatewayProgress::Gone);
        Respondents::Processes(alive.map(|(name, _)| Arc::clone(name)).collect())
    }

    /// Those that have been heard of and are processes of their own.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&ClusterName, &Arc<GatewayStatus>)> {
        let all = self.are_processes.then_some(&self.gateways);
        all.into_iter().flatten()
    }

    /// What a gateway says of itself.
    pub(crate) fn get(&self, name: &ClusterName) -> Option<&GatewayStatus> {
        self.gateways.get(name).map(|it| &**it)
    }

    /// How many are how.
    pub(crate) fn counts(&self) -> BTreeMap<GatewayCount, usize> {
        let mut counts = BTreeMap::new();
        if self.are_processes {
            counts.extend(GatewayCount::ALL.map(|it| (it, 0)));
        }
        for (_, gateway) in self.processes() {
            *counts.entry(GatewayCount::of(gateway)).or_default() += 1;
        }
        counts
    }

    /// Whether gateways are processes of their own.
    pub(crate) fn are_processes(&self) -> bool {
        self.are_processes
    }

    /// How many endpoints a Service has: the highest number that a gateway reports.
    pub(crate) fn endpoints(&self, name: &ServiceName) -> Option<usize> {
        let reports = self.reports.get(name).into_iter().flatten();
        let reported = reports.map(|report| report.eligible_endpoints);
        let alive = self.gateways.values();
        let alive = alive.filter(|status| status.progress != GatewayProgress::Gone);
        let counted = alive.filter_map(|status| status.endpoints.get(name));
        reported.chain(counted.map(|count| count as usize)).max()
    }
}

/// Which Services a new state of a gateway concerns, given the former one.
fn concerned(before: &GatewayProgress, now: &GatewayProgress) -> Concerned {
    use GatewayProgress::{Applied, Behind, Gone};
    let everybody = Concerned {
        all: true,
        ..Concerned::default()
    };
    match (before, now) {
        (Gone, Gone) | (Behind { .. }, Behind { .. }) => Concerned::default(),
        (
            Applied {
                revision,
                since_start,
                untold,
            },
            Applied {
                revision: now,
                since_start: now_since_start,
                untold: now_untold,
            },
        ) => Concerned {
            all: false,
            revisions: if since_start == now_since_start {
                let (first, last) = (revision.min(now), revision.max(now));
                (first < last).then_some((*first, *last))
            } else {
                // While the gateway was not heard, the Services that changed were not looked at
                // again.
                Some((*revision.min(now), u64::MAX))
            },
            namespaces: untold.symmetric_difference(now_untold).cloned().collect(),
        },
        _ => everybody,
    }
}
