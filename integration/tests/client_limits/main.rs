//! How much of a port one client may have: connections, new ones in a second, UDP flows.

mod bed;
mod floods;
mod udp;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::dual_stack::{HTTP, PLAIN, addresses, client6, pools, service};
use fairway_integration::fairway::Fairway;
use fairway_integration::hostile::Random;
use fairway_integration::manifest::{all, slice, slice_of};
use fairway_integration::servers::{named, named_http, resetting};
use fairway_integration::site::{Site, at, client, server};
use fairway_integration::{clients, programs, tests, wait};

use crate::bed::{ELSEWHERE, hold, rejected, site};
use crate::floods::{
    a_refused_flood_reaches_no_worker_and_is_counted,
    an_address_that_passes_to_another_service_takes_no_refusal_along,
    another_service_hardly_notices_a_flood_that_is_refused,
};
use crate::udp::udp_flows_have_limits_of_their_own;

tests![
    a_client_has_so_many_connections_steered_or_not,
    a_client_makes_so_many_connections_in_a_second,
    announced_clients_are_counted_each_for_itself,
    an_edit_counts_what_is_there,
    however_connections_end_none_is_counted_for_ever,
    a_refused_flood_reaches_no_worker_and_is_counted,
    an_address_that_passes_to_another_service_takes_no_refusal_along,
    another_service_hardly_notices_a_flood_that_is_refused,
    flags_are_the_default_and_annotations_win,
    udp_flows_have_limits_of_their_own,
    a_limit_that_can_not_be_read_closes_the_port_and_is_said,
];

/// All TCP connections of the site, as ss(8) shows them.
fn open_sockets(site: &Site) -> Result<String> {
    let mut all = String::new();
    for host in [&site.client, &site.edge, &site.farm] {
        let mut ss = Command::new(programs::find("ss")?);
        ss.args(["-tanoO", "state", "connected", "exclude", "time-wait"]);
        let output = host.run(|| ss.output())?;
        all += &format!(
            "\n{}\n{}",
            host.name(),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(all)
}

/// Sooner than a block in the kernel ends by itself.
const AT_ONCE: Duration = Duration::from_millis(700);

fn a_client_has_so_many_connections_steered_or_not() -> Result<()> {
    let site = site()?;
    let _plain = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let _web = named_http(&site.farm, &[("a", at(server(1), 8080))])?;
    let limit = [("connections-per-client", "80=3,*=100")];
    let manifests = all(&[
        &pools(),
        &service("plain", &limit, PLAIN),
        &slice("plain", 8080, &[server(0)]),
        &service("web", &limit, HTTP),
        &slice("web", 8080, &[server(1)]),
    ]);
    for arguments in [&[] as &[&str], &["--no-steering"]] {
        let mut fairway = Fairway::prepare(&site.edge)?.arguments(arguments);
        fairway.write("all.yaml", &manifests)?;
        fairway.launch()?;
        fairway.ready()?;
        for (name, is_http) in [("plain", false), ("web", true)] {
            let [to4, to6] = addresses(&fairway, name)?.map(|ip| at(ip, 80));
            // Addresses of one /64 are one client.
            for (mine, other, to) in [
                ([client(1), client(1)], client(2), to4),
                ([client6(1), client6(2)], ELSEWHERE, to6),
            ] {
                let what = format!("{name} {to} {arguments:?}");
                site.client.run(|| -> Result<()> {
                    let mut held = Vec::new();
                    for from in [mine[0], mine[1], mine[0]] {
                        held.push(hold(from, to, is_http).context(what.clone())?);
                    }
                    for _ in 0..3 {
                        for from in mine {
                            ensure!(hold(from, to, is_http).is_err(), "{what}: a fourth");
                        }
                        // Nobody else notices.
                        hold(other, to, is_http).context(what.clone())?;
                    }
                    // One less, and there is room for one at once: the kernel hears of it, too, which would refuse for
                    // a second else. Once of some times is enough, for the machine may be busy.
                    let mut took = Vec::new();
                    while took.last().is_none_or(|it| *it >= AT_ONCE) {
                        ensure!(took.len() < 5, "{what}: after {took:?}");
                        held.pop();
                        let ended = Instant::now();
                        held.push(wait::until_some(&what, || hold(mine[1], to, is_http))?);
                        took.push(ended.elapsed());
                    }
                    ensure!(
                        hold(mine[0], to, is_http).is_err(),
                        "{what}: again a fourth"
                    );
                    drop(held);
                    Ok(())
                })?;
            }
            let count = rejected(&fairway, name, "connections_per_client");
            ensure!(count >= 14.0, "{name} {arguments:?}: {count}");
        }
        fairway.logs(&[
            "clients over a limit are refused",
            "connections-per-client 3",
        ])?;
        wait::until("all have ended", || {
            fairway.metric("fairway_connections_active", &[]).ok() == Some(0.0)
        })?;
        fairway.stop()?;
    }
    Ok(())
}

/// How many of so many connections at once get an answer.
fn answered(from: IpAddr, to: SocketAddr, tries: usize) -> usize {
    (0..tries)
        .filter(|_| clients::who_from(from, to).is_ok())
        .count()
}

fn a_client_makes_so_many_connections_in_a_second() -> Result<()> {
    let site = site()?;
    let _plain = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let manifests = all(&[
        &pools(),
        &service(
            "shop",
            &[("new-connections-per-second", "5;burst=10")],
            PLAIN,
        ),
        &slice("shop", 8080, &[server(0)]),
    ]);
    for arguments in [&[] as &[&str], &["--no-steering"]] {
        let mut fairway = Fairway::prepare(&site.edge)?.arguments(arguments);
        fairway.write("shop.yaml", &manifests)?;
        fairway.launch()?;
        fairway.ready()?;
        let [to4, to6] = addresses(&fairway, "shop")?.map(|ip| at(ip, 80));
        for (from, other, to) in [(client(1), client(2), to4), (client6(1), ELSEWHERE, to6)] {
            site.client.run(|| -> Result<()> {
                let began = Instant::now();
                let mut count = 0;
                while began.elapsed() < Duration::from_secs(2) {
                    count += answered(from, to, 10);
                }
                // What came in the meantime, and the burst.
                let most = 10.0 + 5.0 * began.elapsed().as_secs_f64();
                let least = 10.0 + 5.0 * 1.5;
                let count_f = count as f64;
                ensure!(
                    (least..=most + 1.0).contains(&count_f),
                    "{arguments:?} {to}: {count}, not {least} to {most}"
                );
                ensure!(answered(other, to, 10) == 10, "{to}: another one");
                Ok(())
            })?;
        }
        ensure!(rejected(&fairway, "shop", "connection_rate") > 20.0);
        fairway.stop()?;
    }
    Ok(())
}

fn announced_clients_are_counted_each_for_itself() -> Result<()> {
    let site = site()?;
    let _plain = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let _web = named_http(&site.farm, &[("a", at(server(1), 8080))])?;
    let trusted = client(0).to_string();
    let said = [
        ("connections-per-client", "2"),
        ("accept-proxy-protocol", trusted.as_str()),
    ];
    let manifests = all(&[
        &pools(),
        &service("plain", &said, PLAIN),
        &slice("plain", 8080, &[server(0)]),
        &service("web", &said, HTTP),
        &slice("web", 8080, &[server(1)]),
    ]);
    let fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    let announced = |source: &str, to: SocketAddr, is_http: bool| -> Result<TcpStream> {
        let mut stream = clients::connect_tcp_from(client(0), to)?;
        write!(stream, "PROXY TCP4 {source} 203.0.113.1 1234 80\r\n")?;
        if is_http {
            let answer = clients::http_get_on(&mut stream, "web", "/")?;
            ensure!(answer.status == 200, "{answer:?}");
        } else {
            clients::ask(&mut stream, "who")?;
        }
        Ok(stream)
    };
    for (name, is_http) in [("plain", false), ("web", true)] {
        let to = at(addresses(&fairway, name)?[0], 80);
        site.client.run(|| -> Result<()> {
            let mut held = Vec::new();
            for source in ["192.168.7.1", "192.168.7.2", "192.168.7.3"] {
                held.push(announced(source, to, is_http)?);
                held.push(announced(source, to, is_http)?);
            }
            for source in ["192.168.7.1", "192.168.7.2"] {
                ensure!(announced(source, to, is_http).is_err(), "{name}: {source}");
            }
            // The proxy is refused nothing for its clients.
            held.push(announced("192.168.7.4", to, is_http)?);
            // Others are judged by their own addresses.
            held.push(hold(client(1), to, is_http)?);
            held.push(hold(client(1), to, is_http)?);
            ensure!(hold(client(1), to, is_http).is_err(), "{name}: a third");
            Ok(())
        })?;
    }
    Ok(())
}

fn an_edit_counts_what_is_there() -> Result<()> {
    let site = site()?;
    let _plain = named(
        &site.farm,
        &[("a", at(server(0), 8080)), ("b", at(server(1), 8080))],
    )?;
    let document = |limit: &str, servers: &[IpAddr]| {
        all(&[
            &pools(),
            &service("shop", &[("connections-per-client", limit)], PLAIN),
            &slice("shop", 8080, servers),
        ])
    };
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &document("4", &[server(0)]))])?;
    let to = at(addresses(&fairway, "shop")?[0], 80);
    let mut held = Vec::new();
    let mut more = |count: usize| -> Result<()> {
        for _ in 0..count {
            held.push(site.client.run(|| hold(client(1), to, false))?);
        }
        Ok(())
    };
    let is_full = || site.client.run(|| hold(client(1), to, false).is_err());
    more(3)?;
    // Another endpoint is another route, and the count stays.
    fairway.write("shop.yaml", &document("4", &[server(1)]))?;
    wait::until("the other endpoint serves", || {
        site.client
            .run(|| clients::who_from(client(2), to).is_ok_and(|who| who == "b"))
    })?;
    more(1)?;
    ensure!(is_full(), "a fifth");
    fairway.write("shop.yaml", &document("6", &[server(1)]))?;
    wait::until("there is room for more", || !is_full())?;
    more(2)?;
    ensure!(is_full(), "a seventh");
    fairway.write("shop.yaml", &document("2", &[server(1)]))?;
    fairway.explains("default/shop", &["2 connections per client"])?;
    // Four too many: two have to go before the next may come.
    for left in (0..6).rev() {
        held.truncate(left);
        if left >= 2 {
            ensure!(is_full(), "with {left}");
        }
    }
    wait::until("there is room again", || !is_full())?;
    fairway.write("shop.yaml", &document("0", &[server(1)]))?;
    fairway.explains("default/shop", &["takes traffic"])?;
    wait::until("there is no limit", || {
        site.client.run(|| {
            let many: Vec<_> = (0..20).map(|_| hold(client(1), to, false)).collect();
            many.iter().all(Result::is_ok)
        })
    })
}

fn however_connections_end_none_is_counted_for_ever() -> Result<()> {
    const SEED: u64 = 20_261_201;
    println!("seed {SEED}");
    let site = site()?;
    let _plain = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let _web = named_http(&site.farm, &[("a", at(server(1), 8080))])?;
    let _resetting = resetting(&site.farm, at(server(2), 8080))?;
    let limit = [("connections-per-client", "8")];
    let manifests = |plain: &[IpAddr], web: &[IpAddr]| {
        all(&[
            &pools(),
            &service("plain", &limit, PLAIN),
            &slice("plain", 8080, plain),
            &service("web", &limit, HTTP),
            &slice("web", 8080, web),
        ])
    };
    // The others reset and refuse.
    let bad = [server(2), server(3)];
    let some = manifests(&[server(0), bad[0], bad[1]], &[server(1), bad[0], bad[1]]);
    let fairway = Fairway::start(&site.edge, &[("all.yaml", &some)])?;
    let mut random = Random::new(SEED);
    for name in ["plain", "web"] {
        let to = at(addresses(&fairway, name)?[0], 80);
        site.client.run(|| -> Result<()> {
            let mut open: Vec<TcpStream> = Vec::new();
            for _ in 0..600 {
                if let Ok(mut stream) = clients::connect_tcp_from(client(1), to) {
                    let words: [&[u8]; 4] = [
                        b"",
                        b"who\n",
                        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
                        b"\x16\x03",
                    ];
                    let _ = stream.write_all(words[random.below(words.len())]);
                    match random.below(4) {
                        0 => drop(stream.shutdown(std::net::Shutdown::Write)),
                        1 => {
                            stream.set_read_timeout(Some(Duration::from_millis(5)))?;
                            let _ = stream.read(&mut [0; 64]);
                        }
                        _ => {}
                    }
                    open.push(stream);
                }
                while open.len() > 6 || (!open.is_empty() && random.below(3) == 0) {
                    let stream = open.swap_remove(random.below(open.len()));
                    if random.below(2) == 0 {
                        clients::reset(&stream);
                    }
                }
            }
            Ok(())
        })?;
        wait::until_some("all have ended", || {
            let label = format!("service=\"{name}\"");
            let active = fairway.metric("fairway_connections_active", &[&label])?;
            ensure!(
                active == 0.0,
                "{active} of {name}: {}",
                open_sockets(&site)?
            );
            Ok(())
        })?;
    }
    fairway.write("all.yaml", &manifests(&[server(0)], &[server(1)]))?;
    for (name, is_http) in [("plain", false), ("web", true)] {
        let to = at(addresses(&fairway, name)?[0], 80);
        wait::until_some(
            "eight connections are there again, and a ninth is not",
            || {
                site.client.run(|| {
                    let held: Result<Vec<_>> =
                        (0..8).map(|_| hold(client(1), to, is_http)).collect();
                    let held = held.context(name)?;
                    ensure!(hold(client(1), to, is_http).is_err(), "{name}: a ninth");
                    drop(held);
                    Ok(())
                })
            },
        )?;
    }
    Ok(())
}

fn flags_are_the_default_and_annotations_win() -> Result<()> {
    let site = site()?;
    let _plain = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let manifests = all(&[
        &pools(),
        &service("default-one", &[], PLAIN),
        &slice("default-one", 8080, &[server(0)]),
        &service("more", &[("connections-per-client", "4")], PLAIN),
        &slice("more", 8080, &[server(0)]),
        &service("any", &[("connections-per-client", "0")], PLAIN),
        &slice("any", 8080, &[server(0)]),
    ]);
    let mut fairway = Fairway::prepare(&site.edge)?
        .arguments(&["--connections-per-client", "2"])
        .environment(&[("FAIRWAY_NEW_CONNECTIONS_PER_SECOND", "1000;burst=2000")]);
    fairway.write("all.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    for (name, wanted) in [("default-one", 2), ("more", 4), ("any", 10)] {
        let to = at(addresses(&fairway, name)?[0], 80);
        let held = site.client.run(|| {
            let tries = (0..10).map(|_| hold(client(1), to, false));
            tries.filter_map(Result::ok).collect::<Vec<_>>()
        });
        ensure!(held.len() == wanted, "{name}: {}", held.len());
    }
    fairway.explains(
        "default/more",
        &[
            "4 connections per client",
            "1000 new connections per second per client (2000 at once)",
        ],
    )
}

fn a_limit_that_can_not_be_read_closes_the_port_and_is_said() -> Result<()> {
    let site = site()?;
    let _server = named(&site.farm, &[("a", at(server(0), 8080))])?;
    let document = |annotations: &[(&str, &str)]| {
        let ports = format!("{{name: web, {}", &PLAIN[1..]);
        all(&[
            &pools(),
            &service("shop", annotations, &ports),
            &slice_of("shop", &[("web", "TCP", 8080)], &[server(0)]),
        ])
    };
    let bad = document(&[("connections-per-client", "80=2O")]);
    let fairway = Fairway::start(&site.edge, &[("shop.yaml", &bad)])?;
    let words = ["connections-per-client", "nobody is let in at this port"];
    fairway.says("default/shop", &words)?;
    let to = at(addresses(&fairway, "shop")?[0], 80);
    let is_let_in = || site.client.run(|| clients::who(to).is_ok());
    ensure!(!is_let_in(), "somebody got in");
    ensure!(rejected(&fairway, "shop", "unreadable") > 0.0);
    let said = programs::fairway_with_input(&["validate", "-"], bad.as_bytes())?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(words.iter().all(|word| said.contains(word)), "{said}");
    // A time-out keeps nobody out: the default counts.
    fairway.write("shop.yaml", &document(&[("timeout-idle", "90")]))?;
    fairway.says("default/shop", &["timeout-idle", "default counts"])?;
    wait::until("clients are let in", is_let_in)
}
