//! Measures the running binary: start, change, memory. Prints a table in Markdown.
//!
//! Everything is on loopback, bounded in time and count: manifests in a temporary directory, one
//! backend in this process, `fairway standalone` as a child. Run it by `cargo xtask measure`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that goes wrong ends, and says where"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fairway_integration::figures::{self, Row, table};

const SERVICES: usize = 2000;
const STARTS: usize = 7;
const CHANGES: usize = 300;
const IDLE_CONNECTIONS: usize = 4000;

fn main() {
    let binary = std::env::var_os("FAIRWAY_BIN")
        .map(PathBuf::from)
        .expect("FAIRWAY_BIN names the release binary; `cargo xtask measure` sets it");
    let backend = backend();

    let mut rows = Vec::new();
    let manifests = tempfile::tempdir().unwrap();
    write_services(manifests.path(), SERVICES, backend);

    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    // Kept until the end: ext4 is slow to make files where thousands were removed a moment ago, which
    // would measure the round before.
    let states: Vec<_> = (0..STARTS).map(|_| tempfile::tempdir().unwrap()).collect();
    for state in &states {
        for times in [&mut cold, &mut warm] {
            let start = Instant::now();
            let fairway = StandaloneProcess::start(&binary, manifests.path(), state.path());
            times.push(start.elapsed());
            fairway.stop();
        }
    }
    rows.push(Row::times(
        "start to ready, 2,000 Services, empty state: median",
        &mut cold,
        0.5,
        "under 2 s",
    ));
    rows.push(Row::times(
        "start to ready, 2,000 Services, restart: median",
        &mut warm,
        0.5,
        "under 2 s",
    ));

    let state = tempfile::tempdir().unwrap();
    let fairway = StandaloneProcess::start(&binary, manifests.path(), state.path());
    let resident = fairway.settled("VmRSS:");
    rows.push(Row::memory(
        "memory of the idle process with 2,000 Services (VmRSS)",
        resident,
        "under 60 MB",
    ));

    let mut changes = changes(manifests.path(), backend);
    rows.push(Row::times(
        "change of one Service of 2,000 on disk to the first connection served: p50",
        &mut changes,
        0.5,
        "",
    ));
    rows.push(Row::times(
        "the same: p99",
        &mut changes,
        0.99,
        "under 100 ms",
    ));
    fairway.stop();

    let manifests = tempfile::tempdir().unwrap();
    write_services(manifests.path(), 1, backend);
    let state = tempfile::tempdir().unwrap();
    let fairway = StandaloneProcess::start(&binary, manifests.path(), state.path());
    let per_connection = idle_connections(&fairway);
    rows.push(Row::new(
        "user-space memory of an idle proxied TCP connection (VmRSS, 4,000 connections)",
        format!("{per_connection:.2} KB"),
        "under 8 KB",
    ));
    fairway.stop();

    println!("{}", page(&rows));
    if let Some(results) = std::env::var_os("CRITERION_RESULTS") {
        println!("{}", changes_of_the_cores(Path::new(&results)));
    }
}

/// The table, under the machine and the command that made it.
fn page(rows: &[Row]) -> String {
    format!(
        "# Figures\n\nMeasured by `cargo xtask measure` on {}; the release binary, all on loopback, \
         beside each median the smallest and the largest.\n\n{}",
        figures::today_here(),
        table(rows)
    )
}

/// What `cargo bench` left of the cost of one change: a table of medians.
fn changes_of_the_cores(results: &Path) -> String {
    let mut text = String::from(
        "## One change in the cores\n\nMeasured by `cargo bench` in the same run: microseconds of one \
         change, from the change until nothing is left to do, medians. `hot` changes the same Service \
         again and again, `warm` a random one, `cold` a random one that is made after the \
         processor's caches were swept. `hot` and `cold` compare what is done; between 1 and 20,000 Services `warm` compares \
         caches too: one Service never leaves them. Wanted: at most 30 µs, and 20,000 against 1 under \
         1.5. Published for comparison: adding a rule at 1 / 5,000 / 20,000 Services costs iptables \
         50 µs / 11 min / 5 h, IPVS 30 / 50 / 70 µs.\n\n\
         | core | change | 1 | 5,000 | 20,000 | 20,000 against 1 |\n|---|---|---|---|---|---|\n",
    );
    for core in ["controller", "gateway"] {
        let mut names: Vec<String> = fs::read_dir(results.join(core))
            .expect("cargo bench has run")
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "report")
            .collect();
        names.sort();
        for name in names {
            let median = |size: usize| {
                let path = results.join(core).join(&name).join(size.to_string());
                let text = fs::read_to_string(path.join("new/estimates.json")).unwrap();
                let estimates: serde_json::Value = serde_json::from_str(&text).unwrap();
                estimates["median"]["point_estimate"].as_f64().unwrap() / 1e3
            };
            let (one, some, many) = (median(1), median(5000), median(20_000));
            let shown = name.replace('_', ", ");
            let ratio = many / one;
            let _ = writeln!(
                text,
                "| {core} | {shown} | {one:.1} | {some:.1} | {many:.1} | {ratio:.2} |"
            );
        }
    }
    text
}

/// A server that answers every byte with the same byte. One thread a connection would be much of
/// this machine's memory at thousands of them, so it runs on one event loop.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
    });
    address
}

/// The address that Service `n` asks for.
fn vip(n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 200, 0, 0).to_bits() + u32::try_from(n).unwrap())
}

fn service(n: usize, port: u16, backend: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: s{n}\n  namespace: measure\n  \
         annotations: {{fairway.dev/addresses: '{}'}}\nspec:\n  type: LoadBalancer\n  ports:\n  - \
         {{name: echo, port: {port}, targetPort: {target}}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: s{n}-1\n  \
         namespace: measure\n  labels: {{kubernetes.io/service-name: s{n}}}\naddressType: IPv4\n\
         ports:\n- {{name: echo, port: {target}}}\nendpoints:\n- addresses: ['{host}']\n",
        vip(n),
        target = backend.port(),
        host = backend.ip(),
    )
}

fn write_services(dir: &Path, count: usize, backend: SocketAddr) {
    fs::write(
        dir.join("pool.yaml"),
        "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: measure}\nspec: \
         {addresses: ['127.200.0.0/16']}\n",
    )
    .unwrap();
    for n in 0..count {
        fs::write(dir.join(format!("s{n}.yaml")), service(n, 8080, backend)).unwrap();
    }
}

/// Changes one Service after the other (a new one, another port of an old one, in turns) and takes
/// the time from the rename into place to the first byte that comes back.
fn changes(dir: &Path, backend: SocketAddr) -> Vec<Duration> {
    (0..CHANGES)
        .map(|round| {
            let (n, port) = if round % 2 == 0 {
                (SERVICES + round, 8080)
            } else {
                (round, 9090)
            };
            let temporary = dir.join(".next");
            fs::write(&temporary, service(n, port, backend)).unwrap();
            let start = Instant::now();
            fs::rename(&temporary, dir.join(format!("s{n}.yaml"))).unwrap();
            let address = SocketAddr::from((vip(n), port));
            while !echoes(address) {
                assert!(
                    start.elapsed() < Duration::from_secs(10),
                    "{address} never served"
                );
                thread::sleep(Duration::from_micros(200));
            }
            start.elapsed()
        })
        .collect()
}

fn echoes(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let mut byte = [0];
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    stream.write_all(b"x").is_ok() && stream.read_exact(&mut byte).is_ok() && byte == *b"x"
}

/// Kilobytes of resident memory that one idle connection adds, both sides of the proxy together.
fn idle_connections(fairway: &StandaloneProcess) -> f64 {
    let address = SocketAddr::from((vip(0), 8080));
    let open = |count: usize| -> Vec<TcpStream> {
        (0..count)
            .map(|_| {
                let mut stream = TcpStream::connect(address).unwrap();
                // Each has carried something: an idle connection, not a new one.
                stream.write_all(b"x").unwrap();
                stream.read_exact(&mut [0]).unwrap();
                stream
            })
            .collect()
    };
    // What is allocated once (a thread's first buffers, a table's first pages) is not a
    // connection's.
    drop(open(100));
    let before = fairway.settled("VmRSS:");
    let held = open(IDLE_CONNECTIONS);
    let after = fairway.settled("VmRSS:");
    drop(held);
    after.saturating_sub(before) as f64 * 1.024 / IDLE_CONNECTIONS as f64
}

/// A running `fairway standalone`.
struct StandaloneProcess {
    child: Child,
}

impl StandaloneProcess {
    /// Starts it and waits until it is ready.
    fn start(binary: &Path, manifests: &Path, state: &Path) -> Self {
        let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let child = Command::new(binary)
            .arg("standalone")
            .arg("--manifests")
            .arg(manifests)
            .arg("--state")
            .arg(state)
            .args(["--admin", &admin.to_string()])
            .args(["--node-address", "127.0.0.1", "--allow-loopback-endpoints"])
            .args(["--drain-timeout", "1s"])
            .env("FAIRWAY_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()
            .expect("fairway starts");
        let fairway = Self { child };
        let start = Instant::now();
        while !ready(admin) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "not ready after 60 s"
            );
            thread::sleep(Duration::from_millis(1));
        }
        fairway
    }

    /// Kilobytes of a line of `/proc/PID/status`, once it has not moved for three seconds: idle.
    fn settled(&self, line: &str) -> u64 {
        let mut last = (self.kilobytes(line), Instant::now());
        let start = Instant::now();
        while last.1.elapsed() < Duration::from_secs(3) && start.elapsed() < Duration::from_secs(30)
        {
            thread::sleep(Duration::from_millis(20));
            let now = self.kilobytes(line);
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        last.0
    }

    fn kilobytes(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let value = status
            .lines()
            .find_map(|text| text.strip_prefix(line))
            .unwrap();
        value.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "fairway ended with {status}");
    }
}

impl Drop for StandaloneProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ready(admin: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(admin) else {
        return false;
    };
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_end(&mut answer).is_ok()
        && answer.starts_with(b"HTTP/1.1 200")
}
