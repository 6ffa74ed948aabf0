//! Which reports were sent, and which are still to be sent.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fairway_config::exchange::{AddressReport, Report, ReportBatch};
use fairway_config::names::ServiceName;

/// Reports of Services. One that is the same as the last one is not sent again.
#[derive(Default)]
pub(super) struct ReportQueue {
    sent: BTreeMap<ServiceName, Arc<Report>>,
    unsent: BTreeMap<ServiceName, Option<Arc<Report>>>,
    /// Reports of addresses; none in place of one: the address is announced no more.
    addresses: BTreeMap<IpAddr, Option<Arc<AddressReport>>>,
    /// The revision of the store that was reported last.
    revision: u64,
}

impl ReportQueue {
    /// The report of a Service is this one now.
    pub(super) fn set(&mut self, service: ServiceName, report: Arc<Report>) {
        if self.sent.get(&service) != Some(&report) {
            self.sent.insert(service.clone(), report.clone());
            self.unsent.insert(service, Some(report));
        }
    }

    /// There is nothing to report of a Service any more.
    pub(super) fn remove(&mut self, service: ServiceName) {
        if self.sent.remove(&service).is_some() {
            self.unsent.insert(service, None);
        }
    }

    /// The reports of these addresses are these now.
    pub(super) fn set_addresses(
        &mut self,
        addresses: BTreeMap<IpAddr, Option<Arc<AddressReport>>>,
    ) {
        self.addresses.extend(addresses);
    }

    /// Takes what is to be sent, if there is anything. The revision goes in the same batch as the reports: a
    /// failure of a Service is known before the Service counts as applied.
    pub(super) fn take(&mut self, revision: u64) -> Option<ReportBatch> {
        if self.unsent.is_empty() && self.addresses.is_empty() && self.revision == revision {
            return None;
        }
        self.revision = revision;
        Some(ReportBatch {
            reports: std::mem::take(&mut self.unsent).into_iter().collect(),
            addresses: std::mem::take(&mut self.addresses).into_iter().collect(),
            revision,
        })
    }
}
