//! Endpoints that are listed as ready and are not reached: what people, scrapers and the controller are
//! told, and when it is over.

use std::thread;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::manifest::{all, edge_pool, load_balancer, slice, slice_of};
use fairway_integration::servers::{named, named_udp};
use fairway_integration::site::{BLACK_HOLE, Site, at, server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    that_no_endpoint_is_reached_is_seen_wherever_people_look_until_one_is,
    an_http_service_and_a_udp_service_say_so_too,
    a_dial_that_is_not_answered_in_time_counts_with_its_time,
];

/// Clients that are turned away, all at once.
fn turned_away(site: &Site, port: u16, clients: usize) -> Result<()> {
    site.client.run(|| {
        thread::scope(|scope| {
            let all: Vec<_> = (0..clients)
                .map(|_| scope.spawn(|| clients::who(at(vip(1), port))))
                .collect();
            for one in all {
                let answer = one.join().ok().context("a client panicked")?;
                ensure!(answer.is_err(), "a client was served: {answer:?}");
            }
            Ok(())
        })
    })
}

/// The states of the endpoints of a Service.
fn states(fairway: &Fairway, service: &str) -> Result<Vec<String>> {
    let rows = fairway.list("endpoints")?.into_iter();
    let rows = rows.filter(|row| text(row, "service") == service);
    Ok(rows.map(|row| text(&row, "state").to_owned()).collect())
}

fn that_no_endpoint_is_reached_is_seen_wherever_people_look_until_one_is() -> Result<()> {
    let site = Site::new()?;
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, 8080),
        &slice("shop", 8080, &[server(0), server(1)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    fairway.says("default/shop", &["fairway.dev/Programmed=True"])?;
    turned_away(&site, 80, 5)?;

    fairway.says(
        "default/shop",
        &[
            "fairway.dev/Programmed=False EndpointsUnreachable",
            "192.0.2.11:8080",
        ],
    )?;
    let rows = fairway.list("endpoints")?;
    for row in &rows {
        ensure!(text(row, "state") == "unreachable", "{row}");
        let why = text(row, "why");
        ensure!(
            why.starts_with("is unreachable since 2") && why.contains("connection refused 5 times"),
            "{why}"
        );
    }
    ensure!(rows.len() == 2, "{rows:?}");
    let table = fairway.cli_output(&["get", "endpoints", "-o", "wide"])?;
    ensure!(table.contains("unreachable since"), "{table}");
    let table = fairway.cli_output(&["get", "services", "-o", "wide"])?;
    ensure!(table.contains("EndpointsUnreachable"), "{table}");
    let table = fairway.cli_output(&["get", "listeners", "-o", "wide"])?;
    ensure!(table.contains("EndpointsUnreachable"), "{table}");
    fairway.explains(
        "default/shop",
        &[
            "takes connections, but no endpoint is reached",
            "is unreachable since",
        ],
    )?;
    let page = fairway.get("/")?.body;
    ensure!(page.contains("is unreachable since"), "{page}");
    for endpoint in ["192.0.2.11:8080", "192.0.2.12:8080"] {
        let words = [
            "WARN",
            "endpoint is not reached",
            "default/shop",
            endpoint,
            "refused",
        ];
        fairway.logs(&words)?;
    }
    let shop = "service=\"shop\"";
    ensure!(fairway.metric("fairway_endpoints_unreachable", &[shop])? == 2.0);
    // Five clients, and each tried both.
    ensure!(fairway.metric("fairway_connect_duration_seconds_count", &[shop])? == 10.0);
    let warnings = |fairway: &mut Fairway| -> Result<usize> {
        let said = fairway.process()?.said();
        Ok(said.matches("endpoint is not reached").count())
    };
    ensure!(warnings(&mut fairway)? == 2, "one line for each endpoint");
    turned_away(&site, 80, 20)?;
    ensure!(warnings(&mut fairway)? == 2, "and none for each client");

    let _server = named(&site.farm, &[("till", at(server(1), 8080))])?;
    wait::until("a client is served", || {
        let who = site.client.run(|| clients::who(at(vip(1), 80)));
        who.is_ok_and(|who| who == "till")
    })?;
    fairway.says("default/shop", &["fairway.dev/Programmed=True"])?;
    fairway.logs(&[
        "endpoint is reached again",
        "default/shop",
        "192.0.2.12:8080",
    ])?;
    wait::until_some("one endpoint is left", || {
        let left = fairway.metric("fairway_endpoints_unreachable", &[shop])?;
        ensure!(left == 1.0, "{left}");
        Ok(())
    })?;

    // One that is listed no more is forgotten, and so is what was said of it.
    fairway.write(
        "all.yaml",
        &all(&[
            &edge_pool(),
            &load_balancer("shop", vip(1), 80, 8080),
            &slice("shop", 8080, &[server(1)]),
        ]),
    )?;
    fairway.settle("fewer")?;
    ensure!(fairway.metric("fairway_endpoints_unreachable", &[shop])? == 0.0);
    let rows = fairway.list("endpoints")?;
    ensure!(
        rows.len() == 1 && text(&rows[0], "state") == "eligible",
        "{rows:?}"
    );
    fairway.stop()
}

fn an_http_service_and_a_udp_service_say_so_too() -> Result<()> {
    let site = Site::new()?;
    let http =
        load_balancer("web", vip(1), 80, 8080).replace("port: 80,", "port: 80, appProtocol: http,");
    let udp = load_balancer("dns", vip(2), 53, 53).replace("port: 53,", "port: 53, protocol: UDP,");
    let manifests = all(&[
        &edge_pool(),
        &http,
        &slice("web", 8080, &[server(0)]),
        &udp,
        &slice_of("dns", &[("", "UDP", 53)], &[server(0)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    site.client.run(|| -> Result<()> {
        for _ in 0..3 {
            let answer = clients::http_get(at(vip(1), 80), "/")?;
            ensure!(answer.status == 502, "{answer:?}");
        }
        let socket = clients::udp(None, at(vip(2), 53))?;
        wait::until("the datagrams are refused", || {
            // An error tells of an earlier datagram.
            let _ = socket.send(b"who");
            states(&fairway, "dns").is_ok_and(|states| states == ["unreachable"])
        })
    })?;
    ensure!(states(&fairway, "web")? == ["unreachable"]);
    for name in ["web", "dns"] {
        fairway.says(
            &format!("default/{name}"),
            &["fairway.dev/Programmed=False EndpointsUnreachable"],
        )?;
        fairway.logs(&[
            "WARN",
            "endpoint is not reached",
            &format!("default/{name}"),
        ])?;
    }
    let errors = |name: &str| {
        let labels = [&*format!("service=\"{name}\""), "reason=\"refused\""];
        fairway.metric("fairway_connect_errors_total", &labels)
    };
    ensure!(errors("web")? >= 3.0 && errors("dns")? >= 3.0);

    let _dns = named_udp(&site.farm, &[("dns", at(server(0), 53))])?;
    wait::until("the client is answered", || {
        let who = site.client.run(|| clients::who_udp(None, at(vip(2), 53)));
        who.is_ok_and(|who| who == "dns")
    })?;
    fairway.says("default/dns", &["fairway.dev/Programmed=True"])?;
    fairway.stop()
}

fn a_dial_that_is_not_answered_in_time_counts_with_its_time() -> Result<()> {
    let site = Site::new()?;
    let manifests = all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, 8080),
        &slice("shop", 8080, &[BLACK_HOLE]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    turned_away(&site, 80, 3)?;
    fairway.says(
        "default/shop",
        &["EndpointsUnreachable", "connect timed out"],
    )?;
    let shop = "service=\"shop\"";
    let sum = fairway.metric("fairway_connect_duration_seconds_sum", &[shop])?;
    ensure!(sum >= 3.0 * 5.0, "three dials took {sum} s");
    let quick = fairway.metric(
        "fairway_connect_duration_seconds_bucket",
        &[shop, "le=\"2.5\""],
    )?;
    ensure!(quick == 0.0, "{quick} of them took no time");
    fairway.stop()
}
