//! Endpoints that are checked (`fairway.dev/health-check`): when one is left alone, when it gets traffic again, and what
//! people, scrapers and the log are told. The endpoints are real servers: nginx, etcd for gRPC.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::lab::{Host, Process};
use fairway_integration::manifest::{all, edge_pool, load_balancer, slice, slice_of};
use fairway_integration::servers::{Nginx, mute, named, named_http, named_udp};
use fairway_integration::site::{Site, at, server, vip};
use fairway_integration::{clients, programs, tests, wait};
use rustix::process::Signal;

tests![
    a_frozen_endpoint_is_out_within_three_intervals,
    a_frozen_endpoint_of_grpc_is_out_within_three_intervals,
    an_endpoint_that_is_killed_or_refuses_is_out_and_comes_back,
    one_that_traffic_has_failed_at_is_back_when_its_checks_pass,
    one_that_answers_with_an_error_or_too_late_is_out,
    one_that_flaps_stays_in_and_one_that_fails_more_often_does_not,
    where_all_fail_all_get_traffic_and_that_is_said,
    udp_flows_leave_an_endpoint_that_fails_and_stay_where_all_do,
    services_that_ask_the_same_share_a_probe,
    beyond_the_budget_intervals_stretch_and_it_is_said,
    what_cant_be_read_is_no_check_and_is_said,
];

/// An interval that leaves the machine time.
const INTERVAL: Duration = Duration::from_secs(1);

/// A Service at the first address whose endpoints are checked so.
fn checked(name: &str, port: u16, target: u16, check: &str) -> String {
    load_balancer(name, vip(1), port, target).replace(
        "annotations: {",
        &format!("annotations: {{fairway.dev/health-check: '{check}', "),
    )
}

/// The state of an endpoint of a Service.
fn state(fairway: &Fairway, service: &str, endpoint: &str) -> Result<String> {
    let rows = fairway.list("endpoints")?;
    let mut rows = rows.iter();
    let row = rows.find(|row| text(row, "service") == service && text(row, "endpoint") == endpoint);
    Ok(text(row.context("it is not listed")?, "state").to_owned())
}

/// Waits until an endpoint is in a state, and says how long that took.
fn until_state(fairway: &Fairway, endpoint: &str, wanted: &str) -> Result<Duration> {
    let began = Instant::now();
    let what = format!("{endpoint} is {wanted}");
    wait::until(&what, || {
        state(fairway, "shop", endpoint).is_ok_and(|state| state == wanted)
    })?;
    Ok(began.elapsed())
}

/// Waits until so many probes have passed since now: what was checked before that is known.
fn until_passed(fairway: &Fairway, more: f64) -> Result<()> {
    let passed = || fairway.metric("fairway_checks_total", &["result=\"passed\""]);
    let before = passed()?;
    wait::until_some("probes pass", || {
        let now = passed()?;
        ensure!(now >= before + more, "{now}");
        Ok(())
    })
}

/// Three intervals, and what a busy machine adds.
fn assert_within_three_intervals(took: Duration, what: &str) -> Result<()> {
    println!("{what}: out after {took:?}");
    ensure!(
        took < 3 * INTERVAL + Duration::from_millis(500),
        "{what}: {took:?}"
    );
    Ok(())
}

fn a_frozen_endpoint_is_out_within_three_intervals() -> Result<()> {
    for check in [
        "http:/well;interval=1s",
        "tcp;send=GET /well HTTP/1.0\\r\\n\\r\\n;expect=HTTP/1.1 200;interval=1s",
    ] {
        let site = Site::new()?;
        let servers = [
            Nginx::start(&site.farm, at(server(0), 8080))?,
            Nginx::start(&site.farm, at(server(1), 8080))?,
        ];
        for server in &servers {
            fs::write(server.file("well"), "well")?;
        }
        let manifests = all(&[
            &edge_pool(),
            &checked("shop", 80, 8080, check),
            &slice("shop", 8080, &[server(0), server(1)]),
        ]);
        let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
        until_passed(&fairway, 4.0)?;
        servers[0].signal(Signal::STOP)?;
        let took = until_state(&fairway, "192.0.2.11:8080", "failing-checks")?;
        assert_within_three_intervals(took, check)?;
        // It accepts still, and gets nothing.
        for _ in 0..20 {
            let answer = site
                .client
                .run(|| clients::http_get(at(vip(1), 80), "/well"))?;
            ensure!(answer.status == 200, "{answer:?}");
        }
        fairway.logs(&[
            "WARN",
            "endpoint fails its check",
            "192.0.2.11:8080",
            "no answer within",
        ])?;
        servers[0].signal(Signal::CONT)?;
        until_state(&fairway, "192.0.2.11:8080", "eligible")?;
        fairway.logs(&["endpoint passes its check again", "192.0.2.11:8080"])?;
        fairway.stop()?;
    }
    Ok(())
}

/// etcd, which serves grpc.health.v1.
fn etcd(
    host: &Host,
    address: std::net::IpAddr,
    peers: u16,
) -> Result<(Process, tempfile::TempDir)> {
    let folder = tempfile::TempDir::with_prefix("fairway-etcd-")?;
    let mut command = Command::new(programs::tool("etcd")?);
    let (clients, peers) = (
        format!("http://{address}:2379"),
        format!("http://127.0.0.1:{peers}"),
    );
    command.args([
        "--name=lab".to_owned(),
        format!("--data-dir={}", folder.path().display()),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=lab={peers}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]);
    Ok((host.spawn(command)?, folder))
}

fn a_frozen_endpoint_of_grpc_is_out_within_three_intervals() -> Result<()> {
    let site = Site::new()?;
    let (first, _first) = etcd(&site.farm, server(0), 2380)?;
    let _second = etcd(&site.farm, server(1), 2381)?;
    let manifests = all(&[
        &edge_pool(),
        &checked("shop", 80, 2379, "grpc;interval=1s"),
        &slice("shop", 2379, &[server(0), server(1)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    until_state(&fairway, "192.0.2.11:2379", "eligible")?;
    until_state(&fairway, "192.0.2.12:2379", "eligible")?;
    until_passed(&fairway, 8.0)?;
    until_state(&fairway, "192.0.2.11:2379", "eligible")?;
    until_state(&fairway, "192.0.2.12:2379", "eligible")?;
    first.signal(Signal::STOP)?;
    let took = until_state(&fairway, "192.0.2.11:2379", "failing-checks")?;
    assert_within_three_intervals(took, "grpc")?;
    first.signal(Signal::CONT)?;
    until_state(&fairway, "192.0.2.11:2379", "eligible")?;

    // A service that the server does not know is not well.
    let other = checked("shop", 80, 2379, "grpc:shop.v1.Cart;interval=1s");
    let pools = edge_pool();
    let slice = slice("shop", 2379, &[server(0), server(1)]);
    fairway.write("all.yaml", &all(&[&pools, &other, &slice]))?;
    fairway.explains("default/shop", &["gRPC status 5"])?;
    fairway.stop()
}

fn an_endpoint_that_is_killed_or_refuses_is_out_and_comes_back() -> Result<()> {
    let site = Site::new()?;
    let _stays = named(&site.farm, &[("stays", at(server(1), 8080))])?;
    let goes = named(&site.farm, &[("goes", at(server(0), 8080))])?;
    let manifests = all(&[
        &edge_pool(),
        &checked("shop", 80, 8080, "tcp;interval=1s"),
        &slice("shop", 8080, &[server(0), server(1)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    until_passed(&fairway, 4.0)?;
    drop(goes);
    let took = until_state(&fairway, "192.0.2.11:8080", "failing-checks")?;
    assert_within_three_intervals(took, "refuses")?;
    let shop = "service=\"shop\"";
    ensure!(fairway.metric("fairway_endpoints_failing_checks", &[shop])? == 1.0);
    fairway.explains(
        "default/shop",
        &[
            "192.0.2.11:8080",
            "checked by tcp, every 1s",
            "fails its checks since 2",
            "connection refused",
        ],
    )?;
    let page = fairway.get("/")?.body;
    ensure!(page.contains("fails its checks since"), "{page}");
    let table = fairway.cli_output(&["get", "endpoints"])?;
    ensure!(table.contains("failing-checks"), "{table}");
    // None of these dials it.
    let errors = || fairway.metric("fairway_connect_errors_total", &[shop]);
    let before = errors()?;
    for _ in 0..20 {
        let who = site.client.run(|| clients::who(at(vip(1), 80)))?;
        ensure!(who == "stays", "{who}");
    }
    ensure!(errors()? == before, "{before} and {}", errors()?);

    let _back = named(&site.farm, &[("back", at(server(0), 8080))])?;
    let took = until_state(&fairway, "192.0.2.11:8080", "eligible")?;
    println!("back after {took:?}");
    wait::until("it gets traffic again", || {
        let who = site.client.run(|| clients::who(at(vip(1), 80)));
        who.is_ok_and(|who| who == "back")
    })?;
    ensure!(fairway.metric("fairway_endpoints_failing_checks", &[shop])? == 0.0);
    fairway.stop()
}

fn one_that_traffic_has_failed_at_is_back_when_its_checks_pass() -> Result<()> {
    let site = Site::new()?;
    let _stays = named(&site.farm, &[("stays", at(server(1), 8080))])?;
    let manifests = all(&[
        &edge_pool(),
        // Long before the check finds it out by itself, traffic does.
        &checked("shop", 80, 8080, "tcp;interval=500ms;fall=1000"),
        &slice("shop", 8080, &[server(0), server(1)]),
    ]);
    let goes = named(&site.farm, &[("goes", at(server(0), 8080))])?;
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    until_passed(&fairway, 2.0)?;
    drop(goes);
    wait::until_some("it is left alone", || {
        site.client.run(|| clients::who(at(vip(1), 80)))?;
        let state = state(&fairway, "shop", "192.0.2.11:8080")?;
        ensure!(state == "unreachable", "{state}");
        Ok(())
    })?;
    // From now on nobody connects.
    let _back = named(&site.farm, &[("back", at(server(0), 8080))])?;
    let took = until_state(&fairway, "192.0.2.11:8080", "eligible")?;
    println!("back after {took:?}");
    fairway.stop()
}

fn one_that_answers_with_an_error_or_too_late_is_out() -> Result<()> {
    let site = Site::new()?;
    let _well = named_http(&site.farm, &[("well", at(server(0), 8080))])?;
    let broken = Nginx::start(&site.farm, at(server(1), 8080))?;
    let _slow = mute(&site.farm, at(server(2), 8080))?;
    let manifests = all(&[
        &edge_pool(),
        &checked("shop", 80, 8080, "http:/well;interval=1s"),
        &slice("shop", 8080, &[server(0), server(1), server(2)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    until_state(&fairway, "192.0.2.12:8080", "failing-checks")?;
    until_state(&fairway, "192.0.2.13:8080", "failing-checks")?;
    fairway.explains("default/shop", &["HTTP 404", "no answer within 500ms"])?;
    ensure!(state(&fairway, "shop", "192.0.2.11:8080")? == "eligible");
    fs::write(broken.file("well"), "well")?;
    until_state(&fairway, "192.0.2.12:8080", "eligible")?;
    fairway.stop()
}

fn one_that_flaps_stays_in_and_one_that_fails_more_often_does_not() -> Result<()> {
    let site = Site::new()?;
    let _well = named_http(&site.farm, &[("well", at(server(0), 8080))])?;
    let flaps = Nginx::start(&site.farm, at(server(1), 8080))?;
    let well = flaps.file("well");
    fs::write(&well, "well")?;
    let manifests = all(&[
        &edge_pool(),
        &checked("shop", 80, 8080, "http:/well;interval=500ms;fall=10"),
        &slice("shop", 8080, &[server(0), server(1)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    let count = |result: &str| {
        let result = format!("result=\"{result}\"");
        fairway.metric("fairway_checks_total", &[&result])
    };
    until_passed(&fairway, 4.0)?;
    for _ in 0..3 {
        // One failure or two, and well again before there are ten.
        let before = count("failed")?;
        fs::remove_file(&well)?;
        wait::until_some("a probe fails", || {
            let now = count("failed")?;
            ensure!(now > before, "{now}");
            Ok(())
        })?;
        fs::write(&well, "well")?;
        until_passed(&fairway, 4.0)?;
        ensure!(state(&fairway, "shop", "192.0.2.12:8080")? == "eligible");
    }
    fs::remove_file(&well)?;
    until_state(&fairway, "192.0.2.12:8080", "failing-checks")?;
    fairway.stop()
}

fn where_all_fail_all_get_traffic_and_that_is_said() -> Result<()> {
    let site = Site::new()?;
    // They serve, and say 404 to the check.
    let servers = [
        Nginx::start(&site.farm, at(server(0), 8080))?,
        Nginx::start(&site.farm, at(server(1), 8080))?,
    ];
    for server in &servers {
        fs::write(server.file("page"), "page")?;
    }
    let manifests = all(&[
        &edge_pool(),
        &checked("shop", 80, 8080, "http:/well;interval=1s"),
        &slice("shop", 8080, &[server(0), server(1)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    until_state(&fairway, "192.0.2.11:8080", "failing-checks")?;
    until_state(&fairway, "192.0.2.12:8080", "failing-checks")?;
    for _ in 0..10 {
        let answer = site
            .client
            .run(|| clients::http_get(at(vip(1), 80), "/page"))?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    fairway.says(
        "default/shop",
        &[
            "ChecksIgnored",
            "all endpoints of port 80/TCP fail their check",
        ],
    )?;
    fairway.says("default/shop", &["fairway.dev/Programmed=True"])?;
    fairway.explains(
        "default/shop",
        &[
            "it still gets its share, for all endpoints fail theirs",
            "so it is ignored",
        ],
    )?;
    fairway.logs(&["WARN", "all endpoints fail their check", "default/shop"])?;

    fs::write(servers[0].file("well"), "well")?;
    until_state(&fairway, "192.0.2.11:8080", "eligible")?;
    wait::until_some("nothing is ignored any more", || {
        let said = fairway.cli_output(&["explain", "service", "default/shop"])?;
        ensure!(!said.contains("is ignored"), "{said}");
        Ok(())
    })?;
    fairway.stop()
}

fn udp_flows_leave_an_endpoint_that_fails_and_stay_where_all_do() -> Result<()> {
    let site = Site::new()?;
    let [a, b] = [0, 1].map(|n| at(server(n), 5353));
    let _servers = named_udp(&site.farm, &[("a", a), ("b", b)])?;
    let checked_there = named(&site.farm, &[("a", a)])?;
    let other_checked_there = named(&site.farm, &[("b", b)])?;
    let service = checked("shop", 53, 5353, "tcp;port=5353;interval=500ms");
    let service = service.replace("{port: 53,", "{port: 53, protocol: UDP,");
    let slice = slice_of("shop", &[("", "UDP", 5353)], &[server(0), server(1)]);
    let manifests = all(&[&edge_pool(), &service, &slice]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    until_passed(&fairway, 4.0)?;
    let flows: Vec<UdpSocket> = site.client.run(|| {
        let flow = |_| clients::udp(None, at(vip(1), 53));
        (0..20).map(flow).collect::<Result<_, _>>()
    })?;
    let served = || -> Result<String> {
        Ok(flows
            .iter()
            .map(clients::who_on)
            .collect::<Result<_, _>>()?)
    };
    let before = served()?;
    ensure!(before.contains('a') && before.contains('b'), "{before}");
    ensure!(served()? == before, "flows stay");

    drop(checked_there);
    until_state(&fairway, "192.0.2.11:5353", "failing-checks")?;
    let during = served()?;
    ensure!(during == "b".repeat(20), "{during}");
    drop(other_checked_there);
    wait::until_some("checks are ignored", || {
        let said = fairway.cli_output(&["explain", "service", "default/shop"])?;
        ensure!(said.contains("is ignored"), "{said}");
        Ok(())
    })?;
    ensure!(served()? == during, "where all fail flows stay");
    fairway.stop()
}

fn services_that_ask_the_same_share_a_probe() -> Result<()> {
    let site = Site::new()?;
    let _servers = named_http(
        &site.farm,
        &[("a", at(server(0), 8080)), ("b", at(server(1), 8080))],
    )?;
    let mut documents = vec![edge_pool()];
    for number in 0..10 {
        let name = format!("shop-{number}");
        documents.push(checked(&name, 80 + number, 8080, "http:/").replace(
            "annotations: {",
            "annotations: {fairway.dev/sharing-key: one, ",
        ));
        documents.push(slice(&name, 8080, &[server(0), server(1)]));
    }
    let documents: Vec<&str> = documents.iter().map(String::as_str).collect();
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &all(&documents))])?;
    wait::until_some("the probes are there", || {
        let probes = fairway.metric("fairway_check_probes", &[])?;
        ensure!(probes == 2.0, "{probes}");
        Ok(())
    })?;
    ensure!(fairway.metric("fairway_check_stretch", &[])? == 1.0);
    fairway.stop()
}

fn beyond_the_budget_intervals_stretch_and_it_is_said() -> Result<()> {
    let site = Site::new()?;
    // None of them is there.
    let document = |endpoints: u8| {
        let all_of_them: Vec<IpAddr> = (0..endpoints)
            .map(|n| [192, 0, 2, 100 + n].into())
            .collect();
        all(&[
            &edge_pool(),
            &checked("shop", 80, 8080, "tcp;interval=100ms"),
            &slice("shop", 8080, &all_of_them),
        ])
    };
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &document(150))])?;
    let stretch_is = |wanted: f64| {
        wait::until_some("intervals are stretched so", || {
            let stretch = fairway.metric("fairway_check_stretch", &[])?;
            ensure!(stretch == wanted, "{stretch}");
            Ok(())
        })
    };
    // 1,500 in a second are asked for.
    stretch_is(1.5)?;
    fairway.logs(&[
        "WARN",
        "more checks are asked for in a second than are made",
        "asked=1500",
    ])?;
    let made = || fairway.metric("fairway_checks_total", &[]);
    let (before, began) = (made()?, Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let rate = (made()? - before) / began.elapsed().as_secs_f64();
    ensure!(rate < 1_050.0, "{rate} in a second");
    fairway.write("all.yaml", &document(50))?;
    stretch_is(1.0)?;
    fairway.stop()
}

fn what_cant_be_read_is_no_check_and_is_said() -> Result<()> {
    let site = Site::new()?;
    let manifests = all(&[
        &edge_pool(),
        &checked("shop", 80, 8080, "80=htp:/well,*=tcp"),
        &slice("shop", 8080, &[server(0)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    fairway.says(
        "default/shop",
        &["has 'htp:/well', must be tcp", "no check is made"],
    )?;
    ensure!(fairway.metric("fairway_check_probes", &[])? == 0.0);
    ensure!(state(&fairway, "shop", "192.0.2.11:8080")? == "eligible");
    fairway.stop()
}
