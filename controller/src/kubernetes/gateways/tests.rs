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
fn a_gateway_that_others_hear_is_not_abandoned_however_long_it_is_cut_off() {
    let (now, name, other): (_, ClusterName, ClusterName) =
        (Instant::now(), "edge-1".into(), "edge-2".into());
    let mut gateways = GatewayLeases::default();
    gateways.hear(&name, said(&[]), Some(RENEWED), clocks(now, 0));
    let silent = now + DURATION;
    gateways.expire(silent, false);
    let day = 24 * 60 * 60;
    // The other one has two more in its fleet.
    let mut hear = |heard: usize, silent_ones: &[&str], later: i64| {
        let mut row = row(true);
        (row.members, row.heard) = (2, heard);
        row.silent = silent_ones.iter().map(|it| (*it).into()).collect();
        let report = GatewaySelfReport::new(row, 7);
        let text = encode(report, &BTreeMap::new(), &BTreeMap::new());
        let wall = Timestamp(RENEWED.0 + later);
        gateways.hear(&other, text, Some(wall), (silent, wall));
        gateways.abandoned((silent, wall))
    };
    assert!(hear(2, &[], day).is_empty());
    assert!(hear(1, &["edge-3"], day + 1).is_empty());
    // Now it is silent there, too.
    assert_eq!(hear(1, &["edge-1"], day + 2), [Arc::clone(&name)]);
    assert_eq!(hear(0, &["edge-1", "edge-3"], day + 3), [name]);
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

#[test]
fn the_sessions_of_a_gateway_are_known_while_it_is_heard() {
    let now = Instant::now();
    let mut report = GatewaySelfReport::new(row(true), 7);
    let session = |name: &str| BgpPeerRow {
        name: name.to_owned(),
        // What it says of others is not believed.
        gateway: "edge-2".to_owned(),
        state: "Established".to_owned(),
        ..BgpPeerRow::default()
    };
    report.set_sessions(vec![session("tor-2"), session("tor-1")]);
    let said =
        |report: &GatewaySelfReport| encode(report.clone(), &BTreeMap::new(), &BTreeMap::new());
    let shown = |changes: Vec<Change>| {
        let mut sessions = Vec::new();
        for change in changes {
            if let Change::Gateway(_, Some(status)) = change {
                let all = status.sessions.iter();
                sessions.extend(all.map(|it| {
                    let why = it.why.split(" since").next().unwrap_or_default();
                    format!("{} {} {} {why}", it.name, it.gateway, it.state)
                }));
            }
        }
        sessions
    };
    let mut gateways = GatewayLeases::default();
    let mut hear = |report: &GatewaySelfReport, later: i64, at: Instant| {
        let renewed = Some(Timestamp(RENEWED.0 + later));
        let clocks = clocks(at, later);
        let changes = gateways.hear(&"edge-1".into(), said(report), renewed, clocks);
        let expired = gateways.expire(at + DURATION, false);
        (shown(changes), shown(expired))
    };
    let (heard, expired) = hear(&report, 0, now);
    assert_eq!(
        heard,
        ["tor-1 edge-1 Established ", "tor-2 edge-1 Established "]
    );
    let unknown = |name: &str| format!("{name} edge-1 Unknown it has not been heard of");
    assert_eq!(expired, [unknown("tor-1"), unknown("tor-2")]);
    // One that has said that it stops has none, whether it is heard or not.
    report.stopping = true;
    let (heard, expired) = hear(&report, 10, now + DURATION);
    assert!(
        heard.is_empty() && expired.is_empty(),
        "{heard:?} {expired:?}"
    );
}
