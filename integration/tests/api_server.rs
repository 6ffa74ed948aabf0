//! An address for the API server before there is a cluster: the example of `deploy/examples/api-server`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fairway_integration::cluster::ApiServers;
use fairway_integration::fairway::Fairway;
use fairway_integration::lab::Host;
use fairway_integration::lan::gateways::key_file;
use fairway_integration::lan::network::{INTERFACE, Lan, LanEdge, Snooping};
use fairway_integration::lan::observer::ASKED_EVERY;
use fairway_integration::site::{at, server};
use fairway_integration::{clients, tests, wait};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

tests![an_address_of_three_api_servers_outlives_two_of_them];

const POD: &str = include_str!("../../deploy/examples/api-server/fairway.yaml");
const MANIFESTS: &str = include_str!("../../deploy/examples/api-server/manifests/api-server.yaml");

/// As the example has it.
const ADDRESS: &str = "203.0.113.10";

fn node_ip(edge: &LanEdge) -> Result<IpAddr> {
    Ok(format!("203.0.113.{}", 10 + edge.number).parse()?)
}

/// Fairway on a node, with the arguments of the static Pod.
fn fairway(edge: &LanEdge, key: &str) -> Result<Fairway> {
    let pod: Value = serde_saphyr::from_str(POD)?;
    let arguments = pod["spec"]["containers"][0]["args"]
        .as_array()
        .context("arguments")?;
    let arguments = arguments.iter().filter_map(Value::as_str);
    let name = format!("cp-{}", edge.number);
    // The test has a folder of its own for the manifests and for the state.
    let arguments = arguments.filter(|it| !["standalone"].contains(it));
    let arguments =
        arguments.filter(|it| !it.starts_with("--manifests=") && !it.starts_with("--state="));
    let arguments: Vec<String> = arguments
        .map(|it| {
            it.replace("$(NODE_NAME)", &name)
                .replace("/etc/fairway/key", key)
        })
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    ensure!(arguments.len() == 4, "{arguments:?}");
    let names = pod["spec"]["containers"][0]["securityContext"]["capabilities"]["add"]
        .as_array()
        .context("capabilities")?;
    let names: Vec<String> = names
        .iter()
        .filter_map(Value::as_str)
        // setpriv has no name for it.
        .map(|it| if it == "BPF" { "CAP_39" } else { it }.to_owned())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fairway = Fairway::prepare(&edge.host)?
        .arguments(&arguments)
        .capabilities(&names);
    fairway.write("api-server.yaml", MANIFESTS)?;
    Ok(fairway)
}

/// Whether an API server answers a connection of its own, to one that does not speak TLS.
fn is_answered_within(to: SocketAddr, patience: Duration) -> bool {
    let answer = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&to, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\n\r\n")?;
        stream.read(&mut [0; 16])
    };
    answer().is_ok_and(|count| count > 0)
}

/// An attempt: when it began, how long it took, and whether an API server answered.
type Attempt = (Instant, Duration, bool);

/// Asks an API server every 10 ms, each time by a connection of its own, while `act` goes on and for a moment after.
fn asked_while(
    client: &Host,
    to: SocketAddr,
    act: impl FnOnce() -> Result<()>,
) -> Result<Vec<Attempt>> {
    let attempts = Arc::<Mutex<Vec<Attempt>>>::default();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                scope.spawn(|| {
                    let began = Instant::now();
                    // One that does not speak TLS is told so, by the API server itself.
                    let answer = client.run(|| clients::http_get(to, "/readyz"));
                    let is_answered =
                        answer.is_ok_and(|it| it.body.contains("HTTP request to an HTTPS server"));
                    let mut attempts = attempts.lock().unwrap_or_else(PoisonError::into_inner);
                    attempts.push((began, began.elapsed(), is_answered));
                });
                thread::sleep(Duration::from_millis(10));
            }
        });
        let acted = act();
        ends.store(true, Ordering::Relaxed);
        acted
    })?;
    let mut attempts = attempts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    attempts.sort();
    Ok(attempts)
}

/// The longest time between starts of attempts that succeeded, how many failed, and the longest that was answered.
fn figures(attempts: &[Attempt]) -> (Duration, usize, Duration) {
    let good: Vec<_> = attempts.iter().filter(|it| it.2).collect();
    let gaps = good.iter().zip(good.iter().skip(1));
    let gap = gaps.map(|(one, next)| next.0.duration_since(one.0)).max();
    let slowest = good.iter().map(|it| it.1).max();
    let failed = attempts.len() - good.len();
    (gap.unwrap_or_default(), failed, slowest.unwrap_or_default())
}

fn an_address_of_three_api_servers_outlives_two_of_them() -> Result<()> {
    let lan = Lan::new(3, Snooping::Off)?;
    let mut hosts = Vec::new();
    for edge in &lan.edges {
        edge.host.addresses(INTERFACE, &[(node_ip(edge)?, 24)])?;
        hosts.push((&edge.host, node_ip(edge)?));
    }
    lan.client
        .addresses(INTERFACE, &[("203.0.113.99".parse()?, 24)])?;
    let address: IpAddr = ADDRESS.parse()?;
    let mut servers = ApiServers::start((&lan.farm, server(0)), &hosts, address)?;
    let folder = TempDir::new()?;
    let key = key_file(&folder, "a key that nobody guesses")?;
    let mut gateways = Vec::new();
    for edge in &lan.edges {
        let mut gateway = fairway(edge, &key.to_string_lossy())?;
        gateway.launch()?;
        gateways.push(gateway);
    }
    for gateway in &mut gateways {
        gateway.ready()?;
    }
    // Somebody who checks its certificate reaches an API server, also from a node: the one that has the address, too.
    for from in lan.edges.iter().map(|it| &it.host).chain([&lan.client]) {
        wait::until_some("an API server is ready at its address", || {
            let said = servers.readyz(from, address)?;
            ensure!(said == "ok", "{said}");
            Ok(())
        })?;
    }
    // Each API server still is at its node's own address.
    for (_, ip) in &hosts {
        ensure!(servers.readyz(&lan.client, *ip)? == "ok");
    }
    let observer = lan.observe(&[address], ASKED_EVERY)?;
    let settled = || observer.settled(&[address], Duration::from_secs(1));
    let to = at(address, 6443);

    // One accepts connections and answers nothing. Nobody asks it for its health, so it goes on getting its share, and
    // the others answer theirs.
    let frozen = &lan.edges[2].host;
    servers.signal(frozen, Signal::STOP)?;
    let answered = lan.client.run(|| {
        let attempts = (0..12).filter(|_| is_answered_within(to, Duration::from_millis(500)));
        attempts.count()
    });
    servers.signal(frozen, Signal::CONT)?;
    ensure!((4..12).contains(&answered), "{answered} of 12 are answered");

    // Only the API server of the node that has the address is killed: it refuses, and the next one is dialled.
    let owner = lan.edge_with(settled()?[&address])?;
    let attempts = asked_while(&lan.client, to, || {
        thread::sleep(Duration::from_millis(500));
        servers.kill(&owner.host)?;
        thread::sleep(Duration::from_secs(2));
        Ok(())
    })?;
    let (gap, failed, slowest) = figures(&attempts);
    println!(
        "API server killed: of {} attempts {failed} fail, gap {gap:?}, slowest {slowest:?}",
        attempts.len()
    );
    // What it had not answered when it was killed is lost.
    ensure!(
        failed * 20 <= attempts.len(),
        "{failed} of {}",
        attempts.len()
    );
    ensure!(gap < Duration::from_secs(1), "{gap:?}");
    ensure!(settled()?.len() == 1 && lan.edge_with(settled()?[&address])?.number == owner.number);

    // Another node is gone, and then the one that has the address, with all that runs there: the third goes on alone.
    let mut others = lan.edges.iter().filter(|it| it.number != owner.number);
    let (second, third) = (
        others.next().context("three")?,
        others.next().context("three")?,
    );
    let attempts = asked_while(&lan.client, to, || {
        thread::sleep(Duration::from_millis(500));
        lan.unplug(owner)?;
        wait::until_some("an API server answers again", || {
            let answer = lan.client.run(|| clients::http_get(to, "/readyz"))?;
            ensure!(answer.status == 400, "{answer:?}");
            Ok(())
        })?;
        thread::sleep(Duration::from_secs(3));
        Ok(())
    })?;
    let (gap, failed, slowest) = figures(&attempts);
    println!(
        "node gone: of {} attempts {failed} fail, gap {gap:?}, slowest {slowest:?}",
        attempts.len()
    );
    ensure!(gap < Duration::from_secs(8), "{gap:?}");
    let next = lan.edge_with(settled()?[&address])?;
    ensure!([second.number, third.number].contains(&next.number));
    servers.kill(&next.host)?;
    wait::until_some("the last API server answers", || {
        let said = servers.readyz(&lan.client, address)?;
        ensure!(said == "ok", "{said}");
        Ok(())
    })?;
    // What is on all addresses of the host, and no Service has, is the host's as before.
    ensure!(fs::metadata(servers.folder()).is_ok());
    Ok(())
}
