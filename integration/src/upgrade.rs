//! Upgrades of a standalone Fairway under traffic: what is older than all of them must not notice any. `kills`: one of the
//! two processes is killed or frozen meanwhile; `line`: the same where addresses are announced; `pulse`: how long a client
//! waits at most.

pub mod kills;
pub mod line;
pub mod pulse;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fairway::Fairway;
use crate::lab::{Host, Served};
use crate::manifest::{all, edge_pool, slice_of};
use crate::servers::{SlowAnswer, echo, named, named_udp, slow_http};
use crate::site::{EDGE, Site, at, client, server, vip};
use crate::{clients, wait};

/// The ports of the Service `shop`: lines, a stream that is echoed, and datagrams.
pub const LINES: u16 = 80;
/// See [`LINES`].
pub const ECHO: u16 = 81;
/// See [`LINES`].
pub const DATAGRAMS: u16 = 53;

/// HTTP: a download that takes seconds.
pub const HTTP: u16 = 82;

/// The download.
const DOWNLOAD: SlowAnswer = SlowAnswer {
    thinks: Duration::ZERO,
    parts: 100,
    part: 1000,
    every: Duration::from_millis(30),
};

/// Where a request is answered only after a minute, by HTTP.
pub const HELD: u16 = 8099;

/// That answer.
const LATE: SlowAnswer = SlowAnswer {
    thinks: Duration::from_mins(1),
    parts: 1,
    part: 1,
    every: Duration::ZERO,
};

/// Where lines are asked for at a node port.
pub const NODE_PORT: u16 = 30080;

/// How many servers there are: connections that have ended keep their port towards one for a minute, and each has some
/// tens of thousands.
pub const SERVERS: u8 = 6;

/// How long an upgrade may take.
pub const UPGRADE: Duration = Duration::from_secs(30);

/// A site with a Service, and the Fairway that serves it, of which there may be a successor.
pub struct UpgradedEdge {
    /// The three hosts.
    pub site: Site,
    /// The one that serves.
    pub fairway: Fairway,
    arguments: Vec<String>,
    _servers: Vec<Served>,
    /// The first one, whose directories all have.
    first: Fairway,
}

impl UpgradedEdge {
    /// An edge that serves, started with these arguments besides.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let site = Site::new()?;
        let servers = serve(&site.farm)?;
        let service = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: shop, annotations: \
             {{fairway.dev/addresses: \"{}\"}}}}\nspec: {{type: LoadBalancer, selector: {{app: shop}}, ports: [\
             {{name: lines, port: {LINES}, nodePort: {NODE_PORT}}}, {{name: echo, port: {ECHO}, nodePort: 30081}}, \
             {{name: web, port: {HTTP}, appProtocol: http, nodePort: 30082}}, \
             {{name: dns, port: {DATAGRAMS}, protocol: UDP, nodePort: 30053}}]}}\n",
            vip(1)
        );
        let ports = [
            ("lines", "TCP", LINES),
            ("echo", "TCP", ECHO),
            ("web", "TCP", HTTP),
            ("dns", "UDP", DATAGRAMS),
        ];
        let manifests = all(&[
            &edge_pool(),
            &service,
            &slice_of(
                "shop",
                &ports,
                &(0..SERVERS).map(server).collect::<Vec<_>>(),
            ),
        ]);
        let first = Fairway::prepare(&site.edge)?;
        first.write("shop.yaml", &manifests)?;
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let mut fairway = Self::prepared(&site.edge, &first, &arguments)?;
        fairway.launch()?;
        fairway.ready()?;
        let it = Self {
            site,
            fairway,
            arguments,
            _servers: servers,
            first,
        };
        wait::until_some("the Service answers", || {
            it.site.client.run(|| clients::who(at(vip(1), LINES)))
        })?;
        Ok(it)
    }

    fn prepared(host: &Host, first: &Fairway, arguments: &[String]) -> Result<Fairway> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(Fairway::prepare(host)?
            .manifests_in(first.manifests())
            .state_in(first.state())
            .arguments(&arguments)
            .log("info"))
    }

    /// Writes a manifest.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        self.first.write(name, text)
    }

    /// A process that is to take over; not started.
    pub fn successor(&self, arguments: &[&str]) -> Result<Fairway> {
        let mut all = self.arguments.clone();
        if !all.iter().any(|it| it == "--take-over") {
            all.push("--take-over".to_owned());
        }
        all.extend(arguments.iter().map(|it| (*it).to_owned()));
        Self::prepared(&self.site.edge, &self.first, &all)
    }

    /// A process that is started with the same directories, and is not to take over; not started.
    pub fn second(&self) -> Result<Fairway> {
        Self::prepared(&self.site.edge, &self.first, &self.arguments)
    }

    /// A new process takes over; the old one ends. Returns how long that took.
    pub fn upgrade(&mut self) -> Result<UpgradeTimes> {
        let began = Instant::now();
        let mut successor = self.successor(&[])?;
        successor.launch()?;
        wait::until_some_within(UPGRADE, "the new process has taken over", || {
            if let Some(status) = successor.process()?.ended()? {
                return Ok(Err(anyhow::anyhow!("it has ended with {status}")));
            }
            let said = successor.process()?.said();
            match said.lines().any(|line| line.contains(" taken over c")) {
                true => Ok(Ok(())),
                false => bail!("it has not: {said}"),
            }
        })??;
        let status = self.fairway.process()?.wait(UPGRADE)?;
        ensure!(status.success(), "the old process ended with {status}");
        let said = self.fairway.process()?.said();
        let mut lines = said.lines();
        let took = lines.rfind(|line| line.contains(" handed over: what"));
        let took = took.and_then(|line| line.split_once("took="));
        let (_, took) = took.with_context(|| format!("no time: {said}"))?;
        successor.ready()?;
        self.fairway = successor;
        Ok(UpgradeTimes {
            whole: began.elapsed(),
            handing_over: duration(took)?,
        })
    }

    /// Begins the download.
    pub fn download(&self) -> Result<Download> {
        Download::begin(&self.site.client)
    }

    /// How many descriptors the process that serves has open.
    pub fn descriptors(&mut self) -> Result<usize> {
        Ok(self.open_files()?.len())
    }

    /// How many of them are sockets. (It keeps pipes for later, so of those there are more or less.)
    pub fn sockets(&mut self) -> Result<usize> {
        let open = self.open_files()?.into_iter();
        let sockets = open.filter(|target| target.to_string_lossy().starts_with("socket:"));
        Ok(sockets.count())
    }

    /// What the descriptors of the process that serves are, as in `/proc/PID/fd`.
    fn open_files(&mut self) -> Result<Vec<PathBuf>> {
        let id = self.fairway.process()?.id();
        let all = fs::read_dir(format!("/proc/{id}/fd"))?;
        // One that has been closed meanwhile is none.
        let targets = all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        Ok(targets.collect())
    }
}

/// The servers of the Service, at [`SERVERS`] addresses of the farm.
pub fn serve(farm: &Host) -> Result<Vec<Served>> {
    let mut servers = Vec::new();
    for n in 0..SERVERS {
        servers.extend([
            named(farm, &[("a", at(server(n), LINES))])?,
            echo(farm, at(server(n), ECHO))?,
            named_udp(farm, &[("a", at(server(n), DATAGRAMS))])?,
            slow_http(farm, at(server(n), HTTP), DOWNLOAD)?,
            slow_http(farm, at(server(n), HELD), LATE)?,
        ]);
    }
    Ok(servers)
}

/// How long an upgrade took.
#[derive(Clone, Copy, Debug)]
pub struct UpgradeTimes {
    /// From the start of the new process until it was ready and the old one had ended.
    pub whole: Duration,
    /// From the moment at which the old one accepted nothing any more until all had gone over.
    pub handing_over: Duration,
}

/// A time as the log has it: `12.345ms`, `1.2s`.
fn duration(text: &str) -> Result<Duration> {
    let text = text.split_whitespace().next().unwrap_or_default();
    let text = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => match text.strip_suffix("µs") {
            Some(number) => (number, 0.000_001),
            None => (text.trim_end_matches('s'), 1.0),
        },
    };
    let number: f64 = number.parse().with_context(|| text.to_owned())?;
    Ok(Duration::from_secs_f64(number * unit))
}

/// A download by HTTP that runs.
pub struct Download {
    stream: TcpStream,
    /// Bytes of the body that came with the first ones.
    begun: usize,
}

impl Download {
    /// Begins it.
    pub fn begin(client: &Host) -> Result<Self> {
        client.run(|| {
            let mut stream = clients::connect_tcp(at(vip(1), HTTP))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")?;
            let mut first = [0; 64];
            stream.read_exact(&mut first)?;
            ensure!(first.starts_with(b"HTTP/1.1 200"), "{first:?}");
            let begun = body_bytes(&first);
            Ok(Self { stream, begun })
        })
    }

    /// Waits for all of it.
    pub fn finish(mut self) -> Result<usize> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        let body = self.begun + body_bytes(&rest);
        ensure!(body == DOWNLOAD.parts * DOWNLOAD.part, "{body} bytes came");
        Ok(body)
    }
}

/// How many bytes are of a body: no head has them.
fn body_bytes(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'#').count()
}

/// A request by HTTP that is not answered for a minute.
#[derive(Debug)]
pub struct HeldRequest {
    _stream: TcpStream,
}

impl HeldRequest {
    /// Begins it.
    pub fn begin(client: &Host) -> Result<Self> {
        client.run(|| {
            let mut stream = clients::connect_tcp(at(vip(1), HELD))?;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")?;
            Ok(Self { _stream: stream })
        })
    }
}

/// Connections and flows that stay, and how their endpoint saw each when it began.
pub struct OldClients {
    tcp: Vec<(TcpStream, String)>,
    udp: Vec<(UdpSocket, String)>,
}

impl OldClients {
    /// So many connections, of which every fourth comes by a node port, and so many flows.
    pub fn open(site: &Site, connections: usize, flows: usize) -> Result<Self> {
        site.client.run(|| {
            let tcp = (0..connections).map(|number| {
                let to = match number % 4 {
                    3 => at(EDGE, NODE_PORT),
                    _ => at(vip(1), LINES),
                };
                let from = client(u8::try_from(number % 29)?);
                let mut stream = clients::connect_tcp_from(from, to)?;
                stream.set_nodelay(true)?;
                let seen = clients::ask(&mut stream, "who")?;
                Ok((stream, seen))
            });
            let tcp = tcp.collect::<Result<Vec<_>>>()?;
            let udp = (0..flows).map(|number| {
                let from = client(u8::try_from(number % 29)?);
                let socket = clients::udp(Some(from), at(vip(1), DATAGRAMS))?;
                let seen = clients::ask_udp(&socket, "who")?;
                Ok((socket, seen))
            });
            let udp = udp.collect::<Result<Vec<_>>>()?;
            Ok(Self { tcp, udp })
        })
    }

    /// Asks on each, and says how many connections and flows are not what they were.
    pub fn changed(&mut self) -> (usize, usize) {
        let tcp = self.tcp.iter_mut();
        let tcp = tcp.filter_map(|(stream, seen)| {
            let is_same = clients::ask(stream, "who").is_ok_and(|it| it == *seen);
            (!is_same).then_some(())
        });
        let tcp = tcp.count();
        let udp = self.udp.iter();
        let udp = udp
            .filter(|(socket, seen)| !clients::ask_udp(socket, "who").is_ok_and(|it| it == *seen));
        (tcp, udp.count())
    }
}

impl OldClients {
    /// In place of those that are not what they were others that are new. Returns how many connections and flows that
    /// are.
    pub fn renew(&mut self, site: &Site) -> Result<(usize, usize)> {
        let before = (self.tcp.len(), self.udp.len());
        self.tcp
            .retain_mut(|(stream, seen)| clients::ask(stream, "who").is_ok_and(|it| it == *seen));
        self.udp
            .retain(|(socket, seen)| clients::ask_udp(socket, "who").is_ok_and(|it| it == *seen));
        let lost = (before.0 - self.tcp.len(), before.1 - self.udp.len());
        let new = Self::open(site, lost.0, lost.1)?;
        self.tcp.extend(new.tcp);
        self.udp.extend(new.udp);
        Ok(lost)
    }
}

/// Streams that are echoed, each byte of which is checked, until they are ended.
pub struct CheckedStreams {
    bytes: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    is_over: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
    running: Arc<AtomicU64>,
    _client: Served,
}

/// The byte at that place of a stream: it repeats only after 251 bytes, which no power of two divides.
fn byte(stream: u64, place: u64) -> u8 {
    u8::try_from((place + stream * 31) % 251).unwrap_or_default()
}

impl CheckedStreams {
    /// So many streams. Every eighth reads slowly, so that bytes wait for it.
    pub fn start(host: &Host, to: SocketAddr, count: u64) -> Result<Self> {
        let bytes = Arc::<AtomicU64>::default();
        let wrong = Arc::<Mutex<Vec<String>>>::default();
        let is_over = Arc::<AtomicBool>::default();
        let longest = Arc::<AtomicU64>::default();
        let running = Arc::new(AtomicU64::new(count));
        let all = (
            bytes.clone(),
            wrong.clone(),
            is_over.clone(),
            longest.clone(),
            running.clone(),
        );
        let client = host.serve(move || {
            let (bytes, wrong, is_over, longest, running) = all;
            Ok(async move {
                for number in 0..count {
                    let shared = (bytes.clone(), is_over.clone(), longest.clone());
                    let (wrong, running) = (wrong.clone(), running.clone());
                    tokio::spawn(async move {
                        if let Err(error) = stream(to, number, shared).await {
                            let mut wrong = wrong.lock().unwrap_or_else(PoisonError::into_inner);
                            wrong.push(format!("stream {number}: {error:#}"));
                        }
                        running.fetch_sub(1, Ordering::Relaxed);
                    });
                }
                std::future::pending::<()>().await;
            })
        })?;
        Ok(Self {
            bytes,
            wrong,
            is_over,
            longest,
            running,
            _client: client,
        })
    }

    /// How many bytes have come back so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The longest time between two reads of one fast stream since this was asked last.
    pub fn longest_pause(&self) -> Duration {
        Duration::from_micros(self.longest.swap(0, Ordering::Relaxed))
    }

    /// What was wrong so far.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Has each stream end, and waits until all bytes of each have come back.
    pub fn end(&self) -> Result<()> {
        self.is_over.store(true, Ordering::Relaxed);
        wait::until_some("all streams have ended", || {
            match self.running.load(Ordering::Relaxed) {
                0 => Ok(()),
                left => Err(format!("{left} run")),
            }
        })?;
        let wrong = self.wrong();
        ensure!(wrong.is_empty(), "{wrong:?}");
        Ok(())
    }
}

async fn stream(
    to: SocketAddr,
    number: u64,
    (bytes, is_over, longest): (Arc<AtomicU64>, Arc<AtomicBool>, Arc<AtomicU64>),
) -> Result<()> {
    let is_slow = number % 8 == 7;
    let stream = tokio::net::TcpStream::connect(to).await?;
    let (mut read, mut write) = stream.into_split();
    let sent = Arc::new(AtomicU64::new(0));
    let writing = tokio::spawn({
        let sent = sent.clone();
        async move {
            let mut place = 0;
            // Small and large writes, with pauses, so that short cuts and pipes are used, too.
            for round in 0_u64.. {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                let length = match (round + number) % 5 {
                    0 => 1,
                    1 => 700,
                    2 => 20_000,
                    3 => 66_000,
                    _ => 3,
                };
                let part: Vec<u8> = (place..place + length).map(|at| byte(number, at)).collect();
                write.write_all(&part).await.context("write")?;
                place += length;
                sent.store(place, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20 + number % 7)).await;
            }
            write.shutdown().await.context("shutdown")?;
            anyhow::Ok(place)
        }
    });
    let (mut place, mut room) = (0, vec![0; 64 << 10]);
    let mut last = Instant::now();
    loop {
        let read = read.read(&mut room).await.context("read")?;
        if !is_slow {
            let pause = u64::try_from(last.elapsed().as_micros()).unwrap_or(u64::MAX);
            longest.fetch_max(pause, Ordering::Relaxed);
            last = Instant::now();
        }
        if read == 0 {
            break;
        }
        for (at, found) in (place..).zip(&room[..read]) {
            ensure!(*found == byte(number, at), "byte {at} is wrong");
        }
        place += read as u64;
        bytes.fetch_add(read as u64, Ordering::Relaxed);
        if is_slow {
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
    let written = writing.await??;
    ensure!(place == written, "{place} bytes of {written} came back");
    Ok(())
}
