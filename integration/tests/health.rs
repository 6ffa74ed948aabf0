//! Endpoints that die, refuse, reset, say nothing, and come back: how many clients notice, and for how long.
//!
//! Each test prints what it has measured.

use std::fmt;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::{Fairway, text};
use fairway_integration::lab::Served;
use fairway_integration::manifest::{all, edge_pool, load_balancer, slice, slice_of};
use fairway_integration::servers::{named, named_http, named_udp, resetting, stopped};
use fairway_integration::site::{BLACK_HOLE, Site, at, server, vip};
use fairway_integration::{clients, tests, wait};

tests![
    of_twelve_clients_one_is_slow_where_a_server_is_silent,
    with_affinity_one_is_slow_too,
    a_server_that_is_killed_and_comes_back_costs_nobody_anything,
    a_server_that_vanishes_and_comes_back_costs_one_client_its_time,
    on_connections_that_are_kept_open_one_request_is_slow_where_a_server_vanishes,
    a_request_that_may_not_be_repeated_fails_soon_and_the_next_one_goes_elsewhere,
    a_server_that_resets_is_left_alone,
    a_server_that_is_stopped_is_left_alone_once_its_queue_is_full,
    a_server_that_comes_and_goes_costs_nobody_anything,
    where_all_are_dead_it_is_said_and_the_first_that_is_back_serves,
    flows_leave_an_endpoint_that_refuses_datagrams,
    a_request_does_not_go_on_with_a_server_that_was_removed_while_it_was_dialled,
];

/// A client that waits this long says that it is slow.
const SLOW: Duration = Duration::from_millis(1000);

/// How a port is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcp,
    Http,
    /// HTTP, to endpoints that are spoken to by HTTP/2.
    H2c,
}

impl Way {
    const ALL: [Self; 2] = [Self::Tcp, Self::Http];

    /// A Service of this way at an external address.
    fn service(self, name: &str, address: IpAddr) -> String {
        let service = load_balancer(name, address, 80, 8080);
        match self {
            Self::Tcp => service,
            Self::Http => service.replace("port: 80,", "port: 80, appProtocol: http,"),
            Self::H2c => service.replace("port: 80,", "port: 80, appProtocol: kubernetes.io/h2c,"),
        }
    }

    /// A server that says its name.
    fn serve(self, site: &Site, name: &str, at: SocketAddr) -> Result<Served> {
        match self {
            Self::Tcp => named(&site.farm, &[(name, at)]),
            Self::Http | Self::H2c => named_http(&site.farm, &[(name, at)]),
        }
    }

    /// What a client is served, on a connection of its own.
    fn ask(self, to: SocketAddr) -> Result<String> {
        match self {
            Self::Tcp => Ok(clients::who(to)?),
            Self::Http | Self::H2c => {
                let answer = clients::http_get(to, "/")?;
                ensure!(answer.status == 200, "{answer:?}");
                Ok(answer.body)
            }
        }
    }
}

/// What clients have seen.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    clients: usize,
    failed: usize,
    slow: usize,
    slowest: Duration,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            clients,
            failed,
            slow,
            slowest,
        } = self;
        write!(
            f,
            "{clients} clients: {failed} failed, {slow} slow, the slowest took {slowest:?}"
        )
    }
}

/// A site with a Service and its Fairway.
struct Bed {
    way: Way,
    site: Site,
    fairway: Fairway,
}

impl Bed {
    fn new(way: Way, endpoints: &[IpAddr]) -> Result<Self> {
        Self::with(way, endpoints, "")
    }

    /// The same. The Service's spec begins with `extra`.
    fn with(way: Way, endpoints: &[IpAddr], extra: &str) -> Result<Self> {
        let site = Site::new()?;
        let service = way.service("shop", vip(1));
        let service = service.replace(
            "type: LoadBalancer,",
            &format!("type: LoadBalancer, {extra}"),
        );
        let manifests = all(&[&edge_pool(), &service, &slice("shop", 8080, endpoints)]);
        let fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
        fairway.says("default/shop", &["fairway.dev/Programmed=True"])?;
        Ok(Self { way, site, fairway })
    }

    fn server(&self, number: u8) -> Result<Served> {
        let at = at(server(number), 8080);
        self.way.serve(&self.site, &format!("server-{number}"), at)
    }

    /// One client.
    fn client(&self) -> Result<String> {
        self.site.client.run(|| self.way.ask(at(vip(1), 80)))
    }

    /// One client, which is counted.
    fn count(&self, tally: &mut Tally) {
        let began = Instant::now();
        let answer = self.client();
        let took = began.elapsed();
        tally.clients += 1;
        tally.failed += usize::from(answer.is_err());
        tally.slow += usize::from(took >= SLOW);
        tally.slowest = tally.slowest.max(took);
    }

    /// So many clients, one after the other.
    fn clients(&self, count: usize) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..count {
            self.count(&mut tally);
        }
        tally
    }

    /// Has each worker keep a connection to each of two servers: a client's connection has one worker, and its requests
    /// go to each server in turn.
    fn keep_connections(
        &self,
        ask: impl Fn(&mut TcpStream) -> Result<clients::Response> + Send + Sync,
    ) -> Result<()> {
        self.site.client.run(|| {
            for _ in 0..12 {
                let mut stream = clients::connect_tcp(at(vip(1), 80))?;
                for _ in 0..4 {
                    let answer = ask(&mut stream)?;
                    ensure!(answer.status == 200, "{answer:?}");
                }
            }
            Ok(())
        })
    }

    /// Clients, one after the other, until something is so. How long that took.
    fn until(
        &self,
        what: &str,
        tally: &mut Tally,
        is_so: impl Fn(&Self) -> Result<bool>,
    ) -> Result<Duration> {
        let began = Instant::now();
        while !is_so(self)? {
            ensure!(began.elapsed() < wait::SOON, "never: {what}; {tally}");
            self.count(tally);
            // Some twenty clients in a second.
            thread::sleep(Duration::from_millis(50));
        }
        Ok(began.elapsed())
    }

    /// The state of an endpoint, and the reason.
    fn state(&self, of: IpAddr) -> Result<(String, String)> {
        let address = format!("{of}:8080");
        let rows = self.fairway.list("endpoints")?;
        let row = rows.iter().find(|row| text(row, "endpoint") == address);
        let row = row.with_context(|| format!("{address} is not listed"))?;
        Ok((text(row, "state").to_owned(), text(row, "why").to_owned()))
    }

    fn is_left_alone(&self, of: IpAddr) -> Result<bool> {
        let (state, why) = self.state(of)?;
        Ok(state == "unreachable" && why.contains("it is left alone"))
    }

    /// The edge's frames for a server go nowhere: it has vanished.
    fn vanish(&self, of: IpAddr, is_gone: bool) -> Result<()> {
        let last = if is_gone { "98" } else { "99" };
        self.site.edge.ip(&format!(
            "neighbour replace {of} lladdr 02:00:00:00:00:{last} dev back nud permanent"
        ))
    }
}

fn of_twelve_clients_one_is_slow_where_a_server_is_silent() -> Result<()> {
    for way in Way::ALL {
        let mut bed = Bed::new(way, &[server(0), BLACK_HOLE])?;
        let _server = bed.server(0)?;
        let tally = bed.clients(12);
        println!("{way:?}, one of two servers is silent: {tally}");
        ensure!(tally.failed == 0 && tally.slow <= 1, "{way:?}: {tally}");
        ensure!(tally.slowest < Duration::from_secs(3), "{way:?}: {tally}");
        let (state, why) = bed.state(BLACK_HOLE)?;
        ensure!(state == "unreachable", "{state}: {why}");
        ensure!(
            why.starts_with("is unreachable since 2") && why.contains("connect timed out"),
            "{why}"
        );
        ensure!(bed.state(server(0))?.0 == "eligible");
        bed.fairway.logs(&[
            "WARN",
            "it is left alone",
            "default/shop",
            "192.0.2.99:8080",
            "timeout",
        ])?;
        bed.fairway.explains(
            "default/shop",
            &["192.0.2.99:8080", "connect timed out", "it is left alone"],
        )?;
        bed.fairway
            .says("default/shop", &["fairway.dev/Programmed=True"])?;
        bed.fairway.stop()?;
    }
    Ok(())
}

fn with_affinity_one_is_slow_too() -> Result<()> {
    for way in Way::ALL {
        let mut bed = Bed::with(way, &[server(0), server(1)], "sessionAffinity: ClientIP, ")?;
        let _servers = [bed.server(0)?, bed.server(1)?];
        let name = bed.client()?;
        let mine = if name.contains("server-0") { 0 } else { 1 };
        bed.vanish(server(mine), true)?;
        let mut tally = bed.clients(12);
        println!("{way:?}, the client's own server is silent: {tally}");
        ensure!(tally.failed == 0 && tally.slow <= 1, "{way:?}: {tally}");
        bed.vanish(server(mine), false)?;
        let is_back = |bed: &Bed| Ok(bed.client()?.contains(&format!("server-{mine}")));
        let took = bed.until("the client is back", &mut tally, is_back)?;
        println!("{way:?}, it returns after {took:?}: {tally}");
        ensure!(tally.failed == 0 && tally.slow <= 1, "{way:?}: {tally}");
        bed.fairway.stop()?;
    }
    Ok(())
}

fn a_server_that_is_killed_and_comes_back_costs_nobody_anything() -> Result<()> {
    for way in Way::ALL {
        let mut bed = Bed::new(way, &[server(0), server(1)])?;
        let _server = bed.server(0)?;
        let killed = bed.server(1)?;
        let mut tally = bed.clients(20);
        // No client is at it now.
        drop(killed);
        let left_alone = |bed: &Bed| bed.is_left_alone(server(1));
        let out = bed.until("it is left alone", &mut tally, left_alone)?;
        let _back = bed.server(1)?;
        let back = bed.until("it is taken back", &mut tally, |bed| {
            Ok(!bed.is_left_alone(server(1))?)
        })?;
        println!("{way:?}, killed: left alone after {out:?}, taken back after {back:?}; {tally}");
        ensure!(tally.failed == 0 && tally.slow == 0, "{way:?}: {tally}");
        ensure!(back < Duration::from_secs(8), "{way:?}: {back:?}");
        bed.fairway.logs(&[
            "endpoint is reached again",
            "default/shop",
            "192.0.2.12:8080",
        ])?;
        bed.fairway.stop()?;
    }
    Ok(())
}

fn a_server_that_vanishes_and_comes_back_costs_one_client_its_time() -> Result<()> {
    for way in Way::ALL {
        let mut bed = Bed::new(way, &[server(0), server(1)])?;
        let _servers = [bed.server(0)?, bed.server(1)?];
        let mut tally = bed.clients(20);
        bed.vanish(server(1), true)?;
        let left_alone = |bed: &Bed| bed.is_left_alone(server(1));
        let out = bed.until("it is left alone", &mut tally, left_alone)?;
        // So long that it is tried twice in vain.
        let tries = |bed: &Bed| Ok(bed.state(server(1))?.1.contains("timed out 3 times"));
        bed.until("it is tried", &mut tally, tries)?;
        bed.vanish(server(1), false)?;
        let back = bed.until("it is taken back", &mut tally, |bed| {
            Ok(!bed.is_left_alone(server(1))?)
        })?;
        println!("{way:?}, vanished: left alone after {out:?}, taken back after {back:?}; {tally}");
        ensure!(tally.failed == 0 && tally.slow <= 1, "{way:?}: {tally}");
        bed.fairway.stop()?;
    }
    Ok(())
}

fn on_connections_that_are_kept_open_one_request_is_slow_where_a_server_vanishes() -> Result<()> {
    for way in [Way::Http, Way::H2c] {
        let mut bed = Bed::new(way, &[server(0), server(1)])?;
        let _servers = [bed.server(0)?, bed.server(1)?];
        bed.keep_connections(|stream| clients::http_get_on(stream, "shop", "/"))?;
        bed.vanish(server(1), true)?;
        let tally = bed.clients(12);
        println!("{way:?}, vanished with connections open: {tally}");
        ensure!(tally.failed == 0 && tally.slow <= 1, "{way:?}: {tally}");
        ensure!(tally.slowest < Duration::from_secs(7), "{way:?}: {tally}");
        let (state, why) = bed.state(server(1))?;
        ensure!(state == "unreachable", "{state}: {why}");
        let service = ["service=\"shop\"", "reason=\"silent\""];
        let silent = bed
            .fairway
            .metric("fairway_connect_errors_total", &service)?;
        ensure!(silent >= 1.0, "{way:?}: {silent}: {why}");
        // Connections from before it was left alone are dead still.
        bed.vanish(server(1), false)?;
        let mut tally = Tally::default();
        bed.until("it is taken back", &mut tally, |bed| {
            Ok(!bed.is_left_alone(server(1))?)
        })?;
        for _ in 0..12 {
            bed.count(&mut tally);
        }
        println!("{way:?}, it is back: {tally}");
        ensure!(tally.failed == 0 && tally.slow == 0, "{way:?}: {tally}");
        bed.fairway.stop()?;
    }
    Ok(())
}

fn a_request_that_may_not_be_repeated_fails_soon_and_the_next_one_goes_elsewhere() -> Result<()> {
    let mut bed = Bed::new(Way::Http, &[server(0), server(1)])?;
    let _servers = [bed.server(0)?, bed.server(1)?];
    let post = |bed: &Bed| -> Result<(u16, Duration)> {
        let began = Instant::now();
        let ask = || clients::http_post(at(vip(1), 80), "/", "one");
        let answer = bed.site.client.run(ask)?;
        Ok((answer.status, began.elapsed()))
    };
    bed.keep_connections(|stream| clients::http_post_on(stream, "shop", "/", "one"))?;
    bed.vanish(server(1), true)?;
    let mut failed = 0;
    for _ in 0..12 {
        let (status, took) = post(&bed)?;
        if status != 200 {
            println!("POST, vanished with connections open: status {status} after {took:?}");
            ensure!(status == 504, "{status}");
            failed += 1;
        }
        ensure!(took < Duration::from_secs(15), "{status} after {took:?}");
    }
    ensure!(failed == 1, "{failed} have failed");
    bed.fairway.stop()
}

fn a_server_that_resets_is_left_alone() -> Result<()> {
    for way in Way::ALL {
        let mut bed = Bed::new(way, &[server(0), server(1)])?;
        let _server = bed.server(0)?;
        let resets = resetting(&bed.site.farm, at(server(1), 8080))?;
        let mut tally = Tally::default();
        let left_alone = |bed: &Bed| bed.is_left_alone(server(1));
        let out = bed.until("it is left alone", &mut tally, left_alone)?;
        // What a client has sent can't be sent to another server.
        ensure!(tally.failed <= 6 && tally.slow == 0, "{way:?}: {tally}");
        let why = bed.state(server(1))?.1;
        ensure!(why.contains("connection re"), "{why}");
        let after = bed.clients(12);
        ensure!(after.failed <= 1 && after.slow == 0, "{way:?}: {after}");
        drop(resets);
        let _back = bed.server(1)?;
        let mut tally = Tally::default();
        let back = bed.until("it is taken back", &mut tally, |bed| {
            Ok(!bed.is_left_alone(server(1))?)
        })?;
        println!(
            "{way:?}, resetting: left alone after {out:?}, taken back after {back:?}; {tally}"
        );
        ensure!(tally.failed == 0, "{way:?}: {tally}");
        bed.fairway
            .says("default/shop", &["fairway.dev/Programmed=True"])?;
        bed.fairway.stop()?;
    }
    Ok(())
}

fn a_server_that_is_stopped_is_left_alone_once_its_queue_is_full() -> Result<()> {
    let mut bed = Bed::new(Way::Tcp, &[server(0), server(1)])?;
    let _server = bed.server(0)?;
    let _stopped = stopped(&bed.site.farm, at(server(1), 8080))?;
    // The kernel accepts some for it, and these wait as long as the client does.
    thread::scope(|scope| {
        let clients: Vec<_> = (0..12).map(|_| scope.spawn(|| bed.clients(1))).collect();
        let failed = clients.into_iter().filter_map(|it| it.join().ok());
        let failed: usize = failed.map(|tally| tally.failed).sum();
        println!("Tcp, stopped: {failed} of 12 at once were in its queue");
        // It is the first choice of half of them, and the kernel answers SYNs that come together before the queue is full.
        ensure!(failed <= 6, "{failed}");
        Ok(())
    })?;
    let mut tally = Tally::default();
    let left_alone = |bed: &Bed| bed.is_left_alone(server(1));
    bed.until("it is left alone", &mut tally, left_alone)?;
    let after = bed.clients(12);
    println!("Tcp, stopped, afterwards: {after}");
    ensure!(after.failed == 0 && after.slow == 0, "{after}");
    // Those in the queue would be waited for.
    bed.fairway.kill();
    Ok(())
}

fn a_server_that_comes_and_goes_costs_nobody_anything() -> Result<()> {
    for way in Way::ALL {
        let mut bed = Bed::new(way, &[server(0), server(1)])?;
        let _server = bed.server(0)?;
        let mut tally = Tally::default();
        for _ in 0..6 {
            let there = bed.server(1)?;
            for _ in 0..15 {
                bed.count(&mut tally);
            }
            drop(there);
            for _ in 0..15 {
                bed.count(&mut tally);
            }
        }
        println!("{way:?}, flapping: {tally}");
        ensure!(tally.failed == 0 && tally.slow == 0, "{way:?}: {tally}");
        bed.fairway.stop()?;
    }
    Ok(())
}

fn where_all_are_dead_it_is_said_and_the_first_that_is_back_serves() -> Result<()> {
    for way in Way::ALL {
        let mut bed = Bed::new(way, &[server(0), server(1), server(2)])?;
        let tally = bed.clients(12);
        ensure!(tally.failed == 12 && tally.slow == 0, "{way:?}: {tally}");
        bed.fairway.says(
            "default/shop",
            &["fairway.dev/Programmed=False EndpointsUnreachable"],
        )?;
        for endpoint in ["192.0.2.11:8080", "192.0.2.12:8080", "192.0.2.13:8080"] {
            bed.fairway
                .logs(&["WARN", "endpoint is not reached", "default/shop", endpoint])?;
        }
        for number in 0..3 {
            let (state, why) = bed.state(server(number))?;
            ensure!(
                state == "unreachable" && why.contains("connection refused"),
                "{why}"
            );
        }
        for number in 0..3 {
            let _only = bed.server(number)?;
            // Whichever of them is left alone.
            let tally = bed.clients(12);
            println!("{way:?}, only server {number} is back: {tally}");
            ensure!(tally.failed == 0 && tally.slow == 0, "{way:?}: {tally}");
        }
        bed.fairway.stop()?;
    }
    Ok(())
}

fn flows_leave_an_endpoint_that_refuses_datagrams() -> Result<()> {
    let site = Site::new()?;
    let service = load_balancer("dns", vip(1), 53, 53);
    let manifests = all(&[
        &edge_pool(),
        &service.replace("port: 53,", "port: 53, protocol: UDP,"),
        &slice_of("dns", &[("", "UDP", 53)], &[server(0), server(1)]),
    ]);
    let mut fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
    fairway.says("default/dns", &["fairway.dev/Programmed=True"])?;
    let _server = named_udp(&site.farm, &[("one", at(server(0), 53))])?;
    let dns = "service=\"dns\"";
    let refused = |fairway: &Fairway| {
        fairway.metric("fairway_connect_errors_total", &[dns, "reason=\"refused\""])
    };
    let flows = |count: usize| -> Result<Duration> {
        let mut slowest = Duration::ZERO;
        for _ in 0..count {
            let began = Instant::now();
            let who = site.client.run(|| clients::who_udp(None, at(vip(1), 53)))?;
            ensure!(who == "one", "{who}");
            slowest = slowest.max(began.elapsed());
        }
        Ok(slowest)
    };
    let slowest = flows(100)?;
    let before = refused(&fairway)?;
    println!(
        "UDP, 100 flows while one of two servers refuses: none failed, the slowest took {slowest:?}, {before} datagrams were refused"
    );
    // Three of them show it, and others are trials.
    ensure!((3.0..10.0).contains(&before), "{before}");
    ensure!(slowest < Duration::from_secs(1), "{slowest:?}");
    fairway.logs(&[
        "WARN",
        "it is left alone",
        "default/dns",
        "192.0.2.12:53",
        "refused",
    ])?;
    let _back = named_udp(&site.farm, &[("two", at(server(1), 53))])?;
    wait::until("it is taken back", || {
        let who = site.client.run(|| clients::who_udp(None, at(vip(1), 53)));
        who.is_ok_and(|who| who == "two")
    })?;
    fairway.logs(&["endpoint is reached again", "default/dns", "192.0.2.12:53"])?;
    fairway.stop()
}

fn a_request_does_not_go_on_with_a_server_that_was_removed_while_it_was_dialled() -> Result<()> {
    for way in Way::ALL {
        let mut bed = Bed::new(way, &[server(1)])?;
        let _servers = [bed.server(0)?, bed.server(1)?];
        bed.vanish(server(1), true)?;
        let (site, fairway) = (&bed.site, &mut bed.fairway);
        let answer = thread::scope(|scope| -> Result<String> {
            let client = scope.spawn(|| site.client.run(|| way.ask(at(vip(1), 80))));
            wait::until_some("it is being dialled", || {
                let rows = fairway.list("endpoints")?;
                let active = rows.first().and_then(|row| row.get("active")?.as_u64());
                ensure!(active == Some(1), "{rows:?}");
                Ok(())
            })?;
            let service = way.service("shop", vip(1));
            let slice = slice("shop", 8080, &[server(0)]);
            fairway.write("all.yaml", &all(&[&edge_pool(), &service, &slice]))?;
            fairway.settle("removed")?;
            // The next SYN is answered.
            site.edge.ip(&format!(
                "neighbour replace {} lladdr 02:00:00:00:00:99 dev back nud permanent",
                server(1)
            ))?;
            client.join().ok().context("the client panicked")?
        })?;
        println!("{way:?}, removed while it was dialled: {answer}");
        ensure!(answer.contains("server-0"), "{way:?}: {answer}");
        bed.fairway.stop()?;
    }
    Ok(())
}
