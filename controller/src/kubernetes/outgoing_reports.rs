//! The reports of a gateway, until they are written into its Lease.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fairway_config::exchange::{Report, ReportBatch};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::service::Notice;
use tokio::sync::Notify;

use crate::feed::lock;

/// The reports of a gateway, until they are written.
#[derive(Debug, Default)]
pub(super) struct OutgoingReports {
    latest: Mutex<LatestReports>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct LatestReports {
    reports: BTreeMap<ServiceName, Arc<Report>>,
    /// See [`ReportBatch::revision`].
    revision: u64,
    /// Whether something of it can't wait for the next renewal of the Lease.
    urgent: bool,
}

impl OutgoingReports {
    /// Takes reports and does not wait.
    pub(super) fn take(&self, said: ReportBatch) {
        let mut latest = lock(&self.latest);
        // Another thread of the gateway reports addresses, and knows no revision.
        if said.revision != 0 {
            latest.revision = said.revision;
        }
        for (name, report) in said.reports {
            match report {
                Some(report) => {
                    let before = latest.reports.get(&name);
                    let urgent = before.is_none_or(|before| is_urgent(before, &report));
                    latest.urgent |= urgent;
                    latest.reports.insert(name, report);
                }
                None => {
                    latest.reports.remove(&name);
                }
            }
        }
        if latest.urgent {
            self.changed.notify_one();
        }
    }

    /// Waits until there is something that can't wait for the next renewal.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All reports there are now, and up to which revision.
    pub(super) fn latest(&self) -> (BTreeMap<ServiceName, Arc<Report>>, u64) {
        let mut latest = lock(&self.latest);
        latest.urgent = false;
        (latest.reports.clone(), latest.revision)
    }

    /// Whether something can't wait for the next renewal.
    pub(super) fn is_urgent(&self) -> bool {
        lock(&self.latest).urgent
    }
}

/// Whether others have to know soon that a report has changed. The number of endpoints is not worth
/// a write of its own, as long as there is an endpoint.
fn is_urgent(before: &Report, now: &Report) -> bool {
    let counts_alike = (before.eligible_endpoints == 0) == (now.eligible_endpoints == 0);
    !counts_alike
        || before.listeners != now.listeners
        || before.refused_endpoints != now.refused_endpoints
        || before.notices != now.notices
        || before.applied != now.applied
}

/// The report of a Service that can't be read as it is now: the gateway serves its last good form,
/// which must not be taken for the present one.
pub(super) fn held_back(gateway: &ClusterName, before: Option<&Arc<Report>>) -> Report {
    let mut report = match before {
        Some(before) => Report::clone(before),
        None => Report::new(Arc::clone(gateway)),
    };
    report.unlisted.failing_listeners += 1;
    report.notices.push(Notice {
        reason: "ObjectUnreadable".into(),
        message: "it can't read the Service as it is now, and serves its last good form".to_owned(),
    });
    report
}
