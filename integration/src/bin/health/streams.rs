//! iperf3 through a balancer whose endpoints fail. Without checks: each would be a client for an iperf3.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Process;
use fairway_integration::manifest::{all, edge_pool, load_balancer, slice};
use fairway_integration::servers::IperfServer;
use fairway_integration::site::{EDGE, Site, at, client, server, vip};
use fairway_integration::{clients, programs, wait};
use serde_json::Value;
use tempfile::TempDir;

use crate::clients::SLOW;
use crate::endpoints::{FAILING, SERVERS, vanish};

const PORT: u16 = 5201;
/// How long a stream lasts, and when all other endpoints are killed.
const STREAM: &str = "6";
const BEFORE: Duration = Duration::from_secs(2);
/// Clients that come one after the other, each from an address of its own.
const CLIENTS: u8 = 12;

/// A balancer that goes by the client's address: an iperf3 client has two connections, which belong together.
enum ByAddress {
    Fairway(Box<Fairway>),
    HaProxy(Process, TempDir),
}

impl ByAddress {
    fn start(site: &Site, is_fairway: bool) -> Result<Self> {
        let endpoints: Vec<IpAddr> = (0..SERVERS).map(server).collect();
        if is_fairway {
            let service = load_balancer("stream", vip(1), PORT, PORT);
            let service = service.replace("spec: {", "spec: {sessionAffinity: ClientIP, ");
            let manifests = all(&[&edge_pool(), &service, &slice("stream", PORT, &endpoints)]);
            let fairway = Fairway::start(&site.edge, &[("all.yaml", &manifests)])?;
            fairway.says("default/stream", &["fairway.dev/Programmed=True"])?;
            return Ok(Self::Fairway(Box::new(fairway)));
        }
        let mut text = format!(
            "global\n  nbthread 2\n  no log\ndefaults\n  mode tcp\n  timeout connect 1500ms\n  timeout client 60s\n  \
             timeout server 60s\n  retries 3\n  option redispatch 1\n  balance source\n  hash-type consistent\n\
             listen stream\n  bind {EDGE}:{PORT}\n"
        );
        for (number, endpoint) in endpoints.iter().enumerate() {
            let _ = writeln!(text, "  server s{number} {endpoint}:{PORT}");
        }
        let folder = TempDir::with_prefix("fairway-haproxy-")?;
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, text)?;
        let mut command = Command::new(programs::find("haproxy")?);
        command.arg("-db").arg("-f").arg(&file);
        let process = site.edge.spawn(command)?;
        wait::until("HAProxy listens", || {
            let table = || clients::output("ss", &["-Htln"]);
            let said = site.edge.run(table).unwrap_or_default();
            said.contains(&format!(":{PORT}"))
        })?;
        Ok(Self::HaProxy(process, folder))
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Fairway(_) => at(vip(1), PORT),
            Self::HaProxy(..) => at(EDGE, PORT),
        }
    }

    fn stop(self) {
        match self {
            Self::Fairway(mut fairway) => fairway.kill(),
            Self::HaProxy(process, folder) => drop((process, folder)),
        }
    }
}

fn servers(site: &Site) -> Result<Vec<Option<IperfServer>>> {
    let all = (0..SERVERS).map(|number| {
        let place = at(server(number), PORT);
        Ok(Some(IperfServer::start(&site.farm, place)?))
    });
    all.collect()
}

/// Runs an iperf3 client for at most so many seconds, and says what it measured.
fn iperf(site: &Site, limit: &str, from: IpAddr, to: SocketAddr, more: &[&str]) -> Result<Value> {
    let (address, port, from) = (to.ip().to_string(), to.port().to_string(), from.to_string());
    let mut arguments = vec![limit, "iperf3", "--json", "--client", &address];
    arguments.extend(["--port", &port, "--bind", &from]);
    arguments.extend(more);
    let output = site.client.run(|| {
        let mut command = Command::new(programs::find("timeout")?);
        anyhow::Ok(command.args(&arguments).output()?)
    })?;
    ensure!(output.status.success(), "iperf3: {}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 said no JSON")?;
    ensure!(report.get("error").is_none(), "{report}");
    Ok(report)
}

/// What a stream of iperf3 noticed.
struct StreamFigures {
    gigabytes: f64,
    /// Tenths of a second in which nothing was sent.
    silent: usize,
}

/// A stream, while all endpoints but its own are killed.
fn stream(is_fairway: bool) -> Result<StreamFigures> {
    let site = Site::new()?;
    let mut servers = servers(&site)?;
    let balancer = ByAddress::start(&site, is_fairway)?;
    let to = balancer.address();
    let arguments = ["--time", STREAM, "--interval", "0.1"];
    let report = thread::scope(|scope| -> Result<Value> {
        let measured = scope.spawn(|| iperf(&site, "20", client(0), to, &arguments));
        thread::sleep(BEFORE);
        for server in &mut servers {
            if server.as_ref().is_some_and(|it| !it.is_in_use()) {
                *server = None;
            }
        }
        let left = servers.iter().filter(|it| it.is_some()).count();
        let measured = measured.join();
        let report = measured.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(left == 1, "{left} have the stream");
        Ok(report)
    })?;
    balancer.stop();
    let bytes = report.pointer("/end/sum_received/bytes");
    let intervals = report.pointer("/intervals").and_then(Value::as_array);
    let is_silent = |it: &&Value| it.pointer("/sum/bytes").and_then(Value::as_f64) == Some(0.0);
    Ok(StreamFigures {
        gigabytes: bytes.and_then(Value::as_f64).context("no bytes")? / 1e9,
        silent: intervals
            .context("no intervals")?
            .iter()
            .filter(is_silent)
            .count(),
    })
}

/// What iperf3 clients noticed that came when one of three endpoints had gone.
#[derive(Debug, Default)]
struct ComersFigures {
    failed: usize,
    slow: usize,
}

fn comers(is_fairway: bool, is_black_hole: bool) -> Result<ComersFigures> {
    let site = Site::new()?;
    let mut servers = servers(&site)?;
    let balancer = ByAddress::start(&site, is_fairway)?;
    let to = balancer.address();
    match is_black_hole {
        true => vanish(&site, true)?,
        false => drop(servers.remove(usize::from(FAILING))),
    }
    let mut figures = ComersFigures::default();
    for number in 0..CLIENTS {
        let began = Instant::now();
        match iperf(&site, "5", client(number), to, &["--bytes", "1M"]) {
            Ok(_) if began.elapsed() >= SLOW => figures.slow += 1,
            Ok(_) => {}
            Err(error) => {
                eprintln!("client {number}: {error:#}");
                figures.failed += 1;
            }
        }
    }
    balancer.stop();
    Ok(figures)
}

/// The part of the page that is about it.
pub(crate) fn section() -> Result<String> {
    let mut text = format!(
        "\n## Streams (iperf3)\n\nThree iperf3 servers, chosen by the client's address, without checks. A stream of {STREAM} s, and \
         after {} s all servers but its own are killed. Apart from that {CLIENTS} clients, one after the other and each from \
         its own address, send 1 MB while one server has gone: a client that takes {} s is slow.\n\n\
         | who | the stream, GB | tenths of a second without a byte | server killed: failed | slow | black hole: failed | slow |\n\
         |---|---|---|---|---|---|---|\n",
        BEFORE.as_secs(),
        SLOW.as_secs()
    );
    for (name, is_fairway) in [
        ("Fairway without checks", true),
        ("HAProxy without checks", false),
    ] {
        let stream = stream(is_fairway).with_context(|| format!("{name}: a stream"))?;
        let [killed, gone] = [false, true].map(|is_black_hole| comers(is_fairway, is_black_hole));
        let (killed, gone) = (killed?, gone?);
        let row = format!(
            "| {name} | {:.2} | {} | {} | {} | {} | {} |",
            stream.gigabytes, stream.silent, killed.failed, killed.slow, gone.failed, gone.slow
        );
        eprintln!("{row}");
        text += &row;
        text.push('\n');
    }
    Ok(text)
}
