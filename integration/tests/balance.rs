//! How connections are spread over endpoints: each algorithm by its annotation, and who answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::manifest::{all, edge_pool, slice_of, slice_with};
use fairway_integration::servers::named;
use fairway_integration::site::{Site, at, client, server, vip};
use fairway_integration::three::{count, three};
use fairway_integration::{clients, tests, wait};
use serde_json::Value;

tests![
    each_algorithm_spreads_as_its_annotation_says,
    every_client_has_an_endpoint_of_its_own_with_hashes,
    held_connections_are_even_with_least_connections,
    udp_flows_are_even_with_least_connections,
    an_endpoint_that_comes_is_filled_slowly,
    an_endpoint_that_was_left_alone_is_filled_slowly_when_it_is_back,
    an_annotation_that_can_not_be_read_is_said_and_the_default_is_used,
    endpoints_of_the_same_zone_are_preferred_without_hints,
];

/// A Service with port 80 for TCP and UDP, and this balance.
fn balanced(name: &str, address: IpAddr, balance: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\n\
         metadata: {{name: {name}, annotations: {{fairway.dev/addresses: \"{address}\", \
         fairway.dev/balance: \"{balance}\"}}}}\n\
         spec: {{type: LoadBalancer, selector: {{app: {name}}}, ports: [{{name: t, port: 80}}, \
         {{name: u, port: 80, protocol: UDP}}]}}\n"
    )
}

const PORTS: [(&str, &str, u16); 2] = [("t", "TCP", 80), ("u", "UDP", 80)];

/// Its endpoints: `a` with weight 3, `b` and `c`.
fn weighted(name: &str) -> String {
    let heavy = slice_of(name, &PORTS, &[server(0)]).replace(
        &format!("name: {name}-ipv4,"),
        &format!("name: {name}-heavy, annotations: {{fairway.dev/weight: \"3\"}},"),
    );
    all(&[&heavy, &slice_of(name, &PORTS, &[server(1), server(2)])])
}

fn shares(a: usize, b: usize, c: usize) -> BTreeMap<String, usize> {
    let all = [("a", a), ("b", b), ("c", c)];
    let all = all.into_iter().filter(|(_, count)| *count > 0);
    all.map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Who answers so many connections, one after the other.
fn ask(site: &Site, to: SocketAddr, connections: usize) -> Result<BTreeMap<String, usize>> {
    let answers: io::Result<Vec<String>> = site
        .client
        .run(|| (0..connections).map(|_| clients::who(to)).collect());
    Ok(count(answers?))
}

fn each_algorithm_spreads_as_its_annotation_says() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let names = [
        "round-robin",
        "weighted-round-robin",
        "least-connections",
        "random-two",
        "source-hash",
        "maglev",
    ];
    let mut manifests = vec![edge_pool()];
    for (n, name) in (1..).zip(names) {
        manifests.push(balanced(name, vip(n), name));
        manifests.push(weighted(name));
    }
    let manifests: Vec<&str> = manifests.iter().map(String::as_str).collect();
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &all(&manifests))])?;
    let by = |n: u8| ask(&site, at(vip(n), 80), 30);
    ensure!(by(1)? == shares(10, 10, 10), "round-robin: {:?}", by(1)?);
    let found = by(2)?;
    ensure!(found == shares(18, 6, 6), "weighted-round-robin: {found:?}");
    // One connection at a time is hardly any load: all of them are used.
    for n in [3, 4] {
        let found = by(n)?;
        ensure!(found.len() == 3, "{n}: {found:?}");
    }
    // One client has one endpoint.
    for n in [5, 6] {
        let found = by(n)?;
        ensure!(found.len() == 1, "{n}: {found:?}");
    }
    for name in names {
        let said = fairway.conditions(&format!("default/{name}"))?;
        ensure!(!said.contains("NotYetInForce"), "{said}");
        ensure!(!said.contains("InvalidAnnotation"), "{said}");
    }
    fairway.stop()
}

fn every_client_has_an_endpoint_of_its_own_with_hashes() -> Result<()> {
    for algorithm in ["source-hash", "maglev"] {
        let site = Site::new()?;
        let _servers = three(&site)?;
        let everyone = [server(0), server(1), server(2)];
        let manifests = |endpoints: &[IpAddr]| {
            all(&[
                &edge_pool(),
                &balanced("shop", vip(1), algorithm),
                &slice_of("shop", &PORTS, endpoints),
            ])
        };
        let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests(&everyone))])?;
        let to = at(vip(1), 80);
        let round = || -> Result<Vec<String>> {
            site.client.run(|| {
                let who = |n| {
                    let tcp = clients::who_from(client(n), to)?;
                    let udp = clients::who_udp(Some(client(n)), to)?;
                    ensure!(tcp == udp, "client {n}: {tcp} by TCP, {udp} by UDP");
                    Ok(tcp)
                };
                (0..20).map(who).collect()
            })
        };
        let first = round()?;
        let used: BTreeSet<&String> = first.iter().collect();
        ensure!(used.len() == 3, "{algorithm}: {used:?}");
        ensure!(round()? == first, "{algorithm}: a client has moved");
        // Another process, with another seed.
        fairway.stop()?;
        fairway.restart()?;
        ensure!(
            round()? == first,
            "{algorithm}: a client has moved with a restart"
        );

        fairway.write("shop.yaml", &manifests(&[server(0), server(1)]))?;
        fairway.settle("fewer")?;
        let after = round()?;
        let moved = first.iter().zip(&after).filter(|(was, is)| was != is);
        let needless = moved.filter(|(was, _)| *was != "c").count();
        ensure!(!after.contains(&"c".to_owned()), "{algorithm}: {after:?}");
        // Rendezvous hashing moves nobody else; a table moves few.
        let most = if algorithm == "maglev" { 3 } else { 0 };
        ensure!(
            needless <= most,
            "{algorithm}: {needless} of 20 moved without need"
        );
        fairway.stop()?;
    }
    Ok(())
}

/// Connections that stay open, with who answered on each.
fn hold(site: &Site, to: SocketAddr, connections: usize) -> Result<Vec<(String, TcpStream)>> {
    site.client.run(|| {
        let open = |_| {
            let mut stream = clients::connect_tcp(to)?;
            let answer = clients::ask(&mut stream, "who")?;
            let name = answer.split_whitespace().next().context("no name")?;
            Ok((name.to_owned(), stream))
        };
        (0..connections).map(open).collect()
    })
}

fn names(held: &[(String, TcpStream)]) -> BTreeMap<String, usize> {
    count(held.iter().map(|(name, _)| name.clone()))
}

fn held_connections_are_even_with_least_connections() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let manifests = all(&[
        &edge_pool(),
        &balanced("shop", vip(1), "80/TCP=least-connections"),
        &slice_of("shop", &PORTS, &[server(0), server(1), server(2)]),
        &balanced("heavy", vip(2), "*=least-connections"),
        &weighted("heavy"),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let to = at(vip(1), 80);
    let held = hold(&site, to, 30)?;
    ensure!(names(&held) == shares(10, 10, 10), "{:?}", names(&held));
    let heavy = hold(&site, at(vip(2), 80), 30)?;
    ensure!(names(&heavy) == shares(18, 6, 6), "{:?}", names(&heavy));

    // The connections of one end: the next ones go there until it has as many as the others.
    let kept: Vec<_> = held.into_iter().filter(|(name, _)| name != "a").collect();
    wait::until_some("those of one have ended", || {
        let rows = fairway.list("endpoints")?;
        let row = rows.iter().find(|row| {
            let is_first = text(row, "endpoint").starts_with(&server(0).to_string());
            text(row, "service") == "shop" && is_first && row["active"] != 0
        });
        ensure!(row.is_none(), "{row:?}");
        Ok(())
    })?;
    let more = hold(&site, to, 10)?;
    ensure!(names(&more) == shares(10, 0, 0), "{:?}", names(&more));
    drop((kept, more, heavy));
    fairway.stop()
}

fn udp_flows_are_even_with_least_connections() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let manifests = all(&[
        &edge_pool(),
        &balanced("shop", vip(1), "u=least-connections,t=maglev"),
        &slice_of("shop", &PORTS, &[server(0), server(1), server(2)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let to = at(vip(1), 80);
    let flows: Vec<(String, UdpSocket)> = site.client.run(|| {
        let flow = |_| {
            let socket = clients::udp(None, to)?;
            Ok((clients::who_on(&socket)?, socket))
        };
        (0..30).map(flow).collect::<io::Result<_>>()
    })?;
    let found = count(flows.iter().map(|(name, _)| name.clone()));
    ensure!(found == shares(10, 10, 10), "{found:?}");
    let found = ask(&site, to, 10)?;
    ensure!(found.len() == 1, "TCP goes by its own scope: {found:?}");
    fairway.stop()
}

fn an_endpoint_that_comes_is_filled_slowly() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let manifests = |endpoints: &[IpAddr]| {
        all(&[
            &edge_pool(),
            &balanced("shop", vip(1), "round-robin;slow-start=6s"),
            &slice_of("shop", &PORTS, endpoints),
        ])
    };
    let two = [server(0), server(1)];
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests(&two))])?;
    let to = at(vip(1), 80);
    // Those of the first list are not new.
    ensure!(ask(&site, to, 60)? == shares(30, 30, 0));
    fairway.write("shop.yaml", &manifests(&[server(0), server(1), server(2)]))?;
    fairway.settle("more")?;
    let found = ask(&site, to, 60)?;
    let few = found.get("c").copied().unwrap_or(0);
    ensure!(few < 13, "a third at once: {found:?}");
    let words = ["chosen by round-robin", "full share after 6s"];
    fairway.explains("default/shop", &words)?;
    wait::until("it has its share", || {
        ask(&site, to, 60).is_ok_and(|found| found == shares(20, 20, 20))
    })?;
    fairway.stop()
}

fn an_endpoint_that_was_left_alone_is_filled_slowly_when_it_is_back() -> Result<()> {
    let site = Site::new()?;
    let _two = named(
        &site.farm,
        &[("a", at(server(0), 80)), ("b", at(server(1), 80))],
    )?;
    let third = || named(&site.farm, &[("c", at(server(2), 80))]);
    let killed = third()?;
    let manifests = all(&[
        &edge_pool(),
        &balanced("shop", vip(1), "round-robin;slow-start=6s"),
        &slice_of("shop", &PORTS, &[server(0), server(1), server(2)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    let to = at(vip(1), 80);
    ensure!(ask(&site, to, 60)? == shares(20, 20, 20));
    drop(killed);
    let is_left_alone = || -> Result<bool> {
        let rows = fairway.list("endpoints")?;
        let third = at(server(2), 80).to_string();
        let is_it = |row: &&Value| text(row, "endpoint") == third && text(row, "protocol") == "TCP";
        let row = rows.iter().find(is_it).context("it is not listed")?;
        Ok(text(row, "why").contains("it is left alone"))
    };
    wait::until("it is left alone", || {
        ask(&site, to, 6).is_ok() && is_left_alone().unwrap_or(false)
    })?;
    let _back = third()?;
    wait::until("it is taken back", || {
        ask(&site, to, 1).is_ok() && !is_left_alone().unwrap_or(true)
    })?;
    let found = ask(&site, to, 60)?;
    let few = found.get("c").copied().unwrap_or(0);
    println!("after it was left alone: {found:?}");
    ensure!(few < 13, "a third at once: {found:?}");
    wait::until("it has its share", || {
        ask(&site, to, 60).is_ok_and(|found| found == shares(20, 20, 20))
    })?;
    fairway.stop()
}

fn an_annotation_that_can_not_be_read_is_said_and_the_default_is_used() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let manifests = all(&[
        &edge_pool(),
        &balanced("shop", vip(1), "fastest"),
        &slice_of("shop", &PORTS, &[server(0), server(1), server(2)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("shop.yaml", &manifests)])?;
    ensure!(ask(&site, at(vip(1), 80), 30)? == shares(10, 10, 10));
    let words = ["InvalidAnnotation", "has 'fastest'", "must be round-robin,"];
    fairway.says("default/shop", &words)?;
    fairway.stop()
}

fn endpoints_of_the_same_zone_are_preferred_without_hints() -> Result<()> {
    let site = Site::new()?;
    let _servers = three(&site)?;
    let with = |zones: [&str; 3]| {
        let endpoint =
            |(n, zone): (u8, &str)| format!("{{addresses: [\"{}\"], zone: {zone}}}", server(n));
        let endpoints: Vec<String> = (0..3).zip(zones).map(endpoint).collect();
        let shop = balanced("shop", vip(1), "round-robin")
            .replace("spec: {", "spec: {trafficDistribution: PreferSameZone, ");
        all(&[&edge_pool(), &shop, &slice_with("shop", &PORTS, &endpoints)])
    };
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(&["--zone", "hall-a"]);
    fairway.write("shop.yaml", &with(["hall-a", "hall-b", "hall-a"]))?;
    fairway.launch()?;
    fairway.ready()?;
    let to = at(vip(1), 80);
    let found = ask(&site, to, 20)?;
    ensure!(found == shares(10, 0, 10), "{found:?}");
    fairway.explains("default/shop", &[&server(1).to_string(), "zones"])?;
    fairway.write("shop.yaml", &with(["hall-c", "hall-b", "hall-c"]))?;
    fairway.settle("elsewhere")?;
    let found = ask(&site, to, 30)?;
    ensure!(found == shares(10, 10, 10), "{found:?}");
    fairway.stop()
}
