//! What is measured, in which order.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use fairway_integration::bench::backend::{CLOSES, ECHOES, KEEPS, SENDS};
use fairway_integration::bench::datagrams::{self, Datagrams};
use fairway_integration::bench::http::{self as web, WebRequest};
use fairway_integration::bench::{Outcome, cpu, requests, streams};
use fairway_integration::site::Site;
use fairway_integration::wait;

use crate::http::{LARGE, SMALL, WEB};
use crate::paths::{Paths, Way};
use crate::syscalls;

/// How long each turn takes.
pub(crate) const TURN: Duration = Duration::from_millis(1500);

/// Connections of a turn of one at a time.
const SINGLES: u32 = 10;

/// Connections that ask at the same time.
pub(crate) const CONNECTIONS: usize = 64;

/// Idle connections whose memory is measured.
const IDLE: usize = 5000;

/// Requests a second at half load: half of what the slowest of the proxies takes on this machine,
/// found in a turn before the rounds.
const HALF: f64 = 0.5;

/// A figure: its name, its unit, and whether more of it is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) more: bool,
    /// What Fairway is to reach against the best of HAProxy and nginx: at least where more is
    /// better, else at most.
    pub(crate) wanted: Option<f64>,
}

const fn figure(name: &'static str, unit: &'static str, more: bool, wanted: f64) -> Figure {
    Figure {
        name,
        unit,
        more,
        wanted: if wanted > 0.0 { Some(wanted) } else { None },
    }
}

const REQUESTS: Figure = figure("requests, 64 connections", "1/s", true, 1.3);
const REQUEST_CPU: Figure = figure("added CPU of a request", "µs", false, 0.55);
const REQUEST_OWN: Figure = figure("own CPU of a request", "µs", false, 0.0);
const VISITS: Figure = figure("new connections", "1/s", true, 1.5);
const VISIT_CPU: Figure = figure("added CPU of a connection", "µs", false, 0.5);
const VISIT_OWN: Figure = figure("own CPU of a connection", "µs", false, 0.0);
const SERIAL_50: Figure = figure("serial request, added latency p50", "µs", false, 0.8);
const SERIAL_99: Figure = figure("serial request, added latency p99", "µs", false, 1.0);
const HALF_50: Figure = figure("half load, latency p50", "µs", false, 0.0);
const HALF_99: Figure = figure("half load, latency p99", "µs", false, 1.0);
const STREAM: Figure = figure("one stream", "Gb/s", true, 1.2);
const STREAM_CPU: Figure = figure("added CPU of one stream", "ms/GB", false, 0.8);
const STREAMS: Figure = figure("8 streams", "Gb/s", true, 1.2);
const STREAMS_CPU: Figure = figure("added CPU of 8 streams", "ms/GB", false, 0.8);
const RENO: Figure = figure("one stream, Reno", "Gb/s", true, 1.2);
const RENO_CPU: Figure = figure("added CPU of one stream, Reno", "ms/GB", false, 0.8);
const RENOS: Figure = figure("8 streams, Reno", "Gb/s", true, 1.2);
const RENOS_CPU: Figure = figure("added CPU of 8 streams, Reno", "ms/GB", false, 0.8);
const CALLS: Figure = figure(
    "system calls of a short connection, besides waiting",
    "calls",
    false,
    0.0,
);
const IDLE_MEMORY: Figure = figure("memory of an idle connection", "KB", false, 0.0);

const HTTP: Figure = figure("HTTP requests, 64 connections", "1/s", true, 1.0);
const HTTP_CPU: Figure = figure("added CPU of an HTTP request", "µs", false, 1.0);
const HTTP_OWN: Figure = figure("own CPU of an HTTP request", "µs", false, 1.0);
const HTTP_VISITS: Figure = figure("new HTTP connections", "1/s", true, 1.0);
const HTTP_VISIT_CPU: Figure = figure("added CPU of a new HTTP connection", "µs", false, 1.0);
const HTTP_VISIT_OWN: Figure = figure("own CPU of a new HTTP connection", "µs", false, 1.0);
const HTTP_LARGE: Figure = figure("HTTP answers of 64 KiB", "1/s", true, 1.0);
const HTTP_LARGE_CPU: Figure = figure("added CPU of such an answer", "µs", false, 1.0);
const HTTP_LARGE_OWN: Figure = figure("own CPU of such an answer", "µs", false, 1.0);
const HTTP_IDLE: Figure = figure("memory of an idle HTTP connection", "KB", false, 4.0);

/// UDP: what is sent, and the figures of it.
const UDP: [(Datagrams, Figure, Figure, Figure); 4] = [
    udp(
        (1, 64, 16),
        "UDP, 64 bytes, 1 flow",
        "UDP, 64 bytes, 1 flow: for a second of added CPU",
        "UDP, 64 bytes, 1 flow: lost",
        1.6,
    ),
    udp(
        (16, 64, 16),
        "UDP, 64 bytes, 16 flows",
        "UDP, 64 bytes, 16 flows: for a second of added CPU",
        "UDP, 64 bytes, 16 flows: lost",
        2.5,
    ),
    udp(
        (128, 64, 4),
        "UDP, 64 bytes, 128 flows",
        "UDP, 64 bytes, 128 flows: for a second of added CPU",
        "UDP, 64 bytes, 128 flows: lost",
        2.5,
    ),
    udp(
        (16, 1200, 32),
        "UDP, bursts of 1,200 bytes",
        "UDP, bursts of 1,200 bytes: for a second of added CPU",
        "UDP, bursts of 1,200 bytes: lost",
        3.0,
    ),
];

const fn udp(
    (flows, length, window): (usize, usize, usize),
    rate: &'static str,
    cpu: &'static str,
    lost: &'static str,
    wanted: f64,
) -> (Datagrams, Figure, Figure, Figure) {
    (
        Datagrams {
            flows,
            length,
            window,
        },
        figure(rate, "1/s", true, 0.0),
        figure(cpu, "datagrams", true, wanted),
        figure(lost, "1/million", false, 0.0),
    )
}

/// What was measured: of each figure and each way, a value a round.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// In the order in which they are shown.
    pub(crate) order: Vec<Figure>,
    pub(crate) values: BTreeMap<(&'static str, Way), Vec<f64>>,
}

impl Figures {
    fn add(&mut self, figure: Figure, way: Way, value: f64) {
        if !self.order.contains(&figure) {
            self.order.push(figure);
        }
        self.values
            .entry((figure.name, way))
            .or_default()
            .push(value);
    }
}

/// One turn: what came about, the machine's processor time for each of it in microseconds, and the
/// way's own.
struct Turn {
    outcome: Outcome,
    machine: f64,
    own: Option<f64>,
}

struct Bench<'a> {
    site: &'a Site,
    paths: &'a mut Paths,
    figures: Figures,
    round: usize,
}

impl Bench<'_> {
    /// Whose turn it is: directly first, the others there and back, for what one leaves behind (sockets in
    /// TIME_WAIT, say) is there for the next.
    fn order(&self) -> [Way; 6] {
        let mut order = Way::ALL;
        if self.round.is_multiple_of(2)
            && let [_direct, others @ ..] = &mut order
        {
            others.reverse();
        }
        order
    }

    fn turn(&mut self, way: Way, load: impl FnOnce() -> Result<Outcome> + Send) -> Result<Turn> {
        self.paths.turn(way)?;
        let process = self.paths.process(way)?;
        let own = || process.map(cpu::of).transpose();
        let (machine, before) = (cpu::machine()?, own()?);
        let outcome = self
            .site
            .client
            .run(load)
            .with_context(|| way.to_string())?;
        let each = |seconds: f64| seconds * 1e6 / outcome.count.max(1) as f64;
        Ok(Turn {
            machine: each(cpu::machine()? - machine),
            own: own()?.zip(before).map(|(now, before)| each(now - before)),
            outcome,
        })
    }

    /// One turn of each way; what the machine worked beyond what it worked for `direct`.
    fn round(
        &mut self,
        ways: &[Way],
        (cpu, own): (Figure, Option<Figure>),
        load: impl Fn(Way) -> Result<Outcome> + Sync,
        mut take: impl FnMut(&mut Figures, Way, &mut Outcome, f64),
    ) -> Result<()> {
        let mut limit = 0.0;
        for way in ways {
            let mut turn = self.turn(*way, || load(*way))?;
            if *way == Way::Direct {
                limit = turn.machine;
            } else {
                self.figures.add(cpu, *way, turn.machine - limit);
            }
            if let Some((figure, value)) = own.zip(turn.own) {
                self.figures.add(figure, *way, value);
            }
            take(
                &mut self.figures,
                *way,
                &mut turn.outcome,
                turn.machine - limit,
            );
        }
        Ok(())
    }
}

/// A turn of one connection after the other: which processors the threads of one have is a matter of
/// luck, and worth more than what is to be compared.
fn several(load: impl Fn(Duration) -> Result<Outcome>) -> Result<Outcome> {
    let mut all = Outcome::default();
    for _ in 0..SINGLES {
        let one = load(TURN / SINGLES)?;
        all.count += one.count;
        all.failed += one.failed;
        all.span += one.span;
        all.latencies.extend(one.latencies);
    }
    Ok(all)
}

fn at(way: Way, port: u16) -> SocketAddr {
    SocketAddr::new(way.address(), port)
}

/// All rounds. In each, every way has its turn at everything, or at these groups of figures alone.
pub(crate) fn measure(
    site: &Site,
    paths: &mut Paths,
    rounds: usize,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Result<Figures> {
    const LOADS: [&str; 7] = [
        "http",
        "requests",
        "connections",
        "latency",
        "streams",
        "datagrams",
        "memory",
    ];
    if !LOADS.into_iter().any(is_wanted) {
        return Ok(Figures::default());
    }
    let mut bench = Bench {
        site,
        paths,
        figures: Figures::default(),
        round: 0,
    };
    let mut slowest = f64::INFINITY;
    for way in Way::ALL.into_iter().filter(|way| way.is_process()) {
        let turn = bench.turn(way, || {
            requests::keep_alive(at(way, KEEPS), CONNECTIONS, TURN)
        })?;
        slowest = slowest.min(turn.outcome.rate());
    }
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        bench.round = round;
        if is_wanted("http") {
            bench.http()?;
        }
        if is_wanted("requests") {
            bench.requests()?;
        }
        if is_wanted("connections") {
            bench.connections()?;
        }
        if is_wanted("latency") {
            bench.latency(slowest * HALF)?;
        }
        if is_wanted("streams") {
            bench.streams()?;
        }
        if is_wanted("datagrams") {
            bench.datagrams()?;
        }
    }
    if is_wanted("memory") {
        bench.memory()?;
    }
    if is_wanted("http") || is_wanted("memory") {
        bench.http_memory()?;
    }
    if is_wanted("connections") {
        bench.calls()?;
    }
    Ok(bench.figures)
}

impl Bench<'_> {
    fn requests(&mut self) -> Result<()> {
        self.round(
            &self.order(),
            (REQUEST_CPU, Some(REQUEST_OWN)),
            |way| requests::keep_alive(at(way, KEEPS), CONNECTIONS, TURN),
            |figures, way, outcome, _| figures.add(REQUESTS, way, outcome.rate()),
        )
    }

    fn connections(&mut self) -> Result<()> {
        self.round(
            &self.order(),
            (VISIT_CPU, Some(VISIT_OWN)),
            |way| requests::new_connections(at(way, CLOSES), CONNECTIONS, TURN),
            |figures, way, outcome, _| figures.add(VISITS, way, outcome.rate()),
        )
    }

    fn latency(&mut self, half: f64) -> Result<()> {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let mut direct = (0.0, 0.0);
        for way in self.order() {
            let mut turn = self.turn(way, || {
                several(|span| requests::serial(at(way, KEEPS), span))
            })?;
            let (half, most) = (turn.outcome.latency(0.5), turn.outcome.latency(0.99));
            if way == Way::Direct {
                direct = (micros(half), micros(most));
            } else {
                self.figures.add(SERIAL_50, way, micros(half) - direct.0);
                self.figures.add(SERIAL_99, way, micros(most) - direct.1);
            }
        }
        for way in self.order() {
            let mut turn = self.turn(way, || {
                requests::paced(at(way, KEEPS), CONNECTIONS, half, TURN)
            })?;
            let (half, most) = (turn.outcome.latency(0.5), turn.outcome.latency(0.99));
            self.figures.add(HALF_50, way, micros(half));
            self.figures.add(HALF_99, way, micros(most));
        }
        Ok(())
    }

    /// By the machine's congestion control, and by Reno where that is another: BBR sends by timers, which
    /// cost every way more than anything else does. (CUBIC, which most machines have, does not, but a
    /// namespace may have it from its machine alone.)
    fn streams(&mut self) -> Result<()> {
        self.streams_by([(1, STREAM, STREAM_CPU), (8, STREAMS, STREAMS_CPU)])?;
        let machine = congestion_control()?;
        if machine != "reno" {
            self.set_congestion_control("reno")?;
            self.streams_by([(1, RENO, RENO_CPU), (8, RENOS, RENOS_CPU)])?;
            self.set_congestion_control(&machine)?;
        }
        Ok(())
    }

    /// Of connections that are made from now on (tcp(7)).
    fn set_congestion_control(&self, name: &str) -> Result<()> {
        for host in [&self.site.client, &self.site.edge, &self.site.farm] {
            host.sysctl("ipv4/tcp_congestion_control", name)?;
        }
        Ok(())
    }

    fn streams_by(&mut self, loads: [(usize, Figure, Figure); 2]) -> Result<()> {
        for (count, rate, cpu) in loads {
            let mut limit = 0.0;
            for way in self.order() {
                let to = at(way, SENDS);
                let turn = self.turn(way, || match count {
                    1 => several(|span| streams::take(to, 1, span)),
                    _ => streams::take(to, count, TURN),
                })?;
                // A byte's microseconds are a gigabyte's 10⁶ milliseconds.
                let cpu_of_a_gigabyte = turn.machine * 1e6;
                if way == Way::Direct {
                    limit = cpu_of_a_gigabyte;
                } else {
                    self.figures.add(cpu, way, cpu_of_a_gigabyte - limit);
                }
                self.figures.add(rate, way, turn.outcome.rate() * 8.0 / 1e9);
            }
        }
        Ok(())
    }

    fn datagrams(&mut self) -> Result<()> {
        let ways: Vec<Way> = self
            .order()
            .into_iter()
            .filter(|way| way.carries_udp())
            .collect();
        for (load, rate, cpu, lost) in UDP {
            let mut limit = 0.0;
            for way in &ways {
                let to = at(*way, ECHOES);
                let turn = self.turn(*way, || match load.flows {
                    1 => several(|span| datagrams::echo(to, load, span)),
                    _ => datagrams::echo(to, load, TURN),
                })?;
                let outcome = &turn.outcome;
                self.figures.add(rate, *way, outcome.rate());
                let sent = (outcome.count + outcome.failed).max(1) as f64;
                self.figures
                    .add(lost, *way, outcome.failed as f64 * 1e6 / sent);
                if *way == Way::Direct {
                    limit = turn.machine;
                } else {
                    // What a datagram adds can't be less than what can be measured of it.
                    let added = (turn.machine - limit).max(0.01);
                    self.figures.add(cpu, *way, 1e6 / added);
                }
            }
        }
        Ok(())
    }

    /// By strace, which slows everything down: after all else.
    fn calls(&mut self) -> Result<()> {
        for way in Way::ALL {
            if let Some(process) = self.paths.process(way)? {
                let calls = syscalls::of(process, way, &self.site.client, &self.site.edge)?;
                self.figures.add(CALLS, way, calls);
            }
        }
        Ok(())
    }

    /// Requests of HTTP/1.1, to whom carries it as such.
    fn http(&mut self) -> Result<()> {
        let order: Vec<Way> = self
            .order()
            .into_iter()
            .filter(|way| way.carries_http())
            .collect();
        let loads = [
            (SMALL, false, HTTP, HTTP_CPU, HTTP_OWN),
            (SMALL, true, HTTP_VISITS, HTTP_VISIT_CPU, HTTP_VISIT_OWN),
            (LARGE, false, HTTP_LARGE, HTTP_LARGE_CPU, HTTP_LARGE_OWN),
        ];
        for (path, closes, rate, cpu, own) in loads {
            let asked = WebRequest { path, closes };
            self.round(
                &order,
                (cpu, Some(own)),
                |way| web::ask(at(way, WEB), asked, CONNECTIONS, TURN),
                |figures, way, outcome, _| figures.add(rate, way, outcome.rate()),
            )?;
        }
        Ok(())
    }

    fn http_memory(&mut self) -> Result<()> {
        let asked = WebRequest {
            path: SMALL,
            closes: false,
        };
        let ways = Way::ALL.into_iter();
        for way in ways.filter(|way| way.carries_http() && way.is_process()) {
            let Some(process) = self.paths.process(way)? else {
                continue;
            };
            let open = |count: usize| {
                self.site
                    .client
                    .run(|| web::idle(at(way, WEB), asked, count))
            };
            drop(open(100)?);
            let before = settled(process)?;
            let held = open(IDLE)?;
            let after = settled(process)?;
            drop(held);
            let each = after.saturating_sub(before) as f64 * 1.024 / IDLE as f64;
            self.figures.add(HTTP_IDLE, way, each);
        }
        Ok(())
    }

    /// Each way by itself: its idle connections stay open while they are measured.
    fn memory(&mut self) -> Result<()> {
        for way in Way::ALL.into_iter().filter(|way| way.is_process()) {
            let Some(process) = self.paths.process(way)? else {
                continue;
            };
            let open = |count: usize| {
                self.site
                    .client
                    .run(|| requests::idle(at(way, KEEPS), count))
            };
            // What is allocated once is not a connection's.
            drop(open(100)?);
            let before = settled(process)?;
            let held = open(IDLE)?;
            let after = settled(process)?;
            drop(held);
            let each = after.saturating_sub(before) as f64 * 1.024 / IDLE as f64;
            self.figures.add(IDLE_MEMORY, way, each);
        }
        Ok(())
    }
}

/// The machine's, which its namespaces begin with.
pub(crate) fn congestion_control() -> Result<String> {
    let path = "/proc/sys/net/ipv4/tcp_congestion_control";
    let name = fs::read_to_string(path).with_context(|| path.to_owned())?;
    Ok(name.trim().to_owned())
}

/// A process' memory once it does not move any more.
fn settled(process: u32) -> Result<u64> {
    let mut last = cpu::memory(process)?;
    let mut same = 0;
    wait::until_some("its memory is at rest", || {
        thread::sleep(Duration::from_millis(200));
        let now = cpu::memory(process)?;
        same = if now.abs_diff(last) < 64 { same + 1 } else { 0 };
        last = now;
        anyhow::ensure!(same >= 10, "{now} kB");
        Ok(now)
    })
}
