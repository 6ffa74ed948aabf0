#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use fairway_config::net::{EndpointAddr, Protocol};
use fairway_config::service::AppProtocol;
use fairway_gateway_core::dial_failure::DialFailure;
use fairway_gateway_core::route::{Endpoint, EndpointSet, Excluded, Exclusion, RoutePort, Tick};

use super::exposition::openmetrics;
use super::*;
use crate::counters::{DropReason, Rejection};

/// Checks a text against the format (version 0.0.4) and returns its samples.
pub(crate) fn parse(text: &str) -> BTreeMap<String, String> {
    let mut samples = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut family = (String::new(), String::new());
    let mut help = String::new();
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "no line end at the end"
    );
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split(' ').next().unwrap().to_owned();
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(seen.insert(name.to_owned()), "{name} begins twice");
            assert!(
                help == name || !name.starts_with("fairway_"),
                "{name} has no HELP"
            );
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            if kind == "counter" {
                assert!(name.ends_with("_total"), "{name} is a counter");
            }
            family = (name.to_owned(), kind.to_owned());
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').expect(line)),
            None => (series, ""),
        };
        let part = name
            .strip_prefix(family.0.as_str())
            .unwrap_or_else(|| panic!("{line}"));
        match family.1.as_str() {
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&part), "{line}"),
            _ => assert_eq!(part, "", "{line}"),
        }
        check_labels(labels);
        let before = samples.insert(series.to_owned(), value.to_owned());
        assert!(before.is_none(), "{series} is there twice");
    }
    samples
}

fn check_labels(mut labels: &str) {
    while !labels.is_empty() {
        let (name, rest) = labels.split_once("=\"").expect(labels);
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        assert!(!name.is_empty() && name.chars().all(legal), "{name}");
        let mut escaped = false;
        let end = rest
            .find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })
            .expect("a label value ends");
        labels = rest[end + 1..].trim_start_matches(',');
    }
}

fn key(protocol: Protocol, port: u16) -> PortKey {
    PortKey { protocol, port }
}

fn snapshot(service: &str, key: PortKey, endpoints: EndpointSet) -> (MetricsSnapshot, Arc<Port>) {
    let name = ServiceName::new("web", service);
    let route = RoutePort {
        app: AppProtocol::Http,
        ..RoutePort::new(name.clone(), key, endpoints)
    };
    let port = Arc::new(Port::new(Arc::new(route), 1));
    let snapshot = MetricsSnapshot {
        version: "1.2.3",
        revision: "0123456789ab",
        ports: BTreeMap::from([((name, key), port.clone())]),
        ..MetricsSnapshot::default()
    };
    (snapshot, port)
}

/// Checks a text against OpenMetrics 1.0 and returns its samples.
fn parse_openmetrics(text: &str) -> BTreeMap<String, String> {
    let mut samples = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let (mut name, mut kind) = (String::new(), String::new());
    let text = text.strip_suffix("# EOF\n").expect("the end is said");
    for line in text.lines() {
        assert!(!line.is_empty() && line != "# EOF", "{line}");
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            let [word, family, rest] = words[..] else {
                panic!("{line}");
            };
            if family != name {
                assert!(seen.insert(family.to_owned()), "{family} is in two pieces");
                (name, kind) = (family.to_owned(), String::new());
            }
            match word {
                "HELP" => {}
                "TYPE" => kind = rest.to_owned(),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let sample = series.split('{').next().unwrap();
        let part = sample
            .strip_prefix(&name)
            .unwrap_or_else(|| panic!("{line}"));
        match kind.as_str() {
            "counter" => assert_eq!(part, "_total", "{line}"),
            "gauge" => assert_eq!(part, "", "{line}"),
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&part), "{line}"),
            other => panic!("{name} is of kind {other}"),
        }
        if part == "_bucket" {
            let bound = series.split("le=\"").nth(1).unwrap();
            let bound = bound.split('"').next().unwrap();
            assert!(bound == "+Inf" || bound.contains('.'), "{line}");
        }
        let before = samples.insert(series.to_owned(), value.to_owned());
        assert!(before.is_none(), "{series} is there twice");
    }
    samples
}

/// The series of ports.
fn of_ports(snapshot: &MetricsSnapshot) -> Vec<String> {
    let samples = parse(&render(snapshot)).into_keys();
    samples
        .filter(|series| series.contains("service="))
        .collect()
}

#[test]
fn an_idle_port_has_the_series_that_alerts_rest_on_and_at_most_eight() {
    for (protocol, app, most) in [
        (Protocol::Tcp, AppProtocol::Opaque, 5),
        (Protocol::Udp, AppProtocol::Opaque, 5),
        (Protocol::Tcp, AppProtocol::Http, 7),
    ] {
        for forwards_to_nodes in [false, true] {
            let (snapshot, port) = snapshot("shop", key(protocol, 80), EndpointSet::default());
            let mut route = RoutePort::clone(&port.route());
            route.app = app;
            if forwards_to_nodes {
                route.loop_guard = vec![IpAddr::from([10, 0, 0, 1])];
            }
            port.set_route(Arc::new(route));
            let series = of_ports(&snapshot);
            let most = most + usize::from(forwards_to_nodes);
            assert_eq!(series.len(), most, "{protocol} {app:?}: {series:#?}");
            assert!(most <= 8, "the budget of ARCHITECTURE.md");
            for wanted in [
                "fairway_endpoints{",
                "fairway_endpoints_unreachable{",
                "result=\"failed\"",
                "reason=\"no_endpoint\"",
            ] {
                let there = series.iter().any(|series| series.contains(wanted));
                assert!(there, "{wanted} is missing in {series:#?}");
            }
        }
    }
}

#[test]
fn traffic_brings_seventeen_series_and_one_for_each_reason_that_there_was() {
    let (snapshot, port) = snapshot("shop", key(Protocol::Tcp, 80), EndpointSet::default());
    let mut route = RoutePort::clone(&port.route());
    route.app = AppProtocol::Opaque;
    port.set_route(Arc::new(route));
    port.counters.touch();
    assert_eq!(of_ports(&snapshot).len(), 17);
    port.counters.reject(Rejection::NoEndpoint);
    assert_eq!(of_ports(&snapshot).len(), 17);
    port.counters.reject(Rejection::SourceRange);
    port.counters.connect_error(DialFailure::Timeout);
    assert_eq!(of_ports(&snapshot).len(), 19);
}

#[test]
fn two_thousand_services_are_a_short_text() {
    let mut many = MetricsSnapshot::default();
    for n in 0..2000 {
        let (one, port) = snapshot(
            &format!("shop-{n}"),
            key(Protocol::Tcp, 80),
            EndpointSet::default(),
        );
        if n % 2 == 0 {
            port.counters.touch();
        }
        many.ports.extend(one.ports);
    }
    let began = std::time::Instant::now();
    let text = render(&many);
    let took = began.elapsed();
    let series = parse(&text).len();
    println!("{series} series, {} bytes, {took:?}", text.len());
    assert!(series <= 2000 * 14, "{series}");
    assert_eq!(parse_openmetrics(&openmetrics(&text)).len(), series);
}

#[test]
fn endpoints_that_are_not_reached_are_counted() {
    let addr = EndpointAddr(([10, 0, 0, 1], 8080).into());
    let endpoints = EndpointSet::new(vec![Endpoint::new(addr)], Vec::new());
    let (snapshot, port) = snapshot("shop", key(Protocol::Tcp, 80), endpoints);
    let unreachable = |snapshot: &MetricsSnapshot| {
        let samples = parse(&render(snapshot));
        let mut samples = samples.into_iter();
        let found = samples.find(|(series, _)| series.starts_with("fairway_endpoints_unreachable"));
        found.unwrap().1
    };
    assert_eq!(unreachable(&snapshot), "0");
    for now in 0..3 {
        let state = port.endpoint(addr);
        port.dial_failed(&state, DialFailure::Refused, Duration::ZERO, Tick(now));
    }
    port.review(Tick(3));
    assert_eq!(unreachable(&snapshot), "1");
}

#[test]
fn every_count_is_under_its_name_and_labels() {
    let addr = |last| EndpointAddr(([10, 0, 0, last], 8080).into());
    let endpoints = EndpointSet::new(
        vec![Endpoint::new(addr(1))],
        vec![Excluded {
            addr: addr(2),
            node: None,
            why: Exclusion::NotReady,
        }],
    );
    let (mut snapshot, port) = snapshot("shop", key(Protocol::Tcp, 80), endpoints);
    let counters = &port.counters;
    counters.touch();
    counters.completed.add(7);
    counters.active.increment();
    counters.received.add(5000);
    counters.connect.observe(Duration::from_millis(3));
    counters.connect_error(DialFailure::Refused);
    counters.reject(Rejection::SourceRange);
    counters.response(Some(204));
    snapshot.pools = BTreeMap::from([(
        "edge".into(),
        BTreeMap::from([(
            IpFamily::IPv4,
            PoolCount {
                total: 25,
                used: 2,
                available: 23,
            },
        )]),
    )]);
    snapshot.services = BTreeMap::from([("ready", 4)]);
    snapshot.node_ports = BTreeMap::from([("used", 5)]);
    snapshot.vips_owned = BTreeMap::from([(IpAddr::from([203, 0, 113, 1]), true)]);
    snapshot.vip_transitions = BTreeMap::from([(IpAddr::from([203, 0, 113, 1]), 3)]);
    snapshot.addresses = BTreeMap::from([("unowned", 2)]);

    let samples = parse(&render(&snapshot));
    let port = r#"namespace="web",service="shop",port="80",protocol="TCP""#;
    for (series, value) in [
        (
            r#"fairway_build_info{version="1.2.3",revision="0123456789ab"}"#.to_owned(),
            "1",
        ),
        (
            format!("fairway_connections_total{{{port},result=\"completed\"}}"),
            "7",
        ),
        (format!("fairway_connections_active{{{port}}}"), "1"),
        (format!("fairway_receive_bytes_total{{{port}}}"), "5000"),
        (
            format!("fairway_connect_duration_seconds_bucket{{{port},le=\"0.001\"}}"),
            "0",
        ),
        (
            format!("fairway_connect_duration_seconds_bucket{{{port},le=\"0.005\"}}"),
            "1",
        ),
        (
            format!("fairway_connect_duration_seconds_bucket{{{port},le=\"+Inf\"}}"),
            "1",
        ),
        (
            format!("fairway_connect_duration_seconds_sum{{{port}}}"),
            "0.003",
        ),
        (
            format!("fairway_connect_duration_seconds_count{{{port}}}"),
            "1",
        ),
        (
            format!("fairway_connect_errors_total{{{port},reason=\"refused\"}}"),
            "1",
        ),
        (
            format!("fairway_rejected_total{{{port},reason=\"source_range\"}}"),
            "1",
        ),
        (
            format!("fairway_http_requests_total{{{port},code=\"2xx\"}}"),
            "1",
        ),
        (
            format!("fairway_endpoints{{{port},state=\"eligible\"}}"),
            "1",
        ),
        (
            format!("fairway_endpoints{{{port},state=\"not_ready\"}}"),
            "1",
        ),
        (
            r#"fairway_pool_addresses{pool="edge",ip_family="IPv4",state="available"}"#.to_owned(),
            "23",
        ),
        (r#"fairway_services{state="ready"}"#.to_owned(), "4"),
        (r#"fairway_node_ports{state="used"}"#.to_owned(), "5"),
        (
            r#"fairway_vip_owned{address="203.0.113.1"}"#.to_owned(),
            "1",
        ),
        (
            r#"fairway_vip_transitions_total{address="203.0.113.1"}"#.to_owned(),
            "3",
        ),
        (r#"fairway_addresses{state="unowned"}"#.to_owned(), "2"),
    ] {
        assert_eq!(
            samples.get(&series).map(String::as_str),
            Some(value),
            "{series}"
        );
    }
    assert!(
        !samples
            .keys()
            .any(|series| series.contains("datagrams") || series.contains("flows"))
    );
}

#[test]
fn a_udp_port_has_flows_and_datagrams_instead_of_connects() {
    let (snapshot, port) = snapshot("dns", key(Protocol::Udp, 53), EndpointSet::default());
    port.counters.touch();
    port.counters.datagrams_transmitted.add(9);
    port.counters.connect_error(DialFailure::Refused);
    port.counters.dropped(DropReason::QueueFull, 3);
    let samples = parse(&render(&snapshot));
    let labels = r#"namespace="web",service="dns",port="53",protocol="UDP""#;
    let series = format!("fairway_datagrams_total{{{labels},direction=\"transmit\"}}");
    assert_eq!(samples.get(&series).map(String::as_str), Some("9"));
    assert!(samples.contains_key(&format!("fairway_flows_active{{{labels}}}")));
    for (name, reason, value) in [
        ("connect_errors", "refused", "1"),
        ("datagrams_dropped", "queue_full", "3"),
    ] {
        let series = format!("fairway_{name}_total{{{labels},reason=\"{reason}\"}}");
        assert_eq!(
            samples.get(&series).map(String::as_str),
            Some(value),
            "{series}"
        );
    }
    assert!(
        !samples
            .keys()
            .any(|series| series.contains("connect_duration"))
    );
}

#[test]
fn label_values_are_escaped() {
    let labels = Labels::default()
        .with("a", "quote \" slash \\ line\nend")
        .with("b", 1);
    let mut out = Exposition::default();
    out.family("x", MetricKind::Gauge, "X.").sample(&labels, 1);
    let text = out.into_text();
    assert_eq!(
        text.lines().last(),
        Some("x{a=\"quote \\\" slash \\\\ line\\nend\",b=\"1\"} 1")
    );
    assert_eq!(parse(&text).len(), 1);
}

#[test]
fn recorded_and_process_metrics_follow_in_the_same_format() {
    let recorder = Recorder::install().unwrap();
    metrics::histogram!(SYNC_DURATION).record(0.002);
    metrics::counter!(STORE_ERRORS, "operation" => "write").increment(2);
    recorder.upkeep();
    let (snapshot, port) = snapshot("shop", key(Protocol::Tcp, 80), EndpointSet::default());
    port.counters.touch();
    let text = render(&snapshot) + &recorder.render();
    let samples = parse(&text);
    // OpenMetrics is another writing of the same.
    let converted = parse_openmetrics(&openmetrics(&text));
    assert_eq!(converted.len(), samples.len());
    let value = |series: &str| samples.get(series).map(String::as_str);
    assert_eq!(
        value(r#"fairway_sync_duration_seconds_bucket{le="0.005"}"#),
        Some("1")
    );
    assert_eq!(
        value(r#"fairway_store_errors_total{operation="write"}"#),
        Some("2")
    );
    // What has not happened yet is there, too: a rate needs a zero to rise from.
    for series in [
        EVENTS_DROPPED,
        crate::counters::DIALS_EXHAUSTED,
        r#"fairway_store_errors_total{operation="watch"}"#,
    ] {
        assert_eq!(value(series), Some("0"), "{series}");
    }
    for series in [
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(
            value(series).is_some(),
            "{series} is missing in {samples:#?}"
        );
    }
}
