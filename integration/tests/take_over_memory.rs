//! What a process that takes over knows of clients and endpoints from the one before.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Served;
use fairway_integration::manifest::{all, edge_pool, slice};
use fairway_integration::servers::named;
use fairway_integration::site::{BLACK_HOLE, Site, at, client, server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    may run beside others;
    a_client_at_its_limit_stays_at_it_and_gets_places_back,
    a_client_that_was_too_fast_is_so_after_an_upgrade,
    a_client_stays_with_its_endpoint_where_others_rank_higher,
    an_endpoint_that_is_left_alone_is_not_tried_by_everyone_anew,
    an_endpoint_that_fails_its_checks_gets_nobody_in_an_upgrade,
];

const PORT: u16 = 80;

/// A Service at the first external address with these annotations, and more of its spec.
fn service(annotations: &[(&str, &str)], spec: &str) -> String {
    let annotations = annotations
        .iter()
        .map(|(name, value)| format!("fairway.dev/{name}: \"{value}\""));
    let mut annotations: Vec<String> = annotations.collect();
    annotations.push(format!("fairway.dev/addresses: \"{}\"", vip(1)));
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, annotations: {{{}}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: shop}}, {spec}ports: [{{port: {PORT}}}]}}\n",
        annotations.join(", ")
    )
}

fn manifests(service: &str, endpoints: &[IpAddr]) -> String {
    all(&[&edge_pool(), service, &slice("shop", PORT, endpoints)])
}

fn servers(site: &Site, count: u8) -> Result<Vec<Served>> {
    let names: Vec<String> = (0..count).map(|n| format!("server-{n}")).collect();
    let all = names.iter().zip(0..);
    all.map(|(name, n)| named(&site.farm, &[(name, at(server(n), PORT))]))
        .collect()
}

/// A connection that was served, and stays.
fn held(from: IpAddr) -> Result<TcpStream> {
    let mut stream = clients::connect_tcp_from(from, at(vip(1), PORT))?;
    clients::ask(&mut stream, "who")?;
    Ok(stream)
}

/// Whether a client gets no connection.
fn is_refused(from: IpAddr) -> Result<bool> {
    match clients::connect_tcp_from(from, at(vip(1), PORT)) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error.into()),
        Ok(mut stream) => match clients::ask(&mut stream, "who") {
            Ok(_) => Ok(false),
            Err(_) => Ok(!matches!(stream.read(&mut [0; 1]), Ok(1))),
        },
    }
}

fn a_client_at_its_limit_stays_at_it_and_gets_places_back() -> Result<()> {
    for steering in [&[][..], &["--no-steering"]] {
        let site = Site::new()?;
        let _servers = servers(&site, 1)?;
        let service = service(&[("connections-per-client", "3")], "");
        let mut fairway = Fairway::prepare(&site.edge)?.arguments(steering);
        fairway.write("shop.yaml", &manifests(&service, &[server(0)]))?;
        fairway.launch()?;
        fairway.ready()?;
        site.client.run(|| -> Result<()> {
            let mut held: Vec<TcpStream> = wait::until_some("three are served", || {
                (0..3).map(|_| held(client(1))).collect::<Result<_>>()
            })?;
            ensure!(is_refused(client(1))?, "a fourth one before");
            for round in 0..2 {
                fairway.upgrade()?;
                ensure!(is_refused(client(1))?, "a fourth one after upgrade {round}");
                ensure!(!is_refused(client(2))?, "another client");
                for stream in &mut held {
                    clients::ask(stream, "who").context("one of the three")?;
                }
            }
            held.pop();
            wait::until("a place is free", || {
                is_refused(client(1)).is_ok_and(|it| !it)
            })?;
            drop(held);
            wait::until_some("all places are free", || {
                let three = (0..3).map(|_| self::held(client(1)));
                three.collect::<Result<Vec<_>>>()
            })?;
            Ok(())
        })?;
    }
    Ok(())
}

fn a_client_that_was_too_fast_is_so_after_an_upgrade() -> Result<()> {
    const BURST: u32 = 200;
    let site = Site::new()?;
    let _servers = servers(&site, 1)?;
    let rate = format!("1;burst={BURST}");
    let service = service(&[("new-connections-per-second", &rate)], "");
    let text = manifests(&service, &[server(0)]);
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &text)])?;
    site.client.run(|| -> Result<()> {
        let began = Instant::now();
        let mut served = 0;
        // Refused once: the burst is used up.
        while !is_refused(client(1))? {
            served += 1;
        }
        ensure!(served >= BURST - 1, "{served}");
        fairway.upgrade()?;
        // As many as seconds have passed, and no new burst. (A client that the kernel refuses is so for a second at most.)
        for _ in 0..20 {
            served += u32::from(!is_refused(client(1))?);
        }
        let most = BURST + u32::try_from(began.elapsed().as_secs())? + 1;
        println!("{served} served, {most} at most");
        ensure!(served <= most, "{served} of {most}");
        ensure!(!is_refused(client(2))?, "another client");
        Ok(())
    })
}

/// Which endpoint each client gets.
fn choices(site: &Site) -> Result<BTreeMap<IpAddr, String>> {
    site.client.run(|| {
        let all = (0..29).map(client);
        let all = all.map(|from| {
            let who = clients::who_from(from, at(vip(1), PORT))?;
            let name = who.split(' ').next().context("no name")?.to_owned();
            Ok((from, name))
        });
        all.collect()
    })
}

fn a_client_stays_with_its_endpoint_where_others_rank_higher() -> Result<()> {
    let site = Site::new()?;
    let _servers = servers(&site, 6)?;
    let service = service(&[], "sessionAffinity: ClientIP, ");
    let of = |count: u8| manifests(&service, &(0..count).map(server).collect::<Vec<_>>());
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &of(2))])?;
    let first = wait::until_some("all are served", || choices(&site))?;
    fairway.write("shop.yaml", &of(6))?;
    wait::until_some("all endpoints are there", || {
        let rows = fairway.list("endpoints")?;
        ensure!(rows.len() == 6, "{rows:?}");
        fairway.ready()
    })?;
    ensure!(choices(&site)? == first, "before any upgrade");
    for round in 0..2 {
        fairway.upgrade()?;
        let now = choices(&site)?;
        let moved = now
            .iter()
            .filter(|(from, name)| first.get(from) != Some(name));
        ensure!(moved.count() == 0, "upgrade {round}: {first:?}, {now:?}");
    }
    Ok(())
}

/// How often an endpoint could not be reached, as the process that serves now has counted.
fn errors(fairway: &Fairway) -> Result<f64> {
    fairway.metric("fairway_connect_errors_total", &[])
}

fn an_endpoint_that_is_left_alone_is_not_tried_by_everyone_anew() -> Result<()> {
    let site = Site::new()?;
    let _servers = servers(&site, 1)?;
    let text = manifests(&service(&[], ""), &[server(0), BLACK_HOLE]);
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &text)])?;
    let ask = || site.client.run(|| clients::who(at(vip(1), PORT)));
    // After the third it is left alone for eight seconds.
    wait::until_some("three trials have failed", || {
        ask()?;
        let errors = errors(&fairway)?;
        ensure!(errors >= 3.0, "{errors}");
        Ok(())
    })?;
    let failed = Instant::now();
    fairway.upgrade()?;
    let mut slow = 0;
    for _ in 0..20 {
        let began = Instant::now();
        ask()?;
        slow += usize::from(began.elapsed() >= Duration::from_secs(1));
    }
    let (errors, passed) = (errors(&fairway)?, failed.elapsed());
    println!("{slow} slow, {errors} errors, {passed:?} after the third failure");
    ensure!(passed > Duration::from_secs(7) || errors == 0.0, "{errors}");
    ensure!(slow <= 1, "{slow} clients have waited");
    fairway.endpoint_is(
        "shop",
        ("endpoint", &at(BLACK_HOLE, PORT).to_string()),
        "unreachable",
    )
}

fn an_endpoint_that_fails_its_checks_gets_nobody_in_an_upgrade() -> Result<()> {
    let site = Site::new()?;
    let _servers = servers(&site, 1)?;
    // Nobody listens there.
    let failing = server(9);
    let service = service(
        &[("health-check", "tcp"), ("health-check-interval", "30s")],
        "",
    );
    let text = manifests(&service, &[server(0), failing]);
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &text)])?;
    let row = at(failing, PORT).to_string();
    fairway.endpoint_is("shop", ("endpoint", &row), "failing-checks")?;
    for round in 0..3 {
        fairway.upgrade()?;
        for _ in 0..20 {
            site.client.run(|| clients::who(at(vip(1), PORT)))?;
        }
        let errors = errors(&fairway)?;
        ensure!(errors == 0.0, "upgrade {round}: {errors}");
        fairway.endpoint_is("shop", ("endpoint", &row), "failing-checks")?;
    }
    Ok(())
}
