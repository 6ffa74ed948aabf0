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
    AddressReport, Change, GatewayProgress, GatewayRow, GatewayStatus, Report,
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
    /// ago.
    pub(super) fn abandoned(&self, clocks: (Instant, Timestamp)) -> Vec<ClusterName> {
        let (now, wall) = clocks;
        let long = ABANDONED.as_secs().cast_signed();
        let silent = |gateway: &LeasedGateway| gateway.gone && gateway.heard + DURATION <= now;
        let all = self.all.iter().filter(|(_, gateway)| silent(gateway));
        all.filter(|(_, gateway)| gateway.renewed.is_some_and(|it| it.0 + long <= wall.0))
            .map(|(name, _)| Arc::clone(name))
            .collect()
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
        let status = GatewayStatus {
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
mod tests {
    use fairway_config::exchange::AddressState;

    use super::super::gateway_report::encode;
    use super::*;

    fn row(ready: bool) -> GatewayRow {
        GatewayRow {
            version: "0.1.0".to_owned(),
            ready,
            ..unknown(&"edge-1".into())
        }
    }

    /// What a gateway says that has applied the store up to 7; of these Services that they have no
    /// endpoints.
    fn said(failing: &[&str]) -> Annotations {
        let report = |name: &&str| {
            let report = Arc::new(Report::new("edge-1".into()));
            (ServiceName::new("web", *name), report)
        };
        let reports = failing.iter().map(report).collect();
        encode(
            GatewaySelfReport::new(row(true), 7),
            &reports,
            &BTreeMap::new(),
        )
    }

    /// What a gateway says that owns these addresses.
    fn owns(addresses: &[&str]) -> Annotations {
        let report = |address: &&str| {
            let report = AddressReport {
                state: AddressState::Owned,
                owner: None,
                since: RENEWED,
                term: 1,
                why: "".into(),
                interfaces: Vec::new(),
                conflict: None,
                successor: None,
                probe: None,
            };
            (address.parse().unwrap(), Arc::new(report))
        };
        let addresses = addresses.iter().map(report).collect();
        encode(
            GatewaySelfReport::new(row(true), 7),
            &BTreeMap::new(),
            &addresses,
        )
    }

    /// When a Lease was renewed, by the clock of the gateway, and the clocks that many seconds later.
    const RENEWED: Timestamp = Timestamp(1_000_000);

    fn clocks(now: Instant, later: i64) -> (Instant, Timestamp) {
        (now, Timestamp(RENEWED.0 + later))
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let told = changes.iter().map(|change| match change {
            Change::Report(name, _, report) => format!("{name} {}", report.is_some()),
            Change::Address(address, _, report) => format!("{address} {}", report.is_some()),
            Change::Gateway(name, status) => match status.as_ref().map(|it| &it.progress) {
                None => format!("{name} is forgotten"),
                Some(GatewayProgress::Gone) => format!("{name} is gone"),
                Some(GatewayProgress::Behind { .. }) => format!("{name} is behind"),
                Some(GatewayProgress::Applied {
                    revision,
                    since_start,
                    ..
                }) => format!("{name} {revision} {since_start}"),
            },
            _ => panic!(),
        });
        told.collect()
    }

    /// Hears a Lease as a gateway wrote it so many seconds after the first.
    fn hear(
        gateways: &mut GatewayLeases,
        annotations: &Annotations,
        renewed: i64,
        now: Instant,
    ) -> Vec<String> {
        let renewed = Some(Timestamp(RENEWED.0 + renewed));
        let at = clocks(now, 0);
        told(&gateways.hear(&"edge-1".into(), annotations.clone(), renewed, at))
    }

    #[test]
    fn what_is_wrong_is_taken_back_when_it_is_mended_and_when_the_gateway_goes() {
        let now = Instant::now();
        let mut gateways = GatewayLeases::default();
        gateways.listed();
        let changes = hear(&mut gateways, &said(&["b"]), 0, now);
        assert_eq!(changes, ["web/b true", "edge-1 7 true"]);
        let changes = hear(&mut gateways, &said(&["c"]), 1, now);
        assert_eq!(changes, ["web/c true", "web/b false", "edge-1 7 true"]);
        let changes = gateways.forget(&"edge-1".into());
        assert_eq!(told(&changes), ["web/c false", "edge-1 is forgotten"]);
    }

    #[test]
    fn what_is_said_of_addresses_is_taken_back_when_the_gateway_goes() {
        let now = Instant::now();
        let mut gateways = GatewayLeases::default();
        gateways.listed();
        let changes = hear(
            &mut gateways,
            &owns(&["203.0.113.1", "203.0.113.2"]),
            0,
            now,
        );
        let both = ["203.0.113.1 true", "203.0.113.2 true", "edge-1 7 true"];
        assert_eq!(changes, both);
        let changes = hear(&mut gateways, &owns(&["203.0.113.2"]), 1, now);
        assert_eq!(changes, ["203.0.113.1 false", "edge-1 7 true"]);
        let changes = gateways.expire(now + DURATION, false);
        assert_eq!(told(&changes), ["203.0.113.2 false", "edge-1 is gone"]);
        let changes = hear(&mut gateways, &owns(&["203.0.113.2"]), 60, now);
        assert_eq!(changes, ["203.0.113.2 true", "edge-1 7 true"]);
        let changes = gateways.forget(&"edge-1".into());
        assert_eq!(told(&changes), ["203.0.113.2 false", "edge-1 is forgotten"]);
    }

    #[test]
    fn what_a_first_list_shows_may_be_older_than_what_else_is_found() {
        let now = Instant::now();
        let mut gateways = GatewayLeases::default();
        assert_eq!(hear(&mut gateways, &said(&[]), 0, now), ["edge-1 7 false"]);
        gateways.listed();
        assert!(hear(&mut gateways, &said(&[]), 0, now).is_empty());
        assert_eq!(hear(&mut gateways, &said(&[]), 10, now), ["edge-1 7 true"]);
    }

    #[test]
    fn a_gateway_that_is_not_heard_of_is_gone_until_it_is_heard_again() {
        let now = Instant::now();
        let mut gateways = GatewayLeases::default();
        gateways.listed();
        hear(&mut gateways, &said(&["b"]), 0, now);
        let almost = now + DURATION - Duration::from_secs(1);
        assert!(gateways.expire(almost, false).is_empty());
        // While Leases can't be watched it has longer.
        assert!(gateways.expire(now + DURATION, true).is_empty());
        let changes = gateways.expire(now + DURATION, false);
        assert_eq!(told(&changes), ["web/b false", "edge-1 is gone"]);
        assert!(gateways.expire(now + DURATION * 2, false).is_empty());
        // A list shows it again, as it was.
        let later = now + DURATION * 2;
        assert!(hear(&mut gateways, &said(&["b"]), 0, later).is_empty());
        let changes = hear(&mut gateways, &said(&["b"]), 60, later);
        assert_eq!(changes, ["web/b true", "edge-1 7 true"]);
        assert!(gateways.expire(later, false).is_empty());
        // However long Leases can't be watched, nobody is believed for ever.
        let changes = gateways.expire(later + DURATION_UNSEEN, true);
        assert_eq!(told(&changes), ["web/b false", "edge-1 is gone"]);
    }

    #[test]
    fn a_gateway_that_died_before_it_was_first_seen_is_gone_until_it_renews() {
        let (now, name) = (Instant::now(), "edge-1".into());
        // A clock that is ahead, one that is behind a little, and either dead or far behind.
        for (later, is) in [
            (-3600, "edge-1 7 false"),
            (29, "edge-1 7 false"),
            (30, "edge-1 is gone"),
        ] {
            let mut gateways = GatewayLeases::default();
            let at = clocks(now, later);
            let changes = gateways.hear(&name, said(&[]), Some(RENEWED), at);
            assert_eq!(told(&changes), [is]);
        }
        let mut gateways = GatewayLeases::default();
        gateways.hear(&name, said(&[]), Some(RENEWED), clocks(now, 30));
        gateways.listed();
        assert!(gateways.expire(now + DURATION, false).is_empty());
        // It lives: its clock is behind.
        assert_eq!(hear(&mut gateways, &said(&[]), 10, now), ["edge-1 7 true"]);
    }

    #[test]
    fn after_a_watch_had_failed_gateways_have_their_time_again_and_the_dead_stay_dead() {
        let now = Instant::now();
        let mut gateways = GatewayLeases::default();
        for (name, later) in [("alive", 0), ("dead", 60)] {
            gateways.hear(&name.into(), said(&[]), Some(RENEWED), clocks(now, later));
        }
        gateways.hear_again(now + DURATION * 2);
        let almost = now + DURATION * 3 - Duration::from_secs(1);
        assert!(gateways.expire(almost, false).is_empty());
        let changes = gateways.expire(now + DURATION * 3, false);
        assert_eq!(told(&changes), ["alive is gone"]);
    }

    #[test]
    fn a_gateway_is_abandoned_when_it_has_been_silent_for_a_day_by_both_clocks() {
        let (now, name) = (Instant::now(), "edge-1".into());
        let mut gateways = GatewayLeases::default();
        let day = |seconds: i64| Timestamp(RENEWED.0 + 24 * 60 * 60 + seconds);
        gateways.hear(&name, said(&[]), Some(RENEWED), clocks(now, 0));
        // It was heard just now, so its clock is wrong.
        assert!(gateways.abandoned((now, day(0))).is_empty());
        let silent = now + DURATION;
        let changes = gateways.expire(silent, false);
        let [Change::Gateway(_, Some(status))] = &changes[..] else {
            panic!("{changes:?}");
        };
        let why = format!("it has not been heard of since {RENEWED}");
        assert_eq!(status.row.why, why);
        assert!(gateways.abandoned((silent, day(-1))).is_empty());
        assert_eq!(gateways.abandoned((silent, day(0))), [Arc::clone(&name)]);
        gateways.hear(&name, said(&[]), Some(day(0)), (silent, day(0)));
        assert!(gateways.abandoned((silent, day(0))).is_empty());
        // Seen for the first time, it may be one whose clock is wrong and that renews in a moment.
        let mut gateways = GatewayLeases::default();
        gateways.hear(&name, said(&[]), Some(RENEWED), (now, day(0)));
        assert!(gateways.abandoned((now, day(0))).is_empty());
        assert_eq!(gateways.abandoned((silent, day(0))), [name]);
    }

    #[test]
    fn a_gateway_that_is_not_ready_stops_or_can_t_be_read_vouches_for_nothing() {
        let now = Instant::now();
        let text = |status: GatewaySelfReport| encode(status, &BTreeMap::new(), &BTreeMap::new());
        let well = GatewaySelfReport::new(row(true), 7);
        let stopping = GatewaySelfReport {
            stopping: true,
            ..well.clone()
        };
        let behind = GatewaySelfReport {
            behind: Some("a watch has ended".to_owned()),
            ..well.clone()
        };
        let old_version = Annotations::default();
        let garbled = |gateway: &str, services: &str| Annotations {
            gateway: gateway.to_owned(),
            services: services.to_owned(),
        };
        let good = text(well.clone());
        for (annotations, is) in [
            (good.clone(), "edge-1 7 true"),
            (text(stopping), "edge-1 is gone"),
            (text(behind), "edge-1 is behind"),
            (
                text(GatewaySelfReport::new(row(false), 7)),
                "edge-1 is behind",
            ),
            (old_version, "edge-1 is behind"),
            (garbled("{}", &good.services), "edge-1 is behind"),
            (garbled("[", &good.services), "edge-1 is behind"),
            (garbled(&good.gateway, ""), "edge-1 is behind"),
            (garbled(&good.gateway, "!"), "edge-1 is behind"),
            (garbled(&good.gateway, "aGVsbG8="), "edge-1 is behind"),
        ] {
            let mut gateways = GatewayLeases::default();
            gateways.listed();
            // It had said that all is well.
            hear(&mut gateways, &good, -10, now);
            assert_eq!(hear(&mut gateways, &annotations, 0, now), [is]);
        }
    }
}
