//! The reports of a gateway, until they are written into its Lease.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use fairway_config::exchange::{AddressReport, AddressState, Report, ReportBatch};
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
    addresses: BTreeMap<IpAddr, Arc<AddressReport>>,
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
        for (address, report) in said.addresses {
            let before = match &report {
                Some(report) => latest.addresses.insert(address, Arc::clone(report)),
                None => latest.addresses.remove(&address),
            };
            latest.urgent |= is_urgent_address(before.as_deref(), report.as_deref());
        }
        if latest.urgent {
            self.changed.notify_one();
        }
    }

    /// Waits until there is something that can't wait for the next renewal.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All reports there are now.
    pub(super) fn latest(&self) -> LeaseContents {
        let mut latest = lock(&self.latest);
        latest.urgent = false;
        LeaseContents {
            reports: latest.reports.clone(),
            addresses: latest.addresses.clone(),
            revision: latest.revision,
        }
    }

    /// Whether something can't wait for the next renewal.
    pub(super) fn is_urgent(&self) -> bool {
        lock(&self.latest).urgent
    }
}

/// What is written into the Lease.
#[derive(Debug, Default)]
pub(super) struct LeaseContents {
    pub(super) reports: BTreeMap<ServiceName, Arc<Report>>,
    pub(super) addresses: BTreeMap<IpAddr, Arc<AddressReport>>,
    /// See [`ReportBatch::revision`].
    pub(super) revision: u64,
}

/// Whether others have to know soon what this gateway says of an address: where it came or went, is in conflict, or
/// was asked for by the controller, or another gateway would take it: who plans work on a node goes by that.
/// What other gateways own they say themselves.
fn is_urgent_address(before: Option<&AddressReport>, now: Option<&AddressReport>) -> bool {
    let evidence = |report: Option<&AddressReport>| {
        let report = report?;
        let hardware = report
            .conflict
            .as_ref()
            .map(|it| it.hardware_address.clone());
        let is_evidence = matches!(report.state, AddressState::Owned | AddressState::Conflict)
            || report.probe.is_some();
        is_evidence.then_some((
            report.state,
            report.probe,
            report.term,
            hardware,
            report.successor.clone(),
        ))
    };
    evidence(before) != evidence(now)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::exchange::Successor;
    use fairway_config::time::Timestamp;

    use super::*;

    fn batch(addresses: &[(u8, Option<(AddressState, u64)>)], revision: u64) -> ReportBatch {
        let report = |(state, term)| {
            Arc::new(AddressReport {
                state,
                owner: None,
                since: Timestamp(0),
                term,
                why: "".into(),
                interfaces: Vec::new(),
                conflict: None,
                successor: None,
                probe: None,
            })
        };
        let addresses = addresses.iter();
        let addresses = addresses.map(|(n, it)| (IpAddr::from([203, 0, 113, *n]), it.map(report)));
        ReportBatch {
            addresses: addresses.collect(),
            revision,
            ..ReportBatch::default()
        }
    }

    #[test]
    fn that_an_address_comes_or_goes_is_urgent_and_that_it_is_elsewhere_is_not() {
        use AddressState::{Conflict, Elsewhere, Owned, Unowned};
        let outgoing = OutgoingReports::default();
        for (said, is_urgent) in [
            (Some((Unowned, 0)), false),
            (Some((Elsewhere, 1)), false),
            (Some((Owned, 2)), true),
            (Some((Owned, 2)), false),
            (Some((Owned, 3)), true),
            (Some((Elsewhere, 4)), true),
            (Some((Conflict, 4)), true),
            (None, true),
            (None, false),
        ] {
            outgoing.take(batch(&[(1, said)], 0));
            assert_eq!(outgoing.is_urgent(), is_urgent, "{said:?}");
            let written = outgoing.latest();
            assert_eq!(written.addresses.len(), usize::from(said.is_some()));
        }
    }

    #[test]
    fn who_would_take_an_address_is_urgent() {
        let outgoing = OutgoingReports::default();
        for (successor, is_urgent) in [
            (
                Successor::Nobody("no other gateway is heard of".into()),
                true,
            ),
            (Successor::Gateway("edge-2".into()), true),
            (Successor::Gateway("edge-2".into()), false),
            (Successor::Gateway("edge-3".into()), true),
        ] {
            let mut said = batch(&[(1, Some((AddressState::Owned, 1)))], 0);
            let (_, report) = said.addresses.first_mut().unwrap();
            Arc::make_mut(report.as_mut().unwrap()).successor = Some(successor.clone());
            outgoing.take(said);
            assert_eq!(outgoing.is_urgent(), is_urgent, "{successor:?}");
            outgoing.latest();
        }
    }

    #[test]
    fn a_batch_of_addresses_alone_leaves_the_revision_as_it_was() {
        let outgoing = OutgoingReports::default();
        outgoing.take(batch(&[], 7));
        outgoing.take(batch(&[(1, Some((AddressState::Owned, 1)))], 0));
        assert_eq!(outgoing.latest().revision, 7);
        outgoing.take(batch(&[], 5));
        assert_eq!(outgoing.latest().revision, 5);
    }
}
