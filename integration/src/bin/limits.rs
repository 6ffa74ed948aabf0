//! Measures what a Service notices of clients that another one refuses, or that only sit there: Fairway's and HAProxy's,
//! in turn. Prints a page in Markdown. Run it by `cargo xtask bench limits`. By hand: the number of rounds.

use std::collections::BTreeMap;
use std::env;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fairway_integration::bench::backend::{BenchServers, CLOSES, KEEPS};
use fairway_integration::bench::flood::{FloodOutcome, flood};
use fairway_integration::bench::{ANSWER, REQUEST, cpu, requests};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::{Host, Process};
use fairway_integration::manifest::{all, pool, slice_of};
use fairway_integration::site::{Site, client, server};
use fairway_integration::{clients, figures, harness, programs, wait};
use rustix::process::{Resource, getrlimit};
use tempfile::TempDir;

/// Rounds, each of everything.
const ROUNDS: usize = 7;
/// How long each load lasts.
const TURN: Duration = Duration::from_secs(4);
/// Connections a second of a client that is over its limit.
const FLOOD: f64 = 5_000.0;
/// The limit that it is over.
const FEW: usize = 10;
/// The limit of clients that sit there, and how many of them there are. Each has as many connections as its limit, where
/// a process may have so many files open.
const MANY: usize = 1_000;
const CROWD: u8 = 20;
/// One in so many of theirs sends a byte now and then, and never a whole request for long; the others send nothing.
const SLOW: usize = 4;
/// Requests a second of the Service that is watched, over so many connections; and its new connections a second.
const REQUESTS: f64 = 2_000.0;
const CONNECTIONS: usize = 64;
const VISITS: f64 = 300.0;
/// What Fairway may take for each of the crowd: what ARCHITECTURE.md says of an idle connection, and its client's entry.
const BYTES_EACH: u64 = 600;

/// How many files a process may have open here (`ulimit -Hn`); [`harness::prepare`] has raised the soft limit to that.
fn files() -> usize {
    let most = getrlimit(Resource::Nofile).current;
    most.and_then(|it| it.try_into().ok()).unwrap_or(1 << 20)
}

/// Connections of each client of the crowd. Each takes two files of a balancer, and Fairway lets one Service have three
/// quarters of those that are not kept back.
fn each() -> usize {
    MANY.min(files() * 3 / 10 / usize::from(CROWD))
}

/// Who carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LimitsWay {
    Fairway,
    HaProxy,
}

impl LimitsWay {
    const ALL: [Self; 2] = [Self::Fairway, Self::HaProxy];

    /// The address of a Service: the one that is flooded, the crowded one, the one that is watched.
    fn address(self, service: u8) -> IpAddr {
        match self {
            Self::Fairway => Ipv4Addr::new(203, 0, 113, service).into(),
            Self::HaProxy => Ipv4Addr::new(203, 0, 113, 128 + service).into(),
        }
    }
}

impl fmt::Display for LimitsWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fairway => "Fairway",
            Self::HaProxy => "HAProxy",
        })
    }
}

const FLOODED: u8 = 1;
const CROWDED: u8 = 2;
const WATCHED: u8 = 3;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weather {
    Calm,
    Flooded,
    Crowded,
}

/// What was measured of one way in one weather, a value a round.
#[derive(Debug, Default)]
struct WatchedFigures {
    /// The 99th percentiles of requests and of new connections, in milliseconds.
    requests: Vec<f64>,
    visits: Vec<f64>,
    failed: u64,
    /// Connections that the flood made in a second, and microseconds of the process for each.
    flood: Vec<f64>,
    cost: Vec<f64>,
}

struct Bed {
    fairway: Fairway,
    haproxy: Process,
    _backend: BenchServers,
    _folder: TempDir,
    // Last: they run on its hosts.
    site: Site,
}

fn main() -> Result<()> {
    harness::prepare()?;
    let rounds = match env::args().nth(1) {
        Some(text) => text.parse().context("the number of rounds")?,
        None => ROUNDS,
    };
    let mut bed = Bed::start()?;
    let mut found: BTreeMap<(Weather, LimitsWay), WatchedFigures> = BTreeMap::new();
    for round in 0..rounds {
        for weather in [Weather::Calm, Weather::Flooded] {
            for way in turns(round) {
                let watched = found.entry((weather, way)).or_default();
                bed.watch(way, weather, watched)?;
            }
        }
        eprintln!("round {} of {rounds}: the flood is over", round + 1);
    }
    let mut memory = BTreeMap::new();
    for way in LimitsWay::ALL {
        let before = cpu::memory(bed.process(way)?)?;
        let crowd = bed.crowd(way)?;
        let after = cpu::memory(bed.process(way)?)?;
        memory.insert(way, after.saturating_sub(before) * 1024);
        let over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            scope.spawn(|| be_slow(&crowd, &over));
            for _ in 0..rounds {
                let watched = found.entry((Weather::Crowded, way)).or_default();
                let outcome = bed.watch(way, Weather::Crowded, watched);
                if outcome.is_err() {
                    over.store(true, Ordering::Relaxed);
                }
                outcome?;
            }
            over.store(true, Ordering::Relaxed);
            Ok(())
        })?;
        drop(crowd);
        eprintln!("{way}: the crowd has gone");
    }
    println!("{}", page(&found, &memory, rounds)?);
    Ok(())
}

/// Each begins as often as the other.
fn turns(round: usize) -> [LimitsWay; 2] {
    let [one, other] = LimitsWay::ALL;
    if round.is_multiple_of(2) {
        [one, other]
    } else {
        [other, one]
    }
}

impl Bed {
    fn start() -> Result<Self> {
        let site = Site::new()?;
        for host in [&site.client, &site.edge, &site.farm] {
            host.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
            host.sysctl("ipv4/tcp_tw_reuse", "1")?;
            host.sysctl("core/somaxconn", "4096")?;
            host.sysctl("ipv4/tcp_max_syn_backlog", "8192")?;
        }
        let folder = TempDir::with_prefix("fairway-limits-")?;
        let addresses: Vec<IpAddr> = (0..4).map(server).collect();
        let backend = BenchServers::start(&site.farm, &addresses)?;
        for service in [FLOODED, CROWDED, WATCHED] {
            let address = LimitsWay::HaProxy.address(service);
            site.edge.addresses("lo", &[(address, 32)])?;
        }
        let bed = Self {
            fairway: fairway(&site.edge, &addresses)?,
            haproxy: haproxy(&site.edge, &folder, &addresses)?,
            _backend: backend,
            _folder: folder,
            site,
        };
        for way in LimitsWay::ALL {
            for service in [FLOODED, CROWDED, WATCHED] {
                for port in [KEEPS, CLOSES] {
                    let at = SocketAddr::new(way.address(service), port);
                    wait::until(&format!("{way} answers at {at}"), || {
                        bed.site.client.run(|| clients::connect_tcp(at).is_ok())
                    })?;
                }
            }
        }
        Ok(bed)
    }

    fn process(&mut self, way: LimitsWay) -> Result<u32> {
        Ok(match way {
            LimitsWay::Fairway => self.fairway.process()?.id(),
            LimitsWay::HaProxy => self.haproxy.id(),
        })
    }

    /// Watches a Service for a turn, in this weather.
    fn watch(
        &mut self,
        way: LimitsWay,
        weather: Weather,
        watched: &mut WatchedFigures,
    ) -> Result<()> {
        let process = self.process(way)?;
        let at = |service, port| SocketAddr::new(way.address(service), port);
        let flooder = client(29);
        let measure = || -> Result<_> {
            let requests = || requests::paced(at(WATCHED, KEEPS), CONNECTIONS, REQUESTS, TURN);
            let visits = || requests::paced_connections(at(WATCHED, CLOSES), VISITS, TURN);
            let (requests, visits) = thread::scope(|scope| {
                // The threads are of the host that this one is on.
                let visits = scope.spawn(visits);
                let requests = requests();
                let visits = visits.join();
                (requests, visits)
            });
            let visits = visits.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok((requests?, visits?))
        };
        let host = &self.site.client;
        let ((mut requests, mut visits), flooded) = match weather {
            Weather::Calm | Weather::Crowded => (host.run(measure)?, None),
            Weather::Flooded => host.run(|| -> Result<_> {
                let to = at(FLOODED, KEEPS);
                let _held = hold(flooder, to, FEW)?;
                let before = cpu::of(process)?;
                let (measured, flooded) = thread::scope(|scope| {
                    let flood = scope.spawn(|| flood(flooder, to, FLOOD, TURN));
                    let measured = measure();
                    (measured, flood.join())
                });
                let flooded = flooded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                let worked = cpu::of(process)? - before;
                Ok((measured?, Some((flooded, worked))))
            })?,
        };
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        watched.requests.push(millis(requests.latency(0.99)));
        watched.visits.push(millis(visits.latency(0.99)));
        watched.failed += requests.failed + visits.failed;
        if let Some((flooded, worked)) = flooded {
            check(way, &flooded)?;
            watched.flood.push(flooded.rate());
            watched.cost.push(worked * 1e6 / flooded.begun as f64);
        }
        Ok(())
    }

    /// Connections of clients that are within their limit.
    fn crowd(&mut self, way: LimitsWay) -> Result<Vec<TcpStream>> {
        let to = SocketAddr::new(way.address(CROWDED), KEEPS);
        let mut crowd = Vec::new();
        for n in 0..CROWD {
            let one = self.site.client.run(|| hold(client(n), to, each()))?;
            crowd.extend(one);
        }
        for stream in &crowd {
            stream.set_nonblocking(true)?;
        }
        Ok(crowd)
    }
}

/// The flood was refused, whole.
fn check(way: LimitsWay, flooded: &FloodOutcome) -> Result<()> {
    ensure!(flooded.served == 0, "{way}: {flooded:?}");
    ensure!(
        flooded.refused * 100 >= flooded.begun * 95,
        "{way}: {flooded:?}"
    );
    Ok(())
}

/// So many connections of one client, each with an answer.
fn hold(from: IpAddr, to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| {
            let mut stream = clients::connect_tcp_from(from, to)?;
            stream.write_all(&[b'q'; REQUEST])?;
            stream.read_exact(&mut [0; ANSWER])?;
            Ok(stream)
        })
        .collect()
}

/// Sends a byte on some connections, one after the other, so that each has one every few seconds.
fn be_slow(crowd: &[TcpStream], over: &AtomicBool) {
    let began = Instant::now();
    let mut sent = 0_u32;
    let mut slow = crowd.iter().step_by(SLOW).cycle();
    while !over.load(Ordering::Relaxed) {
        // A thousand in a second.
        while f64::from(sent) < began.elapsed().as_secs_f64() * 1e3 {
            sent += 1;
            if let Some(mut stream) = slow.next() {
                let _ = stream.write(b"q");
                let _ = stream.read(&mut [0; ANSWER]);
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn fairway(edge: &Host, servers: &[IpAddr]) -> Result<Fairway> {
    let ports =
        format!("ports: [{{name: keeps, port: {KEEPS}}}, {{name: closes, port: {CLOSES}}}]");
    let service = |name: &str, number: u8, limit: usize| {
        let address = LimitsWay::Fairway.address(number);
        let said = match limit {
            0 => String::new(),
            limit => format!(", fairway.dev/connections-per-client: \"{limit}\""),
        };
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{fairway.dev/addresses: \
             \"{address}\"{said}}}}}\nspec: {{type: LoadBalancer, allocateLoadBalancerNodePorts: false, {ports}}}\n"
        )
    };
    let slice = |name: &str| {
        slice_of(
            name,
            &[("keeps", "TCP", KEEPS), ("closes", "TCP", CLOSES)],
            servers,
        )
    };
    let manifests = all(&[
        &pool("edge", &["203.0.113.0/28"]),
        &service("flooded", FLOODED, FEW),
        &slice("flooded"),
        &service("crowded", CROWDED, MANY),
        &slice("crowded"),
        &service("watched", WATCHED, 0),
        &slice("watched"),
    ]);
    let mut fairway = Fairway::prepare(edge)?.log("error");
    fairway.write("bench.yaml", &manifests)?;
    fairway.launch()?;
    fairway.ready()?;
    Ok(fairway)
}

fn haproxy(edge: &Host, folder: &TempDir, servers: &[IpAddr]) -> Result<Process> {
    let mut text = format!(
        "global\n  nbthread 2\n  maxconn {}\n  ulimit-n {}\n  no log\ndefaults\n  mode tcp\n  timeout connect 10s\n  \
         timeout client 1h\n  timeout server 1h\n  balance roundrobin\n",
        files() * 4 / 10,
        files()
    );
    for (service, limit) in [(FLOODED, FEW), (CROWDED, MANY), (WATCHED, 0)] {
        for port in [KEEPS, CLOSES] {
            let address = LimitsWay::HaProxy.address(service);
            let _ = writeln!(text, "listen s{service}p{port}\n  bind {address}:{port}");
            if limit > 0 {
                // The one that is counted is among them.
                let _ = writeln!(
                    text,
                    "  stick-table type ip size 100k expire 30s store conn_cur\n  tcp-request connection track-sc0 src\n  \
                     tcp-request connection reject if {{ sc0_conn_cur gt {limit} }}"
                );
            }
            for (n, server) in servers.iter().enumerate() {
                let _ = writeln!(text, "  server s{n} {server}:{port}");
            }
        }
    }
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, text)?;
    let mut command = Command::new(programs::find("haproxy")?);
    command.arg("-db").arg("-f").arg(&file);
    edge.spawn(command)
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The figures as a page. What is wanted: no more than twice what it is in calm weather, or than HAProxy's.
fn page(
    found: &BTreeMap<(Weather, LimitsWay), WatchedFigures>,
    memory: &BTreeMap<LimitsWay, u64>,
    rounds: usize,
) -> Result<String> {
    let mut text = format!(
        "# Clients over a limit, and clients that sit there\n\n{}. {rounds} rounds of {TURN:?} each; medians of the rounds' \
         99th percentiles, in milliseconds. Watched is a Service without limits, with {REQUESTS} requests a second over \
         {CONNECTIONS} connections and {VISITS} new connections a second. The flood: {FLOOD} connections a second of a \
         client that has its {FEW}. The crowd: {} connections of {CROWD} clients, one in {SLOW} of which sends a byte \
         every few seconds ({} where a process may have enough files open; here it may have {}).\n\n\
         | | requests: Fairway | HAProxy | bound | new connections: Fairway | HAProxy | bound |\n|---|---|---|---|---|---|---|\n",
        figures::today_here(),
        each() * usize::from(CROWD),
        MANY * usize::from(CROWD),
        files(),
    );
    let of = |weather, way, what: fn(&WatchedFigures) -> &Vec<f64>| {
        let watched = found.get(&(weather, way)).context("it was not measured")?;
        anyhow::Ok(median(what(watched)))
    };
    let kinds: [fn(&WatchedFigures) -> &Vec<f64>; 2] = [|it| &it.requests, |it| &it.visits];
    for (weather, name) in [
        (Weather::Calm, "calm"),
        (Weather::Flooded, "flooded"),
        (Weather::Crowded, "crowded"),
    ] {
        let _ = write!(text, "| {name} ");
        for what in kinds {
            let ours = of(weather, LimitsWay::Fairway, what)?;
            let theirs = of(weather, LimitsWay::HaProxy, what)?;
            let calm = of(Weather::Calm, LimitsWay::Fairway, what)?;
            let bound = match weather {
                Weather::Calm => String::new(),
                _ => {
                    let bound = theirs.max(2.0 * calm);
                    let verdict = if ours <= bound { "kept" } else { "**missed**" };
                    format!("{bound:.2}: {verdict}")
                }
            };
            let _ = write!(text, "| {ours:.2} | {theirs:.2} | {bound} ");
        }
        text += "|\n";
    }
    text += "\n| | Fairway | HAProxy |\n|---|---|---|\n";
    let flooded = |what| -> Result<[f64; 2]> {
        Ok([
            of(Weather::Flooded, LimitsWay::Fairway, what)?,
            of(Weather::Flooded, LimitsWay::HaProxy, what)?,
        ])
    };
    let [ours, theirs] = flooded(|it| &it.flood)?;
    let _ = writeln!(text, "| refused in a second | {ours:.0} | {theirs:.0} |");
    let [ours, theirs] = flooded(|it| &it.cost)?;
    let _ = writeln!(
        text,
        "| µs of the process for each, with its other work | {ours:.1} | {theirs:.1} |"
    );
    let failed = |way| -> u64 {
        let of_way = found.iter().filter(|((_, it), _)| *it == way);
        of_way.map(|(_, watched)| watched.failed).sum()
    };
    let (ours, theirs) = (failed(LimitsWay::Fairway), failed(LimitsWay::HaProxy));
    let _ = writeln!(text, "| failed of what was watched | {ours} | {theirs} |");
    let bytes = |way| memory.get(&way).copied().unwrap_or_default();
    let (ours, theirs) = (bytes(LimitsWay::Fairway), bytes(LimitsWay::HaProxy));
    let crowd = each() as u64 * u64::from(CROWD);
    let verdict = match ours / crowd <= BYTES_EACH {
        true => "kept",
        false => "**missed**",
    };
    let _ = writeln!(
        text,
        "| bytes of memory for each of the crowd (bound: {BYTES_EACH}, {verdict}) | {} | {} |",
        ours / crowd,
        theirs / crowd
    );
    Ok(text)
}
