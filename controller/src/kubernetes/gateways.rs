//! What gateways say, in Leases: one for each gateway, and no write for each Service.
//!
//! A gateway renews its Lease from time to time and writes into it, as an annotation, how it is and
//! what is wrong with which Service. Of a Service that is as it should be nothing is said.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fairway_config::exchange::{
    Change, ClaimKind, ListenerReport, ListenerState, RefusedEndpoint, Report, Unlisted,
};
use fairway_config::names::{ClusterName, ServiceName};
use fairway_config::service::Notice;
use fairway_config::time::Timestamp;
use fairway_config::view::GatewayRow;
use serde::{Deserialize, Serialize};

/// The annotation that holds the report.
pub(super) const ANNOTATION: &str = "fairway.dev/report";

/// The label by which the Leases of gateways are found, and its value.
pub(super) const LABEL: (&str, &str) = ("fairway.dev/component", "gateway");

/// How long after its last renewal a gateway counts as gone.
pub(super) const DURATION: Duration = Duration::from_secs(30);

/// How often one renews.
pub(super) const RENEW: Duration = Duration::from_secs(10);

/// How long after its last renewal the Lease of a gateway is removed: it will not come back, and if it
/// does, it makes another.
pub(super) const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// An object's annotations have 256 KiB; this leaves room for those of others.
const MAX_BYTES: usize = 192 << 10;

/// Of one Service so much of each kind is said in full, as much as a status names; the rest is counted.
const NAMED: usize = 3;

/// And so many more of its ports that fail are listed, each with its reason alone: that ends in
/// `ingress[].ports[].error`.
const PORTS: usize = 64;

/// The report of a gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    /// How it is.
    pub(super) gateway: GatewayRow,
    /// What is wrong with which Service.
    #[serde(default)]
    services: Vec<ServiceTold>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServiceTold {
    service: ServiceName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    listeners: Vec<ListenerReport>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refused_endpoints: Vec<RefusedEndpoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    notices: Vec<Notice>,
    #[serde(default, skip_serializing_if = "is_none")]
    unlisted: Unlisted,
}

fn is_none(unlisted: &Unlisted) -> bool {
    *unlisted == Unlisted::default()
}

/// Whether a listener carries no traffic although there are endpoints.
fn fails(listener: &ListenerReport) -> bool {
    matches!(
        listener.state,
        ListenerState::Failed { .. } | ListenerState::Unreachable { .. }
    )
}

/// Whether people should know of this.
pub(super) fn is_news(report: &Report) -> bool {
    report.listeners.iter().any(fails)
        || !report.refused_endpoints.is_empty()
        || !report.notices.is_empty()
}

/// The annotation's text: the gateway, and of the Services as many as there is room for. Where there
/// is not enough the namespace that has the least of it is next: none can take the room of another.
pub(super) fn encode(gateway: GatewayRow, reports: &BTreeMap<ServiceName, Report>) -> String {
    let mut told = Told {
        gateway,
        services: Vec::new(),
    };
    let mut bytes = serde_json::to_string(&told).unwrap_or_default().len();
    let news: Vec<_> = reports.iter().filter(|(_, it)| is_news(it)).collect();
    let namespaces = news.chunk_by(|(one, _), (other, _)| one.namespace == other.namespace);
    let mut queues: Vec<_> = namespaces.map(|of| of.iter().map(entry)).collect();
    // By what a namespace has when it gets what is next of it.
    let mut turns = BTreeMap::new();
    for (at, queue) in queues.iter_mut().enumerate() {
        turns.extend(queue.next().map(|(size, next)| ((size, at), (size, next))));
    }
    while let Some(((mut has, at), (size, next))) = turns.pop_first() {
        if bytes + size > MAX_BYTES {
            told.gateway.omitted += 1;
            has -= size;
        } else {
            bytes += size;
            told.services.push(next);
        }
        let next = queues.get_mut(at).and_then(Iterator::next);
        turns.extend(next.map(|(size, next)| ((has + size, at), (size, next))));
    }
    serde_json::to_string(&told).unwrap_or_default()
}

/// What is said of a Service, and how many bytes that takes.
fn entry((service, report): &(&ServiceName, &Report)) -> (usize, ServiceTold) {
    let failing = report.listeners.iter().filter(|it| fails(it));
    let mut listeners: Vec<_> = failing.clone().take(NAMED).cloned().collect();
    let others = failing.clone().skip(NAMED);
    let of_ports = others.filter(|it| it.kind == ClaimKind::Vip);
    listeners.extend(of_ports.take(PORTS).map(without_message));
    let told = ServiceTold {
        service: (*service).clone(),
        unlisted: Unlisted {
            failing_listeners: failing.count() - listeners.len(),
            refused_endpoints: report.refused_endpoints.len().saturating_sub(NAMED),
            notices: report.notices.len().saturating_sub(NAMED),
        },
        listeners,
        refused_endpoints: report
            .refused_endpoints
            .iter()
            .take(NAMED)
            .cloned()
            .collect(),
        notices: report.notices.iter().take(NAMED).cloned().collect(),
    };
    let size = serde_json::to_string(&told).unwrap_or_default().len() + 1;
    (size, told)
}

fn without_message(listener: &ListenerReport) -> ListenerReport {
    let mut listener = listener.clone();
    if let ListenerState::Failed { message, .. } | ListenerState::Unreachable { message } =
        &mut listener.state
    {
        message.clear();
    }
    listener
}

/// Every gateway that has told of itself.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    all: BTreeMap<ClusterName, Gateway>,
}

#[derive(Debug)]
struct Gateway {
    told: Told,
    /// When its Lease was last seen to change, by the clock of this process.
    heard: Instant,
    /// `spec.renewTime`, by the gateway's own clock.
    renewed: Option<Timestamp>,
    /// Its Lease has run out: what it said is taken back.
    gone: bool,
}

impl Gateways {
    /// A gateway's Lease is so.
    ///
    /// One that is as it was says nothing new: a list shows the Leases of the dead, too. One that is seen
    /// for the first time counts if it has not run out by the clocks of both. A gateway renews in a
    /// third of that time, so one whose clock is 20 s behind still counts, one further behind counts
    /// with its next renewal, and one whose clock is ahead counts for [`DURATION`] at most if it is dead.
    pub(super) fn hear(
        &mut self,
        name: &ClusterName,
        annotation: &str,
        renewed: Option<Timestamp>,
        clocks: (Instant, Timestamp),
    ) -> Result<Vec<Change>, serde_json::Error> {
        let mut told: Told = serde_json::from_str(annotation)?;
        // Whose Lease it is, the API server has judged.
        told.gateway.name = name.to_string();
        let (heard, wall) = clocks;
        let known = self.all.get(name);
        if known.is_some_and(|it| it.told == told && it.renewed == renewed) {
            return Ok(Vec::new());
        }
        let duration = DURATION.as_secs().cast_signed();
        let gateway = Gateway {
            gone: known.is_none() && renewed.is_none_or(|it| it.0 + duration <= wall.0),
            told,
            heard,
            renewed,
        };
        let before = known.and_then(Gateway::says);
        let mut changes = difference(name, before, gateway.says());
        changes.push(Change::Gateway(Arc::clone(name), Some(gateway.row())));
        self.all.insert(Arc::clone(name), gateway);
        Ok(changes)
    }

    /// The watch of Leases goes on after it had failed: what gateways did meanwhile is not known, so
    /// they have as much time as if they had just been heard.
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

    /// Those whose names are not among these are gone.
    pub(super) fn retain(&mut self, there: &[ClusterName]) -> Vec<Change> {
        let gone: Vec<_> = self
            .all
            .keys()
            .filter(|it| !there.contains(it))
            .cloned()
            .collect();
        gone.iter().flat_map(|name| self.forget(name)).collect()
    }

    /// Takes back what those said that have not been heard of for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, gateway) in &mut self.all {
            if gateway.gone || now < gateway.heard + DURATION {
                continue;
            }
            gateway.gone = true;
            changes.extend(difference(name, Some(&gateway.told), None));
            changes.push(Change::Gateway(Arc::clone(name), Some(gateway.row())));
        }
        changes
    }

    /// Those that have been gone for so long that their Leases may go. Both clocks have to agree: the
    /// gateway's own may be wrong, and this process may have begun a moment ago.
    pub(super) fn abandoned(&self, clocks: (Instant, Timestamp)) -> Vec<ClusterName> {
        let (now, wall) = clocks;
        let long = ABANDONED.as_secs().cast_signed();
        let silent = |gateway: &Gateway| gateway.gone && gateway.heard + DURATION <= now;
        let all = self.all.iter().filter(|(_, gateway)| silent(gateway));
        all.filter(|(_, gateway)| gateway.renewed.is_some_and(|it| it.0 + long <= wall.0))
            .map(|(name, _)| Arc::clone(name))
            .collect()
    }
}

impl Gateway {
    /// What it says, unless that is taken back.
    fn says(&self) -> Option<&Told> {
        (!self.gone).then_some(&self.told)
    }

    fn row(&self) -> Arc<GatewayRow> {
        let row = self.told.gateway.clone();
        if !self.gone {
            return Arc::new(row);
        }
        Arc::new(GatewayRow {
            ready: false,
            why: match self.renewed {
                Some(renewed) => format!("it has not been heard of since {renewed}"),
                None => format!("it has not been heard of for {} s", DURATION.as_secs()),
            },
            ..row
        })
    }
}

/// What changes of the reports of one gateway.
fn difference(gateway: &ClusterName, before: Option<&Told>, after: Option<&Told>) -> Vec<Change> {
    let by_name = |told: Option<&Told>| -> BTreeMap<ServiceName, ServiceTold> {
        let services = told.into_iter().flat_map(|told| &told.services);
        services
            .map(|it| (it.service.clone(), it.clone()))
            .collect()
    };
    let (mut before, after) = (by_name(before), by_name(after));
    let mut changes = Vec::new();
    for (name, told) in after {
        if before.remove(&name).as_ref() == Some(&told) {
            continue;
        }
        let report = Report {
            gateway: Arc::clone(gateway),
            listeners: told.listeners,
            refused_endpoints: told.refused_endpoints,
            eligible_endpoints: 0,
            notices: told.notices,
            unlisted: told.unlisted,
        };
        changes.push(Change::Report(
            name,
            Arc::clone(gateway),
            Some(Arc::new(report)),
        ));
    }
    for name in before.into_keys() {
        changes.push(Change::Report(name, Arc::clone(gateway), None));
    }
    changes
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use fairway_config::net::{EndpointAddr, ListenAddr, Protocol};

    use super::*;

    fn row(ready: bool) -> GatewayRow {
        GatewayRow {
            name: "edge-1".to_owned(),
            version: "0.1.0".to_owned(),
            ready,
            why: String::new(),
            listening: 1,
            failed: 0,
            connections: 0,
            flows: 0,
            started: String::new(),
            omitted: 0,
        }
    }

    fn report(state: ListenerState) -> Report {
        Report {
            gateway: "edge-1".into(),
            listeners: vec![ListenerReport {
                listen: ListenAddr("203.0.113.1:80".parse().unwrap()),
                protocol: Protocol::Tcp,
                port: 80,
                kind: ClaimKind::Vip,
                state,
            }],
            refused_endpoints: Vec::new(),
            eligible_endpoints: 1,
            notices: Vec::new(),
            unlisted: Unlisted::default(),
        }
    }

    fn failing() -> Report {
        report(ListenerState::Failed {
            reason: "PortInUse".to_owned(),
            message: "it is taken".to_owned(),
        })
    }

    /// When a Lease was renewed, by the clock of the gateway, and the clocks that many seconds later.
    const RENEWED: Timestamp = Timestamp(1_000_000);

    fn clocks(now: Instant, later: i64) -> (Instant, Timestamp) {
        (now, Timestamp(RENEWED.0 + later))
    }

    fn shop(name: &str) -> ServiceName {
        ServiceName::new("web", name)
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let told = changes.iter().map(|change| match change {
            Change::Report(name, _, report) => format!("{name} {}", report.is_some()),
            Change::Gateway(name, row) => {
                format!("{name} {:?}", row.as_ref().map(|row| row.ready))
            }
            _ => panic!(),
        });
        told.collect()
    }

    #[test]
    fn only_what_is_wrong_is_said_and_taken_back_when_it_is_mended() {
        let (now, name) = (Instant::now(), "edge-1".into());
        let mut gateways = Gateways::default();
        let mut reports = BTreeMap::from([
            (shop("a"), report(ListenerState::Listening)),
            (shop("b"), failing()),
        ]);
        let text = encode(row(true), &reports);
        assert!(!text.contains("web/a"), "{text}");
        let changes = gateways.hear(&name, &text, Some(RENEWED), clocks(now, 0));
        assert_eq!(told(&changes.unwrap()), ["web/b true", "edge-1 Some(true)"]);
        reports.insert(shop("b"), report(ListenerState::Listening));
        reports.insert(shop("c"), failing());
        let changes = gateways
            .hear(
                &name,
                &encode(row(true), &reports),
                Some(RENEWED),
                clocks(now, 0),
            )
            .unwrap();
        assert_eq!(
            told(&changes),
            ["web/c true", "web/b false", "edge-1 Some(true)"]
        );
        let changes = gateways.forget(&name);
        assert_eq!(told(&changes), ["web/c false", "edge-1 None"]);
    }

    #[test]
    fn a_gateway_that_is_not_heard_of_is_not_ready_until_it_is_heard_again() {
        let (now, name) = (Instant::now(), "edge-1".into());
        let mut gateways = Gateways::default();
        let text = encode(row(true), &BTreeMap::from([(shop("b"), failing())]));
        gateways
            .hear(&name, &text, Some(RENEWED), clocks(now, 0))
            .unwrap();
        assert!(
            gateways
                .expire(now + DURATION - Duration::from_secs(1))
                .is_empty()
        );
        let changes = gateways.expire(now + DURATION);
        assert_eq!(told(&changes), ["web/b false", "edge-1 Some(false)"]);
        assert!(gateways.expire(now + DURATION * 2).is_empty());
        // A list shows it again, as it was.
        let later = now + DURATION * 2;
        let changes = gateways.hear(&name, &text, Some(RENEWED), clocks(later, 60));
        assert!(changes.unwrap().is_empty());
        let renewed = Some(Timestamp(RENEWED.0 + 60));
        let changes = gateways.hear(&name, &text, renewed, clocks(later, 60));
        assert_eq!(told(&changes.unwrap()), ["web/b true", "edge-1 Some(true)"]);
        assert!(gateways.expire(now + DURATION * 2).is_empty());
    }

    #[test]
    fn a_lease_that_is_seen_again_as_it_was_gives_no_more_time() {
        let (now, name) = (Instant::now(), "edge-1".into());
        let mut gateways = Gateways::default();
        let text = encode(row(true), &BTreeMap::new());
        let mut hear = |seconds| {
            let at = clocks(now + Duration::from_secs(seconds), seconds.cast_signed());
            gateways.hear(&name, &text, Some(RENEWED), at).unwrap()
        };
        assert_eq!(told(&hear(0)), ["edge-1 Some(true)"]);
        assert!(hear(20).is_empty());
        assert_eq!(
            told(&gateways.expire(now + DURATION)),
            ["edge-1 Some(false)"]
        );
    }

    #[test]
    fn a_gateway_that_died_before_it_was_first_seen_is_not_ready_until_it_renews() {
        let (now, name) = (Instant::now(), "edge-1".into());
        let text = encode(row(true), &BTreeMap::from([(shop("b"), failing())]));
        // A clock that is ahead, one that is behind a little, and either dead or far behind.
        for later in [-3600, 29] {
            let changes = Gateways::default().hear(&name, &text, Some(RENEWED), clocks(now, later));
            assert_eq!(told(&changes.unwrap()), ["web/b true", "edge-1 Some(true)"]);
        }
        let mut gateways = Gateways::default();
        let changes = gateways.hear(&name, &text, Some(RENEWED), clocks(now, 30));
        assert_eq!(told(&changes.unwrap()), ["edge-1 Some(false)"]);
        assert!(gateways.expire(now + DURATION).is_empty());
        // It lives: its clock is behind.
        let renewed = Some(Timestamp(RENEWED.0 + 10));
        let changes = gateways.hear(&name, &text, renewed, clocks(now, 3600));
        assert_eq!(told(&changes.unwrap()), ["web/b true", "edge-1 Some(true)"]);
    }

    #[test]
    fn after_a_watch_had_failed_gateways_have_their_time_again_and_the_dead_stay_dead() {
        let now = Instant::now();
        let mut gateways = Gateways::default();
        let text = encode(row(true), &BTreeMap::new());
        for (name, later) in [("alive", 0), ("dead", 60)] {
            gateways
                .hear(&name.into(), &text, Some(RENEWED), clocks(now, later))
                .unwrap();
        }
        gateways.hear_again(now + DURATION * 2);
        let almost = now + DURATION * 3 - Duration::from_secs(1);
        assert!(gateways.expire(almost).is_empty());
        let changes = gateways.expire(now + DURATION * 3);
        assert_eq!(told(&changes), ["alive Some(false)"]);
    }

    #[test]
    fn a_gateway_is_abandoned_when_it_has_been_silent_for_a_day_by_both_clocks() {
        let (now, name) = (Instant::now(), "edge-1".into());
        let mut gateways = Gateways::default();
        let text = encode(row(true), &BTreeMap::new());
        let renewed = RENEWED;
        let day = |seconds: i64| Timestamp(renewed.0 + 24 * 60 * 60 + seconds);
        gateways
            .hear(&name, &text, Some(renewed), clocks(now, 0))
            .unwrap();
        // It was heard just now, so its clock is wrong.
        assert!(gateways.abandoned((now, day(0))).is_empty());
        let silent = now + DURATION;
        let changes = gateways.expire(silent);
        let [Change::Gateway(_, Some(row))] = &changes[..] else {
            panic!("{changes:?}");
        };
        assert_eq!(row.why, format!("it has not been heard of since {renewed}"));
        assert!(gateways.abandoned((silent, day(-1))).is_empty());
        assert_eq!(gateways.abandoned((silent, day(0))), [Arc::clone(&name)]);
        gateways
            .hear(&name, &text, Some(day(0)), (silent, day(0)))
            .unwrap();
        assert!(gateways.abandoned((silent, day(0))).is_empty());
        // Seen for the first time, it may be one whose clock is wrong and that renews in a moment.
        let mut gateways = Gateways::default();
        gateways
            .hear(&name, &text, Some(renewed), (now, day(0)))
            .unwrap();
        assert!(gateways.abandoned((now, day(0))).is_empty());
        assert_eq!(gateways.abandoned((silent, day(0))), [name]);
    }

    #[test]
    fn a_report_is_bounded_however_many_services_fail() {
        let reports = (0..20_000)
            .map(|n| (shop(&format!("s{n}")), failing()))
            .collect();
        let text = encode(row(true), &reports);
        assert!(text.len() <= MAX_BYTES + 32);
        let told: Told = serde_json::from_str(&text).unwrap();
        assert_eq!(told.services.len() + told.gateway.omitted, 20_000);
    }

    #[test]
    fn no_namespace_takes_the_room_of_another_however_much_of_it_fails() {
        let mut reports: BTreeMap<_, _> = (0..5_000)
            .map(|n| (ServiceName::new("many", format!("s{n}")), failing()))
            .collect();
        let mut large = failing();
        let notice = Notice {
            reason: "Much".into(),
            message: "x".repeat(MAX_BYTES / 2),
        };
        large.notices.push(notice);
        let large_name = ServiceName::new("large", "a");
        reports.insert(large_name.clone(), large);
        reports.insert(ServiceName::new("small", "z"), failing());
        let told: Told = serde_json::from_str(&encode(row(true), &reports)).unwrap();
        let of = |namespace: &str| {
            let all = told.services.iter();
            all.filter(|it| &*it.service.namespace == namespace).count()
        };
        assert_eq!(of("small"), 1);
        assert!(of("many") > 100, "{}", of("many"));
        assert_eq!(told.services.len() + told.gateway.omitted, 5_002);
        // With enough room for all, all is said.
        reports.retain(|name, _| &*name.namespace != "many");
        let told: Told = serde_json::from_str(&encode(row(true), &reports)).unwrap();
        assert!(told.services.iter().any(|it| it.service == large_name));
        assert_eq!((told.services.len(), told.gateway.omitted), (2, 0));
    }

    #[test]
    fn of_one_service_a_few_things_are_said_and_the_rest_is_counted() {
        let mut much = failing();
        let first = much.listeners[0].clone();
        let listener = |port, kind| ListenerReport {
            port,
            kind,
            ..first.clone()
        };
        let vips = (0..1_000).map(|n| listener(n, ClaimKind::Vip));
        let node_ports = (0..100).map(|n| listener(n, ClaimKind::NodePort));
        much.listeners = node_ports.chain(vips).collect();
        for n in 0..1_000_u16 {
            much.refused_endpoints.push(RefusedEndpoint {
                endpoint: EndpointAddr(([127, 0, 0, 1], n).into()),
                why: "is a loopback address".to_owned(),
            });
            much.notices.push(Notice {
                reason: "PortNotInEndpointSlices".into(),
                message: format!("port {n} has no endpoints"),
            });
        }
        let reports = BTreeMap::from([(shop("a"), much), (shop("b"), failing())]);
        let text = encode(row(true), &reports);
        assert!(text.len() < 16 << 10, "{} bytes", text.len());
        let told: Told = serde_json::from_str(&text).unwrap();
        assert_eq!((told.services.len(), told.gateway.omitted), (2, 0));
        let much = &told.services[0];
        let ports = much.listeners.iter().filter(|it| it.kind == ClaimKind::Vip);
        assert_eq!(ports.count(), PORTS);
        let named = |it: &&ListenerReport| matches!(&it.state, ListenerState::Failed { message, .. } if !message.is_empty());
        assert_eq!(much.listeners.iter().filter(named).count(), NAMED);
        assert_eq!(
            (much.refused_endpoints.len(), much.notices.len()),
            (NAMED, NAMED)
        );
        let rest = Unlisted {
            failing_listeners: 1_100 - NAMED - PORTS,
            refused_endpoints: 1_000 - NAMED,
            notices: 1_000 - NAMED,
        };
        assert_eq!(much.unlisted, rest);
        assert_eq!(told.services[1].unlisted, Unlisted::default());
        // And so it comes to the controller.
        let at = clocks(Instant::now(), 0);
        let changes = Gateways::default().hear(&"x".into(), &text, Some(RENEWED), at);
        let Some(Change::Report(_, _, Some(report))) = changes.unwrap().into_iter().next() else {
            panic!("nothing is told");
        };
        assert_eq!(
            (report.listeners.len(), report.unlisted),
            (NAMED + PORTS, rest)
        );
    }

    #[test]
    fn what_is_no_report_is_an_error_and_no_panic() {
        let mut gateways = Gateways::default();
        for text in ["", "{}", "null", "[1]", "{\"gateway\": 7}"] {
            assert!(
                gateways
                    .hear(&"x".into(), text, None, clocks(Instant::now(), 0))
                    .is_err()
            );
        }
    }
}
