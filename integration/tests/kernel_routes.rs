//! Addresses as routes of a kernel table, for a routing daemon on the gateway's host: BIRD and FRR with the
//! configurations of `deploy/examples/kernel-routes`.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Host;
use fairway_integration::routers::routed::{
    ID, RoutedSite, edge, edge6, endpoints, fairway, session, web,
};
use fairway_integration::routers::{Bird, Frr, kernel_table};
use fairway_integration::site::{vip, vip6};
use fairway_integration::{clients, tests, wait};
use rustix::process::{Pid, Signal, kill_process};

tests![
    bird_tells_the_router_of_the_kernels_routes_and_they_go_with_the_gateway,
    a_keeper_that_is_stopped_is_noticed_and_replaced,
    frr_tells_the_router_of_the_kernels_routes_and_they_go_with_the_gateway,
    a_stop_removes_the_routes_at_the_router_too,
    without_the_right_to_an_interface_there_are_no_routes_and_people_see_why,
];

const ANNOUNCE: &str = "{routes: kernel}";

fn example(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("deploy/examples/kernel-routes").join(name)
}

fn table_has(host: &Host, count: usize) -> Result<()> {
    wait::until_some(&format!("the table has {count} routes"), || {
        let routes = kernel_table(host)?;
        ensure!(routes.len() == count, "{routes:?}");
        Ok(())
    })
}

/// The process that removes the routes of this one, where there is any.
fn keeper(of: u32) -> Result<Pid> {
    let of = of.to_string();
    let listed = clients::output("ps", &["--ppid", &of, "-o", "pid=,args="])?;
    let line = listed
        .lines()
        .find(|line| line.contains("keep-kernel-routes"));
    let line = line.with_context(|| format!("no keeper: {listed}"))?;
    let number = line.split_whitespace().next().context("no number")?;
    Pid::from_raw(number.parse()?).context("no process")
}

fn another_keeper(gateway: &mut Fairway, than: Pid) -> Result<()> {
    let of = gateway.process()?.id();
    wait::until_some("there is another keeper", || {
        let now = keeper(of)?;
        ensure!(now != than, "{now:?}");
        Ok(())
    })
}

/// Each fault takes the routes back, at the router as well, and they return.
fn faults(
    gateway: &mut Fairway,
    host: &Host,
    count: usize,
    reached: impl Fn(bool) -> Result<()>,
) -> Result<()> {
    table_has(host, count)?;
    reached(true)?;
    gateway.explains(
        "default/web",
        &["The kernel's table 251 has a route to 203.0.113.1"],
    )?;
    let routes = gateway.metric("fairway_kernel_routes", &[])?;
    ensure!((routes - 2.0).abs() < 0.1, "{routes}");
    // No endpoint.
    gateway.remove("endpoints.yaml")?;
    reached(false)?;
    gateway.write("endpoints.yaml", &endpoints())?;
    reached(true)?;
    // Frozen.
    let began = Instant::now();
    gateway.process()?.signal(Signal::STOP)?;
    table_has(host, 0)?;
    println!("frozen: the table is empty after {:?}", began.elapsed());
    reached(false)?;
    println!("frozen: the router knows after {:?}", began.elapsed());
    gateway.process()?.signal(Signal::CONT)?;
    reached(true)?;
    // Killed.
    let began = Instant::now();
    gateway.kill();
    table_has(host, 0)?;
    println!("killed: the table is empty after {:?}", began.elapsed());
    reached(false)?;
    println!("killed: the router knows after {:?}", began.elapsed());
    let links = host.run(|| clients::output("ip", &["link"]))?;
    ensure!(!links.contains("fairway-routes"), "{links}");
    gateway.launch()?;
    gateway.ready()?;
    reached(true)
}

fn bird_tells_the_router_of_the_kernels_routes_and_they_go_with_the_gateway() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let tor = Bird::start(&site.router, ID, &session(1, ""))?;
    let host = &site.edge(1)?.host;
    let of_host = Bird::with_configuration(host, &fs::read_to_string(example("bird.conf"))?)?;
    let mut gateway = fairway(site.edge(1)?, ANNOUNCE, &[])?;
    of_host.established("tor")?;
    let reached = |is: bool| {
        let ways: &[(IpAddr, IpAddr)] = &[(vip(1), edge(1)), (vip6(1), edge6(1))];
        ways.iter().try_for_each(|(address, by)| {
            let by: &[IpAddr] = if is { &[*by] } else { &[] };
            tor.reaches(*address, by)
        })
    };
    faults(&mut gateway, host, 2, reached)?;
    for address in [vip(1), vip6(1)] {
        ensure!(site.answers(address)?.contains("edge-1"), "{address}");
    }
    // A keeper that is killed takes the routes with it, and another one is there at once.
    let killed = keeper(gateway.process()?.id())?;
    kill_process(killed, Signal::KILL)?;
    another_keeper(&mut gateway, killed)?;
    table_has(host, 2)?;
    // Both are killed at once, as where a container ends: the routes go with the interface.
    let both = keeper(gateway.process()?.id())?;
    gateway.process()?.signal(Signal::STOP)?;
    kill_process(both, Signal::KILL)?;
    gateway.kill();
    table_has(host, 0)?;
    reached(false)
}

fn a_keeper_that_is_stopped_is_noticed_and_replaced() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let host = &site.edge(1)?.host;
    let mut gateway = fairway(site.edge(1)?, ANNOUNCE, &[])?;
    table_has(host, 2)?;
    let stopped = keeper(gateway.process()?.id())?;
    let status = format!("/proc/{}/status", stopped.as_raw_nonzero());
    let status = fs::read_to_string(status)?;
    // CAP_NET_ADMIN, and no other.
    ensure!(status.contains("CapEff:\t0000000000001000\n"), "{status}");
    let began = Instant::now();
    kill_process(stopped, Signal::STOP)?;
    another_keeper(&mut gateway, stopped)?;
    println!(
        "stopped: there is another keeper after {:?}",
        began.elapsed()
    );
    table_has(host, 2)?;
    gateway.logs(&["the process that removes the kernel's routes is lost"])?;
    // The new one does its work.
    gateway.process()?.signal(Signal::STOP)?;
    table_has(host, 0)?;
    gateway.process()?.signal(Signal::CONT)?;
    table_has(host, 2)?;
    // The keeper is stopped, and the gateway dies before it notices: it goes on and removes the routes.
    kill_process(keeper(gateway.process()?.id())?, Signal::STOP)?;
    gateway.kill();
    table_has(host, 0)
}

fn frr_tells_the_router_of_the_kernels_routes_and_they_go_with_the_gateway() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let tor = Bird::start(&site.router, ID, &session(1, ""))?;
    let host = &site.edge(1)?.host;
    let frr = Frr::start(host, "")?;
    frr.read(&example("frr.conf"))?;
    let mut gateway = fairway(site.edge(1)?, ANNOUNCE, &[])?;
    let by = [edge(1)];
    let reached = |is: bool| tor.reaches(vip(1), if is { &by } else { &[] });
    faults(&mut gateway, host, 2, reached)?;
    ensure!(site.answers(vip(1))?.contains("edge-1"));
    Ok(())
}

fn a_stop_removes_the_routes_at_the_router_too() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let tor = Bird::start(&site.router, ID, &session(1, ""))?;
    let host = &site.edge(1)?.host;
    let _bird = Bird::with_configuration(host, &fs::read_to_string(example("bird.conf"))?)?;
    let mut gateway = fairway(site.edge(1)?, ANNOUNCE, &[])?;
    tor.reaches(vip(1), &[edge(1)])?;
    // As a supervisor does that stops all processes of a unit.
    kill_process(keeper(gateway.process()?.id())?, Signal::TERM)?;
    gateway.process()?.signal(Signal::TERM)?;
    tor.reaches(vip(1), &[])?;
    gateway.process()?.wait(wait::SOON)?;
    table_has(host, 0)
}

fn without_the_right_to_an_interface_there_are_no_routes_and_people_see_why() -> Result<()> {
    let site = RoutedSite::new(1)?;
    let edge = site.edge(1)?;
    // The addresses are local, so that they are served.
    let own = [(vip(1), 32), (vip6(1), 128)];
    edge.host.addresses("up", &own)?;
    let mut gateway = Fairway::prepare(&edge.host)?
        .arguments(&["--node-name", &edge.name])
        .capabilities(&["NET_BIND_SERVICE"]);
    gateway.write("web.yaml", &web(ANNOUNCE))?;
    gateway.write("endpoints.yaml", &endpoints())?;
    gateway.launch()?;
    gateway.ready()?;
    gateway.explains(
        "default/web",
        &[
            "has no route to 203.0.113.1",
            "the interface fairway-routes can't be made",
        ],
    )?;
    table_has(&edge.host, 0)
}
