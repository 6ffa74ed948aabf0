//! Fairway starts again where it ran just now: every port is served at once, whatever the kernel still keeps
//! of the connections of its predecessor.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::fairway::{ADMIN, Fairway};
use fairway_integration::lab::Host;
use fairway_integration::manifest::{all, pool, service, slice_of};
use fairway_integration::servers::{brief, named};
use fairway_integration::site::{EDGE, EDGE_INSIDE, Site, at, server};
use fairway_integration::{clients, tests, wait};

tests![
    after_a_restart_under_load_every_port_is_served_at_once_with_steering,
    after_a_restart_under_load_every_port_is_served_at_once_without_steering,
];

/// Connections that the predecessor ended, and that the kernel keeps in TIME-WAIT for a minute.
const SHORT: usize = 15_000;

/// How many clients come at a time.
const CLIENTS: usize = 8;

/// Where metrics are.
const METRICS: &str = "127.0.0.1:9902";

/// What a place answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    /// A word, and the connection ends there.
    Brief,
    /// Lines, as long as the client likes.
    Lines,
    /// HTTP, one request a connection.
    Http(&'static str),
}

/// A port that Fairway serves, and who connects to it.
struct Place<'a> {
    from: &'a Host,
    to: SocketAddr,
    answers: Answers,
}

impl Place<'_> {
    /// One connection from its connect to its end, by a client that is on the host already.
    fn ask(&self) -> Result<()> {
        match self.answers {
            Answers::Brief => {
                let mut all = Vec::new();
                clients::connect_tcp(self.to)?.read_to_end(&mut all)?;
                ensure!(all == b"hello", "{all:?}");
            }
            Answers::Lines => ensure!(clients::who(self.to)? == "lines"),
            Answers::Http(path) => {
                let status = clients::http_get(self.to, path)?.status;
                ensure!(status == 200, "{status}");
            }
        }
        Ok(())
    }

    /// The same so many times.
    fn ask_often(&self, times: usize) -> Result<()> {
        self.from.run(|| {
            thread::scope(|scope| {
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|_| scope.spawn(|| (0..times / CLIENTS).try_for_each(|_| self.ask())))
                    .collect();
                clients
                    .into_iter()
                    .try_for_each(|client| client.join().unwrap_or_else(|_| bail!("it panicked")))
            })
        })
    }

    /// A connection that stays.
    fn stay(&self) -> Result<TcpStream> {
        self.from.run(|| {
            let mut stream = clients::connect_tcp(self.to)?;
            if self.answers == Answers::Lines {
                clients::ask(&mut stream, "who")?;
            }
            Ok(stream)
        })
    }
}

/// How many connections of these ports are in TIME-WAIT (state 6 of proc_pid_net(5)).
fn in_time_wait(edge: &Host, ports: &[u16]) -> Result<usize> {
    edge.run(|| {
        let mut count = 0;
        for table in ["tcp", "tcp6"] {
            let table = fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
            for row in table.lines().skip(1) {
                let words: Vec<&str> = row.split_ascii_whitespace().collect();
                let (_, port) = words
                    .get(1)
                    .and_then(|local| local.split_once(':'))
                    .context("no local address")?;
                let port = u16::from_str_radix(port, 16)?;
                count += usize::from(words.get(3) == Some(&"06") && ports.contains(&port));
            }
        }
        Ok(count)
    })
}

fn after_a_restart_under_load_every_port_is_served_at_once_with_steering() -> Result<()> {
    restarts(true)
}

fn after_a_restart_under_load_every_port_is_served_at_once_without_steering() -> Result<()> {
    restarts(false)
}

fn restarts(steering: bool) -> Result<()> {
    let site = Site::new()?;
    // What the kernel has room for depends on the machine's memory.
    site.edge.sysctl("ipv4/tcp_max_tw_buckets", "100000")?;
    let _brief = brief(&site.farm, at(server(0), 80))?;
    let _lines = named(&site.farm, &[("lines", at(server(0), 81))])?;
    let (edge6, inside6): (IpAddr, IpAddr) = ("2001:db8:c::1".parse()?, "2001:db8:b::1".parse()?);
    // Addresses of the host's own: what the kernel keeps of connections there is in the way of a socket.
    let own = [format!("{EDGE}-{EDGE}"), format!("{edge6}-{edge6}")];
    let manifests = all(&[
        &pool("own", &[&own[0], &own[1]]),
        &service(
            "web",
            "type: LoadBalancer, ipFamilyPolicy: RequireDualStack, externalTrafficPolicy: Local, \
             healthCheckNodePort: 31999, ports: [{name: brief, port: 80, nodePort: 30080}, \
             {name: lines, port: 81, nodePort: 30081}]",
        ),
        &slice_of(
            "web",
            &[("brief", "TCP", 80), ("lines", "TCP", 81)],
            &[server(0)],
        ),
    ]);
    let mut arguments = vec!["--metrics", METRICS, "--drain-timeout", "1s"];
    arguments.extend((!steering).then_some("--no-steering"));
    let mut fairway = Fairway::prepare(&site.edge)?
        .arguments(&arguments)
        .log("info");
    fairway.write("web.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    if steering {
        fairway.logs(&["steered by the kernel"])?;
    }

    let (client, edge, farm) = (&site.client, &site.edge, &site.farm);
    let place = |from, to, answers| Place { from, to, answers };
    let (healthz, livez) = (Answers::Http("/healthz"), Answers::Http("/livez"));
    let places = [
        place(client, at(EDGE, 80), Answers::Brief),
        place(client, at(edge6, 80), Answers::Brief),
        place(farm, at(EDGE_INSIDE, 30080), Answers::Brief),
        place(farm, at(inside6, 30080), Answers::Brief),
        place(farm, at(EDGE_INSIDE, 31999), healthz),
        place(farm, at(inside6, 31999), healthz),
        place(edge, ADMIN, livez),
        place(edge, METRICS.parse()?, livez),
        place(client, at(EDGE, 81), Answers::Lines),
        place(client, at(edge6, 81), Answers::Lines),
        place(farm, at(EDGE_INSIDE, 30081), Answers::Lines),
        place(farm, at(inside6, 30081), Answers::Lines),
    ];
    let ports: Vec<u16> = places.iter().map(|place| place.to.port()).collect();
    for place in &places {
        wait::until_some(&format!("{} answers", place.to), || {
            place.from.run(|| place.ask())
        })?;
    }
    let began = Instant::now();
    for place in &places {
        let times = match place.answers {
            Answers::Brief => SHORT * 3 / 4 / 4,
            Answers::Http(_) => SHORT / 4 / 4,
            Answers::Lines => 0,
        };
        place.ask_often(times)?;
    }
    println!("{SHORT} short connections took {:?}", began.elapsed());

    for killed in [true, false] {
        // Connections of the predecessor that its end does not end: their clients stay.
        let live: Vec<TcpStream> = places.iter().map(Place::stay).collect::<Result<_>>()?;
        if killed {
            fairway.kill();
        } else {
            fairway.stop_within(Duration::from_secs(25))?;
        }
        let waiting = in_time_wait(edge, &ports)?;
        ensure!(
            waiting > SHORT * 9 / 10,
            "{waiting} in TIME-WAIT prove nothing"
        );
        let began = Instant::now();
        fairway.launch()?;
        let mut last = None;
        for place in &places {
            wait::until_some(&format!("{} answers again", place.to), || {
                place.from.run(|| place.ask())
            })?;
            last = Some(place.to);
        }
        let took = began.elapsed();
        println!(
            "steering {steering}, killed {killed}: with {waiting} connections in TIME-WAIT and {} that \
             stay all {} places are served {took:?} after the start (the last one: {last:?})",
            live.len(),
            places.len()
        );
        // TIME-WAIT lasts a minute.
        ensure!(took < Duration::from_secs(20), "{took:?}");
        fairway.ready()?;
    }
    fairway.stop()
}
