//! What happens while Fairway runs: Services, endpoints and the process itself come and go.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::manifest::{all, edge_pool, load_balancer, service, slice, slice_of};
use fairway_integration::servers::{named, named_udp};
use fairway_integration::site::{EDGE, Site, at, server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    services_come_and_go,
    a_type_is_changed_on_a_live_service,
    ports_are_changed_on_a_live_service,
    an_address_moves_from_one_service_to_another,
    connections_of_another_service_notice_nothing,
    an_endpoint_that_goes_drains_until_the_deadline,
    a_flow_leaves_an_endpoint_that_goes,
    a_connection_of_a_service_that_goes_is_cut_after_the_deadline,
    on_sigterm_what_runs_is_finished,
    on_sigterm_what_does_not_end_is_cut_after_the_deadline,
    on_a_second_sigterm_connections_are_cut_and_no_route_is_left,
    flows_do_not_hold_an_exit,
    a_burst_of_changes_is_taken_in_a_bounded_number_of_passes,
];

fn who(site: &Site, to: SocketAddr) -> Option<String> {
    site.client.run(|| clients::who(to).ok())
}

fn start(site: &Site, arguments: &[&str], manifests: &str) -> Result<Fairway> {
    let mut fairway = Fairway::prepare(&site.edge)?.arguments(arguments);
    fairway.write("all.yaml", manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    Ok(fairway)
}

fn shop(endpoints: &[IpAddr]) -> String {
    all(&[
        &edge_pool(),
        &load_balancer("shop", vip(1), 80, 80),
        &slice("shop", 80, endpoints),
    ])
}

/// Waits until a connection is cut that has always had this answer; not for the default time to
/// drain.
fn until_cut(stream: &mut TcpStream, mine: &str) -> Result<()> {
    let mut moved = None;
    wait::until_within(Duration::from_secs(25), "the connection is cut", || {
        let answer = clients::ask(stream, "who");
        moved = moved
            .take()
            .or(answer.as_ref().ok().cloned().filter(|it| it != mine));
        answer.is_err()
    })?;
    ensure!(moved.is_none(), "it was {mine} and became {moved:?}");
    Ok(())
}

fn services_come_and_go() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(
        &site.farm,
        &[("a", at(server(0), 80)), ("b", at(server(1), 80))],
    )?;
    let fairway = start(&site, &[], &edge_pool())?;
    for round in 0..3 {
        fairway.write(
            "shop.yaml",
            &all(&[
                &load_balancer("shop", vip(1), 80, 80),
                &slice("shop", 80, &[server(0)]),
            ]),
        )?;
        wait::until("the Service answers", || {
            who(&site, at(vip(1), 80)).as_deref() == Some("a")
        })
        .with_context(|| format!("round {round}"))?;
        fairway.remove("shop.yaml")?;
        wait::until("the Service is gone", || {
            who(&site, at(vip(1), 80)).is_none()
        })?;
        wait::until("its listeners are gone", || {
            fairway.list("listeners").is_ok_and(|rows| rows.is_empty())
        })?;
    }
    // The address is no longer this host's either, once the last connection there is over.
    wait::until_some("its local route is gone", || {
        let routes = site
            .edge
            .run(|| clients::output("ip", &["route", "show", "table", "local"]))?;
        ensure!(!routes.contains("203.0.113."), "{routes}");
        Ok(())
    })
}

fn a_type_is_changed_on_a_live_service() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(&site.farm, &[("a", at(server(0), 80))])?;
    let of_type = |kind: &str| {
        all(&[
            &edge_pool(),
            &service("shop", &format!("type: {kind}, ports: [{{port: 80}}]")),
            &slice("shop", 80, &[server(0)]),
        ])
    };
    let fairway = start(&site, &[], &of_type("ClusterIP"))?;
    ensure!(fairway.list("listeners")?.is_empty());
    fairway.write("all.yaml", &of_type("NodePort"))?;
    let node_port = wait::until_some("there is a node port", || {
        fairway
            .node_ports("default/shop")?
            .first()
            .copied()
            .context("none")
    })?;
    wait::until("the node port answers", || {
        who(&site, at(EDGE, node_port)).as_deref() == Some("a")
    })?;
    fairway.write("all.yaml", &of_type("LoadBalancer"))?;
    let address: IpAddr = fairway.address("default/shop")?.parse()?;
    wait::until("the address answers", || {
        who(&site, at(address, 80)).as_deref() == Some("a")
    })?;
    ensure!(
        fairway.node_ports("default/shop")? == [node_port],
        "the node port has changed"
    );
    fairway.write("all.yaml", &of_type("ClusterIP"))?;
    wait::until("nothing answers", || {
        who(&site, at(address, 80)).is_none() && who(&site, at(EDGE, node_port)).is_none()
    })?;
    wait::until("the status is empty", || {
        fairway
            .external_ips("default/shop")
            .is_ok_and(|addresses| addresses.is_empty())
    })
}

fn ports_are_changed_on_a_live_service() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(&site.farm, &[("a", at(server(0), 80))])?;
    let with = |ports: &str| {
        all(&[
            &edge_pool(),
            &service("shop", &format!("type: LoadBalancer, ports: [{ports}]")),
            &slice("shop", 80, &[server(0)]),
        ])
    };
    let fairway = start(&site, &[], &with("{port: 80, nodePort: 30010}"))?;
    let address: IpAddr = fairway.address("default/shop")?.parse()?;
    ensure!(who(&site, at(EDGE, 30010)).as_deref() == Some("a"));
    fairway.write(
        "all.yaml",
        &with("{port: 81, targetPort: 80, nodePort: 30011}"),
    )?;
    wait::until("the new ports answer and the old ones do not", || {
        who(&site, at(address, 81)).as_deref() == Some("a")
            && who(&site, at(EDGE, 30011)).as_deref() == Some("a")
            && who(&site, at(address, 80)).is_none()
            && who(&site, at(EDGE, 30010)).is_none()
    })?;
    ensure!(
        fairway.address("default/shop")? == address.to_string(),
        "the address has changed"
    );
    Ok(())
}

fn an_address_moves_from_one_service_to_another() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(
        &site.farm,
        &[("a", at(server(0), 80)), ("b", at(server(1), 80))],
    )?;
    let fairway = start(&site, &[], &shop(&[server(0)]))?;
    let heir = all(&[
        &load_balancer("heir", vip(1), 80, 80),
        &slice("heir", 80, &[server(1)]),
    ]);
    fairway.write("heir.yaml", &heir)?;
    fairway.says("default/heir", &[&vip(1).to_string(), "default/shop"])?;
    ensure!(who(&site, at(vip(1), 80)).as_deref() == Some("a"));
    fairway.write("all.yaml", &edge_pool())?;
    wait::until("the heir answers", || {
        who(&site, at(vip(1), 80)).as_deref() == Some("b")
    })
}

fn connections_of_another_service_notice_nothing() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(&site.farm, &[("a", at(server(0), 80))])?;
    let _udp = named_udp(&site.farm, &[("a", at(server(0), 80))])?;
    let quiet = all(&[
        &edge_pool(),
        &service(
            "quiet",
            "type: LoadBalancer, ports: [{name: t, port: 80}, {name: u, port: 80, protocol: UDP}]",
        ),
        &slice_of("quiet", &[("t", "TCP", 80), ("u", "UDP", 80)], &[server(0)]),
    ]);
    let fairway = start(&site, &[], &quiet)?;
    let to = at(fairway.address("default/quiet")?.parse()?, 80);
    site.client.run(|| {
        let mut stream = clients::connect_tcp(to)?;
        let socket = clients::udp(None, to)?;
        let (tcp, udp) = (
            clients::ask(&mut stream, "who")?,
            clients::ask_udp(&socket, "who")?,
        );
        for round in 0_u8..10 {
            let busy = load_balancer("busy", vip(9), 80 + u16::from(round), 80);
            fairway.write(
                "busy.yaml",
                &all(&[&busy, &slice("busy", 80, &[server(round % 3)])]),
            )?;
            wait::until("the change is in force", || {
                clients::connect_tcp(at(vip(9), 80 + u16::from(round))).is_ok()
            })?;
            // The answers hold the addresses that the server sees: the same connection and flow.
            ensure!(clients::ask(&mut stream, "who")? == tcp, "round {round}");
            ensure!(clients::ask_udp(&socket, "who")? == udp, "round {round}");
        }
        fairway.remove("busy.yaml")?;
        wait::until("the Service is gone", || {
            clients::connect_tcp(at(vip(9), 89)).is_err()
        })?;
        ensure!(clients::ask(&mut stream, "who")? == tcp);
        ensure!(clients::ask_udp(&socket, "who")? == udp);
        Ok(())
    })
}

fn an_endpoint_that_goes_drains_until_the_deadline() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(
        &site.farm,
        &[("a", at(server(0), 80)), ("b", at(server(1), 80))],
    )?;
    let fairway = start(&site, &["--drain-timeout", "2s"], &shop(&[server(0)]))?;
    site.client.run(|| {
        let mut stream = clients::connect_tcp(at(vip(1), 80))?;
        let mine = clients::ask(&mut stream, "who")?;
        let changed = Instant::now();
        fairway.write("all.yaml", &shop(&[server(1)]))?;
        wait::until("new connections go to b", || {
            clients::who(at(vip(1), 80)).is_ok_and(|who| who == "b")
        })?;
        until_cut(&mut stream, &mine)?;
        // Not before the deadline, which began after the change was made.
        let after = changed.elapsed();
        ensure!(after >= Duration::from_secs(2), "after {after:?}");
        Ok(())
    })
}

fn a_flow_leaves_an_endpoint_that_goes() -> Result<()> {
    let site = Site::new()?;
    let _servers = named_udp(
        &site.farm,
        &[("a", at(server(0), 53)), ("b", at(server(1), 53))],
    )?;
    let with = |endpoints: &[IpAddr]| {
        all(&[
            &edge_pool(),
            &service(
                "dns",
                "type: LoadBalancer, ports: [{port: 53, protocol: UDP}]",
            ),
            &slice_of("dns", &[("", "UDP", 53)], endpoints),
        ])
    };
    let fairway = start(&site, &[], &with(&[server(0)]))?;
    let to = at(fairway.address("default/dns")?.parse()?, 53);
    site.client.run(|| {
        // One socket, so one flow, all along.
        let socket = clients::udp(None, to)?;
        ensure!(clients::ask_udp(&socket, "who")?.starts_with("a "));
        fairway.write("all.yaml", &with(&[]))?;
        wait::until("nobody answers", || {
            socket.send(b"who").is_err() || socket.recv(&mut [0; 64]).is_err()
        })?;
        fairway.write("all.yaml", &with(&[server(1)]))?;
        wait::until("the flow goes to b", || {
            clients::ask_udp(&socket, "who").is_ok_and(|answer| answer.starts_with("b "))
        })
    })
}

fn a_connection_of_a_service_that_goes_is_cut_after_the_deadline() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(&site.farm, &[("a", at(server(0), 80))])?;
    let fairway = start(&site, &["--drain-timeout", "1s"], &shop(&[server(0)]))?;
    site.client.run(|| {
        let mut stream = clients::connect_tcp(at(vip(1), 80))?;
        let mine = clients::ask(&mut stream, "who")?;
        let changed = Instant::now();
        fairway.write("all.yaml", &edge_pool())?;
        wait::until("nobody is let in", || {
            clients::connect_tcp(at(vip(1), 80)).is_err()
        })?;
        until_cut(&mut stream, &mine)?;
        let after = changed.elapsed();
        ensure!(after >= Duration::from_secs(1), "after {after:?}");
        Ok(())
    })
}

fn on_sigterm_what_runs_is_finished() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(&site.farm, &[("a", at(server(0), 80))])?;
    let mut fairway = start(&site, &["--drain-timeout", "600s"], &shop(&[server(0)]))?;
    let mut stream = site.client.run(|| clients::connect_tcp(at(vip(1), 80)))?;
    clients::ask(&mut stream, "who")?;
    fairway.process()?.signal(rustix::process::Signal::TERM)?;
    wait::until("nobody is let in", || who(&site, at(vip(1), 80)).is_none())?;
    clients::ask(&mut stream, "who").context("what runs was cut")?;
    ensure!(fairway.process()?.ended()?.is_none(), "it did not wait");
    drop(stream);
    let status = fairway.process()?.wait(wait::SOON)?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

fn on_sigterm_what_does_not_end_is_cut_after_the_deadline() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(&site.farm, &[("a", at(server(0), 80))])?;
    let mut fairway = start(&site, &["--drain-timeout", "1s"], &shop(&[server(0)]))?;
    let mut stream = site.client.run(|| clients::connect_tcp(at(vip(1), 80)))?;
    clients::ask(&mut stream, "who")?;
    let start = Instant::now();
    let status = fairway.stop_within(Duration::from_secs(25))?;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(
        start.elapsed() >= Duration::from_secs(1),
        "after {:?}",
        start.elapsed()
    );
    let end = stream.read(&mut [0]);
    ensure!(
        matches!(&end, Ok(0)) || matches!(&end, Err(e) if e.kind() == ErrorKind::ConnectionReset),
        "{end:?}"
    );
    Ok(())
}

fn on_a_second_sigterm_connections_are_cut_and_no_route_is_left() -> Result<()> {
    let site = Site::new()?;
    let _servers = named(&site.farm, &[("a", at(server(0), 80))])?;
    let mut fairway = start(&site, &["--drain-timeout", "10m"], &shop(&[server(0)]))?;
    let mut stream = site.client.run(|| clients::connect_tcp(at(vip(1), 80)))?;
    clients::ask(&mut stream, "who")?;
    let routes = || {
        let show = ["-4", "route", "show", "table", "local", "proto", "70"];
        site.edge.run(|| clients::output("ip", &show))
    };
    ensure!(!routes()?.is_empty(), "there is no route");
    fairway.process()?.signal(rustix::process::Signal::TERM)?;
    site.client.run(|| {
        wait::until("nothing is accepted any more", || {
            clients::connect_tcp(at(vip(1), 80)).is_err()
        })
    })?;
    fairway.stop_within(Duration::from_secs(25))?;
    let end = stream.read(&mut [0]);
    ensure!(
        matches!(&end, Ok(0)) || matches!(&end, Err(e) if e.kind() == ErrorKind::ConnectionReset),
        "{end:?}"
    );
    let left = routes()?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

fn flows_do_not_hold_an_exit() -> Result<()> {
    let site = Site::new()?;
    let _servers = named_udp(&site.farm, &[("a", at(server(0), 53))])?;
    let manifests = all(&[
        &edge_pool(),
        &service(
            "dns",
            "type: LoadBalancer, ports: [{port: 53, protocol: UDP}]",
        ),
        &slice_of("dns", &[("", "UDP", 53)], &[server(0)]),
    ]);
    let mut fairway = start(&site, &["--drain-timeout", "600s"], &manifests)?;
    let to = at(fairway.address("default/dns")?.parse()?, 53);
    site.client.run(|| clients::who_udp(None, to))?;
    let status = fairway.stop_within(wait::SOON)?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

fn a_burst_of_changes_is_taken_in_a_bounded_number_of_passes() -> Result<()> {
    const BURST: u16 = 1000;
    let site = Site::new()?;
    let _servers = named(&site.farm, &[("a", at(server(0), 80))])?;
    let fairway = start(&site, &[], &shop(&[server(0)]))?;
    let passes = || fairway.metric("fairway_manifest_passes_total", &[]);
    let before = passes()?;
    // A thousand changes in about a second or more, of a Service that is otherwise left alone, and
    // on until the first has been seen: it is taken at once, not after the burst.
    let start = Instant::now();
    let first = all(&[
        &load_balancer("first", vip(8), 80, 80),
        &slice("first", 80, &[server(0)]),
    ]);
    let seen = AtomicBool::new(false);
    let last = thread::scope(|scope| -> Result<u16> {
        let burst = scope.spawn(|| -> Result<u16> {
            fairway.write("first.yaml", &first)?;
            for n in 0..u16::MAX {
                let port = 2000 + n % 10_000;
                let busy = load_balancer("busy", vip(9), port, 80);
                fairway.write(
                    "busy.yaml",
                    &all(&[&busy, &slice("busy", 80, &[server(0)])]),
                )?;
                if n + 1 >= BURST && seen.load(Ordering::Relaxed) {
                    return Ok(port);
                }
                let due = Duration::from_millis(u64::from(n));
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            bail!("the first change was not seen during the burst")
        });
        let first = wait::until("the first change is in force", || {
            who(&site, at(vip(8), 80)).as_deref() == Some("a")
        });
        seen.store(first.is_ok(), Ordering::Relaxed);
        let last = burst.join().ok().context("the burst panicked")?;
        first.and(last)
    })?;
    wait::until("the last change is in force", || {
        who(&site, at(vip(9), last)).as_deref() == Some("a")
    })?;
    let passes = passes()? - before;
    let seconds = start.elapsed().as_secs_f64();
    // At most one in 10 ms, however many files are written.
    ensure!(
        passes < 100.0 * seconds + 3.0,
        "{passes} passes in {seconds:.1} s"
    );
    ensure!(who(&site, at(vip(1), 80)).as_deref() == Some("a"));
    Ok(())
}
