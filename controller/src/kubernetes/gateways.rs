//! Which gateways are alive, from their Leases. There is one Lease for each gateway, and no write
//! for each Service.
//!
//! A gateway renews its Lease from time to time and writes into it how it is, and how its Services
//! are ([`gateway_report`](super::gateway_report)). What it says there counts until its Lease has
//! run out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::exchange::{
    AddressReport, BgpPeerRow, Change, GatewayProgress, GatewayRow, GatewayStatus, Report,
};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::time::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt as _;

use super::gateway_report::{
    Annotations, Decoded, GatewaySelfReport, decode_gateway, decode_services,
};

/// The label by which the Leases of gateways are found, and its value.
pub(super) const LABEL: (&str, &str) = ("fairway.dev/component", "gateway");

/// How long after its last renewal a gateway counts as gone.
pub(super) const DURATION: Duration = Duration::from_secs(30);

/// The same while Leases can't be watched: a Lease may have been renewed unseen.
const DURATION_UNSEEN: Duration = Duration::from_secs(60);

/// How often a gateway renews its Lease.
pub(super) const RENEW: Duration = Duration::from_secs(10);

/// How long after its last renewal the Lease of a gateway is removed. If the gateway comes back it
/// makes another one.
pub(super) const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// The gateway whose Lease it is.
pub(super) fn gateway_of(lease: &Lease) -> ClusterName {
    let name = lease.name_any();
    let name = name.strip_prefix("fairway-gateway-").unwrap_or(&name);
    name.into()
}

/// Every gateway that has a Lease.
#[derive(Debug, Default)]
pub(super) struct GatewayLeases {
    all: BTreeMap<ClusterName, LeasedGateway>,
    /// The first list of Leases is complete: a Lease that changes from now on was renewed since.
    listed: bool,
}

#[derive(Debug)]
struct LeasedGateway {
    annotations: Annotations,
    /// What its annotations say of the gateway, or why they can't be read.
    told: Result<GatewaySelfReport, String>,
    /// What they say of Services.
    services: Arc<Decoded>,
    /// When its Lease was last seen to change, by the clock of this process.
    heard: Instant,
    /// `spec.renewTime`, by the gateway's own clock.
    renewed: Option<Timestamp>,
    /// It has renewed its Lease since the first list.
    since_start: bool,
    /// Its Lease has run out: its reports don't count any more.
    gone: bool,
}

impl GatewayLeases {
    /// Takes in the Lease of a gateway.
    ///
    /// A Lease that has not changed says nothing new: a list shows those of dead gateways, too. A
    /// Lease that is seen for the first time counts if it has not run out by both clocks, the
    /// gateway's and our own. A gateway renews in a third of that time, so one whose clock is 20 s
    /// behind still counts, one further behind counts with its next renewal, and one whose clock is
    /// ahead counts for [`DURATION`] at most if it is dead.
    pub(super) fn hear(
        &mut self,
        name: &ClusterName,
        annotations: Annotations,
        renewed: Option<Timestamp>,
        clocks: (Instant, Timestamp),
    ) -> Vec<Change> {
        let (heard, wall) = clocks;
        let known = self.all.get(name);
        if known.is_some_and(|it| it.annotations == annotations && it.renewed == renewed) {
            return Vec::new();
        }
        // Unpacked only where it has changed: most renewals say nothing new of Services.
        let services = match known {
            Some(known) if known.annotations.services == annotations.services => {
                Ok(Arc::clone(&known.services))
            }
            _ => decode_services(name, &annotations.services).map(Arc::new),
        };
        let told =
            services.and_then(|services| Ok((decode_gateway(&annotations.gateway)?, services)));
        let (told, services) = match told {
            Ok((mut told, services)) => {
                // A ValidatingAdmissionPolicy has checked that the Lease is the gateway's own.
                told.row.name = name.to_string();
                (Ok(told), services)
            }
            Err(error) => {
                let error = error.to_string();
                if known.is_none_or(|known| known.told.as_ref().err() != Some(&error)) {
                    tracing::warn!(gateway = %name, error, "what a gateway says can't be read");
                }
                (Err(error), Arc::default())
            }
        };
        let duration = DURATION.as_secs().cast_signed();
        let gateway = LeasedGateway {
            gone: known.is_none() && renewed.is_none_or(|it| it.0 + duration <= wall.0),
            since_start: self.listed,
            annotations,
            told,
            services,
            heard,
            renewed,
        };
        let mut changes = difference(name, known.and_then(LeasedGateway::says), gateway.says());
        changes.push(gateway.change(name));
        self.all.insert(Arc::clone(name), gateway);
        changes
    }

    /// The first list of all Leases is complete.
    pub(super) fn listed(&mut self) {
        self.listed = true;
    }

    /// The watch of Leases goes on after a failure. Gateways may have renewed their Leases unseen
    /// meanwhile, so each counts as renewed just now.
    pub(super) fn hear_again(&mut self, now: Instant) {
        for gateway in self.all.values_mut() {
            gateway.heard = now;
        }
    }

    /// A gateway's Lease is gone.
    pub(super) fn forget(&mut self, name: &ClusterName) -> Vec<Change> {
        let Some(gateway) = self.all.remove(name) else {
            return Vec::new();
        };
        let mut changes = difference(name, gateway.says(), None);
        changes.push(Change::Gateway(Arc::clone(name), None));
        changes
    }

    /// Gateways whose names are not among these are gone.
    pub(super) fn retain(&mut self, there: &[ClusterName]) -> Vec<Change> {
        let gone: Vec<_> = self
            .all
            .keys()
            .filter(|it| !there.contains(it))
            .cloned()
            .collect();
        gone.iter().flat_map(|name| self.forget(name)).collect()
    }

    /// Takes back the reports of gateways whose Lease has run out. `unseen`: Leases can't be
    /// watched now.
    pub(super) fn expire(&mut self, now: Instant, unseen: bool) -> Vec<Change> {
        let duration = if unseen { DURATION_UNSEEN } else { DURATION };
        let mut changes = Vec::new();
        for (name, gateway) in &mut self.all {
            if gateway.gone || now < gateway.heard + duration {
                continue;
            }
            gateway.gone = true;
            changes.extend(difference(name, Some(&gateway.services), None));
            changes.push(gateway.change(name));
        }
        changes
    }

    /// The gateways that have been gone for so long that their Leases may be removed. Both clocks
    /// have to agree: the gateway's own may be wrong, and this process may have started a moment
    /// ago. One that others hear is cut off from the API server alone: it keeps its Lease, for by that they know it as a
    /// member of their fleet, and without it both sides would own the same addresses.
    pub(super) fn abandoned(&self, clocks: (Instant, Timestamp)) -> Vec<ClusterName> {
        let (now, wall) = clocks;
        let long = ABANDONED.as_secs().cast_signed();
        let silent = |gateway: &LeasedGateway| gateway.gone && gateway.heard + DURATION <= now;
        let all = self.all.iter().filter(|(_, gateway)| silent(gateway));
        let all = all.filter(|(name, _)| !self.is_heard_by_others(name));
        all.filter(|(_, gateway)| gateway.renewed.is_some_and(|it| it.0 + long <= wall.0))
            .map(|(name, _)| Arc::clone(name))
            .collect()
    }

    /// Whether a gateway that is heard here may hear this one. It names some of those that it does not hear.
    fn is_heard_by_others(&self, name: &ClusterName) -> bool {
        let live = self.all.values().filter(|it| !it.gone);
        let mut rows = live.filter_map(|it| Some(&it.told.as_ref().ok()?.row));
        rows.any(|row| row.heard > 0 && !row.silent.contains(name))
    }
}

impl LeasedGateway {
    /// Its reports of Services, where they count.
    fn says(&self) -> Option<&Decoded> {
        (!self.gone).then_some(&self.services)
    }

    fn change(&self, name: &ClusterName) -> Change {
        let progress = self.progress();
        let mut row = match &self.told {
            Ok(told) => told.row.clone(),
            Err(_) => unknown(name),
        };
        let stopped = self.told.as_ref().is_ok_and(|told| told.stopping);
        if self.gone && !stopped {
            row.ready = false;
            row.why = match self.renewed {
                Some(renewed) => format!("it has not been heard of since {renewed}"),
                None => format!("it has not been heard of for {} s", DURATION.as_secs()),
            };
        } else if let GatewayProgress::Behind { why } = &progress {
            row.ready = false;
            row.why.clone_from(why);
        }
        let sessions = self.told.as_ref().map_or(&[][..], |told| &told.sessions);
        let sessions = sessions.iter().map(|session| {
            // A Lease is believed of the gateway that it is named after alone.
            let session = BgpPeerRow {
                gateway: name.to_string(),
                ..session.clone()
            };
            match self.gone {
                true => session.unknown(&row.why),
                false => session,
            }
        });
        let mut sessions: Vec<_> = sessions.filter(|_| !stopped).collect();
        // Whoever wrote the Lease need not have sorted them.
        sessions.sort_by(|one, other| one.name.cmp(&other.name));
        let untold = self.told.as_ref().map_or(0, |told| told.untold_sessions);
        let status = GatewayStatus {
            sessions: sessions.into(),
            untold_sessions: if stopped { 0 } else { untold },
            row,
            progress,
            stopped,
            endpoints: self.services.endpoints.clone(),
        };
        Change::Gateway(Arc::clone(name), Some(Arc::new(status)))
    }

    fn progress(&self) -> GatewayProgress {
        if self.gone {
            return GatewayProgress::Gone;
        }
        match &self.told {
            Err(why) => GatewayProgress::Behind { why: why.clone() },
            Ok(told) if told.stopping => GatewayProgress::Gone,
            Ok(told) => match (&told.behind, told.row.ready) {
                (Some(why), _) => GatewayProgress::Behind { why: why.clone() },
                (None, false) => GatewayProgress::Behind {
                    why: told.row.why.clone(),
                },
                (None, true) => GatewayProgress::Applied {
                    revision: told.applied,
                    since_start: self.since_start,
                    untold: told.untold.clone(),
                },
            },
        }
    }
}

/// The row of a gateway of which nothing can be read.
fn unknown(name: &ClusterName) -> GatewayRow {
    GatewayRow {
        name: name.to_string(),
        version: "unknown".to_owned(),
        ready: false,
        why: String::new(),
        listening: 0,
        failed: 0,
        addresses: 0,
        connections: 0,
        flows: 0,
        started: String::new(),
        omitted: 0,
        draining: None,
        members: 0,
        heard: 0,
        silent: Vec::new(),
    }
}

/// The difference between two sets of reports of one gateway.
fn difference(
    gateway: &ClusterName,
    before: Option<&Decoded>,
    after: Option<&Decoded>,
) -> Vec<Change> {
    let nothing = Decoded::default();
    let (before, after) = (before.unwrap_or(&nothing), after.unwrap_or(&nothing));
    if std::ptr::eq(before, after) {
        return Vec::new();
    }
    let of_service = |name: &ServiceName, report: Option<&Arc<Report>>| {
        Change::Report(name.clone(), Arc::clone(gateway), report.cloned())
    };
    let of_address = |address: &IpAddr, report: Option<&Arc<AddressReport>>| {
        Change::Address(*address, Arc::clone(gateway), report.cloned())
    };
    let services = changed(&before.reports, &after.reports, of_service);
    let addresses = changed(&before.addresses, &after.addresses, of_address);
    services.chain(addresses).collect()
}

/// What is new or another one than before, and then what is gone.
fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
    change: impl Fn(&K, Option<&V>) -> Change + Copy + 'a,
) -> impl Iterator<Item = Change> {
    let news = after
        .iter()
        .filter(move |(key, value)| before.get(*key) != Some(*value));
    let gone = before.keys().filter(move |key| !after.contains_key(*key));
    news.map(move |(key, value)| change(key, Some(value)))
        .chain(gone.map(move |key| change(key, None)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
