//! Measures a controller and a gateway in a cluster of many Services, against a real API server.
//! Prints a section in Markdown. Run it by `cargo xtask measure`.
//!
//! Everything is in network namespaces of its own, bounded in time and count. Control plane,
//! controller, gateway and what measures them share this machine's cores.
#![allow(
    clippy::panic,
    reason = "a measurement that goes wrong ends, and says where"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fairway_integration::cluster::{Cluster, Component, WatchEvent};
use fairway_integration::fairway::Fairway;
use fairway_integration::figures::{Row, table};
use fairway_integration::harness;
use fairway_integration::in_cluster::Installed;
use fairway_integration::lab::Served;
use fairway_integration::servers::echo;
use fairway_integration::site::server;
use serde_json::{Value, json};

/// How many Services there are, one time after the other.
const SIZES: [usize; 2] = [5_000, 20_000];

/// Endpoints of each Service.
const ENDPOINTS: usize = 5;

/// Services whose endpoints are ready: each has a socket a worker open, and a process may have 20,000
/// files open on the machines that this is run on.
const SERVED: usize = 2_000;

/// Services that come one at a time when all others are there.
const MORE: usize = 100;

/// Connections that make objects side by side.
const MAKERS: usize = 4;

/// Ticks a second in `/proc/PID/stat` (time(7)).
const USER_HZ: f64 = 100.0;

/// How long one phase may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Everything that one Service causes is over when the cluster has been silent about Services for so
/// long.
const REST: Duration = Duration::from_millis(250);

/// How long nothing may come of what is waited for.
const SILENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    harness::prepare()?;
    println!(
        "## In a cluster\n\nMeasured by `cargo xtask measure` in the same run: etcd, kube-apiserver \
         and kube-controller-manager v1.36, `fairway controller`, `fairway gateway` and what \
         measures them, all on the same cores. Services have one port, no node port (there are \
         2,768) and {ENDPOINTS} endpoints; one endpoint of {} is ready. Memory is VmRSS at rest after \
         a start. Cilium's published rate is 278 a second.\n",
        thousands(SERVED)
    );
    let cluster = Cluster::start()?;
    let it = Installed::new(&cluster)?;
    it.pool("edge", &["10.128.0.0/16"])?;
    it.site
        .client
        .ip("route add 10.128.0.0/16 via 198.51.100.1")?;
    let _backend: Served = echo(&it.site.farm, SocketAddr::new(server(0), 80))?;
    let mut controller = Member(
        "controller",
        Fairway::member(
            cluster.host(),
            "controller",
            &it.account("fairway-controller")?,
        )?
        .arguments(&["--default-class", "--node-name", "controller-1"])
        .log("warn"),
    );
    let mut gateway = Member(
        "gateway",
        Fairway::member(&it.site.edge, "gateway", &it.account("fairway-gateway")?)?
            .arguments(&["--node-name", "edge-1"])
            .log("warn"),
    );
    let mut rows = Vec::new();
    let mut numbers = Numbers::default();
    for size in SIZES {
        numbers.grow_to(&it, size, &mut controller, &mut rows)?;
        measure(
            &it,
            size,
            &mut numbers,
            &mut controller,
            &mut gateway,
            &mut rows,
        )?;
    }
    println!("{}", table(&rows));
    Ok(())
}

/// A part of Fairway that is started and stopped.
struct Member(&'static str, Fairway);

impl Member {
    fn id(&mut self) -> Result<u32> {
        Ok(self.1.process()?.id())
    }

    /// Starts it; the time until it is ready.
    fn start(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.1.launch()?;
        self.1.ready_within(LIMIT)?;
        Ok(start.elapsed())
    }
}

/// How many Services have been made: each has the next number.
#[derive(Default)]
struct Numbers(usize);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 += 1;
        self.0 - 1
    }

    /// Makes Services while no controller runs, and measures how soon one that starts has given
    /// each its address.
    fn grow_to(
        &mut self,
        it: &Installed<'_>,
        size: usize,
        controller: &mut Member,
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let numbers: Vec<usize> = (self.0..size).map(|_| self.next()).collect();
        let slices: Vec<Value> = numbers.iter().map(|n| slice(*n, *n < SERVED)).collect();
        let services: Vec<Value> = numbers.iter().map(|n| service(*n, None)).collect();
        let name = |what: &str| format!("{} Services: {what}", thousands(size));
        let start = Instant::now();
        let said = |what: &str| eprintln!("{} after {:.0?}", name(what), start.elapsed());
        make(it.cluster, "endpointslices", &slices)?;
        said("their endpoints are there");
        make(it.cluster, "Service", &services)?;
        said("they are there");
        let watch = it.cluster.watch("Service", "shop")?;
        let server = it.cluster.process_id(Component::ApiServer)?;
        let used = cpu_seconds(server)?;
        let launched = Instant::now();
        controller.1.launch()?;
        let all = statuses(&watch, numbers.len())?.saturating_duration_since(launched);
        said("they have addresses");
        rows.push(Row::new(
            &name(
                "a controller starts where so many have no address, until the last has its status",
            ),
            format!(
                "{:.0} a second ({} in {:.1} s)",
                numbers.len() as f64 / all.as_secs_f64(),
                thousands(numbers.len()),
                all.as_secs_f64(),
            ),
            "300 a second",
        ));
        let each =
            |seconds: f64| format!("{:.2} ms a Service", seconds * 1e3 / numbers.len() as f64);
        rows.push(Row::new(
            &name("CPU of the controller for that"),
            each(cpu_seconds(controller.id()?)?),
            "",
        ));
        rows.push(Row::new(
            &name("CPU of the API server meanwhile"),
            each(cpu_seconds(server)? - used),
            "",
        ));
        controller.1.ready_within(LIMIT)
    }
}

fn measure(
    it: &Installed<'_>,
    size: usize,
    numbers: &mut Numbers,
    controller: &mut Member,
    gateway: &mut Member,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let name = |what: &str| format!("{} Services: {what}", thousands(size));
    // From a start: what a burst has left behind in free memory is not what they need.
    for member in [&mut *controller, &mut *gateway] {
        if member.1.process().is_ok() {
            member.1.stop()?;
        }
        let took = member.start()?;
        eprintln!("{}", name(&format!("{} is up", member.0)));
        rows.push(Row::memory(
            &name(&format!("memory of the {}", member.0)),
            settled(member.id()?)?,
            "",
        ));
        // A controller is ready before it leads.
        if member.0 == "gateway" {
            rows.push(Row::new(
                &name("a gateway starts, until all of them are served"),
                format!("{:.1} s", took.as_secs_f64()),
                "",
            ));
        }
    }

    eprintln!("{}", name("one more"));
    let watch = it.cluster.watch("Service", "shop")?;
    let (mut to_status, mut to_served) = (Vec::new(), Vec::new());
    for _ in 0..MORE {
        until_rest(&watch)?;
        let (status, served) = one_more(it, &watch, numbers.next())?;
        to_status.push(status);
        to_served.push(served);
    }
    rows.push(Row::times(
        &name("one more at rest, from its event to its status: median"),
        &mut to_status,
        0.5,
        "under 50 ms",
    ));
    rows.push(Row::times(&name("the same: p99"), &mut to_status, 0.99, ""));
    rows.push(Row::times(
        &name("the same, from its event to the first connection that its gateway serves: median"),
        &mut to_served,
        0.5,
        "under 100 ms",
    ));
    rows.push(Row::times(&name("the same: p99"), &mut to_served, 0.99, ""));
    controller.1.stop()
}

/// The address that Service `n` asks for, where it asks.
fn vip(n: usize) -> Result<Ipv4Addr> {
    let base = Ipv4Addr::new(10, 128, 0, 0).to_bits();
    Ok(Ipv4Addr::from_bits(base + u32::try_from(n)?))
}

fn service(n: usize, address: Option<Ipv4Addr>) -> Value {
    let annotations = match address {
        Some(address) => json!({"fairway.dev/addresses": address.to_string()}),
        None => json!({}),
    };
    json!({
        "metadata": {"name": format!("s{n}"), "annotations": annotations},
        "spec": {
            "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"name": "echo", "port": 80}],
        },
    })
}

fn slice(n: usize, ready: bool) -> Value {
    let address = |endpoint: usize| match (ready, endpoint) {
        (true, 0) => server(0),
        // Nobody is asked there: they are not ready.
        _ => IpAddr::from([10, 64, (n / 250) as u8, (n % 250) as u8 + endpoint as u8]),
    };
    let endpoint = |endpoint: usize| {
        let ready = ready && endpoint == 0;
        json!({
            "addresses": [address(endpoint)],
            "conditions": {"ready": ready, "serving": ready, "terminating": false},
            "nodeName": format!("node-{}", (n + endpoint) % 100),
        })
    };
    json!({
        "metadata": {
            "name": format!("s{n}-1"), "labels": {"kubernetes.io/service-name": format!("s{n}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "echo", "port": 80, "protocol": "TCP"}],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    })
}

/// Makes objects over several connections.
fn make(cluster: &Cluster, kind: &str, objects: &[Value]) -> Result<()> {
    thread::scope(|scope| {
        let makers: Vec<_> = objects
            .chunks(objects.len().div_ceil(MAKERS))
            .map(|chunk| scope.spawn(|| cluster.create_all(kind, "shop", chunk)))
            .collect();
        for maker in makers {
            maker.join().unwrap_or_else(|_| panic!("it panicked"))?;
        }
        Ok(())
    })
}

/// When the last of so many Services had an address in its status.
fn statuses(watch: &Receiver<WatchEvent>, count: usize) -> Result<Instant> {
    let mut there = BTreeSet::new();
    loop {
        let told = next(watch)?;
        if has_address(&told.object) && there.insert(name(&told.object)) && there.len() == count {
            return Ok(told.at);
        }
    }
}

/// Waits until nothing comes any more.
fn until_rest(watch: &Receiver<WatchEvent>) -> Result<()> {
    loop {
        match watch.recv_timeout(REST) {
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => bail!("the watch has ended"),
        }
    }
}

fn next(watch: &Receiver<WatchEvent>) -> Result<WatchEvent> {
    match watch.recv_timeout(SILENCE) {
        Ok(told) => Ok(told),
        Err(RecvTimeoutError::Timeout) => bail!("nothing came for {} s", SILENCE.as_secs()),
        Err(RecvTimeoutError::Disconnected) => bail!("the watch has ended"),
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn has_address(object: &Value) -> bool {
    object
        .pointer("/status/loadBalancer/ingress/0/ip")
        .is_some()
}

/// One Service more, whose endpoints are there: the time from the event that tells of it to the event
/// that shows its status, and to the first connection that is served.
fn one_more(
    it: &Installed<'_>,
    watch: &Receiver<WatchEvent>,
    n: usize,
) -> Result<(Duration, Duration)> {
    it.cluster
        .create("endpointslices", "shop", &slice(n, true))?;
    let address = vip(n)?;
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            it.site.client.run(|| {
                let start = Instant::now();
                while !echoes(SocketAddr::from((address, 80))) {
                    ensure!(start.elapsed() < SILENCE, "{address} never served");
                }
                Ok(Instant::now())
            })
        });
        it.cluster
            .create("Service", "shop", &service(n, Some(address)))?;
        let wanted = format!("s{n}");
        let (mut came, mut written) = (None, None);
        while written.is_none() {
            let told = next(watch)?;
            if name(&told.object) == wanted {
                came.get_or_insert(told.at);
                written = has_address(&told.object).then_some(told.at);
            }
        }
        let served: Result<Instant> = client.join().unwrap_or_else(|_| panic!("it panicked"));
        let (came, written) = came.zip(written).context("it never came")?;
        Ok((written - came, served?.saturating_duration_since(came)))
    })
}

/// Whether a byte comes back; gives up soon, for what is not there yet answers nothing.
fn echoes(to: SocketAddr) -> bool {
    let patience = Duration::from_millis(2);
    let Ok(mut stream) = TcpStream::connect_timeout(&to, patience) else {
        // The kernel may refuse at once: a client that asked without end would have the cores to
        // itself.
        thread::sleep(Duration::from_micros(500));
        return false;
    };
    let mut byte = [0];
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .is_ok()
        && stream.write_all(b"x").is_ok()
        && stream.read_exact(&mut byte).is_ok()
        && byte == *b"x"
}

/// User and system time of the process until now, in seconds.
fn cpu_seconds(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the program's name: state is field 3, utime 14, stime 15 (proc_pid_stat(5)).
    let fields = stat.rsplit_once(") ").context("no name")?.1;
    let ticks = |field: usize| -> Result<f64> {
        let text = fields.split(' ').nth(field - 3).context("too short")?;
        Ok(text.parse()?)
    };
    Ok((ticks(14)? + ticks(15)?) / USER_HZ)
}

/// Kilobytes of resident memory at rest: the least of ten seconds, once it is within a hundredth of that of the
/// ten seconds before. What works every ten seconds takes a little more for a moment.
fn settled(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let now = || -> Result<u64> {
        let status = fs::read_to_string(&path)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let line = line.context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    let least = || -> Result<u64> {
        let (start, mut least) = (Instant::now(), now()?);
        while start.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(100));
            least = least.min(now()?);
        }
        Ok(least)
    };
    let (start, mut last) = (Instant::now(), least()?);
    loop {
        let next = least()?;
        if next.abs_diff(last) <= last / 100 {
            return Ok(next);
        }
        ensure!(
            start.elapsed() < LIMIT,
            "its memory is not at rest: {next} kB"
        );
        last = next;
    }
}

fn thousands(n: usize) -> String {
    format!("{},{:03}", n / 1000, n % 1000)
}
