//! Connections that live at a gateway whose addresses move to another one in a planned move.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::{Host, Served};
use fairway_integration::lan::announcers::Announcers;
use fairway_integration::lan::gateways::{self, LanGateways};
use fairway_integration::lan::network::{Lan, LanEdge, Snooping, vip, vip6};
use fairway_integration::lan::outage::figures;
use fairway_integration::lan::prober::Prober;
use fairway_integration::servers::named;
use fairway_integration::standstill::unless_the_machine_stands_still;
use fairway_integration::{clients, tests, wait};
use rustix::process::Signal;

tests![connections_of_a_gateway_that_stops_go_on_where_the_kernel_lets_its_successor_pass_them];

/// How long a gateway that stops lets connections go on: longer than this takes on a machine that is busy. A second
/// SIGTERM ends that time.
const DRAIN: Duration = Duration::from_secs(300);

/// What a client says and hears at least between two looks.
const ROUNDS: usize = 3;

fn addresses() -> [IpAddr; 2] {
    [vip(1), vip6(1)]
}

fn place(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, gateways::PORT)
}

/// Connections that live long: each is asked again and again, and has to answer as it did at first.
struct LongConnections(Vec<(TcpStream, String)>);

impl LongConnections {
    /// Opens so many, in turn to each of the addresses. The first ones are from these addresses and ports.
    fn open(client: &Host, count: usize, from: &[SocketAddr]) -> Result<Self> {
        let open = |n| -> Result<(TcpStream, String)> {
            let to = place(addresses()[n % 2]);
            let stream = match from.get(n) {
                Some(from) => clients::connect_tcp_from_port(*from, to),
                None => clients::connect_tcp(to),
            };
            let mut stream = stream.with_context(|| format!("number {n}"))?;
            let answer = clients::ask(&mut stream, "who")?;
            Ok((stream, answer))
        };
        let opened: Result<Vec<_>> = client.run(|| (0..count).map(open).collect());
        Ok(Self(opened?))
    }

    /// Says something on each, more each time, and hears the answer. The first part of a name is whom a server saw: it is
    /// the same as long as the connection is.
    fn ask(&mut self, round: usize) -> Result<()> {
        let line = format!("who {}\n", "x".repeat(round * 700 % 5_000));
        for (n, (stream, _)) in self.0.iter_mut().enumerate() {
            let written = stream.write_all(line.as_bytes());
            written.with_context(|| format!("number {n}, round {round}: write"))?;
        }
        for (n, (stream, first)) in self.0.iter_mut().enumerate() {
            let mut answer = vec![0; first.len() + 1];
            let read = stream.read_exact(&mut answer);
            read.with_context(|| format!("number {n}, round {round}: read"))?;
            ensure!(
                answer == format!("{first}\n").as_bytes(),
                "number {n}, round {round}: {:?} in place of {first}",
                String::from_utf8_lossy(&answer)
            );
        }
        Ok(())
    }

    /// The client's addresses and ports.
    fn from(&self) -> Result<Vec<SocketAddr>> {
        let from: std::io::Result<_> = self.0.iter().map(|(it, _)| it.local_addr()).collect();
        Ok(from?)
    }

    /// How many have ended, of those that nobody says anything on.
    fn ended(&mut self) -> Result<usize> {
        let mut ended = 0;
        for (stream, _) in &self.0 {
            stream.set_nonblocking(true)?;
            let mut byte = [0];
            let peeked = stream.peek(&mut byte);
            stream.set_nonblocking(false)?;
            ended += match peeked {
                Ok(0) => 1,
                Ok(_) => 0,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => 1,
            };
        }
        Ok(ended)
    }
}

/// How many sockets a host has of connections with these clients.
fn sockets_left(host: &Host, clients: &[SocketAddr]) -> Result<usize> {
    let arguments = ["--tcp", "--all", "--numeric", "--no-header"];
    let table = host.run(|| clients::output("ss", &arguments))?;
    let is_left = |client: &&SocketAddr| {
        let client = format!("{client} ");
        table
            .lines()
            .any(|line| format!("{line} ").contains(&client))
    };
    Ok(clients.iter().filter(is_left).count())
}

/// Whether a new connection to each address is served by that edge.
fn serves(lan: &Lan, edge: &LanEdge) -> Result<bool> {
    for address in addresses() {
        let answer = lan.client.run(|| -> Result<String> {
            Ok(clients::ask(
                &mut clients::connect_tcp(place(address))?,
                "who",
            )?)
        })?;
        let seen = answer.split_whitespace().nth(1).unwrap_or_default();
        let seen: SocketAddr = seen.parse().with_context(|| answer.clone())?;
        if !edge.is_seen_as(seen.ip()) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The gateway on that edge is started, and ready.
fn start(gateways: &mut LanGateways, edge: &LanEdge) -> Result<()> {
    let gateway = gateways.on(edge)?;
    gateway.launch()?;
    gateway.ready()
}

fn states(gateway: &Fairway) -> Result<[f64; 2]> {
    let of = |state: &str| {
        let label = format!("state=\"{state}\"");
        gateway.metric("fairway_passing_addresses", &[&label])
    };
    Ok([of("passed")?, of("refused")?])
}

/// Why a gateway owns the addresses, as it says of each.
fn reasons(gateway: &Fairway) -> Result<BTreeSet<String>> {
    let rows = gateway.list("addresses")?;
    Ok(rows.iter().map(ToString::to_string).collect())
}

struct Stage {
    gateways: LanGateways,
    lan: Lan,
    _farm: Served,
}

fn connections_of_a_gateway_that_stops_go_on_where_the_kernel_lets_its_successor_pass_them()
-> Result<()> {
    unless_the_machine_stands_still(stopped)
}

fn stopped() -> Result<()> {
    let lan = Lan::new(2, Snooping::Off)?;
    let farm = named(&lan.farm, &gateways::endpoints())?;
    let pool = gateways::announced_pool(&["198.19.1.0/24", "2001:db8:c::f:0/112"]);
    let manifests = [pool, gateways::services(&addresses())].join("---\n");
    let drain = format!("{}s", DRAIN.as_secs());
    let gateways = LanGateways::prepare(&lan, &manifests, |edge, gateway| {
        let gateway = gateway.arguments(&["--drain-timeout", &drain]);
        match edge.number {
            1 => gateway,
            // Without CAP_BPF.
            _ => gateway.capabilities(&["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"]),
        }
    })?;
    let mut stage = Stage {
        gateways,
        lan,
        _farm: farm,
    };
    let edges = [stage.lan.edge(1)?.clone(), stage.lan.edge(2)?.clone()];
    // Nothing moves by itself, so who is first has all.
    start(&mut stage.gateways, &edges[0])?;
    wait::until_some("the first one serves", || {
        ensure!(serves(&stage.lan, &edges[0])?);
        Ok::<_, anyhow::Error>(())
    })?;
    start(&mut stage.gateways, &edges[1])?;
    let reset = refused(&mut stage, &edges)?;
    // Its connections have ended at their clients alone, which its kernel has not heard: it goes on with what is left of
    // them.
    stage.gateways.signal(&edges[0], Signal::KILL)?;
    stage.gateways.revive(&edges[0])?;
    passed(&mut stage, [&edges[1], &edges[0]], &reset)?;
    replaced(&mut stage, [&edges[1], &edges[0]])
}

/// An upgrade, as a DaemonSet makes it: the next gateway is told to stop as soon as the one before is ready again.
fn replaced(stage: &mut Stage, [before, next]: [&LanEdge; 2]) -> Result<()> {
    let (lan, gateways) = (&stage.lan, &mut stage.gateways);
    let prober = Prober::start(&lan.client, place(vip(1)))?;
    gateways.revive(before)?;
    gateways.signal(next, Signal::TERM)?;
    wait::until("new connections are the one's that is ready again", || {
        serves(lan, before).unwrap_or(false)
    })?;
    let ended = prober.ended().len();
    wait::until("attempts go on", || prober.ended().len() > ended + 30)?;
    let seen = figures(&prober.finish()?);
    println!("an upgrade, seen by a client: {seen:?}");
    let said = gateways.on(next)?.process()?.said();
    ensure!(!said.contains("do not take all addresses"), "{said}");
    // Those under way at that moment end here, where their packets can't be passed.
    ensure!(seen.failed <= 2, "{seen:?}");
    Ok(())
}

/// The kernel does not let the successor pass packets. Returns where the client's connections came from, which end.
fn refused(stage: &mut Stage, edges: &[LanEdge; 2]) -> Result<Vec<SocketAddr>> {
    let mut old = LongConnections::open(&stage.lan.client, 20, &[])?;
    let from = old.from()?;
    let (lan, gateways) = (&stage.lan, &mut stage.gateways);
    gateways.signal(&edges[0], Signal::TERM)?;
    wait::until("new connections are the successor's", || {
        serves(lan, &edges[1]).unwrap_or(false)
    })?;
    let successor = gateways.on(&edges[1])?;
    wait::until_some("it says that it can't pass them", || {
        let (states, reasons) = (states(successor)?, reasons(successor)?);
        let all = reasons.iter().all(|it| {
            it.contains("edge-1 let it go; connections that it has end, because the program was")
        });
        ensure!(states == [0.0, 2.0] && all, "{states:?} {reasons:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    let said = successor.process()?.said();
    ensure!(
        said.contains("connections that another gateway has end"),
        "{said}"
    );
    // What they say next comes to a host that knows nothing of them.
    ensure!(old.ask(1).is_err());
    wait::until_some("old connections have ended", || {
        let ended = old.ended()?;
        ensure!(ended == 20, "{ended}");
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(from)
}

/// It lets it. Some of the connections come from where others came from that have ended, of which the successor still has
/// sockets.
fn passed(stage: &mut Stage, [from, to]: [&LanEdge; 2], reused: &[SocketAddr]) -> Result<()> {
    let mut old = LongConnections::open(&stage.lan.client, 1_000, reused)?;
    let (lan, gateways) = (&stage.lan, &mut stage.gateways);
    ensure!(
        sockets_left(&to.host, reused)? > 0,
        "the successor has nothing left of former connections"
    );
    let (round, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let more_rounds = || {
        let now = round.load(Ordering::Relaxed);
        wait::until("they go on", || {
            round.load(Ordering::Relaxed) >= now + ROUNDS || is_over.load(Ordering::Relaxed)
        })
    };
    let told = std::thread::scope(|scope| -> Result<Instant> {
        let talks = scope.spawn(|| -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                let outcome = old.ask(round.fetch_add(1, Ordering::Relaxed));
                if outcome.is_err() {
                    is_over.store(true, Ordering::Relaxed);
                }
                outcome?;
            }
            Ok(())
        });
        let mut moves = || -> Result<Instant> {
            more_rounds()?;
            gateways.signal(from, Signal::TERM)?;
            let told = Instant::now();
            wait::until("new connections are the successor's", || {
                serves(lan, to).unwrap_or(false)
            })?;
            more_rounds()?;
            for _ in 0..20 {
                ensure!(serves(lan, to)?, "a new connection is not the successor's");
            }
            let successor = gateways.on(to)?;
            wait::until_some("it says that it passes them", || {
                let (states, reasons) = (states(successor)?, reasons(successor)?);
                let all = reasons
                    .iter()
                    .all(|it| it.contains("let it go; connections that it has go on there"));
                ensure!(states == [2.0, 0.0] && all, "{states:?} {reasons:?}");
                let count = successor.metric("fairway_passed_packets_total", &[])?;
                ensure!(count >= 1_000.0, "{count}");
                Ok::<_, anyhow::Error>(())
            })?;
            more_rounds()?;
            Ok(told)
        };
        let told = moves();
        is_over.store(true, Ordering::Relaxed);
        talks
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        told
    })?;
    let ended = old.ended()?;
    ensure!(ended == 0, "{ended} have ended after {:?}", told.elapsed());
    println!("1,000 connections went on for {:?}", told.elapsed());
    // Nobody says anything any more, so it is the predecessor that ends them, when their time is over.
    gateways.signal(from, Signal::TERM)?;
    let status = gateways.on(from)?.process()?.wait(DRAIN)?;
    println!(
        "{} ended {:?} after it was told to: {status}",
        from.name,
        told.elapsed()
    );
    wait::until_some("they have ended", || {
        let ended = old.ended()?;
        ensure!(ended == 1_000, "{ended}");
        Ok::<_, anyhow::Error>(())
    })?;
    wait::until_some("nothing is passed any more", || {
        let states = states(gateways.on(to)?)?;
        ensure!(states == [0.0, 0.0], "{states:?}");
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(serves(lan, to)?);
    Ok(())
}
