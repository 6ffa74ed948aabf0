#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod schedule;

use std::time::Duration;

use fairway_config::health_check::{CheckKind, EndpointCheck};
use fairway_config::port_options::ProxyVersion;

use super::*;
use crate::testing::{endpoint, endpoints, port};

fn check(path: &str) -> Arc<EndpointCheck> {
    Arc::new(EndpointCheck::new(CheckKind::Http {
        is_tls: false,
        path: path.into(),
        host: None,
        status: Default::default(),
    }))
}

fn probe(addr: &str, path: &str) -> (EndpointAddr, CheckProbe) {
    let addr = endpoint(addr);
    let probe = CheckProbe {
        addr,
        check: check(path),
        header: None,
        is_forwarded: false,
    };
    (addr, probe)
}

fn failed() -> CheckOutcome {
    CheckOutcome::Failed("HTTP 503".into())
}

/// Makes all probes that are due until then, each with this outcome.
fn run(
    checks: &mut EndpointChecks,
    until: u64,
    outcome: impl Fn(&CheckProbe) -> CheckOutcome,
) -> (usize, Vec<CheckNews>) {
    let (mut made, mut news) = (0, Vec::new());
    let mut now = Tick(0);
    while let Some(due) = checks.next_due(now)
        && due.0 <= until
    {
        now = now.max(due);
        for (id, probe) in checks.take_due(now) {
            made += 1;
            news.extend(checks.finished(id, &outcome(&probe), now));
        }
    }
    (made, news)
}

#[test]
fn services_that_ask_the_same_share_a_probe() {
    let mut checks = EndpointChecks::new(1);
    let (web, shop): (Arc<str>, Arc<str>) = ("web".into(), "shop".into());
    for port in 0..50 {
        let namespace = if port % 2 == 0 { &web } else { &shop };
        let wanted = BTreeMap::from([probe("10.0.0.1:80", "/"), probe("10.0.0.2:80", "/")]);
        assert_eq!(checks.set_port(port, namespace, wanted, Tick(0)), []);
    }
    assert_eq!(checks.len(), 2);
    let bad = endpoint("10.0.0.2:80");
    let (made, news) = run(&mut checks, 20_000, |probe| {
        if probe.addr == bad {
            failed()
        } else {
            CheckOutcome::Passed
        }
    });
    // Two endpoints, each ten times in 20 s, whatever their number of users; a little earlier each time.
    assert!((18..=24).contains(&made), "{made}");
    // Each port is told of each endpoint once.
    assert_eq!(news.len(), 100);
    for it in &news {
        let is_failing = matches!(it.verdict, Some(CheckVerdict::Failing { .. }));
        assert_eq!(is_failing, it.endpoint == bad, "{it:?}");
    }

    // Another path is another probe.
    let wanted = BTreeMap::from([probe("10.0.0.1:80", "/other")]);
    let news = checks.set_port(100, &web, wanted, Tick(20_000));
    assert_eq!((news, checks.len()), (Vec::new(), 3));
    // One that comes later is told at once what is known.
    let wanted = BTreeMap::from([probe("10.0.0.2:80", "/")]);
    let news = checks.set_port(101, &web, wanted, Tick(20_000));
    assert!(
        matches!(
            &*news,
            [CheckNews {
                port: 101,
                verdict: Some(CheckVerdict::Failing { .. }),
                ..
            }]
        ),
        "{news:?}"
    );
    for port in 0..102 {
        checks.set_port(port, &web, BTreeMap::new(), Tick(20_000));
    }
    assert!(checks.is_empty());
    assert_eq!(checks.next_due(Tick(20_000)), None);
}

#[test]
fn what_is_no_longer_checked_has_no_verdict() {
    let mut checks = EndpointChecks::new(1);
    let web: Arc<str> = "web".into();
    let (one, two) = (probe("10.0.0.1:80", "/"), probe("10.0.0.2:80", "/"));
    let both = BTreeMap::from([one.clone(), two.clone()]);
    checks.set_port(7, &web, both.clone(), Tick(0));
    let (_, news) = run(&mut checks, 3000, |_| failed());
    assert_eq!(news.len(), 2);
    // The same once more is no news, and what is under way goes on.
    assert_eq!(checks.set_port(7, &web, both, Tick(3000)), []);
    let none = |endpoint| CheckNews {
        port: 7,
        endpoint,
        verdict: None,
    };
    let left = BTreeMap::from([one.clone()]);
    assert_eq!(checks.set_port(7, &web, left, Tick(3000)), [none(two.0)]);
    // Asked for something else, what it said of the former is over.
    let (addr, other) = probe("10.0.0.1:80", "/other");
    let other = BTreeMap::from([(addr, other)]);
    assert_eq!(checks.set_port(7, &web, other, Tick(3000)), [none(addr)]);
    assert_eq!(checks.len(), 1);
}

#[test]
fn what_ends_after_its_port_is_gone_concerns_nobody() {
    let mut checks = EndpointChecks::new(1);
    let web: Arc<str> = "web".into();
    checks.set_port(
        7,
        &web,
        BTreeMap::from([probe("10.0.0.1:80", "/")]),
        Tick(0),
    );
    let taken = checks.take_due(Tick(2000));
    let [(id, _)] = &*taken else {
        panic!("{taken:?}")
    };
    assert_eq!(checks.user(*id), Some(7));
    checks.set_port(7, &web, BTreeMap::new(), Tick(2000));
    assert_eq!(checks.user(*id), None);
    assert_eq!(checks.finished(*id, &failed(), Tick(2500)), []);
    assert!(checks.is_empty());
}

#[test]
fn a_port_has_a_probe_for_each_eligible_endpoint() {
    let mut route = port(endpoints(&[1, 1, 1]), None);
    assert!(targets::targets(&route).is_empty());
    let mut check = (*check("/healthz")).clone();
    route.options.health_check = Some(Arc::new(check.clone()));
    let found = targets::targets(&route);
    assert_eq!(found.len(), 3);
    for (endpoint, probe) in &found {
        assert_eq!((probe.addr, probe.is_forwarded), (*endpoint, false));
    }
    // Endpoints that expect a PROXY protocol header get one, but not at another port.
    route.options.proxy_protocol = Some(ProxyVersion::V2);
    let found = targets::targets(&route);
    assert!(found.values().all(|it| it.header == Some(ProxyVersion::V2)));
    // A port of its own, and one that must not be asked.
    check.port = Some(9000);
    route.options.health_check = Some(Arc::new(check));
    route.never_checked = vec![endpoint("10.0.0.1:8080")];
    route.loop_guard = vec!["10.0.0.9".parse().unwrap()];
    let found = targets::targets(&route);
    let asked = found.values().map(|probe| probe.addr.to_string());
    assert_eq!(
        asked.collect::<Vec<_>>(),
        ["10.0.0.0:9000", "10.0.0.2:9000"]
    );
    assert!(
        found
            .values()
            .all(|it| it.is_forwarded && it.header.is_none())
    );
}

#[test]
fn a_probe_is_evidence_for_the_endpoint_whose_own_port_it_asks() {
    let kind = |send: &str, expect: &str| CheckKind::Tcp {
        send: send.as_bytes().into(),
        expect: expect.as_bytes().into(),
    };
    let grpc = CheckKind::Grpc { service: "".into() };
    for (kind, asked, shows, is_own) in [
        (kind("", ""), None, HealthSuccess::Connected, true),
        (kind("PING", ""), None, HealthSuccess::Connected, true),
        (kind("PING", "PONG"), None, HealthSuccess::Answer, true),
        (check("/").kind.clone(), None, HealthSuccess::Answer, true),
        (grpc, Some(9000), HealthSuccess::Answer, false),
    ] {
        let mut checks = EndpointChecks::new(1);
        let mut route = port(endpoints(&[1]), None);
        let mut check = EndpointCheck::new(kind.clone());
        check.port = asked;
        route.options.health_check = Some(Arc::new(check));
        checks.set_port(7, &"web".into(), targets::targets(&route), Tick(0));
        let due = checks.next_due(Tick(0)).unwrap();
        let (id, _) = checks.take_due(due).remove(0);
        let evidence = checks.evidence(id).unwrap();
        assert_eq!((evidence.shows, evidence.rise), (shows, 2), "{kind:?}");
        let own = vec![(7, endpoint("10.0.0.0:8080"))];
        assert_eq!(
            evidence.users,
            if is_own { own } else { vec![] },
            "{kind:?}"
        );
    }
}

#[test]
fn an_endpoint_that_answers_no_more_is_out_within_three_intervals() {
    // It goes silent at any moment between two probes; a probe ends with its time-out then.
    for seed in 0..200 {
        let mut checks = EndpointChecks::new(seed);
        let web: Arc<str> = "web".into();
        let (addr, probe) = probe("10.0.0.1:80", "/");
        let timeout = probe.check.timeout.as_millis() as u64;
        let interval = probe.check.interval;
        checks.set_port(7, &web, BTreeMap::from([(addr, probe)]), Tick(0));
        let silent = 10_000 + seed * 10;
        let mut now = Tick(0);
        let out = loop {
            now = checks.next_due(now).unwrap();
            let mut news = Vec::new();
            for (id, _) in checks.take_due(now) {
                if now.0 < silent {
                    checks.finished(id, &CheckOutcome::Passed, now);
                } else {
                    now = Tick(now.0 + timeout);
                    news = checks.finished(id, &failed(), now);
                }
            }
            if !news.is_empty() {
                break now;
            }
        };
        let took = Duration::from_millis(out.0 - silent);
        assert!(took <= 3 * interval, "{took:?} with seed {seed}");
    }
}
